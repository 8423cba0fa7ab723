//! What a client of the agent socket sends: the first byte says how it is cut into reads.

use std::sync::LazyLock;

use evanesce_protocol::agent::{Frames, Request, Response, request};
use evanesce_protocol::grant::{Grant, Grants};
use evanesce_protocol::sshsig::SignedData;

use crate::planted;

/// Reads the frames as a worker does, and decides on each under every kind of grants.
///
/// # Panics
///
/// Where something does not hold that must.
pub fn run(input: &[u8]) {
    let Some((bytes_a_read, sent)) = input.split_first() else { return };
    let mut frames = Frames::default();
    for read in sent.chunks(usize::from(*bytes_a_read) + 1) {
        frames.push(read);
        loop {
            let ready = frames.is_ready();
            match frames.next_frame() {
                Ok(Some(frame)) => {
                    assert!(ready);
                    answered(frame);
                    // A client reads such frames too.
                    drop(Response::parse(frame));
                }
                Ok(None) => {
                    assert!(!ready);
                    break;
                }
                Err(_) => return,
            }
        }
    }
}

fn answered(frame: &[u8]) {
    match Request::parse(frame) {
        Ok(Request::Identities) => assert_eq!(&request::identities()[4..], frame),
        Ok(Request::Sign { key, message }) => {
            // But for the flags, which mean nothing here.
            let written = request::sign(key, message);
            assert_eq!(written[4..written.len() - 4], frame[..frame.len() - 4]);
            decided(key, message);
        }
        Ok(Request::SignDigest { key, context, digest }) => {
            assert_eq!(&request::sign_digest(key, context, digest)[4..], frame);
            planted::bug_if(context.iter().any(u8::is_ascii_digit));
            for grants in &*GRANTS {
                let admitted = grants.admit_digest(context).is_ok();
                assert!(!admitted || !context.starts_with(RESERVED.as_bytes()));
            }
        }
        Ok(Request::Query | Request::UnknownExtension | Request::Unsupported) | Err(_) => {}
    }
}

fn decided(key: &[u8], message: &[u8]) {
    let own = SignedData::parse(message).is_ok_and(|data| data.namespace.starts_with(RESERVED));
    for grants in &*GRANTS {
        if let Ok(admitted) = grants.admit(key, message) {
            assert_eq!(admitted.message(), message);
            assert!(!own, "a statement of our own is admitted by {grants:?}");
        }
    }
}

/// Grants of every kind.
static GRANTS: LazyLock<Vec<Grants>> = LazyLock::new(|| {
    let grants = |names: &[&str]| {
        let grants: Vec<Grant> = names.iter().map(|name| name.parse().expect("a grant")).collect();
        Grants::new(grants).expect("they stand together")
    };
    vec![
        Grants::default(),
        grants(&["sshsig:git"]),
        grants(&["sshsig:file", "ssh-login"]),
        grants(&["raw"]),
        grants(&["sshsig", "ssh-login", "raw"]),
        grants(&["digest"]),
    ]
});

/// How namespaces and contexts of our own start.
const RESERVED: &str = "evanesce";
