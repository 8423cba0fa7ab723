//! The outside part of a scrub for any process of the operator's own: one that held a key without
//! a cage.
//!
//! It is stopped, its private memory overwritten and read back, and killed. What cannot be reached
//! is counted, page by page: any left makes the receipt say `incomplete`.
//!
//! # What it cannot see
//!
//! What the process wrote elsewhere before: files, sockets, pipes, other processes, and the
//! registers that the kernel saved when it stopped. Another process that shares all of its memory
//! (`CLONE_VM`) is not stopped.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use evanesce_ledger::receipt::{Claim, Known, Observer, ScrubStatement, Separation, Unproven};
use evanesce_ledger::row::ShreddedRow;
use evanesce_ledger::shred::{LedgerHead, LeftPages, ShredFate, ShredTimes, ShreddedProcess};
use evanesce_ledger::{AppendError, Envelope, Event, Predicate as _, ShredReceipt};
use procfs::process::{
    MMPermissions, MMapPath, MemoryMap, MemoryMaps, ProcState, Stat, Status, VmFlags,
};
use procfs::{FromBufRead as _, FromRead as _};
use rustix::io::Errno;
use rustix::param::page_size;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

use crate::claim::ProcessName;
use crate::host;
use crate::launcher::{Launcher, ListError};
use crate::notary::{NO_TERMS, NotaryError};
use crate::process::is_readable_within;
use crate::scrub::{Buffers, PAGE_PRESENT, PAGE_SWAPPED, extend_runs, for_each_page, pages_of};

/// A process that can be shredded: held by its pidfd, and its memory can be opened.
#[derive(Debug)]
pub struct Target {
    pidfd: OwnedFd,
    process: ShreddedProcess,
}

impl Target {
    /// Takes hold of a process and changes nothing about it.
    ///
    /// # Errors
    ///
    /// [`TargetError`] where there is no such process, or it is not for this user to shred.
    pub fn open(pid: u32) -> Result<Self, TargetError> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or(TargetError::None { pid })?;
        if pid == std::process::id() || raw.is_init() {
            return Err(TargetError::Vital { pid });
        }
        let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => {
                return Err(TargetError::None { pid });
            }
            Err(errno) => return Err(TargetError::Open { pid, source: errno.into() }),
        };
        let open = |source| TargetError::Open { pid, source };
        let name = ProcessName::of(pid).map_err(open)?;
        let status = fs::read(format!("/proc/{pid}/status")).map_err(open)?;
        let status =
            Status::from_read(status.as_slice()).map_err(|error| open(io::Error::other(error)))?;
        let own = geteuid();
        if !own.is_root() && (status.ruid, status.euid) != (own.as_raw(), own.as_raw()) {
            return Err(TargetError::OtherUser { pid, uid: status.euid });
        }
        Memory::open(pid).map_err(open)?;
        // While it lives its number is not given to another: all that was read is of this one.
        if is_readable_within(pidfd.as_fd(), Duration::ZERO).map_err(open)? {
            return Err(TargetError::None { pid });
        }
        let ProcessName { start_time, boot_id, .. } = name;
        let process =
            ShreddedProcess { pid, start_time, boot_id, name: status.name, uid: status.euid };
        Ok(Self { pidfd, process })
    }

    /// The process.
    pub const fn process(&self) -> &ShreddedProcess {
        &self.process
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Stops every thread and waits until they are. Where they do not, they go on.
    fn stop(&self) -> Result<(), ShredError> {
        self.signal(Signal::STOP).map_err(ShredError::Stop)?;
        let deadline = Instant::now() + STEP_TIMEOUT;
        while !self.is_stopped().map_err(ShredError::Stop)? {
            // The pidfd is no clock; it is asked whether the process ended meanwhile.
            if is_readable_within(self.pidfd.as_fd(), LOOK_AGAIN).map_err(ShredError::Stop)? {
                return Err(ShredError::Ended { pid: self.process.pid });
            }
            if Instant::now() > deadline {
                self.signal(Signal::CONT).map_err(ShredError::Stop)?;
                return Err(ShredError::Stop(io::ErrorKind::TimedOut.into()));
            }
        }
        Ok(())
    }

    fn is_stopped(&self) -> io::Result<bool> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.pid))? {
            let stat = match fs::read(thread?.path().join("stat")) {
                Ok(stat) => stat,
                // A thread that ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let stat = Stat::from_read(stat.as_slice()).map_err(io::Error::other)?;
            if !matches!(stat.state(), Ok(ProcState::Stopped)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Kills the process and waits for its end.
    fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
        match is_readable_within(self.pidfd.as_fd(), STEP_TIMEOUT)? {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// A process that was shredded, and its receipt in the ledger.
#[derive(Debug)]
#[must_use = "its receipt says whether anything is left"]
pub struct Shredded {
    /// What the receipt says.
    pub receipt: ShredReceipt,
    /// The receipt as the notary signed it.
    pub envelope: Envelope,
    /// Its row in the ledger.
    pub row: u64,
}

impl Launcher {
    /// Stops a process, overwrites what it alone has, reads it back, kills the process, waits for
    /// its end, and writes the receipt.
    ///
    /// # Errors
    ///
    /// [`ShredError`]. Up to [`ShredError::Stop`] the process is as it was; after that it is gone.
    pub fn shred(&self, target: &Target) -> Result<Shredded, ShredError> {
        let pid = target.process.pid;
        let is_ours = |listed: &crate::launcher::Listed| {
            [listed.worker_pid, listed.launcher_pid].contains(&pid)
        };
        if let Some(listed) = self.list()?.iter().find(|listed| is_ours(listed)) {
            let workload = listed.workload_id.clone();
            return Err(ShredError::IsWorkload { pid, workload });
        }
        // First of all: without a notary nothing is begun that nobody could vouch for.
        let mut notary = self.notary().open(NO_TERMS).map_err(Box::new)?;
        target.stop()?;
        let stopped = self.clock.now();
        let overwritten = Memory::open(pid).and_then(Memory::overwrite);
        // Whatever came of that: a process whose memory is half gone must not run again.
        let killed = target.kill();
        let times = ShredTimes { stopped, ended: self.clock.now() };

        let mut ledger = self.ledger.borrow_mut();
        let id = ledger.id();
        // Locked until the row is in: the receipt names the row before it.
        let mut writer = ledger.lock()?;
        let key = notary.key().id();
        let mut signed = None;
        let row = writer.append_after(self.clock.now(), |last, head| {
            let before = LedgerHead { id, last, head };
            let separation = notary.separation();
            let receipt =
                receipt(before, target.process.clone(), times, overwritten, killed, separation);
            let sign = receipt.clone().sign(key, |bytes| notary.sign(bytes));
            let envelope = sign.map_err(Box::new)?;
            signed = Some((receipt, envelope.clone()));
            Ok::<_, ShredError>(Event::Shredded(ShreddedRow { envelope }))
        })?;
        let (receipt, envelope) = signed.expect("the row that was appended holds it");
        let row = row.last;
        drop(writer);
        notary.close().map_err(Box::new)?;
        Ok(Shredded { receipt, envelope, row })
    }
}

/// What may be said of these steps.
fn receipt(
    ledger: LedgerHead,
    process: ShreddedProcess,
    times: ShredTimes,
    overwritten: io::Result<Overwritten>,
    killed: io::Result<()>,
    separation: Separation,
) -> ShredReceipt {
    let host = host::facts();
    let mut statements = Vec::new();
    let mut unproven = Vec::new();
    let mut state = |claim, observer, detail: &str| {
        statements.push(ScrubStatement { claim, observer, detail: detail.to_owned() });
    };
    state(Claim::Stopped, Observer::ObservedOutside, "every thread: T (stopped)");
    let claim = Claim::PrivatePagesOverwrittenAndReadBack;
    let overwritten = overwritten.unwrap_or_else(|error| {
        unproven.push(Unproven { claim, reason: error.to_string() });
        Overwritten::default()
    });
    if unproven.is_empty() && overwritten.left.unwritable == 0 {
        let detail = format!("{} bytes", overwritten.bytes);
        state(claim, Observer::ObservedOutside, &detail);
    }
    match killed {
        Ok(()) => {
            state(Claim::KilledByPidfd, Observer::ObservedOutside, "pidfd_send_signal: SIGKILL");
            state(Claim::ProcessGone, Observer::ObservedOutside, "its pidfd says that it ended");
        }
        Err(error) => {
            unproven.push(Unproven { claim: Claim::ProcessGone, reason: error.to_string() });
        }
    }
    if host.init_on_free == Known::Yes {
        state(Claim::PagesClearedOnFree, Observer::RestsOnKernel, "init_on_free=1");
    }
    ShredReceipt {
        ledger,
        process,
        fate: ShredFate::of(&overwritten.left, &unproven),
        times,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        statements,
        unproven,
        bytes_overwritten: overwritten.bytes,
        pages_absent: overwritten.pages_absent,
        pages_unmodified: overwritten.pages_unmodified,
        left: overwritten.left,
        separation,
        host,
    }
}

/// What was done to a process's memory.
#[derive(Debug, Default)]
struct Overwritten {
    bytes: u64,
    pages_absent: u64,
    pages_unmodified: u64,
    left: LeftPages,
}

/// A process's memory and what is known of it.
struct Memory {
    memory: File,
    pagemap: File,
    maps: MemoryMaps,
}

impl Memory {
    fn open(pid: u32) -> io::Result<Self> {
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        let maps = fs::read(format!("/proc/{pid}/smaps"))?;
        let maps = MemoryMaps::from_buf_read(maps.as_slice()).map_err(io::Error::other)?;
        Ok(Self { memory, pagemap, maps })
    }

    /// Overwrites every page that the process wrote and does not share, and counts the others.
    fn overwrite(self) -> io::Result<Overwritten> {
        let mut done = Overwritten::default();
        let mut buffers = Buffers::default();
        for map in &self.maps.0 {
            match Kind::of(map) {
                Kind::Kernels | Kind::ReadOnly => {}
                Kind::SharedMemory => done.left.shared += self.resident(map)?,
                Kind::SharedFile => done.left.file_backed += self.resident(map)?,
                Kind::Private => {
                    for run in self.private_pages(map, &mut done)? {
                        let pages = run.end - run.start;
                        match buffers.overwrite(&self.memory, run) {
                            Ok(bytes) => done.bytes += bytes,
                            Err(_) => done.left.unwritable += pages,
                        }
                    }
                }
            }
        }
        Ok(done)
    }

    /// The pages of a private mapping that the process wrote, in runs.
    fn private_pages(
        &self,
        map: &MemoryMap,
        done: &mut Overwritten,
    ) -> io::Result<Vec<Range<u64>>> {
        let pages = pages_of(map.address);
        // A reservation of terabytes, as runtimes make them, has no page to look at.
        if is_empty(map) {
            done.pages_absent += pages.end - pages.start;
            return Ok(Vec::new());
        }
        let mut runs = Vec::new();
        let mut doubtful = Vec::new();
        for_each_page(&self.pagemap, pages, |page, entry| {
            if entry & PAGE_SWAPPED != 0 {
                done.left.swapped += 1;
                extend_runs(&mut runs, page);
            } else if entry & PAGE_PRESENT == 0 {
                done.pages_absent += 1;
            } else if entry & PAGE_OF_FILE != 0 {
                done.pages_unmodified += 1;
            } else {
                extend_runs(&mut runs, page);
                if entry & PAGE_EXCLUSIVE == 0 {
                    doubtful.push(page);
                }
            }
        })?;
        for page in doubtful {
            // The kernel's page of zeros looks like a page that a child shares.
            done.left.copy_on_write += u64::from(!self.is_zero(page));
        }
        Ok(runs)
    }

    fn is_zero(&self, page: u64) -> bool {
        let mut content = vec![0xff; page_size()];
        let read = self.memory.read_exact_at(&mut content, page * page_size() as u64);
        read.is_ok() && content.iter().all(|byte| *byte == 0)
    }

    /// Pages of a shared mapping that the process has touched.
    fn resident(&self, map: &MemoryMap) -> io::Result<u64> {
        let mut count = 0;
        if !is_empty(map) {
            for_each_page(&self.pagemap, pages_of(map.address), |_, entry| {
                count += u64::from(entry & (PAGE_PRESENT | PAGE_SWAPPED) != 0);
            })?;
        }
        Ok(count)
    }
}

/// Whose a mapping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The process's alone, once it has written to it.
    Private,
    /// Shared, and it never could write to it.
    ReadOnly,
    /// Shared memory without a file.
    SharedMemory,
    /// A file.
    SharedFile,
    /// The kernel's own pages in every process.
    Kernels,
}

impl Kind {
    fn of(map: &MemoryMap) -> Self {
        match &map.pathname {
            MMapPath::Vdso | MMapPath::Vvar | MMapPath::Vsyscall => return Self::Kernels,
            MMapPath::Other(name) if name.starts_with("vvar") => return Self::Kernels,
            _ => {}
        }
        if map.perms.contains(MMPermissions::PRIVATE) {
            return Self::Private;
        }
        // `mw`: it may write, or may ask to with mprotect(2).
        if !map.extension.vm_flags.contains(VmFlags::MW) {
            return Self::ReadOnly;
        }
        let without_file = |path: &std::path::Path| {
            SHARED_MEMORY.iter().any(|start| path.to_string_lossy().starts_with(start))
        };
        match &map.pathname {
            MMapPath::Path(path) if !without_file(path) => Self::SharedFile,
            _ => Self::SharedMemory,
        }
    }
}

/// Whether a mapping has no page in memory or in swap.
fn is_empty(map: &MemoryMap) -> bool {
    let bytes = |field| map.extension.map.get(field).copied().unwrap_or(1);
    bytes("Rss") == 0 && bytes("Swap") == 0
}

/// Why a process cannot be shredded. It is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// There is none of this number.
    #[error("there is no process {pid}")]
    None {
        /// The number.
        pid: u32,
    },
    /// It is this one, or the first of the machine.
    #[error("process {pid} is this command itself or the first of the machine")]
    Vital {
        /// The process.
        pid: u32,
    },
    /// It is another user's.
    #[error("process {pid} is of user {uid}")]
    OtherUser {
        /// The process.
        pid: u32,
        /// Its user.
        uid: u32,
    },
    /// The kernel does not let this user at its memory.
    #[error("the memory of process {pid} could not be opened")]
    Open {
        /// The process.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

impl TargetError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::None { .. } => "shred.no-process",
            Self::Vital { .. } => "shred.vital",
            Self::OtherUser { .. } => "shred.other-user",
            Self::Open { .. } => "shred.open",
        }
    }
}

/// Why there is no receipt of a process's end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShredError {
    /// The workloads could not be listed.
    #[error(transparent)]
    List(#[from] ListError),
    /// It is a workload's launcher or worker, which know a better end.
    #[error("process {pid} belongs to workload {workload}")]
    IsWorkload {
        /// The process.
        pid: u32,
        /// The workload.
        workload: evanesce_protocol::WorkloadId,
    },
    /// The notary did not come up, or did not sign.
    #[error("the notary did not sign the receipt")]
    Notary(#[from] Box<NotaryError>),
    /// It ended before it was stopped.
    #[error("process {pid} ended before it could be stopped")]
    Ended {
        /// The process.
        pid: u32,
    },
    /// It did not stop.
    #[error("the process could not be stopped")]
    Stop(#[source] io::Error),
    /// The ledger took no row.
    #[error("the process is gone, and its receipt could not be appended to the ledger")]
    Ledger(#[from] AppendError),
}

impl ShredError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::List(error) => error.code(),
            Self::IsWorkload { .. } => "shred.is-workload",
            Self::Notary(error) => error.code(),
            Self::Ended { .. } => "shred.ended",
            Self::Stop(_) => "shred.stop",
            Self::Ledger(error) => error.code(),
        }
    }
}

/// For a process to stop, and again to end.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at whether it has stopped.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Shared memory that has a name and no file.
const SHARED_MEMORY: [&str; 4] = ["/memfd:", "/dev/zero", "/dev/shm/", "/secretmem"];

/// proc_pid_pagemap(5): of a file or shared memory; mapped here and nowhere else.
const PAGE_OF_FILE: u64 = 1 << 61;
const PAGE_EXCLUSIVE: u64 = 1 << 56;

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::test_process::{SECRET, holder_of_a_secret, ready};

    /// Stops it, overwrites it, and looks for a text before and after; then kills it.
    fn overwrite(mut child: Child, text: &[u8]) -> (Overwritten, bool, bool) {
        let target = Target::open(child.id()).unwrap();
        target.stop().unwrap();
        let before = holds(child.id(), text);
        let overwritten = Memory::open(child.id()).and_then(Memory::overwrite).unwrap();
        let after = holds(child.id(), text);
        target.kill().unwrap();
        child.wait().unwrap();
        (overwritten, before, after)
    }

    fn holds(pid: u32, text: &[u8]) -> bool {
        let memory = Memory::open(pid).unwrap();
        let readable = |map: &&MemoryMap| {
            map.perms.contains(MMPermissions::READ) && Kind::of(map) == Kind::Private
        };
        memory.maps.0.iter().filter(readable).any(|map| {
            let bytes = usize::try_from(map.address.1 - map.address.0).unwrap();
            let mut content = vec![0; bytes];
            memory.memory.read_exact_at(&mut content, map.address.0).is_ok()
                && content.windows(text.len()).any(|window| window == text)
        })
    }

    #[test]
    fn of_a_process_that_shares_nothing_nothing_is_left() {
        let (done, before, after) = overwrite(holder_of_a_secret(), SECRET);

        assert!(before && !after, "found before: {before}, after: {after}");
        assert_eq!(done.left, LeftPages::default());
        assert!(done.bytes >= 64 * 1024 && done.pages_unmodified > 0, "{done:?}");
    }

    /// The child keeps what the parent had when it forked.
    #[test]
    fn pages_that_a_child_still_shares_are_counted() {
        let hold =
            "exec 3<&0; secret=$(printf 'attack-at-%s' dawn); (read -r _ <&3) & echo ready; wait";

        let (done, before, after) = overwrite(ready("bash", &["-c", hold]), SECRET);

        assert!(before && !after, "the parent's own copy is overwritten all the same");
        assert!(done.left.copy_on_write > 0, "{done:?}");
    }

    #[test]
    fn pages_of_shared_memory_and_of_a_file_are_counted_apart() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state");
        fs::write(&file, [0; 8192]).unwrap();
        let hold = "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 8192); \
                    m[:] = b'k' * 8192; s = mmap.mmap(-1, 4096); s[:6] = b'attack'; \
                    print('ready', flush=True); input()";

        let python = ready("python3", &["-c", hold, file.to_str().unwrap()]);
        let (done, _, _) = overwrite(python, b"attack");

        assert_eq!((done.left.file_backed, done.left.shared), (2, 1), "{done:?}");
        assert_eq!(fs::read(&file).unwrap(), [b'k'; 8192], "what is shared is not written to");
    }

    #[test]
    fn what_is_no_target_is_refused_by_name() {
        let code = |pid| Target::open(pid).unwrap_err().code();
        let mut ended = Command::new("true").spawn().unwrap();
        is_readable_within(
            pidfd_open(Pid::from_child(&ended), PidfdFlags::empty()).unwrap().as_fd(),
            STEP_TIMEOUT,
        )
        .unwrap();

        assert_eq!(code(std::process::id()), "shred.vital");
        assert_eq!(code(1), "shred.vital");
        assert_eq!(code(0), "shred.no-process");
        assert_eq!(code(u32::MAX), "shred.no-process");
        assert_eq!(code(i32::MAX.unsigned_abs()), "shred.no-process");
        assert!(["shred.no-process", "shred.open"].contains(&code(ended.id())), "a zombie");
        ended.wait().unwrap();
    }
}
