//! The filter, both ways: every call that the table lists is made, and calls that it does not list,
//! or lists with other arguments, end the process by SIGSYS.

#![expect(unsafe_code, reason = "the tests fork and make raw system calls")]

use std::sync::atomic::{AtomicBool, Ordering};

use evanesce_worker::seccomp::{self, RULES, When};

/// How a forked child ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Exited,
    Killed(i32),
}

/// Arguments that are harmless wherever a rule does not ask for others: no descriptor, no address.
const HARMLESS: [i64; 6] = [-1, 0, 0, 0, 0, 0];

#[test]
fn every_call_of_the_table_is_let_through() {
    // Returning from a handler that never ran is a fault of its own: it has the next test.
    for rule in RULES.iter().filter(|rule| rule.number != libc::SYS_rt_sigreturn) {
        let mut arguments = HARMLESS;
        match rule.number {
            libc::SYS_exit_group => arguments[0] = 0,
            // One descriptor, at an address that is none: fails instead of waiting for ever.
            libc::SYS_ppoll => arguments[1] = 1,
            _ => {}
        }
        for when in rule.when {
            match *when {
                When::Is(position, value) => arguments[usize::from(position)] = value.into(),
                When::Lacks(..) => {}
                When::IsOwnPid(position) => arguments[usize::from(position)] = OWN_PID,
            }
        }
        let expected = match rule.number {
            // It sends SIGABRT to itself; that the call was let through is what kills it.
            libc::SYS_kill => End::Killed(libc::SIGABRT),
            _ => End::Exited,
        };
        assert_eq!(call_in_cage(rule.number, arguments), expected, "{} ({})", rule.name, rule.why);
    }
}

#[test]
fn a_listed_call_with_other_arguments_is_fatal() {
    let executable = i64::from(libc::PROT_READ | libc::PROT_EXEC);
    for (number, arguments) in [
        (libc::SYS_mmap, [0, 4096, executable, PRIVATE_ANONYMOUS, -1, 0]),
        (libc::SYS_prctl, [i64::from(libc::PR_SET_DUMPABLE), 2, 0, 0, 0, 0]),
        (libc::SYS_prctl, [i64::from(libc::PR_SET_PTRACER), -1, 0, 0, 0, 0]),
        (libc::SYS_prctl, [i64::from(libc::PR_SET_NAME), 0, 0, 0, 0, 0]),
        (libc::SYS_fcntl, [0, i64::from(libc::F_SETFD), 0, 0, 0, 0]),
        // A terminal's input can be filled by TIOCSTI, and read back by TIOCLINUX.
        (libc::SYS_ioctl, [0, 0x5412, 0, 0, 0, 0]),
        (libc::SYS_ioctl, [0, 0x541c, 0, 0, 0, 0]),
        (libc::SYS_prlimit64, [0, 4, 4096, 0, 0, 0]),
        (libc::SYS_prlimit64, [1, 4, 0, 0, 0, 0]),
        (libc::SYS_getsockopt, [0, 1, i64::from(libc::SO_TYPE), 0, 0, 0]),
        (libc::SYS_kill, [1, i64::from(libc::SIGABRT), 0, 0, 0, 0]),
        (libc::SYS_kill, [OWN_PID, i64::from(libc::SIGSTOP), 0, 0, 0, 0]),
    ] {
        assert_eq!(call_in_cage(number, arguments), End::Killed(libc::SIGSYS), "call {number}");
    }
}

#[test]
fn calls_that_open_execute_connect_or_reach_other_processes_are_fatal() {
    for number in [
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_creat,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_sendto,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_mprotect,
        libc::SYS_pkey_mprotect,
        libc::SYS_memfd_create,
        libc::SYS_memfd_secret,
        libc::SYS_vmsplice,
        libc::SYS_splice,
        libc::SYS_sendfile,
        libc::SYS_io_uring_setup,
        libc::SYS_bpf,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_setuid,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setrlimit,
        libc::SYS_rt_sigaction,
        libc::SYS_dup2,
    ] {
        assert_eq!(call_in_cage(number, HARMLESS), End::Killed(libc::SIGSYS), "call {number}");
    }
}

#[test]
fn a_signal_handler_can_return() {
    extern "C" fn handle(_: libc::c_int) {
        HANDLED.store(true, Ordering::SeqCst);
    }
    static HANDLED: AtomicBool = AtomicBool::new(false);
    let handler = handle as extern "C" fn(libc::c_int);

    let end = in_child(|| {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(libc::SIGVTALRM, handler as *const () as libc::sighandler_t) };
        let soon = libc::timeval { tv_sec: 0, tv_usec: 1000 };
        let timer = libc::itimerval { it_interval: soon, it_value: soon };
        // SAFETY: the timer is valid for the call, and no old one is asked for.
        unsafe { libc::setitimer(libc::ITIMER_VIRTUAL, &raw const timer, std::ptr::null_mut()) };
        let status = i32::from(seccomp::apply().is_err());
        while !HANDLED.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        status
    });

    assert_eq!(end, End::Exited);
}

/// Makes one system call in a forked child that has the filter in force.
fn call_in_cage(number: libc::c_long, arguments: [i64; 6]) -> End {
    in_child(|| {
        let own_pid = i64::from(std::process::id());
        let [a, b, c, d, e, f] = arguments.map(|argument| match argument {
            OWN_PID => own_pid,
            other => other,
        });
        let status = i32::from(seccomp::apply().is_err());
        // SAFETY: the arguments are integers that name no memory and no descriptor of this process.
        let _answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        status
    })
}

/// Runs `body` in a forked child, which exits with what it returns: zero is wanted.
fn in_child(body: impl FnOnce() -> i32) -> End {
    // SAFETY: the child makes system calls, allocates (which glibc allows after fork) and exits; it
    // takes no lock of the test harness.
    let child = unsafe { libc::fork() };
    assert_ne!(child, -1, "fork failed");
    if child == 0 {
        let status = body();
        // SAFETY: ends the child without running anything of the test harness.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above and writes its status to `status`.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    match libc::WIFSIGNALED(status) {
        true => End::Killed(libc::WTERMSIG(status)),
        false => {
            assert_eq!(libc::WEXITSTATUS(status), 0, "the filter could not be applied");
            End::Exited
        }
    }
}

/// Stands for the child's own process id in a list of arguments.
const OWN_PID: i64 = i64::MIN;

const PRIVATE_ANONYMOUS: i64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64;
