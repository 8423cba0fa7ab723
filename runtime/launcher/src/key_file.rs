//! A key file, opened for the worker and never read here.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use evanesce_protocol::limits::KEY_FILE_BYTES_MAX;
use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;

/// Opens a key file that is a regular file of ours (or root's), for its owner alone, and small.
///
/// All of that is asked of the open descriptor, so nothing can be swapped between check and use.
pub(crate) fn open(path: &Path) -> Result<File, KeyFileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| KeyFileError::Open { path: path.to_owned(), source: errno.into() })?;
    let metadata =
        file.metadata().map_err(|source| KeyFileError::Open { path: path.to_owned(), source })?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile { path: path.to_owned() });
    }
    if ![geteuid().as_raw(), 0].contains(&metadata.uid()) {
        return Err(KeyFileError::Owner { path: path.to_owned(), found: metadata.uid() });
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(KeyFileError::Mode { path: path.to_owned(), found: metadata.mode() & 0o7777 });
    }
    match metadata.len() {
        0 => Err(KeyFileError::Empty { path: path.to_owned() }),
        bytes if bytes > KEY_FILE_BYTES_MAX as u64 => {
            Err(KeyFileError::TooLong { path: path.to_owned(), found: bytes })
        }
        _ => Ok(file),
    }
}

/// Why a key file is not handed to a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It could not be opened; a symbolic link is not followed.
    #[error("key file {} could not be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory, a device, a pipe or a socket.
    #[error("key file {} is not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Another user's.
    #[error("key file {} belongs to user {found}", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// The owner's user id.
        found: u32,
    },
    /// Others may read or write it.
    #[error("key file {} has mode {found:04o}, and others may have no part in it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
    },
    /// Nothing in it.
    #[error("key file {} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Longer than any key.
    #[error(
        "key file {} has {found} bytes, and a key has at most {KEY_FILE_BYTES_MAX}",
        path.display()
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
    },
}

impl KeyFileError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Open { .. } => "key-file.open",
            Self::NotAFile { .. } => "key-file.not-a-file",
            Self::Owner { .. } => "key-file.owner",
            Self::Mode { .. } => "key-file.mode",
            Self::Empty { .. } => "key-file.empty",
            Self::TooLong { .. } => "key-file.too-long",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn key_file(directory: &Path, bytes: usize, mode: u32) -> PathBuf {
        let path = directory.join("key.pem");
        fs::write(&path, vec![b'k'; bytes]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_small_file_for_its_owner_alone_is_opened() {
        let directory = tempfile::tempdir().unwrap();

        open(&key_file(directory.path(), 119, 0o600)).unwrap();
    }

    #[test]
    fn each_fault_of_a_key_file_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let code = |path: &Path| open(path).unwrap_err().code();

        assert_eq!(code(&directory.path().join("missing")), "key-file.open");
        assert_eq!(code(directory.path()), "key-file.not-a-file");
        assert_eq!(code(&key_file(directory.path(), 119, 0o640)), "key-file.mode");
        assert_eq!(code(&key_file(directory.path(), 119, 0o604)), "key-file.mode");
        assert_eq!(code(&key_file(directory.path(), 0, 0o600)), "key-file.empty");
        let long = KEY_FILE_BYTES_MAX + 1;
        assert_eq!(code(&key_file(directory.path(), long, 0o600)), "key-file.too-long");
    }

    #[test]
    fn a_symbolic_link_and_a_pipe_nobody_writes_are_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (link, pipe) = (directory.path().join("link"), directory.path().join("pipe"));
        symlink(key_file(directory.path(), 119, 0o600), &link).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();

        assert_eq!(open(&link).unwrap_err().code(), "key-file.open");
        assert_eq!(open(&pipe).unwrap_err().code(), "key-file.not-a-file");
    }
}
