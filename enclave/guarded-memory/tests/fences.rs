//! What lies outside a region, and what a child does not get.

mod common;

use common::{SEGMENTATION_FAULT, SUCCESS, alone, in_child, kib, touch};
use evanesce_guarded_memory::{GUARD_BYTES, GuardedStack, LinearMemory, Region, Strength};

#[test]
fn a_read_past_either_end_of_a_region_kills_the_process() {
    let _alone = alone();
    let region = Region::map("fenced", kib(8), Strength::Strict).unwrap();
    let start = region.base().as_ptr().expose_provenance();
    let end = start + region.len();
    let read_in_child = |offset: usize| {
        in_child(|| {
            let own = Region::map("fenced", kib(8), Strength::Strict).unwrap();
            let base = own.base().as_ptr().expose_provenance();
            touch(base.wrapping_add(offset));
        })
    };

    assert_eq!(read_in_child(0), SUCCESS);
    assert_eq!(read_in_child(end - start - 1), SUCCESS);
    for offset in [end - start, end - start + GUARD_BYTES - 1] {
        assert_eq!(read_in_child(offset), SEGMENTATION_FAULT, "{offset} bytes from the start");
    }
    for before in [1, GUARD_BYTES] {
        assert_eq!(
            read_in_child(0_usize.wrapping_sub(before)),
            SEGMENTATION_FAULT,
            "{before} bytes before the start",
        );
    }
}

#[test]
fn a_forked_child_does_not_have_the_pages() {
    let _alone = alone();
    // Given a region and a page of ordinary memory,
    let region = Region::map("not inherited", kib(8), Strength::Strict).unwrap();
    let region_start = region.base().as_ptr().expose_provenance();
    let ordinary = Box::new(1_u8);
    let ordinary_start = (&raw const *ordinary).expose_provenance();

    // When a child reads each of them,
    // Then only the ordinary one is there.
    assert_eq!(in_child(|| assert_eq!(touch(ordinary_start), 1)), SUCCESS);
    assert_eq!(in_child(|| touch(region_start)), SEGMENTATION_FAULT);
    assert_eq!(in_child(|| touch(region_start + region.len() - 1)), SEGMENTATION_FAULT);
}

#[test]
fn linear_memory_is_zero_where_it_is_accessible_and_fenced_off_behind() {
    let _alone = alone();
    const RESERVED: usize = 4 << 30;
    const GUARD: usize = 32 << 20;
    let memory = LinearMemory::map("guest", kib(64), RESERVED, GUARD, Strength::Strict).unwrap();
    assert_eq!((memory.accessible_bytes(), memory.reserved_bytes()), (64 << 10, RESERVED));

    let read_in_child = |offset: usize| {
        in_child(|| {
            let own =
                LinearMemory::map("guest", kib(64), RESERVED, GUARD, Strength::Strict).unwrap();
            assert_eq!(touch(own.base().as_ptr().expose_provenance() + offset), 0);
        })
    };

    assert_eq!(read_in_child(0), SUCCESS);
    assert_eq!(read_in_child((64 << 10) - 1), SUCCESS);
    for offset in [64 << 10, RESERVED - 1, RESERVED, RESERVED + GUARD - 1] {
        assert_eq!(read_in_child(offset), SEGMENTATION_FAULT, "offset {offset:#x}");
    }
}

#[test]
fn a_recursion_without_end_meets_the_fence_below_the_stack() {
    let _alone = alone();
    fn deeper(depth: u64) -> u64 {
        let frame = std::hint::black_box([depth; 64]);
        frame[7] + if depth == u64::MAX { 0 } else { deeper(depth + 1) }
    }

    let ended = in_child(|| {
        let mut stack = GuardedStack::map("stack", kib(32), Strength::Strict).unwrap();
        stack.run(|| std::hint::black_box(deeper(0)));
    });

    assert_eq!(ended, SEGMENTATION_FAULT);
}
