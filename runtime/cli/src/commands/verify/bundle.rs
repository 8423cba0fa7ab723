//! `verify --bundle`: a statement of a notary, and the proof that it is in a log.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use evanesce_ledger::rotation::{KeyRotation, history};
use evanesce_ledger::{
    Envelope, NotaryKey, NotaryKeys, Outcome, ReadError, Reader, Receipt, SignatureRecord,
    Statement,
};
use evanesce_protocol::Digest;
use evanesce_transparency::bundle::BUNDLE_BYTES_MAX;
use evanesce_transparency::trust::{
    HandedOver, Place, TRUSTED_ROOT_BYTES_MAX, TrustedRoot, local_trusted_root, parse_trusted_root,
};
use evanesce_transparency::{
    BundleVerdict, Given, KnownNotary, KnownRotation, KnownRotations, LogReader, verify_bundle,
};
use serde::Serialize;

use crate::commands::audit;
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::exit::Exit;
use crate::files;
use crate::local_log::LocalLog;
use crate::trust;
use crate::ui::{BAD, GOOD, Report, UNSURE};

/// What only bundles need.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Bundles")]
pub(super) struct BundleArgs {
    /// Check the Sigstore bundle in BUNDLE instead of a signature file
    #[arg(long, value_name = "BUNDLE", conflicts_with_all = BUNDLE_CONFLICTS)]
    pub(super) bundle: Option<PathBuf>,

    /// Believe the logs and timestamp authorities of ROOT, a Sigstore trusted root
    ///
    /// Without it, this installation's own log. `log export --trusted-root` writes that of a log.
    #[arg(long, value_name = "ROOT", requires = "bundle")]
    trusted_root: Option<PathBuf>,

    /// Take the receipt of the key from FILE: a bundle, or what `audit receipt --format json` prints
    #[arg(long, value_name = "FILE", requires = "bundle")]
    receipt: Option<PathBuf>,

    /// Know of the key rotation in FILE, a bundle (can be repeated)
    ///
    /// Rotations in the ledger here are known. What a key signed after it was retired is refused; what
    /// it signed before is not, where log or time tell.
    #[arg(long = "rotation", value_name = "FILE", requires = "bundle")]
    rotations: Vec<PathBuf>,

    /// Open no network connection
    ///
    /// None is opened without it either: everything that is checked is in the files.
    #[arg(long)]
    offline: bool,
}

/// What is to be checked.
pub(super) struct Asked<'a> {
    pub(super) file: &'a Path,
    pub(super) bundle: &'a Path,
    pub(super) notaries: &'a [PathBuf],
}

pub(super) fn run(
    asked: &Asked<'_>,
    args: &BundleArgs,
    context: &Context<'_>,
) -> Result<BundleReport, CommandError> {
    let bundle = read_bundle(asked.bundle)?;
    let digests = files::digests(asked.file)?;
    let own = LocalLog::of(context)?;
    let log = own.open_if_there()?;
    let mut notaries = match &log {
        Some(log) => log.notaries()?,
        None => own.keys().iter().cloned().map(KnownNotary::of_key).collect(),
    };
    for path in asked.notaries {
        let key = trust::read_notary(path)?;
        if !notaries.iter().any(|known| known.key == key) {
            notaries.push(KnownNotary::of_key(key));
        }
    }
    let root = match (&args.trusted_root, &log) {
        (Some(path), _) => {
            let bytes = files::read_small(path, TRUSTED_ROOT_BYTES_MAX as u64)?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
        (None, Some(log)) => local_trusted_root(&log.checkpoint().origin, &log.notaries()?),
        (None, None) => return Err(NoTrustedRootError.into()),
    };
    let root = parse_trusted_root(&root)?;
    let keys: Vec<NotaryKey> = notaries.iter().map(|notary| notary.key.clone()).collect();
    let receipt = match &args.receipt {
        Some(path) => Some(read_receipt(path, &keys)?),
        None => receipt_in_ledger(&bundle, own.ledger(), &keys)?,
    };
    let mut rotations = match &log {
        Some(log) => rotations_in_ledger(&bundle, own.ledger(), log)?,
        None => Vec::new(),
    };
    for path in &args.rotations {
        rotations.push(read_rotation(path, &root, &notaries)?);
    }
    let rotations = KnownRotations::new(rotations);
    let given = Given {
        sha256: Digest::from_bytes(digests.sha256),
        sha512: &digests.sha512,
        receipt: receipt.as_ref(),
        rotations: &rotations,
    };
    let verdict = verify_bundle(&bundle, root, &notaries, &given)?;
    let (file, bundle) = (asked.file.to_owned(), asked.bundle.to_owned());
    Ok(BundleReport { file, bundle, verdict })
}

/// Reads a bundle. One that is too long is read as far as the verdict needs to say so.
fn read_bundle(path: &Path) -> Result<Vec<u8>, CommandError> {
    use std::io::Read as _;
    let failed = |source| files::ReadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(BUNDLE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The envelope in a bundle, or the envelope itself.
fn envelope_in(bytes: &[u8]) -> Option<Envelope> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Holder {
        dsse_envelope: Envelope,
    }
    if let Ok(holder) = serde_json::from_slice::<Holder>(bytes) {
        return Some(holder.dsse_envelope);
    }
    serde_json::from_slice(bytes).ok()
}

fn open_receipt(envelope: &Envelope, keys: &[NotaryKey]) -> Option<Receipt> {
    let key = keys.iter().find(|key| key.id() == envelope.key_id())?;
    Some(Statement::open(envelope, key).ok()?.into_predicate())
}

fn read_receipt(path: &Path, keys: &[NotaryKey]) -> Result<Receipt, CommandError> {
    let bytes = files::read_small(path, BUNDLE_BYTES_MAX as u64)?;
    let receipt = envelope_in(&bytes).and_then(|envelope| open_receipt(&envelope, keys));
    Ok(receipt.ok_or_else(|| NotAReceiptError { path: path.to_owned() })?)
}

/// The receipt of the workload that a record names, if this installation's ledger has it.
fn receipt_in_ledger(
    bundle: &[u8],
    ledger: &Path,
    keys: &[NotaryKey],
) -> Result<Option<Receipt>, CommandError> {
    let record = envelope_in(bundle)
        .and_then(|envelope| Statement::<SignatureRecord>::parse_unverified(&envelope).ok());
    let Some(record) = record else {
        return Ok(None);
    };
    let record = record.predicate();
    let reader = match Reader::open(ledger) {
        Err(ReadError::None { .. }) => return Ok(None),
        reader => reader?,
    };
    if reader.ledger_id()? != record.ledger {
        return Ok(None);
    }
    let found = reader.receipt_of(&record.workload)?;
    let receipt = found.and_then(|found| open_receipt(&found.envelope, keys));
    // An id may be used again: the receipt has to be of this key.
    Ok(receipt.filter(|receipt| receipt.key.public_key == record.public_key))
}

/// The rotations of the key that a record names, as far as this installation's ledger tells and
/// they hold.
fn rotations_in_ledger(
    bundle: &[u8],
    ledger: &Path,
    log: &LogReader,
) -> Result<Vec<KnownRotation>, CommandError> {
    let record = envelope_in(bundle)
        .and_then(|envelope| Statement::<SignatureRecord>::parse_unverified(&envelope).ok());
    let Some(record) = record else {
        return Ok(Vec::new());
    };
    // The first of them: it handed over to the others, and `history` follows.
    let first = log.notaries()?.into_iter().map(|notary| notary.key).take(1);
    let reader = Reader::open(ledger)?;
    let all = history(&reader, NotaryKeys::new(first), &record.predicate().public_key)?;
    let mut known = Vec::new();
    for entry in all.into_iter().filter(|entry| entry.problems.is_empty()) {
        let place = log.place_of(entry.row)?;
        known.push(known_rotation(&entry.rotation, place));
    }
    Ok(known)
}

fn known_rotation(rotation: &KeyRotation, place: Option<Place>) -> KnownRotation {
    KnownRotation {
        generation: rotation.generation,
        retired: rotation.retired,
        successor: rotation.successor,
        handed_over: HandedOver { at: rotation.at, place },
    }
}

/// Reads the bundle of a rotation, which has to hold itself.
fn read_rotation(
    path: &Path,
    root: &TrustedRoot,
    notaries: &[KnownNotary],
) -> Result<KnownRotation, CommandError> {
    let bundle = read_bundle(path)?;
    let rotation = envelope_in(&bundle)
        .and_then(|envelope| Statement::<KeyRotation>::parse_unverified(&envelope).ok())
        .map(Statement::into_predicate);
    let refused = |reason: &str| NotARotationError { path: path.to_owned(), reason: reason.into() };
    let rotation = rotation.ok_or_else(|| refused("it holds no such statement"))?;
    let given = Given {
        sha256: rotation.successor.digest(),
        sha512: &[0; 64],
        receipt: None,
        rotations: &KnownRotations::default(),
    };
    let verdict = verify_bundle(&bundle, root.clone(), notaries, &given)?;
    match (verdict.outcome, verdict.log) {
        (Outcome::Trusted, Some(log)) => {
            let place = Place { origin: log.origin, index: log.index };
            Ok(known_rotation(&rotation, Some(place)))
        }
        _ => Err(refused(&verdict.reason).into()),
    }
}

/// The verdict on one file by a bundle.
#[derive(Debug, Serialize)]
pub struct BundleReport {
    file: PathBuf,
    bundle: PathBuf,
    #[serde(flatten)]
    verdict: BundleVerdict,
}

impl Report for BundleReport {
    fn exit(&self) -> Exit {
        audit::exit_of(self.verdict.outcome)
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let BundleVerdict { outcome, reason, public_key, checked, not_checked, .. } = &self.verdict;
        let (style, word) = match outcome {
            Outcome::Trusted => (GOOD, "trusted"),
            Outcome::Invalid => (BAD, "invalid"),
            Outcome::UnknownSigner => (UNSURE, "signer unknown"),
        };
        writeln!(out, "{}: {style}{word}{style:#}: {reason}", self.file.display())?;
        if let Some(key) = public_key {
            writeln!(out, "key          {key}")?;
        }
        super::write_checks(out, checked, not_checked)
    }
}

/// Nothing says which logs to believe.
#[derive(Debug, thiserror::Error)]
#[error("there is no log here, and no trusted root was named")]
struct NoTrustedRootError;

impl Coded for NoTrustedRootError {
    fn code(&self) -> &'static str {
        "verify.no-trusted-root"
    }
}

/// The file that was named as a receipt is none.
#[derive(Debug, thiserror::Error)]
#[error("{} is no receipt that a known notary signed", path.display())]
struct NotAReceiptError {
    path: PathBuf,
}

impl Coded for NotAReceiptError {
    fn code(&self) -> &'static str {
        "verify.not-a-receipt"
    }
}

/// The file that was named as a rotation is none that holds.
#[derive(Debug, thiserror::Error)]
#[error("{} is no key rotation that holds: {reason}", path.display())]
struct NotARotationError {
    path: PathBuf,
    reason: String,
}

impl Coded for NotARotationError {
    fn code(&self) -> &'static str {
        "verify.not-a-rotation"
    }
}

/// What is about a signature file, and means nothing for a bundle.
const BUNDLE_CONFLICTS: [&str; 6] =
    ["signature", "namespace", "at", "policy", "evidence", "verifiers"];
