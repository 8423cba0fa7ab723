//! The worker where systemd can execute it: a file that only root can change, pinned by digest.
//!
//! ```text
//! /usr/lib/evanesce/evanesce-worker         a package's, where it is of this very build
//! /var/lib/evanesce-worker/HEX/evanesce-worker   written here otherwise; HEX is its SHA-256
//! ```
//!
//! Mode 0111 has the kernel start it undumpable for all but root, as a sealed memfd would. Its
//! digest is checked before systemd is asked, and again of `/proc/PID/exe` before there is a key.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use evanesce_protocol::Digest;
use rustix::fs::Mode;
use rustix::process::geteuid;

use crate::worker_image::WorkerImage;

/// Where the worker of this build is; it is written there if it is nowhere.
pub(crate) fn provide() -> Result<PathBuf, WorkerFileError> {
    let packaged = Path::new(PACKAGED);
    match is_ours(packaged) {
        true => Ok(packaged.to_owned()),
        false => provide_in(Path::new(INSTALLED)),
    }
}

fn provide_in(store: &Path) -> Result<PathBuf, WorkerFileError> {
    let directory = store.join(WorkerImage::digest().to_hex());
    let path = directory.join(NAME);
    if is_ours(&path) {
        return Ok(path);
    }
    for directory in [store, &directory] {
        prepare(directory)?;
    }
    let fail = |source| WorkerFileError::Io { path: path.clone(), source };
    let new = directory.join(format!("{NAME}.{}", std::process::id()));
    let write = || {
        remove(&new)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(WorkerImage::embedded().bytes())?;
        rustix::fs::fchmod(&file, Mode::XUSR | Mode::XGRP | Mode::XOTH)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, &path)
    };
    write().inspect_err(|_| drop(remove(&new))).map_err(fail)?;
    match is_ours(&path) {
        true => Ok(path),
        false => Err(fail(io::ErrorKind::InvalidData.into())),
    }
}

/// The digest of what a process executes.
pub(crate) fn digest_of_process(pid: u32) -> io::Result<Digest> {
    digest(&File::open(format!("/proc/{pid}/exe"))?)
}

/// Whether a file is the worker of this build and nobody but its owner, who is this user, can
/// change it.
fn is_ours(path: &Path) -> bool {
    let open = || -> io::Result<bool> {
        let no_links = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = File::options().read(true).custom_flags(no_links).open(path)?;
        let metadata = file.metadata()?;
        let is_safe = metadata.is_file()
            && metadata.uid() == geteuid().as_raw()
            && metadata.mode() & 0o7022 == 0
            && metadata.mode() & 0o111 == 0o111;
        Ok(is_safe && digest(&file)? == WorkerImage::digest())
    };
    open().unwrap_or(false)
}

fn digest(file: &File) -> io::Result<Digest> {
    let mut bytes = Vec::new();
    file.take(WORKER_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Digest::of(&bytes))
}

/// Makes a directory that everyone can enter and only this user can change, or checks that it is one.
fn prepare(directory: &Path) -> Result<(), WorkerFileError> {
    let fail = |source| WorkerFileError::Io { path: directory.to_owned(), source };
    match DirBuilder::new().mode(0o755).create(directory) {
        // Whatever the umask is: the worker's user has to get to its file.
        Ok(()) => rustix::fs::chmod(directory, Mode::from(0o755))
            .map_err(io::Error::from)
            .map_err(fail)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fail(error)),
    }
    let metadata = fs::symlink_metadata(directory).map_err(fail)?;
    let is_safe =
        metadata.is_dir() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o022 == 0;
    match is_safe {
        true => Ok(()),
        false => Err(WorkerFileError::Unsafe { path: directory.to_owned() }),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Why there is no worker that systemd could execute.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerFileError {
    /// It could not be written.
    #[error("the worker could not be installed at {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others can change it.
    #[error("directory {} can be changed by others", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
    },
}

/// Where packages put it.
const PACKAGED: &str = "/usr/lib/evanesce/evanesce-worker";

/// Where the launcher puts it.
const INSTALLED: &str = "/var/lib/evanesce-worker";

const NAME: &str = "evanesce-worker";

/// Ten times what a worker has.
const WORKER_BYTES_MAX: u64 = 128 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Only root can read a file that nobody may read, and only root has systemd start workers.
    #[expect(clippy::print_stderr, reason = "a test that does not run says so")]
    fn not_root() -> bool {
        let is_root = geteuid().is_root();
        if !is_root {
            eprintln!("SKIPPED: only root installs a worker for systemd");
        }
        !is_root
    }

    #[test]
    fn the_worker_is_installed_once_for_everyone_to_execute_and_nobody_to_change() {
        if not_root() {
            return;
        }
        let store = tempfile::tempdir().unwrap();
        let path = provide_in(store.path()).unwrap();
        let before = fs::metadata(&path).unwrap();

        assert_eq!(provide_in(store.path()).unwrap(), path);

        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.ino(), after.mode() & 0o7777), (before.ino(), 0o111));
        let names = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(names.count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_that_is_another_worker_or_that_others_can_change_is_replaced() {
        if not_root() {
            return;
        }
        let store = tempfile::tempdir().unwrap();
        let path = provide_in(store.path()).unwrap();
        for spoil in [
            |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o733)).unwrap(),
            |path: &Path| {
                fs::remove_file(path).unwrap();
                fs::write(path, "another").unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            },
            |path: &Path| {
                fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink("/bin/true", path).unwrap();
            },
        ] {
            spoil(&path);
            assert!(!is_ours(&path));

            assert_eq!(provide_in(store.path()).unwrap(), path);
            assert!(is_ours(&path));
        }
    }

    #[test]
    fn a_store_that_others_can_change_is_refused() {
        let store = tempfile::tempdir().unwrap();
        fs::set_permissions(store.path(), fs::Permissions::from_mode(0o777)).unwrap();

        let refused = provide_in(store.path()).unwrap_err();

        assert!(matches!(refused, WorkerFileError::Unsafe { .. }), "{refused}");
    }
}
