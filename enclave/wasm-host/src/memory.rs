//! Linear memory as Wasmtime wants it, in pages of our own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evanesce_guarded_memory::{
    LinearMemory, MapError, PageBytes, Strength, WipeError, WipedRegion,
};
use evanesce_signer::abi::MEMORY_BYTES;
use wasmtime::{MemoryCreator, MemoryType};

use crate::settings::{MEMORY_GUARD_BYTES, MEMORY_RESERVATION_BYTES};

/// The one linear memory of the one instance: shared by the signer, which wipes it at the end, and
/// by Wasmtime, which has its address compiled into calls.
///
/// # Invariants
///
/// 1. It is accessible in [`MEMORY_BYTES`], reserved in [`MEMORY_RESERVATION_BYTES`] and followed
///    by [`MEMORY_GUARD_BYTES`] more that nothing else is mapped in, until the last clone is gone.
/// 2. It serves one instance. Guest code writes to it during a call, the host between calls.
#[derive(Clone, Debug)]
pub(crate) struct GuestMemory(Arc<Mutex<LinearMemory>>);

impl GuestMemory {
    pub(crate) fn map(strength: Strength) -> Result<Self, MapError> {
        let accessible = PageBytes::holding(MEMORY_BYTES).expect("linear memory is whole pages");
        let memory = LinearMemory::map(
            "signer-memory",
            accessible,
            bytes(MEMORY_RESERVATION_BYTES),
            bytes(MEMORY_GUARD_BYTES),
            strength,
        )?;
        Ok(Self(Arc::new(Mutex::new(memory))))
    }

    /// Overwrites all of it and reads it back. For when no instance is left that could write to it.
    pub(crate) fn wipe(&self) -> Result<WipedRegion, WipeError> {
        self.mapped().wipe()
    }

    /// The first byte.
    pub(crate) fn base(&self) -> *mut u8 {
        self.mapped().base().as_ptr()
    }

    pub(crate) fn mapped(&self) -> MutexGuard<'_, LinearMemory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: the address never changes (`LinearMemory::base`), the size never does (`grow_to`), and
// the pages stay mapped as long as this clone lives (invariant 1).
unsafe impl wasmtime::LinearMemory for GuestMemory {
    fn byte_size(&self) -> usize {
        MEMORY_BYTES
    }

    fn byte_capacity(&self) -> usize {
        MEMORY_BYTES
    }

    fn grow_to(&mut self, _bytes: usize) -> wasmtime::Result<()> {
        Err(wasmtime::Error::msg("linear memory has its size for good"))
    }

    fn as_ptr(&self) -> *mut u8 {
        self.base()
    }
}

/// Hands each instance the memory that was mapped for it.
#[derive(Debug, Default)]
pub(crate) struct Handover(Mutex<Option<GuestMemory>>);

impl Handover {
    /// What the next instance gets; in place of what an instance that failed before has left.
    pub(crate) fn offer(&self, memory: GuestMemory) {
        *self.next() = Some(memory);
    }

    fn next(&self) -> MutexGuard<'_, Option<GuestMemory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: the memory is zero, as mapped; its reservation and guard are those that compiled code
// counts on (invariant 1 of `GuestMemory`, compared below); and no two instances get it.
unsafe impl MemoryCreator for Handover {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum_bytes: usize,
        maximum_bytes: Option<usize>,
        reserved_bytes: Option<usize>,
        guard_bytes: usize,
    ) -> Result<Box<dyn wasmtime::LinearMemory>, String> {
        if (minimum_bytes, maximum_bytes) != (MEMORY_BYTES, Some(MEMORY_BYTES)) {
            return Err(format!("linear memory is not {MEMORY_BYTES} bytes for good"));
        }
        if (reserved_bytes, guard_bytes)
            != (Some(bytes(MEMORY_RESERVATION_BYTES)), bytes(MEMORY_GUARD_BYTES))
        {
            return Err("compiled code counts on another reservation".to_owned());
        }
        match self.next().take() {
            Some(memory) => Ok(Box::new(memory)),
            None => Err("no linear memory was mapped for this".to_owned()),
        }
    }
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).expect("the target has 64-bit addresses")
}
