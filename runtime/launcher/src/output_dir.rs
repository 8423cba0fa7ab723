//! A directory that one workload has for itself.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use evanesce_protocol::WorkloadId;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::claim::is_same_file;

/// Holds a directory until it is dropped.
#[derive(Debug)]
pub(crate) struct OutputDir {
    lock: File,
    path: PathBuf,
}

impl OutputDir {
    /// Locks the directory for `holder`, whose name is in the lock file for others to read.
    pub(crate) fn lock(path: &Path, holder: &WorkloadId) -> Result<Self, OutputDirError> {
        let fail = |source| OutputDirError::Access { path: path.to_owned(), source };
        let lock_path = path.join(LOCK_FILE);
        loop {
            let mut lock = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&lock_path)
                .map_err(fail)?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    let read = (&lock).take(HOLDER_BYTES_MAX).read_to_string(&mut holder);
                    let holder = read.ok().and_then(|_| holder.trim_end().parse().ok());
                    return Err(OutputDirError::Busy { path: path.to_owned(), holder });
                }
                Err(errno) => return Err(fail(errno.into())),
            }
            // The last holder removes the file it has locked: what was locked has to be what is there.
            if !is_same_file(&lock, &lock_path) {
                continue;
            }
            lock.set_len(0).and_then(|()| lock.rewind()).map_err(fail)?;
            writeln!(lock, "{holder}").map_err(fail)?;
            return Ok(Self { lock, path: lock_path });
        }
    }
}

impl Drop for OutputDir {
    fn drop(&mut self) {
        if is_same_file(&self.lock, &self.path) {
            // What is left behind is an unlocked file that the next workload takes over.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

/// Why a directory cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputDirError {
    /// It is not there, or not to be written.
    #[error("output directory {} could not be locked", path.display())]
    Access {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another workload has it.
    #[error(
        "output directory {} is in use by {}",
        path.display(),
        holder.as_ref().map_or("another workload", WorkloadId::as_str)
    )]
    Busy {
        /// The directory.
        path: PathBuf,
        /// Who has it, where that could be read.
        holder: Option<WorkloadId>,
    },
}

impl OutputDirError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Access { .. } => "output-dir.access",
            Self::Busy { .. } => "output-dir.busy",
        }
    }
}

/// In the directory while it is held.
const LOCK_FILE: &str = ".evanesce-lock";

const HOLDER_BYTES_MAX: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_by_one_workload_whose_name_the_next_one_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = ("first".parse().unwrap(), "second".parse().unwrap());
        let held = OutputDir::lock(directory.path(), &first).unwrap();

        let refused = OutputDir::lock(directory.path(), &second).unwrap_err();

        assert!(
            matches!(&refused, OutputDirError::Busy { holder: Some(holder), .. } if *holder == first),
            "{refused}"
        );
        drop(held);
        OutputDir::lock(directory.path(), &second).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
