//! What the kernel says of the pages that a signer uses. One test, so that no other signer of this
//! process is in the registry.
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]
#![expect(unsafe_code, reason = "asks for the signal stack")]

mod common;

use std::ops::Range;

use evanesce_guarded_memory::{Backing, registry};
use evanesce_protocol::{KeyUse, smaps};

#[test]
fn linear_memory_and_both_stacks_are_secret_pages_and_nothing_remains_after_the_end() {
    // Given a signer that has signed,
    let mut signer = common::loaded([7; 32], KeyUse::Message);
    signer.sign_message(b"message").unwrap();

    // Then each of its ranges keeps its claims in smaps,
    let mut ranges = Vec::new();
    registry::for_each(|range| ranges.push(*range));
    for range in &ranges {
        let addresses = range.start as u64..(range.start + range.bytes) as u64;
        let entries = entries_near(&addresses);
        assert_eq!(smaps::check(&entries, addresses, Backing::SecretPages), Ok(()), "{range:?}");
    }
    let mut names: Vec<_> = ranges.iter().map(|range| range.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["signer-memory", "signer-signal-stack", "signer-stack"]);

    // and the signal stack is the one that this thread's signals use;
    let signal_stack = ranges.iter().find(|range| range.name == "signer-signal-stack").unwrap();
    assert_eq!(alternate_stack(), Some((signal_stack.start, signal_stack.bytes)));

    // and when it is wiped, all of them are gone.
    assert_eq!(signer.wipe().unwrap().regions().len(), 3);
    assert_eq!(registry::locked_bytes(), 0);
    assert_ne!(alternate_stack(), Some((signal_stack.start, signal_stack.bytes)));
}

/// Where this thread's signal handlers run: address and bytes.
fn alternate_stack() -> Option<(usize, usize)> {
    let mut stack = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: changes nothing and writes to the local.
    let answer = unsafe { libc::sigaltstack(std::ptr::null(), &raw mut stack) };
    assert_eq!(answer, 0);
    (stack.ss_flags & libc::SS_DISABLE == 0).then(|| (stack.ss_sp.addr(), stack.ss_size))
}

/// The entries of this process's smaps that touch a range, so its fences too.
fn entries_near(range: &Range<u64>) -> Vec<smaps::Entry> {
    let mut picked = String::new();
    let mut is_near = false;
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        if let Some((start, end)) = addresses(line) {
            is_near = end >= range.start && start <= range.end;
        }
        if is_near {
            picked.push_str(line);
            picked.push('\n');
        }
    }
    smaps::parse(&picked).unwrap()
}

/// The addresses that an entry's first line begins with.
fn addresses(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}
