//! What is left in linear memory after each call, and after the last one.

use curve25519_dalek::scalar::{Scalar, clamp_integer};
use evanesce_signer::abi::{MEMORY_BYTES, STACK_BYTES, Use};
use sha2::{Digest as _, Sha512};

use crate::guest::Guest;

/// A key may be in linear memory in two forms, the scalar and the prefix, once each. Everything
/// else that signing computes gives the key away just as well, and has to be gone.
#[test]
fn after_a_signature_only_the_key_itself_is_in_linear_memory() {
    let mut guest = Guest::loaded(&SEED, Use::Message);
    let message: [u8; 200] = std::array::from_fn(|i| u8::try_from(i).unwrap() ^ 0x5a);

    guest.sign_message(&message).unwrap();

    Forms::of(&message, |prefix| Sha512::new().chain_update(prefix).chain_update(message))
        .assert_only_the_key_is_in(guest.memory());
}

#[test]
fn after_a_signed_digest_only_the_key_itself_is_in_linear_memory() {
    let mut guest = Guest::loaded(&SEED, Use::Digest);
    let digest: [u8; 64] = Sha512::digest(b"artifact").into();

    guest.sign_digest(&digest, b"ctx").unwrap();

    let domain = b"SigEd25519 no Ed25519 collisions\x01\x03ctx";
    Forms::of(&digest, |prefix| {
        Sha512::new().chain_update(domain).chain_update(prefix).chain_update(digest)
    })
    .assert_only_the_key_is_in(guest.memory());
}

/// Stronger than a search for known forms: whatever signing left on the stack is zero.
#[test]
fn after_every_call_the_whole_shadow_stack_is_zero() {
    let assert_clear = |guest: &Guest, after: &str| {
        let dirty = guest.memory()[..STACK_BYTES].iter().filter(|byte| **byte != 0).count();
        assert_eq!(dirty, 0, "bytes on the shadow stack after {after}");
    };

    let mut guest = Guest::loaded(&SEED, Use::Message);
    assert_clear(&guest, "load");
    guest.sign_message(b"m").unwrap();
    assert_clear(&guest, "sign_message");
    guest.public_key().unwrap();
    assert_clear(&guest, "public_key");
    guest.sign_digest(&[1; 64], b"").unwrap_err();
    assert_clear(&guest, "a refusal");

    let mut guest = Guest::new();
    guest.generate(&[7; 64], Use::Digest.code());
    assert_clear(&guest, "generate");
    guest.sign_digest(&[1; 64], b"ctx").unwrap();
    assert_clear(&guest, "sign_digest");
    guest.wipe();
    assert_clear(&guest, "wipe");
}

#[test]
fn what_a_call_took_from_the_input_is_overwritten_even_when_it_is_refused() {
    let mut guest = Guest::new();
    guest.load(&SEED, 7);
    assert_eq!(guest.input(32), [0; 32], "a seed with an unknown use");
    guest.generate(&[9; 64], 7);
    assert_eq!(guest.input(64), [0; 64], "entropy with an unknown use");
    guest.load(&SEED, Use::Message.code());
    assert_eq!(guest.input(32), [0; 32], "a seed");
    guest.load(&SEED, Use::Message.code());
    assert_eq!(guest.input(32), [0; 32], "a second seed");
    guest.sign_message(&[9; 1000]).unwrap();
    assert_eq!(guest.input(1000), [0; 1000], "a message");
    guest.sign_digest(&[9; 64], &[9; 20]).unwrap_err();
    assert_eq!(guest.input(84), [0; 84], "a digest for a key of the other use");
}

/// The strongest statement there is: apart from the byte that says so, a wiped instance cannot be
/// told from one that never had a key, even where the host left something in the buffers.
#[test]
fn after_a_wipe_linear_memory_is_that_of_a_fresh_instance_but_for_one_byte() {
    let fresh = Guest::new().memory().to_vec();
    for bound_to in [Use::Message, Use::Digest] {
        // Given an instance that has signed, and an input with something in it,
        let mut guest = Guest::loaded(&SEED, bound_to);
        guest.sign_message(b"m").ok();
        guest.sign_digest(&[1; 64], b"ctx").ok();
        guest.write_input(&[0xaa; 65536]);
        assert!(differing(&fresh, guest.memory()) > 64 + 65536, "the control: nothing differs");

        // When it is wiped, then one byte tells.
        guest.wipe();
        assert_eq!(differing(&fresh, guest.memory()), 1);
    }
    assert_eq!(fresh.len(), MEMORY_BYTES);
}

/// Every form of one key while it signs one message.
struct Forms {
    /// What the key's own static holds.
    kept: [(&'static str, Vec<u8>); 2],
    /// What exists only while a call runs.
    passing: Vec<(&'static str, Vec<u8>)>,
}

impl Forms {
    /// `nonce_hash` gives the hash that the nonce is reduced from, by the key's prefix.
    fn of(message: &[u8], nonce_hash: impl FnOnce(&[u8]) -> Sha512) -> Self {
        let expanded: [u8; 64] = Sha512::digest(SEED).into();
        let (first, prefix) = expanded.split_first_chunk::<32>().unwrap();
        let clamped = clamp_integer(*first);
        let scalar = Scalar::from_bytes_mod_order(clamped);
        let nonce_hash: [u8; 64] = nonce_hash(prefix).finalize().into();
        let nonce = Scalar::from_bytes_mod_order_wide(&nonce_hash);
        Self {
            kept: [("the scalar", scalar.to_bytes().to_vec()), ("the prefix", prefix.to_vec())],
            passing: vec![
                ("the seed", SEED.to_vec()),
                ("the first half of the seed's hash", first.to_vec()),
                ("the clamped scalar", clamped.to_vec()),
                ("the scalar in 52-bit limbs", limbs_52(&scalar)),
                ("the scalar in SHA-512's words", swapped(scalar.as_bytes())),
                ("the prefix in SHA-512's words", swapped(prefix)),
                ("the nonce's hash", nonce_hash.to_vec()),
                ("the nonce's hash in SHA-512's words", swapped(&nonce_hash)),
                ("the nonce", nonce.to_bytes().to_vec()),
                ("the nonce in 52-bit limbs", limbs_52(&nonce)),
                ("the nonce in radix-16 digits", digits_16(&nonce)),
                ("what was signed", message.to_vec()),
            ],
        }
    }

    /// Searches for every 8 bytes in a row of every form.
    fn assert_only_the_key_is_in(&self, memory: &[u8]) {
        let places =
            |wanted: &[u8]| memory.windows(WINDOW).filter(|bytes| *bytes == wanted).count();

        // The control: the search finds what has to be there, and finds it once.
        for (name, form) in &self.kept {
            for window in form.windows(WINDOW) {
                assert_eq!(places(window), 1, "{name} has one place in memory");
            }
        }

        // The scalar and what it was reduced from have bytes in common, since the group's order has
        // a run of zeros: such a window may be where the scalar is.
        let is_kept = |window: &&[u8]| {
            self.kept.iter().any(|(_, form)| form.windows(WINDOW).any(|kept| kept == *window))
        };
        for (name, form) in &self.passing {
            let windows: Vec<_> = form.windows(WINDOW).filter(|window| !is_kept(window)).collect();
            assert!(windows.len() >= 16, "{name} has {} windows of its own", windows.len());
            let found: usize = windows.into_iter().map(places).sum();
            assert_eq!(found, 0, "windows of {name} in linear memory");
        }
    }
}

/// The five 64-bit words of 52 bits that the 64-bit backend computes with.
fn limbs_52(scalar: &Scalar) -> Vec<u8> {
    let bits = |from: usize| {
        (from..(from + 52).min(256)).rev().fold(0, |limb: u64, bit| {
            limb << 1 | u64::from(scalar.as_bytes()[bit / 8] >> (bit % 8) & 1)
        })
    };
    (0..5).flat_map(|limb| bits(52 * limb).to_le_bytes()).collect()
}

/// The 64 signed digits that base-point multiplication walks over, from -8 up to 7.
fn digits_16(scalar: &Scalar) -> Vec<u8> {
    let mut carry = 0;
    let nibbles = scalar.as_bytes().iter().flat_map(|byte| [byte & 15, byte >> 4]);
    nibbles
        .map(|nibble| {
            let digit = nibble + carry;
            carry = (digit + 8) >> 4;
            digit.wrapping_sub(carry << 4)
        })
        .collect()
}

/// The same bytes as SHA-512 holds them: 64-bit words, the other way round.
fn swapped(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(8).flat_map(|word| word.iter().rev().copied()).collect()
}

fn differing(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).filter(|(left, right)| left != right).count()
}

const SEED: [u8; 32] = *b"a seed that no other memory has.";

/// Bytes in a row that count as a find.
const WINDOW: usize = 8;
