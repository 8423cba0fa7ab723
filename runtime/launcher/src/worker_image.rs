//! The worker's file, pinned by digest and executed from memory nobody can change.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use evanesce_protocol::Digest;
use rustix::fs::{MemfdFlags, Mode, SealFlags};

/// The worker that this launcher was built with.
#[derive(Clone)]
pub struct WorkerImage {
    bytes: Cow<'static, [u8]>,
}

impl WorkerImage {
    /// The copy inside this program.
    pub const fn embedded() -> Self {
        Self { bytes: Cow::Borrowed(EMBEDDED) }
    }

    /// A file that has to hold the same bytes: an installed worker.
    ///
    /// # Errors
    ///
    /// [`ImageError`] where the file cannot be read or its digest is not the pinned one.
    pub fn from_file(path: &Path) -> Result<Self, ImageError> {
        let bytes =
            fs::read(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
        let found = Digest::of(&bytes);
        match found == Self::digest() {
            true => Ok(Self { bytes: Cow::Owned(bytes) }),
            false => Err(ImageError::OtherWorker {
                path: path.to_owned(),
                expected: Self::digest(),
                found,
            }),
        }
    }

    /// SHA-256 of the worker's file.
    pub fn digest() -> Digest {
        pinned(env!("EVANESCE_WORKER_SHA256"))
    }

    /// SHA-256 of the `signer.wasm` that the worker was built with.
    pub fn signer_digest() -> Digest {
        pinned(env!("EVANESCE_SIGNER_SHA256"))
    }

    /// The bytes of the worker's file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The first program of a worker's machine.
    pub(crate) const fn init() -> &'static [u8] {
        EMBEDDED_INIT
    }

    /// What asks a machine's platform for evidence.
    pub(crate) const fn attester() -> &'static [u8] {
        EMBEDDED_ATTESTER
    }

    /// Copies the worker into a file in memory that can be executed, not read, and not changed.
    ///
    /// Mode 0111 has the kernel start it undumpable for all but root (execve(2), on files that the
    /// user may not read), so nobody gets at its memory between `execve` and its own first call.
    pub(crate) fn seal(self) -> Result<SealedImage, ImageError> {
        SealedImage::make("evanesce-worker", &self.bytes)
    }
}

impl SealedImage {
    /// The attester that this launcher was built with, ready to run.
    pub(crate) fn attester() -> Result<Self, ImageError> {
        Self::make("evanesce-attester", EMBEDDED_ATTESTER)
    }

    /// A program that is not ours, ready to be run as ours are.
    pub(crate) fn of_program(name: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        Self::make(name, bytes)
    }

    fn make(name: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        let make = || -> io::Result<OwnedFd> {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let mut file = File::from(rustix::fs::memfd_create(name, flags)?);
            file.write_all(bytes)?;
            rustix::fs::fchmod(&file, Mode::XUSR | Mode::XGRP | Mode::XOTH)?;
            let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(&file, seals)?;
            Ok(file.into())
        };
        make().map(|file| Self { file }).map_err(ImageError::Seal)
    }
}

impl std::fmt::Debug for WorkerImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerImage").field("bytes", &self.bytes.len()).finish()
    }
}

/// An executable of ours, ready to be run.
#[derive(Debug)]
pub(crate) struct SealedImage {
    file: OwnedFd,
}

impl SealedImage {
    /// What this process executes. The descriptor is closed on exec, after the path was followed.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// Why the worker cannot be executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file could not be read.
    #[error("worker {} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A worker, perhaps, but not the one that this launcher was built with.
    #[error("worker {} has digest {found}, and {expected} is expected", path.display())]
    OtherWorker {
        /// The file.
        path: PathBuf,
        /// The pinned digest.
        expected: Digest,
        /// The file's.
        found: Digest,
    },
    /// The copy in memory could not be made.
    #[error("the worker could not be copied into sealed memory")]
    Seal(#[source] io::Error),
}

impl ImageError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "worker-image.read",
            Self::OtherWorker { .. } => "worker-image.other-worker",
            Self::Seal(_) => "worker-image.seal",
        }
    }
}

fn pinned(hex: &str) -> Digest {
    format!("sha256:{hex}").parse().expect("the build script wrote 64 hexadecimal digits")
}

static EMBEDDED: &[u8] = include_bytes!(env!("EVANESCE_WORKER_FILE"));
static EMBEDDED_INIT: &[u8] = include_bytes!(env!("EVANESCE_INIT_FILE"));
static EMBEDDED_ATTESTER: &[u8] = include_bytes!(env!("EVANESCE_ATTESTER_FILE"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_worker_has_the_pinned_digest() {
        assert_eq!(Digest::of(&WorkerImage::embedded().bytes), WorkerImage::digest());
    }

    #[test]
    fn a_file_with_one_other_byte_is_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("worker");
        let mut bytes = EMBEDDED.to_vec();
        fs::write(&path, &bytes).unwrap();
        WorkerImage::from_file(&path).unwrap();
        bytes[EMBEDDED.len() / 2] ^= 1;
        fs::write(&path, &bytes).unwrap();

        let refused = WorkerImage::from_file(&path).unwrap_err();

        assert_eq!(refused.code(), "worker-image.other-worker");
    }

    #[test]
    fn a_sealed_worker_cannot_be_changed() {
        let sealed = WorkerImage::embedded().seal().unwrap();

        let written = rustix::io::pwrite(&sealed.file, b"x", 0);

        assert_eq!(written, Err(rustix::io::Errno::PERM));
    }
}
