//! Registers: the place where a key can be that is not memory.
//!
//! When a thread waits, the kernel writes its registers to ordinary memory, and a core file or a
//! debugger shows them. Zeroing them first is not enough: XSAVEC and XSAVES leave components out
//! that are in their initial state, so that the save area keeps what it held before. A public
//! non-zero pattern is what overwrites it, in every component, upper halves included.

use std::arch::asm;
use std::io;
use std::time::Duration;

/// One asm block: the x87 registers, the vector registers from `rax`, the general ones, the call.
///
/// `emms` marks the x87 registers empty, before because `fld1` wants room and after because the
/// calling convention does; they keep their 1.0. `rbx` and `rbp` cannot be declared, so they are
/// saved: what the caller has in them is not computed from a key here.
macro_rules! ppoll_after {
    ($fds:expr, $timeout:expr, $($fill:literal,)+) => {{
        let answer: i64;
        // SAFETY: the instructions are ones that `vector_state` found. `clobber_abi` declares all
        // vector, mask, x87 and MMX registers and the general ones that a call may change; the
        // others are declared or saved. ppoll(2) writes to the slice and the timeout, both
        // borrowed mutably, and to nothing else.
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
                ".irp r, ebx,ebp,r8d,r9d,r10d,r11d,r12d,r13d,r14d,r15d,ecx",
                r"xor \r, \r",
                ".endr",
                "mov eax, {ppoll}",
                "syscall",
                "pop rbp",
                "pop rbx",
                ppoll = const libc::SYS_ppoll,
                inlateout("rax") PATTERN => answer,
                in("rdi") $fds.as_mut_ptr(),
                in("rsi") $fds.len(),
                in("rdx") $timeout,
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
    let answer = fill_and_ppoll(vector_state(), fds, timespec.as_mut());
    usize::try_from(answer).map_err(|_| {
        io::Error::from_raw_os_error(i32::try_from(-answer).expect("an errno is below 4096"))
    })
}

/// The same without waiting, for the way to an end that is not a wait.
///
/// Only until other code runs: code compiled for AVX may zero upper halves when it returns.
pub fn quiesce() {
    let mut no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    fill_and_ppoll(vector_state(), &mut [], Some(&mut no_time));
}

/// Gives what the kernel does: a count, or an errno's negative. The kernel writes to `timeout` what
/// is left of it. `state` is what was found, or less.
fn fill_and_ppoll(
    state: VectorState,
    fds: &mut [libc::pollfd],
    timeout: Option<&mut libc::timespec>,
) -> i64 {
    let timeout = timeout.map_or(std::ptr::null_mut(), std::ptr::from_mut);
    match state {
        VectorState::Avx512 => ppoll_after!(
            fds,
            timeout,
            "vpbroadcastq zmm0, rax",
            ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            r"vmovdqa64 zmm\n, zmm0",
            ".endr",
            ".irp n, 0,1,2,3,4,5,6,7",
            r"kmovw k\n, eax",
            ".endr",
        ),
        VectorState::Avx => ppoll_after!(
            fds,
            timeout,
            "vmovq xmm0, rax",
            "vmovddup xmm0, xmm0",
            "vinsertf128 ymm0, ymm0, xmm0, 1",
            ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            r"vmovaps ymm\n, ymm0",
            ".endr",
        ),
        VectorState::Sse => ppoll_after!(
            fds,
            timeout,
            "movq xmm0, rax",
            "punpcklqdq xmm0, xmm0",
            ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            r"movaps xmm\n, xmm0",
            ".endr",
        ),
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

            assert_eq!(fill_and_ppoll(state, &mut [], Some(&mut no_time)), 0);
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
