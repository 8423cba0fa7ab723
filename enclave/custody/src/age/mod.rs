//! Sealed keys: the age file format (C2SP `age.md`), with passphrases and X25519 recipients.
//!
//! The payload of a key is far below one chunk of age's stream, so there is exactly one. Files that
//! this writes are opened by every implementation of age, and the other way round; what they hold
//! is a key in the clear, in PKCS#8 PEM where it was sealed here.

mod header;
mod identity;
mod seal;

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};
use curve25519_dalek::MontgomeryPoint;
use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::custody::{Kdf, Lock};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::Secret;
use crate::work::{Scrypt, Work};

use header::{Header, Recipe};
pub use identity::check as check_identities;
pub use seal::{SEAL_ENTROPY_BYTES, SEAL_ROOM_BYTES, seal};

/// The label of an armoured file.
pub(crate) const LABEL: &str = "AGE ENCRYPTED FILE";

/// How every binary file begins.
pub(crate) const MAGIC: &[u8] = b"age-encryption.org/";

/// What an age file says of itself.
pub(crate) struct Facts {
    pub(crate) lock: Lock,
    pub(crate) recipients: u32,
    pub(crate) kdf: Option<Kdf>,
}

pub(crate) fn inspect(file: &[u8]) -> Result<Facts, KeyFormatError> {
    let header = Header::parse(file)?;
    match header.work_factor() {
        Some(log_n) => {
            let kdf = Some(Scrypt::of_age(log_n).kdf());
            Ok(Facts { lock: Lock::Passphrase, recipients: 0, kdf })
        }
        None => {
            let native = |recipe: &Recipe| matches!(recipe, Recipe::X25519 { .. });
            let recipients = header.recipes().filter(native).count();
            let recipients = u32::try_from(recipients).expect("bounded by the file's length");
            Ok(Facts { lock: Lock::Identity, recipients, kdf: None })
        }
    }
}

/// Opens a binary age file in place and gives what it holds.
pub(crate) fn open<'f>(
    file: &'f mut [u8],
    secret: Secret<'_>,
    work: &mut Work<'_>,
) -> Result<&'f [u8], KeyFormatError> {
    let header = Header::parse(file)?;
    let key = file_key(&header, secret, work)?;
    header.verify(&key)?;
    let payload = header.payload.clone();
    let (nonce, chunk) =
        file[payload].split_at_mut_checked(NONCE_BYTES).ok_or(KeyFormatError::NotAge)?;
    let payload_key = derive(Some(nonce), &key.0, b"payload");
    let length = chunk.len().checked_sub(TAG_BYTES).ok_or(KeyFormatError::NotAge)?;
    let (plain, tag) = chunk.split_at_mut(length);
    let tag = Tag::try_from(&*tag).expect("as long as a tag is");
    cipher(&payload_key)
        .decrypt_inout_detached(&Nonce::from(LAST_CHUNK), b"", plain.into(), &tag)
        .map_err(|_| KeyFormatError::NotAge)?;
    Ok(plain)
}

/// Finds the file key that one of the recipes holds for `secret`.
fn file_key(
    header: &Header<'_>,
    secret: Secret<'_>,
    work: &mut Work<'_>,
) -> Result<FileKey, KeyFormatError> {
    let locked = |needed: &str| Err(KeyFormatError::Locked { needed: needed.into() });
    let needs_passphrase = header.work_factor().is_some();
    match (secret, needs_passphrase) {
        (Secret::Passphrase(passphrase), true) => {
            let mut recipes = header.recipes();
            let Some(Recipe::Scrypt { salt, log_n, wrapped }) = recipes.next() else {
                return Err(KeyFormatError::NotAge);
            };
            let key = scrypt_key(passphrase, &salt, log_n, work)?;
            unwrap(&key, &wrapped).ok_or(KeyFormatError::WrongPassphrase)
        }
        (Secret::Identities(text), false) => {
            for identity in identity::all(text)? {
                let identity = identity?;
                let recipient = MontgomeryPoint::mul_base_clamped(identity.0);
                for recipe in header.recipes() {
                    if let Recipe::X25519 { share, wrapped } = recipe
                        && let Some(key) = shared_key(&identity.0, &share, &share, &recipient.0)
                        && let Some(file_key) = unwrap(&key, &wrapped)
                    {
                        return Ok(file_key);
                    }
                }
            }
            Err(KeyFormatError::WrongIdentity)
        }
        (_, true) => locked("passphrase"),
        (_, false) => locked("identity"),
    }
}

/// What everything in the file is derived from.
struct FileKey([u8; FILE_KEY_BYTES]);

fn scrypt_key(
    passphrase: &[u8],
    salt: &[u8; SALT_BYTES],
    log_n: u8,
    work: &mut Work<'_>,
) -> Result<[u8; 32], KeyFormatError> {
    let mut labelled = [0; SCRYPT_LABEL.len() + SALT_BYTES];
    labelled[..SCRYPT_LABEL.len()].copy_from_slice(SCRYPT_LABEL);
    labelled[SCRYPT_LABEL.len()..].copy_from_slice(salt);
    let mut key = [0; 32];
    work.scrypt(Scrypt::of_age(log_n), passphrase, &labelled, &mut key)?;
    Ok(key)
}

/// The wrapping key between a secret scalar and a point (RFC 7748); `None` for a point of low
/// order.
fn shared_key(
    scalar: &[u8; 32],
    point: &[u8; 32],
    share: &[u8; 32],
    recipient: &[u8; 32],
) -> Option<[u8; 32]> {
    let shared = MontgomeryPoint(*point).mul_clamped(*scalar);
    if shared.0 == [0; 32] {
        return None;
    }
    let mut salt = [0; 64];
    salt[..32].copy_from_slice(share);
    salt[32..].copy_from_slice(recipient);
    Some(derive(Some(&salt), &shared.0, X25519_LABEL))
}

fn unwrap(key: &[u8; 32], wrapped: &[u8; WRAPPED_BYTES]) -> Option<FileKey> {
    let (body, tag) = wrapped.split_at(FILE_KEY_BYTES);
    let mut file_key = FileKey(body.try_into().expect("as long as a file key is"));
    let tag = Tag::try_from(tag).expect("as long as a tag is");
    let nonce = Nonce::from([0; 12]);
    cipher(key).decrypt_inout_detached(&nonce, b"", file_key.0.as_mut_slice().into(), &tag).ok()?;
    Some(file_key)
}

fn wrap(key: &[u8; 32], file_key: &FileKey) -> [u8; WRAPPED_BYTES] {
    let mut wrapped = [0; WRAPPED_BYTES];
    let (body, tag) = wrapped.split_at_mut(FILE_KEY_BYTES);
    body.copy_from_slice(&file_key.0);
    tag.copy_from_slice(&encrypt(key, &Nonce::from([0; 12]), body));
    wrapped
}

/// Encrypts in place and gives the tag.
fn encrypt(key: &[u8; 32], nonce: &Nonce, bytes: &mut [u8]) -> Tag {
    let encrypted = cipher(key).encrypt_inout_detached(nonce, b"", bytes.into());
    encrypted.expect("a key is shorter than what may be encrypted at once")
}

fn cipher(key: &[u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&Key::from(*key))
}

/// HKDF with SHA-256 (RFC 5869).
fn derive(salt: Option<&[u8]>, secret: &[u8], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(salt, secret).expand(info, &mut key).expect("32 bytes can be derived");
    key
}

/// The code that keeps a header from being changed.
fn header_mac(key: &FileKey) -> Hmac<Sha256> {
    let key = derive(None, &key.0, b"header");
    Hmac::new_from_slice(&key).expect("HMAC takes keys of any length")
}

impl Header<'_> {
    fn verify(&self, key: &FileKey) -> Result<(), KeyFormatError> {
        let mut mac = header_mac(key);
        mac.update(self.authenticated);
        mac.verify_slice(&self.mac).map_err(|_| KeyFormatError::NotAge)
    }
}

const FILE_KEY_BYTES: usize = 16;

/// Bytes in a file key and its tag.
const WRAPPED_BYTES: usize = FILE_KEY_BYTES + TAG_BYTES;

/// Bytes in a tag of Poly1305.
const TAG_BYTES: usize = 16;

/// Bytes in scrypt's salt.
const SALT_BYTES: usize = 16;

/// Bytes in the payload's nonce.
const NONCE_BYTES: usize = 16;

/// The nonce of a stream's first chunk that is its last as well.
const LAST_CHUNK: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const SCRYPT_LABEL: &[u8] = b"age-encryption.org/v1/scrypt";

const X25519_LABEL: &[u8] = b"age-encryption.org/v1/X25519";
