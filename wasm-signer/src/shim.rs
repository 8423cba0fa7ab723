//! The exports: addresses and numbers outside, a [`Guest`] inside.
//!
//! # Invariants
//!
//! 1. One thread, no imports: while an export runs, nothing else does, and no export calls
//!    another. So each has [`GUEST`] to itself, and the host touches memory only between calls.
//! 2. No export has a frame on the shadow stack: what needs one is behind a call that is never
//!    inlined. So once that call has returned, the whole shadow stack is dead. A test holds it: no
//!    export's code names the stack pointer.
//! 3. The shadow stack is linear memory from 0 up to [`STACK_BYTES`]. The linker is told so, and a
//!    test reads it back from the module.

use core::sync::atomic::{Ordering, compiler_fence};

use crate::abi::{ABI_VERSION, STACK_BYTES, Status};
use crate::guest::Guest;

static mut GUEST: Guest = Guest::new();

unsafe extern "C" {
    /// The shadow stack, lowest address first. Defined by the linker.
    #[link_name = "__stack_low"]
    static mut STACK: [u8; STACK_BYTES];
}

#[unsafe(no_mangle)]
extern "C" fn evanesce_abi() -> i32 {
    ABI_VERSION
}

#[unsafe(no_mangle)]
extern "C" fn evanesce_input() -> *const u8 {
    // SAFETY: takes an address and reads nothing, so that `GUEST` exists is enough.
    unsafe { (&raw const GUEST.input).cast() }
}

#[unsafe(no_mangle)]
extern "C" fn evanesce_output() -> *const u8 {
    // SAFETY: takes an address and reads nothing, so that `GUEST` exists is enough.
    unsafe { (&raw const GUEST.output).cast() }
}

#[unsafe(no_mangle)]
extern "C" fn evanesce_load(bound_to: i32) -> i32 {
    run(|guest| guest.load(bound_to))
}

#[unsafe(no_mangle)]
extern "C" fn evanesce_generate(bound_to: i32) -> i32 {
    run(|guest| guest.generate(bound_to))
}

#[unsafe(no_mangle)]
extern "C" fn evanesce_public_key() -> i32 {
    run(Guest::public_key)
}

#[unsafe(no_mangle)]
extern "C" fn evanesce_sign_message(message_bytes: i32) -> i32 {
    run(|guest| guest.sign_message(message_bytes))
}

#[unsafe(no_mangle)]
extern "C" fn evanesce_sign_digest(context_bytes: i32) -> i32 {
    run(|guest| guest.sign_digest(context_bytes))
}

#[unsafe(no_mangle)]
extern "C" fn evanesce_wipe() -> i32 {
    run(|guest| {
        // Over the key as well: its `Drop` would do no more than this.
        // SAFETY: the bytes are `guest`'s own, and all zero is a `Guest` without a key.
        unsafe { (&raw mut *guest).write_bytes(0, 1) };
        guest.retire()
    })
}

/// Runs one step, then clears everything that it left on the shadow stack.
#[inline(always)]
fn run(step: impl FnOnce(&mut Guest) -> Status) -> i32 {
    // SAFETY: invariant 1: this is the only reference while it lives.
    let guest = unsafe { &mut *(&raw mut GUEST) };
    let status = step(guest);
    // The compiler does not know that the step's frames are in `STACK`: keep the order.
    compiler_fence(Ordering::SeqCst);
    // SAFETY: the bytes are the shadow stack (invariant 3), and nothing on it is live (2).
    unsafe { (&raw mut STACK).write_bytes(0, 1) };
    status.code()
}
