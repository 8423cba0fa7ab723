//! Ledgers with whole lives, one open life, a checkpoint, a rotated notary, several segments.

use std::fs;
use std::io;
use std::path::Path;

use evanesce_ledger::row::{CheckpointRow, NotaryRow};
use evanesce_ledger::shred::{LeftPages, ShredFate};
use evanesce_ledger::{Checkpoint, Event, Ledger, NewRow, Predicate as _, Setup};

use super::support::{
    LEDGER, Life, TestNotary, append_shredded, at, open, segments, setup, small_ledger,
};

/// One byte that asks for the chain to be made or not, and the segments with an empty line between.
pub(super) fn seeds() -> io::Result<Vec<Vec<u8>>> {
    let notary = TestNotary::new(1);
    let makers: [fn(&Path, &TestNotary); 4] = [
        |directory, notary| drop(small_ledger(directory, notary)),
        open_life,
        with_everything,
        in_segments,
    ];
    let mut seeds = Vec::new();
    for make in makers {
        let directory = tempfile::tempdir()?;
        make(directory.path(), &notary);
        let texts = segments(directory.path()).into_iter().map(fs::read);
        let texts = texts.collect::<io::Result<Vec<_>>>()?;
        let whole = texts.join(&b'\n');
        seeds.push([&[0], whole.as_slice()].concat());
        seeds.push([&[1], whole.as_slice()].concat());
        // Torn in its last row.
        seeds.push([&[0], &whole[..whole.len() - 9]].concat());
    }
    Ok(seeds)
}

fn open_life(directory: &Path, notary: &TestNotary) {
    let mut ledger = open(directory);
    append(&mut ledger, notary.row(at(0)));
    let mut life = Life::start(&mut ledger, "w-1", 7);
    life.load(&mut ledger);
    life.sign(&mut ledger, &[b"one"]);
}

fn with_everything(directory: &Path, notary: &TestNotary) {
    let mut ledger = small_ledger(directory, notary);
    let last = ledger.lock().expect("the lock").head().expect("readable").expect("rows");
    let checkpoint = Checkpoint { ledger: LEDGER, rows: last.0, head: last.1, at: at(9) };
    let Ok(envelope) = checkpoint.sign(notary.key.id(), |bytes| notary.sign(bytes));
    append(&mut ledger, NewRow::of_ledger(at(9), Event::Checkpoint(CheckpointRow { envelope })));
    append_shredded(&mut ledger, notary, LeftPages::default(), ShredFate::Overwritten);
    let next = TestNotary::new(2);
    let (key_id, public_key) = (next.key.id(), next.key.clone());
    let row = NotaryRow { key_id, public_key, rotation: None };
    append(&mut ledger, NewRow::of_ledger(at(9), Event::Notary(row)));
    let mut life = Life::start(&mut ledger, "w-2", 8);
    life.attest(&mut ledger);
    life.load(&mut ledger);
    life.wipe(&mut ledger);
    life.end(&mut ledger, &next);
}

fn in_segments(directory: &Path, notary: &TestNotary) {
    let setup = Setup { segment_bytes_max: 1500, ..setup() };
    let mut ledger = Ledger::open(directory, setup).expect("the directory is ours");
    append(&mut ledger, notary.row(at(0)));
    let mut life = Life::start(&mut ledger, "w-1", 7);
    life.load(&mut ledger);
    life.sign(&mut ledger, &[b"one", b"two"]);
    life.wipe(&mut ledger);
    life.end(&mut ledger, notary);
}

fn append(ledger: &mut Ledger, row: NewRow) {
    ledger.append(&[row]).expect("the directory is ours");
}
