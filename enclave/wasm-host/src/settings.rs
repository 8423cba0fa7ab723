//! What the compiler in `build.rs` and the runtime in the worker have to agree on.
//!
//! Both include this file. Wasmtime compares the two when the artefact is loaded and refuses what
//! differs, so a mistake here is a signer that does not start, never one that runs differently.

use wasmtime::{Config, Inlining, Result};

/// Address space in which compiled code may reach linear memory, in bytes: all that 32 bits can
/// name. An address that is not backed faults, so no access needs a bounds check.
pub(crate) const MEMORY_RESERVATION_BYTES: u64 = 1 << 32;

/// Inaccessible bytes behind the reservation, for the constant offset that an instruction adds to
/// its 32-bit address.
pub(crate) const MEMORY_GUARD_BYTES: u64 = 1 << 25;

/// Bytes of native stack that guest code may use. Every compiled function compares the stack
/// pointer with this limit before it makes its frame, and traps.
pub(crate) const WASM_STACK_BYTES: usize = 4 * 1024;

/// The one platform that the artefact is made for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The settings that the artefact is made and run under.
///
/// Nothing here bounds a guest's run time: fuel made a signature 9 to 11 % slower and epochs 6 %, so
/// the kernel counts instead (`watch.rs`). Traps are signals, because explicit checks cost 5 %.
/// Inlining is on, because it gains 5 %. `docs/performance.md` has the measurements.
pub(crate) fn settings() -> Result<Config> {
    let mut config = Config::new();
    config
        .target(TARGET)?
        .wasm_wide_arithmetic(true)
        .wasm_relaxed_simd(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .compiler_inlining(Inlining::Yes)
        .signals_based_traps(true)
        .memory_reservation(MEMORY_RESERVATION_BYTES)
        .memory_guard_size(MEMORY_GUARD_BYTES)
        .memory_may_move(false)
        .memory_init_cow(false)
        .guard_before_linear_memory(false)
        .max_wasm_stack(WASM_STACK_BYTES)
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false)
        .native_unwind_info(false);
    Ok(config)
}
