//! Memory that may hold a key: mapped, locked, fenced, wiped, read back.
//!
//! Start at [`Region`]; [`LinearMemory`], [`GuardedStack`] and [`Arena`] are regions with a use:
//! the guest's memory, the stack it runs on, and the heap of the loading path. [`Scratch`] is what does
//! not fit among locked pages. [`registers`] is the
//! one place a key can be that is not memory.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | no other process reads the pages, root included | `memfd_secret(2)` | `tests/secrecy.rs` |
//! | pages never reach swap or a core file | the same, or `mlock` and `MADV_DONTDUMP` | `tests/secrecy.rs` |
//! | a forked child does not have them | `MADV_DONTFORK` | `tests/fences.rs` |
//! | an access past either end kills the process | [`GUARD_BYTES`] of `PROT_NONE` on both sides | `tests/fences.rs` |
//! | strict means strict: no secret pages, no region | [`Strength::Strict`] | `tests/refusals.rs` |
//! | a wiped range is zero, every byte of it read back | [`wipe()`] | `wipe.rs` |
//! | the code of a closure runs on the guarded stack | [`GuardedStack::run`] | `tests/stack.rs` |
//! | the loading path allocates in its arena or not at all | [`ScopedAllocator`] | `tests/arena.rs` |
//! | what is too large to be locked is out of core files and forked children, and wiped, read back and unmapped after use | [`Scratch`] | `tests/scratch.rs` |
//! | a broken process takes every range with it, the stack it runs on included | [`registry::wipe_all_and_abort`] | `tests/panic.rs` |
//! | while the thread waits, no register holds what it computed with | [`registers::quiesce_and_poll`] | `tests/registers.rs` |
//!
//! # What it does not promise
//!
//! The kernel's own stack keeps the general registers of the last interrupt until the next one;
//! physical memory is readable by the hypervisor; and whoever can make this process run code reads
//! what it can read. See `docs/threat-model.md`.
//!
//! # Invariant
//!
//! This crate reads no environment, logs nothing and never copies out of a guarded range. The
//! invariants of its `unsafe` code are numbered in the docs of the types that carry them.

#![expect(unsafe_code, reason = "listed in enclave/SAFETY.md; the wrappers here are its purpose")]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("secret pages and the register patterns are implemented for x86_64 Linux alone");

mod arena;
mod fill;
mod linear;
mod pages;
mod region;
pub mod registers;
pub mod registry;
mod scratch;
mod stack;
mod wipe;

pub use arena::{ARENAS_MAX, Arena, ArenaWipeError, ScopedAllocator};
pub use evanesce_protocol::smaps::Backing;
pub use fill::{FillError, fill_random, fill_to_end};
pub use linear::LinearMemory;
pub use pages::{PAGE_BYTES, PageBytes};
pub use region::{GUARD_BYTES, MapError, Region, Strength};
pub use scratch::Scratch;
pub use stack::GuardedStack;
pub use wipe::{WipeError, WipedRegion, wipe};
