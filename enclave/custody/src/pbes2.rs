//! PKCS#8 under a passphrase: PBES2 (RFC 8018) with PBKDF2 or scrypt and AES in CBC, as OpenSSL
//! writes it.

use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt as _, KeyInit, KeyIvInit as _};
use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::custody;
use pbkdf2::pbkdf2_hmac;
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{self, Decode as _, Reader as _, SliceReader};
use pkcs8::pkcs5::EncryptionScheme as Scheme;
use pkcs8::pkcs5::pbes2::{EncryptionScheme, Kdf, Parameters, Pbkdf2Prf, ScryptParams};
use pkcs8::spki::AlgorithmIdentifierRef;
use sha2::{Sha224, Sha256, Sha384, Sha512};

use crate::work::{Scrypt, Work};
use crate::{Ed25519Seed, pem, pkcs8 as clear};

/// The label of a key under a passphrase.
pub(crate) const LABEL: &str = "ENCRYPTED PRIVATE KEY";

/// Reads an Ed25519 private key from encrypted PKCS#8 PEM.
///
/// # Errors
///
/// [`KeyFormatError`], a passphrase that does not open it included.
pub fn encrypted_ed25519_seed<'s>(
    text: &[u8],
    scratch: &'s mut [u8],
    passphrase: &[u8],
    work: &mut Work<'_>,
) -> Result<Ed25519Seed<'s>, KeyFormatError> {
    let der = pem::decode_labelled(text, LABEL, scratch)?;
    let (parameters, place) = parse(der)?;
    let mut key = [0; KEY_BYTES];
    let key = &mut key[..parameters.encryption.key_size()];
    derive(&parameters.kdf, passphrase, key, work)?;
    let plain = decrypt(&parameters.encryption, key, &mut der[place])?;
    // Whatever a wrong key decrypts to is no structure, but by accident.
    match clear::ed25519_of_der(plain) {
        Err(KeyFormatError::NotPkcs8) => Err(KeyFormatError::WrongPassphrase),
        read => read,
    }
}

/// What the passphrase of such a file costs.
pub(crate) fn inspect(der: &[u8]) -> Result<custody::Kdf, KeyFormatError> {
    let (parameters, _) = parse(der)?;
    Ok(match &parameters.kdf {
        Kdf::Pbkdf2(pbkdf2) => custody::Kdf::Pbkdf2 { iterations: pbkdf2.iteration_count },
        Kdf::Scrypt(scrypt) => cost(scrypt)?.kdf(),
        _ => return Err(unknown("a key derivation that is not known")),
    })
}

/// How it is encrypted, and where in `der` what is encrypted lies.
fn parse(der: &[u8]) -> Result<(Parameters, std::ops::Range<usize>), KeyFormatError> {
    let info = EncryptedPrivateKeyInfoRef::try_from(der).map_err(|_| match outer(der) {
        Ok(algorithm) => unknown(&clear::algorithm_name(algorithm.oid)),
        Err(_) => KeyFormatError::NotPkcs8,
    })?;
    let Scheme::Pbes2(parameters) = &info.encryption_algorithm else {
        return Err(unknown("PBES1"));
    };
    let data = info.encrypted_data.as_bytes();
    let start = data.as_ptr().addr() - der.as_ptr().addr();
    Ok((parameters.clone(), start..start + data.len()))
}

/// The frame of the structure, whatever the algorithm.
fn outer(der: &[u8]) -> der::Result<AlgorithmIdentifierRef<'_>> {
    SliceReader::new(der)?.sequence(|frame| {
        let algorithm = AlgorithmIdentifierRef::decode(frame)?;
        <&OctetStringRef>::decode(frame)?;
        Ok(algorithm)
    })
}

fn derive(
    kdf: &Kdf,
    passphrase: &[u8],
    key: &mut [u8],
    work: &mut Work<'_>,
) -> Result<(), KeyFormatError> {
    if kdf.key_length().is_some_and(|length| usize::from(length) != key.len()) {
        return Err(KeyFormatError::NotPkcs8);
    }
    match kdf {
        Kdf::Pbkdf2(pbkdf2) => {
            let (salt, count) = (pbkdf2.salt.as_ref(), pbkdf2.iteration_count);
            work.admit_pbkdf2(count)?;
            match pbkdf2.prf {
                Pbkdf2Prf::HmacWithSha224 => pbkdf2_hmac::<Sha224>(passphrase, salt, count, key),
                Pbkdf2Prf::HmacWithSha256 => pbkdf2_hmac::<Sha256>(passphrase, salt, count, key),
                Pbkdf2Prf::HmacWithSha384 => pbkdf2_hmac::<Sha384>(passphrase, salt, count, key),
                Pbkdf2Prf::HmacWithSha512 => pbkdf2_hmac::<Sha512>(passphrase, salt, count, key),
                _ => return Err(unknown("PBKDF2 with HMAC-SHA-1")),
            }
            Ok(())
        }
        Kdf::Scrypt(scrypt) => work.scrypt(cost(scrypt)?, passphrase, scrypt.salt.as_ref(), key),
        _ => Err(unknown("a key derivation that is not known")),
    }
}

fn cost(scrypt: &ScryptParams) -> Result<Scrypt, KeyFormatError> {
    let n = scrypt.cost_parameter;
    if !n.is_power_of_two() {
        return Err(unknown("scrypt of no valid cost"));
    }
    Ok(Scrypt {
        log_n: u8::try_from(n.trailing_zeros()).expect("below 64"),
        r: scrypt.block_size.into(),
        p: scrypt.parallelization.into(),
    })
}

fn decrypt<'d>(
    scheme: &EncryptionScheme,
    key: &[u8],
    data: &'d mut [u8],
) -> Result<&'d [u8], KeyFormatError> {
    match scheme {
        EncryptionScheme::Aes128Cbc { iv } => decrypt_cbc::<aes::Aes128Dec>(key, iv, data),
        EncryptionScheme::Aes192Cbc { iv } => decrypt_cbc::<aes::Aes192Dec>(key, iv, data),
        EncryptionScheme::Aes256Cbc { iv } => decrypt_cbc::<aes::Aes256Dec>(key, iv, data),
        _ => Err(unknown("AES in another mode than CBC")),
    }
}

fn decrypt_cbc<'d, C: BlockCipherDecrypt + KeyInit>(
    key: &[u8],
    iv: &[u8],
    data: &'d mut [u8],
) -> Result<&'d [u8], KeyFormatError> {
    cbc::Decryptor::<C>::new_from_slices(key, iv)
        .map_err(|_| KeyFormatError::NotPkcs8)?
        .decrypt_padded::<Pkcs7>(data)
        .map_err(|_| KeyFormatError::WrongPassphrase)
}

fn unknown(found: &str) -> KeyFormatError {
    KeyFormatError::Encryption { found: found.into() }
}

/// Bytes in the longest key of AES.
const KEY_BYTES: usize = 32;
