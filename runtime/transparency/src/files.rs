//! Files that are whole or not there, and stay so after a crash.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A directory that one process at a time writes to. Nothing counts before [`Store::settle`].
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    /// Directories whose entries changed and are not on the disk yet.
    changed: BTreeSet<PathBuf>,
}

impl Store {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), changed: BTreeSet::new() }
    }

    /// Writes the file `name`: to one beside it, to the disk, then under its name.
    pub(crate) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.root.join(name);
        let directory = path.parent().expect("a name below a root has a parent").to_owned();
        self.make(&directory)?;
        let new = path.with_added_extension("new");
        let write = || {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| FileError { path, source })?;
        self.changed.insert(directory);
        Ok(())
    }

    /// Waits until all names are on the disk.
    pub(crate) fn settle(&mut self) -> Result<(), FileError> {
        while let Some(directory) = self.changed.pop_first() {
            let synced = File::open(&directory).and_then(|directory| directory.sync_all());
            synced.map_err(|source| FileError { path: directory, source })?;
        }
        Ok(())
    }

    /// Makes a directory for this user alone, and those above it.
    fn make(&mut self, directory: &Path) -> Result<(), FileError> {
        if directory.is_dir() {
            return Ok(());
        }
        if let Some(parent) = directory.parent() {
            self.make(parent)?;
            self.changed.insert(parent.to_owned());
        }
        match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(source) => Err(FileError { path: directory.to_owned(), source }),
        }
    }
}

/// Locks the file `path`, which is made where there is none, until the result is dropped.
pub(crate) fn lock(path: &Path) -> Result<File, FileError> {
    let lock = || {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.lock()?;
        Ok(file)
    };
    lock().map_err(|source| FileError { path: path.to_owned(), source })
}

/// Reads a file of at most `bytes_max` bytes; `None` where there is none.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
    let read = || {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 <= bytes_max {
            true => Ok(Some(bytes)),
            false => Err(io::Error::other(format!("longer than {bytes_max} bytes"))),
        }
    };
    read().map_err(|source| FileError { path: path.to_owned(), source })
}

/// A file or directory could not be used.
#[derive(Debug, thiserror::Error)]
#[error("could not use {}", path.display())]
pub struct FileError {
    /// Which.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}
