//! A process whose allocator can be sent into an arena.
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]

mod common;

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{ABORTED, SUCCESS, alone, in_child, kib, touch};
use evanesce_guarded_memory::{Arena, ArenaWipeError, ScopedAllocator, Strength};

#[global_allocator]
static ALLOCATOR: ScopedAllocator = ScopedAllocator;

fn arena() -> Arena {
    Arena::map("arena", kib(64), Strength::Strict).unwrap()
}

#[test]
fn what_is_allocated_in_the_scope_is_in_the_arena_and_nothing_else_is() {
    let _alone = alone();
    let arena = arena();
    let before = Box::new(1_u64);

    let (small, aligned, grown) = ScopedAllocator::within(&arena, || {
        let mut grown = Vec::new();
        (0..1000_u16).for_each(|number| grown.push(number));
        (Box::new(1_u8), Box::new(Aligned(2)), grown)
    });
    let after = Box::new(1_u64);

    assert!(arena.contains(&raw const *small));
    assert!(arena.contains(&raw const *aligned));
    assert_eq!((&raw const *aligned).addr() % 256, 0);
    assert_eq!(aligned.0, 2);
    assert!(arena.contains(grown.as_ptr()));
    assert!(grown.iter().copied().eq(0..1000));
    assert!(!arena.contains(&raw const *before));
    assert!(!arena.contains(&raw const *after));
    assert_eq!(arena.live_blocks(), 3);
}

#[test]
fn a_block_that_grows_after_the_scope_stays_in_the_arena() {
    let _alone = alone();
    let arena = arena();
    let (mut below, mut top) = ScopedAllocator::within(&arena, || (vec![1_u8; 10], vec![2_u8; 10]));
    let (below_was, top_was) = (below.as_ptr().addr(), top.as_ptr().addr());

    top.reserve_exact(100);
    below.reserve_exact(1000);

    assert_eq!(top.as_ptr().addr(), top_was, "the topmost block has room to grow");
    assert_ne!(below.as_ptr().addr(), below_was);
    assert!(arena.contains(below.as_ptr()));
    assert_eq!((below, top), (vec![1_u8; 10], vec![2_u8; 10]));
}

#[test]
fn a_block_of_the_heap_that_grows_in_the_scope_moves_into_the_arena() {
    let _alone = alone();
    let arena = arena();
    let mut text = vec![1_u8; 10];
    ScopedAllocator::within(&arena, || text.reserve_exact(100));
    assert!(arena.contains(text.as_ptr()));
    assert_eq!(text, [1; 10]);
}

#[test]
fn blocks_are_freed_where_they_came_from_whatever_the_scope() {
    let _alone = alone();
    let arena = arena();
    let heap = vec![1_u8; 100];
    let guarded = ScopedAllocator::within(&arena, || vec![2_u8; 100]);

    ScopedAllocator::within(&arena, || drop(heap));
    assert_eq!(arena.live_blocks(), 1);
    drop(guarded);

    assert_eq!((arena.live_blocks(), arena.used_bytes()), (0, 0));
}

#[test]
fn a_freed_or_shrunk_block_is_zeroed_at_once() {
    let _alone = alone();
    let arena = arena();
    let (freed, mut shrunk) =
        ScopedAllocator::within(&arena, || (vec![3_u8; 100], vec![4_u8; 100]));
    let freed_at = freed.as_ptr().expose_provenance();
    let shrunk_at = shrunk.as_ptr().expose_provenance();

    drop(freed);
    shrunk.truncate(40);
    shrunk.shrink_to_fit();

    assert!((freed_at..freed_at + 100).all(|address| touch(address) == 0));
    assert!((shrunk_at + 40..shrunk_at + 100).all(|address| touch(address) == 0));
    assert_eq!(shrunk, [4; 40]);
}

#[test]
fn a_full_arena_ends_the_process_and_never_falls_back() {
    let _alone = alone();
    let fill_in_child = |bytes: usize| {
        in_child(|| {
            let arena = arena();
            ScopedAllocator::within(&arena, || {
                let block = black_box(vec![1_u8; bytes]);
                assert!(arena.contains(block.as_ptr()));
            });
        })
    };

    assert_eq!(fill_in_child(64 << 10), SUCCESS);
    assert_eq!(fill_in_child((64 << 10) + 1), ABORTED);
}

#[test]
fn an_arena_in_use_is_not_wiped_and_one_that_is_not_is() {
    let _alone = alone();
    let mut arena = arena();
    let kept = ScopedAllocator::within(&arena, || Box::new(5_u8));

    assert_eq!(arena.wipe(), Err(ArenaWipeError::Live { blocks: 1 }));
    assert_eq!(*kept, 5);
    drop(kept);

    let wiped = arena.wipe().unwrap();
    assert_eq!((wiped.name(), wiped.bytes()), ("arena", 64 << 10));
}

#[test]
fn dropping_an_arena_under_a_live_block_ends_the_process() {
    let _alone = alone();
    let ended = in_child(|| {
        let own = Arena::map("arena", kib(64), Strength::Strict).unwrap();
        let kept = ScopedAllocator::within(&own, || Box::new(5_u8));
        drop(own);
        drop(kept);
    });
    assert_eq!(ended, ABORTED);
}

#[test]
fn a_scope_ends_with_a_panic_and_an_inner_scope_with_its_own_end() {
    let _alone = alone();
    let (outer, inner) = (arena(), arena());

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        ScopedAllocator::within(&outer, || std::panic::resume_unwind(Box::new(7)));
    }));
    assert!(!outer.contains(&raw const *Box::new(1_u8)));
    drop(panicked);

    let (first, second, third) = ScopedAllocator::within(&outer, || {
        let first = Box::new(1_u8);
        let second = ScopedAllocator::within(&inner, || Box::new(2_u8));
        (first, second, Box::new(3_u8))
    });
    assert!(outer.contains(&raw const *first));
    assert!(inner.contains(&raw const *second));
    assert!(outer.contains(&raw const *third));
}

#[test]
fn other_threads_keep_the_ordinary_heap() {
    let _alone = alone();
    let arena = arena();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        gone.recv().unwrap();
        Box::new(1_u8)
    });

    let from_other = ScopedAllocator::within(&arena, || {
        go.send(()).unwrap();
        other.join().unwrap()
    });

    assert!(!arena.contains(&raw const *from_other));
    drop(go);
}

#[repr(align(256))]
struct Aligned(u8);
