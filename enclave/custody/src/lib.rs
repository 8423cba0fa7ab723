//! Where a key comes from: from the bytes of a key file to a key, in the memory the caller gives.
//!
//! Start at [`ed25519_seed`] for a workload's key and at [`p256_key`] for the notary's.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | no key byte outside the two buffers and the stack of the call | decoding borrows; [`ed25519_seed`] allocates nothing | `tests/no_heap.rs` |
//! | no input panics, and no error repeats a byte of the file | every failure is mapped to a [`KeyFormatError`] by kind | property tests below |
//!
//! The caller owns the rest: it calls on a guarded stack, with guarded buffers (and a guarded heap
//! for [`p256_key`], which allocates), and wipes all of them.
//!
//! # Invariant
//!
//! No I/O, no logging, no clock, no randomness.

#![forbid(unsafe_code)]

use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::limits::KEY_FILE_BYTES_MAX;
use p256::pkcs8::DecodePrivateKey as _;
use pkcs8::PrivateKeyInfoRef;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{Decode as _, oid::ObjectIdentifier};

/// Bytes in an Ed25519 seed (RFC 8032, section 5.1.5).
pub const SEED_BYTES: usize = 32;

/// An Ed25519 key as a file holds it, borrowed from the scratch buffer it was decoded into.
pub struct Ed25519Seed<'s> {
    seed: &'s [u8; SEED_BYTES],
    public_key: Option<&'s [u8]>,
}

impl<'s> Ed25519Seed<'s> {
    /// The 32 bytes of the private key.
    pub fn as_bytes(&self) -> &'s [u8; SEED_BYTES] {
        self.seed
    }

    /// Checks the public half that the file may name (RFC 5958's `publicKey`) against the one that
    /// was derived from the seed.
    ///
    /// # Errors
    ///
    /// [`KeyFormatError::PublicKeyMismatch`] where the file names another one.
    pub fn check_public_key(&self, derived: &[u8; 32]) -> Result<(), KeyFormatError> {
        match self.public_key {
            Some(named) if named != derived => Err(KeyFormatError::PublicKeyMismatch),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Ed25519Seed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ed25519Seed(..)")
    }
}

/// Reads an Ed25519 private key from PKCS#8 PEM (RFC 5958, RFC 7468, RFC 8410), as
/// `openssl genpkey -algorithm ed25519` writes it.
///
/// `scratch` receives the decoded structure and has to be at least as long as `text`.
///
/// # Errors
///
/// [`KeyFormatError`], which names the format found and never a byte of the key.
pub fn ed25519_seed<'s>(
    text: &[u8],
    scratch: &'s mut [u8],
) -> Result<Ed25519Seed<'s>, KeyFormatError> {
    let der = private_key_der(text, scratch)?;
    let info = PrivateKeyInfoRef::try_from(der).map_err(|_| KeyFormatError::NotPkcs8)?;
    if info.algorithm.oid != ED25519_OID {
        return Err(KeyFormatError::Algorithm {
            expected: "Ed25519".into(),
            found: algorithm_name(info.algorithm.oid),
        });
    }
    let malformed = || KeyFormatError::Malformed { expected: "Ed25519".into() };
    if info.algorithm.parameters.is_some() {
        return Err(malformed());
    }
    // RFC 8410, section 7: the octet string holds another octet string, the seed.
    let seed = <&OctetStringRef>::from_der(info.private_key.as_bytes())
        .ok()
        .and_then(|inner| inner.as_bytes().try_into().ok())
        .ok_or_else(malformed)?;
    let public_key = match &info.public_key {
        Some(bits) => Some(bits.as_bytes().ok_or_else(malformed)?),
        None => None,
    };
    Ok(Ed25519Seed { seed, public_key })
}

/// Reads a P-256 private key from PKCS#8 PEM.
///
/// Allocates: call it under a guarded heap.
///
/// # Errors
///
/// As [`ed25519_seed`].
pub fn p256_key(text: &[u8], scratch: &mut [u8]) -> Result<p256::SecretKey, KeyFormatError> {
    let der = private_key_der(text, scratch)?;
    let info = PrivateKeyInfoRef::try_from(der).map_err(|_| KeyFormatError::NotPkcs8)?;
    let algorithm = |found| KeyFormatError::Algorithm { expected: "P-256".into(), found };
    if info.algorithm.oid != EC_OID {
        return Err(algorithm(algorithm_name(info.algorithm.oid)));
    }
    match info.algorithm.parameters_oid() {
        Ok(P256_OID) => {}
        Ok(other) => return Err(algorithm(algorithm_name(other))),
        Err(_) => {
            return Err(KeyFormatError::Malformed { expected: "P-256".into() });
        }
    }
    p256::SecretKey::from_pkcs8_der(der)
        .map_err(|_| KeyFormatError::Malformed { expected: "P-256".into() })
}

/// Takes the armour off and checks that it is for an unencrypted private key.
fn private_key_der<'s>(text: &[u8], scratch: &'s mut [u8]) -> Result<&'s [u8], KeyFormatError> {
    if text.is_empty() {
        return Err(KeyFormatError::Empty);
    }
    if text.len() > KEY_FILE_BYTES_MAX {
        let limit_bytes = u64::try_from(KEY_FILE_BYTES_MAX).expect("16 KiB fit 64 bits");
        return Err(KeyFormatError::TooLong { limit_bytes });
    }
    let label = pem_rfc7468::decode_label(text).map_err(|_| KeyFormatError::NotPem)?;
    if label != PRIVATE_KEY_LABEL {
        return Err(KeyFormatError::Label { found: label.chars().take(64).collect() });
    }
    match pem_rfc7468::decode(text, scratch) {
        Ok((_, der)) => Ok(der),
        Err(_) => Err(KeyFormatError::NotPem),
    }
}

/// The name people know an algorithm by, or its number.
fn algorithm_name(oid: ObjectIdentifier) -> String {
    match oid {
        ED25519_OID => "Ed25519".into(),
        EC_OID => "ECDSA".into(),
        P256_OID => "P-256".into(),
        other => match other.to_string().as_str() {
            "1.2.840.113549.1.1.1" => "RSA".into(),
            "1.3.101.110" => "X25519".into(),
            "1.3.101.113" => "Ed448".into(),
            "1.3.132.0.34" => "P-384".into(),
            number => number.to_owned(),
        },
    }
}

const PRIVATE_KEY_LABEL: &str = "PRIVATE KEY";

/// id-Ed25519 (RFC 8410, section 3).
const ED25519_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// id-ecPublicKey (RFC 5480, section 2.1.1).
const EC_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// secp256r1 (RFC 5480, section 2.1.1.1).
const P256_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of RFC 8410, section 10.3, without a public key.
    const RFC8410: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";

    /// The same key with its public half and an attribute, from the same section.
    const RFC8410_WITH_PUBLIC_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB\n\
        Z9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PRIVATE KEY-----\n";

    fn read(text: &str) -> Result<[u8; SEED_BYTES], KeyFormatError> {
        let mut scratch = [0; KEY_FILE_BYTES_MAX];
        ed25519_seed(text.as_bytes(), &mut scratch).map(|key| *key.as_bytes())
    }

    #[test]
    fn the_key_of_rfc_8410_is_read() {
        let seed = read(RFC8410).unwrap();

        let public_key = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
        assert_eq!(public_key.as_bytes()[..4], [0x19, 0xbf, 0x44, 0x09]);
    }

    #[test]
    fn a_public_half_in_the_file_has_to_be_the_right_one() {
        let mut scratch = [0; 1024];
        let key = ed25519_seed(RFC8410_WITH_PUBLIC_KEY.as_bytes(), &mut scratch).unwrap();
        let derived = ed25519_dalek::SigningKey::from_bytes(key.as_bytes()).verifying_key();

        assert_eq!(key.check_public_key(derived.as_bytes()), Ok(()));
        assert_eq!(key.check_public_key(&[0; 32]), Err(KeyFormatError::PublicKeyMismatch));
    }

    #[test]
    fn a_key_file_cut_at_any_byte_is_refused() {
        for end in 0..RFC8410.trim_end().len() {
            let error = read(&RFC8410[..end]).unwrap_err();
            assert!(
                matches!(error, KeyFormatError::Empty | KeyFormatError::NotPem),
                "cut at {end}: {error}"
            );
        }
    }

    #[test]
    fn another_kind_of_key_is_named() {
        let label = RFC8410.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY");
        assert_eq!(
            read(&label),
            Err(KeyFormatError::Label { found: "OPENSSH PRIVATE KEY".into() })
        );
        // X25519: the last number of the algorithm identifier is 110 instead of 112.
        let x25519 = RFC8410.replace("MC4CAQAwBQYDK2Vw", "MC4CAQAwBQYDK2Vu");
        assert_eq!(
            read(&x25519),
            Err(KeyFormatError::Algorithm { expected: "Ed25519".into(), found: "X25519".into() })
        );
    }

    #[test]
    fn a_p256_key_is_read_back_and_an_ed25519_key_is_not_taken_for_one() {
        use p256::pkcs8::{EncodePrivateKey as _, LineEnding};

        let key = p256::SecretKey::from_slice(&[7; 32]).unwrap();
        let text = key.to_pkcs8_pem(LineEnding::LF).unwrap();
        let mut scratch = [0; 1024];

        assert!(p256_key(text.as_bytes(), &mut scratch).is_ok_and(|read| read == key));
        assert_eq!(
            p256_key(RFC8410.as_bytes(), &mut scratch).err(),
            Some(KeyFormatError::Algorithm { expected: "P-256".into(), found: "Ed25519".into() })
        );
        assert_eq!(
            read(&text),
            Err(KeyFormatError::Algorithm { expected: "Ed25519".into(), found: "ECDSA".into() })
        );
    }

    proptest! {
        #[test]
        fn no_damage_to_a_key_file_panics(
            position in 0..RFC8410_WITH_PUBLIC_KEY.len(),
            byte in any::<u8>(),
        ) {
            let mut bytes = RFC8410_WITH_PUBLIC_KEY.as_bytes().to_vec();
            bytes[position] = byte;
            let mut scratch = [0; 1024];
            let _read = ed25519_seed(&bytes, &mut scratch);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut scratch = [0; 1024];
            let _read = ed25519_seed(&bytes, &mut scratch);
        }
    }
}
