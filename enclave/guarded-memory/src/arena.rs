//! A heap in guarded memory, for code that allocates while a key passes through it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use evanesce_protocol::smaps::Backing;
use rustix::io::Errno;

use crate::pages::{PAGE_BYTES, PageBytes};
use crate::region::{MapError, Region, Strength};
use crate::registry;
use crate::scratch::Scratch;
use crate::wipe::{self, WipeError, WipedRegion};

/// Arenas that one process may have at a time.
pub const ARENAS_MAX: usize = 4;

/// A region that allocations are made in while [`ScopedAllocator::within`] runs.
///
/// Blocks are handed out upwards and zeroed when they are freed. Only the topmost block gives its
/// room back at once, the rest when the last is freed: right for a loading path, whose whole
/// heap fits and then goes; wrong for anything long-lived.
///
/// Dropping an arena that still has live blocks would leave dangling owners, and keeping it
/// would keep the key, so that ends the process (by
/// [`wipe_all_and_abort`](registry::wipe_all_and_abort)).
///
/// # Invariants
///
/// 1. The slot has the span of `region` from `map` until `Drop`, and no other slot has any of it.
/// 2. Bytes of the region that no live block covers are zero.
#[derive(Debug)]
pub struct Arena {
    region: Region,
    slot: &'static Slot,
}

impl Arena {
    /// Maps an arena of `bytes`, at most 4 GiB less a page.
    ///
    /// # Errors
    ///
    /// As [`Region::map`], and [`ARENAS_MAX`] arenas being live already.
    pub fn map(name: &'static str, bytes: PageBytes, strength: Strength) -> Result<Self, MapError> {
        if u32::try_from(bytes.get()).is_err() {
            return Err(MapError::Reserve { bytes: bytes.get(), source: Errno::NOMEM });
        }
        let region = Region::map(name, bytes, strength)?;
        let slot = Slot::for_span(region.base().as_ptr().expose_provenance(), bytes)?;
        Ok(Self { region, slot })
    }

    /// Overwrites the arena with zero and reads it back; see [`Region::wipe`].
    ///
    /// # Errors
    ///
    /// Blocks that are still live, which are left as they are, and a byte that is not zero after
    /// the wipe.
    pub fn wipe(&mut self) -> Result<WipedRegion, ArenaWipeError> {
        match self.live_blocks() {
            0 => Ok(self.region.wipe()?),
            blocks => Err(ArenaWipeError::Live { blocks }),
        }
    }

    /// Blocks that were allocated here and not freed.
    pub fn live_blocks(&self) -> u32 {
        self.slot.live_blocks()
    }

    /// Bytes from the start to the end of the topmost block.
    pub fn used_bytes(&self) -> usize {
        self.slot.fill().used_bytes as usize
    }

    /// Whether this address is in the arena.
    pub fn contains<T: ?Sized>(&self, pointer: *const T) -> bool {
        self.slot.span().contains(pointer.addr())
    }

    /// What keeps it out of dumps.
    pub fn backing(&self) -> Backing {
        self.region.backing()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.live_blocks() > 0 {
            registry::wipe_all_and_abort();
        }
        self.slot.release();
    }
}

/// Why an arena was not wiped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaWipeError {
    /// Something that was allocated within the scope outlives it.
    #[error("{blocks} blocks of the arena are still in use")]
    Live {
        /// How many.
        blocks: u32,
    },
    /// The wipe did not take.
    #[error("the arena did not read back as zero")]
    NotZero {
        /// Where.
        #[from]
        source: WipeError,
    },
}

impl ArenaWipeError {
    /// A stable name for reports and alerts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Live { .. } => "wipe.arena-in-use",
            Self::NotZero { source } => source.code(),
        }
    }
}

/// The global allocator of a process with a loading path: [`System`], but for the thread that is
/// [`within`](ScopedAllocator::within) an arena.
///
/// There, an allocation comes from the arena and never from elsewhere. An arena that is full ends
/// the process, wiped: it was meant to hold the whole of a bounded input's loading, and the standard
/// handler of a failed allocation allocates itself. A block is freed where it came from, whatever
/// the scope, and a block of an arena never moves out of it by growing.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScopedAllocator;

impl ScopedAllocator {
    /// Runs `f` with this thread's allocations made in `arena`.
    ///
    /// # Panics
    ///
    /// Where `ScopedAllocator` is not the process's global allocator: the blocks of `f` would be in
    /// the ordinary heap without anyone noticing.
    pub fn within<R>(arena: &Arena, f: impl FnOnce() -> R) -> R {
        Self::within_slot(arena.slot, f)
    }

    /// The same in [`Scratch`].
    ///
    /// # Panics
    ///
    /// As [`ScopedAllocator::within`].
    pub fn within_scratch<R>(scratch: &Scratch, f: impl FnOnce() -> R) -> R {
        Self::within_slot(scratch.slot(), f)
    }

    fn within_slot<R>(slot: &'static Slot, f: impl FnOnce() -> R) -> R {
        let _scope = Scope::enter(slot);
        let probe = black_box(Box::new(0_u8));
        let address = (&raw const *probe).addr();
        assert!(slot.span().contains(address), "ScopedAllocator is not the global allocator");
        drop(probe);
        f()
    }
}

// SAFETY: blocks come from `System`, or from `Slot::allocate`, which gives disjoint, aligned
// blocks; `Slot::of` tells which, since no arena's span is ever `System`'s while blocks of it live.
unsafe impl GlobalAlloc for ScopedAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match ACTIVE.get() {
            Some(slot) => slot.allocate(layout),
            // SAFETY: the caller's promise on `layout` is passed on.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match Slot::of(block) {
            // SAFETY: the block is the slot's by its address, live and of this layout by the
            // caller's promise.
            Some(slot) => unsafe { slot.free(block, layout.size()) },
            // SAFETY: the block is not an arena's, hence `System`'s; the caller promises the rest.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let home = Slot::of(block);
        if let Some(slot) = home
            // SAFETY: the block is the slot's by its address; the caller promises the rest.
            && unsafe { slot.resize_in_place(block, layout.size(), new_size) }
        {
            return block;
        }
        let Some(slot) = home.or(ACTIVE.get()) else {
            // SAFETY: the block is `System`'s; the caller's promises are passed on.
            return unsafe { System.realloc(block, layout, new_size) };
        };
        // SAFETY: the caller promises a non-zero size that does not overflow when it is rounded up
        // to this alignment, which is that of a valid layout.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let moved = slot.allocate(new_layout);
        // SAFETY: both blocks are live, of at least this many bytes, and disjoint because the new one
        // was just allocated.
        unsafe { block.copy_to_nonoverlapping(moved, layout.size().min(new_size)) };
        // SAFETY: the old block is live and of this layout by the caller's promise.
        unsafe { self.dealloc(block, layout) };
        moved
    }
}

/// Puts the thread's former scope back, also when a panic passes by.
struct Scope {
    outer: Option<&'static Slot>,
}

impl Scope {
    fn enter(slot: &'static Slot) -> Self {
        Self { outer: ACTIVE.replace(Some(slot)) }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        ACTIVE.set(self.outer);
    }
}

/// Where one arena is and how far it is filled, reachable from the allocator.
///
/// # Invariants
///
/// 1. A span that is not [`Span::NONE`] is that of a live [`Arena`], whose region is mapped.
/// 2. Blocks lie below the fill's `used_bytes` and do not overlap, because room is taken by one
///    compare-and-exchange of both its numbers.
#[derive(Debug)]
pub(crate) struct Slot {
    span: AtomicU64,
    fill: AtomicU64,
}

impl Slot {
    const fn empty() -> Self {
        Self { span: AtomicU64::new(Span::NONE), fill: AtomicU64::new(0) }
    }

    fn of(block: *mut u8) -> Option<&'static Self> {
        SLOTS.iter().find(|slot| slot.span().contains(block.addr()))
    }

    /// Takes a slot for a range that nothing else uses; gives it back by [`Slot::release`].
    pub(crate) fn for_span(start: usize, bytes: PageBytes) -> Result<&'static Self, MapError> {
        let span = Span { start, bytes: bytes.get() };
        SLOTS.iter().find(|slot| slot.claim(span)).ok_or(MapError::TooManyRegions)
    }

    /// Blocks that are live.
    pub(crate) fn live_blocks(&self) -> u32 {
        self.fill().live_blocks
    }

    fn claim(&self, span: Span) -> bool {
        let (from, to) = (Span::NONE, span.pack());
        self.span.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn release(&self) {
        self.fill.store(0, Ordering::Relaxed);
        self.span.store(Span::NONE, Ordering::Release);
    }

    /// Never null: a slot without room ends the process.
    fn allocate(&self, layout: Layout) -> *mut u8 {
        let span = self.span();
        let mut block = 0;
        let has_room = self.update(|fill| {
            block =
                (span.start + fill.used_bytes as usize).checked_next_multiple_of(layout.align())?;
            let end = (block - span.start).checked_add(layout.size())?;
            (end <= span.bytes).then_some(Fill {
                live_blocks: fill.live_blocks + 1,
                used_bytes: u32::try_from(end).ok()?,
            })
        });
        if !has_room {
            registry::wipe_all_and_abort();
        }
        std::ptr::with_exposed_provenance_mut(block)
    }

    /// # Safety
    ///
    /// `block` is a live block of this slot of `size` bytes.
    unsafe fn free(&self, block: *mut u8, size: usize) {
        // SAFETY: the block is live, so that its bytes are mapped and the caller's to give up.
        unsafe { wipe::erase_raw(block, size) };
        let offset = block.addr() - self.span().start;
        self.update(|fill| {
            let is_top = offset + size == fill.used_bytes as usize;
            let live_blocks = fill.live_blocks - 1;
            let used_bytes = match (live_blocks, is_top) {
                (0, _) => 0,
                (_, true) => u32::try_from(offset).ok()?,
                (_, false) => fill.used_bytes,
            };
            Some(Fill { live_blocks, used_bytes })
        });
    }

    /// Whether the block, which is the topmost one, now has its new size. Otherwise it is as it was.
    ///
    /// # Safety
    ///
    /// `block` is a live block of this slot of `size` bytes.
    unsafe fn resize_in_place(&self, block: *mut u8, size: usize, new_size: usize) -> bool {
        let span = self.span();
        let offset = block.addr() - span.start;
        if let Some(excess) = size.checked_sub(new_size) {
            // SAFETY: `new_size` is at most `size`, the size of the block.
            let tail = unsafe { block.add(new_size) };
            // SAFETY: the tail of a live block, which its owner gives up.
            unsafe { wipe::erase_raw(tail, excess) };
        }
        self.update(|fill| {
            let end = offset.checked_add(new_size).filter(|end| *end <= span.bytes)?;
            let is_top = offset + size == fill.used_bytes as usize;
            let used_bytes = if is_top { u32::try_from(end).ok()? } else { fill.used_bytes };
            (is_top || new_size <= size).then_some(Fill { used_bytes, ..fill })
        })
    }

    fn update(&self, mut next: impl FnMut(Fill) -> Option<Fill>) -> bool {
        self.fill
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |fill| {
                next(Fill::unpack(fill)).map(Fill::pack)
            })
            .is_ok()
    }

    fn fill(&self) -> Fill {
        Fill::unpack(self.fill.load(Ordering::Acquire))
    }

    fn span(&self) -> Span {
        Span::unpack(self.span.load(Ordering::Acquire))
    }
}

/// Whole pages, in one word so that they are read and written together.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    bytes: usize,
}

impl Span {
    const NONE: u64 = 0;
    const PAGES_BITS: u32 = 24;

    /// An address of user space has 47 bits, 35 without those within a page.
    fn pack(self) -> u64 {
        ((self.start / PAGE_BYTES) as u64) << Self::PAGES_BITS | (self.bytes / PAGE_BYTES) as u64
    }

    fn unpack(word: u64) -> Self {
        let pages = word & ((1 << Self::PAGES_BITS) - 1);
        let start = word >> Self::PAGES_BITS;
        Self { start: start as usize * PAGE_BYTES, bytes: pages as usize * PAGE_BYTES }
    }

    fn contains(self, address: usize) -> bool {
        address.checked_sub(self.start).is_some_and(|offset| offset < self.bytes)
    }
}

#[derive(Clone, Copy)]
struct Fill {
    live_blocks: u32,
    used_bytes: u32,
}

impl Fill {
    fn pack(self) -> u64 {
        u64::from(self.live_blocks) << 32 | u64::from(self.used_bytes)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
    fn unpack(word: u64) -> Self {
        Self { live_blocks: (word >> 32) as u32, used_bytes: word as u32 }
    }
}

thread_local! {
    // Constant and without a destructor, so that reading it never allocates.
    static ACTIVE: Cell<Option<&'static Slot>> = const { Cell::new(None) };
}

static SLOTS: [Slot; ARENAS_MAX] = [const { Slot::empty() }; ARENAS_MAX];
