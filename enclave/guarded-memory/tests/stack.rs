//! Code that runs on a guarded stack.
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::kib;
use evanesce_guarded_memory::{GuardedStack, Strength};

fn stack() -> GuardedStack {
    GuardedStack::map("stack", kib(128), Strength::Strict).unwrap()
}

#[test]
fn locals_of_the_closure_lie_in_the_guarded_range_and_those_of_the_caller_do_not() {
    let mut stack = stack();
    let range = stack.range();
    let outside = 0_u8;

    let inside = stack.run(|| {
        let local = 0_u8;
        (&raw const local).addr()
    });

    assert!(range.contains(&inside));
    assert!(!range.contains(&(&raw const outside).addr()));
    assert_eq!(stack.guard_range().end, range.start);
}

#[test]
fn what_a_call_left_behind_is_gone_after_its_wipe() {
    let mut stack = stack();
    stack.run(|| std::hint::black_box([0xa7_u8; 4096]));
    let used_bytes = stack.used_bytes();
    assert!(used_bytes >= 4096, "{used_bytes}");

    stack.wipe_used(4096);
    assert!(stack.used_bytes() > 0, "wiping less than was used leaves the rest");
    stack.wipe_used(used_bytes);

    assert_eq!(stack.used_bytes(), 0);
    assert_eq!(stack.wipe().unwrap().bytes(), 128 << 10);
}

#[test]
fn a_stack_can_be_used_again_after_each_wipe() {
    let mut stack = stack();
    for round in 0..100_u64 {
        assert_eq!(stack.run(|| std::hint::black_box(round) + 1), round + 1);
        stack.wipe_used(usize::MAX);
    }
}

#[test]
fn a_panic_on_the_stack_goes_on_in_the_caller() {
    let mut stack = stack();
    let outcome = catch_unwind(AssertUnwindSafe(|| stack.run(|| panic!("on the guarded stack"))));
    assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"on the guarded stack"));
    assert_eq!(stack.run(|| 7), 7);
}
