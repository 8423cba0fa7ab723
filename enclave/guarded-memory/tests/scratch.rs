//! Memory that is too large to be locked: what it keeps all the same.

mod common;

use std::hint::black_box;

use common::{ABORTED, alone, in_child, kib};
use evanesce_guarded_memory::{ArenaWipeError, ScopedAllocator, Scratch, registry};
use evanesce_protocol::smaps;

#[global_allocator]
static ALLOCATOR: ScopedAllocator = ScopedAllocator;

#[test]
fn what_is_allocated_in_the_scope_is_in_the_scratch_however_large() {
    let _alone = alone();
    let scratch = Scratch::map("scratch", kib(64 * 1024)).unwrap();

    let large = ScopedAllocator::within_scratch(&scratch, || vec![7_u8; 60 << 20]);

    assert!(scratch.contains(large.as_ptr()));
    assert!(!scratch.contains(vec![7_u8; 1000].as_ptr()));
    assert_eq!(large[60 << 19], 7);
}

#[test]
fn scratch_is_in_no_core_file_and_no_child_and_fenced() {
    let _alone = alone();
    let _scratch = Scratch::map("scratch", kib(64)).unwrap();
    let mut range = None;
    registry::for_each(|found| range = Some(*found));
    let range = range.unwrap();
    assert_eq!((range.name, range.backing), ("scratch", None));

    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut here =
        text.lines().skip_while(|line| !line.starts_with(&format!("{:x}-", range.start)));
    let flags = here.find_map(|line| line.strip_prefix("VmFlags: ")).unwrap();

    for flag in ["dc", "dd"] {
        assert!(flags.split(' ').any(|found| found == flag), "{flag} is not in {flags}");
    }
    let entries = smaps::parse(&text).unwrap();
    assert!(!entries.is_empty());
}

#[test]
fn a_wiped_scratch_is_unmapped_and_its_place_in_the_tables_is_free() {
    let _alone = alone();
    for _ in 0..20 {
        let scratch = Scratch::map("scratch", kib(256)).unwrap();
        ScopedAllocator::within_scratch(&scratch, || drop(black_box(vec![7_u8; 200 << 10])));

        assert_eq!(scratch.wipe().unwrap().bytes(), 256 << 10);
    }
    let mut left = 0;
    registry::for_each(|_| left += 1);
    assert_eq!(left, 0);
}

#[test]
fn scratch_that_something_lives_in_is_not_taken_for_wiped_and_ends_the_process() {
    let _alone = alone();
    let end = in_child(|| {
        let scratch = Scratch::map("scratch", kib(64)).unwrap();
        let outlives = ScopedAllocator::within_scratch(&scratch, || Box::new(1_u8));
        let wiped = scratch.wipe();
        drop(outlives);
        assert!(matches!(wiped, Err(ArenaWipeError::Live { blocks: 1 })));
    });

    assert_eq!(end, ABORTED);
}
