//! Looking things up in a ledger of several lives.

#[expect(dead_code, reason = "each test binary uses its part")]
mod support;

use std::fs;

use evanesce_ledger::{Reader, Receipt, Row, Statement};
use evanesce_protocol::commitment::request_of_message;
use support::*;

#[test]
fn the_receipt_of_a_workload_is_found_and_opens_with_the_notarys_key() {
    let (dir, notary) = (tempfile::tempdir().unwrap(), TestNotary::new(1));
    small_ledger(dir.path(), &notary);
    let reader = Reader::open(dir.path()).unwrap();

    let found = reader.receipt_of(&"w-1".parse().unwrap()).unwrap().unwrap();
    let none = reader.receipt_of(&"w-2".parse().unwrap()).unwrap();

    assert_eq!((found.row, none), (8, None));
    let receipt = Statement::<Receipt>::open(&found.envelope, &notary.key).unwrap();
    assert_eq!(receipt.predicate().workload.as_str(), "w-1");
    assert_eq!(reader.ledger_id().unwrap(), LEDGER);
}

#[test]
fn what_a_key_signed_is_found_with_its_number_and_receipt() {
    let (dir, notary) = (tempfile::tempdir().unwrap(), TestNotary::new(1));
    let mut ledger = small_ledger(dir.path(), &notary);
    // Another key signs the same message, and has no receipt yet.
    let mut other = Life::start(&mut ledger, "w-2", 8);
    other.load(&mut ledger);
    other.sign(&mut ledger, &[b"two"]);
    let reader = Reader::open(dir.path()).unwrap();
    let key = evanesce_protocol::PublicKey::from_bytes([7; 32]);

    let found = reader.signatures_of(&key, &request_of_message(b"two")).unwrap();
    let others = reader.signatures_of(&other.key, &request_of_message(b"two")).unwrap();
    let none = reader.signatures_of(&key, &request_of_message(b"four")).unwrap();

    assert_eq!((found.len(), found[0].number, found[0].row), (1, 2, 5));
    assert_eq!(found[0].receipt.as_ref().unwrap().row, 8);
    assert_eq!((others[0].workload.as_str(), &others[0].receipt), ("w-2", &None));
    assert_eq!(none, []);
}

/// What the next command needs to write the receipt of a workload whose launcher was killed.
#[test]
fn an_open_workload_is_found_with_all_that_its_receipt_needs() {
    let (dir, notary) = (tempfile::tempdir().unwrap(), TestNotary::new(1));
    let mut ledger = small_ledger(dir.path(), &notary);
    let mut lost = Life::start(&mut ledger, "w-2", 8);
    lost.load(&mut ledger);
    lost.sign(&mut ledger, &[b"x"]);

    let open = Reader::open(dir.path()).unwrap().open_workloads().unwrap();

    assert_eq!(open.len(), 1);
    assert_eq!(open[0].requests, Some(lost.requests));
    assert_eq!(open[0].span(LEDGER), lost.receipt().ledger);
    assert_eq!(open[0].loaded.as_ref().unwrap().1.public_key, lost.key);
    assert!(!open[0].wiped);
}

#[test]
fn rows_are_read_as_they_were_written_and_printed_back_the_same() {
    let (dir, notary) = (tempfile::tempdir().unwrap(), TestNotary::new(1));
    small_ledger(dir.path(), &notary);
    let text = String::from_utf8(newest_bytes(dir.path())).unwrap();

    let rows: Vec<Row> =
        Reader::open(dir.path()).unwrap().rows().collect::<Result<_, _>>().unwrap();

    let printed: Vec<String> = rows.iter().map(|row| serde_json::to_string(row).unwrap()).collect();
    assert_eq!(printed, text.lines().collect::<Vec<_>>());
}

#[test]
fn the_newest_rows_are_read_without_the_others() {
    let (dir, notary) = (tempfile::tempdir().unwrap(), TestNotary::new(1));
    small_ledger(dir.path(), &notary);
    let reader = Reader::open(dir.path()).unwrap();
    for (count, expected) in [(0, vec![]), (2, vec![8, 9]), (100, (1..=9).collect())] {
        let last: Vec<u64> = reader.last(count).unwrap().iter().map(|row| row.seq).collect();
        assert_eq!(last, expected);
    }
}

#[test]
fn a_line_that_is_no_row_is_named_and_ends_the_reading() {
    let (dir, notary) = (tempfile::tempdir().unwrap(), TestNotary::new(1));
    small_ledger(dir.path(), &notary);
    let text = String::from_utf8(newest_bytes(dir.path())).unwrap();
    fs::write(&segments(dir.path())[0], text.replacen("{\"seq\":3", "[\"seq\":3", 1)).unwrap();

    let read: Vec<_> = Reader::open(dir.path()).unwrap().rows().collect();

    assert_eq!(read.len(), 3);
    let error = read[2].as_ref().unwrap_err();
    assert_eq!(error.code(), "ledger.bad-row");
    assert!(error.to_string().starts_with("line 3 of "), "{error}");
}

#[test]
fn a_directory_without_a_ledger_is_told_from_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("missing")] {
        assert_eq!(Reader::open(&path).unwrap_err().code(), "ledger.none");
    }
}
