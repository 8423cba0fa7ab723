//! Small parsers for values on the command line, and reading what they name.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use evanesce_ledger::Timestamp;
use evanesce_protocol::sshsig::HashAlgorithm;
use sha2::{Digest as _, Sha256, Sha512};

use crate::errors::Coded;

/// Reads a time span as people write it: `90s`, `10m`, `1h 30m`.
///
/// # Errors
///
/// What is wrong, for the command line's own message.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("a key has to live for some time".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write 90s, 10m or 1h 30m")),
    }
}

/// Reads a point in time, UTC: `2026-11-22T02:10:00Z`, with or without a fraction.
///
/// # Errors
///
/// What is wrong, for the command line's own message.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    humantime::parse_rfc3339_weak(text)
        .map(Timestamp::from)
        .map_err(|error| format!("{error}; write 2026-11-22T02:10:00Z"))
}

/// Hashes a file of any size, or standard input for `-`.
///
/// # Errors
///
/// [`ReadError`].
pub fn digest(path: &Path, hash: HashAlgorithm) -> Result<Vec<u8>, ReadError> {
    let failed = |source| ReadError::of(path, source);
    let mut reader: Box<dyn io::Read> = match is_stdin(path) {
        true => Box::new(io::stdin().lock()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    match hash {
        HashAlgorithm::Sha256 => hash_all::<Sha256>(&mut *reader),
        HashAlgorithm::Sha512 => hash_all::<Sha512>(&mut *reader),
    }
    .map_err(failed)
}

/// The two digests that a signature record has of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// SHA-256.
    pub sha256: [u8; 32],
    /// SHA-512.
    pub sha512: [u8; 64],
}

/// Hashes a file of any size, or standard input for `-`, with both hashes in one pass.
///
/// # Errors
///
/// [`ReadError`].
pub fn digests(path: &Path) -> Result<Digests, ReadError> {
    let failed = |source| ReadError::of(path, source);
    let mut reader: Box<dyn io::Read> = match is_stdin(path) {
        true => Box::new(io::stdin().lock()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    let mut both = Both::default();
    io::copy(&mut reader, &mut both).map_err(failed)?;
    Ok(Digests { sha256: both.0.finalize().into(), sha512: both.1.finalize().into() })
}

/// Two hashes that are fed together.
#[derive(Default)]
struct Both(Sha256, Sha512);

impl io::Write for Both {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        self.1.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file that is expected to be small.
///
/// # Errors
///
/// [`ReadError::TooLong`] for more than `bytes_max`, else [`ReadError::Read`].
pub fn read_small(path: &Path, bytes_max: u64) -> Result<Vec<u8>, ReadError> {
    let failed = |source| ReadError::of(path, source);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    match u64::try_from(bytes.len()).is_ok_and(|found| found <= bytes_max) {
        true => Ok(bytes),
        false => Err(ReadError::TooLong { path: path.to_owned(), bytes_max }),
    }
}

/// Whether `path` stands for standard input.
pub fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A step failed.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Longer than any file of its kind.
    #[error("{} is longer than {bytes_max} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },
}

impl ReadError {
    fn of(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

impl Coded for ReadError {
    fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "input.read",
            Self::TooLong { .. } => "input.too-long",
        }
    }
}

fn hash_all<H: sha2::Digest>(reader: &mut dyn io::Read) -> io::Result<Vec<u8>> {
    let mut hash = H::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().to_vec()),
            Ok(bytes) => hash.update(&buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

const BUFFER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_whole_file_however_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..=255).cycle().take(3 * BUFFER_BYTES + 17).collect();
        std::fs::write(&path, &bytes).unwrap();

        let expected = Sha512::digest(&bytes).to_vec();
        assert_eq!(digest(&path, HashAlgorithm::Sha512).unwrap(), expected);
    }

    #[test]
    fn a_file_over_the_limit_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [0; 9]).unwrap();

        read_small(&path, 9).unwrap();
        assert_eq!(read_small(&path, 8).unwrap_err().code(), "input.too-long");
    }

    #[test]
    fn a_life_of_no_time_is_refused() {
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        parse_duration("0s").unwrap_err();
        parse_duration("soon").unwrap_err();
    }
}
