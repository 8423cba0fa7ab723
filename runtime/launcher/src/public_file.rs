//! The public file of a key, `FILE.pub` beside `FILE`: one OpenSSH line for the key in the file.
//!
//! It says what key a sealed file holds without opening it. What it says is checked whenever the
//! key is loaded: a key that is none of its lines is refused, so that neither file can be swapped
//! alone. While a key is being rotated it has two lines, so that the check holds at every moment.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding as _};
use evanesce_ledger::LedgerId;
use evanesce_protocol::PublicKey;
use evanesce_protocol::wire::take_string;

use crate::certificate::public_key_line;
use crate::key_file::directory_of;

/// The public file of one key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicFile {
    path: PathBuf,
}

/// A key that a public file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The key.
    pub key: PublicKey,
    /// How often it was rotated before, and one; as the comment says, which nothing authenticates.
    pub generation: Option<u64>,
    /// The ledger in which a rotation to this key would be found that is not finished.
    pub pending: Option<LedgerId>,
}

impl PublicFile {
    /// `FILE.pub`.
    pub fn of(key_file: &Path) -> Self {
        let mut name = OsString::from(key_file);
        name.push(".pub");
        Self { path: name.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The Ed25519 keys that it names; `None` where there is no such file.
    ///
    /// # Errors
    ///
    /// [`PublicFileError`] where it cannot be read, or is longer than such files are.
    pub fn read(&self) -> Result<Option<Vec<Named>>, PublicFileError> {
        let fail = |source| PublicFileError::Read { path: self.path.clone(), source };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let mut text = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut text).map_err(fail)?;
        if text.len() as u64 > BYTES_MAX {
            return Err(fail(io::ErrorKind::FileTooLarge.into()));
        }
        Ok(Some(String::from_utf8_lossy(&text).lines().filter_map(parse).collect()))
    }

    /// Checks a key that was loaded from `key_file` against its public file, where there is one.
    ///
    /// # Errors
    ///
    /// [`PublicFileError::OtherKey`] where it does not name this key.
    pub fn check(key_file: &Path, found: &PublicKey) -> Result<(), PublicFileError> {
        let public = Self::of(key_file);
        match public.read()? {
            Some(named) if named.iter().all(|named| named.key != *found) => {
                Err(PublicFileError::OtherKey {
                    key_file: key_file.to_owned(),
                    path: public.path,
                    found: *found,
                })
            }
            _ => Ok(()),
        }
    }

    /// Has it name these keys, in one step.
    ///
    /// # Errors
    ///
    /// [`PublicFileError::Write`]; what was there before is there still.
    pub(crate) fn write(&self, named: &[Named]) -> Result<(), PublicFileError> {
        let mut text = String::new();
        for named in named {
            let mut comment = format!("evanesce generation {}", named.generation.unwrap_or(1));
            if let Some(ledger) = named.pending {
                comment += &format!(" pending in {ledger}");
            }
            text += &public_key_line(&named.key, &comment);
            text.push('\n');
        }
        replace(&self.path, text.as_bytes(), 0o644)
            .map_err(|source| PublicFileError::Write { path: self.path.clone(), source })
    }
}

/// Writes a file that is whole or as it was before, on the disk too.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = next_to(path, ".new");
    let written = write_whole(&new, bytes, mode).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // What could not be finished is not left lying about; that it may not be there is no error.
        fs::remove_file(&new).ok();
    }
    written?;
    sync_directory(path)
}

/// Writes a file under a name that is nobody else's, to the disk.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Has the names in the directory of a file reach the disk.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// A name beside a file.
pub(crate) fn next_to(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Reads a line of OpenSSH's public key format; `None` for comments and keys of other kinds.
fn parse(line: &str) -> Option<Named> {
    let mut words = line.split_ascii_whitespace();
    if words.next()? != "ssh-ed25519" {
        return None;
    }
    let blob = Base64::decode_vec(words.next()?).ok()?;
    let mut input = blob.as_slice();
    let kind = take_string(&mut input).ok()?;
    let key = take_string(&mut input).ok()?.try_into().ok()?;
    let (generation, pending) = match words.collect::<Vec<_>>().as_slice() {
        ["evanesce", "generation", number] => (number.parse().ok(), None),
        ["evanesce", "generation", number, "pending", "in", ledger] => {
            (number.parse().ok(), ledger.parse().ok())
        }
        _ => (None, None),
    };
    let is_whole = kind == b"ssh-ed25519" && input.is_empty();
    is_whole.then_some(Named { key: PublicKey::from_bytes(key), generation, pending })
}

/// Why a public file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublicFileError {
    /// It is there and cannot be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It could not be written.
    #[error("{} could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The key is another one than it names.
    #[error("{} holds {found}, which {} does not name", key_file.display(), path.display())]
    OtherKey {
        /// The key file.
        key_file: PathBuf,
        /// The public file.
        path: PathBuf,
        /// The key that was found.
        found: PublicKey,
    },
}

impl PublicFileError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "public-file.read",
            Self::Write { .. } => "public-file.write",
            Self::OtherKey { .. } => "public-file.other-key",
        }
    }
}

/// A line has about 110 bytes.
const BYTES_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn named(byte: u8, generation: u64) -> Named {
        let pending = (generation > 4).then(|| LedgerId::from_bytes([byte; 32]));
        Named { key: PublicKey::from_bytes([byte; 32]), generation: Some(generation), pending }
    }

    #[test]
    fn a_public_file_names_the_keys_that_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("key.age");
        let public = PublicFile::of(&key_file);
        assert_eq!(public.read().unwrap(), None);

        public.write(&[named(1, 4), named(2, 5)]).unwrap();

        assert_eq!(public.read().unwrap().unwrap(), [named(1, 4), named(2, 5)]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_the_public_file_does_not_name_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("key.age");
        let check = |byte| PublicFile::check(&key_file, &PublicKey::from_bytes([byte; 32]));
        check(1).unwrap();

        PublicFile::of(&key_file).write(&[named(1, 1)]).unwrap();
        check(1).unwrap();
        assert_eq!(check(2).unwrap_err().code(), "public-file.other-key");

        fs::write(PublicFile::of(&key_file).path(), "ssh-rsa AAAA\n").unwrap();
        assert_eq!(check(1).unwrap_err().code(), "public-file.other-key");
    }

    #[test]
    fn a_line_that_ssh_keygen_writes_names_its_key() {
        let line = public_key_line(&PublicKey::from_bytes([7; 32]), "someone@example.org");

        let found = parse(&line).unwrap();

        assert_eq!((found.key, found.generation), (PublicKey::from_bytes([7; 32]), None));
        assert_eq!(parse("ssh-ed25519"), None);
        assert_eq!(parse("# comment"), None);
    }
}
