//! Ends a workload of another launcher, in order: its launcher is asked to, and does it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use evanesce_ledger::statement::StatementError;
use evanesce_ledger::{FoundReceipt, ReadError, Reader, Receipt, Statement};
use evanesce_protocol::WorkloadId;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::launcher::{Launcher, ListError, Listed};
use crate::process::is_readable_within;
use crate::recover::RecoverError;

/// A workload that was stopped, and the receipt that its launcher wrote.
#[derive(Debug)]
pub struct StoppedWorkload {
    /// What became of its key.
    pub receipt: Receipt,
    /// The receipt as it stands in the ledger.
    pub found: FoundReceipt,
}

impl Launcher {
    /// Asks the launcher of a workload to end it (SIGTERM, which it hands on to the command), and
    /// waits until that launcher is gone and the receipt is in the ledger.
    ///
    /// # Errors
    ///
    /// [`StopError`]. After [`StopError::TimedOut`] the workload is as alive as its command.
    pub fn stop(&self, id: &WorkloadId, timeout: Duration) -> Result<StoppedWorkload, StopError> {
        let asked = self.find(id)?.ok_or_else(|| StopError::Unknown { workload: id.clone() })?;
        if let Some(launcher) = self.pidfd_of(&asked)? {
            match pidfd_send_signal(&launcher, Signal::TERM) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(StopError::Signal(errno.into())),
            }
            if !is_readable_within(launcher.as_fd(), timeout).map_err(StopError::Signal)? {
                return Err(StopError::TimedOut { workload: id.clone(), timeout });
            }
        }
        // Nothing to do where the launcher ended in order; one that was killed left it to us.
        self.recover()?;
        let found = Reader::open(&self.installation.ledger())?.receipt_of(id)?;
        let found = found.ok_or_else(|| StopError::NoKey { workload: id.clone() })?;
        let receipt: Receipt = Statement::parse_unverified(&found.envelope)?.into_predicate();
        // An id may be used again: an older receipt is of another workload.
        match receipt.times.started == asked.started_at {
            true => Ok(StoppedWorkload { receipt, found }),
            false => Err(StopError::NoKey { workload: id.clone() }),
        }
    }

    fn find(&self, id: &WorkloadId) -> Result<Option<Listed>, StopError> {
        Ok(self.list()?.into_iter().find(|listed| listed.workload_id == *id))
    }

    /// The launcher of a workload; `None` where it is gone by now.
    fn pidfd_of(&self, asked: &Listed) -> Result<Option<OwnedFd>, StopError> {
        let pid = i32::try_from(asked.launcher_pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| StopError::Signal(io::ErrorKind::InvalidData.into()))?;
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(StopError::Signal(errno.into())),
        };
        // A claim is locked by its launcher as long as that lives. Locked still, it was so when
        // the pidfd was made: the number was the launcher's and not a later process's.
        let again = self.find(&asked.workload_id)?;
        let is_same = |again: Listed| {
            (again.launcher_pid, again.started_at) == (asked.launcher_pid, asked.started_at)
        };
        Ok(again.is_some_and(is_same).then_some(pidfd))
    }
}

/// Why a workload was not seen to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// No workload of this id is alive.
    #[error("no workload {workload} is alive")]
    Unknown {
        /// The id.
        workload: WorkloadId,
    },
    /// The workloads could not be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// Its launcher could not be asked or waited for.
    #[error("the launcher of the workload could not be signalled")]
    Signal(#[source] io::Error),
    /// Its launcher is still there.
    #[error("workload {workload} was asked to end and is alive after {} s", timeout.as_secs())]
    TimedOut {
        /// The id.
        workload: WorkloadId,
        /// How long was waited.
        timeout: Duration,
    },
    /// It ended before it had a key, so there is no receipt.
    #[error("workload {workload} ended before it had a key")]
    NoKey {
        /// The id.
        workload: WorkloadId,
    },
    /// Its launcher was killed, and the receipt could not be written in its place.
    #[error("the launcher of the workload was lost")]
    Recover(#[from] RecoverError),
    /// The ledger could not be read.
    #[error("the receipt could not be looked up")]
    Read(#[from] ReadError),
    /// The receipt in the ledger is not one.
    #[error("the receipt could not be read")]
    Receipt(#[from] StatementError),
}

impl StopError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "stop.unknown",
            Self::List(error) => error.code(),
            Self::Signal(_) => "stop.signal",
            Self::TimedOut { .. } => "stop.timed-out",
            Self::NoKey { .. } => "stop.no-key",
            Self::Recover(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::Receipt(error) => error.code(),
        }
    }
}
