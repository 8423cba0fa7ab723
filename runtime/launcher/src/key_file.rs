//! A key file, opened for the worker and never read here.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use evanesce_protocol::limits::KEY_FILE_BYTES_MAX;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::geteuid;

/// Opens a key file that is a regular file of ours (or root's), for its owner alone, small, and in a
/// directory where nobody else can put another in its place.
///
/// All of that is asked of the open descriptors, so nothing can be swapped between check and use.
pub(crate) fn open(path: &Path) -> Result<File, KeyFileError> {
    let directory = open_directory(path)?;
    let name = path.file_name().ok_or_else(|| KeyFileError::NotAFile { path: path.to_owned() })?;
    let (file, metadata) = open_small(&directory, Path::new(name), path)?;
    if ![geteuid().as_raw(), 0].contains(&metadata.uid()) {
        return Err(KeyFileError::Owner { path: path.to_owned(), found: metadata.uid() });
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(KeyFileError::Mode { path: path.to_owned(), found: metadata.mode() & 0o7777 });
    }
    Ok(file)
}

/// Opens a small regular file that may be a key, whoever else can read it: to see what it is, not to
/// load it.
pub(crate) fn open_to_look(path: &Path) -> Result<File, KeyFileError> {
    open_small(CWD, path, path).map(|(file, _)| file)
}

/// Opens `name` in `directory`, which is `path`: a regular file, neither empty nor long.
fn open_small(
    directory: impl AsFd,
    name: &Path,
    path: &Path,
) -> Result<(File, Metadata), KeyFileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fail = |source| KeyFileError::Open { path: path.to_owned(), source };
    let file = rustix::fs::openat(&directory, name, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| fail(errno.into()))?;
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile { path: path.to_owned() });
    }
    match metadata.len() {
        0 => Err(KeyFileError::Empty { path: path.to_owned() }),
        bytes if bytes > KEY_FILE_BYTES_MAX as u64 => {
            Err(KeyFileError::TooLong { path: path.to_owned(), found: bytes })
        }
        _ => Ok((file, metadata)),
    }
}

/// A key file that was opened and not read.
#[derive(Debug)]
pub(crate) struct KeyFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

impl KeyFile {
    /// Opens it; see [`open`].
    pub(crate) fn open(path: &Path) -> Result<Self, KeyFileError> {
        Ok(Self { path: path.to_owned(), file: open(path)? })
    }

    /// Opens a credential of a worker's unit: systemd put it there, where nobody else can write.
    pub(crate) fn of_credential(path: PathBuf) -> Result<Self, KeyFileError> {
        let (file, _) = open_small(CWD, &path, &path)?;
        Ok(Self { path, file })
    }

    /// Whether both are the same file, whatever it is called now.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let name = |file: &File| file.metadata().map(|facts| (facts.dev(), facts.ino()));
        matches!((name(&self.file), name(&other.file)), (Ok(one), Ok(two)) if one == two)
    }
}

/// Opens the directory of a key file, which has to be ours (or root's) and not to be written by
/// others.
pub(crate) fn open_directory(path: &Path) -> Result<File, KeyFileError> {
    let directory = directory_of(path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fail = |source| KeyFileError::Open { path: path.to_owned(), source };
    let opened = rustix::fs::open(directory, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| fail(errno.into()))?;
    let metadata = opened.metadata().map_err(fail)?;
    let facts = DirectoryFacts {
        owner: metadata.uid(),
        group: metadata.gid(),
        mode: metadata.mode() & 0o7777,
    };
    match facts.is_safe(geteuid().as_raw()) {
        true => Ok(opened),
        false => Err(KeyFileError::Directory {
            path: directory.to_owned(),
            owner: facts.owner,
            mode: facts.mode,
        }),
    }
}

/// The directory that a file is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What decides whether others can replace a file in a directory.
#[derive(Clone, Copy, Debug)]
struct DirectoryFacts {
    owner: u32,
    group: u32,
    mode: u32,
}

impl DirectoryFacts {
    /// Whether only `user` and root can. In a sticky directory, such as `/tmp`, others cannot replace
    /// what is not theirs. A group of the user's own, which many systems give each user under
    /// the user's number, is nobody else.
    const fn is_safe(self, user: u32) -> bool {
        let is_sticky = self.mode & 0o1000 != 0;
        let of_us = self.owner == user || self.owner == 0;
        let by_others = self.mode & 0o002 != 0;
        let by_group = self.mode & 0o020 != 0 && self.group != user;
        of_us && (is_sticky || !(by_others || by_group))
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
    /// Others can put another file in its place.
    #[error(
        "directory {} belongs to user {owner} and has mode {mode:04o}: others can replace a key in it",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Its permission bits.
        mode: u32,
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
            Self::Directory { .. } => "key-file.directory",
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
    fn a_directory_in_which_others_can_replace_the_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = key_file(directory.path(), 119, 0o600);
        for (mode, is_safe) in [(0o700, true), (0o755, true), (0o1777, true), (0o777, false)] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            let found = open(&path).map(drop);
            assert_eq!(found.is_ok(), is_safe, "{mode:o}: {found:?}");
        }
    }

    #[test]
    fn a_group_of_the_users_own_may_write_to_the_directory_and_no_other() {
        let facts = |owner, group, mode| DirectoryFacts { owner, group, mode };

        assert!(facts(1000, 1000, 0o775).is_safe(1000));
        assert!(facts(0, 0, 0o755).is_safe(1000));
        assert!(!facts(1000, 100, 0o775).is_safe(1000));
        assert!(!facts(0, 0, 0o775).is_safe(1000));
        assert!(!facts(1001, 1001, 0o755).is_safe(1000));
    }

    #[test]
    fn a_symbolic_link_and_a_pipe_nobody_writes_are_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (link, pipe) = (directory.path().join("link"), directory.path().join("pipe"));
        symlink(key_file(directory.path(), 119, 0o600), &link).unwrap();
        rustix::fs::mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();

        assert_eq!(open(&link).unwrap_err().code(), "key-file.open");
        assert_eq!(open(&pipe).unwrap_err().code(), "key-file.not-a-file");
    }
}
