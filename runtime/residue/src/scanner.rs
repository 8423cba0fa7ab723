//! The public face of the search.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::forms::Forms;
use crate::index::Index;
use crate::pass::Pass;
use crate::place;
use crate::report::{Progress, ScanReport};

/// Looks for every fragment of a canary's forms, in one pass, at every offset.
///
/// Making one takes a millisecond, with 1,000 signatures half a second; it is then reused and shared
/// freely.
#[derive(Debug)]
pub struct Scanner {
    index: Index,
}

impl Scanner {
    /// A scanner for `forms`.
    pub fn new(forms: &Forms) -> Self {
        Self { index: Index::of(forms) }
    }

    /// Scans what `reader` gives, to its end. Hits are placed from `base_offset` on.
    ///
    /// # Errors
    ///
    /// [`ScanError::Read`] when the reader fails: what a reader does not give cannot be skipped.
    pub fn scan_reader(
        &self,
        name: &str,
        base_offset: u64,
        mut reader: impl Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ScanReport, ScanError> {
        let mut pass = Pass::over(&self.index, name.to_owned(), None, progress);
        pass.next_part();
        pass.stream(name, base_offset, &mut |room| reader.read(room))
            .map_err(|source| ScanError::Read { what: name.to_owned(), source })?;
        Ok(pass.done())
    }

    /// Scans all memory of process `pid` through `/proc/PID/mem` (proc_pid_mem(5)).
    ///
    /// The caller needs ptrace access to it. A process that runs while it is read moves bytes
    /// past the scan: stop it first where the result is to be a proof. Registers are not memory;
    /// scan a core file of the process for those.
    ///
    /// # Errors
    ///
    /// When the process is this one, is not there, or may not be read at all. A mapping that cannot
    /// be read (`[vvar]`, secret memory) is not an error but listed.
    pub fn scan_process(
        &self,
        pid: u32,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ScanReport, ScanError> {
        place::process::scan(&self.index, pid, progress)
    }

    /// Scans a file, a block device, or all regular files below a directory (symbolic links are not
    /// followed there; sockets, pipes and devices below it hold no bytes of it).
    ///
    /// Core files, images, swap files and swap devices are files and devices like others. Of
    /// `/proc/kcore` the memory that has a physical address is scanned, and the rest, other views
    /// of the same pages, is listed as not read.
    ///
    /// # Errors
    ///
    /// When `path` itself is not there, may not be opened, or is a pipe, socket or character
    /// device. A stretch or a file below it that cannot be read is not an error but listed.
    pub fn scan_path(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ScanReport, ScanError> {
        place::path::scan(&self.index, path, progress)
    }
}

/// Why a source was not scanned at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The source cannot be opened or listed.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file, or the file in `/proc` that stands for the process.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A reader failed.
    #[error("cannot read {what}")]
    Read {
        /// The reader's name.
        what: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Asked to scan the scanning process, which holds everything it looks for.
    #[error("process {pid} is the one that scans, and holds every form it looks for")]
    OwnProcess {
        /// Its id.
        pid: u32,
    },
    /// A pipe, a socket or a character device: reading it would take or wait for something.
    #[error("{} is not a file, a directory or a block device", path.display())]
    Kind {
        /// The path.
        path: PathBuf,
    },
}

impl ScanError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Open { .. } => "scan.open",
            Self::Read { .. } => "scan.read",
            Self::OwnProcess { .. } => "scan.own-process",
            Self::Kind { .. } => "scan.kind",
        }
    }
}

pub(crate) fn open(path: &Path) -> Result<File, ScanError> {
    File::open(path).map_err(|source| ScanError::Open { path: path.to_owned(), source })
}
