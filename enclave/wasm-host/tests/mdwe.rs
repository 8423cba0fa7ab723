//! The signer needs no page that was ever both written and executed.
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]
#![expect(unsafe_code, reason = "prctl and mmap")]

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use evanesce_protocol::KeyUse;

/// MDWE cannot be undone, so it takes a process of its own.
#[test]
fn a_signer_works_where_the_kernel_refuses_to_make_memory_executable() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "child_under_mdwe"])
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"), "{child:?}");
}

#[test]
#[ignore = "gives up executable memory; the test above runs it in a child process"]
fn child_under_mdwe() {
    // Given a process under MDWE, which shows that it is,
    let refuse = libc::c_ulong::from(libc::PR_MDWE_REFUSE_EXEC_GAIN);
    // SAFETY: takes a right away from this process and touches no memory.
    let answer = unsafe { libc::prctl(libc::PR_SET_MDWE, refuse, 0_u64, 0_u64, 0_u64) };
    assert_eq!(answer, 0, "Linux 6.3 has it");
    assert!(!can_map_executable(), "the control");
    let before = executable_mappings();

    // when a signer lives its whole life,
    let mut signer = common::loaded([7; 32], KeyUse::Message);
    let during = executable_mappings();
    signer.sign_message(b"message").unwrap();
    assert!(signer.wipe().unwrap().bytes() > 0);

    // then what can be executed is what could be before, and none of it can be written.
    assert_eq!(during, before);
    assert_eq!(executable_mappings(), before);
    assert!(!before.iter().any(|mapping| mapping.contains("wx")), "{before:?}");
}

/// A control for the test above: without MDWE there would have been another way.
#[test]
fn a_signer_adds_no_executable_mapping_without_mdwe_either() {
    let before = executable_mappings();
    let signer = common::loaded([7; 32], KeyUse::Message);
    assert_eq!(executable_mappings(), before);
    assert!(can_map_executable(), "nothing forbids it here");
    assert!(signer.wipe().unwrap().bytes() > 0);
}

/// Addresses and permissions of all that can be executed.
fn executable_mappings() -> BTreeSet<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|line| line.split(' ').nth(1).unwrap().contains('x'))
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect()
}

/// Whether this process may map a page that is written and executed. Unmaps it again.
fn can_map_executable() -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: no fixed address: the kernel picks one that nothing uses.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: the page was just mapped, and nobody knows of it.
    let unmapped = unsafe { libc::munmap(page, 4096) };
    assert_eq!(unmapped, 0);
    true
}
