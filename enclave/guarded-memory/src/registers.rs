//! Registers: the place where a key can be that is not memory.
//!
//! When a thread waits, the kernel writes its registers to ordinary memory, and a core file or a
//! debugger shows them. Zeroing them first is not enough: XSAVEC and XSAVES leave components out
//! that are in their initial state, so that the save area keeps what it held before. A public
//! non-zero pattern is what overwrites it, in every component, upper halves included.

use std::arch::asm;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

/// One asm block: the x87 registers, the vector registers from `rax`, the general ones, the call.
///
/// `emms` marks the x87 registers empty, before because `fld1` wants room and after because the
/// calling convention does; they keep their 1.0. `rbx` and `rbp` cannot be declared, so they are
/// saved: what the caller has in them is not computed from a key here.
macro_rules! call_after {
    ($call:expr, $($fill:literal,)+) => {{
        let Call { arguments: [first, second, third, fourth], .. } = $call;
        let answer: i64;
        // SAFETY: the instructions are ones that `vector_state` found. `clobber_abi` declares all
        // vector, mask, x87 and MMX registers and the general ones that a call may change; the
        // others are declared or saved. The call itself touches only what it borrows (invariant 1).
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "emms",
                ".rept 8",
                "fld1",
                ".endr",
                "emms",
                $($fill,)+
                ".irp r, ebx,ebp,r8d,r9d,r11d,r12d,r13d,r14d,r15d,ecx",
                r"xor \r, \r",
                ".endr",
                "mov eax, {number}",
                "syscall",
                "pop rbp",
                "pop rbx",
                number = const NUMBER,
                inlateout("rax") PATTERN => answer,
                in("rdi") first,
                in("rsi") second,
                in("rdx") third,
                in("r10") fourth,
                out("r12") _,
                out("r13") _,
                out("r14") _,
                out("r15") _,
                clobber_abi("sysv64"),
            );
        }
        answer
    }};
}

/// The system call `NUMBER`, with its first four arguments; the others are zero.
///
/// # Invariants
///
/// 1. It reads and writes only memory that is borrowed for `'m`.
struct Call<'m, const NUMBER: i64> {
    arguments: [u64; 4],
    _memory: PhantomData<&'m mut ()>,
}

/// What the vector registers hold after [`quiesce`], in each eight bytes, and the mask registers in
/// their lowest two.
pub const PATTERN: u64 = 0x5afe_5afe_5afe_5afe;

/// Which registers this CPU and kernel have, and the pattern therefore covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VectorState {
    /// `zmm0` to `zmm31` and `k0` to `k7`.
    Avx512,
    /// `ymm0` to `ymm15`.
    Avx,
    /// `xmm0` to `xmm15`.
    Sse,
}

/// What was found, by CPUID and XGETBV: what the CPU has and the kernel saves.
pub fn vector_state() -> VectorState {
    if is_x86_feature_detected!("avx512f") {
        VectorState::Avx512
    } else if is_x86_feature_detected!("avx") {
        VectorState::Avx
    } else {
        VectorState::Sse
    }
}

/// Loads [`PATTERN`] into every vector and mask register, 1.0 into every x87 (and so MMX) register
/// and zero into every general one, then waits for the descriptors by ppoll(2) with nothing in
/// between.
///
/// The general registers that the system call needs hold its number and arguments. Tile registers
/// (AMX) are not covered: a thread has none before it asks for them by arch_prctl(2).
///
/// Gives the number of descriptors with an event, zero after the timeout. `None` waits for ever.
///
/// # Errors
///
/// As ppoll(2), `EINTR` included.
pub fn quiesce_and_poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
    let mut timespec = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    count(ppoll(fds, timespec.as_mut()).make(vector_state()))
}

/// The same as [`quiesce_and_poll`], by epoll_pwait(2): for a set that is waited for again and
/// again, whose descriptors the kernel then need not be told each time.
///
/// Gives the events that came, at the start of `events`; none after the timeout. `None` waits for
/// ever; other times are rounded down to milliseconds.
///
/// # Errors
///
/// As epoll_pwait(2), `EINTR` included.
pub fn quiesce_and_wait<'e>(
    epoll: BorrowedFd<'_>,
    events: &'e mut [libc::epoll_event],
    timeout: Option<Duration>,
) -> io::Result<&'e [libc::epoll_event]> {
    let timeout_ms =
        timeout.map_or(-1, |timeout| i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX));
    let came = count(epoll_pwait(epoll, events, timeout_ms).make(vector_state()))?;
    Ok(&events[..came])
}

/// The same without waiting, for the way to an end that is not a wait.
///
/// Only until other code runs: code compiled for AVX may zero upper halves when it returns.
pub fn quiesce() {
    let mut no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    ppoll(&mut [], Some(&mut no_time)).make(vector_state());
}

/// The kernel writes events to `fds`, and to `timeout` what is left of it.
fn ppoll<'m>(
    fds: &'m mut [libc::pollfd],
    timeout: Option<&'m mut libc::timespec>,
) -> Call<'m, { libc::SYS_ppoll }> {
    let timeout = timeout.map_or(0, |timeout| address(std::ptr::from_mut(timeout)));
    Call::new([address(fds.as_mut_ptr()), fds.len() as u64, timeout, 0])
}

/// The kernel writes to `events`.
fn epoll_pwait<'m>(
    epoll: BorrowedFd<'_>,
    events: &'m mut [libc::epoll_event],
    timeout_ms: i32,
) -> Call<'m, { libc::SYS_epoll_pwait }> {
    let number = |value: i32| u64::from(value.cast_unsigned());
    let room = i32::try_from(events.len()).unwrap_or(i32::MAX);
    let events = address(events.as_mut_ptr());
    Call::new([number(epoll.as_raw_fd()), events, number(room), number(timeout_ms)])
}

fn address<T>(pointer: *mut T) -> u64 {
    pointer.expose_provenance() as u64
}

/// Reads what the kernel answers: a count, or an errno's negative.
fn count(answer: i64) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_| {
        io::Error::from_raw_os_error(i32::try_from(-answer).expect("an errno is below 4096"))
    })
}

impl<const NUMBER: i64> Call<'_, NUMBER> {
    fn new(arguments: [u64; 4]) -> Self {
        Self { arguments, _memory: PhantomData }
    }

    /// Fills the registers and makes the call. `state` is what was found, or less.
    fn make(self, state: VectorState) -> i64 {
        match state {
            VectorState::Avx512 => call_after!(
                self,
                "vpbroadcastq zmm0, rax",
                ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                r"vmovdqa64 zmm\n, zmm0",
                ".endr",
                ".irp n, 0,1,2,3,4,5,6,7",
                r"kmovw k\n, eax",
                ".endr",
            ),
            VectorState::Avx => call_after!(
                self,
                "vmovq xmm0, rax",
                "vmovddup xmm0, xmm0",
                "vinsertf128 ymm0, ymm0, xmm0, 1",
                ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                r"vmovaps ymm\n, ymm0",
                ".endr",
            ),
            VectorState::Sse => call_after!(
                self,
                "movq xmm0, rax",
                "punpcklqdq xmm0, xmm0",
                ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                r"movaps xmm\n, xmm0",
                ".endr",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that has AVX-512 takes one of the three ways; this takes the other two on it.
    #[test]
    fn each_way_of_filling_reaches_the_registers_that_it_is_for() {
        for (state, words_each) in [(VectorState::Sse, 2), (VectorState::Avx, 4)] {
            if state == VectorState::Avx && vector_state() == VectorState::Sse {
                continue;
            }
            let mut no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let mut words = [0_u64; 16 * 4];

            assert_eq!(ppoll(&mut [], Some(&mut no_time)).make(state), 0);
            store(words_each, &mut words);

            assert!(words[..16 * words_each].iter().all(|word| *word == PATTERN), "{state:?}");
        }
    }

    fn store(words_each: usize, words: &mut [u64; 64]) {
        if words_each == 4 {
            // SAFETY: writes 16 times 32 bytes to the array; AVX was found.
            unsafe {
                asm!(
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    r"vmovups [{words} + 32*\n], ymm\n",
                    ".endr",
                    words = in(reg) words.as_mut_ptr(),
                    options(nostack, preserves_flags),
                );
            }
        } else {
            // SAFETY: writes 16 times 16 bytes to the array.
            unsafe {
                asm!(
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    r"movups [{words} + 16*\n], xmm\n",
                    ".endr",
                    words = in(reg) words.as_mut_ptr(),
                    options(nostack, preserves_flags),
                );
            }
        }
    }
}
