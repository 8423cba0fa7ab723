//! Canaries in files, marked so that no other key is ever read as one.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding as _};
use sha2::{Digest as _, Sha256};

use crate::canary::{Canary, PKCS8_PREFIX};

impl Canary {
    /// The canary as a key file: a line that marks it, which PEM allows before the key (RFC 7468,
    /// section 2), and the key as [`Canary::to_pkcs8_pem`]. Whatever reads PEM reads it.
    ///
    /// The mark is `evanesce-canary 1 sha256:` and the SHA-256, in lower-case hexadecimal, of
    /// `evanesce canary v1`, one zero byte and the public key: it fits no other key.
    pub fn to_file(&self) -> String {
        format!("{MARK}{}\n{ADVICE}{}", hex::encode(self.mark()), self.to_pkcs8_pem())
    }

    /// Reads what [`Canary::to_file`] wrote.
    ///
    /// Of a file that is not marked no more is read than the length of a mark, and nothing where
    /// its size is not that of a canary's file: a real key that is named by mistake does not come
    /// into this process.
    ///
    /// # Errors
    ///
    /// [`CanaryFileError`].
    pub fn read_file(path: &Path) -> Result<Self, CanaryFileError> {
        let failed = |source| CanaryFileError::Read { path: path.to_owned(), source };
        let not_one = || CanaryFileError::NotOne { path: path.to_owned() };
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() || metadata.len() != FILE_BYTES {
            return Err(not_one());
        }
        let mut file = File::open(path).map_err(failed)?;
        let mut mark = [0; MARK.len()];
        file.read_exact(&mut mark).map_err(failed)?;
        if mark != MARK.as_bytes() {
            return Err(not_one());
        }
        let mut rest = Vec::new();
        file.take(FILE_BYTES).read_to_end(&mut rest).map_err(failed)?;
        str::from_utf8(&rest).ok().and_then(Self::parse).ok_or_else(not_one)
    }

    /// Reads what follows [`MARK`].
    fn parse(rest: &str) -> Option<Self> {
        let (_, key) = rest.split_once("-----BEGIN PRIVATE KEY-----\n")?;
        let (key, _) = key.split_once("\n-----END PRIVATE KEY-----\n")?;
        let der = Base64::decode_vec(key).ok()?;
        let seed = der.strip_prefix(&PKCS8_PREFIX)?.try_into().ok()?;
        let canary = Self::from_seed(seed);
        (format!("{MARK}{rest}") == canary.to_file()).then_some(canary)
    }

    fn mark(&self) -> [u8; 32] {
        Sha256::new_with_prefix(b"evanesce canary v1\0")
            .chain_update(self.public_key())
            .finalize()
            .into()
    }
}

/// Why a file is not taken for a canary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CanaryFileError {
    /// It cannot be read.
    #[error("the canary {} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is not marked, or its mark is another key's.
    #[error("{} is not marked as a canary", path.display())]
    NotOne {
        /// The file.
        path: PathBuf,
    },
}

impl CanaryFileError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "canary.read",
            Self::NotOne { .. } => "canary.not-one",
        }
    }
}

/// How a canary's file begins; the digest follows.
const MARK: &str = "evanesce-canary 1 sha256:";

/// For whoever opens the file.
const ADVICE: &str = "This key is made for being searched for. Trust nothing that it signs.\n\n";

/// Bytes in a canary's file: they all have the same length.
const FILE_BYTES: u64 = (MARK.len() + 65 + ADVICE.len() + 119) as u64;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(contents: &str) -> Result<Canary, CanaryFileError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), contents).unwrap();
        Canary::read_file(file.path())
    }

    #[test]
    fn a_canary_is_read_back() {
        let canary = Canary::random().unwrap();

        assert_eq!(read(&canary.to_file()).unwrap(), canary);
        assert_eq!(canary.to_file().len() as u64, FILE_BYTES);
    }

    #[test]
    fn a_key_without_the_mark_or_with_that_of_another_is_refused() {
        let (canary, other) = (Canary::random().unwrap(), Canary::random().unwrap());
        let swapped = canary.to_file().replace(&canary.to_pkcs8_pem(), &other.to_pkcs8_pem());
        let padded = format!("{:<1$}", other.to_pkcs8_pem(), canary.to_file().len());

        for contents in [String::new(), other.to_pkcs8_pem(), padded, swapped] {
            assert_eq!(read(&contents).unwrap_err().code(), "canary.not-one", "{contents}");
        }
    }

    #[test]
    fn a_file_that_is_cut_off_or_changed_anywhere_is_refused() {
        let text = Canary::random().unwrap().to_file();

        for at in 0..text.len() {
            assert_eq!(read(&text[..at]).unwrap_err().code(), "canary.not-one", "cut at {at}");
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(read(&changed).unwrap_err().code(), "canary.not-one", "changed at {at}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        assert_eq!(Canary::read_file(Path::new("/")).unwrap_err().code(), "canary.not-one");
        let missing = Canary::read_file(Path::new("/nonexistent/canary")).unwrap_err();
        assert_eq!(missing.code(), "canary.read");
    }
}
