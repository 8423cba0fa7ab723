//! `log`: the ledger's statements in a log that strangers can check.

mod check;
mod cosign;
mod export;
mod proof;
mod publish;
mod status;
mod target;

use std::io::{self, Write};

use clap::Subcommand;
use serde::Serialize;

use crate::context::Context;
use crate::errors::CommandError;
use crate::exit::Exit;
use crate::ui::{Report, Stream};

/// Show, prove, check and publish the log of all statements
///
/// Each statement that the notary signed is an entry: that a file was signed, that a key ended,
/// that a notary was replaced. The log is a C2SP tile log in the state directory and grows with the
/// ledger. It shows tampering to whoever kept one of its checkpoints; it does not keep whoever owns
/// this machine from showing two logs to two people. Publishing it elsewhere does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce log status
  evanesce log proof --workload release-1 --output receipt.sigstore.json
  evanesce log check --checkpoint kept-elsewhere.txt
  evanesce log target add public --signing-config sc.json --trusted-root tr.json
  evanesce log publish public")]
pub struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

impl LogArgs {
    /// Whether this asks for a verdict, whose exit statuses an error must not be taken for.
    pub const fn is_check(&self) -> bool {
        matches!(self.command, LogCommand::Check(_))
    }
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    Status(status::StatusArgs),
    Proof(proof::ProofArgs),
    Check(check::CheckArgs),
    Export(export::ExportArgs),
    Cosign(cosign::CosignArgs),
    Target(target::TargetArgs),
    Publish(publish::PublishArgs),
}

/// Does what was asked with the log.
///
/// # Errors
///
/// Where the log, the ledger or a file that was named cannot be used. A log that is wrong is a
/// report.
pub fn run(args: &LogArgs, context: &Context<'_>) -> Result<LogReport, CommandError> {
    match &args.command {
        LogCommand::Status(args) => status::run(args, context).map(LogReport::Status),
        LogCommand::Proof(args) => proof::run(args, context).map(LogReport::Proof),
        LogCommand::Check(args) => {
            check::run(args, context).map(|report| LogReport::Check(Box::new(report)))
        }
        LogCommand::Export(args) => export::run(args, context).map(LogReport::Export),
        LogCommand::Cosign(args) => cosign::run(args, context).map(LogReport::Cosign),
        LogCommand::Target(args) => target::run(args, context).map(LogReport::Target),
        LogCommand::Publish(args) => publish::run(args, context).map(LogReport::Publish),
    }
}

/// What one of the commands found or did.
#[derive(Debug, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "named like its command")]
pub enum LogReport {
    Status(status::StatusReport),
    Proof(proof::ProofReport),
    Check(Box<check::CheckReport>),
    Export(export::ExportReport),
    Cosign(cosign::CosignReport),
    Target(target::TargetReport),
    Publish(publish::PublishReport),
}

impl LogReport {
    fn inner(&self) -> &dyn Rendered {
        match self {
            Self::Status(report) => report,
            Self::Proof(report) => report,
            Self::Check(report) => &**report,
            Self::Export(report) => report,
            Self::Cosign(report) => report,
            Self::Target(report) => report,
            Self::Publish(report) => report,
        }
    }
}

/// So many entries.
fn entries_text(count: u64) -> String {
    match count {
        1 => "1 entry".into(),
        _ => format!("{count} entries"),
    }
}

/// As [`Report`], without what `serde` needs to know.
trait Rendered {
    fn exit(&self) -> Exit {
        Exit::Success
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()>;

    fn json_stream(&self) -> Stream {
        Stream::Output
    }
}

impl Report for LogReport {
    fn exit(&self) -> Exit {
        self.inner().exit()
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        self.inner().render(out)
    }

    fn json_stream(&self) -> Stream {
        self.inner().json_stream()
    }
}
