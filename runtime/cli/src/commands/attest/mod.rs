//! `attest`: evidence that a key lives in a confidential machine, and what to make of it.

pub(crate) mod appraise;
mod collateral;
pub(crate) mod collect;
pub(crate) mod input;
mod policy;
mod reference;

use std::io::{self, Write};

use clap::Subcommand;
use serde::Serialize;

use crate::context::Context;
use crate::errors::CommandError;
use crate::exit::Exit;
use crate::ui::{Report, Stream};

/// Collect evidence that a key lives in a confidential machine, and judge such evidence
///
/// SEV-SNP and TDX. Nothing here opens a network connection but `attest collateral fetch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce attest collect --nonce $NONCE --out evidence.json
  evanesce attest collateral fetch --evidence evidence.json
  evanesce attest policy init --from-evidence evidence.json --output policy.toml
  evanesce attest policy init --for-image machine --enclave-firmware OVMF.amdsev.fd > policy.toml
  evanesce attest policy check policy.toml
  evanesce attest appraise --evidence evidence.json --policy policy.toml")]
pub struct AttestArgs {
    #[command(subcommand)]
    command: AttestCommand,
}

impl AttestArgs {
    /// Whether this asks for a verdict, whose exit statuses an error must not be taken for.
    pub const fn is_appraise(&self) -> bool {
        matches!(self.command, AttestCommand::Appraise(_))
    }
}

#[derive(Debug, Subcommand)]
enum AttestCommand {
    Collect(collect::CollectArgs),
    Appraise(Box<appraise::AppraiseArgs>),
    Policy(policy::PolicyArgs),
    Collateral(collateral::CollateralArgs),
}

/// Collects, judges, or helps with either.
///
/// # Errors
///
/// Where a file cannot be read or a step fails. Evidence that is not trusted is a report.
pub fn run(args: &AttestArgs, context: &Context<'_>) -> Result<AttestReport, CommandError> {
    match &args.command {
        AttestCommand::Appraise(args) => {
            appraise::run(args, context).map(Box::new).map(AttestReport::Appraise)
        }
        AttestCommand::Policy(args) => policy::run(args, context).map(AttestReport::Policy),
        AttestCommand::Collect(args) => {
            collect::run(args, context).map(Box::new).map(AttestReport::Collect)
        }
        AttestCommand::Collateral(args) => {
            collateral::run(args, context).map(AttestReport::Collateral)
        }
    }
}

/// What one of the commands found or did.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum AttestReport {
    #[expect(missing_docs, reason = "named like its command")]
    Appraise(Box<appraise::AppraiseReport>),
    #[expect(missing_docs, reason = "named like its command")]
    Policy(policy::PolicyReport),
    #[expect(missing_docs, reason = "named like its command")]
    Collect(Box<collect::CollectReport>),
    #[expect(missing_docs, reason = "named like its command")]
    Collateral(collateral::CollateralReport),
}

impl AttestReport {
    fn inner(&self) -> &dyn Part {
        match self {
            Self::Appraise(report) => &**report,
            Self::Policy(report) => report,
            Self::Collect(report) => &**report,
            Self::Collateral(report) => report,
        }
    }
}

impl Report for AttestReport {
    fn exit(&self) -> Exit {
        self.inner().exit()
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        self.inner().render(out)
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        self.inner().talk(err)
    }

    fn json_stream(&self) -> Stream {
        Stream::Output
    }
}

/// The report of one command, as people see it.
trait Part {
    fn exit(&self) -> Exit {
        Exit::Success
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()>;

    fn talk(&self, _err: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}
