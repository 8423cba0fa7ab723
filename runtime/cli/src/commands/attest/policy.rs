//! `attest policy`: write a policy to start from, and say what one accepts.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use evanesce_appraisal::{
    Policy, Product, Purpose, SnpPlatforms, policy_for_image, policy_from_evidence,
};
use evanesce_launcher::machine::parts::Enclave;
use evanesce_ledger::Timestamp;
use evanesce_protocol::Digest;
use serde::Serialize;

use super::Part;
use super::appraise::read_policy;
use super::input::{Input, InputPaths, RootArgs, moment};
use super::reference;
use crate::context::Context;
use crate::errors::CommandError;
use crate::files;
use crate::new_file::{self, Existing};
use crate::trust::read_notary;
use crate::ui::UNSURE;

/// Write a policy to start from, or say what one accepts
#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    Init(Box<PolicyInitArgs>),
    Check(PolicyCheckArgs),
}

/// Write the strictest policy that this evidence or this image meets, to be reviewed and then widened
///
/// Evidence is taken at its word: compare what the policy lists with what you built yourself. A
/// debug guest gets a policy that refuses it.
///
/// An image is measured here, as a machine that `run --enclave snp` starts with it would be, and the
/// policy accepts exactly that: another byte in kernel, archive, command line or firmware is another
/// measurement. What cannot be known of an image is left open, with a warning: which chips, and the
/// age of their firmware. Evidence of a machine beside it says that; of such evidence nothing is
/// taken that is about the guest.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("input")
        .args(["from_evidence", "from_snp_report", "from_tdx_quote", "for_image"])
        .required(true)
        .multiple(true),
    after_help = "\
Examples:
  evanesce attest policy init --from-evidence evidence.json --output policy.toml
  evanesce attest policy init --from-evidence evidence.json --purpose key-release > releases.toml
  evanesce attest policy init --from-snp-report report.bin --vek vcek.der > policy.toml
  evanesce attest policy init --from-tdx-quote quote.bin --collateral collateral.json
  evanesce attest policy init --for-image machine --enclave-firmware OVMF.amdsev.fd \\
    --product Genoa --notary notary.pem --output policy.toml
  evanesce attest policy init --for-image machine --enclave-firmware OVMF.amdsev.fd \\
    --from-snp-report report.bin --vek vcek.der --output policy.toml"
)]
struct PolicyInitArgs {
    /// Start from the evidence in FILE, as `attest collect` or `run --attest` wrote it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from_snp_report", "from_tdx_quote"])]
    from_evidence: Option<PathBuf>,

    /// Start from the SEV-SNP report in FILE
    #[arg(long, value_name = "FILE", requires = "vek", conflicts_with = "from_tdx_quote")]
    from_snp_report: Option<PathBuf>,

    /// Start from the TDX quote in FILE
    #[arg(long, value_name = "FILE", requires = "collateral")]
    from_tdx_quote: Option<PathBuf>,

    /// Accept the image in DIR, which `evanesce image build` made, and no other
    #[arg(long, value_name = "DIR", conflicts_with = "from_tdx_quote")]
    for_image: Option<PathBuf>,

    /// The firmware that `run --enclave-firmware` starts the image with
    #[arg(long, visible_alias = "firmware", value_name = "FILE", requires = "for_image")]
    enclave_firmware: Option<PathBuf>,

    /// The kind of machine that the image is started in: snp
    ///
    /// What a TDX machine measures of its image cannot be calculated, and a machine of kind vm has
    /// no evidence: both are refused.
    #[arg(
        long,
        value_name = "KIND",
        requires = "for_image",
        default_value_t = Enclave::Snp,
        hide_default_value = true
    )]
    enclave: Enclave,

    /// Accept the image on processors of NAME: Milan, Genoa, Turin, otherwise all three (can be repeated)
    #[arg(
        long,
        value_name = "NAME",
        requires = "for_image",
        conflicts_with_all = ["from_evidence", "from_snp_report"]
    )]
    product: Vec<Product>,

    /// Accept keys of the image that the notary in FILE vouches for; otherwise of any notary
    #[arg(long, value_name = "FILE", requires = "for_image")]
    notary: Option<PathBuf>,

    /// Accept evidence for NAME alone: signing-identity, key-release, installation (can be repeated)
    ///
    /// Otherwise for what the evidence is for; of an image, for signing-identity. A holder who
    /// releases keys needs key-release.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from_snp_report", "from_tdx_quote"])]
    purpose: Vec<Purpose>,

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
    let (policy, measurement, head) = match &args.for_image {
        Some(image) => for_image(args, image)?,
        None => {
            let (roots, input) = (args.roots.roots(context)?, evidence(args)?);
            let at = moment(args.at);
            let policy = policy_from_evidence(input.evidence(), input.binding(), &roots, at)?;
            (policy, None, HEAD)
        }
    };
    let policy = match args.purpose.as_slice() {
        [] => policy,
        purposes => policy.for_purposes(purposes),
    };
    let text = format!("{head}{}", policy.to_toml());
    if let Some(path) = &args.output {
        new_file::write(path, text.as_bytes(), existing)?;
    }
    let (digest, warnings) = (policy.digest(), policy.warnings());
    Ok(InitReport { policy: text, digest, warnings, measurement, written: args.output.clone() })
}

/// The policy that accepts exactly the image in `folder`, its measurement, and what to say of both.
fn for_image(
    args: &PolicyInitArgs,
    folder: &Path,
) -> Result<(Policy, Option<String>, &'static str), CommandError> {
    let is_with_evidence = args.from_evidence.is_some() || args.from_snp_report.is_some();
    let input = is_with_evidence.then(|| evidence(args)).transpose()?;
    let notary = match &args.notary {
        Some(path) => Some(reference::point(&read_notary(path)?)),
        None => input.as_ref().and_then(Input::binding).map(|binding| binding.notary),
    };
    let firmware = args.enclave_firmware.as_deref();
    let image = reference::of_image(folder, args.enclave, firmware, notary)?;
    let products = match args.product.as_slice() {
        [] => &PRODUCTS[..],
        named => named,
    };
    let platforms = match &input {
        Some(input) => SnpPlatforms::Of(input.evidence()),
        None => SnpPlatforms::Products(products),
    };
    let policy = policy_for_image(&image, platforms)?;
    Ok((policy, Some(hex::encode(image.measurement)), HEAD_OF_IMAGE))
}

/// The evidence that was named.
fn evidence(args: &PolicyInitArgs) -> Result<Input, CommandError> {
    Input::read(InputPaths {
        evidence: args.from_evidence.as_deref(),
        snp_report: args.from_snp_report.as_deref(),
        tdx_quote: args.from_tdx_quote.as_deref(),
        vek: args.vek.as_deref(),
        crl: None,
        collateral: args.collateral.as_deref(),
    })
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
                writeln!(
                    err,
                    "review it: {}",
                    match report.measurement {
                        Some(_) =>
                            "the image was measured here, and what runs it is for you to say",
                        None => "what it lists was taken from the evidence, unverified",
                    }
                )
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
    /// What was measured of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    measurement: Option<String>,
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

const HEAD_OF_IMAGE: &str = "\
# Made for an image by `evanesce attest policy init --for-image`: the measurement is what that image
# and that firmware have, the rest is how `run --enclave snp` starts them. Say on which chips and from
# which firmware on you accept it. Every field is in docs/formats/appraisal-policy.md.
";

/// All that are known.
const PRODUCTS: [Product; 3] = [Product::Milan, Product::Genoa, Product::Turin];
