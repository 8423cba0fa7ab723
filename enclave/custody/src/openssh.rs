//! OpenSSH's own format for private keys (`PROTOCOL.key` in its source), in the clear and under a
//! passphrase, as `ssh-keygen` writes it.
//!
//! ```text
//! "openssh-key-v1\0"  string cipher  string kdf  string kdf options  uint32 1  string public key
//! string { uint32 check  uint32 check  string "ssh-ed25519"  string public half
//!          string seed and public half  string comment  padding 1 2 3 … }
//! ```

use std::ops::Range;

use aes::Aes256;
use aes::cipher::{BlockModeDecrypt as _, KeyIvInit as _, StreamCipher as _};
use cbc::cipher::block_padding::NoPadding;
use evanesce_protocol::PublicKey;
use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::custody::Kdf;
use evanesce_protocol::wire::{take_string, take_text};
use ssh_encoding::Decode as _;

use crate::work::Work;
use crate::{ED25519, Ed25519Seed, malformed, pem};

/// The label of such a key.
pub(crate) const LABEL: &str = "OPENSSH PRIVATE KEY";

/// Reads an Ed25519 private key from OpenSSH's format. `passphrase` is `None` for one in the clear.
///
/// # Errors
///
/// [`KeyFormatError`], a passphrase that is missing or does not open it included.
pub fn openssh_ed25519_seed<'s>(
    text: &[u8],
    scratch: &'s mut [u8],
    passphrase: Option<&[u8]>,
    work: &Work<'_>,
) -> Result<Ed25519Seed<'s>, KeyFormatError> {
    let bytes = pem::decode_labelled(text, LABEL, scratch)?;
    let envelope = Envelope::parse(bytes)?;
    let public_key = *envelope.public_key.as_bytes();
    let place = envelope.private.clone();
    match (envelope.protection, passphrase) {
        (None, _) => private_part(&bytes[place], &public_key).ok_or_else(malformed),
        (Some(_), None) => Err(KeyFormatError::Locked { needed: "passphrase".into() }),
        (Some(protection), Some(passphrase)) => {
            let mut key = [0; KEY_BYTES + IV_BYTES];
            work.admit_bcrypt(protection.rounds)?;
            let mut memory = [0; KEY_BYTES + IV_BYTES + 16];
            bcrypt_pbkdf::bcrypt_pbkdf_with_memory(
                passphrase,
                protection.salt,
                protection.rounds,
                &mut key,
                &mut memory,
            )
            .map_err(|_| KeyFormatError::WrongPassphrase)?;
            let cipher = protection.cipher;
            let private = &mut bytes[place];
            cipher.decrypt(&key, private)?;
            private_part(private, &public_key).ok_or(KeyFormatError::WrongPassphrase)
        }
    }
}

/// What such a file says of itself: its public half, and what its passphrase costs.
pub(crate) fn inspect(bytes: &[u8]) -> Result<(PublicKey, Option<Kdf>), KeyFormatError> {
    let envelope = Envelope::parse(bytes)?;
    let rounds = envelope.protection.map(|protection| protection.rounds);
    Ok((envelope.public_key, rounds.map(|rounds| Kdf::Bcrypt { rounds })))
}

/// Everything but what is encrypted.
struct Envelope<'a> {
    protection: Option<Protection<'a>>,
    public_key: PublicKey,
    /// Where the private part lies.
    private: Range<usize>,
}

struct Protection<'a> {
    cipher: Cipher,
    salt: &'a [u8],
    rounds: u32,
}

#[derive(Clone, Copy)]
enum Cipher {
    /// What `ssh-keygen` takes since OpenSSH 7.6.
    Aes256Ctr,
    /// What it took before.
    Aes256Cbc,
}

impl<'a> Envelope<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, KeyFormatError> {
        let cut = |_| KeyFormatError::NotOpenssh;
        let mut input = bytes.strip_prefix(MAGIC).ok_or(KeyFormatError::NotOpenssh)?;
        let cipher = take_text(&mut input).map_err(cut)?;
        let kdf = take_text(&mut input).map_err(cut)?;
        let options = take_string(&mut input).map_err(cut)?;
        let keys = u32::decode(&mut input).map_err(cut)?;
        let public_key = take_string(&mut input).map_err(cut)?;
        let private = take_string(&mut input).map_err(cut)?;
        let start = private.as_ptr().addr() - bytes.as_ptr().addr();
        let envelope = Self {
            // The algorithm first: what it is encrypted with does not matter for another one.
            public_key: public_half(public_key)?,
            protection: protection(cipher, kdf, options)?,
            private: start..start + private.len(),
        };
        match keys == 1 && input.is_empty() {
            true => Ok(envelope),
            false => Err(KeyFormatError::NotOpenssh),
        }
    }
}

fn protection<'a>(
    cipher: &str,
    kdf: &str,
    mut options: &'a [u8],
) -> Result<Option<Protection<'a>>, KeyFormatError> {
    let unknown = |found: &str| {
        let found = found.chars().take(64).collect();
        Err(KeyFormatError::Encryption { found })
    };
    let cipher = match cipher {
        "none" if kdf == "none" && options.is_empty() => return Ok(None),
        "aes256-ctr" => Cipher::Aes256Ctr,
        "aes256-cbc" => Cipher::Aes256Cbc,
        other => return unknown(other),
    };
    if kdf != "bcrypt" {
        return unknown(kdf);
    }
    let cut = |_| KeyFormatError::NotOpenssh;
    let salt = take_string(&mut options).map_err(cut)?;
    let rounds = u32::decode(&mut options).map_err(cut)?;
    match options.is_empty() {
        true => Ok(Some(Protection { cipher, salt, rounds })),
        false => Err(KeyFormatError::NotOpenssh),
    }
}

/// The public half, which stands in the clear (RFC 8709, section 4).
fn public_half(mut blob: &[u8]) -> Result<PublicKey, KeyFormatError> {
    let cut = |_| KeyFormatError::NotOpenssh;
    let algorithm = take_text(&mut blob).map_err(cut)?;
    if algorithm != SSH_ED25519 {
        let found = match algorithm {
            "ssh-rsa" => "RSA",
            "ssh-dss" => "DSA",
            other => other,
        };
        return Err(KeyFormatError::Algorithm {
            expected: ED25519.into(),
            found: found.chars().take(64).collect(),
        });
    }
    let key = take_string(&mut blob).map_err(cut)?;
    match (key.try_into(), blob) {
        (Ok(bytes), []) => Ok(PublicKey::from_bytes(bytes)),
        _ => Err(malformed()),
    }
}

/// The private part in the clear; `None` where it is not one, which is what a wrong key makes of it.
fn private_part<'s>(mut input: &'s [u8], public_key: &[u8; 32]) -> Option<Ed25519Seed<'s>> {
    let check = u32::decode(&mut input).ok()?;
    if u32::decode(&mut input).ok()? != check || take_text(&mut input).ok()? != SSH_ED25519 {
        return None;
    }
    let public_half = take_string(&mut input).ok()?;
    let (seed, again) = take_string(&mut input).ok()?.split_first_chunk()?;
    take_string(&mut input).ok()?;
    let padded = input.iter().zip(1..).all(|(found, wanted): (&u8, u8)| *found == wanted);
    let whole = padded && input.len() < BLOCK_BYTES && public_half == public_key;
    (whole && again == public_half).then_some(Ed25519Seed { seed, public_key: Some(again) })
}

impl Cipher {
    fn decrypt(
        self,
        key: &[u8; KEY_BYTES + IV_BYTES],
        data: &mut [u8],
    ) -> Result<(), KeyFormatError> {
        if !data.len().is_multiple_of(BLOCK_BYTES) {
            return Err(KeyFormatError::NotOpenssh);
        }
        let (key, iv) = key.split_at(KEY_BYTES);
        let impossible = "the lengths are those of the cipher";
        match self {
            Self::Aes256Ctr => {
                let mut stream =
                    ctr::Ctr128BE::<Aes256>::new_from_slices(key, iv).expect(impossible);
                stream.try_apply_keystream(data).map_err(|_| KeyFormatError::NotOpenssh)
            }
            Self::Aes256Cbc => {
                let cipher = cbc::Decryptor::<Aes256>::new_from_slices(key, iv).expect(impossible);
                let done = cipher.decrypt_padded::<NoPadding>(data);
                done.map(drop).map_err(|_| KeyFormatError::NotOpenssh)
            }
        }
    }
}

const MAGIC: &[u8] = b"openssh-key-v1\0";

const SSH_ED25519: &str = "ssh-ed25519";

/// Bytes in a key of AES-256.
const KEY_BYTES: usize = 32;

/// Bytes in a block of AES, and so in its initial vector.
const IV_BYTES: usize = 16;

/// What the private part is padded to: at most a block of its cipher.
const BLOCK_BYTES: usize = 16;
