//! Many launchers that append at once, one synced row each time, and how many rows a second they
//! get together.
//!
//! `cargo run --release -p evanesce-ledger --example writers -- DIR [WRITERS] [ROWS-EACH]`

#![expect(clippy::print_stdout, reason = "a program that prints figures")]

#[expect(dead_code, reason = "the tests' helpers, of which this uses a part")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().expect("name a directory"));
    let mut number = |usual| arguments.next().map_or(usual, |text| text.parse().expect("a number"));
    let (writers, each) = (number(32_u32), number(50_u32));

    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..writers {
            // Each has its own lock and descriptors, as a process of its own would.
            scope.spawn(|| {
                let mut ledger = support::open(&dir);
                for _ in 0..each {
                    ledger.append(&[support::failed("a.b")]).expect("the disk has room");
                }
            });
        }
    });
    let (took, rows) = (start.elapsed().as_secs_f64(), f64::from(writers * each));

    let verdict = support::audit(&dir, &[], None);
    println!("{:.0} rows a second; first bad row: {:?}", rows / took, verdict.first_bad_row);
}
