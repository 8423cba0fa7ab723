//! `attest policy`: write a policy to start from, and say what one accepts.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;
use evanesce_appraisal::policy_from_evidence;
use evanesce_ledger::Timestamp;
use evanesce_protocol::Digest;
use serde::Serialize;

use super::Part;
use super::appraise::read_policy;
use super::input::{Input, InputPaths, RootArgs, moment};
use crate::context::Context;
use crate::errors::CommandError;
use crate::files;
use crate::new_file::{self, Existing};
use crate::ui::UNSURE;

/// Write a policy to start from, or say what one accepts
#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    Init(PolicyInitArgs),
    Check(PolicyCheckArgs),
}

/// Write the strictest policy that this evidence meets, to be reviewed and then widened
///
/// The evidence is taken at its word: compare what the policy lists with what you built yourself.
/// A debug guest gets a policy that refuses it.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("input")
        .args(["from_evidence", "from_snp_report", "from_tdx_quote"])
        .required(true),
    after_help = "\
Examples:
  evanesce attest policy init --from-evidence evidence.json --output policy.toml
  evanesce attest policy init --from-snp-report report.bin --vek vcek.der > policy.toml
  evanesce attest policy init --from-tdx-quote quote.bin --collateral collateral.json"
)]
struct PolicyInitArgs {
    /// Start from the evidence in FILE, as `attest collect` or `run --attest` wrote it
    #[arg(long, value_name = "FILE")]
    from_evidence: Option<PathBuf>,

    /// Start from the SEV-SNP report in FILE
    #[arg(long, value_name = "FILE", requires = "vek")]
    from_snp_report: Option<PathBuf>,

    /// Start from the TDX quote in FILE
    #[arg(long, value_name = "FILE", requires = "collateral")]
    from_tdx_quote: Option<PathBuf>,

    /// The VCEK or VLEK certificate of a SEV-SNP machine, DER or PEM
    #[arg(long, value_name = "FILE", conflicts_with = "from_tdx_quote")]
    vek: Option<PathBuf>,

    /// The collateral of a TDX quote, JSON as DCAP's tools write it
    #[arg(long, value_name = "FILE", conflicts_with = "from_snp_report")]
    collateral: Option<PathBuf>,

    /// Verify the quote as of TIME instead of now: 2026-11-22T02:10:00Z
    #[arg(long, value_name = "TIME", value_parser = files::parse_time)]
    at: Option<Timestamp>,

    /// Write the policy to FILE instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace FILE where it exists
    #[arg(long, requires = "output")]
    force: bool,

    #[command(flatten)]
    roots: RootArgs,
}

/// Say in sentences what a policy accepts, and warn of what it leaves open
///
/// A policy that accepts nothing, or every image in production, is refused with the field to look
/// at.
#[derive(Debug, clap::Args)]
struct PolicyCheckArgs {
    /// The policy
    #[arg(value_name = "POLICY")]
    policy: PathBuf,
}

pub(super) fn run(args: &PolicyArgs, context: &Context<'_>) -> Result<PolicyReport, CommandError> {
    match &args.command {
        PolicyCommand::Init(args) => init(args, context).map(PolicyReport::Init),
        PolicyCommand::Check(args) => check(args).map(PolicyReport::Check),
    }
}

fn init(args: &PolicyInitArgs, context: &Context<'_>) -> Result<InitReport, CommandError> {
    let existing = Existing::of_force(args.force);
    if let Some(path) = &args.output {
        new_file::check(path, existing)?;
    }
    let roots = args.roots.roots(context)?;
    let input = Input::read(InputPaths {
        evidence: args.from_evidence.as_deref(),
        snp_report: args.from_snp_report.as_deref(),
        tdx_quote: args.from_tdx_quote.as_deref(),
        vek: args.vek.as_deref(),
        crl: None,
        collateral: args.collateral.as_deref(),
    })?;
    let policy = policy_from_evidence(input.evidence(), input.binding(), &roots, moment(args.at))?;
    let text = format!("{HEAD}{}", policy.to_toml());
    if let Some(path) = &args.output {
        new_file::write(path, text.as_bytes(), existing)?;
    }
    let (digest, warnings) = (policy.digest(), policy.warnings());
    Ok(InitReport { policy: text, digest, warnings, written: args.output.clone() })
}

fn check(args: &PolicyCheckArgs) -> Result<CheckReport, CommandError> {
    let policy = read_policy(&args.policy)?;
    Ok(CheckReport {
        policy: args.policy.clone(),
        digest: policy.digest(),
        accepts: policy.explain(),
        warnings: policy.warnings(),
    })
}

/// A policy that was written or explained.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum PolicyReport {
    Init(InitReport),
    Check(CheckReport),
}

impl Part for PolicyReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Init(InitReport { written: Some(path), digest, .. }) => {
                writeln!(out, "policy    {} ({digest})", path.display())
            }
            Self::Init(InitReport { policy, .. }) => out.write_all(policy.as_bytes()),
            Self::Check(report) => report.render(out),
        }
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Init(report) => {
                write_warnings(&report.warnings, err)?;
                writeln!(err, "review it: what it lists was taken from the evidence, unverified")
            }
            Self::Check(report) => write_warnings(&report.warnings, err),
        }
    }
}

/// A policy that was written.
#[derive(Debug, Serialize)]
pub struct InitReport {
    policy: String,
    digest: Digest,
    warnings: Vec<String>,
    written: Option<PathBuf>,
}

/// What a policy accepts.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    policy: PathBuf,
    digest: Digest,
    accepts: Vec<String>,
    warnings: Vec<String>,
}

impl CheckReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{}: a policy that can be judged by ({})",
            self.policy.display(),
            self.digest
        )?;
        self.accepts.iter().try_for_each(|sentence| writeln!(out, "{sentence}"))
    }
}

fn write_warnings(warnings: &[String], err: &mut dyn Write) -> io::Result<()> {
    warnings.iter().try_for_each(|warning| writeln!(err, "{UNSURE}warning{UNSURE:#}: {warning}"))
}

const HEAD: &str = "\
# Made from evidence by `evanesce attest policy init`. It is as good as that evidence: compare what
# it lists with what you built yourself. Every field is in docs/formats/appraisal-policy.md.
";
