//! The local log over real ledgers: growth, proofs, interruptions, tampering.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../ledger/tests/support/mod.rs"]
mod ledgers;

use std::cell::Cell;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding as _};
use ed25519_dalek::{Signer as _, SigningKey};
use evanesce_ledger::row::StatementRow;
use evanesce_ledger::{Envelope, Event, Ledger, NewRow, NotaryKey, P256Signature, Reader};
use evanesce_protocol::Digest;
use evanesce_transparency::merkle::{self, NodeHash};
use evanesce_transparency::note::{LogCheckpoint, verifier_key};
use evanesce_transparency::{
    Extended, KeptFinding, LogDirectory, LogFinding, LogReader, Sources, Wrong, check, extend,
    keep_cosignature,
};
use ledgers::{TestNotary, at, failed, open, small_ledger};

/// A ledger and its log, in a directory of their own.
struct Site {
    dir: tempfile::TempDir,
    notary: TestNotary,
    log: LogDirectory,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = LogDirectory::new(&dir.path().join("log"));
        Self { dir, notary: TestNotary::new(1), log }
    }

    fn ledger_dir(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    fn small(&self) -> Ledger {
        small_ledger(&self.ledger_dir(), &self.notary)
    }

    fn keys(&self) -> [NotaryKey; 1] {
        [self.notary.key.clone()]
    }

    fn sign(&self, text: &[u8]) -> Result<(NotaryKey, P256Signature), Infallible> {
        Ok((self.notary.key.clone(), self.notary.sign(text)?))
    }

    fn extend(&self) -> Extended {
        let keys = self.keys();
        let sources = Sources { log: &self.log, ledger: &self.ledger_dir(), keys: &keys };
        extend(sources, |text| self.sign(text)).unwrap()
    }

    fn open(&self) -> LogReader {
        LogReader::open(&self.log, &self.keys()).unwrap().unwrap()
    }

    fn check(&self, kept: Option<&str>) -> LogFinding {
        let keys = self.keys();
        let sources = Sources { log: &self.log, ledger: &self.ledger_dir(), keys: &keys };
        check(sources, kept, &mut |_| {}).unwrap().unwrap()
    }
}

/// Appends so many rows with a statement.
fn live(ledger: &mut Ledger, notary: &TestNotary, rows: usize) {
    let rows: Vec<_> = (0..rows)
        .map(|number| {
            let payload = format!("{{\"number\":{number}}}").into_bytes();
            let Ok(envelope) = Envelope::sign(payload, notary.key.id(), |bytes| notary.sign(bytes));
            NewRow::of_ledger(at(1), Event::Statement(StatementRow { envelope }))
        })
        .collect();
    ledger.append(&rows).unwrap();
}

#[test]
fn every_statement_of_the_ledger_becomes_an_entry_and_the_checkpoint_covers_both() {
    let site = Site::new();
    let mut ledger = site.small();
    live(&mut ledger, &site.notary, 2);

    assert_eq!(site.extend(), Extended { before: 0, size: 3 });

    let mut log = site.open();
    let head = ledger.lock().unwrap().head().unwrap().unwrap();
    assert_eq!((log.checkpoint().ledger.rows, log.checkpoint().ledger.head), head);
    assert_eq!((log.row_of(0).unwrap(), log.index_of(8).unwrap()), (8, Some(0)));
    assert_eq!(log.index_of(7).unwrap(), None);
    for index in 0..3 {
        let leaf = NodeHash::of_leaf(&log.entry(index).unwrap());
        let path = log.inclusion(index).unwrap();
        assert!(merkle::is_included(leaf, index, 3, &path, log.checkpoint().root));
    }
    assert_eq!(log.entry(3).unwrap_err().code(), "log.no-entry");
    assert!(site.check(None).holds());
}

#[test]
fn nothing_new_signs_nothing_and_rows_without_a_statement_wait_for_one() {
    let site = Site::new();
    let mut ledger = site.small();
    site.extend();
    let note = site.open().note().to_owned();

    ledger.append(&[failed("a.b")]).unwrap();

    assert_eq!(site.extend(), Extended { before: 1, size: 1 });
    assert_eq!(site.open().note(), note);
    let found = site.check(None);
    assert_eq!((found.holds(), found.rows_after), (true, 1));
}

/// However the entries came, one by one or all at once, the log is the same.
#[test]
fn a_log_grown_step_by_step_is_the_log_grown_at_once() {
    let (steps, whole) = (Site::new(), Site::new());
    let mut ledger = steps.small();
    let mut kept = Vec::new();
    for lives in [1, 254, 1, 1, 300, 44] {
        live(&mut ledger, &steps.notary, lives);
        steps.extend();
        kept.push(steps.open().note().to_owned());
    }
    copy(&steps.ledger_dir(), &whole.ledger_dir());
    whole.extend();

    let (mut a, b) = (steps.open(), whole.open());
    assert_eq!(a.checkpoint(), b.checkpoint());
    assert_eq!(a.checkpoint().size, 602);
    assert!(steps.check(None).holds() && whole.check(None).holds());
    for note in &kept {
        let (earlier, _) = LogCheckpoint::open(note, &steps.keys()).unwrap();
        let path = a.consistency(earlier.size).unwrap();
        let (old, new) = ((earlier.size, earlier.root), (602, b.checkpoint().root));
        assert!(merkle::is_consistent(old, new, &path), "size {}", earlier.size);
        assert_eq!(steps.check(Some(note)).kept, Some(KeptFinding::Holds));
    }
    // Once a tile is full, its partial versions are gone.
    assert!(!steps.log.tiles().join("tile/entries/000.p").exists());
    assert!(!steps.log.tiles().join("tile/0/001.p").exists());
    assert!(steps.log.tiles().join("tile/0/002.p/90").exists());
}

/// The files of the log follow from the ledger: each may be lost.
#[test]
fn a_log_that_lost_any_file_is_made_again_and_is_the_same() {
    let site = Site::new();
    let mut ledger = site.small();
    live(&mut ledger, &site.notary, 300);
    for lost in
        ["tile/0/001.p", "tile/1/000.p", "tile/entries/001.p", "../rows", "../notaries.json"]
    {
        site.extend();
        let lost_path = site.log.tiles().join(lost);
        match lost_path.is_dir() {
            true => fs::remove_dir_all(lost_path).unwrap(),
            false => fs::remove_file(lost_path).unwrap(),
        }
        live(&mut ledger, &site.notary, 1);

        let grown = site.extend();

        assert_eq!(grown.size, grown.before + 1, "{lost}");
        assert!(site.check(None).holds(), "{lost}");
    }
}

/// What is interrupted before its checkpoint is not there yet; it is done again.
#[test]
fn a_notary_that_does_not_sign_leaves_the_log_as_it_was() {
    let site = Site::new();
    let mut ledger = site.small();
    site.extend();
    let before = site.open().note().to_owned();
    live(&mut ledger, &site.notary, 2);
    let (keys, asked) = (site.keys(), Cell::new(0));
    let sources = Sources { log: &site.log, ledger: &site.ledger_dir(), keys: &keys };

    let refused = extend(sources, |_| {
        asked.set(asked.get() + 1);
        Err(std::io::Error::other("no"))
    });

    assert_eq!((refused.unwrap_err().code(), asked.get()), ("log.sign", 1));
    assert_eq!(site.open().note(), before);
    assert!(site.check(None).holds());
    assert_eq!(site.extend(), Extended { before: 1, size: 3 });
    assert!(site.check(None).holds());
}

/// Two histories must never both get a checkpoint.
#[test]
fn a_ledger_that_was_cut_back_or_written_anew_gets_no_further_checkpoint() {
    let site = Site::new();
    let mut ledger = site.small();
    let earlier = tempfile::tempdir().unwrap();
    copy(&site.ledger_dir(), &earlier.path().join("ledger"));
    live(&mut ledger, &site.notary, 1);
    site.extend();
    drop(ledger);

    // Cut back to what it was,
    fs::remove_dir_all(site.ledger_dir()).unwrap();
    copy(&earlier.path().join("ledger"), &site.ledger_dir());
    let keys = site.keys();
    let sources = Sources { log: &site.log, ledger: &site.ledger_dir(), keys: &keys };
    let sign = |_: &[u8]| -> Result<_, Infallible> { panic!("nothing is signed") };
    assert_eq!(extend(sources, sign).unwrap_err().code(), "log.diverged");
    // and grown again with other rows.
    let mut ledger = open(&site.ledger_dir());
    for number in 0..3 {
        ledger.append(&[failed(&format!("other.{number}"))]).unwrap();
    }
    assert_eq!(extend(sources, sign).unwrap_err().code(), "log.diverged");
    assert!(!site.check(None).holds());
    // Nor does it help to lose the tiles.
    fs::remove_dir_all(site.log.tiles().join("tile")).unwrap();
    assert_eq!(extend(sources, sign).unwrap_err().code(), "log.diverged");
}

#[test]
fn each_file_of_the_log_that_was_changed_is_named() {
    let site = Site::new();
    let mut ledger = site.small();
    live(&mut ledger, &site.notary, 300);
    site.extend();
    let names = [
        "tiles/tile/0/000",
        "tiles/tile/0/001.p/45",
        "tiles/tile/1/000.p/1",
        "tiles/tile/entries/000",
        "tiles/tile/entries/001.p/45",
    ];
    for name in names {
        let path = site.log.path().join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[17] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert_eq!(site.check(None).wrong, Some(Wrong::Tile { path: name.into() }));
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert_eq!(site.check(None).wrong, Some(Wrong::Tile { path: name.into() }));
        fs::write(&path, good).unwrap();
    }
    let rows = site.log.path().join("rows");
    let mut bad = fs::read(&rows).unwrap();
    bad[7 * 8 + 7] ^= 1;
    fs::write(&rows, bad).unwrap();
    assert_eq!(site.check(None).wrong, Some(Wrong::RowIndex { entry: 7 }));
}

#[test]
fn a_checkpoint_by_a_stranger_is_not_believed() {
    let site = Site::new();
    site.small();
    site.extend();

    let stranger = [TestNotary::new(2).key];
    assert_eq!(LogReader::open(&site.log, &stranger).unwrap_err().code(), "log.checkpoint");
}

/// The notary's rotation is an entry, and the new key signs the log from there on.
#[test]
fn the_log_goes_on_under_the_notarys_next_key() {
    let (site, second) = (Site::new(), TestNotary::new(2));
    let mut ledger = site.small();
    site.extend();
    let rotation = evanesce_ledger::notary::NotaryRotation {
        ledger: ledgers::LEDGER,
        retired: site.notary.key.id(),
        successor: second.key.clone(),
        at: at(2),
        reason: "yearly".into(),
    };
    let Ok(rotation) = rotation.sign(|bytes| site.notary.sign(bytes));
    let row = evanesce_ledger::row::NotaryRow {
        key_id: second.key.id(),
        public_key: second.key.clone(),
        rotation: Some(rotation),
    };
    ledger.append(&[NewRow::of_ledger(at(2), Event::Notary(row))]).unwrap();
    live(&mut ledger, &second, 1);
    let keys = [second.key.clone(), site.notary.key.clone()];
    let sources = Sources { log: &site.log, ledger: &site.ledger_dir(), keys: &keys };

    let grown =
        extend(sources, |text| Ok::<_, Infallible>((second.key.clone(), second.sign(text)?)));

    assert_eq!(grown.unwrap(), Extended { before: 1, size: 3 });
    let found = check(sources, None, &mut |_| {}).unwrap().unwrap();
    assert_eq!((found.holds(), found.signed_by), (true, second.key.id()));
}

#[test]
fn the_verifier_key_line_has_name_hint_and_key() {
    let site = Site::new();
    site.small();
    site.extend();
    let log = site.open();

    let line = verifier_key(&log.checkpoint().origin, &site.notary.key);
    let id = site.notary.key.id().digest().to_hex();
    assert!(line.starts_with(&format!("{}+{}+A", log.checkpoint().origin, &id[..8])), "{line}");
}

/// A witness's line under a checkpoint stays with it; one that does not hold is not taken.
#[test]
fn the_line_of_a_witness_is_checked_and_kept() {
    let site = Site::new();
    site.small();
    site.extend();
    let mut log = site.open();
    let witness = Witness::new();
    let (note, key) = (witness.cosign(log.note()), witness.key.parse().unwrap());

    let kept = keep_cosignature(&site.log, &mut log, &note, &key).unwrap();
    keep_cosignature(&site.log, &mut log, &note, &key).unwrap();

    assert_eq!((kept.witness.as_str(), kept.size), ("witness.example", 1));
    assert_eq!(site.open().note(), note);
    assert!(site.check(Some(&note)).holds());
    let spoilt = note.replacen("\n1\n", "\n2\n", 1);
    let refused = keep_cosignature(&site.log, &mut log, &spoilt, &key).unwrap_err();
    assert_eq!(refused.code(), "note.signature");
    let unsigned = fs::read_to_string(site.log.tiles().join("checkpoint")).unwrap();
    let refused = keep_cosignature(&site.log, &mut log, &unsigned, &key).unwrap_err();
    assert_eq!(refused.code(), "cosign.not-signed");
}

struct Witness {
    private: SigningKey,
    hint: [u8; 4],
    key: String,
}

impl Witness {
    fn new() -> Self {
        let private = SigningKey::from_bytes(&[3; 32]);
        let typed = [&[4], private.verifying_key().as_bytes().as_slice()].concat();
        let id = Digest::of_parts(&[b"witness.example\n", &typed]);
        let hint: [u8; 4] = id.as_bytes()[..4].try_into().unwrap();
        let key =
            format!("witness.example+{}+{}", hex::encode(hint), Base64::encode_string(&typed));
        Self { private, hint, key }
    }

    fn cosign(&self, note: &str) -> String {
        let text = &note[..note.find("\n\n").unwrap() + 1];
        let time: u64 = 1_795_313_400;
        let message = format!("cosignature/v1\ntime {time}\n{text}");
        let signature = self.private.sign(message.as_bytes()).to_bytes();
        let value = [&self.hint[..], &time.to_be_bytes(), &signature].concat();
        format!("{note}\u{2014} witness.example {}\n", Base64::encode_string(&value))
    }
}

#[test]
fn a_row_is_found_by_bisection_in_a_long_ledger() {
    let site = Site::new();
    let mut ledger = site.small();
    let rows: Vec<_> = (0..200).map(|number| failed(&format!("x.{number}"))).collect();
    for _ in 0..40 {
        ledger.append(&rows).unwrap();
    }
    let reader = Reader::open(&site.ledger_dir()).unwrap();
    for seq in [1, 2, 9, 100, 1000, 4321, 8009] {
        let mut rows = reader.raw_rows_from(seq).unwrap();
        assert_eq!(rows.next_row().unwrap().unwrap().seq, seq);
    }
    assert!(reader.raw_rows_from(8010).unwrap().next_row().unwrap().is_none());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
