//! Where signal handlers run: guarded memory too, because a signal frame holds every register.

use std::io;
use std::marker::PhantomData;

use evanesce_guarded_memory::{MapError, PageBytes, Region, Strength, WipeError, WipedRegion};
use libc::stack_t;

use crate::error::InstantiateError;

/// Room for the handlers themselves, which unwind nothing and print nothing. The kernel's frame
/// comes on top: see [`frame_bytes`].
const HANDLER_BYTES: usize = 16 * 1024;

/// This thread's alternate signal stack (sigaltstack(2)), in guarded memory.
///
/// Wasmtime looks for one once, when a thread first calls into a guest, and maps one of ordinary
/// memory where it finds less than 256 KiB, which is more than locked memory should be spent on. So
/// this one is put in its place after the first call, and before there is a key.
///
/// # Invariants
///
/// 1. `region` is the thread's alternate stack until `Drop`, on the thread that installed it: the
///    type is not `Send`.
pub(crate) struct SignalStack {
    region: Region,
    previous: stack_t,
    _this_thread: PhantomData<*const ()>,
}

impl SignalStack {
    pub(crate) fn install(strength: Strength) -> Result<Self, InstantiateError> {
        let bytes = PageBytes::holding(HANDLER_BYTES + frame_bytes()).expect("not zero");
        let region = Region::map("signer-signal-stack", bytes, strength)
            .map_err(|source: MapError| InstantiateError::Map { source })?;
        let stack =
            stack_t { ss_sp: region.base().as_ptr().cast(), ss_flags: 0, ss_size: region.len() };
        let previous =
            replace(&stack).map_err(|source| InstantiateError::SignalStack { source })?;
        Ok(Self { region, previous, _this_thread: PhantomData })
    }

    /// Overwrites all of it and reads it back. No handler is running: handlers do not call this.
    pub(crate) fn wipe(&mut self) -> Result<WipedRegion, WipeError> {
        self.region.wipe()
    }

    pub(crate) fn len(&self) -> usize {
        self.region.len()
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        let restored = replace(&self.previous);
        debug_assert!(restored.is_ok(), "the kernel gave us this stack: {restored:?}");
    }
}

/// Bytes that the kernel needs for one signal frame with all of this CPU's registers.
fn frame_bytes() -> usize {
    // SAFETY: reads the auxiliary vector, which the kernel wrote before the program began.
    let bytes = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) };
    usize::try_from(bytes).unwrap_or(0).max(libc::MINSIGSTKSZ)
}

/// Installs a stack and gives the one it replaces.
fn replace(stack: &stack_t) -> io::Result<stack_t> {
    let mut previous = stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: both are valid for the call. What `stack` names is mapped for as long as it stays
    // installed (invariant 1), or was installed before by someone who promised the same.
    let answer = unsafe { libc::sigaltstack(stack, &raw mut previous) };
    if answer == 0 { Ok(previous) } else { Err(io::Error::last_os_error()) }
}
