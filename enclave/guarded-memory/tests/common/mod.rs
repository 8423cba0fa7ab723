//! Children to break things in, and this process's own smaps.
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]
#![expect(unsafe_code, reason = "forks, waits, filters system calls, touches fenced memory")]
#![allow(dead_code, reason = "each test file uses its own part of this module")]

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use evanesce_guarded_memory::{Backing, PageBytes};
use evanesce_protocol::smaps::{self, MissingClaim};

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    By(i32),
    With(i32),
}

pub(crate) const SEGMENTATION_FAULT: Ended = Ended::By(libc::SIGSEGV);
pub(crate) const ABORTED: Ended = Ended::By(libc::SIGABRT);
pub(crate) const SUCCESS: Ended = Ended::With(0);

/// Held by every test of a file that forks or counts: no other test then runs between a fork and
/// its end, or maps what is being counted.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `body` in a forked child, which succeeds if `body` returns. Nothing of the parent is
/// dropped there.
pub(crate) fn in_child<R>(body: impl FnOnce() -> R) -> Ended {
    let child = fork(body);
    loop {
        let status = wait(child);
        if libc::WIFSIGNALED(status) {
            return Ended::By(libc::WTERMSIG(status));
        }
        if libc::WIFEXITED(status) {
            return Ended::With(libc::WEXITSTATUS(status));
        }
    }
}

/// Forks a child that runs `body` and ends; gives its id.
pub(crate) fn fork<R>(body: impl FnOnce() -> R) -> libc::pid_t {
    // SAFETY: other threads are in `alone` or idle, so that no lock the child needs is held, and
    // the child ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", io::Error::last_os_error());
    if child == 0 {
        let status = if catch_unwind(AssertUnwindSafe(body)).is_ok() { 0 } else { 101 };
        // SAFETY: ends the process without running anything else.
        unsafe { libc::_exit(status) };
    }
    child
}

/// Waits for the next change of a child.
pub(crate) fn wait(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: writes to the local.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child, "waitpid: {}", io::Error::last_os_error());
    status
}

/// From now on memfd_secret(2) fails in this process as it does where the kernel lacks it.
pub(crate) fn take_secret_pages_away() {
    let load_number = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    let if_memfd_secret = libc::sock_filter {
        code: u16::try_from(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K).unwrap(),
        jt: 0,
        jf: 1,
        k: u32::try_from(libc::SYS_memfd_secret).unwrap(),
    };
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::ENOSYS).unwrap();
    let mut filter = [
        load_number,
        if_memfd_secret,
        statement(libc::BPF_RET | libc::BPF_K, refuse),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: sets a flag of the process.
    let no_new_privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(no_new_privileges, 0);
    // SAFETY: the kernel copies the program and its four instructions, which outlive the call.
    let filtered =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(filtered, 0, "seccomp: {}", io::Error::last_os_error());
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap(), jt: 0, jf: 0, k }
}

/// Holds a range against what the kernel says of it.
pub(crate) fn check_smaps(range: Range<usize>, backing: Backing) -> Result<(), Vec<MissingClaim>> {
    let range = range.start as u64..range.end as u64;
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    smaps::check(&entries_near(&text, &range), range, backing)
}

/// The whole text is longer than the parser takes: like the worker, pick the entries that matter.
fn entries_near(text: &str, range: &Range<u64>) -> Vec<smaps::Entry> {
    let mut picked = String::new();
    let mut is_near = false;
    for line in text.lines() {
        let head = line.split_once(' ').and_then(|(addresses, _)| {
            let (start, end) = addresses.split_once('-')?;
            Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
        });
        if let Some((start, end)) = head {
            is_near = end >= range.start && start <= range.end;
        }
        if is_near {
            picked.push_str(line);
            picked.push('\n');
        }
    }
    smaps::parse(&picked).unwrap()
}

/// Reads a byte wherever it is.
pub(crate) fn touch(address: usize) -> u8 {
    // SAFETY: none: the tests want to see the process killed where the address is fenced off.
    unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() }
}

pub(crate) fn kib(count: usize) -> PageBytes {
    PageBytes::holding(count * 1024).unwrap()
}
