//! Workers as units of a real systemd, and evanesce in units of an operator's.
//!
//! `cargo xtask systemd` boots a systemd in a container and runs this there, as root. By itself
//! there is nothing to run: every test is `#[ignore]`d.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test and its helpers, a panic is the failure")]

mod limits;
mod refusals;
mod release;
mod under;
mod unit;

#[path = "../../runtime/appraisal/tests/support/der.rs"]
mod der;
#[path = "../../runtime/appraisal/tests/support/genoa.rs"]
mod genoa;
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../e2e/release/pair.rs"]
mod pair;
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../runtime/appraisal/tests/snp_rules/pki.rs"]
mod snp_pki;
#[path = "../e2e/tsm_fs.rs"]
mod tsm_fs;

use std::path::Path;
use std::process::Command;

use evanesce_tests::{Installation, Outcome, process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_evanesce-under-test");

fn installation() -> Installation {
    assert!(Path::new("/run/systemd/system").is_dir(), "run this with `cargo xtask systemd`");
    Installation::new(PROGRAM)
}

/// Runs a program of the machine to its end.
#[track_caller]
fn program(words: &[&str]) -> Outcome {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    process::output(command)
}

/// What systemd says of a property of a unit.
#[track_caller]
fn property(unit: &str, name: &str) -> String {
    let shown = program(&["systemctl", "show", "--value", "-p", name, unit]).expect_status(0);
    shown.stdout.trim_end().to_owned()
}

/// The units of evanesce that systemd knows, ended ones included.
fn units() -> Vec<String> {
    let words = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "evanesce-*"];
    let listed = program(&words).expect_status(0);
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    listed.stdout.lines().filter_map(name).collect()
}
