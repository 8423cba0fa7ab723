//! Key files, as launcher and worker speak of them: formats, what holds them shut, whom they are
//! sealed to. Nothing here is secret.

use std::fmt;
use std::str::FromStr;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use serde::{Deserialize, Serialize};

use crate::evidence::ReleaseKey;
use crate::ids::{KeyOrigin, PublicKey};
use crate::release::ReleaseContext;

/// How a key file is written. Recognised by its content, never by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum KeyFileFormat {
    /// PKCS#8 PEM in the clear (RFC 5958, RFC 8410).
    Pkcs8,
    /// PKCS#8 PEM under a passphrase, PBES2 (RFC 8018).
    EncryptedPkcs8,
    /// OpenSSH's own format in the clear (`PROTOCOL.key` of OpenSSH).
    Openssh,
    /// The same under a passphrase.
    EncryptedOpenssh,
    /// age (C2SP `age.md`), binary or armoured.
    Age,
}

impl KeyFileFormat {
    /// What a receipt says of a key from such a file.
    pub const fn origin(self) -> KeyOrigin {
        match self {
            Self::Pkcs8 | Self::Openssh => KeyOrigin::PlaintextFile,
            Self::EncryptedPkcs8 | Self::EncryptedOpenssh | Self::Age => KeyOrigin::SealedFile,
        }
    }
}

impl fmt::Display for KeyFileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pkcs8 => "PKCS#8, in the clear",
            Self::EncryptedPkcs8 => "PKCS#8, under a passphrase",
            Self::Openssh => "OpenSSH, in the clear",
            Self::EncryptedOpenssh => "OpenSSH, under a passphrase",
            Self::Age => "age",
        })
    }
}

/// What opens a key file that is not in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lock {
    /// A passphrase.
    Passphrase,
    /// The identity of one of its recipients.
    Identity,
}

/// How a passphrase becomes a key, and what that costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kdf {
    /// scrypt (RFC 7914).
    Scrypt {
        /// `N` is two to the power of this.
        log_n: u8,
        /// Bytes of scratch memory that it takes.
        memory_bytes: u64,
    },
    /// PBKDF2 (RFC 8018).
    Pbkdf2 {
        /// How often the hash is applied.
        iterations: u32,
    },
    /// `bcrypt_pbkdf` of OpenSSH.
    Bcrypt {
        /// How often the hash is applied.
        rounds: u32,
    },
}

/// What a key file says of itself without being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFileInfo {
    /// How it is written.
    pub format: KeyFileFormat,
    /// What opens it; `None` where it is in the clear.
    pub lock: Option<Lock>,
    /// The public half that it names in the clear. Not checked against anything.
    pub public_key: Option<PublicKey>,
    /// X25519 recipients that an age file is sealed to.
    pub recipients: u32,
    /// What opening it with its passphrase costs.
    pub kdf: Option<Kdf>,
}

/// To whom a key is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seal {
    /// To whoever knows the passphrase.
    Passphrase {
        /// scrypt's `N` is two to the power of this.
        log_n: u8,
    },
    /// To the holders of these identities; at most [`crate::limits::RECIPIENTS_MAX`].
    Recipients(Vec<Recipient>),
    /// To one worker of another machine, once (HPKE, RFC 9180).
    Release {
        /// The release key that it offered, which was appraised.
        to: ReleaseKey,
        /// What it is sealed under.
        context: ReleaseContext,
    },
}

/// An X25519 recipient of age: `age1` and 58 characters (Bech32, BIP 173).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Recipient([u8; Self::BYTES]);

impl Recipient {
    /// Bytes in the point (RFC 7748, section 6.1).
    pub const BYTES: usize = 32;

    const PREFIX: Hrp = Hrp::parse_unchecked("age");

    /// Takes the encoded point.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The encoded point.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl FromStr for Recipient {
    type Err = ParseRecipientError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let checked = CheckedHrpstring::new::<Bech32>(text).map_err(|_| ParseRecipientError)?;
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let mut bytes = [0; Self::BYTES];
        let mut found = checked.byte_iter();
        for byte in &mut bytes {
            *byte = found.next().ok_or(ParseRecipientError)?;
        }
        match checked.hrp() == Self::PREFIX && is_lower && found.next().is_none() {
            true => Ok(Self(bytes)),
            false => Err(ParseRecipientError),
        }
    }
}

impl TryFrom<String> for Recipient {
    type Error = ParseRecipientError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.to_string()
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_lower_to_fmt::<Bech32, _>(f, Self::PREFIX, &self.0).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a native recipient of age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an X25519 recipient of age: expected `age1` and 58 characters, as age-keygen prints it"
)]
pub struct ParseRecipientError;

#[cfg(test)]
mod tests {
    use super::*;

    /// As age-keygen printed it.
    const RECIPIENT: &str = "age1mmt6p4s6g8mnd2wmcxty5wzyvx499pp9ssdungwh3ev9jf2amecqlqju4p";

    #[test]
    fn a_recipient_is_read_back_from_what_it_prints() {
        let recipient: Recipient = RECIPIENT.parse().unwrap();

        assert_eq!(recipient.to_string(), RECIPIENT);
    }

    #[test]
    fn what_is_no_recipient_is_refused() {
        let mistyped = RECIPIENT.replacen('q', "z", 1);
        let upper = RECIPIENT.to_uppercase();
        for text in ["", "age1", &mistyped, &upper, &RECIPIENT[..61], "age1pq1qqqq"] {
            assert_eq!(text.parse::<Recipient>(), Err(ParseRecipientError), "{text}");
        }
    }

    #[test]
    fn only_a_file_that_needs_nothing_to_be_read_counts_as_in_the_clear() {
        for (format, origin) in [
            (KeyFileFormat::Pkcs8, KeyOrigin::PlaintextFile),
            (KeyFileFormat::Openssh, KeyOrigin::PlaintextFile),
            (KeyFileFormat::EncryptedPkcs8, KeyOrigin::SealedFile),
            (KeyFileFormat::EncryptedOpenssh, KeyOrigin::SealedFile),
            (KeyFileFormat::Age, KeyOrigin::SealedFile),
        ] {
            assert_eq!(format.origin(), origin, "{format}");
        }
    }
}
