//! What there is to search on a host, and what of it nobody can read.

use std::io;
use std::path::PathBuf;

use evanesce_residue::ScanReport;

/// The devices and files that memory may be swapped to (proc_swaps(5)).
///
/// # Errors
///
/// Where `/proc/swaps` cannot be read.
pub fn swaps() -> io::Result<Vec<PathBuf>> {
    std::fs::read_to_string(SWAPS).map(|text| parse_swaps(&text))
}

/// A line of titles, then one device or file a line; octal escapes stand for white space.
fn parse_swaps(text: &str) -> Vec<PathBuf> {
    let names = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    names.map(|name| name.replace("\\040", " ").replace("\\011", "\t").into()).collect()
}

/// What was not read though somebody could have read it: not the pages that the kernel shows to
/// nobody, root included, and those that belong to the kernel itself.
pub fn unread(report: &ScanReport) -> Vec<String> {
    report
        .unreadable
        .iter()
        .filter(|part| !is_closed_to_all(&part.what))
        .map(|part| format!("{} ({})", part.what, part.reason))
        .collect()
}

/// Whether it is a mapping of a process that only the process itself can read, or the kernel's own.
fn is_closed_to_all(what: &str) -> bool {
    let Some(mapping) = what.strip_prefix("process ") else { return false };
    let path = mapping.split_whitespace().nth(3).unwrap_or_default();
    path.starts_with("/secretmem") || path.starts_with("[vvar") || path.starts_with("[vsyscall]")
}

const SWAPS: &str = "/proc/swaps";

#[cfg(test)]
mod tests {
    use evanesce_residue::Unreadable;

    use super::*;

    #[test]
    fn swap_devices_and_files_are_listed_by_name() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/dm-1                               partition\t8388604\t0\t-2\n\
                    /swap\\040file                           file\t1024\t0\t-3\n";

        assert_eq!(parse_swaps(text), [PathBuf::from("/dev/dm-1"), "/swap file".into()]);
        assert_eq!(parse_swaps("Filename\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn only_what_nobody_can_read_may_stay_unread() {
        let range = "0x7f0000000000-0x7f0000020000";
        let mapping =
            |path: &str| format!("process 7 7f0000000000-7f0000020000 rw-s {path}, {range}");
        let report = ScanReport {
            unreadable: [
                mapping("/secretmem (deleted)"),
                mapping("[vvar]"),
                mapping("[vsyscall]"),
                mapping("/home/secretmem (deleted)"),
                mapping("[heap]"),
                "/tmp/process 7 a b /secretmem".to_owned(),
            ]
            .map(|what| Unreadable { what, reason: "EIO".to_owned() })
            .into(),
            ..ScanReport::default()
        };

        let unread = unread(&report);

        assert_eq!(unread.len(), 3, "{unread:#?}");
        assert!(unread[0].contains("/home/secretmem") && unread[1].contains("[heap]"));
    }
}
