//! PKCS#8 (RFC 5958) in the clear.

use evanesce_protocol::control::KeyFormatError;
use p256::pkcs8::DecodePrivateKey as _;
use pkcs8::PrivateKeyInfoRef;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{Decode as _, oid::ObjectIdentifier};

use crate::{ED25519, Ed25519Seed, SEED_BYTES, malformed, pem};

/// The label of a key in the clear.
pub(crate) const LABEL: &str = "PRIVATE KEY";

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
    ed25519_of_der(pem::decode_labelled(text, LABEL, scratch)?)
}

/// Reads the structure itself.
pub(crate) fn ed25519_of_der(der: &[u8]) -> Result<Ed25519Seed<'_>, KeyFormatError> {
    let info = PrivateKeyInfoRef::try_from(der).map_err(|_| KeyFormatError::NotPkcs8)?;
    if info.algorithm.oid != ED25519_OID {
        return Err(KeyFormatError::Algorithm {
            expected: ED25519.into(),
            found: algorithm_name(info.algorithm.oid),
        });
    }
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

/// Writes a seed as PKCS#8 PEM, version 1 without the public half, as OpenSSL reads and writes it.
/// Gives the bytes of `into` that were written. `der` receives the structure.
pub(crate) fn write_ed25519<'o>(
    seed: &[u8; SEED_BYTES],
    der: &mut [u8; PREFIX.len() + SEED_BYTES],
    into: &'o mut [u8],
) -> Result<&'o [u8], KeyFormatError> {
    let (prefix, rest) = der.split_at_mut(PREFIX.len());
    prefix.copy_from_slice(&PREFIX);
    rest.copy_from_slice(seed);
    let written = pem_rfc7468::encode(LABEL, pem_rfc7468::LineEnding::LF, der, into)
        .map_err(|_| malformed())?
        .len();
    Ok(&into[..written])
}

/// Everything of the structure that comes before the seed (RFC 8410, section 10.3).
pub(crate) const PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Reads a P-256 private key from PKCS#8 PEM.
///
/// Allocates: call it under a guarded heap.
///
/// # Errors
///
/// As [`ed25519_seed`].
pub fn p256_key(text: &[u8], scratch: &mut [u8]) -> Result<p256::SecretKey, KeyFormatError> {
    let der: &[u8] = pem::decode_labelled(text, LABEL, scratch)?;
    let info = PrivateKeyInfoRef::try_from(der).map_err(|_| KeyFormatError::NotPkcs8)?;
    let algorithm = |found| KeyFormatError::Algorithm { expected: P256.into(), found };
    if info.algorithm.oid != EC_OID {
        return Err(algorithm(algorithm_name(info.algorithm.oid)));
    }
    let malformed = || KeyFormatError::Malformed { expected: P256.into() };
    match info.algorithm.parameters_oid() {
        Ok(P256_OID) => {}
        Ok(other) => return Err(algorithm(algorithm_name(other))),
        Err(_) => return Err(malformed()),
    }
    p256::SecretKey::from_pkcs8_der(der).map_err(|_| malformed())
}

/// The name people know an algorithm by, or its number.
pub(crate) fn algorithm_name(oid: ObjectIdentifier) -> String {
    match oid {
        ED25519_OID => ED25519.into(),
        EC_OID => "ECDSA".into(),
        P256_OID => P256.into(),
        other => match other.to_string().as_str() {
            "1.2.840.113549.1.1.1" => "RSA".into(),
            "1.2.840.113549.1.5.13" => "PBES2 with an algorithm of the past".into(),
            "1.3.101.110" => "X25519".into(),
            "1.3.101.113" => "Ed448".into(),
            "1.3.132.0.34" => "P-384".into(),
            number => number.to_owned(),
        },
    }
}

const P256: &str = "P-256";

/// id-Ed25519 (RFC 8410, section 3).
const ED25519_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// id-ecPublicKey (RFC 5480, section 2.1.1).
const EC_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// secp256r1 (RFC 5480, section 2.1.1.1).
const P256_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
