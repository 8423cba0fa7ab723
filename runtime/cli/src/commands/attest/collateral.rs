//! `attest collateral`: fetch what evidence is checked by, and keep it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use evanesce_appraisal::{EndorsementRequest, Product, wanted};
use evanesce_collateral::{Bases, Network, Pause, Url, fetch};
use evanesce_evidence::Endorsements;
use rustix::event::{PollFd, Timespec, poll};
use serde::Serialize;

use super::Part;
use super::input::{Input, InputPaths};
use crate::clock;
use crate::context::Context;
use crate::errors::CommandError;
use crate::new_file::{self, Existing};
use crate::ui::FAINT;

/// Fetch the certificates and collateral that evidence is checked by
#[derive(Debug, clap::Args)]
pub(super) struct CollateralArgs {
    #[command(subcommand)]
    command: CollateralCommand,
}

#[derive(Debug, Subcommand)]
enum CollateralCommand {
    Fetch(FetchArgs),
}

/// Fetch from AMD or Intel what this evidence is checked by, and keep it in the state directory
///
/// The one command that opens a network connection. It asks politely: with a gap between requests,
/// and not again for what it was told to wait for. Commands that judge evidence find what is kept
/// here; what it is worth they check against the vendors' roots.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("input").args(["evidence", "snp_report", "tdx_quote"]).required(true),
    after_help = "\
Examples:
  evanesce attest collateral fetch --evidence evidence.json --out evidence-whole.json
  evanesce attest collateral fetch --snp-report report.bin --product Milan"
)]
struct FetchArgs {
    /// For the evidence in FILE, as `attest collect` or `run --attest` wrote it
    #[arg(long, value_name = "FILE")]
    evidence: Option<PathBuf>,

    /// For the SEV-SNP report in FILE
    #[arg(long, value_name = "FILE")]
    snp_report: Option<PathBuf>,

    /// For the TDX quote in FILE
    #[arg(long, value_name = "FILE")]
    tdx_quote: Option<PathBuf>,

    /// The product line, where the report does not say: Milan, Genoa or Turin
    #[arg(long, value_name = "NAME", conflicts_with = "tdx_quote")]
    product: Option<Product>,

    /// Write the evidence with what was fetched to FILE
    #[arg(long, short, value_name = "FILE", requires = "evidence")]
    out: Option<PathBuf>,

    /// Replace FILE where it exists
    #[arg(long, requires = "out")]
    force: bool,

    /// Ask a mirror of AMD's key distribution service at URL
    #[arg(long, value_name = "URL")]
    amd_url: Option<Url>,

    /// Ask a mirror of Intel's provisioning certification service at URL
    #[arg(long, value_name = "URL")]
    intel_url: Option<Url>,

    /// Ask a mirror of the place where Intel publishes its root's revocation list at URL
    #[arg(long, value_name = "URL")]
    intel_root_url: Option<Url>,
}

pub(super) fn run(
    args: &CollateralArgs,
    context: &Context<'_>,
) -> Result<CollateralReport, CommandError> {
    let CollateralCommand::Fetch(args) = &args.command;
    let existing = Existing::of_force(args.force);
    if let Some(path) = &args.out {
        new_file::check(path, existing)?;
    }
    let input = Input::read(InputPaths {
        evidence: args.evidence.as_deref(),
        snp_report: args.snp_report.as_deref(),
        tdx_quote: args.tdx_quote.as_deref(),
        ..InputPaths::default()
    })?;
    let request = wanted(input.evidence(), args.product)?;
    let vendor = Bases::default();
    let bases = Bases {
        amd: args.amd_url.clone().unwrap_or(vendor.amd),
        intel: args.intel_url.clone().unwrap_or(vendor.intel),
        intel_root: args.intel_root_url.clone().unwrap_or(vendor.intel_root),
    };
    let network = Network::new(env!("CARGO_PKG_VERSION"));
    let patient = Patient { context };
    context.ui().say(&format!("asking for {}", words(&request)));
    let fetched = fetch(&request, &bases, &context.collateral()?, &network, &patient)?;
    if let (Some(path), Some(envelope)) = (&args.out, input.envelope()) {
        let mut envelope = envelope.clone();
        envelope.endorsements = fetched.endorsements.clone();
        new_file::write(path, format!("{}\n", envelope.to_json()).as_bytes(), existing)?;
    }
    Ok(CollateralReport {
        what: words(&request),
        kept: sizes(&fetched.endorsements),
        asked: fetched.asked,
        written: args.out.clone(),
    })
}

/// What is asked for, for people.
fn words(request: &EndorsementRequest) -> String {
    match request {
        EndorsementRequest::Snp { product, hardware_id, .. } => {
            let chip = hex::encode(hardware_id.get(..8).unwrap_or(hardware_id));
            format!("the certificate of {product} chip {chip}… and the product's revocation list")
        }
        EndorsementRequest::Tdx { fmspc, .. } => {
            format!("the collateral of TDX platform {}", hex::encode(fmspc))
        }
        _ => "endorsements".to_owned(),
    }
}

fn sizes(endorsements: &Endorsements) -> Vec<KeptPart> {
    let mut parts = Vec::new();
    let mut add = |part, bytes: Option<usize>| {
        parts.extend(bytes.map(|bytes| KeptPart { part, bytes }));
    };
    let snp = endorsements.snp.as_ref();
    add("vek", snp.and_then(|snp| snp.vek.as_ref()).map(Vec::len));
    add("crl", snp.and_then(|snp| snp.crl.as_ref()).map(Vec::len));
    add("collateral", endorsements.tdx.as_ref().map(|tdx| tdx.collateral.len()));
    parts
}

/// This machine's clock, and waiting that says so where it takes long.
struct Patient<'a> {
    context: &'a Context<'a>,
}

impl Pause for Patient<'_> {
    fn now_ms(&self) -> u64 {
        clock::now().unix_ms()
    }

    fn pause(&self, time: Duration) {
        if time > Duration::from_secs(1) {
            self.context.ui().say(&format!("waiting {} s, as the vendor asks", time.as_secs()));
        }
        let time = Timespec::try_from(time).expect("a minute at most");
        let nothing: &mut [PollFd<'_>] = &mut [];
        // A signal that shortens it ends the command anyway.
        poll(nothing, Some(&time)).ok();
    }
}

/// What was fetched.
#[derive(Debug, Serialize)]
pub struct CollateralReport {
    what: String,
    kept: Vec<KeptPart>,
    asked: Vec<String>,
    written: Option<PathBuf>,
}

/// One thing that is kept now.
#[derive(Debug, Serialize)]
struct KeptPart {
    part: &'static str,
    bytes: usize,
}

impl Part for CollateralReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "fetched   {}", self.what)?;
        for KeptPart { part, bytes } in &self.kept {
            writeln!(
                out,
                "kept      {part}, {bytes} bytes {FAINT}(unverified until judged by){FAINT:#}"
            )?;
        }
        for url in &self.asked {
            writeln!(out, "asked     {FAINT}{url}{FAINT:#}")?;
        }
        match &self.written {
            Some(path) => writeln!(out, "written   {}", path.display()),
            None => Ok(()),
        }
    }
}
