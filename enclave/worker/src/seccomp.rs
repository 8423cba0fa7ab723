//! The system calls a caged worker makes, each with its reason; any other kills the process.
//!
//! The table is the review: [`RULES`] is compiled to the filter as it stands, and
//! `tests/seccomp.rs` makes every call in it, and a list of calls that are not.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// One system call that is allowed. Rules for the same call are alternatives.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its number.
    pub number: libc::c_long,
    /// Its name, as its manual page has it.
    pub name: &'static str,
    /// What its arguments have to be; all of them.
    pub when: &'static [When],
    /// What the worker needs it for.
    pub why: &'static str,
}

/// A condition on one argument of a system call, by its position from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The argument, as 32 bits, is this number.
    Is(u8, i32),
    /// The argument, as 32 bits, has none of these bits.
    Lacks(u8, i32),
    /// The argument is the worker's own process id.
    IsOwnPid(u8),
}

/// Everything a caged worker may ask of the kernel.
pub const RULES: &[Rule] = &[
    allow(libc::SYS_epoll_pwait, "epoll_pwait", &[], "waits for all that a service is served by"),
    allow(
        libc::SYS_ppoll,
        "ppoll",
        &[],
        "waits for orders and secrets; clears registers before an end",
    ),
    allow(libc::SYS_read, "read", &[], "reads clients, the key file, secrets, timers and smaps"),
    allow(
        libc::SYS_write,
        "write",
        &[],
        "answers clients, appends to the journal, asks for secrets",
    ),
    allow(libc::SYS_close, "close", &[], "closes connections and files that were read"),
    allow(libc::SYS_recvmsg, "recvmsg", &[], "receives orders and their descriptors"),
    allow(libc::SYS_sendmsg, "sendmsg", &[], "sends reports"),
    allow(libc::SYS_accept4, "accept4", &[], "takes clients of the agent socket"),
    allow(
        libc::SYS_getsockopt,
        "getsockopt",
        &[When::Is(1, libc::SOL_SOCKET), When::Is(2, libc::SO_PEERCRED)],
        "asks which user a client is",
    ),
    allow(libc::SYS_epoll_create1, "epoll_create1", &[], "makes the set that a service waits for"),
    allow(libc::SYS_epoll_ctl, "epoll_ctl", &[], "adds clients to it, and what to wait for"),
    allow(libc::SYS_timerfd_create, "timerfd_create", &[], "makes the clock of the time to live"),
    allow(libc::SYS_signalfd4, "signalfd4", &[], "sees SIGTERM without a handler"),
    allow(libc::SYS_getrandom, "getrandom", &[], "entropy for a key that is born here"),
    allow(libc::SYS_timerfd_settime, "timerfd_settime", &[], "starts the time to live"),
    allow(
        libc::SYS_mmap,
        "mmap",
        &[When::Lacks(2, libc::PROT_EXEC)],
        "the heap, scrypt's memory; never executable memory",
    ),
    allow(libc::SYS_munmap, "munmap", &[], "the heap, scrypt's memory"),
    allow(libc::SYS_mremap, "mremap", &[], "the heap"),
    allow(libc::SYS_madvise, "madvise", &[], "the heap, scrypt's memory"),
    allow(libc::SYS_sigaltstack, "sigaltstack", &[], "gives the guarded signal stack back"),
    allow(libc::SYS_brk, "brk", &[], "the heap"),
    allow(
        libc::SYS_prctl,
        "prctl",
        &[When::Is(0, libc::PR_SET_DUMPABLE), When::Is(1, 1)],
        "after the wipe: lets the launcher overwrite what is left",
    ),
    allow(
        libc::SYS_prctl,
        "prctl",
        &[When::Is(0, libc::PR_GET_DUMPABLE)],
        "reads the cage back for the report",
    ),
    allow(
        libc::SYS_prctl,
        "prctl",
        &[When::Is(0, libc::PR_GET_NO_NEW_PRIVS)],
        "reads the cage back for the report",
    ),
    allow(
        libc::SYS_prctl,
        "prctl",
        &[When::Is(0, PR_GET_MDWE)],
        "reads the cage back for the report",
    ),
    allow(
        libc::SYS_prlimit64,
        "prlimit64",
        &[When::Is(0, 0), When::Is(1, RLIMIT_CORE), When::Is(2, 0)],
        "reads the core limit back for the report; sets nothing",
    ),
    allow(
        libc::SYS_fcntl,
        "fcntl",
        &[When::Is(1, libc::F_GETFD)],
        "asks which descriptors are open, for the report",
    ),
    terminal(TCGETS2, "asks what the terminal shows, where a passphrase is typed"),
    terminal(TCGETS, "the same, of older kernels"),
    terminal(TCSETS2, "has the terminal show again what is typed"),
    terminal(TCSETS, "the same, of older kernels"),
    terminal(TCSETSF2, "has the terminal show nothing while a passphrase is typed"),
    terminal(TCSETSF, "the same, of older kernels"),
    allow(libc::SYS_timer_delete, "timer_delete", &[], "ends the watch over the signer's calls"),
    allow(libc::SYS_rt_sigreturn, "rt_sigreturn", &[], "leaves the watch's look at a running call"),
    allow(libc::SYS_getpid, "getpid", &[], "names itself to end itself"),
    allow(
        libc::SYS_kill,
        "kill",
        &[When::IsOwnPid(0), When::Is(1, libc::SIGABRT)],
        "ends itself after a broken invariant",
    ),
    allow(libc::SYS_exit_group, "exit_group", &[], "ends itself"),
];

/// Puts the filter in force for this thread, and so for this single-threaded process, for good.
///
/// # Errors
///
/// [`ApplyError`]; no filter is in force then.
pub fn apply() -> Result<(), ApplyError> {
    let program = program(std::process::id())?;
    seccompiler::apply_filter(&program).map_err(|error| {
        ApplyError::Install(match error {
            seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
            other => io::Error::other(other.to_string()),
        })
    })
}

/// The rules as the kernel takes them, for the process `own_pid`.
///
/// # Errors
///
/// [`ApplyError::Compile`], which a test of the table rules out.
pub fn program(own_pid: u32) -> Result<BpfProgram, ApplyError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in RULES {
        let alternatives = rules.entry(rule.number).or_default();
        if !rule.when.is_empty() {
            let conditions =
                rule.when.iter().map(|when| when.condition(own_pid)).collect::<Result<_, _>>()?;
            alternatives.push(SeccompRule::new(conditions)?);
        }
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(filter.try_into()?)
}

impl When {
    fn condition(self, own_pid: u32) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (argument, operator, value) = match self {
            Self::Is(argument, value) => (argument, SeccompCmpOp::Eq, value.cast_unsigned()),
            Self::Lacks(argument, bits) => {
                (argument, SeccompCmpOp::MaskedEq(u64::from(bits.cast_unsigned())), 0)
            }
            Self::IsOwnPid(argument) => (argument, SeccompCmpOp::Eq, own_pid),
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
    }
}

/// Why no filter is in force.
#[derive(Debug)]
#[non_exhaustive]
pub enum ApplyError {
    /// The table is not a filter.
    Compile(seccompiler::BackendError),
    /// The kernel refused it.
    Install(io::Error),
}

impl From<seccompiler::BackendError> for ApplyError {
    fn from(error: seccompiler::BackendError) -> Self {
        Self::Compile(error)
    }
}

const fn allow(
    number: libc::c_long,
    name: &'static str,
    when: &'static [When],
    why: &'static str,
) -> Rule {
    Rule { number, name, when, why }
}

/// One of the requests by which a terminal is told what to show.
const fn terminal(request: &'static [When], why: &'static str) -> Rule {
    allow(libc::SYS_ioctl, "ioctl", request, why)
}

// include/uapi/asm-generic/ioctls.h
const TCGETS: &[When] = &[When::Is(1, 0x5401)];
const TCSETS: &[When] = &[When::Is(1, 0x5402)];
const TCSETSF: &[When] = &[When::Is(1, 0x5404)];
const TCGETS2: &[When] = &[When::Is(1, 0x802c_542a_u32.cast_signed())];
const TCSETS2: &[When] = &[When::Is(1, 0x402c_542b)];
const TCSETSF2: &[When] = &[When::Is(1, 0x402c_542d)];

/// include/uapi/linux/prctl.h
const PR_GET_MDWE: i32 = 66;

/// include/uapi/asm-generic/resource.h
const RLIMIT_CORE: i32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_a_filter() {
        let program = program(1).unwrap();

        assert!(program.len() > RULES.len());
    }

    #[test]
    fn a_call_is_either_free_or_conditional_in_every_rule_it_has() {
        for rule in RULES {
            let free = RULES.iter().filter(|other| other.number == rule.number);
            let frees = free.filter(|other| other.when.is_empty()).count();
            assert!(frees == 0 || rule.when.is_empty(), "{} is free and conditional", rule.name);
        }
    }

    #[test]
    fn nothing_that_opens_executes_or_reaches_another_process_is_allowed() {
        for forbidden in [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_mprotect,
            libc::SYS_memfd_create,
            libc::SYS_io_uring_setup,
            libc::SYS_bpf,
            libc::SYS_vmsplice,
        ] {
            assert!(RULES.iter().all(|rule| rule.number != forbidden), "call {forbidden}");
        }
    }
}
