//! Where a key comes from: from the bytes of a key file to a key, in the memory the caller gives.
//!
//! Start at [`open`] for a workload's key, at [`inspect`] for what a file says without being
//! opened, at [`seal`] for the way back, at [`seal_to_release`] and [`open_release`] for a key that
//! goes from one machine to another, and at [`p256_key`] for the notary's key.
//!
//! | format | recognised by | entry point of its own |
//! |---|---|---|
//! | PKCS#8 PEM | `PRIVATE KEY` | [`ed25519_seed`] |
//! | the same under a passphrase | `ENCRYPTED PRIVATE KEY` | [`encrypted_ed25519_seed`] |
//! | OpenSSH, in the clear or under a passphrase | `OPENSSH PRIVATE KEY` | [`openssh_ed25519_seed`] |
//! | age, armoured or binary | `AGE ENCRYPTED FILE`, or `age-encryption.org/` | [`age_ed25519_seed`] |
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | no byte of a key, a passphrase or an identity outside of the buffers, the stack of the call and the scratch of a [`Workroom`] | decoding borrows and decrypts in place; nothing but scrypt allocates | `tests/no_heap.rs` |
//! | no input panics, and no error repeats a byte of the file | every failure is mapped to a [`KeyFormatError`] by kind | property tests below, `tests/every_prefix.rs` |
//! | what was sealed once opens for ever | frozen files | `tests/frozen.rs` |
//! | no file makes the caller work or allocate without end | [`Work`], and the limits of the protocol | `tests/bounds.rs` |
//! | what was sealed to one worker opens in that worker, for that session and key alone | HPKE; the context is authenticated | `release.rs` |
//!
//! The caller owns the rest: it calls on a guarded stack, with guarded buffers (and a guarded heap
//! for [`p256_key`], which allocates), and wipes all of them.
//!
//! # Invariant
//!
//! No I/O, no logging, no clock, no randomness. No cryptography of its own: formats are put
//! together from the primitives that they name.

#![forbid(unsafe_code)]

mod age;
mod openssh;
mod pbes2;
mod pem;
mod pkcs8;
mod release;
mod work;

use evanesce_protocol::PublicKey;
use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::custody::{KeyFileFormat, KeyFileInfo, Lock};
use evanesce_protocol::limits::{KEY_FILE_BYTES_MAX, SEALED_TEXT_BYTES_MAX};

pub use age::{SEAL_ENTROPY_BYTES, SEAL_ROOM_BYTES, check_identities, seal};
pub use openssh::openssh_ed25519_seed;
pub use pbes2::encrypted_ed25519_seed;
pub use pkcs8::{ed25519_seed, p256_key};
pub use release::{RELEASE_SECRET_BYTES, open_release, release_key, seal_to_release};
pub use work::{OrdinaryHeap, Work, Workroom};

/// Bytes in an Ed25519 seed (RFC 8032, section 5.1.5).
pub const SEED_BYTES: usize = 32;

/// Bytes of scratch that is enough for every key file: as long as the longest, and what an age
/// file holds.
pub const SCRATCH_BYTES: usize = KEY_FILE_BYTES_MAX + SEALED_TEXT_BYTES_MAX;

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

    /// Checks the public half that the file may name (RFC 5958's `publicKey`, and OpenSSH's format
    /// always) against the one that was derived from the seed.
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

/// What opens a key file.
#[derive(Clone, Copy)]
pub enum Secret<'a> {
    /// Nothing: enough for a file in the clear.
    None,
    /// A passphrase.
    Passphrase(&'a [u8]),
    /// The text of a file of age identities.
    Identities(&'a [u8]),
}

impl std::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Passphrase(_) => "Passphrase(..)",
            Self::Identities(_) => "Identities(..)",
        })
    }
}

/// Recognises a key file by its content.
///
/// # Errors
///
/// [`KeyFormatError`] for a file that is none: empty, too long, not PEM, or PEM of something else.
pub fn recognise(text: &[u8]) -> Result<Recognised, KeyFormatError> {
    check_length(text)?;
    if text.starts_with(age::MAGIC) {
        return Ok(Recognised::Age { armoured: false });
    }
    match pem::label(text)? {
        pkcs8::LABEL => Ok(Recognised::Pkcs8),
        pbes2::LABEL => Ok(Recognised::EncryptedPkcs8),
        openssh::LABEL => Ok(Recognised::Openssh),
        age::LABEL => Ok(Recognised::Age { armoured: true }),
        found => Err(pem::other(found)),
    }
}

/// What a key file looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// `PRIVATE KEY`.
    Pkcs8,
    /// `ENCRYPTED PRIVATE KEY`.
    EncryptedPkcs8,
    /// `OPENSSH PRIVATE KEY`.
    Openssh,
    /// An age file.
    Age {
        /// In PEM armour, not binary.
        armoured: bool,
    },
}

/// What a key file says without being opened. Nothing of it is authenticated.
///
/// `scratch` has at least [`SCRATCH_BYTES`].
///
/// # Errors
///
/// [`KeyFormatError`] for a file that is no key file, or of a key of another algorithm where that
/// can be seen.
pub fn inspect(text: &[u8], scratch: &mut [u8]) -> Result<KeyFileInfo, KeyFormatError> {
    let info = |format, lock, public_key, kdf| KeyFileInfo {
        format,
        lock,
        public_key,
        recipients: 0,
        kdf,
    };
    match recognise(text)? {
        Recognised::Pkcs8 => {
            let key = ed25519_seed(text, scratch)?;
            let named = key.public_key.and_then(|bytes| bytes.try_into().ok());
            let public_key = named.map(PublicKey::from_bytes);
            Ok(info(KeyFileFormat::Pkcs8, None, public_key, None))
        }
        Recognised::EncryptedPkcs8 => {
            let kdf = pbes2::inspect(pem::decode(text, scratch)?)?;
            Ok(info(KeyFileFormat::EncryptedPkcs8, Some(Lock::Passphrase), None, Some(kdf)))
        }
        Recognised::Openssh => {
            let (public_key, kdf) = openssh::inspect(pem::decode(text, scratch)?)?;
            let (format, lock) = match kdf {
                Some(_) => (KeyFileFormat::EncryptedOpenssh, Some(Lock::Passphrase)),
                None => (KeyFileFormat::Openssh, None),
            };
            Ok(info(format, lock, Some(public_key), kdf))
        }
        Recognised::Age { armoured } => {
            let facts = age::inspect(binary_age(text, armoured, scratch)?)?;
            let base = info(KeyFileFormat::Age, Some(facts.lock), None, facts.kdf);
            Ok(KeyFileInfo { recipients: facts.recipients, ..base })
        }
    }
}

/// Reads an Ed25519 private key from a key file of any format.
///
/// `scratch` has at least [`SCRATCH_BYTES`] and receives everything in the clear.
///
/// # Errors
///
/// [`KeyFormatError`], which names the format found and never a byte of the key.
pub fn open<'s>(
    text: &[u8],
    scratch: &'s mut [u8],
    secret: Secret<'_>,
    work: &mut Work<'_>,
) -> Result<Ed25519Seed<'s>, KeyFormatError> {
    let passphrase = match secret {
        Secret::Passphrase(passphrase) => Some(passphrase),
        Secret::None | Secret::Identities(_) => None,
    };
    match recognise(text)? {
        Recognised::Pkcs8 => ed25519_seed(text, scratch),
        Recognised::EncryptedPkcs8 => match passphrase {
            Some(passphrase) => encrypted_ed25519_seed(text, scratch, passphrase, work),
            None => Err(KeyFormatError::Locked { needed: "passphrase".into() }),
        },
        Recognised::Openssh => openssh_ed25519_seed(text, scratch, passphrase, work),
        Recognised::Age { .. } => age_ed25519_seed(text, scratch, secret, work),
    }
}

/// Reads an Ed25519 private key from an age file that holds one in the clear, in PKCS#8 PEM or
/// OpenSSH's format.
///
/// # Errors
///
/// As [`open`].
pub fn age_ed25519_seed<'s>(
    text: &[u8],
    scratch: &'s mut [u8],
    secret: Secret<'_>,
    work: &mut Work<'_>,
) -> Result<Ed25519Seed<'s>, KeyFormatError> {
    let armoured = recognise(text)? == Recognised::Age { armoured: true };
    if !armoured && recognise(text)? != (Recognised::Age { armoured: false }) {
        return Err(KeyFormatError::NotAge);
    }
    let file_bytes = binary_age(text, armoured, scratch)?.len();
    let (file, rest) = scratch.split_at_mut(file_bytes);
    let plain = age::open(file, secret, work)?;
    if plain.len() > SEALED_TEXT_BYTES_MAX || plain.len() > rest.len() {
        return Err(KeyFormatError::SealedSomethingElse);
    }
    // What is inside is in the clear: sealing twice would only hide what the first seal is worth.
    match recognise(plain) {
        Ok(Recognised::Pkcs8) => ed25519_seed(plain, rest),
        Ok(Recognised::Openssh) => openssh_ed25519_seed(plain, rest, None, work),
        _ => Err(KeyFormatError::SealedSomethingElse),
    }
}

/// Brings an age file to the front of `scratch`, without its armour.
fn binary_age<'s>(
    text: &[u8],
    armoured: bool,
    scratch: &'s mut [u8],
) -> Result<&'s mut [u8], KeyFormatError> {
    if armoured {
        return pem::decode(text, scratch);
    }
    let file = scratch.get_mut(..text.len()).ok_or(KeyFormatError::NotAge)?;
    file.copy_from_slice(text);
    Ok(file)
}

fn check_length(text: &[u8]) -> Result<(), KeyFormatError> {
    if text.is_empty() {
        return Err(KeyFormatError::Empty);
    }
    if text.len() > KEY_FILE_BYTES_MAX {
        let limit_bytes = u64::try_from(KEY_FILE_BYTES_MAX).expect("16 KiB fit 64 bits");
        return Err(KeyFormatError::TooLong { limit_bytes });
    }
    Ok(())
}

fn malformed() -> KeyFormatError {
    KeyFormatError::Malformed { expected: ED25519.into() }
}

const ED25519: &str = "Ed25519";

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
        let label = RFC8410.replace("PRIVATE KEY", "CERTIFICATE");
        assert_eq!(read(&label), Err(KeyFormatError::Label { found: "CERTIFICATE".into() }));
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
