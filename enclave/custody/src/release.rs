//! A key on its way from one worker to another: HPKE (RFC 9180) in base mode, with
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305.
//!
//! What is sealed is the seed alone, 32 bytes. Everything is done in place and on the stack of the
//! call: nothing allocates.

use std::convert::Infallible;

use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::evidence::ReleaseKey;
use evanesce_protocol::release::{RELEASE_SEALED_BYTES, ReleaseContext};
use hpke::aead::{AeadTag, ChaCha20Poly1305};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _};

use crate::SEED_BYTES;

/// Bytes of the private half of a release key, any of which are one (RFC 7748, section 5).
pub const RELEASE_SECRET_BYTES: usize = 32;

/// The public half of the release key with this private half.
pub fn release_key(secret: &[u8; RELEASE_SECRET_BYTES]) -> ReleaseKey {
    let public = X25519HkdfSha256::sk_to_pk(&private(secret));
    ReleaseKey::from_bytes(public.to_bytes().into())
}

/// Seals a seed to a release key: the encapsulated key, then the seed encrypted, then the tag.
///
/// `entropy` is what the ephemeral key is derived from. The caller wipes it, the seed, and the
/// stack of the call.
///
/// # Errors
///
/// [`KeyFormatError::Recipients`] for a release key of low order.
pub fn seal_to_release(
    seed: &[u8; SEED_BYTES],
    to: &ReleaseKey,
    context: &ReleaseContext,
    entropy: &[u8; RELEASE_SECRET_BYTES],
    sealed: &mut [u8; RELEASE_SEALED_BYTES],
) -> Result<(), KeyFormatError> {
    let to = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(to.as_bytes())
        .expect("any 32 bytes are a point");
    let (encapsulated, rest) = sealed.split_at_mut(ENCAPSULATED_BYTES);
    let (body, tag) = rest.split_at_mut(SEED_BYTES);
    body.copy_from_slice(seed);
    let (share, made) =
        hpke::single_shot_seal_inout_detached_with_rng::<
            ChaCha20Poly1305,
            HkdfSha256,
            X25519HkdfSha256,
        >(
            &OpModeS::Base, &to, &context.info(), body.into(), context.aad(), &mut Drawn(entropy)
        )
        .map_err(|_| KeyFormatError::Recipients)?;
    share.write_exact(encapsulated);
    made.write_exact(tag);
    Ok(())
}

/// Opens in place what was sealed to the release key with this private half, and gives the seed.
///
/// `None` where it was sealed to another key, under another context, or changed. What is in `sealed`
/// is undefined then; the caller wipes it, the private half, and the stack of the call.
pub fn open_release<'s>(
    secret: &[u8; RELEASE_SECRET_BYTES],
    context: &ReleaseContext,
    sealed: &'s mut [u8; RELEASE_SEALED_BYTES],
) -> Option<&'s [u8; SEED_BYTES]> {
    let (encapsulated, rest) = sealed.split_at_mut(ENCAPSULATED_BYTES);
    let (body, tag) = rest.split_at_mut(SEED_BYTES);
    let share = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
    let tag = AeadTag::<ChaCha20Poly1305>::from_bytes(tag).ok()?;
    hpke::single_shot_open_inout_detached::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private(secret),
        &share,
        &context.info(),
        (&mut *body).into(),
        context.aad(),
        &tag,
    )
    .ok()?;
    body.as_array()
}

fn private(secret: &[u8; RELEASE_SECRET_BYTES]) -> <X25519HkdfSha256 as Kem>::PrivateKey {
    <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(secret).expect("any 32 bytes are a scalar")
}

/// Random bytes that were drawn before, handed out once.
struct Drawn<'e>(&'e [u8; RELEASE_SECRET_BYTES]);

impl TryRng for Drawn<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("an ephemeral key is drawn as bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("an ephemeral key is drawn as bytes")
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.copy_from_slice(self.0);
        Ok(())
    }
}

impl TryCryptoRng for Drawn<'_> {}

/// Bytes in an encapsulated key (RFC 9180, section 7.1).
const ENCAPSULATED_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use evanesce_protocol::evidence::Nonce;
    use evanesce_protocol::{Digest, PublicKey};

    use super::*;

    const SEED: [u8; 32] = [0x5e; 32];
    const SECRET: [u8; 32] = [0x11; 32];

    fn context() -> ReleaseContext {
        ReleaseContext {
            session: Nonce::from_bytes([1; 32]),
            challenge: Digest::from_bytes([2; 32]),
            request: Digest::from_bytes([3; 32]),
            public_key: PublicKey::from_bytes([4; 32]),
        }
    }

    fn sealed() -> [u8; RELEASE_SEALED_BYTES] {
        let mut sealed = [0; RELEASE_SEALED_BYTES];
        let to = release_key(&SECRET);
        seal_to_release(&SEED, &to, &context(), &[0x22; 32], &mut sealed).unwrap();
        sealed
    }

    fn opens(secret: [u8; 32], context: &ReleaseContext, mut sealed: [u8; 80]) -> bool {
        open_release(&secret, context, &mut sealed).is_some()
    }

    #[test]
    fn what_was_sealed_opens_to_the_same_seed() {
        let mut bytes = sealed();

        assert!(!bytes.windows(8).any(|window| SEED.windows(8).any(|seed| seed == window)));
        assert_eq!(open_release(&SECRET, &context(), &mut bytes), Some(&SEED));
    }

    /// Computed from RFC 9180 with Python's `hmac`, and X25519 and ChaCha20-Poly1305 of its package
    /// `cryptography` 2026-11-22.
    #[test]
    fn another_implementation_seals_the_same_bytes() {
        let mut expected = [0; RELEASE_SEALED_BYTES];
        decode(
            "e3b9708aaa21a7f1e62a95ee28d1e5d60b0fceed6c68599013a54b318e9e0b15\
             7f9c39af5795af03d89035a6f92ab67e258623d6395b95d842b0b86886a7c402\
             8a233ad4c9c92f9f42293bd89a5abe1d",
            &mut expected,
        );

        assert_eq!(sealed(), expected);
    }

    #[test]
    fn no_other_key_and_no_other_circumstance_opens_it() {
        assert!(opens(SECRET, &context(), sealed()));
        assert!(!opens([0x12; 32], &context(), sealed()));
        let other: [fn(&mut ReleaseContext); 4] = [
            |c| c.session = Nonce::from_bytes([9; 32]),
            |c| c.challenge = Digest::from_bytes([9; 32]),
            |c| c.request = Digest::from_bytes([9; 32]),
            |c| c.public_key = PublicKey::from_bytes([9; 32]),
        ];
        for change in other {
            let mut changed = context();
            change(&mut changed);
            assert!(!opens(SECRET, &changed, sealed()), "{changed:?}");
        }
    }

    #[test]
    fn a_changed_byte_anywhere_keeps_it_shut() {
        for position in 0..RELEASE_SEALED_BYTES {
            let mut changed = sealed();
            changed[position] ^= 1;
            assert!(!opens(SECRET, &context(), changed), "byte {position}");
        }
    }

    #[test]
    fn nothing_is_sealed_to_a_key_of_low_order() {
        let mut sealed = [0; RELEASE_SEALED_BYTES];
        let nobody = ReleaseKey::from_bytes([0; 32]);

        let refused = seal_to_release(&SEED, &nobody, &context(), &[0x22; 32], &mut sealed);

        assert_eq!(refused, Err(KeyFormatError::Recipients));
    }

    /// RFC 9180, appendix A.2.1 (base mode, X25519, HKDF-SHA256, ChaCha20-Poly1305): the
    /// recipient's key pair.
    #[test]
    fn a_release_key_is_the_one_of_rfc_9180() {
        let mut secret = [0; 32];
        let mut public = [0; 32];
        let text = "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb";
        decode(text, &mut secret);
        let text = "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a";
        decode(text, &mut public);

        assert_eq!(release_key(&secret).as_bytes(), &public);
    }

    fn decode(text: &str, into: &mut [u8]) {
        for (byte, digits) in into.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap();
        }
    }
}
