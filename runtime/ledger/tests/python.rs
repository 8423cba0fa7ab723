//! A second verifier, in another language and written from the documents alone, has to agree.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its part")]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use evanesce_ledger::notary::NotaryRotation;
use evanesce_ledger::report::{ReportOutcome, StepOutcome};
use evanesce_ledger::row::{Event, NewRow, NotaryRow};
use evanesce_ledger::shred::{LeftPages, ShredFate};
use evanesce_ledger::{Envelope, Ledger, Outcome, Setup};
use serde_json::Value;
use support::*;

/// Two segments, two workloads, a rotation between them, and a checkpoint.
fn ledger_with_everything(dir: &Path, notary: &TestNotary, second: &TestNotary) -> Envelope {
    small_ledger(dir, notary);
    let setup = Setup { segment_bytes_max: 1, ..setup() };
    Ledger::open(dir, setup).unwrap().append(&[failed("a.b")]).unwrap();
    let mut ledger = open(dir);
    let rotation = NotaryRotation {
        ledger: LEDGER,
        retired: notary.key.id(),
        successor: second.key.clone(),
        at: at(1),
        reason: "yearly".into(),
    };
    let Ok(rotation) = rotation.sign(|bytes| notary.sign(bytes));
    let (key_id, public_key) = (second.key.id(), second.key.clone());
    let row = NotaryRow { key_id, public_key, rotation: Some(rotation) };
    ledger.append(&[NewRow::of_ledger(at(1), Event::Notary(row))]).unwrap();
    let mut life = Life::start(&mut ledger, "w-2", 8);
    life.load(&mut ledger);
    life.attest(&mut ledger);
    life.sign(&mut ledger, &[b"x"]);
    life.wipe(&mut ledger);
    life.end(&mut ledger, second);
    let mut released = Life::start(&mut ledger, "w-3", 9);
    released.receive(&mut ledger);
    released.load(&mut ledger);
    released.wipe(&mut ledger);
    released.end(&mut ledger, second);
    append_released(&mut ledger, second, LEDGER);
    ledger.append(&[failed("e.f")]).unwrap();
    let left = LeftPages { swapped: 2, ..LeftPages::default() };
    append_shredded(&mut ledger, second, left, ShredFate::Incomplete);
    append_reported(&mut ledger, second, StepOutcome::LeftOut, ReportOutcome::Incomplete);
    checkpoint_of(&mut ledger, second)
}

struct Python<'a> {
    dir: &'a Path,
    files: &'a Path,
}

impl Python<'_> {
    fn audit(&self, checkpoint: bool) -> (Value, Option<i32>) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/verify_ledger.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(self.dir).arg("--notary").arg(self.files.join("notary.pem"));
        if checkpoint {
            command.arg("--checkpoint").arg(self.files.join("checkpoint.json"));
        }
        let out = command.output().unwrap();
        let verdict = serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)));
        (verdict, out.status.code())
    }
}

#[test]
fn a_verifier_written_from_the_documents_agrees_on_good_and_on_tampered_ledgers() {
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (notary, second) = (TestNotary::new(1), TestNotary::new(2));
    let checkpoint = ledger_with_everything(dir.path(), &notary, &second);
    fs::write(files.path().join("notary.pem"), notary.key.to_pem()).unwrap();
    let text = serde_json::to_vec(&checkpoint).unwrap();
    fs::write(files.path().join("checkpoint.json"), text).unwrap();
    let python = Python { dir: dir.path(), files: files.path() };
    let keys = [notary.key.clone()];

    let (verdict, status) = python.audit(true);
    if verdict["signatures_checked"] == false {
        assert_eq!((&verdict["outcome"], status), (&"unknown-signer".into(), Some(3)));
        say_skipped();
        return;
    }
    assert_eq!((&verdict["outcome"], status), (&"trusted".into(), Some(0)), "{verdict}");

    let segments = segments(dir.path());
    let originals: Vec<Vec<u8>> =
        segments.iter().map(|segment| fs::read(segment).unwrap()).collect();
    // A run of Python takes longest here, so each change is shown to it once: with the checkpoint
    // or without, in turns.
    let mut with_checkpoint = false;
    let mut agree = |what: &str| {
        with_checkpoint = !with_checkpoint;
        let given = with_checkpoint.then_some(&checkpoint);
        let ours = serde_json::to_value(audit(dir.path(), &keys, given)).unwrap();
        let (theirs, status) = python.audit(given.is_some());
        let bad = |verdict: &Value| {
            let bad = &verdict["first_bad_row"];
            (bad["seq"].clone(), bad["problem"].clone())
        };
        let place = format!("{what}: {ours:#} {theirs:#}");
        assert_eq!(ours["outcome"], theirs["outcome"], "{place}");
        assert_eq!(bad(&ours), bad(&theirs), "{place}");
        assert_eq!(status, Some(exit_status(&ours["outcome"])), "{place}");
    };
    agree("untouched");
    agree("untouched, without the checkpoint");

    for (segment, original) in segments.iter().zip(&originals) {
        let lines: Vec<&[u8]> = original.split_inclusive(|byte| *byte == b'\n').collect();
        // A changed byte: each row once, at another place in each.
        let mut start = 0;
        for (number, line) in lines.iter().enumerate() {
            let mut changed = original.clone();
            changed[start + (number * 37 + 11) % line.len()] ^= 0x02;
            fs::write(segment, changed).unwrap();
            agree(&format!("{} line {}", segment.display(), number + 1));
            start += line.len();
        }
        // Rows swapped, left out, doubled, and the end cut off.
        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        let left_out = [&lines[..2], &lines[3..]].concat();
        let doubled = [&lines[..2], &lines[1..]].concat();
        let shorter = &lines[..lines.len() - 1];
        for changed in [&swapped, &left_out, &doubled, shorter] {
            fs::write(segment, changed.concat()).unwrap();
            agree("rows moved");
        }
        fs::write(segment, &original[..original.len() - 7]).unwrap();
        agree("the end cut off");
        fs::write(segment, b"").unwrap();
        agree("emptied");
        fs::write(segment, original).unwrap();
    }
    let outcome = audit(dir.path(), &keys, Some(&checkpoint)).outcome;
    assert_eq!(outcome, Outcome::Trusted, "the ledger was put back");
}

fn exit_status(outcome: &Value) -> i32 {
    match outcome.as_str() {
        Some("trusted") => 0,
        Some("invalid") => 1,
        Some("unknown-signer") => 3,
        _ => panic!("{outcome} is no outcome"),
    }
}

fn say_skipped() {
    use std::io::Write as _;
    let text = b"skipped in part: the Python package `cryptography` is not installed\n";
    std::io::stderr().write_all(text).unwrap();
}
