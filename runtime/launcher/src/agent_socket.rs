//! The runtime side of a workload: its socket and its public key, in a directory of their own.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use evanesce_protocol::WorkloadId;
use rustix::fs::Mode;

/// A workload's directory below the runtime directory; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct RuntimeFiles {
    directory: PathBuf,
}

impl RuntimeFiles {
    /// Makes the directory and the socket, which is the worker's to serve.
    pub(crate) fn create(
        runtime: &Path,
        workload: &WorkloadId,
    ) -> Result<(Self, UnixListener), AgentSocketError> {
        let files = Self { directory: runtime.join(workload.as_str()) };
        let path = files.socket();
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(AgentSocketError::TooLong { found: path.as_os_str().len(), path });
        }
        let fail = |source| AgentSocketError::Io { path: path.clone(), source };
        // Left by a launcher that was killed: the id is ours, or the claim on it fails.
        files.remove().map_err(fail)?;
        DirBuilder::new().mode(0o700).create(&files.directory).map_err(fail)?;
        let listener = UnixListener::bind(&path).map_err(fail)?;
        // Connecting takes the right to write; the directory keeps others out until this is done.
        rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR).map_err(io::Error::from).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        Ok((files, listener))
    }

    /// Writes the public key's file.
    pub(crate) fn write_public_key(&self, line: &str) -> io::Result<()> {
        let path = self.public_key();
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{line}")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    pub(crate) fn public_key(&self) -> PathBuf {
        self.directory.join("key.pub")
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

impl Drop for RuntimeFiles {
    fn drop(&mut self) {
        // Nothing secret is in it, and the next workload of this id clears it first.
        self.remove().ok();
    }
}

/// Removes what a killed launcher left.
pub(crate) fn remove_leftovers(runtime: &Path, workload: &WorkloadId) {
    drop(RuntimeFiles { directory: runtime.join(workload.as_str()) });
}

/// Why a workload has no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentSocketError {
    /// The path does not fit `sockaddr_un` (unix(7)).
    #[error(
        "the socket path {} has {found} bytes, and at most {SOCKET_PATH_BYTES_MAX} are possible",
        path.display()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        found: usize,
    },
    /// The kernel refused.
    #[error("the socket {} could not be made", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl AgentSocketError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "agent-socket.too-long",
            Self::Io { .. } => "agent-socket.io",
        }
    }
}

/// `sun_path` of Linux has 108 bytes, the last a zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_socket_is_for_its_owner_alone_and_gone_with_the_workload() {
        let runtime = tempfile::tempdir().unwrap();
        let (files, _listener) =
            RuntimeFiles::create(runtime.path(), &"w".parse().unwrap()).unwrap();

        assert_eq!(fs::metadata(files.socket()).unwrap().mode() & 0o7777, 0o600);
        drop(files);
        assert_eq!(fs::read_dir(runtime.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_with_its_length() {
        let runtime = tempfile::tempdir().unwrap();
        let deep = runtime.path().join("d".repeat(100));

        let refused = RuntimeFiles::create(&deep, &"w".parse().unwrap()).unwrap_err();

        assert_eq!(refused.code(), "agent-socket.too-long");
    }
}
