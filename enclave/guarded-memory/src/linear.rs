//! The guest's memory: accessible at the front, reserved behind, never moved and never grown.

use std::ptr::NonNull;

use evanesce_protocol::smaps::Backing;

use crate::pages::PageBytes;
use crate::region::{MapError, Region, Strength};
use crate::wipe::{WipeError, WipedRegion};

/// A guarded region at the front of a reservation.
///
/// Compiled guest code leaves out bounds checks where it may count on an access to trap, so the
/// host asks for inaccessible address space behind the accessible part. It is `PROT_NONE` and
/// costs no memory.
#[derive(Debug)]
pub struct LinearMemory {
    region: Region,
    reserved_bytes: usize,
}

impl LinearMemory {
    /// Maps `accessible` bytes, zero, at the start of `reserved_bytes` of address space, with at
    /// least `guard_bytes` more of inaccessible address space behind that. A reservation smaller
    /// than the accessible part counts as that part.
    ///
    /// # Errors
    ///
    /// As [`Region::map`].
    pub fn map(
        name: &'static str,
        accessible: PageBytes,
        reserved_bytes: usize,
        guard_bytes: usize,
        strength: Strength,
    ) -> Result<Self, MapError> {
        let reserved_bytes = reserved_bytes.max(accessible.get());
        let tail_bytes = (reserved_bytes - accessible.get()).saturating_add(guard_bytes);
        let region = Region::map_with_tail(name, accessible, tail_bytes, strength)?;
        Ok(Self { region, reserved_bytes })
    }

    /// Overwrites the accessible part with zero and reads it back; see [`Region::wipe`].
    ///
    /// # Errors
    ///
    /// The first byte that is not zero afterwards.
    pub fn wipe(&mut self) -> Result<WipedRegion, WipeError> {
        self.region.wipe()
    }

    /// The first byte. It stays where it is for the life of the value.
    pub fn base(&self) -> NonNull<u8> {
        self.region.base()
    }

    /// Bytes that can be accessed, from the first on.
    pub fn accessible_bytes(&self) -> usize {
        self.region.len()
    }

    /// Bytes from the first on that are this memory's own address space, accessible or not.
    pub fn reserved_bytes(&self) -> usize {
        self.reserved_bytes
    }

    /// What keeps it out of dumps.
    pub fn backing(&self) -> Backing {
        self.region.backing()
    }
}
