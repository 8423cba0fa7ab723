//! One digest that stands for the ordered list of everything a key signed.
//!
//! The worker extends it with each signature, the launcher and every verifier compute it again
//! from the rows of the ledger, and the receipt states it. With key `P` and request digests
//! `d(1) … d(n)`:
//!
//! ```text
//! c(0) = SHA-256("evanesce requests v1\0" || P)
//! c(i) = SHA-256(c(i-1) || d(i))
//! ```

use crate::ids::{Digest, PublicKey};

/// The start of every commitment, so that no other digest can pass for one.
const DOMAIN: &[u8] = b"evanesce requests v1\0";

/// `SigEd25519 no Ed25519 collisions`, the prefix of Ed25519ph (RFC 8032, section 2, `dom2`).
const DOM2: &[u8] = b"SigEd25519 no Ed25519 collisions";

/// A running commitment: how many requests were signed, and the chain of their digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestCommitment {
    count: u64,
    value: Digest,
}

impl RequestCommitment {
    /// The commitment to nothing signed yet by `key`.
    pub fn new(key: &PublicKey) -> Self {
        Self { count: 0, value: Digest::of_parts(&[DOMAIN, key.as_bytes()]) }
    }

    /// Adds the next request that was signed.
    pub fn extend(&mut self, request: &Digest) {
        self.value = Digest::of_parts(&[self.value.as_bytes(), request.as_bytes()]);
        self.count = self.count.checked_add(1).expect("2^64 signatures take longer than any key");
    }

    /// How many requests it covers.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The commitment to them, in order.
    pub const fn value(&self) -> Digest {
        self.value
    }
}

/// How the ledger names a message that was signed (pure Ed25519): SHA-256 of its bytes.
pub fn request_of_message(message: &[u8]) -> Digest {
    Digest::of(message)
}

/// How the ledger names a SHA-512 digest that was signed (Ed25519ph): SHA-256 of the bytes that
/// RFC 8032, section 5.1.6 puts before and in place of the message, `dom2(1, context) || digest`.
///
/// # Errors
///
/// [`ContextTooLong`] for more than 255 bytes of context.
pub fn request_of_digest(context: &[u8], digest: &[u8; 64]) -> Result<Digest, ContextTooLong> {
    let length = u8::try_from(context.len()).map_err(|_| ContextTooLong)?;
    Ok(Digest::of_parts(&[DOM2, &[1, length], context, digest]))
}

/// A context of more than 255 bytes, which Ed25519ph has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a context has at most 255 bytes")]
pub struct ContextTooLong;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commitment_is_the_one_the_format_describes() {
        // Given a key and two requests,
        let key = PublicKey::from_bytes([7; 32]);
        let requests = [request_of_message(b"one"), request_of_message(b"two")];

        // When both are added,
        let mut commitment = RequestCommitment::new(&key);
        requests.iter().for_each(|request| commitment.extend(request));

        // Then the value is the formula of the module's docs, written out.
        let start = Digest::of(&[b"evanesce requests v1\0".as_slice(), &[7; 32]].concat());
        let first = Digest::of(&[*start.as_bytes(), *requests[0].as_bytes()].concat());
        let second = Digest::of(&[*first.as_bytes(), *requests[1].as_bytes()].concat());
        assert_eq!((commitment.count(), commitment.value()), (2, second));
    }

    #[test]
    fn order_and_key_change_the_commitment() {
        let commit = |key: u8, requests: [&[u8]; 2]| {
            let mut commitment = RequestCommitment::new(&PublicKey::from_bytes([key; 32]));
            requests.iter().for_each(|request| commitment.extend(&Digest::of(request)));
            commitment.value()
        };

        assert_ne!(commit(1, [b"a", b"b"]), commit(1, [b"b", b"a"]));
        assert_ne!(commit(1, [b"a", b"b"]), commit(2, [b"a", b"b"]));
    }

    #[test]
    fn a_context_takes_part_in_the_name_of_a_digest_and_has_a_limit() {
        let plain = request_of_digest(b"", &[3; 64]).unwrap();

        assert_ne!(request_of_digest(b"x", &[3; 64]), Ok(plain));
        assert_eq!(request_of_digest(&[0; 256], &[3; 64]), Err(ContextTooLong));
    }
}
