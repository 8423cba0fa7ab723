//! The key and what may be done with it: safe code, without addresses or exports.
//!
//! Like all compiled Rust, these functions leave copies of secrets on the stack; the shim clears it
//! after each call. What stays between calls is in [`Signer`].

#![forbid(unsafe_code)]

use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign, raw_sign_prehashed};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::digest::{FixedOutput, HashMarker, Output, OutputSizeUser, Update, consts::U64};
use sha2::{Digest as _, Sha512};

use crate::abi::{
    CONTEXT_BYTES_MAX, DIGEST_BYTES, ENTROPY_BYTES, PUBLIC_KEY_BYTES, SEED_BYTES, SIGNATURE_BYTES,
    Status, Use,
};

/// One key in its one life: empty, loaded, retired.
///
/// The numbers make [`Signer::Empty`] all zero, so that the module need not carry its bytes.
#[repr(u8)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, in a static, and no heap to box it on"
)]
pub(crate) enum Signer {
    /// No key yet.
    Empty = 0,
    /// The key signs.
    Loaded(Key) = 1,
    /// The key is gone, and no other one follows it.
    Retired = 2,
}

/// An expanded key, its public half, and the one use it is bound to.
pub(crate) struct Key {
    secret: ExpandedSecretKey,
    public: VerifyingKey,
    bound_to: Use,
}

impl Signer {
    /// Takes a seed (RFC 8032, section 5.1.5) and binds it to one use.
    pub(crate) fn load(&mut self, seed: &[u8; SEED_BYTES], bound_to: Use) -> Result<(), Status> {
        match self {
            Self::Empty => {}
            Self::Loaded(_) => return Err(Status::KeyAlready),
            Self::Retired => return Err(Status::Wiped),
        }
        let secret = ExpandedSecretKey::from_bytes(&Sha512::digest(seed).into());
        let public = VerifyingKey::from(&secret);
        *self = Self::Loaded(Key { secret, public, bound_to });
        Ok(())
    }

    /// Makes a seed out of entropy, so that nobody outside ever had it, and loads that.
    pub(crate) fn generate(
        &mut self,
        entropy: &[u8; ENTROPY_BYTES],
        bound_to: Use,
    ) -> Result<(), Status> {
        let hash = Sha512::new().chain_update(BIRTH_TAG).chain_update(entropy).finalize();
        let (seed, _) = hash.split_first_chunk().expect("SHA-512 is longer than a seed");
        self.load(seed, bound_to)
    }

    /// The public half.
    pub(crate) fn public_key(&self) -> Result<[u8; PUBLIC_KEY_BYTES], Status> {
        Ok(self.key()?.public.to_bytes())
    }

    /// Pure Ed25519 (RFC 8032, section 5.1.6).
    pub(crate) fn sign_message(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Status> {
        let key = self.key_for(Use::Message)?;
        Ok(raw_sign::<Sha512>(&key.secret, message, &key.public).to_bytes())
    }

    /// Ed25519ph (RFC 8032, section 5.1) over a SHA-512 digest that the host computed.
    pub(crate) fn sign_digest(
        &self,
        digest: &[u8; DIGEST_BYTES],
        context: &[u8],
    ) -> Result<[u8; SIGNATURE_BYTES], Status> {
        let key = self.key_for(Use::Digest)?;
        if context.len() > CONTEXT_BYTES_MAX {
            return Err(Status::TooLong);
        }
        raw_sign_prehashed::<Sha512, _>(&key.secret, Finished(*digest), &key.public, Some(context))
            .map(|signature: Signature| signature.to_bytes())
            .map_err(|_| Status::TooLong)
    }

    fn key_for(&self, asked: Use) -> Result<&Key, Status> {
        let key = self.key()?;
        if key.bound_to != asked {
            return Err(Status::OtherUse);
        }
        Ok(key)
    }

    fn key(&self) -> Result<&Key, Status> {
        match self {
            Self::Empty => Err(Status::NoKey),
            Self::Loaded(key) => Ok(key),
            Self::Retired => Err(Status::Wiped),
        }
    }
}

/// A digest in the place of the hasher that made it: the signing function wants to finish the
/// hash itself, and does nothing else with it.
struct Finished([u8; DIGEST_BYTES]);

impl FixedOutput for Finished {
    fn finalize_into(self, out: &mut Output<Self>) {
        out.copy_from_slice(&self.0);
    }
}

impl OutputSizeUser for Finished {
    type OutputSize = U64;
}

impl HashMarker for Finished {}

impl Update for Finished {
    fn update(&mut self, _more: &[u8]) {
        unreachable!("nothing is added to a finished digest");
    }
}

impl Default for Finished {
    fn default() -> Self {
        unreachable!("a finished digest does not start empty");
    }
}

/// Separates a born seed from every other use of SHA-512 over 64 bytes.
const BIRTH_TAG: &[u8] = b"evanesce signer: birth of a key, version 1\0";
