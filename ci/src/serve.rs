//! `cargo xtask serve`: remote signing under load, beside the agent socket, and held against its own
//! document.
//!
//! One server, as it is built, is measured, besieged and asked everything that schemathesis can think
//! of. A figure that misses its target does not fail the task, for a busy machine says nothing; a
//! signature that is not valid, a key that is left, or an undocumented answer does.

mod client;
mod load;
mod memory;
mod rate;
mod schema;
mod server;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ValueEnum, value_parser};

use self::server::Server;
use crate::bench::BenchError;
use crate::programs::{ProgramError, cargo, show, target_directory};

/// Measure remote signing beside the agent socket, besiege it, and run schemathesis over its API
///
/// Needs OpenSSL for certificates, and Python with its package index for schemathesis, without which
/// that part is skipped by name.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Do one part alone
    #[arg(long, value_name = "PART")]
    only: Option<Part>,

    /// Besiege the server for N minutes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(1..))]
    minutes: u64,

    /// Keep N connections open meanwhile
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(1..=10_000))]
    connections: u32,

    /// Requests in each round of the measurement
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = value_parser!(u32).range(1..))]
    requests: u32,

    /// Serve with this evanesce; by default it is built first, in the release profile
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,

    /// Cases that schemathesis makes up for each operation
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    examples: u32,
}

/// What is done with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Measure it
    Rate,
    /// Hold it against its document
    Schema,
    /// Besiege it
    Siege,
}

pub(crate) fn run(args: &ServeArgs) -> Result<ServeReport, ServeError> {
    let program = match &args.binary {
        Some(path) => path.canonicalize().map_err(ServeError::Io)?,
        None => {
            show(cargo().args(["build", "--release", "--locked", "--bin", "evanesce"]))?;
            target_directory()?.join("release/evanesce")
        }
    };
    let is_wanted = |part| args.only.is_none_or(|only| only == part);
    let mut report = ServeReport::default();
    if is_wanted(Part::Rate) {
        let server = Server::start(&program)?;
        report.rate = Some(rate::measure(&server, args.requests)?);
        server.stop()?;
    }
    if is_wanted(Part::Schema) {
        let server = Server::start(&program)?;
        report.schema = Some(schema::check(&server, args.examples)?);
        server.stop()?;
    }
    if is_wanted(Part::Siege) {
        let minutes = Duration::from_secs(60 * args.minutes);
        report.load = Some(load::besiege(Server::start(&program)?, args.connections, minutes)?);
    }
    Ok(report)
}

/// What was measured and found; `None` where that was not asked for.
#[derive(Debug, Default)]
pub(crate) struct ServeReport {
    rate: Option<rate::Rates>,
    schema: Option<schema::Outcome>,
    load: Option<load::Outcome>,
}

impl fmt::Display for ServeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, schema, load } = self;
        rate.iter().try_for_each(|rate| writeln!(f, "{rate}"))?;
        schema.iter().try_for_each(|schema| writeln!(f, "{schema}"))?;
        load.iter().try_for_each(|load| writeln!(f, "{load}"))
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ServeError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("the agent socket could not be measured")]
    Agent(#[from] BenchError),
    #[error("reading, writing or connecting failed")]
    Io(#[from] io::Error),
    #[error("the server said {said:?} instead of where it listens")]
    NotListening { said: String },
    #[error("the server ended with {status}:\n{said}")]
    Ended { status: std::process::ExitStatus, said: String },
    #[error("a request failed")]
    Http(#[from] h2::Error),
    #[error("an answer is not what was asked for: {0}")]
    Answer(String),
    #[error("{0}")]
    Left(String),
}
