//! What a third party gets is enough to verify, with the tools that everyone has.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its part")]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use evanesce_ledger::{Checkpoint, ExportError, LedgerId, Outcome, Predicate as _, Reader};
use support::*;

/// Unpacks as the documentation says.
fn unpack(archive: &[u8], dir: &Path) {
    fs::write(dir.join("ledger.tar"), archive).unwrap();
    let unpacked = Command::new("tar").args(["-xf", "ledger.tar"]).current_dir(dir).status();
    assert!(unpacked.unwrap().success());
}

#[test]
fn an_export_that_tar_unpacks_is_verified_without_the_installation() {
    // Given a ledger of two segments, and its checkpoint,
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let notary = TestNotary::new(1);
    small_ledger(dir.path(), &notary);
    let setup = evanesce_ledger::Setup { segment_bytes_max: 1, ..setup() };
    evanesce_ledger::Ledger::open(dir.path(), setup).unwrap().append(&[failed("a.b")]).unwrap();
    let checkpoint = checkpoint_of(&mut open(dir.path()), &notary);

    // When it is exported, twice, and unpacked elsewhere,
    let keys = [notary.key.clone()];
    let export = || {
        let mut archive = Vec::new();
        let reader = Reader::open(dir.path()).unwrap();
        (reader.export(&keys, &checkpoint, &mut archive).unwrap(), archive)
    };
    let (exported, archive) = export();
    assert_eq!(export().1, archive, "the same input gives the same bytes");
    assert_eq!((exported.segments, exported.notary_keys.len()), (2, 1));
    unpack(&archive, elsewhere.path());

    // Then what is there is the ledger: trusted by whoever knows the key, and complete,
    let root = elsewhere.path().join("evanesce-ledger");
    let text = fs::read(root.join("checkpoint.json")).unwrap();
    let unpacked = serde_json::from_slice(&text).unwrap();
    let verdict = audit(&root.join("ledger"), &keys, Some(&unpacked));
    assert_eq!(verdict.outcome, Outcome::Trusted, "{verdict:?}");
    assert_eq!(verdict.rows, audit(dir.path(), &keys, None).rows);
    // and the key beside it is the notary's, by its name.
    let name = format!("notary-keys/{}.pem", notary.key.id().digest().to_hex());
    assert_eq!(fs::read_to_string(root.join(name)).unwrap(), notary.key.to_pem());
}

#[test]
fn a_checkpoint_of_another_ledger_is_not_exported() {
    let dir = tempfile::tempdir().unwrap();
    let notary = TestNotary::new(1);
    small_ledger(dir.path(), &notary);
    let reader = Reader::open(dir.path()).unwrap();
    let other = LedgerId::from_bytes([9; 32]);
    let of_row = reader.last(1).unwrap()[0].prev;
    let checkpoint = Checkpoint { ledger: other, rows: 1, head: of_row, at: at(1) };
    let Ok(checkpoint) = checkpoint.sign(notary.key.id(), |bytes| notary.sign(bytes));

    let mut archive = Vec::new();
    let refused = reader.export(&[], &checkpoint, &mut archive).unwrap_err();

    assert!(matches!(refused, ExportError::OtherLedger { found, .. } if found == other));
    assert!(archive.is_empty());
}
