//! `cargo xtask serve`: remote signing under load, beside the agent socket, and held against its own
//! document.
//!
//! One server, as it is built, is measured, besieged and asked everything that schemathesis can think
//! of. A figure that misses its target does not fail the task, for a busy machine says nothing; a
//! signature that is not valid, a key that is left, or an undocumented answer does.

mod client;
mod load;
mod rate;
mod schema;
mod server;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::value_parser;

use self::server::Server;
use crate::bench::BenchError;
use crate::programs::{ProgramError, cargo, show, target_directory};

/// Measure remote signing beside the agent socket, besiege it, and run schemathesis over its API
///
/// Needs OpenSSL for certificates, and Python with its package index for schemathesis, without which
/// that part is skipped by name.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
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

pub(crate) fn run(args: &ServeArgs) -> Result<ServeReport, ServeError> {
    let program = match &args.binary {
        Some(path) => path.canonicalize().map_err(ServeError::Io)?,
        None => {
            show(cargo().args(["build", "--release", "--locked", "--bin", "evanesce"]))?;
            target_directory()?.join("release/evanesce")
        }
    };
    let measured = Server::start(&program)?;
    let rate = rate::measure(&measured, args.requests)?;
    measured.stop()?;

    let described = Server::start(&program)?;
    let schema = schema::check(&described, args.examples)?;
    described.stop()?;

    let besieged = Server::start(&program)?;
    let minutes = Duration::from_secs(60 * args.minutes);
    let load = load::besiege(besieged, args.connections, minutes)?;
    Ok(ServeReport { rate, schema, load })
}

/// What was measured and found.
#[derive(Debug)]
pub(crate) struct ServeReport {
    rate: rate::Rates,
    schema: schema::Outcome,
    load: load::Outcome,
}

impl fmt::Display for ServeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.rate, self.schema, self.load)
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
