//! What an audit finds, on a small ledger that was changed in every way there is.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its part")]
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::slice::from_ref;

use evanesce_ledger::notary::NotaryRotation;
use evanesce_ledger::receipt::{KeyFate, Receipt};
use evanesce_ledger::report::{ReportOutcome, StepOutcome};
use evanesce_ledger::row::{CheckpointRow, Event, NewRow, NotaryRow};
use evanesce_ledger::shred::{LeftPages, ShredFate};
use evanesce_ledger::{
    AppendError, Checkpoint, CheckpointFinding, Completeness, Ledger, LedgerId, NotChecked,
    Outcome, Predicate as _, Problem, Warning,
};
use evanesce_protocol::PublicKey;
use support::*;

/// Lines of a segment, each with its newline.
fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

struct Fixture {
    dir: tempfile::TempDir,
    notary: TestNotary,
    checkpoint: evanesce_ledger::Envelope,
}

impl Fixture {
    fn new() -> Self {
        let (dir, notary) = (tempfile::tempdir().unwrap(), TestNotary::new(1));
        let mut ledger = small_ledger(dir.path(), &notary);
        let checkpoint = checkpoint_of(&mut ledger, &notary);
        Self { dir, notary, checkpoint }
    }

    fn lines(&self) -> Vec<Vec<u8>> {
        lines(&newest_bytes(self.dir.path()))
    }

    fn put(&self, lines: &[Vec<u8>]) {
        // In place: some file systems flush a file that is written anew.
        let file = File::options().write(true).open(&segments(self.dir.path())[0]).unwrap();
        let bytes = lines.concat();
        file.write_all_at(&bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }

    fn audit(&self) -> evanesce_ledger::Verdict {
        audit(self.dir.path(), from_ref(&self.notary.key), None)
    }

    fn audit_with_checkpoint(&self) -> evanesce_ledger::Verdict {
        audit(self.dir.path(), from_ref(&self.notary.key), Some(&self.checkpoint))
    }
}

#[test]
fn an_untouched_ledger_is_trusted_and_the_verdict_says_what_was_not_checked() {
    let fixture = Fixture::new();

    let verdict = fixture.audit();

    assert_eq!(verdict.outcome, Outcome::Trusted, "{verdict:?}");
    assert_eq!((verdict.rows, verdict.signed_through, verdict.signatures.trusted), (9, 7, 1));
    assert_eq!(verdict.completeness, Completeness::Unknown);
    assert_eq!((verdict.open_workloads_count, verdict.warnings.as_slice()), (0, [].as_slice()));
    let expected = [
        NotChecked::Completeness,
        NotChecked::RowsAfterLastSignature,
        NotChecked::Times,
        NotChecked::Scrubs,
    ];
    assert_eq!(verdict.not_checked, expected);
}

#[test]
fn with_its_checkpoint_it_is_complete_and_signed_to_the_end() {
    let verdict = Fixture::new().audit_with_checkpoint();

    assert_eq!(verdict.outcome, Outcome::Trusted, "{verdict:?}");
    assert_eq!(verdict.completeness, Completeness::Through(9));
    assert_eq!(verdict.not_checked, [NotChecked::Times, NotChecked::Scrubs]);
}

#[test]
fn without_the_notarys_key_it_is_intact_and_not_trusted() {
    let fixture = Fixture::new();

    let verdict = audit(fixture.dir.path(), &[], None);

    assert_eq!(verdict.outcome, Outcome::UnknownSigner);
    assert_eq!((verdict.signatures.unknown_signer, verdict.signed_through), (1, 0));
    assert!(verdict.not_checked.contains(&NotChecked::UnknownSigners));
}

/// A changed byte must name the row that holds it and no other: an operator acts on that row.
#[test]
fn any_changed_byte_is_named_at_its_row() {
    let fixture = Fixture::new();
    let original = fixture.lines();
    let mut tried = 0;
    for (at, line) in original.iter().enumerate() {
        for byte in 0..line.len() {
            // Each byte once, and over the row each of the eight bits.
            let flip = 1 << (byte % 8);
            let mut changed = original.clone();
            changed[at][byte] ^= flip;
            fixture.put(&changed);

            let verdict = fixture.audit_with_checkpoint();

            tried += 1;
            let place = format!("byte {byte} of row {} ^ {flip}: {verdict:#?}", at + 1);
            assert_eq!(verdict.outcome, Outcome::Invalid, "{place}");
            match verdict.first_bad_row {
                Some(bad) => assert_eq!(bad.seq, at as u64 + 1, "{place}"),
                // The last row can be taken for a torn one, or for another last row: it is the
                // checkpoint that tells.
                None => {
                    assert_eq!(at + 1, original.len(), "{place}");
                    assert_ne!(verdict.checkpoint, Some(CheckpointFinding::Holds), "{place}");
                }
            }
        }
    }
    assert!(tried > 4000, "{tried}");
}

#[test]
fn swapped_rows_are_named() {
    let fixture = Fixture::new();
    let mut changed = fixture.lines();
    changed.swap(3, 4);
    fixture.put(&changed);

    let bad = fixture.audit().first_bad_row.unwrap();

    assert_eq!((bad.seq, bad.line, bad.problem), (4, 4, Problem::Sequence));
    assert_eq!((bad.expected.as_str(), bad.found.as_str()), ("4", "5"));
    assert_eq!(bad.offset, changed[..3].concat().len() as u64);
}

#[test]
fn a_row_deleted_from_the_middle_is_named() {
    let fixture = Fixture::new();
    for at in 0..8 {
        let mut changed = fixture.lines();
        changed.remove(at);
        let original = fixture.lines();
        fixture.put(&changed);
        let bad = fixture.audit().first_bad_row.unwrap();
        fixture.put(&original);

        assert_eq!((bad.seq, bad.problem), (at as u64 + 1, Problem::Sequence));
    }
}

/// Deleting what is newest leaves a chain that is whole. Only a note kept elsewhere shows it.
#[test]
fn deleted_newest_rows_show_against_a_checkpoint_and_leave_completeness_unknown_without() {
    let fixture = Fixture::new();
    let original = fixture.lines();
    fixture.put(&original[..8]);

    let (without, with) = (fixture.audit(), fixture.audit_with_checkpoint());

    assert_eq!(without.outcome, Outcome::Trusted);
    assert_eq!(without.completeness, Completeness::Unknown);
    assert_eq!(with.outcome, Outcome::Invalid);
    let missing = CheckpointFinding::RowsMissing { expected: 9, found: 8 };
    assert_eq!(with.checkpoint, Some(missing));
    assert_eq!(with.completeness, Completeness::Unknown);
}

#[test]
fn a_checkpoint_of_a_stranger_or_another_ledger_shows_nothing_or_that() {
    let mut fixture = Fixture::new();
    let stranger = TestNotary::new(9);
    let checkpoint = |ledger, head, notary: &TestNotary| {
        let head = evanesce_protocol::Digest::of(head);
        let checkpoint = Checkpoint { ledger, rows: 9, head, at: at(9) };
        let Ok(envelope) = checkpoint.sign(notary.key.id(), |bytes| notary.sign(bytes));
        envelope
    };
    let other_ledger = LedgerId::from_bytes([2; 32]);
    for (given, finding, outcome) in [
        (
            checkpoint(LEDGER, b"x", &stranger),
            CheckpointFinding::UnknownSigner,
            Outcome::UnknownSigner,
        ),
        (checkpoint(LEDGER, b"x", &fixture.notary), CheckpointFinding::OtherHead, Outcome::Invalid),
        (
            checkpoint(other_ledger, b"x", &fixture.notary),
            CheckpointFinding::OtherLedger,
            Outcome::Invalid,
        ),
    ] {
        fixture.checkpoint = given;
        let verdict = fixture.audit_with_checkpoint();
        assert_eq!((verdict.checkpoint, verdict.outcome), (Some(finding), outcome));
    }
}

#[test]
fn a_torn_last_row_never_counted_and_is_only_warned_of() {
    let fixture = Fixture::new();
    let original = fixture.lines();
    let last = original.last().unwrap();
    for kept in 1..last.len() {
        let mut torn = original.clone();
        torn[8].truncate(kept);
        fixture.put(&torn);

        let verdict = fixture.audit();

        assert_eq!((verdict.outcome, verdict.rows), (Outcome::Trusted, 8), "cut at {kept}");
        assert_eq!(verdict.warnings, [Warning::TornTail { bytes: kept as u64 }]);
    }
}

#[test]
fn a_workload_without_a_receipt_is_listed() {
    let fixture = Fixture::new();
    let mut ledger = open(fixture.dir.path());
    Life::start(&mut ledger, "w-2", 8).load(&mut ledger);

    let verdict = fixture.audit();

    assert_eq!(verdict.outcome, Outcome::Trusted);
    assert_eq!((verdict.open_workloads_count, verdict.open_workloads[0].row), (1, 10));
    assert_eq!(verdict.open_workloads[0].workload.as_str(), "w-2");
}

#[test]
fn a_workload_that_failed_before_it_had_a_key_is_over() {
    let fixture = Fixture::new();
    let mut ledger = open(fixture.dir.path());
    Life::start(&mut ledger, "w-2", 8).append(&mut ledger, failed("worker.cage").event);

    assert_eq!(fixture.audit().open_workloads_count, 0);
}

/// Every way in which a receipt that is signed well may still not fit the rows.
#[test]
fn a_receipt_that_contradicts_its_rows_is_named() {
    type Change = fn(&mut Receipt);
    let changes: [Change; 7] = [
        |receipt| receipt.signatures.count += 1,
        |receipt| receipt.signatures.commitment = evanesce_protocol::Digest::of(b"x"),
        |receipt| receipt.key.public_key = PublicKey::from_bytes([9; 32]),
        |receipt| receipt.ledger.last -= 1,
        |receipt| receipt.ledger.head = evanesce_protocol::Digest::of(b"x"),
        |receipt| receipt.ledger.id = LedgerId::from_bytes([2; 32]),
        |receipt| receipt.workload = "w-1".parse().unwrap(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let fixture = Fixture::new();
        let mut ledger = open(fixture.dir.path());
        let mut life = Life::start(&mut ledger, "w-2", 8);
        life.load(&mut ledger);
        life.sign(&mut ledger, &[b"x"]);
        let mut receipt = life.receipt();
        change(&mut receipt);
        life.end_with(&mut ledger, &fixture.notary, receipt);

        let verdict = fixture.audit();

        let bad = verdict.first_bad_row.unwrap();
        assert_eq!((bad.seq, bad.problem), (13, Problem::Receipt), "change {number}: {bad}");
        assert_eq!(verdict.outcome, Outcome::Invalid);
    }
}

#[test]
fn a_key_from_a_file_that_is_called_destroyed_is_named() {
    let fixture = Fixture::new();
    let mut ledger = open(fixture.dir.path());
    let mut life = Life::start(&mut ledger, "w-2", 8);
    let loaded = evanesce_ledger::row::Loaded {
        public_key: life.key,
        key_use: evanesce_protocol::KeyUse::Message,
        origin: evanesce_protocol::KeyOrigin::PlaintextFile,
    };
    life.append(&mut ledger, Event::Loaded(loaded));
    let mut receipt = life.receipt();
    receipt.key.origin = evanesce_protocol::KeyOrigin::PlaintextFile;
    assert_eq!(receipt.key.fate, KeyFate::Destroyed);
    life.end_with(&mut ledger, &fixture.notary, receipt);

    let bad = fixture.audit().first_bad_row.unwrap();

    assert_eq!((bad.seq, bad.problem), (12, Problem::Receipt));
}

#[test]
fn a_receipt_that_names_other_evidence_than_its_rows_is_wrong() {
    for forge in [true, false] {
        let fixture = Fixture::new();
        let mut ledger = open(fixture.dir.path());
        let mut life = Life::start(&mut ledger, "w-2", 8);
        life.load(&mut ledger);
        if forge {
            life.attest(&mut ledger);
        }
        let mut receipt = life.receipt();
        if let Some(attestation) = &mut receipt.attestation {
            attestation.evidence = evanesce_protocol::Digest::of(b"other evidence");
        }
        life.end_with(&mut ledger, &fixture.notary, receipt);

        let bad = fixture.audit().first_bad_row;

        assert_eq!(bad.map(|bad| bad.problem), forge.then_some(Problem::Receipt));
    }
}

#[test]
fn impossible_lives_are_named() {
    type Rows = fn(&mut Ledger, &TestNotary);
    let cases: [(Rows, u64, Problem); 6] = [
        (
            |ledger, _| {
                Life::start(ledger, "w-2", 8);
                Life::start(ledger, "w-2", 8);
            },
            11,
            Problem::StartedTwice,
        ),
        (
            |ledger, _| {
                let mut life = Life::start(ledger, "w-2", 8);
                life.load(ledger);
                life.load(ledger);
            },
            12,
            Problem::LoadedTwice,
        ),
        (|ledger, _| Life::start(ledger, "w-2", 8).sign(ledger, &[b"x"]), 11, Problem::NoKey),
        (
            |ledger, _| {
                let mut life = Life::start(ledger, "w-2", 8);
                life.load(ledger);
                life.requests.extend(&evanesce_protocol::Digest::of(b"left out"));
                life.sign(ledger, &[b"x"]);
            },
            12,
            Problem::Requests,
        ),
        (
            |ledger, notary| {
                let mut life = Life::start(ledger, "w-2", 8);
                life.load(ledger);
                life.end(ledger, notary);
                life.end(ledger, notary);
            },
            13,
            Problem::NotStarted,
        ),
        (
            |ledger, _| {
                ledger.append(&[NewRow::of_ledger(at(1), Event::Segment {})]).unwrap();
            },
            10,
            Problem::Segment,
        ),
    ];
    for (rows, seq, problem) in cases {
        let fixture = Fixture::new();
        rows(&mut open(fixture.dir.path()), &fixture.notary);

        let bad = fixture.audit().first_bad_row.unwrap();

        assert_eq!((bad.seq, bad.problem), (seq, problem), "{bad}");
    }
}

/// A same-uid attacker can append a row that is chained well. It cannot sign it.
#[test]
fn a_receipt_by_another_key_in_the_notarys_name_does_not_verify() {
    let fixture = Fixture::new();
    let mut ledger = open(fixture.dir.path());
    let mut life = Life::start(&mut ledger, "w-2", 8);
    life.load(&mut ledger);
    let forger = TestNotary::new(66);
    let Ok(envelope) = life.receipt().sign(fixture.notary.key.id(), |bytes| forger.sign(bytes));
    life.append(&mut ledger, Event::Receipt(evanesce_ledger::row::ReceiptRow { envelope }));

    let verdict = fixture.audit();

    assert_eq!(verdict.outcome, Outcome::Invalid);
    let bad = verdict.first_bad_row.unwrap();
    assert_eq!((bad.seq, bad.problem, verdict.signatures.invalid), (12, Problem::Signature, 1));
}

fn rotate(ledger: &mut Ledger, from: &TestNotary, to: &TestNotary) {
    let rotation = NotaryRotation {
        ledger: LEDGER,
        retired: from.key.id(),
        successor: to.key.clone(),
        at: at(1),
        reason: "yearly".into(),
    };
    let Ok(rotation) = rotation.sign(|bytes| from.sign(bytes));
    let row =
        NotaryRow { key_id: to.key.id(), public_key: to.key.clone(), rotation: Some(rotation) };
    ledger.append(&[NewRow::of_ledger(at(1), Event::Notary(row))]).unwrap();
}

#[test]
fn a_successor_is_trusted_and_the_retired_key_no_longer() {
    let fixture = Fixture::new();
    let second = TestNotary::new(2);
    let mut ledger = open(fixture.dir.path());
    rotate(&mut ledger, &fixture.notary, &second);
    let mut life = Life::start(&mut ledger, "w-2", 8);
    life.load(&mut ledger);
    life.end(&mut ledger, &second);

    let verdict = fixture.audit();
    assert_eq!((verdict.outcome, verdict.signatures.trusted), (Outcome::Trusted, 2));

    let mut life = Life::start(&mut ledger, "w-3", 9);
    life.load(&mut ledger);
    life.end(&mut ledger, &fixture.notary);

    let bad = fixture.audit().first_bad_row.unwrap();
    assert_eq!((bad.seq, bad.problem), (16, Problem::RetiredSigner));
}

#[test]
fn a_successor_that_no_known_key_vouches_for_is_not_trusted() {
    let fixture = Fixture::new();
    let (stranger, second) = (TestNotary::new(5), TestNotary::new(2));
    let mut ledger = open(fixture.dir.path());
    rotate(&mut ledger, &stranger, &second);
    let mut life = Life::start(&mut ledger, "w-2", 8);
    life.load(&mut ledger);
    life.end(&mut ledger, &second);

    let verdict = fixture.audit();

    assert_eq!(verdict.outcome, Outcome::UnknownSigner);
    assert_eq!(verdict.warnings, [Warning::UnknownNotary { row: 10, key: second.key.id() }]);
}

#[test]
fn a_checkpoint_in_the_ledger_signs_the_rows_before_it() {
    let fixture = Fixture::new();
    let mut ledger = open(fixture.dir.path());
    let envelope = checkpoint_of(&mut ledger, &fixture.notary);
    let row = |envelope| NewRow::of_ledger(at(2), Event::Checkpoint(CheckpointRow { envelope }));
    ledger.append(&[row(envelope.clone())]).unwrap();
    let verdict = fixture.audit();
    assert_eq!((verdict.outcome, verdict.signed_through), (Outcome::Trusted, 9));

    // The same checkpoint one row later is of another row.
    ledger.append(&[row(envelope)]).unwrap();

    let bad = fixture.audit().first_bad_row.unwrap();
    assert_eq!((bad.seq, bad.problem), (11, Problem::Checkpoint));
}

/// It speaks of the row just before it, which is then the one that begins the segment.
#[test]
fn a_checkpoint_that_begins_a_segment_signs_the_row_before_it_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let notary = TestNotary::new(1);
    small_ledger(dir.path(), &notary);
    let setup = evanesce_ledger::Setup { segment_bytes_max: 1, ..setup() };
    let mut ledger = Ledger::open(dir.path(), setup).unwrap();
    let appended = ledger.lock().unwrap().append_after(at(1), |rows, head| {
        let checkpoint = Checkpoint { ledger: LEDGER, rows, head, at: at(1) };
        let Ok(envelope) = checkpoint.sign(notary.key.id(), |bytes| notary.sign(bytes));
        Ok::<_, AppendError>(Event::Checkpoint(CheckpointRow { envelope }))
    });
    let row = appended.unwrap().last;

    let verdict = audit(dir.path(), from_ref(&notary.key), None);

    assert_eq!((verdict.outcome, verdict.segments), (Outcome::Trusted, 2), "{verdict:?}");
    assert_eq!(verdict.signed_through, row - 1);
}

#[test]
fn an_event_of_a_later_version_is_chained_and_not_refused() {
    let fixture = Fixture::new();
    let mut changed = fixture.lines();
    let head = evanesce_protocol::Digest::of(changed[8].trim_ascii_end());
    let later = format!(
        "{{\"seq\":10,\"prev\":\"{head}\",\"at\":\"{}\",\"workload\":\"w-9\",\"event\":\"rinsed\",\"x\":[1]}}\n",
        at(3)
    );
    changed.push(later.into_bytes());
    fixture.put(&changed);

    let verdict = fixture.audit();

    assert_eq!((verdict.outcome, verdict.rows), (Outcome::Trusted, 10));
}

/// The chain holds whatever a row says; that it says what its event says is checked as well.
#[test]
fn a_chained_row_that_lacks_a_member_of_its_event_or_has_one_twice_is_named() {
    for members in [
        r#""workload":"w-9","event":"caged","worker_pid":1,"checks":[]"#,
        r#""workload":"w-9","event":"certified","certificate":"none""#,
        r#""workload":"w-9","event":"wiped","regioms":3,"bytes":1"#,
        r#""workload":"w-9","event":"failed","code":"a.b""#,
        r#""event":"failed","message":"a""#,
        r#""event":"closed-torn-row","bytes":1"#,
        // Another reader may take the second of two.
        r#""event":"failed","code":"a.b","message":"a","event":"rinsed""#,
        r#""workload":"w-9","event":"rinsed","workload":"w-1""#,
    ] {
        let fixture = Fixture::new();
        let mut changed = fixture.lines();
        let head = evanesce_protocol::Digest::of(changed[8].trim_ascii_end());
        let row = format!("{{\"seq\":10,\"prev\":\"{head}\",\"at\":\"{}\",{members}}}\n", at(3));
        changed.push(row.into_bytes());
        fixture.put(&changed);

        let bad = fixture.audit().first_bad_row.unwrap();

        assert_eq!((bad.seq, bad.problem), (10, Problem::Parse), "{members}: {bad}");
    }
}

#[test]
fn a_clock_that_was_set_back_is_only_warned_of() {
    let fixture = Fixture::new();
    let mut row = failed("x");
    row.at = at(0);
    open(fixture.dir.path()).append(&[row]).unwrap();

    let verdict = fixture.audit();

    assert_eq!(verdict.warnings, [Warning::TimeWentBack { row: 10 }]);
    assert_eq!(verdict.outcome, Outcome::Trusted);
}

#[test]
fn a_shred_receipt_that_says_more_than_it_counts_is_named() {
    for (swapped, fate, outcome) in [
        (0, ShredFate::Overwritten, Outcome::Trusted),
        (1, ShredFate::Incomplete, Outcome::Trusted),
        (1, ShredFate::Overwritten, Outcome::Invalid),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let notary = TestNotary::new(1);
        small_ledger(dir.path(), &notary);
        let left = LeftPages { swapped, ..LeftPages::default() };
        append_shredded(&mut open(dir.path()), &notary, left, fate);

        let verdict = audit(dir.path(), from_ref(&notary.key), None);

        assert_eq!(verdict.outcome, outcome, "{verdict:?}");
        let problem = verdict.first_bad_row.map(|bad| bad.problem);
        assert_eq!(problem, (outcome == Outcome::Invalid).then_some(Problem::Receipt));
        let is_last = verdict.signed_through == verdict.rows - 1;
        assert_eq!(is_last, outcome == Outcome::Trusted, "its signature covers the chain");
    }
}

#[test]
fn a_report_that_says_more_than_its_steps_is_named() {
    for (step, says, outcome) in [
        (StepOutcome::Holds, ReportOutcome::Holds, Outcome::Trusted),
        (StepOutcome::LeftOut, ReportOutcome::Incomplete, Outcome::Trusted),
        (StepOutcome::LeftOut, ReportOutcome::Holds, Outcome::Invalid),
        (StepOutcome::DoesNotHold, ReportOutcome::Incomplete, Outcome::Invalid),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let notary = TestNotary::new(1);
        small_ledger(dir.path(), &notary);
        append_reported(&mut open(dir.path()), &notary, step, says);

        let verdict = audit(dir.path(), from_ref(&notary.key), None);

        assert_eq!(verdict.outcome, outcome, "{verdict:?}");
        let problem = verdict.first_bad_row.map(|bad| bad.problem);
        assert_eq!(problem, (outcome == Outcome::Invalid).then_some(Problem::Report));
    }
}

#[test]
fn a_released_key_is_followed_from_both_sides() {
    let fixture = Fixture::new();
    let mut ledger = open(fixture.dir.path());
    let mut life = Life::start(&mut ledger, "w-2", 8);
    life.receive(&mut ledger);
    life.load(&mut ledger);
    life.end(&mut ledger, &fixture.notary);
    append_released(&mut ledger, &fixture.notary, LEDGER);

    let verdict = fixture.audit();

    assert_eq!((verdict.first_bad_row, verdict.outcome), (None, Outcome::Trusted));
}

#[test]
fn a_release_of_another_ledger_and_a_key_that_was_not_received_are_named() {
    let wrong: [fn(&mut Ledger, &TestNotary); 4] = [
        |ledger, notary| append_released(ledger, notary, LedgerId::from_bytes([2; 32])),
        |ledger, _| {
            // Another key than was received.
            let mut life = Life::start(ledger, "w-2", 8);
            life.receive(ledger);
            life.key = PublicKey::from_bytes([3; 32]);
            life.load(ledger);
        },
        |ledger, _| {
            // None was received.
            let mut life = Life::start(ledger, "w-2", 8);
            life.received = Some(life.to_be_received());
            life.load(ledger);
        },
        |ledger, _| {
            // One came when there was a key already.
            let mut life = Life::start(ledger, "w-2", 8);
            life.load(ledger);
            life.receive(ledger);
        },
    ];
    for (number, wrong) in wrong.into_iter().enumerate() {
        let fixture = Fixture::new();
        wrong(&mut open(fixture.dir.path()), &fixture.notary);

        let bad = fixture.audit().first_bad_row.unwrap();

        assert_eq!(bad.problem, Problem::Release, "case {number}: {bad}");
    }
}

#[test]
fn a_receipt_that_names_another_release_than_its_rows_is_wrong() {
    let fixture = Fixture::new();
    let mut ledger = open(fixture.dir.path());
    let mut life = Life::start(&mut ledger, "w-2", 8);
    life.receive(&mut ledger);
    life.load(&mut ledger);
    let mut receipt = life.receipt();
    receipt.released_by = None;
    life.end_with(&mut ledger, &fixture.notary, receipt);

    let bad = fixture.audit().first_bad_row.unwrap();

    assert_eq!(bad.problem, Problem::Receipt, "{bad}");
}
