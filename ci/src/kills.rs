//! `cargo xtask kills`: SIGKILL at random moments, many times.
//!
//! The test is `tests/kills`; `cargo test` runs it with fewer rounds.

use std::fmt;

use crate::programs::{ProgramError, cargo, show};

/// Kill launchers, workers and commands at random moments, and see what is left
#[derive(Debug, clap::Args)]
pub(crate) struct KillsArgs {
    /// Kill N times
    #[arg(long, value_name = "N", default_value = "500", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,

    /// Make the choices of an earlier run, which printed its seed
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(args: &KillsArgs) -> Result<KillsReport, ProgramError> {
    let mut cargo = cargo();
    cargo
        .args(["test", "--locked", "--workspace", "--test", "kills"])
        .args(["--", "--nocapture"])
        .env("EVANESCE_KILLS_ROUNDS", args.rounds.to_string());
    if let Some(seed) = args.seed {
        cargo.env("EVANESCE_KILLS_SEED", seed.to_string());
    }
    show(&mut cargo)?;
    Ok(KillsReport)
}

/// The test says itself what it did.
#[derive(Debug)]
pub(crate) struct KillsReport;

impl fmt::Display for KillsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no process was left, and every key has one receipt")
    }
}
