//! Makes a ledger of a million rows in a directory, once, then audits it and prints how long that
//! took and how much memory.
//!
//! `cargo run --release -p evanesce-ledger --example million -- DIR [ROWS] [SIGNED-PER-WORKLOAD]`

#![expect(clippy::print_stdout, reason = "a program that prints figures")]

#[path = "../tests/support/arguments.rs"]
mod arguments;
#[expect(dead_code, reason = "the tests' helpers, of which this uses a part")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::time::Instant;

fn main() {
    let (dir, mut arguments) = arguments::Arguments::of_process();
    let (rows, signed) = (arguments.number_or(1_000_000), arguments.number_or(1000));
    let notary = support::TestNotary::new(1);
    if !dir.exists() {
        let mut ledger = support::small_ledger(&dir, &notary);
        support::fill(&mut ledger, &notary, rows, signed);
    }

    let start = Instant::now();
    let verdict = support::audit(&dir, std::slice::from_ref(&notary.key), None);
    let took = start.elapsed();

    println!("{verdict:#?}");
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM unknown");
    println!("{} rows in {:.3} s, {peak}", verdict.rows, took.as_secs_f64());
}
