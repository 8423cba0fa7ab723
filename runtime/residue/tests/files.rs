//! Files, with and without holes, and directories.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use evanesce_residue::{Canary, ScanError, Scanner, unwatched};

fn canary() -> Canary {
    Canary::random().expect("the kernel has entropy")
}

#[test]
fn a_key_in_a_sparse_file_is_found_at_its_offset_and_the_holes_are_counted() {
    // Given a file of 1 GiB that is a hole but for one seed, and ends in a hole,
    let canary = canary();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 30).unwrap();
    let offset = (700 << 20) + 4090;
    file.as_file().write_all_at(canary.seed(), offset).unwrap();

    let scanner = Scanner::new(&canary.forms(&[]));
    let report = scanner.scan_path(file.path(), &mut unwatched()).unwrap();

    assert_eq!(report.hits.len(), 1, "{report:?}");
    assert_eq!((report.hits[0].form.as_str(), report.hits[0].offset), ("seed", offset));
    assert_eq!(report.bytes_scanned + report.bytes_absent, 1 << 30);
}

#[test]
fn a_directory_is_scanned_to_its_leaves_and_links_are_not_followed() {
    let canary = canary();
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("a/b/c");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("key.pem"), canary.to_pkcs8_pem()).unwrap();
    fs::write(directory.path().join("empty"), "").unwrap();
    symlink(directory.path(), deep.join("round")).unwrap();
    let _socket = UnixListener::bind(directory.path().join("socket")).unwrap();

    let scanner = Scanner::new(&canary.forms(&[]));
    let report = scanner.scan_path(directory.path(), &mut unwatched()).unwrap();

    let places: Vec<&Path> = report.hits.iter().map(|hit| Path::new(&hit.place)).collect();
    assert_eq!(places, [deep.join("key.pem")]);
    assert_eq!(report.sources[0].parts, 2);
    assert_eq!(report.unreadable, []);
}

/// Files of /proc say that they are empty.
#[test]
fn a_file_without_a_length_is_read_to_its_end() {
    let scanner = Scanner::new(&canary().forms(&[]));
    let report = scanner.scan_path(Path::new("/proc/self/status"), &mut unwatched()).unwrap();
    assert!(report.found_nothing());
}

#[test]
fn what_cannot_be_scanned_as_a_whole_is_an_error() {
    let scanner = Scanner::new(&canary().forms(&[]));
    let missing = scanner.scan_path(Path::new("/nonexistent/dump"), &mut unwatched()).unwrap_err();
    assert!(matches!(missing, ScanError::Open { ref path, .. } if path.ends_with("dump")));

    let device = scanner.scan_path(Path::new("/dev/zero"), &mut unwatched()).unwrap_err();
    assert!(matches!(device, ScanError::Kind { .. }));
}

/// /proc/self/mem has nothing at address zero, for root as well.
#[test]
fn a_file_whose_reads_fail_is_listed_and_not_clean() {
    let scanner = Scanner::new(&canary().forms(&[]));
    let report = scanner.scan_path(Path::new("/proc/self/mem"), &mut unwatched()).unwrap();

    assert_eq!((report.bytes_scanned, report.unreadable.len()), (0, 1));
    assert!(!report.found_nothing());
}

/// A file that cannot be read must not count as one without the key. (Root reads it all the same.)
#[test]
fn a_file_below_a_directory_is_read_or_listed() {
    let canary = canary();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("closed");
    fs::write(&path, canary.seed()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();

    let scanner = Scanner::new(&canary.forms(&[]));
    let report = scanner.scan_path(directory.path(), &mut unwatched()).unwrap();

    assert_eq!(report.hits.len() + report.unreadable.len(), 1, "{report:?}");
    assert!(!report.found_nothing());
}
