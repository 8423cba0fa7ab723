//! A host that can be asked.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

/// The files by which a host says what it is.
pub trait Files {
    /// The bytes of a file.
    ///
    /// # Errors
    ///
    /// [`io::Error`]; [`io::ErrorKind::NotFound`] where there is no such file.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;

    /// The names in a directory, in any order.
    ///
    /// # Errors
    ///
    /// [`io::Error`]; [`io::ErrorKind::NotFound`] where there is no such directory.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
}

/// What checks may ask of a host.
pub trait Host: Files {
    /// Closes the cage of a worker that gets no key, and says what was found of it.
    fn try_cage(&self) -> &CageTrial;
}

/// What came of closing a cage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CageTrial {
    /// The cage holds: each claim by its stable name (`secret-pages`), with what was seen.
    Holds(Vec<(String, String)>),
    /// It does not, or no worker came up.
    Refused {
        /// The stable name of the reason, as errors have it: `worker.secret-pages`.
        code: String,
        /// The reason in one line.
        message: String,
    },
}

/// The files of the host that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalFiles;

impl Files for LocalFiles {
    /// A file is read up to a limit of 1 MiB.
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        fs::read_dir(Path::new(path))?.map(|entry| entry.map(name)).collect()
    }
}

/// A kernel's configuration has 300 KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
