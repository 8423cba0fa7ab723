//! `attest appraise`: whether evidence can be trusted, rule by rule.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use evanesce_appraisal::{Appraisal, Check, Outcome, POLICY_BYTES_MAX, Policy, PolicyError};
use evanesce_evidence::EvidenceEnvelope;
use evanesce_ledger::{AttestationResult, Timestamp};
use evanesce_protocol::evidence::{Binding, Nonce};
use evanesce_protocol::{Digest, PublicKey};
use serde::Serialize;

use super::Part;
use super::input::{Input, InputPaths, RootArgs, moment, parse_hex, parse_nonce};
use crate::attestation::Bundle;
use crate::clock;
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::exit::Exit;
use crate::files;
use crate::new_file::{self, Existing};
use crate::receipt_text::{counted, name_of};
use crate::ui::{BAD, FAINT, GOOD, UNSURE};

/// Say whether evidence can be trusted under a policy, rule by rule
///
/// Reads files only; needs no network and no confidential machine. Certificates and collateral come
/// with the evidence, from the files that are named, or from what `attest collateral fetch` kept.
///
/// Exits 0 where every rule holds, 1 where the evidence is invalid or the policy refuses it, 2
/// where something could not be read, and 3 where it is genuine but the policy does not list that
/// machine, image or signer.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("input").args(["evidence", "snp_report", "tdx_quote"]).required(true),
    after_help = "\
Examples:
  evanesce attest appraise --evidence evidence.json --policy policy.toml --nonce $NONCE
  evanesce attest appraise --snp-report report.bin --vek vcek.der --crl crl.der --policy policy.toml
  evanesce attest appraise --tdx-quote quote.bin --collateral collateral.json --policy policy.toml \\
    --at 2026-03-16T00:00:00Z"
)]
pub(super) struct AppraiseArgs {
    /// Judge the evidence in FILE, as `attest collect` or `run --attest` wrote it
    #[arg(long, value_name = "FILE")]
    evidence: Option<PathBuf>,

    /// Judge the SEV-SNP report in FILE, 1184 bytes
    #[arg(long, value_name = "FILE")]
    snp_report: Option<PathBuf>,

    /// Judge the TDX quote in FILE
    #[arg(long, value_name = "FILE")]
    tdx_quote: Option<PathBuf>,

    /// The VCEK or VLEK certificate of a SEV-SNP machine, DER or PEM
    #[arg(long, value_name = "FILE", conflicts_with = "tdx_quote")]
    vek: Option<PathBuf>,

    /// The revocation list of the machine's product line, DER or PEM
    #[arg(long, value_name = "FILE", conflicts_with = "tdx_quote")]
    crl: Option<PathBuf>,

    /// The collateral of a TDX quote, JSON as DCAP's tools write it
    #[arg(long, value_name = "FILE", conflicts_with = "snp_report")]
    collateral: Option<PathBuf>,

    /// What is accepted
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,

    /// Judge as of TIME instead of now: 2026-11-22T02:10:00Z
    #[arg(long, value_name = "TIME", value_parser = files::parse_time)]
    at: Option<Timestamp>,

    /// Demand the nonce that you issued, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = parse_nonce, requires = "evidence")]
    nonce: Option<Nonce>,

    /// Demand that the evidence speaks for this key, ed25519:HEX
    #[arg(long, value_name = "KEY", requires = "evidence")]
    public_key: Option<PublicKey>,

    /// Demand these 64 bytes of a raw report or quote, 128 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = parse_hex::<64>, conflicts_with = "evidence")]
    report_data: Option<[u8; 64]>,

    /// Have this installation's notary sign the result, and write it with the evidence to FILE
    ///
    /// Only where the evidence is trusted. `verify --verifier` takes such a result.
    #[arg(long, value_name = "FILE", requires = "evidence")]
    result: Option<PathBuf>,

    /// Let the result count for TIME: 90s, 10m, 1h 30m
    #[arg(
        long,
        value_name = "TIME",
        requires = "result",
        value_parser = files::parse_duration,
        default_value = "24h"
    )]
    valid_for: Duration,

    /// Replace FILE where --result names one that exists
    #[arg(long, requires = "result")]
    force: bool,

    #[command(flatten)]
    roots: RootArgs,
}

impl AppraiseArgs {
    fn paths(&self) -> InputPaths<'_> {
        InputPaths {
            evidence: self.evidence.as_deref(),
            snp_report: self.snp_report.as_deref(),
            tdx_quote: self.tdx_quote.as_deref(),
            vek: self.vek.as_deref(),
            crl: self.crl.as_deref(),
            collateral: self.collateral.as_deref(),
        }
    }
}

pub(super) fn run(
    args: &AppraiseArgs,
    context: &Context<'_>,
) -> Result<AppraiseReport, CommandError> {
    let policy = read_policy(&args.policy)?;
    let roots = args.roots.roots(context)?;
    let mut input = Input::read(args.paths())?;
    input.complete(context)?;
    let report_data = args.report_data.as_ref();
    let expected = input.expected(args.nonce.as_ref(), args.public_key.as_ref(), report_data);
    let appraisal =
        evanesce_appraisal::appraise(input.evidence(), expected, &policy, &roots, moment(args.at));
    let result_written = match (&args.result, input.envelope()) {
        (Some(path), Some(envelope)) => {
            write_result(args, context, path, envelope, &policy, &appraisal)?
        }
        _ => None,
    };
    Ok(AppraiseReport {
        result_written,
        evidence_digest: input.envelope().map(|envelope| envelope.digest()),
        binding: input.binding().cloned(),
        evidence: input.name,
        policy: args.policy.clone(),
        policy_digest: policy.digest(),
        appraisal,
    })
}

/// Has a result signed and writes it, where there is something to say.
fn write_result(
    args: &AppraiseArgs,
    context: &Context<'_>,
    path: &Path,
    envelope: &EvidenceEnvelope,
    policy: &Policy,
    appraisal: &Appraisal,
) -> Result<Option<PathBuf>, CommandError> {
    let existing = Existing::of_force(args.force);
    new_file::check(path, existing)?;
    let Ok(trusted) = appraisal.clone().into_trusted() else { return Ok(None) };
    let Binding { subject, nonce, notary, signer, worker, configuration } =
        envelope.binding.clone();
    let appraised_at = args.at.unwrap_or_else(clock::now);
    let valid_ms = u64::try_from(args.valid_for.as_millis()).unwrap_or(u64::MAX);
    let result = AttestationResult {
        evidence: envelope.digest(),
        public_key: subject.public_key().copied(),
        notary,
        purpose: subject.purpose().to_owned(),
        nonce,
        signer,
        worker,
        configuration,
        tee: name_of(trusted.tee()),
        measurement: hex::encode(trusted.measurement()),
        policy: policy.digest(),
        appraised_at,
        expires: Timestamp::from_unix_ms(appraised_at.unix_ms().saturating_add(valid_ms)),
        not_checked: appraisal.not_checked().to_vec(),
    };
    let result = context.launcher()?.sign_result(result)?;
    let bundle = Bundle { evidence: envelope.clone(), result: Some(result) };
    let text = serde_json::to_string(&bundle).expect("a bundle is plain data");
    new_file::write(path, format!("{text}\n").as_bytes(), existing)?;
    Ok(Some(path.to_owned()))
}

/// Reads a policy.
pub(crate) fn read_policy(path: &Path) -> Result<Policy, CommandError> {
    let bytes = files::read_small(path, POLICY_BYTES_MAX as u64)?;
    let failed = |source| PolicyFileError { path: path.to_owned(), source };
    let text = str::from_utf8(&bytes).map_err(|_| NotTextError { path: path.to_owned() })?;
    Ok(Policy::from_toml(text).map_err(failed)?)
}

/// The verdict, rule by rule.
#[derive(Debug, Serialize)]
pub struct AppraiseReport {
    evidence: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence_digest: Option<Digest>,
    /// What the evidence says it binds. Believed only where the outcome is trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    binding: Option<Binding>,
    policy: PathBuf,
    policy_digest: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_written: Option<PathBuf>,
    #[serde(flatten)]
    appraisal: Appraisal,
}

impl Part for AppraiseReport {
    fn exit(&self) -> Exit {
        exit_of(self.appraisal.outcome())
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let (name, tee, at) = (self.evidence.display(), self.appraisal.tee(), self.appraisal.at());
        let (style, word) = outcome_words(self.appraisal.outcome());
        let failed = u64::try_from(self.appraisal.failures().count()).unwrap_or(u64::MAX);
        let rules = u64::try_from(self.appraisal.checks().len()).unwrap_or(u64::MAX);
        let reason = match failed {
            0 => format!("{} hold", counted(rules, "rule")),
            _ => format!("{failed} of {} not met", counted(rules, "rule")),
        };
        writeln!(out, "{name}: {style}{word}{style:#}: {reason} ({tee}, as of {at})")?;
        if let Some(key) = self.binding.as_ref().and_then(|bound| bound.subject.public_key()) {
            writeln!(out, "key          {key}")?;
        }
        self.appraisal.checks().iter().try_for_each(|check| render_check(check, out))?;
        for sentence in self.appraisal.not_checked() {
            writeln!(out, "not checked  {FAINT}{sentence}{FAINT:#}")?;
        }
        match &self.result_written {
            Some(path) => writeln!(out, "result       {}", path.display()),
            None => Ok(()),
        }
    }
}

/// How the verdict ends a verifying command.
pub(crate) const fn exit_of(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Trusted => Exit::Success,
        Outcome::Unknown => Exit::UnknownSigner,
        Outcome::Refused => Exit::Failure,
    }
}

/// The verdict for people.
pub(crate) const fn outcome_words(outcome: Outcome) -> (anstyle::Style, &'static str) {
    match outcome {
        Outcome::Trusted => (GOOD, "trusted"),
        Outcome::Unknown => (UNSURE, "intact, not listed by the policy"),
        Outcome::Refused => (BAD, "refused"),
    }
}

/// One rule: what it asks, what was found, and what to do where it does not hold.
pub(crate) fn render_check(check: &Check, out: &mut dyn Write) -> io::Result<()> {
    let Check { rule, asks, holds, expected, found, advice } = check;
    if *holds {
        return writeln!(
            out,
            "{GOOD}holds{GOOD:#}        {rule}: {asks} {FAINT}({found}){FAINT:#}"
        );
    }
    writeln!(out, "{BAD}does not{BAD:#}     {rule}: {asks}")?;
    writeln!(out, "             expected {expected}")?;
    writeln!(out, "             found {found}")?;
    match advice {
        Some(advice) => writeln!(out, "             to fix it: {advice}"),
        None => Ok(()),
    }
}

/// A file that is no policy.
#[derive(Debug, thiserror::Error)]
#[error("{} is no policy to judge by", path.display())]
struct PolicyFileError {
    path: PathBuf,
    #[source]
    source: PolicyError,
}

impl Coded for PolicyFileError {
    fn code(&self) -> &'static str {
        self.source.code()
    }
}

/// A file that is not even text.
#[derive(Debug, thiserror::Error)]
#[error("{} is not a text", path.display())]
struct NotTextError {
    path: PathBuf,
}

impl Coded for NotTextError {
    fn code(&self) -> &'static str {
        "appraisal.policy-not-text"
    }
}
