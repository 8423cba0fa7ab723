//! The memory of a process.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::index::Index;
use crate::pass::Pass;
use crate::report::{Progress, ScanReport};
use crate::scanner::{ScanError, open};

pub(crate) fn scan(
    index: &Index,
    pid: u32,
    progress: &mut dyn FnMut(Progress),
) -> Result<ScanReport, ScanError> {
    if pid == std::process::id() {
        return Err(ScanError::OwnProcess { pid });
    }
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let memory = open(&directory.join("mem"))?;
    let mappings = mappings(&directory.join("maps"))?;
    // Without it every page is read, absent ones as the zeros they would become.
    let pagemap = File::open(directory.join("pagemap")).ok();

    let total = mappings.iter().map(Mapping::bytes).sum();
    let mut pass = Pass::over(index, format!("process {pid}"), Some(total), progress);
    for mapping in &mappings {
        pass.next_part();
        let present = match &pagemap {
            Some(pagemap) if mapping.is_anonymous => present(pagemap, mapping.range.clone())
                .unwrap_or_else(|_| vec![mapping.range.clone()]),
            _ => vec![mapping.range.clone()],
        };
        let present_bytes: u64 = present.iter().map(|range| range.end - range.start).sum();
        pass.absent(mapping.bytes() - present_bytes);
        for range in present {
            pass.range(&mapping.line, &memory, range);
        }
    }
    Ok(pass.done())
}

/// A line of `/proc/PID/maps` (proc_pid_maps(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    range: Range<u64>,
    /// Backed by no file, so that a page which is not there has never been written.
    is_anonymous: bool,
    /// Address range, permissions and path.
    line: String,
}

impl Mapping {
    /// `address perms offset dev inode path`; `None` for anything else.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (address, permissions) = (fields.next()?, fields.next()?);
        let inode = fields.nth(2)?;
        let path = fields.collect::<Vec<_>>().join(" ");

        let (start, end) = address.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        let is_special =
            matches!(path.as_str(), "[vdso]" | "[vsyscall]") || path.starts_with("[vvar");
        (start < end).then(|| Self {
            range: start..end,
            is_anonymous: inode == "0" && !is_special && permissions.ends_with('p'),
            line: format!("{address} {permissions} {path}").trim_end().to_owned(),
        })
    }

    const fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

fn mappings(path: &Path) -> Result<Vec<Mapping>, ScanError> {
    let failed = |source| ScanError::Open { path: path.to_owned(), source };
    let text = fs::read(path).map_err(failed)?;
    String::from_utf8_lossy(&text)
        .lines()
        .map(|line| {
            Mapping::parse(line)
                .ok_or_else(|| failed(io::Error::new(io::ErrorKind::InvalidData, line.to_owned())))
        })
        .collect()
}

/// The stretches of `range` whose pages are in memory or in swap (pagemap in the kernel's
/// documentation: 64 bits a page, bit 63 present, bit 62 swapped).
///
/// A reservation of gigabytes is mostly absent, and reading it would fill in page tables.
fn present(pagemap: &File, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let page_bytes = rustix::param::page_size() as u64;
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut entries = vec![0; PAGEMAP_READ_BYTES];
    let mut address = range.start;
    while address < range.end {
        let pages_left = usize::try_from((range.end - address) / page_bytes).unwrap_or(usize::MAX);
        let wanted = pages_left.saturating_mul(ENTRY_BYTES).min(entries.len());
        pagemap.read_exact_at(&mut entries[..wanted], address / page_bytes * ENTRY_BYTES as u64)?;
        for entry in entries[..wanted].as_chunks::<ENTRY_BYTES>().0 {
            let page = address..address + page_bytes;
            if u64::from_ne_bytes(*entry) >> 62 != 0 {
                match found.last_mut() {
                    Some(last) if last.end == page.start => last.end = page.end,
                    _ => found.push(page),
                }
            }
            address += page_bytes;
        }
    }
    Ok(found)
}

const ENTRY_BYTES: usize = size_of::<u64>();

const PAGEMAP_READ_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_gives_range_kind_and_a_name_with_spaces() {
        let line = "7f00-8f00 rw-s 00000000 00:01 77                 /dev/shm/a b (deleted)";
        let expected = Mapping {
            range: 0x7f00..0x8f00,
            is_anonymous: false,
            line: "7f00-8f00 rw-s /dev/shm/a b (deleted)".to_owned(),
        };
        assert_eq!(Mapping::parse(line), Some(expected));
        let heap = Mapping::parse("1000-2000 rw-p 00000000 00:00 0    [heap]").unwrap();
        assert!(heap.is_anonymous);
    }

    #[test]
    fn a_line_that_is_not_one_of_maps_is_not_skipped_in_silence() {
        for line in ["", "1000 rw-p 0 00:00 0", "2000-1000 rw-p 0 00:00 0", "1000-2000 rw-p 0"] {
            assert_eq!(Mapping::parse(line), None, "{line:?}");
        }
    }
}
