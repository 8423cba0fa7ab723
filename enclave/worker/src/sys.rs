//! The few system calls that have no safe wrapper: one operation each, nothing left to promise.

#![expect(unsafe_code, reason = "listed in enclave/SAFETY.md; each call is wrapped here, once")]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// Takes descriptor 0, the control channel, out of the hands of the standard library.
pub(crate) fn take_control() -> OwnedFd {
    // SAFETY: descriptor 0 is open (the runtime opens /dev/null where it was closed), and nothing
    // else in this process owns or uses it: the worker never touches `std::io::stdin`.
    unsafe { OwnedFd::from_raw_fd(libc::STDIN_FILENO) }
}

/// A descriptor that can be read once SIGTERM has come, which is blocked and so interrupts nothing.
pub(crate) fn termination() -> io::Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset(3) writes a whole signal set to the place it is given.
    check(unsafe { libc::sigemptyset(set.as_mut_ptr()) }.into())?;
    // SAFETY: the set was initialised above.
    check(unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM) }.into())?;
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: signalfd(2) reads the set, which was initialised above, and makes a new descriptor.
    let descriptor = unsafe { libc::signalfd(-1, set.as_ptr(), flags) };
    check(descriptor.into())?;
    // SAFETY: the descriptor was just made, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Closes every descriptor from `first` up. Called before anything of the worker's own is open.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(io::Error::other)?;
    // SAFETY: close_range(2) takes three integers. The worker owns no descriptor from `first` up
    // yet, so none is closed behind its owner's back.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) })
}

/// Blocks every signal that can be blocked, but for SIGXCPU, by which the signer's watch ends a
/// guest that does not come back, and SIGABRT, by which a worker ends itself once it has wiped.
/// Faults are still delivered: they are synchronous.
pub(crate) fn block_signals() -> io::Result<()> {
    let mut all = std::mem::MaybeUninit::uninit();
    // SAFETY: sigfillset(3) writes a whole signal set to the place it is given.
    check(unsafe { libc::sigfillset(all.as_mut_ptr()) }.into())?;
    // SAFETY: the set was initialised above.
    check(unsafe { libc::sigdelset(all.as_mut_ptr(), libc::SIGXCPU) }.into())?;
    // SAFETY: the set was initialised above.
    check(unsafe { libc::sigdelset(all.as_mut_ptr(), libc::SIGABRT) }.into())?;
    // SAFETY: the set was initialised above; no old set is asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut()) }.into())
}

/// `PR_SET_MDWE`: memory that was writable never becomes executable (Linux 6.3 and later).
pub(crate) fn deny_write_execute() -> io::Result<()> {
    // SAFETY: prctl(2) with PR_SET_MDWE takes integers only.
    check(unsafe { libc::prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) }.into())
}

/// Whether `PR_SET_MDWE` is in force.
pub(crate) fn denies_write_execute() -> bool {
    // SAFETY: prctl(2) with PR_GET_MDWE takes integers only.
    let flags = unsafe { libc::prctl(PR_GET_MDWE, 0, 0, 0, 0) };
    flags > 0 && libc::c_ulong::from(flags.unsigned_abs()) & PR_MDWE_REFUSE_EXEC_GAIN != 0
}

/// Whether a descriptor is open.
pub(crate) fn is_open(descriptor: RawFd) -> bool {
    // SAFETY: fcntl(2) with F_GETFD takes integers and changes nothing.
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) != -1 }
}

fn check(answer: libc::c_long) -> io::Result<()> {
    match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

// include/uapi/linux/prctl.h
const PR_SET_MDWE: libc::c_int = 65;
const PR_GET_MDWE: libc::c_int = 66;
const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;
