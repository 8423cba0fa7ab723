//! `verify`: check a signature, who stands behind it, and what became of its key.

mod bundle;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use evanesce_ledger::{
    NotaryKey, Outcome, ReadError as LedgerError, Reader, Receipt, SignedMatch, Statement,
    Timestamp,
};
use evanesce_protocol::sshsig::Envelope;
use evanesce_protocol::{Digest, PublicKey};
use serde::Serialize;
use ssh_key::Certificate;

use self::bundle::{Asked, BundleArgs, BundleReport};
use crate::attestation::{self, AttestationOutcome, AttestationRecord, Bundle};
use crate::clock;
use crate::commands::attest::appraise::read_policy;
use crate::commands::attest::input::{Input, RootArgs, read_bundle};
use crate::commands::sign::{evidence_path, signature_path};
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::exit::Exit;
use crate::files;
use crate::receipt_text;
use crate::signature::{
    self, Flaw, Intact, Judgement, LedgerWord, TrustSource, TrustedNotary, Verdict,
    timestamp_of_seconds,
};
use crate::trust;
use crate::ui::{BAD, FAINT, GOOD, Report, UNSURE};

/// Check a signature, who stands behind it, and what became of its key
///
/// Reads FILE.sig, which evanesce or ssh-keygen made. Trusted is a key that this installation's
/// notary, or one named with --notary, certified for the time of the signature; a plain key is
/// trusted only where a receipt in the ledger lists this very signature.
///
/// With --bundle it checks a Sigstore bundle instead: the notary's record of a signature, a receipt
/// or a rotation, and the proof that it is in a log. It does so offline; nothing is asked of any server.
///
/// Exits 0 where the signer is trusted, 1 where the signature is invalid, 2 where something could
/// not be read, and 3 where the signature is intact but nobody vouches for its signer.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce verify release.tar
  evanesce verify release.tar --notary build-host.pub --at 2026-11-22T02:10:00Z
  evanesce verify - --signature src.tar.sig < src.tar
  evanesce verify release.tar --policy policy.toml --evidence release.tar.evidence.json
  evanesce verify release.tar --bundle release.tar.sigstore.json --offline \\
    --trusted-root trusted_root.json --notary build-host.pub")]
pub struct VerifyArgs {
    /// The file, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Read the signature from SIG instead of FILE.sig
    #[arg(long, short, value_name = "SIG")]
    signature: Option<PathBuf>,

    /// Accept signatures for NAMESPACE only
    #[arg(long, value_name = "NAMESPACE", default_value = "file")]
    namespace: String,

    /// Trust the notary with the public key in PUB, PEM or OpenSSH (can be repeated)
    #[arg(long = "notary", value_name = "PUB")]
    notaries: Vec<PathBuf>,

    /// Judge the certificate as of TIME, whatever the ledger says: 2026-11-22T02:10:00Z
    #[arg(long, value_name = "TIME", value_parser = files::parse_time)]
    at: Option<Timestamp>,

    /// Accept attested signers alone: their evidence has to meet the policy in POLICY
    ///
    /// The evidence is that of --evidence, of FILE.evidence.json, or of the ledger. It is judged as
    /// of the time of the signature.
    #[arg(long, value_name = "POLICY")]
    policy: Option<PathBuf>,

    /// Read the evidence from FILE instead of FILE.evidence.json or the ledger
    #[arg(long, value_name = "FILE")]
    evidence: Option<PathBuf>,

    /// Accept signers that the verifier with the public key in PUB found attested (can be repeated)
    ///
    /// Takes the signed result of `attest appraise --result` beside the evidence. With --policy the
    /// evidence is judged here as well.
    #[arg(long = "verifier", value_name = "PUB")]
    verifiers: Vec<PathBuf>,

    #[command(flatten)]
    roots: RootArgs,
    #[command(flatten)]
    bundle: BundleArgs,
}

impl VerifyArgs {
    /// Whether signers have to be attested.
    const fn wants_attestation(&self) -> bool {
        self.policy.is_some() || !self.verifiers.is_empty()
    }

    fn signature_file(&self) -> Result<PathBuf, VerifyError> {
        match &self.signature {
            Some(path) => Ok(path.clone()),
            None if files::is_stdin(&self.file) => Err(VerifyError::NoSignatureName),
            None => Ok(signature_path(&self.file)),
        }
    }
}

/// Verifies.
///
/// # Errors
///
/// Where a file cannot be read, or the signature is of a kind that is not checked here. A signature
/// that does not hold is a report.
pub fn run(args: &VerifyArgs, context: &Context<'_>) -> Result<AnyReport, CommandError> {
    match &args.bundle.bundle {
        Some(bundle) => {
            let asked = Asked { file: &args.file, bundle, notaries: &args.notaries };
            bundle::run(&asked, &args.bundle, context)
                .map(|report| AnyReport::Bundle(Box::new(report)))
        }
        None => run_signature(args, context).map(|report| AnyReport::Signature(Box::new(report))),
    }
}

fn run_signature(args: &VerifyArgs, context: &Context<'_>) -> Result<VerifyReport, CommandError> {
    let signature_file = args.signature_file()?;
    let text = files::read_small(&signature_file, SIGNATURE_BYTES_MAX)?;
    let report = |intact: Option<&Intact>, judgement, receipt| VerifyReport {
        file: args.file.clone(),
        signature_file: signature_file.clone(),
        namespace: args.namespace.clone(),
        public_key: intact.map(|intact| intact.public_key),
        certificate: intact.and_then(|intact| intact.certificate.as_deref()).map(Into::into),
        judgement,
        attestation: None,
        receipt,
    };
    let intact = match open(&text, args) {
        Ok(intact) => intact,
        Err(OpenError::Flaw(flaw @ Flaw::Algorithm { .. })) => return Err(flaw.into()),
        Err(OpenError::Flaw(flaw)) => return Ok(report(None, Judgement::of_flaw(&flaw), None)),
        Err(OpenError::Command(error)) => return Err(error),
    };
    let mut known = gather(args, context, &intact)?;
    let mut attestation = match args.wants_attestation() {
        true => Some(attested(args, context, &intact, &known.ledger)?),
        false => None,
    };
    if let Some(key) = attestation.as_ref().and_then(AttestationRecord::notary) {
        known.notaries.push(TrustedNotary { key: key.clone(), source: TrustSource::Attested });
    }
    let mut judgement =
        signature::judge(&intact, &known.notaries, &known.ledger, args.at, clock::now());
    if let Some(attestation) = &mut attestation {
        attestation.apply(&mut judgement, intact.certificate.is_some());
    }
    let mut report = report(Some(&intact), judgement, known.ledger.receipt);
    report.attestation = attestation.map(Box::new);
    Ok(report)
}

/// Whether the key was attested, by the policy or by a verifier's word.
fn attested(
    args: &VerifyArgs,
    context: &Context<'_>,
    intact: &Intact,
    ledger: &LedgerWord,
) -> Result<AttestationRecord, CommandError> {
    let key = &intact.public_key;
    let Some((name, bundle)) = find_evidence(args, context, intact)? else {
        return Ok(AttestationRecord::none(
            "none beside the file and none in the ledger; name it with --evidence",
        ));
    };
    let recorded = ledger.signed.map(|(at, _)| at);
    let at = args.at.or(recorded).unwrap_or_else(clock::now);
    let mut verifiers = Vec::new();
    for path in &args.verifiers {
        verifiers.push(trust::read_notary(path)?);
    }
    let by_result =
        (!verifiers.is_empty()).then(|| attestation::by_result(&bundle, key, &verifiers, at));
    let mut record = match (&args.policy, by_result) {
        (None, Some(record)) => record,
        // Whoever gives both wants both.
        (_, Some(record)) if record.outcome() != AttestationOutcome::Attested => return Ok(record),
        (Some(policy), _) => {
            let policy = read_policy(policy)?;
            let roots = args.roots.roots(context)?;
            let mut input = Input::of_envelope(name, bundle.evidence.clone());
            input.complete(context)?;
            attestation::by_policy(&input, key, &policy, &roots, at)
        }
        (None, None) => unreachable!("asked for only where there is one of the two"),
    };
    if record.outcome() == AttestationOutcome::Attested {
        record.add_time(args.at.is_some(), ledger.signed);
        let nonce = Digest::from_bytes(*bundle.evidence.binding.nonce.as_bytes());
        match place_in_ledger(&context.ledger_dir()?, &nonce)? {
            Some((row, at)) => record.add_checked(format!(
                "the evidence is younger than row {row} of the ledger, of {at}"
            )),
            None => record
                .add_not_checked("how old the evidence is: its nonce is of no row of this ledger"),
        }
    }
    Ok(record)
}

/// Evidence by the name it was given, beside the file, or in the ledger.
fn find_evidence(
    args: &VerifyArgs,
    context: &Context<'_>,
    intact: &Intact,
) -> Result<Option<(PathBuf, Bundle)>, CommandError> {
    if let Some(path) = &args.evidence {
        return Ok(Some((path.clone(), read_bundle(path)?)));
    }
    let beside = evidence_path(&args.file);
    if !files::is_stdin(&args.file) && beside.exists() {
        return Ok(Some((beside.clone(), read_bundle(&beside)?)));
    }
    let dir = context.ledger_dir()?;
    let reader = match Reader::open(&dir) {
        Ok(reader) => reader,
        Err(LedgerError::None { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let attested = reader.attested_of(&intact.public_key)?.and_then(|found| found.envelope);
    // A row of a later version may hold what cannot be read here: then there is none.
    let evidence = attested.and_then(|envelope| serde_json::from_value(envelope).ok());
    Ok(evidence.map(|evidence| (dir, Bundle { evidence, result: None })))
}

fn place_in_ledger(dir: &Path, digest: &Digest) -> Result<Option<(u64, Timestamp)>, CommandError> {
    match Reader::open(dir) {
        Ok(reader) => Ok(reader.place_of(digest)?),
        Err(LedgerError::None { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open(text: &[u8], args: &VerifyArgs) -> Result<Intact, OpenError> {
    let envelope = Envelope::from_armoured(text).map_err(Flaw::Envelope)?;
    let digest = files::digest(&args.file, envelope.hash).map_err(CommandError::from)?;
    Ok(Intact::open(&envelope, &digest, &args.namespace)?)
}

/// A flaw is a verdict, anything else an error.
enum OpenError {
    Flaw(Flaw),
    Command(CommandError),
}

impl From<Flaw> for OpenError {
    fn from(flaw: Flaw) -> Self {
        Self::Flaw(flaw)
    }
}

impl From<CommandError> for OpenError {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

/// Who is believed, and what the ledger says.
struct Evidence {
    notaries: Vec<TrustedNotary>,
    ledger: LedgerWord,
}

fn gather(
    args: &VerifyArgs,
    context: &Context<'_>,
    intact: &Intact,
) -> Result<Evidence, CommandError> {
    let own = trust::own_notaries(&context.notary_dir()?)?;
    let ledger = ask_ledger(&context.ledger_dir()?, intact, &own)?;
    let of_source = |source| move |key| TrustedNotary { key, source };
    let mut notaries: Vec<TrustedNotary> =
        own.into_iter().map(of_source(TrustSource::Installation)).collect();
    for path in &args.notaries {
        notaries.push(of_source(TrustSource::Named)(trust::read_notary(path)?));
    }
    Ok(Evidence { notaries, ledger })
}

fn silent(why: &str) -> LedgerWord {
    LedgerWord { silence: Some(why.to_owned()), ..LedgerWord::default() }
}

/// What the ledger in `dir` says of a signature, if the ledger is to be believed.
fn ask_ledger(
    dir: &Path,
    intact: &Intact,
    notaries: &[NotaryKey],
) -> Result<LedgerWord, CommandError> {
    let audit = match trust::audit(dir, notaries, None) {
        Ok(audit) if audit.outcome == Outcome::Invalid => {
            return Ok(silent("the ledger is damaged, see `evanesce audit verify`"));
        }
        Ok(audit) => audit,
        Err(LedgerError::None { .. }) => return Ok(silent("there is no ledger here")),
        Err(error) => return Err(error.into()),
    };
    let reader = Reader::open(dir)?;
    let mut matches = reader.signatures_of(&intact.public_key, &intact.request)?;
    // A row that no signature of a notary covers is nobody's word.
    matches.retain(|found| found.row <= audit.signed_through);
    let certificate = intact.certificate.as_ref();
    let of_certificate = |found: &&SignedMatch| {
        certificate.is_some_and(|known| known.key_id() == found.workload.as_str())
    };
    let found = matches
        .iter()
        .find(of_certificate)
        .or_else(|| matches.iter().find(|found| found.receipt.is_some()));
    let receipt = match found {
        Some(SignedMatch { receipt, .. }) => receipt.clone(),
        None => receipt_of_certificate(&reader, intact)?,
    };
    let receipt = receipt
        .and_then(|found| opened_receipt(&found.envelope, notaries))
        .filter(|receipt| receipt.key.public_key == intact.public_key);
    Ok(LedgerWord {
        signed: found.map(|found| (found.at, found.row)),
        receipt: receipt.map(Box::new),
        silence: None,
    })
}

fn receipt_of_certificate(
    reader: &Reader,
    intact: &Intact,
) -> Result<Option<evanesce_ledger::FoundReceipt>, CommandError> {
    let workload = intact.certificate.as_ref().and_then(|found| found.key_id().parse().ok());
    match workload {
        Some(workload) => Ok(reader.receipt_of(&workload)?),
        None => Ok(None),
    }
}

fn opened_receipt(envelope: &evanesce_ledger::Envelope, keys: &[NotaryKey]) -> Option<Receipt> {
    let key = keys.iter().find(|key| key.id() == envelope.key_id())?;
    Statement::<Receipt>::open(envelope, key).ok().map(Statement::into_predicate)
}

/// The verdict, by a signature file or by a bundle.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum AnyReport {
    /// By a signature file.
    Signature(Box<VerifyReport>),
    /// By a bundle.
    Bundle(Box<BundleReport>),
}

impl Report for AnyReport {
    fn exit(&self) -> Exit {
        match self {
            Self::Signature(report) => report.exit(),
            Self::Bundle(report) => report.exit(),
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Signature(report) => report.render(out),
            Self::Bundle(report) => report.render(out),
        }
    }
}

/// The verdict on one file.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    file: PathBuf,
    signature_file: PathBuf,
    namespace: String,
    public_key: Option<PublicKey>,
    certificate: Option<CertificateRecord>,
    #[serde(flatten)]
    judgement: Judgement,
    #[serde(skip_serializing_if = "Option::is_none")]
    attestation: Option<Box<AttestationRecord>>,
    receipt: Option<Box<Receipt>>,
}

/// What a certificate says. Believed only where a notary is named in the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct CertificateRecord {
    workload_id: String,
    valid_after: Timestamp,
    valid_before: Timestamp,
}

impl From<&Certificate> for CertificateRecord {
    fn from(certificate: &Certificate) -> Self {
        Self {
            workload_id: certificate.key_id().to_owned(),
            valid_after: timestamp_of_seconds(certificate.valid_after()),
            valid_before: timestamp_of_seconds(certificate.valid_before()),
        }
    }
}

impl Report for VerifyReport {
    fn exit(&self) -> Exit {
        match self.judgement.verdict {
            Verdict::Trusted => Exit::Success,
            Verdict::Invalid => Exit::Failure,
            Verdict::SignerUnknown => Exit::UnknownSigner,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let Judgement { verdict, reason, checked, not_checked, .. } = &self.judgement;
        let (style, word) = match verdict {
            Verdict::Trusted => (GOOD, "trusted"),
            Verdict::Invalid => (BAD, "invalid"),
            Verdict::SignerUnknown => (UNSURE, "intact, signer unknown"),
        };
        writeln!(out, "{}: {style}{word}{style:#}: {reason}", self.file.display())?;
        if let Some(key) = &self.public_key {
            writeln!(out, "key          {key}")?;
        }
        if let Some(receipt) = &self.receipt {
            let fate = receipt_text::fate(receipt.key.fate);
            writeln!(out, "fate         {fate}, at {} by the receipt", receipt.times.ended)?;
        }
        write_checks(out, checked, not_checked)
    }
}

/// What was checked and what was not, a line each.
fn write_checks(out: &mut dyn Write, checked: &[String], not_checked: &[String]) -> io::Result<()> {
    for line in checked {
        writeln!(out, "checked      {FAINT}{line}{FAINT:#}")?;
    }
    for line in not_checked {
        writeln!(out, "not checked  {FAINT}{line}{FAINT:#}")?;
    }
    Ok(())
}

/// Why there is nothing to verify.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Standard input has no name to put `.sig` behind.
    #[error("standard input is to be verified, and no signature was named")]
    NoSignatureName,
}

impl Coded for VerifyError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoSignatureName => "verify.no-signature-name",
        }
    }
}

const SIGNATURE_BYTES_MAX: u64 = 64 * 1024;
