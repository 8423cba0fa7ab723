//! What `/proc/PID/smaps` says of guarded memory, read as claims and checked one by one.
//!
//! The worker sends the text of its own entries; the launcher, which may not read a non-dumpable
//! process's `smaps`, holds them against what was promised. Sources: proc_pid_smaps(5), and
//! `show_smap_vma_flags` in the kernel's `fs/proc/task_mmu.c` for the two-letter names.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::limits::CONTROL_BYTES_MAX;

/// What keeps a guarded range out of dumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Backing {
    /// `memfd_secret(2)`: off the kernel's direct map, unreadable by any other process, never
    /// swapped, cleared by the kernel when freed.
    SecretPages,
    /// `mlock(2)`, `MADV_DONTDUMP` and `MADV_WIPEONFORK`: out of swap and of core files, readable
    /// by anyone who may trace the process. Only where degraded secret pages were allowed.
    LockedPages,
}

/// One mapping, as far as claims are made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The addresses, page by page.
    pub range: Range<u64>,
    /// The four letters of the first line, such as `rw-s`.
    pub permissions: [u8; 4],
    /// The path column; empty where the mapping has none.
    pub path: String,
    /// `Rss`, in KiB.
    pub rss_kib: u64,
    /// `Locked`, in KiB.
    pub locked_kib: u64,
    /// `Swap`, in KiB.
    pub swap_kib: u64,
    flags: Vec<[u8; 2]>,
}

impl Entry {
    /// Whether `VmFlags` has this two-letter flag.
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|found| found == flag.as_bytes())
    }

    fn is_accessible(&self) -> bool {
        self.permissions.starts_with(b"r")
            || self.permissions[1] == b'w'
            || self.permissions[2] == b'x'
    }
}

/// Reads the text of one or more entries, in the kernel's order.
///
/// Lines that carry no claim are skipped, so a newer kernel's additions do no harm.
///
/// # Errors
///
/// More text than one control message holds, a line before the first entry, and a first line or a
/// value that is not as proc_pid_smaps(5) has it.
pub fn parse(text: &str) -> Result<Vec<Entry>, ParseSmapsError> {
    if text.len() > CONTROL_BYTES_MAX {
        return Err(ParseSmapsError::Length { found: text.len() });
    }
    let mut entries: Vec<Entry> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at = |problem| move || ParseSmapsError::Line { line: index + 1, problem };
        if line.starts_with(|first: char| first.is_ascii_digit() || matches!(first, 'a'..='f')) {
            entries.push(parse_head(line).ok_or_else(at("not the first line of an entry"))?);
            continue;
        }
        let entry = entries.last_mut().ok_or_else(at("no entry has begun"))?;
        let (field, value) = line.split_once(':').ok_or_else(at("not a field and a value"))?;
        match field {
            "Rss" => entry.rss_kib = parse_kib(value).ok_or_else(at("not a size in kB"))?,
            "Locked" => entry.locked_kib = parse_kib(value).ok_or_else(at("not a size in kB"))?,
            "Swap" => entry.swap_kib = parse_kib(value).ok_or_else(at("not a size in kB"))?,
            "VmFlags" => entry.flags = parse_flags(value).ok_or_else(at("not two-letter flags"))?,
            _ => {}
        }
    }
    Ok(entries)
}

/// Checks every claim that a guarded range of this backing makes.
///
/// `entries` has to cover the range and its two neighbours, the guard pages.
///
/// # Errors
///
/// All claims that do not hold, in the order of addresses.
pub fn check(
    entries: &[Entry],
    range: Range<u64>,
    backing: Backing,
) -> Result<(), Vec<MissingClaim>> {
    let mut missing = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let Some(entry) = entries.iter().find(|entry| entry.range.contains(&at)) else {
            missing.push(MissingClaim::Mapped { at });
            break;
        };
        missing.extend(claims_missing_from(entry, backing));
        at = entry.range.end;
    }
    for guard in [range.start.wrapping_sub(1), range.end] {
        let fenced =
            entries.iter().any(|entry| entry.range.contains(&guard) && !entry.is_accessible());
        if !fenced {
            missing.push(MissingClaim::Fenced { at: guard });
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

fn claims_missing_from(entry: &Entry, backing: Backing) -> impl Iterator<Item = MissingClaim> {
    let at = entry.range.start;
    let is_locked = entry.has_flag("lo") && entry.locked_kib == entry.rss_kib;
    let common = [
        (entry.permissions.starts_with(b"rw-"), MissingClaim::ReadWriteOnly { at }),
        (entry.swap_kib == 0, MissingClaim::NotSwapped { at }),
        (entry.has_flag("dd"), MissingClaim::NotDumped { at }),
        (entry.has_flag("dc"), MissingClaim::NotInherited { at }),
    ];
    let own = match backing {
        // Nothing is asked about locks: Linux 6.18 shows `lo` for secret pages, the stable kernels
        // 6.1.192 and 6.12.117 do not and take no lock on them. What keeps them out of swap is that
        // their file is unevictable (`mapping_set_unevictable` in `mm/secretmem.c`).
        Backing::SecretPages => {
            vec![(entry.path == SECRET_PATH, MissingClaim::SecretPages { at })]
        }
        Backing::LockedPages => vec![
            (is_locked, MissingClaim::Locked { at }),
            (entry.has_flag("wf"), MissingClaim::WipedOnFork { at }),
        ],
    };
    common.into_iter().chain(own).filter(|(holds, _)| !holds).map(|(_, claim)| claim)
}

fn parse_head(line: &str) -> Option<Entry> {
    let mut columns = line.splitn(6, ' ');
    let (start, end) = columns.next()?.split_once('-')?;
    let permissions = columns.next()?.as_bytes().try_into().ok()?;
    let path = columns.nth(3).unwrap_or_default().trim_start().to_owned();
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    (start < end).then_some(Entry {
        range: start..end,
        permissions,
        path,
        rss_kib: 0,
        locked_kib: 0,
        swap_kib: 0,
        flags: Vec::new(),
    })
}

fn parse_kib(value: &str) -> Option<u64> {
    value.trim().strip_suffix(" kB")?.parse().ok()
}

fn parse_flags(value: &str) -> Option<Vec<[u8; 2]>> {
    value.split_ascii_whitespace().map(|flag| flag.as_bytes().try_into().ok()).collect()
}

/// A claim of a guarded range that its smaps entry does not bear out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MissingClaim {
    /// No entry covers this address of the range.
    #[error("nothing is mapped at {at:#x}")]
    Mapped {
        /// The first address that is not covered.
        at: u64,
    },
    /// The pages are not those of `memfd_secret(2)`.
    #[error("the mapping at {at:#x} is not of secret pages")]
    SecretPages {
        /// Where the entry starts.
        at: u64,
    },
    /// The pages can be executed, or cannot be read or written.
    #[error("the mapping at {at:#x} is not readable and writable alone")]
    ReadWriteOnly {
        /// Where the entry starts.
        at: u64,
    },
    /// `lo` is missing, or less is locked than is resident.
    #[error("the mapping at {at:#x} is not locked")]
    Locked {
        /// Where the entry starts.
        at: u64,
    },
    /// Some of it is in swap.
    #[error("the mapping at {at:#x} is partly swapped out")]
    NotSwapped {
        /// Where the entry starts.
        at: u64,
    },
    /// `dd` is missing: the range would be written to a core file.
    #[error("the mapping at {at:#x} would be written to a core file")]
    NotDumped {
        /// Where the entry starts.
        at: u64,
    },
    /// `dc` is missing: a forked child would have the range too.
    #[error("the mapping at {at:#x} would be inherited by a forked child")]
    NotInherited {
        /// Where the entry starts.
        at: u64,
    },
    /// `wf` is missing from locked pages.
    #[error("the mapping at {at:#x} is not wiped on fork")]
    WipedOnFork {
        /// Where the entry starts.
        at: u64,
    },
    /// The byte next to the range is accessible, or its entry was not given.
    #[error("there is no guard page at {at:#x}")]
    Fenced {
        /// The address that should be fenced off.
        at: u64,
    },
}

/// Why a text is not that of smaps entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSmapsError {
    /// More than [`CONTROL_BYTES_MAX`].
    #[error("smaps entries have at most {CONTROL_BYTES_MAX} bytes here, these have {found}")]
    Length {
        /// Bytes in the text.
        found: usize,
    },
    /// A line that cannot be read.
    #[error("line {line} of the smaps entries is {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What was expected there.
        problem: &'static str,
    },
}

/// How the kernel names a mapping of `memfd_secret(2)` (`mm/secretmem.c`: a pseudo file without
/// a directory entry).
const SECRET_PATH: &str = "/secretmem (deleted)";

#[cfg(test)]
mod tests {
    use super::*;

    /// A guarded range of four secret pages as Linux 6.18 shows it, cut to the lines that matter.
    const SECRET: &str = "\
7f6c08ead000-7f6c08eae000 ---p 00000000 00:00 0 
Rss:                   0 kB
VmFlags: mr mw me dc nr 
7f6c08eae000-7f6c08eb2000 rw-s 00000000 00:0e 12012                      /secretmem (deleted)
Size:                 16 kB
Rss:                   4 kB
Swap:                  0 kB
SwapPss:               0 kB
Locked:                4 kB
THPeligible:           0
VmFlags: rd wr sh mr mw ms lo dc dd 
7f6c08eb2000-7f6c08eb3000 ---p 00000000 00:00 0 
VmFlags: mr mw me dc nr 
";
    const START: u64 = 0x7f6c_08ea_e000;
    const RANGE: Range<u64> = START..0x7f6c_08eb_2000;

    fn check_text(text: &str, backing: Backing) -> Result<(), Vec<MissingClaim>> {
        check(&parse(text).unwrap(), RANGE, backing)
    }

    #[test]
    fn secret_pages_between_two_fences_keep_every_claim() {
        assert_eq!(check_text(SECRET, Backing::SecretPages), Ok(()));
    }

    /// As Linux 6.1.192 and 6.12.117 show them.
    #[test]
    fn secret_pages_need_no_lock() {
        let unlocked = SECRET.replace(" lo ", " ").replace("Locked:                4", "Locked: 0");
        assert_eq!(check_text(&unlocked, Backing::SecretPages), Ok(()));
    }

    #[test]
    fn locked_pages_keep_every_claim_when_they_are_also_wiped_on_fork() {
        let locked = SECRET.replace("/secretmem (deleted)", "").replace("dc dd", "dc wf dd");
        assert_eq!(check_text(&locked, Backing::LockedPages), Ok(()));
    }

    #[test]
    fn each_claim_that_does_not_hold_is_named() {
        let at = START;
        for (from, to, expected) in [
            ("/secretmem (deleted)", "/dev/shm/x", MissingClaim::SecretPages { at }),
            ("rw-s", "rwxs", MissingClaim::ReadWriteOnly { at }),
            ("Swap:                  0", "Swap: 4", MissingClaim::NotSwapped { at }),
            (" dc dd", " dc", MissingClaim::NotDumped { at }),
            (" dc dd", " dd", MissingClaim::NotInherited { at }),
            ("eae000 ---p", "eae000 rw-p", MissingClaim::Fenced { at: at - 1 }),
            ("eb3000 ---p", "eb3000 r--p", MissingClaim::Fenced { at: RANGE.end }),
            ("eb2000 rw-s", "eb1000 rw-s", MissingClaim::Mapped { at: RANGE.end - 0x1000 }),
        ] {
            let text = SECRET.replace(from, to);
            assert_ne!(text, SECRET, "{from:?} is not in the sample");
            assert_eq!(check_text(&text, Backing::SecretPages), Err(vec![expected]));
        }
        let locked = SECRET.replace("/secretmem (deleted)", "").replace("dc dd", "dc wf dd");
        for (from, to, expected) in [
            (" wf ", " ", MissingClaim::WipedOnFork { at }),
            (" lo ", " ", MissingClaim::Locked { at }),
            ("Locked:                4", "Locked: 0", MissingClaim::Locked { at }),
        ] {
            let text = locked.replace(from, to);
            assert_eq!(check_text(&text, Backing::LockedPages), Err(vec![expected]));
        }
    }

    #[test]
    fn text_that_is_not_smaps_is_refused_with_its_line() {
        for (text, line) in [
            ("Rss: 4 kB\n", 1),
            ("1000-2000\n", 1),
            ("2000-1000 rw-p 0 0 0\n", 1),
            ("1000-2000 rw-p 00000000 00:00 0\nRss: many kB\n", 2),
            ("1000-2000 rw-p 00000000 00:00 0\nVmFlags: rd write\n", 2),
            ("1000-2000 rw-p 00000000 00:00 0\nno colon here\n", 2),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(
                matches!(refused, ParseSmapsError::Line { line: found, .. } if found == line),
                "{text:?}: {refused}",
            );
        }
        let found = CONTROL_BYTES_MAX + 1;
        assert_eq!(parse(&"\n".repeat(found)), Err(ParseSmapsError::Length { found }));
    }
}
