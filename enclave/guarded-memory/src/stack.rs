//! A stack in guarded memory, for code whose locals may be key material.

use std::ops::Range;

use corosensei::stack::{Stack, StackPointer};
use evanesce_protocol::smaps::Backing;

use crate::pages::PageBytes;
use crate::region::{GUARD_BYTES, MapError, Region, Strength};
use crate::wipe::{self, WipeError, WipedRegion};

/// A call stack between fences. An overflow kills the process.
///
/// # Invariants
///
/// 1. Code runs on the stack only within [`GuardedStack::run`], which borrows the value mutably,
///    so that no frame is live whenever a method is called.
#[derive(Debug)]
pub struct GuardedStack {
    region: Region,
}

impl GuardedStack {
    /// Maps a stack of `bytes`.
    ///
    /// # Errors
    ///
    /// As [`Region::map`].
    pub fn map(name: &'static str, bytes: PageBytes, strength: Strength) -> Result<Self, MapError> {
        Ok(Self { region: Region::map(name, bytes, strength)? })
    }

    /// Runs `f` on this stack and returns on the caller's.
    ///
    /// What `f` captures and what it returns pass through the caller's stack, which is ordinary
    /// memory: hand key bytes in and out by reference to guarded memory, not by value. Callee-saved
    /// registers of the caller are saved here and restored. A panic in `f` goes on in the caller.
    pub fn run<R>(&mut self, f: impl FnOnce() -> R) -> R {
        corosensei::on_stack(self, f)
    }

    /// Overwrites the top `bytes` (or all, where that is less) with zero: what one call of known
    /// depth used. Not read back; [`GuardedStack::wipe`] does that at the end.
    pub fn wipe_used(&mut self, bytes: usize) {
        self.region.with_mut(|stack| {
            let from = stack.len().saturating_sub(bytes);
            wipe::erase(&mut stack[from..]);
        });
    }

    /// Overwrites all of it with zero and reads it back; see [`Region::wipe`].
    ///
    /// # Errors
    ///
    /// The first byte that is not zero afterwards.
    pub fn wipe(&mut self) -> Result<WipedRegion, WipeError> {
        self.region.wipe()
    }

    /// Bytes from the top down to the lowest that is not zero: on a stack that was wiped before,
    /// how deep the calls since then went.
    pub fn used_bytes(&self) -> usize {
        self.region.with(|stack| stack.len() - wipe::first_non_zero(stack).unwrap_or(stack.len()))
    }

    /// The addresses of the stack, without its fences. It grows down from the end.
    pub fn range(&self) -> Range<usize> {
        self.region.start()..self.region.start() + self.region.len()
    }

    /// The addresses of the fence below.
    pub fn guard_range(&self) -> Range<usize> {
        self.region.start() - GUARD_BYTES..self.region.start()
    }

    /// What keeps it out of dumps.
    pub fn backing(&self) -> Backing {
        self.region.backing()
    }
}

// SAFETY: the region has `GUARD_BYTES` of `PROT_NONE` below it and at least one page, which is
// `corosensei::stack::MIN_STACK_SIZE`; both bounds are page-aligned and stay put.
unsafe impl Stack for GuardedStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.range().end).expect("the end of a mapping is not address zero")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.guard_range().start).expect("no mapping starts at address zero")
    }
}
