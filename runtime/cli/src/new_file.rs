//! Files that appear whole or not at all.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::errors::Coded;

/// Whether a file that is already there is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and writing fails.
    Keep,
    /// It is replaced (`--force`).
    Replace,
}

impl Existing {
    /// What `--force` means.
    pub const fn of_force(force: bool) -> Self {
        match force {
            true => Self::Replace,
            false => Self::Keep,
        }
    }
}

/// Writes `bytes` to `path` so that no reader ever sees a part: see [`NewFile`].
///
/// # Errors
///
/// [`NewFileError`]; nothing is left behind.
pub fn write(path: &Path, bytes: &[u8], existing: Existing) -> Result<(), NewFileError> {
    write_to(NewFile::create(path)?, bytes, existing)
}

/// As [`write`], for the owner alone.
///
/// # Errors
///
/// [`NewFileError`]; nothing is left behind.
pub fn write_private(path: &Path, bytes: &[u8], existing: Existing) -> Result<(), NewFileError> {
    write_to(NewFile::with_mode(path, 0o600)?, bytes, existing)
}

fn write_to(mut file: NewFile, bytes: &[u8], existing: Existing) -> Result<(), NewFileError> {
    let path = file.path.clone();
    file.write_all(bytes).map_err(|source| NewFileError::Write { path, source })?;
    file.keep(existing)
}

/// A file that is being written: to a temporary one beside it, to the disk, then under its name.
/// Where it is dropped before, nothing is left behind.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    file: tempfile::NamedTempFile,
}

impl NewFile {
    /// Begins a file that is to be at `path`.
    ///
    /// # Errors
    ///
    /// [`NewFileError::Write`].
    pub fn create(path: &Path) -> Result<Self, NewFileError> {
        Self::with_mode(path, 0o644)
    }

    fn with_mode(path: &Path, mode: u32) -> Result<Self, NewFileError> {
        let file = tempfile::Builder::new()
            .prefix(".evanesce-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory_of(path))
            .map_err(|source| NewFileError::Write { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Gives the file its name.
    ///
    /// # Errors
    ///
    /// [`NewFileError`].
    pub fn keep(self, existing: Existing) -> Result<(), NewFileError> {
        let Self { path, file } = self;
        if let Err(source) = file.as_file().sync_all() {
            return Err(NewFileError::Write { path, source });
        }
        let persisted = match existing {
            Existing::Replace => file.persist(&path),
            Existing::Keep => file.persist_noclobber(&path),
        };
        match persisted {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                Err(NewFileError::Exists { path })
            }
            Err(error) => Err(NewFileError::Write { path, source: error.error }),
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes a directory for its owner alone, if it is not there.
///
/// # Errors
///
/// [`NewFileError::Write`].
pub fn private_directory(path: &Path) -> Result<(), NewFileError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| NewFileError::Write { path: path.to_owned(), source })
}

/// Checks, before the work is done, that [`write`] would not refuse for a file that is there.
///
/// # Errors
///
/// [`NewFileError::Exists`].
pub fn check(path: &Path, existing: Existing) -> Result<(), NewFileError> {
    match existing == Existing::Keep && path.symlink_metadata().is_ok() {
        true => Err(NewFileError::Exists { path: path.to_owned() }),
        false => Ok(()),
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewFileError {
    /// There is one already.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A step failed.
    #[error("{} could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Coded for NewFileError {
    fn code(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "output.exists",
            Self::Write { .. } => "output.write",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_existing_file_is_replaced_only_when_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sig");
        write(&path, b"first", Existing::Keep).unwrap();

        assert_eq!(check(&path, Existing::Keep).unwrap_err().code(), "output.exists");
        assert_eq!(write(&path, b"second", Existing::Keep).unwrap_err().code(), "output.exists");
        assert_eq!(fs::read(&path).unwrap(), b"first");

        write(&path, b"third", Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
    }

    #[test]
    fn a_refused_write_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sig");
        write(&path, b"first", Existing::Keep).unwrap();
        write(&path, b"second", Existing::Keep).unwrap_err();

        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
