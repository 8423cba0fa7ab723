//! `attest collect`: have this machine vouch for this installation.

use std::io::{self, Write};
use std::path::PathBuf;

use evanesce_evidence::EvidenceEnvelope;
use evanesce_launcher::AttestPlan;
use evanesce_protocol::Digest;
use evanesce_protocol::evidence::{EvidenceSource, Nonce};
use serde::Serialize;

use super::Part;
use super::input::{add_kept_endorsements, parse_nonce};
use crate::context::Context;
use crate::errors::CommandError;
use crate::new_file::{self, Existing};
use crate::ui::FAINT;

/// Have this machine vouch for this installation: its notary, worker and signer
///
/// Asks configfs-tsm, else /dev/sev-guest, and refuses where neither is there. Needs root inside a
/// SEV-SNP or TDX machine. For a workload's own key use `run --attest` or `sign --attest`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce attest collect --nonce $(openssl rand -hex 32) --out evidence.json
  evanesce attest collect | jq .binding")]
pub(super) struct CollectArgs {
    /// Bind the nonce of whoever asks for the evidence, 64 hexadecimal digits; random without
    #[arg(long, value_name = "HEX", value_parser = parse_nonce)]
    nonce: Option<Nonce>,

    /// Write the evidence to FILE instead of standard output
    #[arg(long, short, alias = "output", value_name = "FILE")]
    out: Option<PathBuf>,

    /// Replace FILE where it exists
    #[arg(long, requires = "out")]
    force: bool,

    #[command(flatten)]
    source: SourceArgs,
}

/// Who gives evidence.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct SourceArgs {
    /// Make reports in DIR instead of /sys/kernel/config/tsm/report
    #[arg(long, value_name = "DIR", hide = true)]
    tsm_root: Option<PathBuf>,

    /// Make evidence of no machine, which proves nothing: for tests, never in production
    #[cfg(feature = "danger-insecure-software-attestation")]
    #[arg(long)]
    insecure_software_attestation: bool,
}

impl SourceArgs {
    /// How to collect, with this nonce.
    pub(crate) fn plan(&self, nonce: Option<Nonce>) -> AttestPlan {
        AttestPlan { nonce, source: self.source(), tsm_root: self.tsm_root.clone() }
    }

    /// Says loudly, each time, that what is collected proves nothing.
    pub(crate) fn warn(&self, context: &Context<'_>) {
        if self.source() == EvidenceSource::InsecureSoftware {
            context
                .ui()
                .say("DANGER: insecure software evidence is of no machine and proves nothing");
        }
    }

    #[cfg(feature = "danger-insecure-software-attestation")]
    const fn source(&self) -> EvidenceSource {
        match self.insecure_software_attestation {
            true => EvidenceSource::InsecureSoftware,
            false => EvidenceSource::Machine,
        }
    }

    #[cfg(not(feature = "danger-insecure-software-attestation"))]
    #[expect(clippy::unused_self, reason = "as the other build has it")]
    const fn source(&self) -> EvidenceSource {
        EvidenceSource::Machine
    }
}

pub(super) fn run(
    args: &CollectArgs,
    context: &Context<'_>,
) -> Result<CollectReport, CommandError> {
    let existing = Existing::of_force(args.force);
    if let Some(path) = &args.out {
        new_file::check(path, existing)?;
    }
    args.source.warn(context);
    let launcher = context.launcher()?;
    let mut envelope = launcher.collect(&args.source.plan(args.nonce))?;
    add_kept_endorsements(&mut envelope, context)?;
    if let Some(path) = &args.out {
        new_file::write(path, format!("{}\n", envelope.to_json()).as_bytes(), existing)?;
    }
    Ok(CollectReport {
        evidence_digest: envelope.digest(),
        provider: envelope.raw.provider.clone(),
        nonce: envelope.binding.nonce,
        written: args.out.clone(),
        evidence: args.out.is_none().then_some(envelope),
    })
}

/// What was collected.
#[derive(Debug, Serialize)]
pub struct CollectReport {
    evidence_digest: Digest,
    provider: String,
    nonce: Nonce,
    written: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<EvidenceEnvelope>,
}

impl Part for CollectReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        match (&self.written, &self.evidence) {
            (Some(path), _) => self.summarize(&path.display().to_string(), out),
            (None, Some(envelope)) => writeln!(out, "{}", envelope.to_json()),
            (None, None) => Ok(()),
        }
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        match self.written {
            Some(_) => Ok(()),
            None => self.summarize("standard output", err),
        }
    }
}

impl CollectReport {
    fn summarize(&self, place: &str, out: &mut dyn Write) -> io::Result<()> {
        let Self { evidence_digest, provider, nonce, .. } = self;
        writeln!(out, "evidence  {evidence_digest} {FAINT}({provider}){FAINT:#} → {place}")?;
        writeln!(out, "nonce     {nonce}")
    }
}
