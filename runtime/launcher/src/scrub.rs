//! The outside part of a scrub: overwrite another process's private memory, and read it back.
//!
//! The process is stopped first and must never run again: its stack and data are gone. Shared
//! pages, secret ones among them, are left out: secret pages cannot be reached from outside, and
//! their wipe is the worker's own word.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use procfs::FromRead as _;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, MemoryMaps};
use rustix::param::page_size;

use crate::process::{HeldProcess, Stopped};

/// Says what was overwritten from outside, and that all of it was read back as zero.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "put it in the receipt: what nobody recorded cannot be shown"]
pub struct Overwritten {
    bytes: u64,
    pages_absent: u64,
    ranges_shared: u64,
}

impl Overwritten {
    /// Bytes that were overwritten and read back.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pages of private writable mappings that were neither resident nor swapped out: nothing was
    /// ever written to them.
    pub const fn pages_absent(&self) -> u64 {
        self.pages_absent
    }

    /// Shared writable mappings, secret memory among them, which were left as they are.
    pub const fn ranges_shared(&self) -> u64 {
        self.ranges_shared
    }

    /// For tests of decisions that take a proof.
    #[cfg(test)]
    pub(crate) const fn of_test() -> Self {
        Self { bytes: 4096, pages_absent: 1, ranges_shared: 1 }
    }
}

/// Stops the process, then overwrites every resident or swapped page of its private writable
/// memory with zeros and reads it back.
///
/// # Errors
///
/// [`OverwriteError`] names the step; nothing may be claimed then.
pub fn overwrite(process: &mut HeldProcess) -> Result<Overwritten, OverwriteError> {
    let stopped = process.stop().map_err(OverwriteError::Stop)?;
    overwrite_stopped(process.pid_u32(), &stopped)
}

fn overwrite_stopped(pid: u32, _stopped: &Stopped) -> Result<Overwritten, OverwriteError> {
    let open = |name: &'static str| {
        let path = format!("/proc/{pid}/{name}");
        move |write: bool| {
            File::options()
                .read(true)
                .write(write)
                .open(path)
                .map_err(|source| OverwriteError::Open { name, source })
        }
    };
    let memory = open("mem")(true)?;
    let pagemap = open("pagemap")(false)?;
    let maps = fs::read(format!("/proc/{pid}/maps"))
        .map_err(|source| OverwriteError::Open { name: "maps", source })?;
    let maps = MemoryMaps::from_read(maps.as_slice())
        .map_err(|error| OverwriteError::Open { name: "maps", source: io::Error::other(error) })?;

    let mut done = Overwritten { bytes: 0, pages_absent: 0, ranges_shared: 0 };
    let writable = maps.0.iter().filter(|map| map.perms.contains(MMPermissions::WRITE));
    let mut buffers = Buffers::default();
    for map in writable {
        if !is_private(map) {
            done.ranges_shared += 1;
            continue;
        }
        let pages = pages_of(map.address);
        let present = present_pages(&pagemap, pages.clone())
            .map_err(|source| OverwriteError::Pagemap { at: map.address.0, source })?;
        let present_pages: u64 = present.iter().map(|run| run.end - run.start).sum();
        done.pages_absent += pages.end - pages.start - present_pages;
        for run in present {
            done.bytes += buffers.overwrite(&memory, run)?;
        }
    }
    Ok(done)
}

fn is_private(map: &MemoryMap) -> bool {
    map.perms.contains(MMPermissions::PRIVATE)
        && !matches!(map.pathname, MMapPath::Vvar | MMapPath::Vsyscall | MMapPath::Vdso)
}

pub(crate) fn pages_of((start, end): (u64, u64)) -> Range<u64> {
    let page = page_size() as u64;
    start / page..end / page
}

/// The runs of pages that are in memory or in swap.
fn present_pages(pagemap: &File, pages: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let mut runs = Vec::new();
    for_each_page(pagemap, pages, |page, entry| {
        if entry & (PAGE_PRESENT | PAGE_SWAPPED) != 0 {
            extend_runs(&mut runs, page);
        }
    })?;
    Ok(runs)
}

/// Hands each page of a range over, with its entry in `pagemap`.
pub(crate) fn for_each_page(
    pagemap: &File,
    pages: Range<u64>,
    mut see: impl FnMut(u64, u64),
) -> io::Result<()> {
    let mut entries = [0; 8 * PAGEMAP_ENTRIES];
    let mut page = pages.start;
    while page < pages.end {
        let count = (pages.end - page).min(PAGEMAP_ENTRIES as u64);
        let wanted = usize::try_from(count).expect("at most a few hundred") * 8;
        pagemap.read_exact_at(&mut entries[..wanted], page * 8)?;
        for entry in entries[..wanted].as_chunks::<8>().0 {
            see(page, u64::from_ne_bytes(*entry));
            page += 1;
        }
    }
    Ok(())
}

/// Adds a page to runs of pages, each later than all before it.
pub(crate) fn extend_runs(runs: &mut Vec<Range<u64>>, page: u64) {
    match runs.last_mut() {
        Some(run) if run.end == page => run.end += 1,
        _ => runs.push(page..page + 1),
    }
}

/// Zeros to write and room to read back into.
pub(crate) struct Buffers {
    zeros: Vec<u8>,
    read_back: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { zeros: vec![0; CHUNK_BYTES], read_back: vec![0; CHUNK_BYTES] }
    }
}

impl Buffers {
    /// Overwrites a run of pages and reads it back; returns the bytes.
    pub(crate) fn overwrite(
        &mut self,
        memory: &File,
        pages: Range<u64>,
    ) -> Result<u64, OverwriteError> {
        let page = page_size() as u64;
        let (mut at, end) = (pages.start * page, pages.end * page);
        while at < end {
            let bytes = usize::try_from(end - at).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            let fail = |source| OverwriteError::Write { at, source };
            memory.write_all_at(&self.zeros[..bytes], at).map_err(fail)?;
            let back = &mut self.read_back[..bytes];
            back.fill(0xff);
            memory.read_exact_at(back, at).map_err(fail)?;
            if back.iter().any(|byte| *byte != 0) {
                return Err(OverwriteError::ReadBack { at });
            }
            at += bytes as u64;
        }
        Ok(end - pages.start * page)
    }
}

/// Why a process's memory could not be shown to be overwritten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverwriteError {
    /// It did not stop.
    #[error("the process could not be stopped")]
    Stop(#[source] io::Error),
    /// A file of `/proc/PID` could not be read.
    #[error("/proc/PID/{name} could not be opened")]
    Open {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Which pages are there could not be read.
    #[error("the pages of the mapping at {at:#x} could not be listed")]
    Pagemap {
        /// Where the mapping starts.
        at: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Some pages could not be written or read.
    #[error("the pages at {at:#x} could not be overwritten")]
    Write {
        /// Where.
        at: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Some pages read back otherwise than they were written.
    #[error("the pages at {at:#x} did not stay overwritten")]
    ReadBack {
        /// Where.
        at: u64,
    },
}

/// Bytes written at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Entries of `pagemap` read at a time.
const PAGEMAP_ENTRIES: usize = 512;

/// proc_pid_pagemap(5).
pub(crate) const PAGE_PRESENT: u64 = 1 << 63;
pub(crate) const PAGE_SWAPPED: u64 = 1 << 62;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::test_process::{SECRET, holder_of_a_secret};

    fn private_memory_holds(pid: u32, text: &[u8]) -> bool {
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let maps = fs::read(format!("/proc/{pid}/maps")).unwrap();
        MemoryMaps::from_read(maps.as_slice())
            .unwrap()
            .0
            .iter()
            .filter(|map| map.perms.contains(MMPermissions::WRITE) && is_private(map))
            .any(|map| {
                let bytes = usize::try_from(map.address.1 - map.address.0).unwrap();
                let mut content = vec![0; bytes];
                memory.read_exact_at(&mut content, map.address.0).is_ok()
                    && content.windows(text.len()).any(|window| window == text)
            })
    }

    #[test]
    fn what_a_stopped_process_held_is_overwritten_and_read_back() {
        // Given a process with a known text in its heap, which a scan finds,
        let mut child = holder_of_a_secret();
        let pid = child.id();
        assert!(private_memory_holds(pid, SECRET));

        // When it is stopped and overwritten,
        let pidfd = rustix::process::pidfd_open(
            rustix::process::Pid::from_child(&child),
            rustix::process::PidfdFlags::empty(),
        )
        .unwrap();
        let mut process = HeldProcess::of_test(pid, pidfd);
        let overwritten = overwrite(&mut process).unwrap();

        // Then the same scan finds nothing, and the count says how much was done.
        assert!(!private_memory_holds(pid, SECRET));
        assert!(overwritten.bytes() >= 64 * 1024, "{overwritten:?}");
        process.kill(std::time::Duration::from_secs(5)).unwrap();
        assert!(child.wait().is_err(), "the process was reaped through its pidfd");
    }

    #[test]
    fn a_process_that_ends_first_is_not_said_to_be_overwritten() {
        let mut process = HeldProcess::spawn(&mut Command::new("true")).unwrap();
        crate::process::is_readable_within(
            std::os::fd::AsFd::as_fd(&process),
            std::time::Duration::from_secs(5),
        )
        .unwrap();

        let refused = overwrite(&mut process).unwrap_err();

        assert!(matches!(refused, OverwriteError::Stop(_)), "{refused}");
    }
}
