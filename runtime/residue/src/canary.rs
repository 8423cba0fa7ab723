//! A key that is made for being searched for.

use base64ct::{Base64, Encoding};
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use sha2::{Digest as _, Sha512};

use crate::forms::{Forms, Signed};

/// An Ed25519 key (RFC 8032, section 5.1.5) that is made for being searched for.
///
/// Not a secret: it is printed, copied and compared freely. Never load a real key as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    seed: [u8; Self::SEED_BYTES],
}

impl Canary {
    /// Bytes in a seed.
    pub const SEED_BYTES: usize = 32;

    /// Takes a seed made elsewhere. It should look random: a fragment with fewer than five
    /// different bytes is not searched for ([`Forms`]).
    pub const fn from_seed(seed: [u8; Self::SEED_BYTES]) -> Self {
        Self { seed }
    }

    /// Makes a seed from the kernel's entropy.
    ///
    /// # Errors
    ///
    /// When the kernel gives none (getrandom(2)).
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut seed = [0; Self::SEED_BYTES];
        getrandom::fill(&mut seed)?;
        Ok(Self { seed })
    }

    /// The 32 bytes of the private key.
    pub const fn seed(&self) -> &[u8; Self::SEED_BYTES] {
        &self.seed
    }

    /// The encoded point that belongs to it, 32 bytes.
    pub fn public_key(&self) -> [u8; 32] {
        EdwardsPoint::mul_base(&self.expand().scalar).compress().to_bytes()
    }

    /// The key as `openssl genpkey -algorithm ed25519` writes it (RFC 8410, section 7).
    pub fn to_pkcs8_pem(&self) -> String {
        let der = [&PKCS8_PREFIX[..], &self.seed].concat();
        let body = Base64::encode_string(&der);
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }

    /// Every form the key takes when it is loaded and signs `messages` (pure Ed25519), in that
    /// order.
    pub fn forms(&self, messages: &[&[u8]]) -> Forms {
        let signed: Vec<_> = messages.iter().map(|&message| Signed::Message(message)).collect();
        self.forms_of(&signed)
    }

    /// As [`Canary::forms`], for messages and digests alike.
    pub fn forms_of(&self, signed: &[Signed<'_>]) -> Forms {
        Forms::of(self, signed)
    }

    pub(crate) fn expand(&self) -> Expanded {
        let hash: [u8; 64] = Sha512::digest(self.seed).into();
        let (low, prefix) = hash.split_at(32);
        let low = low.try_into().expect("half of 64 bytes is 32");
        let prefix = prefix.try_into().expect("half of 64 bytes is 32");
        let clamped = clamp_integer(low);
        Expanded { hash, low, prefix, clamped, scalar: Scalar::from_bytes_mod_order(clamped) }
    }
}

/// What RFC 8032, section 5.1.5 makes of a seed.
pub(crate) struct Expanded {
    pub(crate) hash: [u8; 64],
    pub(crate) low: [u8; 32],
    pub(crate) prefix: [u8; 32],
    pub(crate) clamped: [u8; 32],
    /// The clamped integer, reduced modulo the group's order.
    pub(crate) scalar: Scalar,
}

/// `PrivateKeyInfo` up to the seed: version 0, id-Ed25519, two nested octet strings.
pub(crate) const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
