//! Every live guarded range of this process, in a table of fixed size.
//!
//! For the panic hook, which has no way to the values that own the ranges, and for the report of
//! what is mapped. Nothing here allocates.

use std::arch::asm;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use evanesce_protocol::smaps::Backing;

use crate::wipe;

/// Regions that one process may have at a time. A worker has fewer than ten.
pub const REGIONS_MAX: usize = 64;

/// One live guarded range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeInfo {
    /// What it was mapped as.
    pub name: &'static str,
    /// The address of its first accessible byte.
    pub start: usize,
    /// Accessible bytes.
    pub bytes: usize,
    /// What keeps it out of dumps; `None` for [`Scratch`](crate::Scratch), which is not locked.
    pub backing: Option<Backing>,
}

/// Shows every live range to `f`, in no order.
pub fn for_each(f: impl FnMut(&RangeInfo)) {
    let snapshot = *ranges();
    snapshot.iter().flatten().for_each(f);
}

/// Bytes that the live ranges hold locked together; all of them count against RLIMIT_MEMLOCK.
pub fn locked_bytes() -> u64 {
    let locked = |range: &&RangeInfo| range.backing.is_some();
    ranges().iter().flatten().filter(locked).map(|range| range.bytes as u64).sum()
}

/// Overwrites every live range with zero, the stack this runs on included, then ends the process by
/// SIGABRT: what the panic hook calls last. What is to be said must have been said.
///
/// In a process whose other threads use guarded memory this pulls it away from under them, for as
/// long as they live. A table that another thread holds at that moment is not waited for: then
/// the kernel's clearing has to do.
pub fn wipe_all_and_abort() -> ! {
    let here = stack_pointer();
    let (mut own_start, mut own_bytes) = (std::ptr::null_mut::<u8>(), 0);
    let ranges = match RANGES.try_lock() {
        Ok(ranges) => *ranges,
        Err(TryLockError::Poisoned(poisoned)) => **poisoned.get_ref(),
        Err(TryLockError::WouldBlock) => [None; REGIONS_MAX],
    };
    for range in ranges.iter().flatten() {
        let start = std::ptr::with_exposed_provenance_mut::<u8>(range.start);
        if (range.start..range.start + range.bytes).contains(&here) {
            (own_start, own_bytes) = (start, range.bytes);
            continue;
        }
        // SAFETY: a registered range is mapped, readable and writable (invariants 2 and 4 of
        // `Region`). Its owner never sees the zeros as a value: this function does not return.
        unsafe { wipe::erase_raw(start, range.bytes) };
    }
    let pid = std::process::id();
    // SAFETY: writes zeros over `own_bytes` bytes of a registered range (or none), then asks the
    // kernel to end the process. The range may hold the frames of all callers: nothing of them is
    // used again, since the block touches registers alone and does not return. Should SIGABRT be
    // blocked or handled, exit_group(2) follows.
    unsafe {
        asm!(
            "rep stosb",
            "mov eax, {kill}",
            "mov edi, r8d",
            "mov esi, {sigabrt}",
            "syscall",
            "mov eax, {exit_group}",
            "mov edi, 134",
            "syscall",
            "ud2",
            kill = const libc::SYS_kill,
            sigabrt = const libc::SIGABRT,
            exit_group = const libc::SYS_exit_group,
            in("rdi") own_start,
            in("rcx") own_bytes,
            in("al") 0_u8,
            in("r8d") pid,
            options(noreturn, nostack),
        );
    }
}

/// Takes a range into the table; `false` where the table is full.
#[must_use]
pub(crate) fn add(range: RangeInfo) -> bool {
    match ranges().iter_mut().find(|slot| slot.is_none()) {
        Some(slot) => {
            *slot = Some(range);
            true
        }
        None => false,
    }
}

/// Takes the range that starts there out of the table, if it is in it.
pub(crate) fn remove(start: usize) {
    for slot in ranges().iter_mut() {
        if slot.is_some_and(|range| range.start == start) {
            *slot = None;
        }
    }
}

fn ranges() -> MutexGuard<'static, [Option<RangeInfo>; REGIONS_MAX]> {
    RANGES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stack_pointer() -> usize {
    let pointer;
    // SAFETY: copies a register.
    unsafe {
        asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags));
    }
    pointer
}

static RANGES: Mutex<[Option<RangeInfo>; REGIONS_MAX]> = Mutex::new([None; REGIONS_MAX]);
