//! A process, held by its pidfd: signalled, stopped, killed and seen to be gone.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{self, SigSet, SigmaskHow};
use procfs::FromRead as _;
use procfs::process::{ProcState, Stat};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::claim::ProcessName;

/// A process that this one started, or had started. Killed when it is dropped, and reaped where it
/// is a child.
#[derive(Debug)]
pub struct HeldProcess {
    pid: Pid,
    pidfd: OwnedFd,
    kinship: Kinship,
    ended: Option<Gone>,
}

/// Whether a process can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kinship {
    /// With waitid(2).
    Child,
    /// By its pidfd alone: somebody else reaps it, and is told how it ended.
    Stranger,
}

impl HeldProcess {
    /// Starts `command`.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let pid =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid is positive");
        // Until it is reaped its number is not given to another process.
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, pidfd, kinship: Kinship::Child, ended: None })
    }

    /// Starts `command` with the signals blocked that ask a process to end, so that one which
    /// arrives before it looks after them waits instead of ending it. A service manager that stops
    /// a unit sends SIGTERM to what the launcher starts for the receipt, too.
    pub(crate) fn spawn_shielded(command: &mut Command) -> io::Result<Self> {
        let ending = SigSet::from_iter(SHIELDED_FROM);
        let before = ending.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        // A child has its parent's mask, and keeps it when it executes a program.
        let spawned = Self::spawn(command);
        before.thread_set_mask()?;
        spawned
    }

    /// Takes hold of a process that is not this one's child.
    pub(crate) fn adopt(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, pidfd, kinship: Kinship::Stranger, ended: None })
    }

    /// Lets go of a process that turned out to be another one: it is not killed.
    pub(crate) fn let_go(mut self) {
        self.ended = Some(Gone { status: None, teller: Teller::Pidfd });
    }

    /// Takes over a child that a test started in its own way.
    #[cfg(test)]
    pub(crate) fn of_test(pid: u32, pidfd: OwnedFd) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
        Self { pid, pidfd, kinship: Kinship::Child, ended: None }
    }

    /// Sends a signal, and says nothing where the process is gone already.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(Errno::SRCH) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Stops the process and waits until it is stopped.
    ///
    /// Fails with [`io::ErrorKind::BrokenPipe`] where it ends instead.
    pub(crate) fn stop(&mut self) -> io::Result<Stopped> {
        self.signal(Signal::STOP)?;
        if self.kinship == Kinship::Stranger {
            return self.await_stop();
        }
        let states = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = self.wait(states)?;
        match status.is_some_and(|status| status.stopped()) {
            true => Ok(Stopped(())),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Waits until a process that is no child is stopped: nobody tells, so it is looked at.
    fn await_stop(&self) -> io::Result<Stopped> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            let stat = fs::read(format!("/proc/{}/stat", self.pid_u32()))?;
            let stat = Stat::from_read(stat.as_slice()).map_err(io::Error::other)?;
            if matches!(stat.state(), Ok(ProcState::Stopped)) {
                return Ok(Stopped(()));
            }
            if is_readable_within(self.pidfd.as_fd(), LOOK_AGAIN)? {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Kills the process and waits until it is gone.
    pub(crate) fn kill(&mut self, timeout: Duration) -> io::Result<Gone> {
        self.signal(Signal::KILL)?;
        self.await_end(timeout)
    }

    /// Waits for the end and reaps a child; fails with [`io::ErrorKind::TimedOut`].
    pub(crate) fn await_end(&mut self, timeout: Duration) -> io::Result<Gone> {
        if let Some(gone) = self.ended {
            return Ok(gone);
        }
        if !is_readable_within(self.pidfd.as_fd(), timeout)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let gone = match self.kinship {
            Kinship::Child => Gone { status: Some(self.wait_for_end()?), teller: Teller::Wait },
            Kinship::Stranger => Gone { status: None, teller: Teller::Pidfd },
        };
        self.ended = Some(gone);
        Ok(gone)
    }

    /// Waits for the end of a child, however long it takes, and reaps it.
    pub(crate) fn reap(&mut self) -> io::Result<EndStatus> {
        if let Some(status) = self.ended.and_then(Gone::status) {
            return Ok(status);
        }
        let status = self.wait_for_end()?;
        self.ended = Some(Gone { status: Some(status), teller: Teller::Wait });
        Ok(status)
    }

    fn wait_for_end(&self) -> io::Result<EndStatus> {
        let status = self.wait(WaitIdOptions::EXITED)?.ok_or(io::ErrorKind::Other)?;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ok(EndStatus::Exited(code)),
            (None, Some(signal)) => Ok(EndStatus::Signalled(signal)),
            (None, None) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The process id, as `/proc` and reports have it.
    pub fn pid_u32(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn wait(&self, options: WaitIdOptions) -> io::Result<Option<rustix::process::WaitIdStatus>> {
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl AsFd for HeldProcess {
    /// Readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for HeldProcess {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // Nobody is left to be told; a process that outlives this is the kernel's to end.
            self.kill(Duration::from_secs(2)).ok();
        }
    }
}

/// Proof that a process was stopped when it was last seen.
#[derive(Debug)]
pub(crate) struct Stopped(());

/// Proof that a process has ended. Its memory is the kernel's again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    status: Option<EndStatus>,
    teller: Teller,
}

/// By whom it is known how a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Teller {
    /// This process reaped it.
    Wait,
    /// Nobody: only that it ended is known.
    Pidfd,
    /// systemd reaped it.
    Systemd,
}

impl Gone {
    /// How it ended; `None` where nobody told.
    pub const fn status(self) -> Option<EndStatus> {
        self.status
    }

    /// What systemd, who reaped it, says of its end.
    pub(crate) const fn told_by_systemd(self, status: EndStatus) -> Self {
        Self { status: Some(status), teller: Teller::Systemd }
    }

    /// For tests of decisions that take a proof.
    #[cfg(test)]
    pub(crate) const fn of_test(status: EndStatus) -> Self {
        Self { status: Some(status), teller: Teller::Wait }
    }
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.status, self.teller) {
            (Some(status), Teller::Systemd) => {
                write!(f, "its pidfd says that it ended; systemd says: {status}")
            }
            (Some(status), _) => write!(f, "reaped: {status}"),
            (None, _) => f.write_str("no such process, or its pidfd says that it ended"),
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndStatus {
    /// It returned this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
}

impl std::fmt::Display for EndStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with status {code}"),
            Self::Signalled(signal) => write!(f, "ended by signal {signal}"),
        }
    }
}

/// Waits for the very process that was named to be gone, which is nobody's child here any more, and
/// kills it where it lingers.
pub(crate) fn await_orphan(name: &ProcessName, timeout: Duration) -> io::Result<Gone> {
    let gone = Ok(Gone { status: None, teller: Teller::Pidfd });
    if !name.exists()? {
        return gone;
    }
    let pid =
        i32::try_from(name.pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return gone,
        Err(errno) => return Err(errno.into()),
    };
    // Asked while the pidfd holds the number: it is this process that is waited for, or none.
    // One that its launcher had stopped to overwrite it cannot end by itself.
    let patience = if is_stopped(name.pid) { Duration::ZERO } else { timeout };
    if !name.exists()? || is_readable_within(pidfd.as_fd(), patience)? {
        return gone;
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(errno.into()),
    }
    match is_readable_within(pidfd.as_fd(), timeout)? {
        true => gone,
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Waits until a descriptor can be read, or its peer is gone; `false` where `timeout` passes first.
pub(crate) fn is_readable_within(
    descriptor: BorrowedFd<'_>,
    timeout: Duration,
) -> io::Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// When a process started, in clock ticks since boot (proc_pid_stat(5), field 22): with the boot's
/// id, what tells it from a later one of the same number. `None` where there is no such process.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    Stat::from_read(stat.as_slice()).ok().map(|stat| stat.starttime)
}

/// Whether a process is stopped by a signal.
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok();
    stat.and_then(|stat| Stat::from_read(stat.as_slice()).ok())
        .is_some_and(|stat| stat.state == 'T')
}

/// The kernel's id for this boot.
pub(crate) fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim_end().to_owned())
}

/// What asks a process to end; [`crate::command::ENDING`] in the types of sigprocmask(2).
const SHIELDED_FROM: [signal::Signal; 4] =
    [signal::SIGHUP, signal::SIGINT, signal::SIGQUIT, signal::SIGTERM];

/// For a process to stop that was told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

const LOOK_AGAIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::ENDING;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_process_is_stopped_killed_and_seen_to_be_gone() {
        let mut child = HeldProcess::spawn(Command::new("sleep").arg("60")).unwrap();
        let pid = child.pid_u32();
        assert!(start_time(pid).is_some());

        let _stopped: Stopped = child.stop().unwrap();
        let gone = child.kill(SOON).unwrap();

        assert_eq!(gone.status(), Some(EndStatus::Signalled(9)));
        assert_eq!(start_time(pid), None);
    }

    #[test]
    fn a_shielded_process_starts_with_what_would_end_it_blocked_and_its_parent_is_as_before() {
        let blocked = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/task/{pid}/status")).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap()
        };
        let mine = || SigSet::thread_get_mask().unwrap();
        let before = mine();

        let child = HeldProcess::spawn_shielded(Command::new("sleep").arg("60")).unwrap();

        let ending = ENDING.map(|signal| 1 << (signal.as_raw() - 1));
        assert_eq!(blocked(child.pid_u32()), ending.into_iter().sum::<u64>());
        assert_eq!(mine(), before);
    }

    #[test]
    fn stopping_a_process_that_has_ended_fails_and_its_status_is_kept() {
        let mut child = HeldProcess::spawn(Command::new("sh").args(["-c", "exit 7"])).unwrap();
        assert!(is_readable_within(child.as_fd(), SOON).unwrap());

        let refused = child.stop().unwrap_err();

        assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(child.await_end(SOON).unwrap().status(), Some(EndStatus::Exited(7)));
    }

    #[test]
    fn a_process_that_is_no_child_is_stopped_killed_and_seen_to_be_gone() {
        // Given a process that somebody else reaps,
        let mut parent = Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = parent.stdout.take().unwrap();
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).unwrap();
        let mut process = HeldProcess::adopt(line.trim().parse().unwrap()).unwrap();

        // When it is stopped and killed,
        let _stopped: Stopped = process.stop().unwrap();
        let gone = process.kill(SOON).unwrap();

        // Then it is known to be gone, and not how.
        assert_eq!(gone.status(), None);
        // By then it may have been reaped or not.
        let refused = process.stop().unwrap_err().kind();
        assert!([io::ErrorKind::NotFound, io::ErrorKind::BrokenPipe].contains(&refused));
        let told = gone.told_by_systemd(EndStatus::Signalled(9)).to_string();
        assert!(told.ends_with("systemd says: ended by signal 9"), "{told}");
        parent.wait().unwrap();
    }

    #[test]
    fn waiting_has_an_end() {
        let mut child = HeldProcess::spawn(Command::new("sleep").arg("60")).unwrap();

        let refused = child.await_end(Duration::from_millis(1)).unwrap_err();

        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    }
}
