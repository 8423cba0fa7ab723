//! That no input leaves memory behind, and none takes more than it may.

use std::alloc::System;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Does what is to be done with one input, and counts.
///
/// # Panics
///
/// Where one input allocates more than [`BYTES_OF_ONE_INPUT_MAX`] in all, or all inputs so far left
/// more than [`BYTES_KEPT_MAX`] behind: about one byte of each input.
pub fn counted(work: impl FnOnce()) {
    static BEFORE: OnceLock<usize> = OnceLock::new();
    static INPUTS: AtomicUsize = AtomicUsize::new(0);

    let region = Region::new(ALLOCATOR);
    work();
    let change = region.change();
    assert!(
        change.bytes_allocated <= BYTES_OF_ONE_INPUT_MAX,
        "one input allocates {} bytes",
        change.bytes_allocated
    );
    // The first inputs fill what is made once.
    if INPUTS.fetch_add(1, Ordering::Relaxed) >= INPUTS_OF_WARMING_UP {
        let held = held();
        let before = *BEFORE.get_or_init(|| held);
        assert!(held <= before + BYTES_KEPT_MAX, "memory grew from {before} to {held} bytes");
    }
}

/// Bytes that are allocated and not given back.
fn held() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// Bytes that all inputs together may leave behind.
pub const BYTES_KEPT_MAX: usize = 1024 * 1024;

/// Bytes that may be allocated for one input, given back or not.
pub const BYTES_OF_ONE_INPUT_MAX: usize = 64 * 1024 * 1024;

const INPUTS_OF_WARMING_UP: usize = 100;
