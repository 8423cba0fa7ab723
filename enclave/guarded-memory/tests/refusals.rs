//! What is not given, and why.
#![expect(unsafe_code, reason = "system calls that no safe wrapper has")]

mod common;

use std::io::Write as _;
use std::os::fd::AsFd as _;

use common::{SUCCESS, alone, in_child, kib, take_secret_pages_away};
use evanesce_guarded_memory::{
    Arena, FillError, MapError, Region, ScopedAllocator, Strength, registry,
};
use rustix::io::Errno;

#[test]
fn strict_means_that_without_secret_pages_there_is_no_region() {
    let _alone = alone();
    let ended = in_child(|| {
        take_secret_pages_away();
        let refused = Region::map("strict", kib(4), Strength::Strict).unwrap_err();
        assert!(
            matches!(refused, MapError::SecretPagesUnavailable { source: Errno::NOSYS }),
            "{refused:?}",
        );
        assert_eq!(registry::locked_bytes(), 0);
    });
    assert_eq!(ended, SUCCESS);
}

#[test]
fn a_memory_lock_limit_that_is_too_low_is_told_with_what_is_needed() {
    let _alone = alone();
    for strength in [Strength::Strict, Strength::AllowDegraded] {
        let ended = in_child(|| {
            if strength == Strength::AllowDegraded {
                take_secret_pages_away();
            }
            limit_locked_memory(64 << 10);
            let _first = Region::map("fits", kib(48), strength).unwrap();
            let refused = Region::map("does not fit", kib(32), strength).unwrap_err();
            let MapError::MemlockTooLow { needed, limit, .. } = refused else {
                panic!("{refused:?}")
            };
            assert_eq!((needed, limit), (80 << 10, Some(64 << 10)));
            assert_eq!(registry::locked_bytes(), 48 << 10);
        });
        assert_eq!(ended, SUCCESS, "{strength:?}");
    }
}

#[test]
fn a_region_that_cannot_be_registered_is_not_mapped() {
    let _alone = alone();
    let regions: Vec<_> = (0..registry::REGIONS_MAX)
        .map(|_| Region::map("one of many", kib(4), Strength::Strict).unwrap())
        .collect();

    let refused = Region::map("one too many", kib(4), Strength::Strict).unwrap_err();

    assert!(matches!(refused, MapError::TooManyRegions), "{refused:?}");
    assert_eq!(registry::locked_bytes(), 4096 * regions.len() as u64);
}

#[test]
fn a_size_that_address_space_cannot_hold_is_refused() {
    let _alone = alone();
    let huge = kib(isize::MAX.cast_unsigned() / 1024 - 8);
    let refused = Region::map("huge", huge, Strength::Strict).unwrap_err();
    assert!(matches!(refused, MapError::Reserve { .. }), "{refused:?}");
}

#[test]
fn a_descriptor_is_read_to_its_end_and_not_beyond_the_limit() {
    let _alone = alone();
    let mut region = Region::map("input", kib(4), Strength::Strict).unwrap();
    let mut fill = |bytes: usize, bytes_max: usize| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&vec![7; bytes]).unwrap();
        drop(writer);
        region.fill_from(reader.as_fd(), bytes_max)
    };

    assert_eq!(fill(100, 100).unwrap(), 100);
    assert_eq!(fill(0, 100).unwrap(), 0);
    assert_eq!(fill(4095, 8192).unwrap(), 4095);
    for (bytes, bytes_max) in [(101, 100), (4096, 4096), (5000, 8192)] {
        let refused = fill(bytes, bytes_max).unwrap_err();
        assert!(matches!(refused, FillError::TooLong { .. }), "{bytes}: {refused:?}");
    }
    region.with(|bytes| assert!(bytes.iter().all(|byte| *byte == 7)));
}

#[test]
fn a_random_fill_reaches_the_last_byte_of_every_page() {
    let _alone = alone();
    let mut region = Region::map("random", kib(64), Strength::Strict).unwrap();
    region.fill_random().unwrap();
    region.with(|bytes| {
        for page in bytes.chunks(4096) {
            assert_ne!(page[4080..], [0; 16]);
        }
    });
}

#[test]
fn a_wiped_region_reads_as_zero_and_can_be_used_again() {
    let _alone = alone();
    let mut region = Region::map("wiped", kib(16), Strength::Strict).unwrap();
    region.fill_random().unwrap();

    let wiped = region.wipe().unwrap();

    assert_eq!((wiped.name(), wiped.bytes()), ("wiped", 16 << 10));
    region.with(|bytes| assert!(bytes.iter().all(|byte| *byte == 0)));
    region.with_mut(|bytes| bytes[0] = 1);
    region.with(|bytes| assert_eq!(bytes[0], 1));
}

/// Without this, a worker that forgot to install the allocator would load keys on the heap.
#[test]
#[should_panic(expected = "ScopedAllocator is not the global allocator")]
fn a_scope_is_refused_where_the_scoped_allocator_is_not_installed() {
    let _alone = alone();
    let arena = Arena::map("unused", kib(4), Strength::Strict).unwrap();
    ScopedAllocator::within(&arena, || ());
}

/// Lowers the limit and gives up the privilege to ignore it, if there is one.
fn limit_locked_memory(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the kernel reads the local.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    assert_eq!(limited, 0);
    // SAFETY: changes the ids of the process; one without privileges keeps its own.
    if unsafe { libc::geteuid() } == 0 {
        const NOBODY: libc::uid_t = 65_534;
        // SAFETY: as above.
        let changed = unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) };
        assert_eq!(changed, 0);
    }
}
