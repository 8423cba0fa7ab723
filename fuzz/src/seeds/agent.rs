//! Frames of clients, alone and in one stream.

use evanesce_protocol::agent::{QUERY, request};
use evanesce_protocol::sshsig::{HashAlgorithm, SignedData};

/// One byte that says how the stream is cut, and the stream.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let key = [&[0, 0, 0, 11][..], b"ssh-ed25519", &[0, 0, 0, 32], &[7; 32]].concat();
    let signed = |namespace| {
        let (hash, message_digest) = (HashAlgorithm::Sha512, &[5; 64][..]);
        request::sign(&key, &SignedData { namespace, hash, message_digest }.to_bytes())
    };
    let frames = [
        request::identities(),
        signed("file"),
        signed("git"),
        signed("evanesce-receipt"),
        request::sign(&key, &login(&key)),
        request::sign(&key, b"any message"),
        request::sign_digest(&key, b"context", &[9; 64]),
        request::sign_digest(&key, b"", &[9; 64]),
        request::sign_digest(&key, b"evanesce", &[9; 64]),
        framed(&[&[27][..], &string(QUERY.as_bytes())].concat()),
        framed(&[&[27][..], &string(b"session-bind@openssh.com"), &string(&key)].concat()),
        framed(&[17, 0, 0, 0, 0]),
    ];
    let all = frames.concat();
    let alone = frames.into_iter().map(|frame| cut(255, &frame));
    alone.chain([cut(255, &all), cut(0, &all), cut(6, &all)]).collect()
}

fn cut(bytes_a_read: u8, stream: &[u8]) -> Vec<u8> {
    [&[bytes_a_read], stream].concat()
}

/// What an SSH client has signed to log in (RFC 4252, section 7).
fn login(key: &[u8]) -> Vec<u8> {
    [
        string(&[3; 32]),
        vec![50],
        string(b"user"),
        string(b"ssh-connection"),
        string(b"publickey"),
        vec![1],
        string(b"ssh-ed25519"),
        string(key),
    ]
    .concat()
}

fn framed(body: &[u8]) -> Vec<u8> {
    string(body)
}

/// Four length bytes and the bytes: a string of SSH, or a frame.
fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a short string");
    [&length.to_be_bytes()[..], bytes].concat()
}
