//! Key, passphrase and identity as credentials of a worker's unit (systemd.exec(5), "Credentials").
//!
//! systemd reads each as root, decrypts it where it was encrypted for this machine or its TPM, and
//! keeps it in memory for the life of the unit. The launcher opens what it finds there and hands the
//! descriptor to the worker, as it does with any key file; it reads none of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A file that systemd reads as root, for one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// What it is to the worker.
    pub name: CredentialName,
    /// Where systemd finds it. Absolute.
    pub source: PathBuf,
    /// Whether systemd decrypts it on the way.
    pub encryption: CredentialEncryption,
}

/// What a credential is to a worker, by its name in `$CREDENTIALS_DIRECTORY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialName {
    /// `evanesce.key`: a key file of any format.
    Key,
    /// `evanesce.passphrase`: what opens it.
    Passphrase,
    /// `evanesce.identity`: what opens it.
    Identity,
}

/// How a credential lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialEncryption {
    /// As it is (`LoadCredential=`).
    None,
    /// By `systemd-creds encrypt`, for this machine or its TPM (`LoadCredentialEncrypted=`).
    SystemdCreds,
}

impl Credential {
    /// The same, of a file that `systemd-creds encrypt` made.
    #[must_use]
    pub fn encrypted(self) -> Self {
        Self { encryption: CredentialEncryption::SystemdCreds, ..self }
    }
}

impl CredentialName {
    const ALL: [Self; 3] = [Self::Key, Self::Passphrase, Self::Identity];

    /// The name, as systemd has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "evanesce.key",
            Self::Passphrase => "evanesce.passphrase",
            Self::Identity => "evanesce.identity",
        }
    }
}

impl fmt::Display for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Credential {
    type Err = ParseCredentialError;

    /// Reads `NAME:FILE`, as `LoadCredential=` has it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, source) = text.split_once(':').ok_or(ParseCredentialError::NoName)?;
        let name = CredentialName::ALL.into_iter().find(|known| known.as_str() == name);
        let name = name.ok_or(ParseCredentialError::NoName)?;
        let source = PathBuf::from(source);
        match source.is_absolute() {
            true => Ok(Self { name, source, encryption: CredentialEncryption::None }),
            false => Err(ParseCredentialError::NotAbsolute),
        }
    }
}

/// Where a unit's credentials are while it runs.
pub(crate) fn directory(unit: &str) -> PathBuf {
    Path::new("/run/credentials").join(unit)
}

/// A text that is no credential of a worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseCredentialError {
    /// It does not start with a known name and a colon.
    #[error(
        "a credential is evanesce.key, evanesce.passphrase or evanesce.identity, `:` and a file"
    )]
    NoName,
    /// systemd would look for it in directories of its own.
    #[error("a credential's file has to start with `/`")]
    NotAbsolute,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_known_name_and_an_absolute_file() {
        let read: Credential = "evanesce.key:/etc/keys/a:b".parse().unwrap();

        assert_eq!((read.name, read.source), (CredentialName::Key, "/etc/keys/a:b".into()));
        for (text, error) in [
            ("", ParseCredentialError::NoName),
            ("evanesce.key", ParseCredentialError::NoName),
            ("key:/etc/key", ParseCredentialError::NoName),
            ("evanesce.passphrase:", ParseCredentialError::NotAbsolute),
            ("evanesce.identity:etc/id", ParseCredentialError::NotAbsolute),
        ] {
            assert_eq!(text.parse::<Credential>(), Err(error), "{text}");
        }
    }
}
