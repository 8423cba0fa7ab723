//! Known answers of RFC 8032, section 7, through guarded memory, guarded stack and machine code.
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]

mod common;

use common::{fresh, loaded};
use ed25519_dalek::{Verifier as _, VerifyingKey};
use evanesce_protocol::KeyUse;
use sha2::{Digest as _, Sha512};

/// Section 7.1, tests 1 to 3: seed, public key, message, signature.
const PURE: [[&str; 4]; 3] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
];

/// Section 7.3: seed, public key, message, signature.
const PREHASHED: [&str; 4] = [
    "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
    "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
    "616263",
    "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406",
];

#[test]
fn messages_are_signed_as_rfc_8032_has_it() {
    for [seed, public_key, message, signature] in PURE {
        let mut signer = loaded(bytes(seed), KeyUse::Message);

        let signed = signer.sign_message(&hex::decode(message).unwrap()).unwrap();

        assert_eq!(hex::encode(signer.public_key().as_bytes()), public_key);
        assert_eq!(hex::encode(signed), signature);
    }
}

#[test]
fn digests_are_signed_as_rfc_8032_has_it() {
    let [seed, public_key, message, signature] = PREHASHED;
    let digest = Sha512::digest(hex::decode(message).unwrap()).into();
    let mut signer = loaded(bytes(seed), KeyUse::Digest);

    let signed = signer.sign_digest(&digest, b"").unwrap();

    assert_eq!(hex::encode(signer.public_key().as_bytes()), public_key);
    assert_eq!(hex::encode(signed), signature);
}

/// The lengths are those at which SHA-512 takes another block, and the longest there is.
#[test]
fn a_born_key_signs_messages_of_every_length_so_that_its_public_key_verifies_them() {
    let mut signer = fresh().generate(KeyUse::Message).unwrap();
    let public_key = VerifyingKey::from_bytes(signer.public_key().as_bytes()).unwrap();

    for length in [0, 1, 63, 64, 111, 112, 127, 128, 4096, 65_536] {
        let message = vec![0x5a; length];
        let signature = signer.sign_message(&message).unwrap();
        public_key.verify(&message, &signature.into()).unwrap();
    }
}

#[test]
fn two_born_keys_are_two_keys() {
    let [one, other] = [(); 2].map(|()| fresh().generate(KeyUse::Message).unwrap().public_key());
    assert_ne!(one, other);
}

fn bytes<const N: usize>(digits: &str) -> [u8; N] {
    hex::decode(digits).unwrap().try_into().unwrap()
}
