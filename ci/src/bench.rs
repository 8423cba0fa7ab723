//! `cargo xtask bench`: evanesce against what a user would run instead, in one run on one machine.
//!
//! Every figure with a peer is a ratio, and the two sides take turns. What is measured, and how, is
//! in `docs/performance.md`.

mod agents;
mod client;
mod crowd;
mod figure;
mod installation;
mod lives;
mod machine;
mod samples;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use clap::value_parser;
use serde::Serialize;

pub(crate) use self::client::Client as AgentClient;
use self::figure::{Figure, HEADINGS};
use self::installation::Installation;
use self::machine::Machine;
pub(crate) use self::samples::Samples;
use crate::programs::{ProgramError, cargo, show, target_directory};

/// Measure evanesce against OpenSSH's ssh-agent and node, in one run
///
/// Fails where something cannot be measured, not where a target is missed: a machine that does
/// something else meanwhile says nothing about evanesce. Memory is measured for root only.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Measure this evanesce; by default it is built first, in the release profile
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,

    /// Keep the ledger in DIR: it decides how long a receipt takes
    #[arg(long, value_name = "DIR")]
    state_in: Option<PathBuf>,

    /// Rounds with each agent
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(1..))]
    rounds: u32,

    /// Requests in a round
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = value_parser!(u32).range(1..))]
    requests: u32,

    /// Lives of a key
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    lives: u32,

    /// Workloads at once
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    workloads: u32,
}

pub(crate) fn run(args: &BenchArgs) -> Result<BenchReport, BenchError> {
    let program = match &args.binary {
        Some(path) => path.canonicalize().map_err(BenchError::Start)?,
        None => {
            show(cargo().args(["build", "--release", "--locked", "--bin", "evanesce"]))?;
            target_directory()?.join("release/evanesce")
        }
    };
    let state_in = args.state_in.clone().unwrap_or_else(std::env::temp_dir);
    let installation = Installation::new(program, &state_in)?;

    let mut figures = agents::figures(&installation, args.rounds, args.requests)?;
    figures.extend(lives::figures(&installation, args.lives)?);
    figures.push(lives::against_node(&installation, args.lives)?);
    figures.extend(crowd::figures(&installation, args.workloads)?);
    let machine = Machine::of(&installation)?;
    Ok(BenchReport { figures, machine, is_json: args.json })
}

/// All figures of one run. Prints as a table in Markdown, or as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct BenchReport {
    figures: Vec<Figure>,
    machine: Machine,
    #[serde(skip)]
    is_json: bool,
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_json {
            return f.write_str(&serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?);
        }
        let rows: Vec<_> = self.figures.iter().map(Figure::cells).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(HEADINGS[column].len())
        };
        let widths: [usize; HEADINGS.len()] = std::array::from_fn(width);
        let rule = widths.map(|width| "-".repeat(width));
        for row in [HEADINGS.map(str::to_owned), rule].iter().chain(&rows) {
            for (cell, width) in row.iter().zip(widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
        }
        writeln!(f, "\n{}\n", self.machine)?;
        write!(f, "A signature inside the signer / native: {IN_PROCESS}")
    }
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BenchError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("no directory could be made in {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("what is to be measured could not be started")]
    Start(#[source] io::Error),
    #[error("a workload did not start, or did not end well:\n{said}")]
    Workload { said: String },
    #[error("what was measured ended with {status}")]
    Ended { status: ExitStatus },
    #[error("an agent did not answer as it should")]
    Agent(#[source] io::Error),
    #[error("this thread could not be pinned to a core")]
    Pin(#[source] rustix::io::Errno),
    #[error("the memory of a process could not be read")]
    Memory(#[source] io::Error),
    #[error("{of} is not what was expected")]
    Output { of: &'static str },
}

/// Criterion does the one comparison that is within a process.
const IN_PROCESS: &str = "taskset -c 1 cargo bench -p evanesce-wasm-host --bench sign";
