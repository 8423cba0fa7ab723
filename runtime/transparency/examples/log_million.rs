//! Makes a log of a million entries in a directory, once, and prints how long appending, proving and
//! checking take, and how much memory.
//!
//! `cargo run --release -p evanesce-transparency --example log_million -- DIR [ENTRIES]`

#![expect(clippy::print_stdout, reason = "a program that prints figures")]

use std::convert::Infallible;
use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use evanesce_ledger::row::{Event, NewRow, NotaryRow, StatementRow};
use evanesce_ledger::{
    Envelope, Ledger, LedgerId, NotaryKey, P256Signature, Setup, Timestamp, VerifyOptions, verify,
};
use evanesce_transparency::{LogDirectory, LogReader, Sources, check, extend};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;

/// Entries of one append, which grows the log and has one checkpoint.
const BATCH: u64 = 1000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().expect("name a directory"));
    let entries = arguments.next().map_or(1_000_000, |text| text.parse().expect("a number"));
    let private = SigningKey::from_slice(&[1; 32]).expect("a small number is a key");
    let point = private.verifying_key().to_sec1_point(false);
    let key = NotaryKey::from_sec1(point.as_bytes()).expect("a point");
    let sign = |bytes: &[u8]| -> Result<P256Signature, Infallible> {
        let signature: p256::ecdsa::Signature = private.sign(bytes);
        Ok(P256Signature::from_fixed(&signature.to_bytes().into()).expect("a signature"))
    };
    let (ledger_dir, log) = (dir.join("ledger"), LogDirectory::new(&dir.join("log")));
    let keys = [key.clone()];
    let sources = Sources { log: &log, ledger: &ledger_dir, keys: &keys };
    let now = Timestamp::from_unix_ms(1_795_313_400_123);

    if !dir.exists() {
        let mut ledger = Ledger::open(&ledger_dir, Setup::new(LedgerId::from_bytes([1; 32]), now))
            .expect("room");
        let row = NotaryRow { key_id: key.id(), public_key: key.clone(), rotation: None };
        ledger.append(&[NewRow::of_ledger(now, Event::Notary(row))]).expect("room");
        let (mut in_ledger, mut in_log, mut slowest) =
            (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        for first in (0..entries).step_by(usize::try_from(BATCH).expect("a thousand")) {
            let rows: Vec<_> = (first..(first + BATCH).min(entries))
                .map(|number| {
                    let payload = format!(
                        "{{\"_type\":\"https://in-toto.io/Statement/v1\",\"number\":{number}}}"
                    );
                    let Ok(envelope) = Envelope::sign(payload.into_bytes(), key.id(), sign);
                    NewRow::of_ledger(now, Event::Statement(StatementRow { envelope }))
                })
                .collect();
            let start = Instant::now();
            ledger.append(&rows).expect("room");
            in_ledger += start.elapsed();
            let start = Instant::now();
            extend(sources, |text| Ok::<_, Infallible>((key.clone(), sign(text)?))).expect("room");
            in_log += start.elapsed();
            slowest = slowest.max(start.elapsed());
        }
        let each = |time: Duration| {
            time.as_secs_f64() * 1e6 / f64::from(u32::try_from(entries).unwrap_or(u32::MAX))
        };
        println!(
            "append, {BATCH} a batch, synced: {:.1} µs an entry in the ledger and {:.1} µs in the log; slowest batch {:.1} ms",
            each(in_ledger),
            each(in_log),
            slowest.as_secs_f64() * 1e3
        );
    }

    let mut slowest = Duration::ZERO;
    let mut all = Duration::ZERO;
    let size = open(&log, &keys).checkpoint().size;
    for round in 0..1000 {
        let index = (round * 7_919_777) % size;
        let start = Instant::now();
        open(&log, &keys).inclusion(index).expect("it is there");
        slowest = slowest.max(start.elapsed());
        all += start.elapsed();
    }
    println!(
        "proof of 1000 entries of {size}, log opened anew for each: mean {:.3} ms, slowest {:.3} ms",
        all.as_secs_f64(),
        slowest.as_secs_f64() * 1e3
    );
    let start = Instant::now();
    open(&log, &keys).consistency(size / 3).expect("it is there");
    println!("consistency proof: {:.3} ms", start.elapsed().as_secs_f64() * 1e3);

    let start = Instant::now();
    let found = check(sources, None, &mut |_| {}).expect("it can be read").expect("it is there");
    let log_took = start.elapsed();
    let start = Instant::now();
    let options = VerifyOptions {
        notary_keys: &keys,
        checkpoint: None,
        signature_threads: NonZero::new(2).expect("two"),
    };
    let verdict = verify(&ledger_dir, &options).expect("it can be read");
    let ledger_took = start.elapsed();
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM unknown");
    println!(
        "check of {} entries: holds {}, log {:.1} s; ledger with {} signatures {:.1} s; {peak}",
        found.entries,
        found.holds(),
        log_took.as_secs_f64(),
        verdict.signatures.trusted,
        ledger_took.as_secs_f64()
    );
}

fn open(log: &LogDirectory, keys: &[NotaryKey]) -> LogReader {
    LogReader::open(log, keys).expect("it can be read").expect("it is there")
}
