//! Many launchers that append at once, one synced row each time, and how many rows a second they
//! get together.
//!
//! `cargo run --release -p evanesce-ledger --example writers -- DIR [WRITERS] [ROWS-EACH]`

#![expect(clippy::print_stdout, reason = "a program that prints figures")]

#[path = "../tests/support/arguments.rs"]
mod arguments;
#[expect(dead_code, reason = "the tests' helpers, of which this uses a part")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::thread;
use std::time::Instant;

fn main() {
    let (dir, mut arguments) = arguments::Arguments::of_process();
    let (writers, each) = (arguments.number_or(32_u32), arguments.number_or(50_u32));

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
