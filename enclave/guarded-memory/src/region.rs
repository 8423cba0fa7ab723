//! Owned pages between two fences.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr::NonNull;

use evanesce_protocol::smaps::Backing;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::process::Resource;

use crate::fill::{self, FillError};
use crate::pages::{PAGE_BYTES, PageBytes};
use crate::registry::{self, RangeInfo};
use crate::wipe::{self, WipeError, WipedRegion};

/// Bytes of `PROT_NONE` on each side of a region. They cost address space alone, and a stack frame
/// that is not probed page by page would have to be larger than this to step over them.
pub const GUARD_BYTES: usize = 16 * PAGE_BYTES;

/// What to do where the kernel has no secret pages to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// Refuse. The default everywhere.
    Strict,
    /// Take locked pages instead (`--allow-degraded=secret-pages`); [`Region::backing`] says so.
    AllowDegraded,
}

/// Pages of this process that may hold a key: readable and writable, locked, fenced on both sides,
/// absent from core files and from forked children.
///
/// Zero when mapped. [`Region::wipe`] is how to end its contents and know it. Dropping it only gives
/// the pages back: locked ones are overwritten first, secret ones the kernel clears as it frees them
/// (`secretmem_free_folio` in its `mm/secretmem.c`). A forked child has the value but not the pages:
/// all it may do with it is to end by `_exit(2)`.
///
/// The first touch of a secret page takes the kernel some 14 µs, since the page leaves the direct
/// map, and wiping touches every page. So a region is best as small as its use.
///
/// # Invariants
///
/// 1. `outer` is the start of `outer_bytes` of address space that this value alone owns, from
///    [`Region::map`] until it is unmapped once, in `Drop`.
/// 2. The `bytes` from `base` on lie in it, [`GUARD_BYTES`] or more from either end, and are mapped
///    readable and writable; all the rest is `PROT_NONE`.
/// 3. References into the pages are made from `&self` or `&mut self` and end with that borrow;
///    raw pointers that were given out are used by their users' own arguments.
/// 4. The pages are in [`registry`] from the end of `map` to the start of `Drop`.
pub struct Region {
    name: &'static str,
    outer: NonNull<u8>,
    outer_bytes: usize,
    base: NonNull<u8>,
    bytes: PageBytes,
    backing: Backing,
}

// SAFETY: the pages belong to the process, not to a thread, and invariant 1 gives them one owner.
unsafe impl Send for Region {}

// SAFETY: `&Region` gives only `&[u8]` (invariant 3) and addresses.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `bytes` of guarded memory. Secret pages become resident as they are touched, locked
    /// ones at once; both count in full against the limit on locked memory.
    ///
    /// # Errors
    ///
    /// No secret pages under [`Strength::Strict`], a limit that is too low, and every protection
    /// that did not take effect: there is no region with less than it claims.
    pub fn map(name: &'static str, bytes: PageBytes, strength: Strength) -> Result<Self, MapError> {
        Self::map_with_tail(name, bytes, 0, strength)
    }

    /// The same, with at least `tail_bytes` more of inaccessible address space behind it.
    pub(crate) fn map_with_tail(
        name: &'static str,
        bytes: PageBytes,
        tail_bytes: usize,
        strength: Strength,
    ) -> Result<Self, MapError> {
        let reserved = Reservation::new(bytes, tail_bytes)?;
        let backing = match reserved.back_with_secret_pages() {
            Err(MapError::SecretPagesUnavailable { .. }) if strength == Strength::AllowDegraded => {
                reserved.back_with_locked_pages()?;
                Backing::LockedPages
            }
            outcome => {
                outcome?;
                Backing::SecretPages
            }
        };
        let region = reserved.into_region(name, backing);
        let registered = registry::add(RangeInfo {
            name,
            start: region.base.as_ptr().expose_provenance(),
            bytes: region.len(),
            backing: Some(backing),
        });
        if registered { Ok(region) } else { Err(MapError::TooManyRegions) }
    }

    /// Overwrites every byte with zero and reads every byte back. The region can be used again.
    ///
    /// # Errors
    ///
    /// The first byte that is not zero afterwards; see [`WipeError`].
    pub fn wipe(&mut self) -> Result<WipedRegion, WipeError> {
        let (name, bytes) = (self.name, self.len());
        self.with_mut(wipe::wipe)?;
        Ok(WipedRegion::of_verified(name, bytes))
    }

    /// Reads a descriptor to its end, straight into the start of the region (read(2)); gives the
    /// number of bytes.
    ///
    /// # Errors
    ///
    /// More than `bytes_max` bytes, or as many as the region has: the end has to be seen. See
    /// [`fill_to_end`](crate::fill_to_end).
    pub fn fill_from(&mut self, fd: BorrowedFd<'_>, bytes_max: usize) -> Result<usize, FillError> {
        let room = bytes_max.saturating_add(1).min(self.len());
        self.with_mut(|bytes| fill::fill_to_end(&mut bytes[..room], fd))
    }

    /// Fills all of it from the kernel's generator (getrandom(2)).
    ///
    /// # Errors
    ///
    /// See [`fill_random`](crate::fill_random).
    pub fn fill_random(&mut self) -> Result<(), FillError> {
        self.with_mut(fill::fill_random)
    }

    /// Lends the bytes for writing.
    pub fn with_mut<R>(&mut self, f: impl FnOnce(&mut [u8]) -> R) -> R {
        // SAFETY: invariant 2 for address and length, initialised because the kernel maps zeros;
        // invariant 3 and `&mut self` for the absence of other references.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes.get()) };
        f(bytes)
    }

    /// Lends the bytes for reading.
    pub fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: invariant 2 for address and length, initialised because the kernel maps zeros;
        // invariant 3 and `&self` for the absence of mutable references.
        let bytes = unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes.get()) };
        f(bytes)
    }

    /// What the region was mapped as.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What keeps it out of dumps: not always what was asked for first.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// The first accessible byte, page-aligned. It never moves.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Accessible bytes: whole pages, never zero.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.get()
    }

    /// The address of the first accessible byte.
    pub(crate) fn start(&self) -> usize {
        self.base.as_ptr().addr()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Overwriting a secret page that was never touched would only make it resident first.
        if self.backing != Backing::SecretPages {
            self.with_mut(wipe::erase);
        }
        registry::remove(self.start());
        // SAFETY: invariant 1, and nothing can use the range after `drop` took `&mut self`.
        let unmapped = unsafe { rustix::mm::munmap(self.outer.as_ptr().cast(), self.outer_bytes) };
        debug_assert_eq!(unmapped, Ok(()), "unmapping a range we own cannot fail");
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("name", &self.name)
            .field("bytes", &self.bytes.get())
            .field("backing", &self.backing)
            .finish_non_exhaustive()
    }
}

/// Address space with fences and nothing between them yet.
///
/// # Invariants
///
/// 1. `outer` is the start of `outer_bytes` of mapped address space that this value alone owns,
///    until `Drop` unmaps it or [`Reservation::into_region`] hands it on.
/// 2. `base` to `base + bytes` lies in it, [`GUARD_BYTES`] or more from either end.
struct Reservation {
    outer: NonNull<u8>,
    outer_bytes: usize,
    base: NonNull<u8>,
    bytes: PageBytes,
}

impl Reservation {
    fn new(bytes: PageBytes, tail_bytes: usize) -> Result<Self, MapError> {
        let outer_bytes = bytes
            .get()
            .checked_add(tail_bytes)
            .and_then(|sum| sum.checked_add(2 * GUARD_BYTES))
            .and_then(PageBytes::holding)
            .ok_or(MapError::Reserve { bytes: bytes.get(), source: Errno::NOMEM })?
            .get();
        let failed = |source| MapError::Reserve { bytes: outer_bytes, source };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a null hint and no MAP_FIXED: the kernel picks addresses that nothing else uses.
        let outer = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), outer_bytes, ProtFlags::empty(), flags)
        }
        .map_err(failed)?;
        let outer = NonNull::new(outer.cast::<u8>()).ok_or(failed(Errno::NOMEM))?;
        // SAFETY: `GUARD_BYTES` is less than `outer_bytes`, the size of the mapping just made.
        let base = unsafe { outer.add(GUARD_BYTES) };
        Ok(Self { outer, outer_bytes, base, bytes })
    }

    fn back_with_secret_pages(&self) -> Result<(), MapError> {
        let file = memfd_secret().map_err(|source| MapError::SecretPagesUnavailable { source })?;
        let length = self.bytes.get() as u64;
        rustix::fs::ftruncate(&file, length).map_err(|source| MapError::Back { source })?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: MAP_FIXED replaces pages of our own reservation (invariants 1 and 2), which are
        // `PROT_NONE`, so that nobody holds a reference into them.
        let mapped = unsafe {
            rustix::mm::mmap(self.base().cast(), self.bytes.get(), protection, flags, &file, 0)
        };
        mapped.map_err(|source| match source {
            Errno::AGAIN => self.memlock_too_low(source),
            source => MapError::Back { source },
        })?;
        self.advise(Advice::LinuxDontFork, "MADV_DONTFORK")?;
        self.advise(Advice::LinuxDontDump, "MADV_DONTDUMP")
    }

    fn back_with_locked_pages(&self) -> Result<(), MapError> {
        let protection = rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE;
        // SAFETY: the pages are our own (invariants 1 and 2), and giving access to pages that were
        // `PROT_NONE` breaks nobody's reference.
        unsafe { rustix::mm::mprotect(self.base().cast(), self.bytes.get(), protection) }
            .map_err(|source| MapError::Back { source })?;
        // SAFETY: locks pages of our own (invariants 1 and 2); contents and access stay as they are.
        unsafe { rustix::mm::mlock(self.base().cast(), self.bytes.get()) }.map_err(|source| {
            match source {
                Errno::NOMEM | Errno::PERM | Errno::AGAIN => self.memlock_too_low(source),
                source => MapError::Back { source },
            }
        })?;
        self.advise(Advice::LinuxDontFork, "MADV_DONTFORK")?;
        self.advise(Advice::LinuxDontDump, "MADV_DONTDUMP")?;
        self.advise(Advice::LinuxWipeOnFork, "MADV_WIPEONFORK")
    }

    /// Hands the address space on.
    fn into_region(self, name: &'static str, backing: Backing) -> Region {
        let reserved = std::mem::ManuallyDrop::new(self);
        Region {
            name,
            outer: reserved.outer,
            outer_bytes: reserved.outer_bytes,
            base: reserved.base,
            bytes: reserved.bytes,
            backing,
        }
    }

    /// Advises on the pages and their fences at once.
    fn advise(&self, advice: Advice, name: &'static str) -> Result<(), MapError> {
        // SAFETY: what a child inherits and what a core file holds of pages of our own (invariant
        // 1) changes nothing in this process.
        unsafe { rustix::mm::madvise(self.outer.as_ptr().cast(), self.outer_bytes, advice) }
            .map_err(|source| MapError::Advise { advice: name, source })
    }

    fn memlock_too_low(&self, source: Errno) -> MapError {
        MapError::MemlockTooLow {
            needed: registry::locked_bytes() + self.bytes.get() as u64,
            limit: rustix::process::getrlimit(Resource::Memlock).current,
            source,
        }
    }

    fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: invariant 1, and nothing can use the range after `drop` took `&mut self`.
        let unmapped = unsafe { rustix::mm::munmap(self.outer.as_ptr().cast(), self.outer_bytes) };
        debug_assert_eq!(unmapped, Ok(()), "unmapping a range we own cannot fail");
    }
}

/// A descriptor of an empty file of secret pages (memfd_secret(2)), closed on exec.
fn memfd_secret() -> Result<OwnedFd, Errno> {
    // SAFETY: takes flags alone and makes a descriptor, or fails.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    match i32::try_from(fd) {
        // SAFETY: the kernel just made this descriptor, so that nothing else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::NOSYS)),
    }
}

/// Why a region could not be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// memfd_secret(2) failed: Linux before 5.14, `secretmem.enable=0`, or a seccomp filter.
    #[error("the kernel gives this process no secret pages")]
    SecretPagesUnavailable {
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// More memory would be locked than RLIMIT_MEMLOCK allows.
    #[error(
        "{needed} bytes of locked memory are needed, the limit is {}",
        limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
    )]
    MemlockTooLow {
        /// Bytes: what this process has locked already and the region that was asked for.
        needed: u64,
        /// The soft limit in bytes; `None` where there is none and the kernel refused all the same.
        limit: Option<u64>,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// No room in the address space, or a size that cannot be mapped.
    #[error("could not reserve {bytes} bytes of address space")]
    Reserve {
        /// With the fences.
        bytes: usize,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The reservation was made, but its pages were not.
    #[error("could not put pages into the reservation")]
    Back {
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The kernel refused a protection.
    #[error("could not apply {advice}")]
    Advise {
        /// Its name in madvise(2).
        advice: &'static str,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// [`REGIONS_MAX`](crate::registry::REGIONS_MAX) are live already.
    #[error("this process has as many guarded regions as can be registered")]
    TooManyRegions,
}

impl MapError {
    /// A stable name for reports and alerts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::SecretPagesUnavailable { .. } => "map.secret-pages-unavailable",
            Self::MemlockTooLow { .. } => "map.memlock-too-low",
            Self::Reserve { .. } => "map.reserve",
            Self::Back { .. } => "map.back",
            Self::Advise { .. } => "map.advise",
            Self::TooManyRegions => "map.too-many-regions",
        }
    }
}
