//! SIGKILL at random moments of append and publish.
//!
//! Sixty rounds in the ordinary run; `cargo xtask rekor --kills 300` runs all of them. The seed is
//! printed, and taken from the file `target/kills-seed` if there is one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../ledger/tests/support/mod.rs"]
mod ledgers;
#[expect(dead_code, reason = "each test binary uses its part")]
mod support;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use evanesce_transparency::publish::{Http, Outbox, Pause, TargetName};
use evanesce_transparency::{KeptFinding, LogDirectory, LogReader, Sources, check, extend};
use ledgers::{TestNotary, at, audit};
use support::{Manner, Server, record_row};

const ROUNDS: u32 = 60;

/// What is killed: appends records, grows the log, publishes; without end.
#[test]
#[ignore = "started by the test below, in a directory of its own"]
fn child() {
    let notary = TestNotary::new(1);
    let (ledger_dir, log) = (Path::new("ledger"), LogDirectory::new(Path::new("log")));
    let (outbox, target): (_, TargetName) = (Outbox::new(log.clone()), "test".parse().unwrap());
    let keys = [notary.key.clone()];
    let sources = Sources { log: &log, ledger: ledger_dir, keys: &keys };
    let http = Http::new(Duration::from_secs(10));
    let mut ledger = ledgers::open(ledger_dir);
    loop {
        let (head, _) = ledger.lock().unwrap().head().unwrap().unwrap();
        let rows: Vec<_> = (0..3).map(|more| record_row(&notary, 10 * head + more)).collect();
        ledger.append(&rows).unwrap();
        let sign = |text: &[u8]| Ok::<_, Infallible>((notary.key.clone(), notary.sign(text)?));
        extend(sources, sign).unwrap();
        let reader = LogReader::open(&log, &keys).unwrap().unwrap();
        let to = (&reader, ledger_dir);
        outbox.publish(&target, to, (&http, at(5)), &mut |_| Pause::Over).unwrap();
    }
}

#[test]
fn nothing_is_lost_or_published_twice_however_often_append_and_publish_are_killed() {
    rounds(ROUNDS);
}

#[test]
#[ignore = "the same, three hundred times: `cargo xtask rekor` runs it"]
fn three_hundred_kills_lose_nothing_and_publish_nothing_twice() {
    rounds(300);
}

fn rounds(rounds: u32) {
    let dir = tempfile::tempdir().unwrap();
    let (ledger_dir, log_dir) = (dir.path().join("ledger"), dir.path().join("log"));
    let (log, notary, server) =
        (LogDirectory::new(&log_dir), TestNotary::new(1), Server::start(Manner::Good));
    ledgers::open(&ledger_dir).append(&[notary.row(at(0))]).unwrap();
    let (outbox, target): (_, TargetName) = (Outbox::new(log.clone()), "test".parse().unwrap());
    outbox.add(&target, &server.target()).unwrap();
    let keys = [notary.key.clone()];
    let sources = Sources { log: &log, ledger: &ledger_dir, keys: &keys };
    let mut random = Random::new();
    let mut kept: Vec<String> = Vec::new();
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child", "--nocapture"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Nobody sends: this is how long it runs.
        let (_sender, nobody) = channel::<()>();
        nobody.recv_timeout(Duration::from_micros(random.below(120_000))).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(!said.contains("panicked"), "round {round}: {said}");

        // What is there holds at once, before anything is put right.
        if let Some(found) = check(sources, kept.last().map(String::as_str), &mut |_| {}).unwrap() {
            assert_eq!(found.wrong, None, "round {round}");
            assert!(matches!(found.kept, None | Some(KeptFinding::Holds)), "round {round}");
            let note = fs::read_to_string(log.tiles().join("checkpoint")).unwrap();
            kept.push(note);
        }
    }
    // The next command puts the rest right.
    let sign = |text: &[u8]| Ok::<_, Infallible>((notary.key.clone(), notary.sign(text)?));
    let size = extend(sources, sign).unwrap().size;
    let reader = LogReader::open(&log, &keys).unwrap().unwrap();
    let http = Http::new(Duration::from_secs(10));
    let to = (&reader, ledger_dir.as_path());
    let published = outbox.publish(&target, to, (&http, at(5)), &mut |_| Pause::Over).unwrap();
    assert_eq!((published.waiting, published.stopped), (0, None));

    assert_eq!(audit(&ledger_dir, &keys, None).first_bad_row, None);
    let entries = server.entries();
    assert_eq!(entries.len() as u64, size, "each entry is there");
    assert_eq!(entries.iter().collect::<BTreeSet<_>>().len() as u64, size, "and once");
    kept.dedup();
    for note in &kept {
        let found = check(sources, Some(note), &mut |_| {}).unwrap().unwrap();
        assert_eq!((found.wrong, found.kept), (None, Some(KeptFinding::Holds)));
    }
    let (kills, checkpoints) = (rounds, kept.len());
    print_figures(&format!(
        "{kills} kills, {checkpoints} checkpoints seen, {size} entries, seed {}",
        random.seed
    ));
}

#[expect(clippy::print_stdout, reason = "a test that prints its figures")]
fn print_figures(text: &str) {
    println!("{text}");
}

/// Numbers that repeat with their seed: xorshift.
struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    fn new() -> Self {
        let given = fs::read_to_string("target/kills-seed").ok();
        let seed = given.and_then(|text| text.trim().parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 16 | 1);
        Self { seed, state: seed }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % limit
    }
}
