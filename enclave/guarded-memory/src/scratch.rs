//! Memory for what is too large to be locked: scrypt's.

use std::fmt;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::arena::{ArenaWipeError, Slot};
use crate::pages::PageBytes;
use crate::region::{GUARD_BYTES, MapError};
use crate::registry::{self, RangeInfo};
use crate::wipe::{self, WipedRegion};

/// Ordinary pages between two fences, absent from core files and from forked children, that
/// allocations are made in while [`ScopedAllocator::within_scratch`](crate::ScopedAllocator) runs.
///
/// Less than a [`Region`](crate::Region): the pages are not secret to root, and since they are not
/// locked they may be swapped. They are for what no limit on locked memory allows, as short as can
/// be. It can be mapped in a process that may no longer make memory executable or secret: it takes
/// mmap(2) and madvise(2) alone.
///
/// Dropping it erases the pages first. Dropped with live blocks it ends the process, as an
/// [`Arena`](crate::Arena) does.
///
/// # Invariants
///
/// 1. `outer` is the start of `outer_bytes` of address space that this value alone owns, until
///    `Drop` unmaps it once.
/// 2. The `bytes` from `base` on lie in it, [`GUARD_BYTES`] or more from either end, and are mapped
///    readable and writable.
/// 3. The slot has their span, and the registry the range, from the end of `map` to `Drop`.
pub struct Scratch {
    name: &'static str,
    outer: NonNull<u8>,
    outer_bytes: usize,
    base: NonNull<u8>,
    bytes: PageBytes,
    slot: &'static Slot,
    is_wiped: bool,
}

impl Scratch {
    /// Maps `bytes`, at most 4 GiB less a page. No page is resident before it is touched.
    ///
    /// # Errors
    ///
    /// As [`Region::map`](crate::Region::map), but for limits on locked memory.
    pub fn map(name: &'static str, bytes: PageBytes) -> Result<Self, MapError> {
        let failed = |source| MapError::Reserve { bytes: bytes.get(), source };
        let outer_bytes = bytes
            .get()
            .checked_add(2 * GUARD_BYTES)
            .filter(|_| u32::try_from(bytes.get()).is_ok())
            .ok_or_else(|| failed(Errno::NOMEM))?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a null hint and no MAP_FIXED: the kernel picks addresses that nothing else uses.
        let outer = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), outer_bytes, ProtFlags::empty(), flags)
        }
        .map_err(failed)?;
        let outer = NonNull::new(outer.cast::<u8>()).ok_or_else(|| failed(Errno::NOMEM))?;
        let reserved = Reserved { outer, outer_bytes };
        // SAFETY: `GUARD_BYTES` is less than `outer_bytes`, the size of the mapping just made.
        let base = unsafe { outer.add(GUARD_BYTES) };
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: MAP_FIXED replaces pages of the reservation just made, which are `PROT_NONE`, so
        // that nobody holds a reference into them.
        unsafe {
            rustix::mm::mmap_anonymous(
                base.as_ptr().cast(),
                bytes.get(),
                protection,
                MapFlags::PRIVATE | MapFlags::FIXED,
            )
        }
        .map_err(|source| MapError::Back { source })?;
        reserved.advise(Advice::LinuxDontFork, "MADV_DONTFORK")?;
        reserved.advise(Advice::LinuxDontDump, "MADV_DONTDUMP")?;
        let start = base.as_ptr().expose_provenance();
        let slot = Slot::for_span(start, bytes)?;
        if !registry::add(RangeInfo { name, start, bytes: bytes.get(), backing: None }) {
            slot.release();
            return Err(MapError::TooManyRegions);
        }
        let Reserved { outer, outer_bytes } = *std::mem::ManuallyDrop::new(reserved);
        Ok(Self { name, outer, outer_bytes, base, bytes, slot, is_wiped: false })
    }

    /// Overwrites it with zero, reads it back, and gives it back to the kernel.
    ///
    /// # Errors
    ///
    /// Blocks that are still live, and a byte that is not zero after the wipe. The caller must end
    /// the process.
    pub fn wipe(mut self) -> Result<WipedRegion, ArenaWipeError> {
        match self.slot.live_blocks() {
            0 => {
                // SAFETY: invariant 2 for address and length, initialised because the kernel maps
                // zeros; no block is live, and `self` is the only owner.
                let bytes =
                    unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes.get()) };
                wipe::wipe(bytes)?;
                self.is_wiped = true;
                Ok(WipedRegion::of_verified(self.name, self.bytes.get()))
            }
            blocks => Err(ArenaWipeError::Live { blocks }),
        }
    }

    /// Whether this address is in it.
    pub fn contains<T: ?Sized>(&self, pointer: *const T) -> bool {
        let start = self.base.as_ptr().addr();
        (start..start + self.bytes.get()).contains(&pointer.addr())
    }

    pub(crate) fn slot(&self) -> &'static Slot {
        self.slot
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.slot.live_blocks() > 0 {
            registry::wipe_all_and_abort();
        }
        if !self.is_wiped {
            // SAFETY: invariant 2, and no block of it is live.
            unsafe { wipe::erase_raw(self.base.as_ptr(), self.bytes.get()) };
        }
        self.slot.release();
        registry::remove(self.base.as_ptr().addr());
        drop(Reserved { outer: self.outer, outer_bytes: self.outer_bytes });
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Scratch");
        fields.field("name", &self.name).field("bytes", &self.bytes.get()).finish_non_exhaustive()
    }
}

/// Address space that is unmapped when this is dropped, and that nothing else owns.
struct Reserved {
    outer: NonNull<u8>,
    outer_bytes: usize,
}

impl Reserved {
    fn advise(&self, advice: Advice, name: &'static str) -> Result<(), MapError> {
        // SAFETY: what a child inherits and what a core file holds of pages of our own changes
        // nothing in this process.
        unsafe { rustix::mm::madvise(self.outer.as_ptr().cast(), self.outer_bytes, advice) }
            .map_err(|source| MapError::Advise { advice: name, source })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: the range is this value's alone, and nothing can use it afterwards.
        let unmapped = unsafe { rustix::mm::munmap(self.outer.as_ptr().cast(), self.outer_bytes) };
        debug_assert_eq!(unmapped, Ok(()), "unmapping a range we own cannot fail");
    }
}
