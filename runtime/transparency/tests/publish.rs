//! Publishing to good and bad servers on loopback: what counts, what waits, what is said.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../ledger/tests/support/mod.rs"]
mod ledgers;
mod support;

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use evanesce_ledger::{Ledger, Outcome};
use evanesce_transparency::KnownRotations;
use evanesce_transparency::publish::{Http, Outbox, Pause, Published, Stopped, TargetName};
use evanesce_transparency::{
    Bundle, Given, LogDirectory, LogReader, Sources, extend, verify_bundle,
};
use ledgers::{TestNotary, at};
use support::{Manner, Server, record_row};

struct Site {
    dir: tempfile::TempDir,
    notary: TestNotary,
    log: LogDirectory,
    outbox: Outbox,
    target: TargetName,
}

impl Site {
    /// A log of `entries` entries whose target is `server`.
    fn new(server: &Server, entries: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = LogDirectory::new(&dir.path().join("log"));
        let outbox = Outbox::new(log.clone());
        let target: TargetName = "test".parse().unwrap();
        let site = Self { dir, notary: TestNotary::new(1), log, outbox, target };
        let mut ledger = ledgers::open(&site.ledger());
        ledger.append(&[site.notary.row(at(0))]).unwrap();
        site.record(&mut ledger, 0..entries);
        site.outbox.add(&site.target, &server.target()).unwrap();
        site
    }

    fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    fn record(&self, ledger: &mut Ledger, numbers: std::ops::Range<u64>) {
        let rows: Vec<_> = numbers.map(|number| record_row(&self.notary, number)).collect();
        if rows.is_empty() {
            return;
        }
        ledger.append(&rows).unwrap();
        let keys = [self.notary.key.clone()];
        let sources = Sources { log: &self.log, ledger: &self.ledger(), keys: &keys };
        let sign =
            |text: &[u8]| Ok::<_, Infallible>((self.notary.key.clone(), self.notary.sign(text)?));
        extend(sources, sign).unwrap();
    }

    fn open(&self) -> LogReader {
        LogReader::open(&self.log, std::slice::from_ref(&self.notary.key)).unwrap().unwrap()
    }

    /// Publishes; returns what came of it and how long was waited between tries.
    fn publish(&self) -> (Published, Duration) {
        let mut waited = Duration::ZERO;
        let http = Http::new(Duration::from_millis(500));
        let published = self
            .outbox
            .publish(&self.target, (&self.open(), &self.ledger()), (&http, at(5)), &mut |time| {
                waited += time;
                Pause::Over
            })
            .unwrap();
        (published, waited)
    }
}

fn failure(published: &Published) -> (&str, &str) {
    match &published.stopped {
        Some(Stopped::Failed(failure)) => (&failure.code, &failure.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_entry_is_published_once_and_its_bundle_holds() {
    let server = Server::start(Manner::Good);
    let site = Site::new(&server, 3);

    let (first, _) = site.publish();
    let (again, _) = site.publish();

    assert_eq!((first.published, first.waiting, first.stopped), (3, 0, None));
    assert_eq!((again.published, again.waiting), (0, 0));
    assert_eq!(server.entries().len(), 3);
    let published = site.outbox.published(&site.target, 2).unwrap().unwrap();
    assert_eq!(published.row, site.open().row_of(2).unwrap());
    let ledger = evanesce_ledger::Reader::open(&site.ledger()).unwrap();
    let mut rows = ledger.raw_rows_from(published.row).unwrap();
    let envelope = rows.next_row().unwrap().unwrap().envelope().unwrap();
    let bundle = Bundle::new(&envelope, &published.entries, &published.timestamps).to_json();
    let given = Given {
        sha256: format!("sha256:{:064x}", 2).parse().unwrap(),
        sha512: &[0x55; 64],
        receipt: None,
        rotations: &KnownRotations::default(),
    };
    let root = std::fs::read_to_string(site.log.path().join("targets/test/trusted_root.json"));
    let root = evanesce_transparency::trust::parse_trusted_root(&root.unwrap()).unwrap();
    let notaries = site.open().notaries().unwrap();
    let verdict = verify_bundle(bundle.as_bytes(), root, &notaries, &given).unwrap();
    // The record's own signature is made up, and everything before it holds.
    assert_eq!(verdict.outcome, Outcome::Invalid);
    assert!(verdict.reason.contains("own signature"), "{}", verdict.reason);
    assert_eq!(verdict.log.unwrap().origin, "rekor.test");
}

/// The server has it and nobody knows: it must neither be lost nor entered again.
#[test]
fn an_entry_whose_answer_was_lost_is_found_again_with_a_proof_from_tiles() {
    for entries in [1, 300] {
        let server = Server::start(Manner::Good);
        let site = Site::new(&server, entries - 1);
        if entries > 1 {
            assert_eq!(site.publish().0.waiting, 0);
        }
        site.record(&mut ledgers::open(&site.ledger()), entries - 1..entries);
        server.behave(Manner::LosesAnswers);
        let (lost, waited) = site.publish();
        assert_eq!(failure(&lost).0, "publish.no-answer");
        assert_eq!((lost.waiting, waited), (1, Duration::from_millis(3500)));
        assert_eq!(server.entries().len() as u64, entries);

        server.behave(Manner::Good);
        let (found, _) = site.publish();
        assert_eq!((found.published, found.waiting), (1, 0));
        assert_eq!(server.entries().len() as u64, entries);
    }
}

#[test]
fn whatever_a_bad_server_does_the_entry_waits_and_the_reason_is_kept() {
    let cases = [
        (Manner::Slow, "publish.no-answer", "timeout"),
        (Manner::Broken, "publish.unavailable", "500: out of order"),
        (Manner::Garbage, "publish.garbage", "expected"),
        (Manner::AnotherLog, "publish.not-verified", "No matching Rekor key"),
        (Manner::Refusing, "publish.refused", "400: no such algorithm"),
    ];
    for (manner, code, word) in cases {
        let server = Server::start(manner);
        let site = Site::new(&server, 1);

        let (published, _) = site.publish();

        assert_eq!((published.published, published.waiting), (0, 1), "{manner:?}");
        let (found, message) = failure(&published);
        assert_eq!(found, code, "{manner:?}: {message}");
        assert!(message.contains(word), "{manner:?}: {message}");
        let status = site.outbox.status(&site.target, 1).unwrap();
        assert_eq!(status.waiting.failure.unwrap().code, code);

        server.behave(Manner::Good);
        assert_eq!(site.publish().0.waiting, 0, "{manner:?}");
        let status = site.outbox.status(&site.target, 1).unwrap();
        assert_eq!(status.waiting.failure, None);
    }
}

#[test]
fn a_server_that_is_down_is_tried_a_few_times_and_no_more() {
    let server = Server::start(Manner::Good);
    let site = Site::new(&server, 2);
    let down: TargetName = "down".parse().unwrap();
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let files = support::target(&format!("http://{free}"), &TestNotary::new(40));
    site.outbox.add(&down, &files).unwrap();
    let site = Site { target: down, ..site };

    let (published, waited) = site.publish();

    assert_eq!(failure(&published).0, "publish.no-answer");
    assert_eq!((published.waiting, waited), (2, Duration::from_millis(3500)));
}

#[test]
fn the_proof_of_another_entry_does_not_count() {
    let server = Server::start(Manner::Good);
    let site = Site::new(&server, 1);
    site.publish();
    site.record(&mut ledgers::open(&site.ledger()), 1..2);
    server.behave(Manner::AnotherEntry);

    let (published, _) = site.publish();

    assert_eq!(failure(&published).0, "publish.not-verified");
    assert_eq!(published.waiting, 1);
}

#[test]
fn an_entry_that_is_refused_does_not_keep_others_waiting() {
    let server = Server::start(Manner::Refusing);
    let site = Site::new(&server, 3);

    let (published, _) = site.publish();

    assert_eq!((published.published, published.waiting), (0, 3));
    assert_eq!(failure(&published).0, "publish.refused");
}

#[test]
fn publishing_that_is_aborted_leaves_the_rest_for_later() {
    let server = Server::start(Manner::Good);
    let site = Site::new(&server, 3);
    let (http, mut left) = (Http::new(Duration::from_secs(5)), 2);

    let aborted = site
        .outbox
        .publish(&site.target, (&site.open(), &site.ledger()), (&http, at(5)), &mut |_| {
            left -= 1;
            if left == 0 { Pause::Aborted } else { Pause::Over }
        })
        .unwrap();

    assert_eq!((aborted.published, aborted.waiting), (1, 2));
    assert_eq!(aborted.stopped, Some(Stopped::Aborted));
    assert_eq!(site.publish().0.waiting, 0);
    assert_eq!(server.entries().len(), 3);
}

#[test]
fn a_target_is_added_once_listed_and_forgotten() {
    let server = Server::start(Manner::Good);
    let site = Site::new(&server, 1);

    let again = site.outbox.add(&site.target, &server.target()).unwrap_err();
    assert_eq!(again.code(), "target.exists");
    assert_eq!(site.outbox.targets().unwrap(), std::slice::from_ref(&site.target));
    site.outbox.remove(&site.target).unwrap();
    assert_eq!(site.outbox.targets().unwrap(), []);
    assert_eq!(site.outbox.remove(&site.target).unwrap_err().code(), "target.none");
    "../x".parse::<TargetName>().unwrap_err();
}
