//! `cargo xtask`: the tasks of this repository that are not `cargo build` or `cargo test`.

#![forbid(unsafe_code)]

mod signer;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

/// Tasks of this repository
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    Signer(signer::SignerArgs),
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the one place that prints")]
fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Signer(args) => signer::run(&args),
    };
    match done {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
