//! What registers hold, and what the kernel writes of them, before and after they are quiesced.
#![expect(unsafe_code, reason = "plants values in registers and traces a child")]
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]

mod common;

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use common::{alone, fork, wait};
use evanesce_guarded_memory::registers::{
    PATTERN, VectorState, quiesce, quiesce_and_poll, quiesce_and_wait, vector_state,
};

/// Stands for eight bytes of a key.
const PLANTED: u64 = 0x6b65_7962_7974_6573;

/// The largest save area that is expected: with AMX it has about 11 KiB.
#[repr(C, align(64))]
struct SaveArea([u8; 16 << 10]);

#[test]
fn a_poll_returns_what_ppoll_returns() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut fds = [libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 }];

    assert_eq!(quiesce_and_poll(&mut fds, Some(Duration::ZERO)).unwrap(), 0);
    drop(writer);
    assert_eq!(quiesce_and_poll(&mut fds, None).unwrap(), 1);
    assert_eq!(fds[0].revents, libc::POLLHUP);

    let too_long = Some(Duration::from_secs(u64::MAX));
    assert_eq!(quiesce_and_poll(&mut fds, too_long).unwrap(), 1);
}

#[test]
fn a_wait_returns_what_epoll_pwait_returns() {
    let (reader, writer) = std::io::pipe().unwrap();
    let set = epoll_of(reader.as_raw_fd());
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];

    assert!(quiesce_and_wait(set.as_fd(), &mut events, Some(Duration::ZERO)).unwrap().is_empty());
    drop(writer);
    let came = quiesce_and_wait(set.as_fd(), &mut events, None).unwrap();
    assert_eq!(came.len(), 1);
    assert_eq!({ came[0].u64 }, 7);
    assert_eq!(quiesce_and_wait(set.as_fd(), &mut [], None).unwrap_err().raw_os_error(), Some(22));
}

/// A set with one descriptor, named 7.
fn epoll_of(descriptor: i32) -> OwnedFd {
    // SAFETY: makes a descriptor.
    let set = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: 7 };
    // SAFETY: both descriptors are open, and the event is valid for the call.
    let added = unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, descriptor, &raw mut event) };
    assert_eq!(added, 0);
    // SAFETY: the descriptor was just made and is nobody else's.
    unsafe { OwnedFd::from_raw_fd(set) }
}

#[test]
fn the_callers_own_values_survive() {
    let numbers: [f64; 8] = std::array::from_fn(|index| std::hint::black_box(index as f64) * 1.5);
    quiesce();
    let sum: f64 = numbers.iter().sum();
    assert_eq!(sum.to_bits(), 42.0_f64.to_bits());
}

/// A register in its initial state is left out by XSAVEC, and the area keeps the key. That is
/// what a pattern is for, and it makes the zeroing of registers the control of this test.
#[test]
fn a_save_area_that_held_a_key_keeps_it_after_zeroing_but_not_after_quiescing() {
    if !is_x86_feature_detected!("xsavec") || vector_state() == VectorState::Sse {
        return; // Nothing is left out where there is no XSAVEC.
    }
    let mut area = SaveArea([0; 16 << 10]);

    plant();
    save_compact(&mut area);
    let planted = count_planted(&area.0);
    assert!(planted >= 32, "{planted}");

    plant();
    zero_vectors();
    save_compact(&mut area);
    assert!(count_planted(&area.0) >= 16, "zeroing was enough: {}", count_planted(&area.0));

    plant();
    quiesce();
    save_compact(&mut area);
    assert_eq!(count_planted(&area.0), 0);
}

/// The state that a core file, a debugger and the kernel's own save area have of a waiting thread.
#[test]
fn a_thread_that_waits_has_the_pattern_in_every_register_that_can_hold_a_key() {
    let _alone = alone();
    let waiting = state_in(libc::SYS_ppoll, || {
        plant();
        quiesce_and_poll(&mut [], None)
    });
    assert_pattern_and_zero(&waiting);
    for (name, value) in [
        ("r10", waiting.general.r10),
        ("rsi, the number of descriptors", waiting.general.rsi),
        ("rdx, no timeout", waiting.general.rdx),
    ] {
        assert_eq!(value, 0, "{name}");
    }

    let (reader, _writer) = std::io::pipe().unwrap();
    let set = epoll_of(reader.as_raw_fd());
    let waiting = state_in(libc::SYS_epoll_pwait, || {
        plant();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        quiesce_and_wait(set.as_fd(), &mut events, None).map(<[_]>::len)
    });
    assert_pattern_and_zero(&waiting);
    assert_eq!(waiting.general.rdx, 4, "the number of events");
    assert_eq!(waiting.general.r10, u64::from(u32::MAX), "no timeout");
}

/// The pattern in every vector and mask register, zero in the general ones that no call needs.
fn assert_pattern_and_zero(waiting: &WaitingState) {
    assert_eq!(count_planted(&waiting.extended), 0);
    for (name, range) in vector_components() {
        let component = &waiting.extended[range];
        assert!(component.chunks(8).all(|word| word == PATTERN.to_ne_bytes()), "{name}");
    }
    if vector_state() == VectorState::Avx512 {
        let masks = &waiting.extended[component(5)];
        assert!(masks.chunks(8).all(|mask| mask == (PATTERN & 0xffff).to_ne_bytes()));
    }
    for register in waiting.extended[X87].chunks(16) {
        assert_eq!(register[..10], [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f], "1.0 in 80 bits");
    }
    let general = waiting.general;
    for (name, value) in [
        ("rbx", general.rbx),
        ("rbp", general.rbp),
        ("r8", general.r8),
        ("r9", general.r9),
        ("r12", general.r12),
        ("r13", general.r13),
        ("r14", general.r14),
        ("r15", general.r15),
    ] {
        assert_eq!(value, 0, "{name}");
    }
    assert_eq!(general.rcx, general.rip, "the system call's return address");
    assert_eq!(general.r11, general.eflags, "and its flags");
}

/// Without this, the test above could pass because it looks in the wrong place.
#[test]
fn a_thread_that_waits_without_quiescing_shows_what_it_computed_with() {
    let _alone = alone();
    let waiting = state_in(libc::SYS_ppoll, || {
        plant();
        // SAFETY: waits for ever on no descriptor at all, without a mask.
        unsafe { libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0) }
    });

    let expected = match vector_state() {
        VectorState::Avx512 => 32 * 8,
        VectorState::Avx => 16 * 4,
        _ => 16 * 2,
    };
    assert!(count_planted(&waiting.extended) >= expected, "{}", count_planted(&waiting.extended));
}

struct WaitingState {
    general: libc::user_regs_struct,
    extended: Vec<u8>,
}

/// Runs `body` in a traced child until it enters a system call, and takes its registers there.
fn state_in<R>(call: libc::c_long, body: impl FnOnce() -> R) -> WaitingState {
    let child = fork(|| {
        trace(libc::PTRACE_TRACEME, 0, 0, 0);
        // SAFETY: stops the process until the parent has looked.
        unsafe { libc::raise(libc::SIGSTOP) };
        body()
    });
    assert!(libc::WIFSTOPPED(wait(child)));
    let options = usize::try_from(libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL).unwrap();
    trace(libc::PTRACE_SETOPTIONS, child, 0, options);

    let state = loop {
        trace(libc::PTRACE_SYSCALL, child, 0, 0);
        let status = wait(child);
        assert!(libc::WIFSTOPPED(status), "the child ended: {status:#x}");
        assert_eq!(libc::WSTOPSIG(status), libc::SIGTRAP | 0x80, "not a system call");
        let general = general_registers(child);
        if general.orig_rax == u64::try_from(call).unwrap() {
            break WaitingState { general, extended: extended_registers(child) };
        }
    };
    // SAFETY: ends the child made above, which was not reaped yet.
    unsafe { libc::kill(child, libc::SIGKILL) };
    while libc::WIFSTOPPED(wait(child)) {}
    state
}

fn general_registers(child: libc::pid_t) -> libc::user_regs_struct {
    // SAFETY: a structure of integers may be all zero.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    trace(libc::PTRACE_GETREGS, child, 0, (&raw mut registers).expose_provenance());
    registers
}

fn extended_registers(child: libc::pid_t) -> Vec<u8> {
    const NT_X86_XSTATE: usize = 0x202;
    let mut bytes = vec![0_u8; 16 << 10];
    let mut into = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    trace(libc::PTRACE_GETREGSET, child, NT_X86_XSTATE, (&raw mut into).expose_provenance());
    bytes.truncate(into.iov_len);
    bytes
}

fn trace(request: libc::c_uint, child: libc::pid_t, address: usize, data: usize) {
    // SAFETY: `data` is an option word, or the address of a live structure of the kind that the
    // request fills in.
    let done = unsafe { libc::ptrace(request, child, address, data) };
    assert_eq!(done, 0, "ptrace {request}: {}", std::io::Error::last_os_error());
}

/// Puts [`PLANTED`] into every vector and mask register, as a signature's code would.
fn plant() {
    match vector_state() {
        // SAFETY: instructions the CPU was found to have; every register they change is declared.
        VectorState::Avx512 => unsafe {
            asm!(
                "vpbroadcastq zmm0, rax",
                ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                r"vmovdqa64 zmm\n, zmm0",
                ".endr",
                "kmovw k1, eax",
                in("rax") PLANTED,
                clobber_abi("sysv64"),
            );
        },
        // SAFETY: as above.
        VectorState::Avx => unsafe {
            asm!(
                "vmovq xmm0, rax",
                "vmovddup xmm0, xmm0",
                "vinsertf128 ymm0, ymm0, xmm0, 1",
                ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                r"vmovaps ymm\n, ymm0",
                ".endr",
                in("rax") PLANTED,
                clobber_abi("sysv64"),
            );
        },
        // SAFETY: as above.
        _ => unsafe {
            asm!(
                "movq xmm0, rax",
                "punpcklqdq xmm0, xmm0",
                ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                r"movaps xmm\n, xmm0",
                ".endr",
                in("rax") PLANTED,
                clobber_abi("sysv64"),
            );
        },
    }
}

fn zero_vectors() {
    if vector_state() == VectorState::Avx512 {
        // SAFETY: instructions the CPU was found to have; every register they change is declared.
        unsafe {
            asm!(
                ".irp n, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                r"vpxorq zmm\n, zmm\n, zmm\n",
                ".endr",
                clobber_abi("sysv64"),
            );
        }
    }
    // SAFETY: as above; both kinds of CPU that get here have AVX.
    unsafe {
        asm!("vzeroall", clobber_abi("sysv64"));
    }
}

fn save_compact(area: &mut SaveArea) {
    // SAFETY: XSAVEC was found; it writes less than the area has, at an address that is a multiple
    // of 64, and changes no register.
    unsafe {
        asm!(
            "xsavec64 [{area}]",
            area = in(reg) area.0.as_mut_ptr(),
            in("eax") u32::MAX,
            in("edx") u32::MAX,
            options(nostack, preserves_flags),
        );
    }
}

fn count_planted(bytes: &[u8]) -> usize {
    bytes.windows(8).filter(|window| **window == PLANTED.to_ne_bytes()).count()
}

/// Where the vector registers are in the standard form of the XSAVE area (Intel SDM volume 1,
/// 13.4; the components' offsets by CPUID leaf 13).
fn vector_components() -> Vec<(&'static str, std::ops::Range<usize>)> {
    let mut components = vec![("xmm0-15", XMM)];
    if vector_state() != VectorState::Sse {
        components.push(("upper halves of ymm0-15", component(2)));
    }
    if vector_state() == VectorState::Avx512 {
        components.push(("upper halves of zmm0-15", component(6)));
        components.push(("zmm16-31", component(7)));
    }
    components
}

fn component(number: u32) -> std::ops::Range<usize> {
    let leaf = __cpuid_count(13, number);
    leaf.ebx as usize..(leaf.ebx + leaf.eax) as usize
}

const X87: std::ops::Range<usize> = offset_of!(libc::user_fpregs_struct, st_space)..XMM.start;
const XMM: std::ops::Range<usize> = offset_of!(libc::user_fpregs_struct, xmm_space)
    ..offset_of!(libc::user_fpregs_struct, xmm_space) + 256;
