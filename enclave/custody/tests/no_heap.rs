//! Reading a workload's key allocates nothing, so no byte of it can be left on a heap.

use std::alloc::System;

use evanesce_custody::ed25519_seed;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The example of RFC 8410, section 10.3.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
    -----END PRIVATE KEY-----\n";

// One test, so that no other thread allocates meanwhile.
#[test]
fn reading_an_ed25519_key_allocates_nothing() {
    let mut scratch = [0; 1024];

    let region = Region::new(ALLOCATOR);
    let seed = ed25519_seed(KEY.as_bytes(), &mut scratch);
    let while_reading = region.change().allocations;
    let control = std::hint::black_box(vec![0_u8; 32]);
    let with_control = region.change().allocations;

    assert!(seed.is_ok_and(|seed| seed.as_bytes()[..2] == [0xd4, 0xee]));
    assert_eq!(while_reading, 0);
    assert!(with_control > 0, "the control was not counted: {control:?}");
}
