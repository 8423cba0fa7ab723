//! Ends a process whose guest does not come back.
//!
//! A signature takes microseconds. One that uses seconds of CPU time is a broken invariant, for
//! which there is one answer: wipe, then abort. The kernel counts the time, so that guest code
//! carries no counter and a signature costs nothing.

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use evanesce_guarded_memory::registry;
use libc::{c_int, c_void, siginfo_t, timer_t};

/// CPU time of this thread between two looks, in seconds. A call that two looks find running is
/// ended, so a call gets between one and two of these.
const LOOK_EVERY_S: i64 = 1;

/// What the kernel raises for spent CPU time (setrlimit(2)), and we do for the same.
const SIGNAL: c_int = libc::SIGXCPU;

/// Watches the guest calls of this thread.
///
/// # Invariants
///
/// 1. The timer counts the CPU time of the thread that made it and signals that thread: the type is
///    not `Send`.
/// 2. `calls` lives as long as the process: a signal that is pending when the timer is deleted still
///    carries its address.
pub(crate) struct Watch {
    timer: timer_t,
    calls: &'static Calls,
    _this_thread: PhantomData<*const ()>,
}

/// What the handler looks at.
struct Calls {
    /// Calls begun and calls ended, together: odd while one runs.
    edges: AtomicU64,
    /// The value at the last look.
    seen: AtomicU64,
}

impl Watch {
    /// Starts to watch.
    ///
    /// # Errors
    ///
    /// As sigaction(2), timer_create(2) and timer_settime(2).
    pub(crate) fn start() -> io::Result<Self> {
        install_handler()?;
        let calls: &'static Calls =
            Box::leak(Box::new(Calls { edges: AtomicU64::new(0), seen: AtomicU64::new(0) }));
        let watch = Self { timer: make_timer(calls)?, calls, _this_thread: PhantomData };
        watch.arm()?;
        Ok(watch)
    }

    /// Runs one guest call under the watch.
    pub(crate) fn during<R>(&self, call: impl FnOnce() -> R) -> R {
        let begun = self.calls.edges.load(Ordering::Relaxed) + 1;
        self.calls.edges.store(begun, Ordering::SeqCst);
        let answer = call();
        self.calls.edges.store(begun + 1, Ordering::SeqCst);
        answer
    }

    fn arm(&self) -> io::Result<()> {
        let period = libc::timespec { tv_sec: LOOK_EVERY_S, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: the timer is ours and alive, the setting is valid for the call.
        let answer =
            unsafe { libc::timer_settime(self.timer, 0, &raw const setting, std::ptr::null_mut()) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the timer is ours, and nothing can use it after `drop` took `&mut self`.
        let answer = unsafe { libc::timer_delete(self.timer) };
        debug_assert_eq!(answer, 0, "deleting a timer we own cannot fail");
    }
}

fn install_handler() -> io::Result<()> {
    // SAFETY: all zero is a valid `sigaction`: default action, no flags, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = (look as extern "C" fn(_, _, _) as *const ()).expose_provenance();
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the action is valid for the call, and `look` may interrupt any code: it reads and
    // writes atomics and calls nothing that allocates or locks.
    let answer = unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn make_timer(calls: &'static Calls) -> io::Result<timer_t> {
    // SAFETY: all zero is a valid `sigevent`.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = SIGNAL;
    event.sigev_value.sival_ptr = std::ptr::from_ref(calls).cast_mut().cast();
    // SAFETY: takes nothing and names the calling thread.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer: timer_t = std::ptr::null_mut();
    let clock = libc::CLOCK_THREAD_CPUTIME_ID;
    // SAFETY: event and timer are valid for the call.
    let answer = unsafe { libc::timer_create(clock, &raw mut event, &raw mut timer) };
    if answer == 0 { Ok(timer) } else { Err(io::Error::last_os_error()) }
}

/// The handler: ends the process when the call of the last look still runs.
///
/// Also when someone else than a timer raised the signal, which ended the process before there was
/// a handler, too.
extern "C" fn look(_signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: SA_SIGINFO: the kernel passes a valid pointer.
    let info = unsafe { &*info };
    if info.si_code != libc::SI_TIMER {
        registry::wipe_all_and_abort();
    }
    // SAFETY: a timer's signal has a value.
    let calls = unsafe { info.si_value() }.sival_ptr.cast::<Calls>();
    // SAFETY: all timers of this signal are made by `make_timer`, and invariant 2 holds.
    let calls = unsafe { &*calls };
    let edges = calls.edges.load(Ordering::SeqCst);
    if calls.seen.swap(edges, Ordering::SeqCst) == edges && edges % 2 == 1 {
        registry::wipe_all_and_abort();
    }
}
