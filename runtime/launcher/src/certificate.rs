//! The OpenSSH certificate by which the notary vouches for a key that lives for minutes.
//!
//! One `cert-authority` line with the notary's key then trusts every key it certified, in
//! `allowed_signers` and in git. The layout is that of OpenSSH's `PROTOCOL.certkeys`, for an Ed25519
//! key certified by an ECDSA key on P-256. No critical options, no extensions: such a certificate
//! opens no shell.

use evanesce_ledger::{NotaryKey, P256Signature, Timestamp};
use evanesce_protocol::limits::CERTIFICATE_BYTES_MAX;
use evanesce_protocol::{PublicKey, WorkloadId};
use ssh_encoding::base64::{Base64, Encoding as _};
use ssh_encoding::{Decode as _, Encode as _};

/// The principal of every certificate: `ssh-keygen -Y verify -I evanesce` accepts any workload,
/// `-I WORKLOAD-ID` the one.
pub const PRINCIPAL: &str = "evanesce";

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The workload: the certificate's key id, and its second principal.
    pub workload: WorkloadId,
    /// The key that is certified.
    pub public_key: PublicKey,
    /// The first second in which it is valid.
    pub valid_after: Timestamp,
    /// The first second in which it is not valid any more.
    pub valid_before: Timestamp,
    /// 32 random bytes; the last eight of them become the serial number.
    pub nonce: [u8; 32],
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    blob: Vec<u8>,
    line: String,
}

impl Certificate {
    /// Has the notary sign a certificate: `sign` is given the bytes to sign with ECDSA and SHA-256.
    ///
    /// # Errors
    ///
    /// Whatever `sign` returns.
    pub fn issue<E>(
        terms: &Terms,
        notary: &NotaryKey,
        sign: impl FnOnce(&[u8]) -> Result<P256Signature, E>,
    ) -> Result<Self, E> {
        let mut blob = to_be_signed(terms, notary);
        let signature = sign(&blob)?;
        put(&mut blob, &signature_blob(&signature));
        debug_assert!(blob.len() <= CERTIFICATE_BYTES_MAX, "a certificate has about 500 bytes");
        let line =
            format!("{CERTIFICATE} {} evanesce {}", Base64::encode_string(&blob), terms.workload);
        Ok(Self { blob, line })
    }

    /// The certificate as SSH encodes it.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// One line, as a `-cert.pub` file has it, without a newline.
    pub fn line(&self) -> &str {
        &self.line
    }
}

/// One line, as a `.pub` file has it, without a newline: an Ed25519 key.
pub fn public_key_line(key: &PublicKey, comment: &str) -> String {
    format!("{ED25519} {} {comment}", Base64::encode_string(&public_key_blob(key)))
}

/// One line, as a `.pub` file has it, without a newline: a notary's key.
pub fn notary_key_line(key: &NotaryKey) -> String {
    format!("{ECDSA_P256} {} evanesce notary", Base64::encode_string(&notary_key_blob(key)))
}

/// An Ed25519 key as SSH encodes it (RFC 8709, section 4).
pub fn public_key_blob(key: &PublicKey) -> Vec<u8> {
    let mut blob = Vec::new();
    put(&mut blob, ED25519.as_bytes());
    put(&mut blob, key.as_bytes());
    blob
}

fn to_be_signed(terms: &Terms, notary: &NotaryKey) -> Vec<u8> {
    let serial = u64::decode(&mut &terms.nonce[24..]).expect("eight bytes are a number");
    let mut principals = Vec::new();
    put(&mut principals, PRINCIPAL.as_bytes());
    put(&mut principals, terms.workload.as_str().as_bytes());

    let mut blob = Vec::new();
    put(&mut blob, CERTIFICATE.as_bytes());
    put(&mut blob, &terms.nonce);
    put(&mut blob, terms.public_key.as_bytes());
    put_number(&mut blob, serial);
    blob.extend(CERT_TYPE_USER.to_be_bytes());
    put(&mut blob, terms.workload.as_str().as_bytes());
    put(&mut blob, &principals);
    put_number(&mut blob, terms.valid_after.unix_ms() / 1000);
    put_number(&mut blob, terms.valid_before.unix_ms().div_ceil(1000));
    put(&mut blob, b""); // critical options
    put(&mut blob, b""); // extensions
    put(&mut blob, b""); // reserved
    put(&mut blob, &notary_key_blob(notary));
    blob
}

/// An ECDSA key as SSH encodes it (RFC 5656, section 3.1).
fn notary_key_blob(key: &NotaryKey) -> Vec<u8> {
    let mut blob = Vec::new();
    put(&mut blob, ECDSA_P256.as_bytes());
    put(&mut blob, NISTP256.as_bytes());
    put(&mut blob, &key.to_sec1());
    blob
}

/// An ECDSA signature as SSH encodes it (RFC 5656, section 3.1.2). The numbers are those of the
/// DER: both are signed integers without needless zeros, most significant byte first.
fn signature_blob(signature: &P256Signature) -> Vec<u8> {
    let der = signature.to_der();
    let mut numbers = Vec::new();
    let mut rest = &der[2..];
    while let [_integer, length, tail @ ..] = rest {
        let (number, tail) = tail.split_at(usize::from(*length));
        put(&mut numbers, number);
        rest = tail;
    }
    let mut blob = Vec::new();
    put(&mut blob, ECDSA_P256.as_bytes());
    put(&mut blob, &numbers);
    blob
}

fn put(blob: &mut Vec<u8>, field: &[u8]) {
    field.encode(blob).expect("a Vec takes any field below 4 GiB");
}

fn put_number(blob: &mut Vec<u8>, number: u64) {
    blob.extend(number.to_be_bytes());
}

const ED25519: &str = "ssh-ed25519";
const CERTIFICATE: &str = "ssh-ed25519-cert-v01@openssh.com";
const ECDSA_P256: &str = "ecdsa-sha2-nistp256";
const NISTP256: &str = "nistp256";
const CERT_TYPE_USER: u32 = 1;
