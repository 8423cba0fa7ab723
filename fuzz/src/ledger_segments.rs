//! The segments of a ledger, one or more, between them an empty line. The first byte says whether
//! they are chained before they are read: without that, most changes would be found at the first
//! row that they touch, and what comes after it would never be looked at.

use std::cell::RefCell;
use std::fs;
use std::num::NonZero;
use std::path::Path;

use evanesce_ledger::row::genesis;
use evanesce_ledger::{Event, NotaryKey, Reader, VerifyOptions, verify};
use evanesce_protocol::Digest;
use tempfile::TempDir;

use crate::planted;

thread_local! {
    /// In memory where there is such a directory: files are made for each input.
    static DIRECTORY: RefCell<TempDir> = RefCell::new(
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory"),
    );
}

/// Reads and audits the segments as `evanesce audit` does, with and without the notary's key.
///
/// # Panics
///
/// Where something does not hold that must.
pub fn run(input: &[u8], key: &NotaryKey) {
    let Some((flags, bytes)) = input.split_first() else { return };
    let bytes = match flags & 1 {
        0 => bytes.to_vec(),
        _ => chained(bytes),
    };
    DIRECTORY.with_borrow(|directory| {
        write(directory.path(), &bytes);
        read(directory.path(), std::slice::from_ref(key));
    });
}

fn read(directory: &Path, keys: &[NotaryKey]) {
    let Ok(reader) = Reader::open(directory) else { return };
    let read = reader.rows().map_while(Result::ok).inspect(look_at).count();
    drop(reader.last(3));
    drop(reader.open_workloads());
    let options = VerifyOptions {
        notary_keys: keys,
        checkpoint: None,
        signature_threads: NonZero::<usize>::MIN,
    };
    let Ok(verdict) = verify(directory, &options) else { return };
    let rows = usize::try_from(verdict.rows).expect("a row has more than a byte");
    if verdict.first_bad_row.is_none() {
        assert_eq!(rows, read, "rows that are good, by the audit and by the reader");
    }
    assert!(verdict.signed_through <= verdict.rows);
    if let Some(bad) = &verdict.first_bad_row {
        assert!(bad.seq <= verdict.rows + 1, "row {} of {}", bad.seq, verdict.rows);
    }
}

/// No seed has an event of a later version.
fn look_at(row: &evanesce_ledger::Row) {
    planted::bug_if(row.event == Event::Other && row.workload.is_some());
}

/// Gives each line the number and the digest that belong there, where it starts like a row.
fn chained(bytes: &[u8]) -> Vec<u8> {
    let mut chained = Vec::new();
    let (mut seq, mut prev) = (0_u64, genesis());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let rest = text.windows(AFTER_PREV.len()).position(|window| window == AFTER_PREV);
        let Some(rest) = rest.filter(|_| text.starts_with(BEFORE_SEQ)) else {
            chained.extend_from_slice(line);
            continue;
        };
        seq += 1;
        let start = chained.len();
        chained.extend_from_slice(format!("{{\"seq\":{seq},\"prev\":\"{prev}\"").as_bytes());
        chained.extend_from_slice(&text[rest..]);
        prev = Digest::of(&chained[start..]);
        chained.extend_from_slice(&line[text.len()..]);
    }
    chained
}

/// Writes the segments over those of the input before.
fn write(directory: &Path, bytes: &[u8]) {
    for entry in fs::read_dir(directory).expect("the directory is ours").flatten() {
        fs::remove_file(entry.path()).expect("the file is ours");
    }
    let mut first = 1;
    let mut rest = bytes;
    for _ in 0..SEGMENTS_MAX {
        let end =
            rest.windows(2).position(|window| window == b"\n\n").map_or(rest.len(), |at| at + 1);
        let (segment, after) = rest.split_at(end);
        let path = directory.join(format!("{first:020}.jsonl"));
        fs::write(path, segment).expect("the directory is ours");
        first += segment.iter().filter(|byte| **byte == b'\n').count().max(1);
        rest = after.strip_prefix(b"\n").unwrap_or(after);
        if rest.is_empty() {
            break;
        }
    }
}

const SEGMENTS_MAX: usize = 4;

/// How a row starts, and what comes after the digest of the row before.
const BEFORE_SEQ: &[u8] = b"{\"seq\":";
const AFTER_PREV: &[u8] = b",\"at\":";
