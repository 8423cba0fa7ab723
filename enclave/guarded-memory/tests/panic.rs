//! The last thing a broken worker does.
#![expect(unsafe_code, reason = "traces a child and reads its memory")]
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]

mod common;

use std::ffi::c_void;

use common::{alone, fork, kib, take_secret_pages_away, wait};
use evanesce_guarded_memory::{GuardedStack, Region, Strength, registry};

const CANARY: u8 = 0xa7;
const BYTES: usize = 16 << 10;

/// Secret pages could not be looked at from outside, so this takes locked ones, and looks at the
/// moment when SIGABRT is about to be delivered.
#[test]
fn wiping_all_leaves_nothing_in_any_range_not_even_in_the_stack_it_ran_on() {
    let _alone = alone();
    // Given a child with a region and a guarded stack full of a canary,
    let mut page = [0_usize; 2];
    let child = fork(|| {
        take_secret_pages_away();
        let mut region = Region::map("region", kib(16), Strength::AllowDegraded).unwrap();
        let mut stack = GuardedStack::map("stack", kib(16), Strength::AllowDegraded).unwrap();
        region.with_mut(|bytes| bytes.fill(CANARY));
        page = [region.base().as_ptr().addr(), stack.range().start];
        // SAFETY: lets the parent trace this process.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        stack.run(|| {
            let canaries = std::hint::black_box([CANARY; 1024]);
            stop_and_show(&page);
            std::hint::black_box(canaries);
            registry::wipe_all_and_abort();
        });
    });
    let region_and_stack = shown_by(child);
    for start in region_and_stack {
        assert!(peek_all(child, start).iter().filter(|byte| **byte == CANARY).count() >= 1024);
    }

    // When it wipes all and aborts, on that stack,
    // SAFETY: lets the traced child go on.
    unsafe { libc::ptrace(libc::PTRACE_CONT, child, 0, 0) };
    let status = wait(child);

    // Then everything is zero before the signal arrives, and it is SIGABRT that ends it.
    assert!(libc::WIFSTOPPED(status));
    assert_eq!(libc::WSTOPSIG(status), libc::SIGABRT);
    for start in region_and_stack {
        assert!(peek_all(child, start).iter().all(|byte| *byte == 0));
    }
    // SAFETY: delivers the signal to the traced child.
    unsafe { libc::ptrace(libc::PTRACE_CONT, child, 0, libc::SIGABRT) };
    let status = wait(child);
    assert!(libc::WIFSIGNALED(status));
    assert_eq!(libc::WTERMSIG(status), libc::SIGABRT);
}

/// Stops with the address of `page` in `rdi`, for the tracer.
fn stop_and_show(page: &[usize; 2]) {
    // SAFETY: a breakpoint changes nothing.
    unsafe { std::arch::asm!("int3", in("rdi") page) }
}

fn shown_by(child: libc::pid_t) -> [usize; 2] {
    let status = wait(child);
    assert!(libc::WIFSTOPPED(status), "{status:#x}");
    assert_eq!(libc::WSTOPSIG(status), libc::SIGTRAP);
    // SAFETY: a structure of integers may be all zero.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: fills in the local.
    unsafe { libc::ptrace(libc::PTRACE_GETREGS, child, 0, &raw mut registers) };
    let page = usize::try_from(registers.rdi).unwrap();
    [peek(child, page), peek(child, page + 8)]
}

fn peek_all(child: libc::pid_t, start: usize) -> Vec<u8> {
    (start..start + BYTES).step_by(8).flat_map(|at| peek(child, at).to_ne_bytes()).collect()
}

fn peek(child: libc::pid_t, address: usize) -> usize {
    let address: *mut c_void = std::ptr::without_provenance_mut(address);
    // SAFETY: asks for a word of the stopped child; the kernel checks the address.
    let word = unsafe { libc::ptrace(libc::PTRACE_PEEKDATA, child, address, 0) };
    word.cast_unsigned().try_into().unwrap()
}
