//! Another process's memory, all of it accounted for.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use evanesce_residue::{Canary, ScanError, Scanner, unwatched};

/// A shell that was told the canary's seed in hexadecimal and keeps it in a variable.
struct Holder {
    child: Child,
}

impl Holder {
    fn of(canary: &Canary) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", "read -r seed; echo holding; read -r _"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let input = child.stdin.as_mut().expect("piped");
        writeln!(input, "{}", hex::encode(canary.seed())).expect("the shell reads");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("the shell answers");
        assert_eq!(line, "holding\n");
        Self { child }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.child.kill().expect("a child that waits for input is alive");
        self.child.wait().expect("a killed child can be reaped");
    }
}

fn bytes_mapped(pid: u32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process is there");
    maps.lines()
        .map(|line| {
            let number = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
            let (start, rest) = line.split_once('-').expect("an address range");
            let (end, _) = rest.split_once(' ').expect("permissions");
            number(end) - number(start)
        })
        .sum()
}

#[test]
fn a_key_in_another_process_is_found_and_placed_in_its_mapping() {
    // Given a process that holds the canary in hexadecimal,
    let canary = Canary::random().unwrap();
    let holder = Holder::of(&canary);
    let pid = holder.child.id();

    // When it is scanned,
    let scanner = Scanner::new(&canary.forms(&[]));
    let report = scanner.scan_process(pid, &mut unwatched()).unwrap();

    // Then the text is found in a writable mapping, within that mapping's addresses,
    let hit = report.hits.iter().find(|hit| hit.form == "seed.hex-lower").unwrap();
    let (range, permissions) = hit.place.split_once(' ').unwrap();
    let (start, end) = range.split_once('-').unwrap();
    let range = u64::from_str_radix(start, 16).unwrap()..u64::from_str_radix(end, 16).unwrap();
    assert!(range.contains(&hit.offset), "{hit:?}");
    assert!(permissions.starts_with("rw"), "{hit:?}");
    assert_eq!(report.sources[0].name, format!("process {pid}"));
}

#[test]
fn each_mapped_byte_is_scanned_absent_or_listed_as_unreadable() {
    let canary = Canary::random().unwrap();
    let holder = Holder::of(&canary);
    let pid = holder.child.id();

    let mut last = None;
    let report = Scanner::new(&canary.forms(&[]))
        .scan_process(pid, &mut |progress| last = Some(progress))
        .unwrap();

    let accounted = report.bytes_scanned + report.bytes_absent + report.bytes_unreadable;
    assert_eq!(accounted, bytes_mapped(pid));
    // The kernel's own mappings answer with an error; the list names them.
    assert!(report.unreadable.iter().any(|part| part.what.contains("[v")), "{report:?}");
    assert!(report.unreadable.iter().all(|part| !part.reason.is_empty()));
    let last = last.unwrap();
    assert_eq!(Some(last.bytes_done), last.bytes_total);
}

#[test]
fn a_process_without_the_key_gives_no_hit() {
    let holder = Holder::of(&Canary::random().unwrap());
    let scanner = Scanner::new(&Canary::random().unwrap().forms(&[]));
    let report = scanner.scan_process(holder.child.id(), &mut unwatched()).unwrap();
    assert!(report.found_nothing(), "{:?}", report.hits);
}

#[test]
fn the_scanning_process_refuses_to_scan_itself() {
    let scanner = Scanner::new(&Canary::random().unwrap().forms(&[]));
    let own = std::process::id();
    let error = scanner.scan_process(own, &mut unwatched()).unwrap_err();
    assert!(matches!(error, ScanError::OwnProcess { pid } if pid == own));
}

#[test]
fn a_process_that_is_not_there_is_an_error_and_not_a_clean_report() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let scanner = Scanner::new(&Canary::random().unwrap().forms(&[]));
    let error = scanner.scan_process(child.id(), &mut unwatched()).unwrap_err();
    assert_eq!(error.code(), "scan.open");
}
