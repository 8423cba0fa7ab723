//! What a released private key is encrypted to, and under which circumstances.
//!
//! The key of a workload can come from another machine: a worker there seals it (HPKE, RFC 9180) to
//! the release key of the worker that asked, and only that one opens it. Both compute the
//! context of the encryption with this module. It does no I/O. `docs/formats/release.md`
//! describes the bytes.

use serde::{Deserialize, Serialize};

use crate::evidence::Nonce;
use crate::ids::{Digest, PublicKey};

/// Bytes of a sealed key: the encapsulated key (32), the seed encrypted (32), the tag (16).
pub const RELEASE_SEALED_BYTES: usize = 80;

/// Bytes of HPKE's `info`.
pub const RELEASE_INFO_BYTES: usize = RELEASE_TAG.len() + 3 * 32;

/// The circumstances under which one key is released once. A key that was sealed under one
/// context opens under no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseContext {
    /// The session that the holder opened.
    pub session: Nonce,
    /// SHA-256 of the holder's challenge.
    pub challenge: Digest,
    /// SHA-256 of the asker's request, its evidence included.
    pub request: Digest,
    /// The public half of the key that is released.
    pub public_key: PublicKey,
}

impl ReleaseContext {
    /// HPKE's `info`: a tag, the session and both digests.
    pub fn info(&self) -> [u8; RELEASE_INFO_BYTES] {
        let mut info = [0; RELEASE_INFO_BYTES];
        let (tag, digests) = info.split_at_mut(RELEASE_TAG.len());
        tag.copy_from_slice(RELEASE_TAG);
        let parts = [self.session.as_bytes(), self.challenge.as_bytes(), self.request.as_bytes()];
        for (place, part) in digests.chunks_exact_mut(32).zip(parts) {
            place.copy_from_slice(part);
        }
        info
    }

    /// HPKE's `aad`: the public half of the key that is released.
    pub const fn aad(&self) -> &[u8; PublicKey::BYTES] {
        self.public_key.as_bytes()
    }
}

const RELEASE_TAG: &[u8] = b"evanesce/release/v1\0";

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> ReleaseContext {
        ReleaseContext {
            session: Nonce::from_bytes([1; 32]),
            challenge: Digest::from_bytes([2; 32]),
            request: Digest::from_bytes([3; 32]),
            public_key: PublicKey::from_bytes([4; 32]),
        }
    }

    #[test]
    fn the_context_is_laid_out_as_the_format_says() {
        let info = context().info();

        assert_eq!(info.len(), 116);
        assert_eq!(&info[..20], b"evanesce/release/v1\0");
        assert_eq!((info[20], info[52], info[84]), (1, 2, 3));
        assert_eq!(context().aad(), &[4; 32]);
    }
}
