//! Who can read the pages, and what the kernel says of them.
#![expect(unsafe_code, reason = "system calls that no safe wrapper has")]
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]

mod common;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use common::{
    SEGMENTATION_FAULT, SUCCESS, alone, check_smaps, in_child, kib, take_secret_pages_away, touch,
};
use evanesce_guarded_memory::{
    Arena, Backing, GUARD_BYTES, GuardedStack, LinearMemory, Region, Strength, registry,
};

const CANARY: [u8; 16] = *b"canary-in-a-page";

/// `/proc/PID/mem` and process_vm_readv(2) are how a debugger and gcore(1) read; that a process
/// may always use them on itself makes the refusal the page's, not the caller's.
#[test]
fn secret_pages_cannot_be_read_from_outside_though_ordinary_ones_can() {
    let _alone = alone();
    let mut region = Region::map("secret", kib(4), Strength::Strict).unwrap();
    region.with_mut(|bytes| bytes[..16].copy_from_slice(&CANARY));
    let ordinary = Box::new(CANARY);
    let region_at = region.base().as_ptr().addr();
    let ordinary_at = (&raw const *ordinary).addr();

    for read in [read_by_proc_mem, read_by_process_vm_readv] {
        assert_eq!(read(ordinary_at).unwrap(), CANARY);
        let refused = read(region_at).unwrap_err().raw_os_error();
        assert!(matches!(refused, Some(libc::EFAULT | libc::EIO)), "{refused:?}");
    }
    region.with(|bytes| assert!(bytes.starts_with(&CANARY)));
}

#[test]
fn every_kind_of_guarded_range_keeps_its_claims_in_smaps() {
    let _alone = alone();
    let mut region = Region::map("region", kib(8), Strength::Strict).unwrap();
    region.with_mut(|bytes| bytes.fill(1));
    let _memory = LinearMemory::map("memory", kib(64), 1 << 20, 0, Strength::Strict).unwrap();
    let mut stack = GuardedStack::map("stack", kib(64), Strength::Strict).unwrap();
    stack.run(|| std::hint::black_box([1_u8; 512]));
    let _arena = Arena::map("arena", kib(64), Strength::Strict).unwrap();

    let mut checked = Vec::new();
    registry::for_each(|range| {
        let addresses = range.start..range.start + range.bytes;
        assert_eq!(check_smaps(addresses, range.backing.unwrap()), Ok(()), "{}", range.name);
        checked.push((range.name, range.bytes >> 10, range.backing.unwrap()));
    });
    checked.sort_unstable_by_key(|(name, ..)| *name);

    let secret = Backing::SecretPages;
    assert_eq!(
        checked,
        [
            ("arena", 64, secret),
            ("memory", 64, secret),
            ("region", 8, secret),
            ("stack", 64, secret)
        ],
    );
    assert_eq!(registry::locked_bytes(), 200 << 10);
}

#[test]
fn a_range_that_is_dropped_is_registered_and_locked_no_more() {
    let _alone = alone();
    drop(Region::map("short-lived", kib(8), Strength::Strict).unwrap());

    registry::for_each(|range| panic!("{} is still registered", range.name));
    assert_eq!(registry::locked_bytes(), 0);
}

#[test]
fn degraded_pages_say_so_and_keep_the_claims_of_locked_pages() {
    let _alone = alone();
    let ended = in_child(|| {
        take_secret_pages_away();
        let region = Region::map("degraded", kib(8), Strength::AllowDegraded).unwrap();
        let start = region.base().as_ptr().expose_provenance();

        assert_eq!(region.backing(), Backing::LockedPages);
        assert_eq!(check_smaps(start..start + region.len(), Backing::LockedPages), Ok(()));
        assert_eq!(in_child(|| touch(start)), SEGMENTATION_FAULT);
        assert_eq!(in_child(|| touch(start - GUARD_BYTES)), SEGMENTATION_FAULT);
    });
    assert_eq!(ended, SUCCESS);
}

#[test]
fn secret_pages_are_taken_where_they_can_be_had_even_if_less_is_allowed() {
    let _alone = alone();
    let region = Region::map("allowed", kib(4), Strength::AllowDegraded).unwrap();
    assert_eq!(region.backing(), Backing::SecretPages);
}

/// The check has to be able to fail: ordinary memory keeps none of the claims.
#[test]
fn ordinary_memory_fails_the_check() {
    let _alone = alone();
    let ordinary = vec![1_u8; 1 << 20];
    let start = ordinary.as_ptr().addr().next_multiple_of(4096);
    assert!(check_smaps(start..start + 4096, Backing::SecretPages).unwrap_err().len() >= 5);
}

fn read_by_proc_mem(address: usize) -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/proc/self/mem")?.read_exact_at(&mut bytes, address as u64)?;
    Ok(bytes)
}

fn read_by_process_vm_readv(address: usize) -> io::Result<[u8; 16]> {
    let mut bytes = [0_u8; 16];
    let into = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let from = libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: 16 };
    let pid = libc::pid_t::try_from(std::process::id()).unwrap();
    // SAFETY: the kernel writes at most 16 bytes to the local array, and checks the source itself.
    let read = unsafe { libc::process_vm_readv(pid, &raw const into, 1, &raw const from, 1, 0) };
    if read == 16 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}
