//! `log proof`: show that a statement is in the log, or that the log only ever grew.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueEnum;
use evanesce_ledger::notary::NotaryRotation;
use evanesce_ledger::rotation::KeyRotation;
use evanesce_ledger::{Envelope, Reader, Receipt, Statement};
use evanesce_protocol::WorkloadId;
use evanesce_transparency::LogReader;
use evanesce_transparency::merkle::NodeHash;
use evanesce_transparency::publish::TargetName;
use serde::Serialize;

use super::Rendered;
use crate::commands::audit::NoReceiptError;
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::local_log::{LocalLog, NoEntryOfRowError};
use crate::new_file::{self, Existing};

/// Show that a statement is in the log, or that the log only ever grew
///
/// A bundle is what Sigstore's verifiers read, `evanesce verify --bundle` among them. A tlog-proof
/// is text for C2SP tools. --from proves that the log begins with what it was before.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("which").args(["entry", "row", "workload", "from"]).required(true),
    after_help = "\
Examples:
  evanesce log proof --workload release-1 -o receipt.sigstore.json --artifact release-1.key
  evanesce verify release-1.key --bundle receipt.sigstore.json
  evanesce log proof --from 1000 --json"
)]
pub(super) struct ProofArgs {
    /// The entry; the first is 0
    #[arg(value_name = "ENTRY")]
    entry: Option<u64>,

    /// The entry of row N of the ledger
    #[arg(long, value_name = "N")]
    row: Option<u64>,

    /// The entry of the receipt of workload ID
    #[arg(long, value_name = "ID")]
    workload: Option<WorkloadId>,

    /// Prove that the log begins with its first SIZE entries
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["target", "artifact", "format"])]
    from: Option<u64>,

    /// What to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "bundle")]
    format: ProofFormat,

    /// Take the entry's places in the logs of TARGET, to which it is published
    #[arg(long, value_name = "TARGET")]
    target: Option<TargetName>,

    /// Write the proof to FILE instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write what the statement is about to FILE: of a receipt, the 32 bytes of the public key
    #[arg(long, value_name = "FILE")]
    artifact: Option<PathBuf>,

    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

/// How a proof is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProofFormat {
    /// A Sigstore bundle
    Bundle,
    /// A C2SP tlog-proof
    TlogProof,
}

pub(super) fn run(args: &ProofArgs, context: &Context<'_>) -> Result<ProofReport, CommandError> {
    let existing = Existing::of_force(args.force);
    for path in args.output.iter().chain(&args.artifact) {
        new_file::check(path, existing)?;
    }
    let local = LocalLog::of(context)?;
    let mut log = local.open()?;
    if let Some(old) = args.from {
        let proof = Consistency {
            from: old,
            from_root: log.root_at(old)?,
            size: log.checkpoint().size,
            root: log.checkpoint().root,
            hashes: log.consistency(old)?,
            checkpoint: log.note().to_owned(),
        };
        let text = serde_json::to_string(&proof).expect("plain data") + "\n";
        return ProofReport::of(text, args, existing);
    }
    let index = args.index(&local, &log)?;
    let (envelope, bundle) = local.bundle_of(&mut log, index, args.target.as_ref())?;
    if let Some(path) = &args.artifact {
        let artifact = artifact_of(&envelope).ok_or(NoArtifactError { entry: index })?;
        new_file::write(path, &artifact, existing)?;
    }
    let text = match args.format {
        ProofFormat::Bundle => bundle,
        ProofFormat::TlogProof => tlog_proof(&mut log, index)?,
    };
    ProofReport::of(text, args, existing)
}

impl ProofArgs {
    fn index(&self, local: &LocalLog, log: &LogReader) -> Result<u64, CommandError> {
        let row = match (self.entry, self.row, &self.workload) {
            (Some(entry), _, _) => return Ok(entry),
            (None, Some(row), _) => row,
            (None, None, Some(workload)) => {
                let found = Reader::open(local.ledger())?.receipt_of(workload)?;
                found.ok_or_else(|| NoReceiptError { workload: workload.clone() })?.row
            }
            (None, None, None) => unreachable!("one of them is required"),
        };
        Ok(log.index_of(row)?.ok_or(NoEntryOfRowError { row })?)
    }
}

/// What a statement is about, where the statement itself has it.
fn artifact_of(envelope: &Envelope) -> Option<Vec<u8>> {
    if let Ok(receipt) = Statement::<Receipt>::parse_unverified(envelope) {
        return Some(receipt.predicate().key.public_key.as_bytes().to_vec());
    }
    if let Ok(rotation) = Statement::<KeyRotation>::parse_unverified(envelope) {
        return Some(rotation.predicate().successor.as_bytes().to_vec());
    }
    let rotation = Statement::<NotaryRotation>::parse_unverified(envelope).ok()?;
    Some(rotation.predicate().successor.spki().to_vec())
}

/// C2SP tlog-proof: the entry's number, the hashes, and the checkpoint.
fn tlog_proof(log: &mut LogReader, index: u64) -> Result<String, CommandError> {
    let mut text = format!("c2sp.org/tlog-proof@v1\nindex {index}\n");
    for hash in log.inclusion(index)? {
        text.push_str(&hash.to_base64());
        text.push('\n');
    }
    Ok(text + "\n" + log.note())
}

/// That the log begins with what it was.
#[derive(Debug, Serialize)]
struct Consistency {
    from: u64,
    from_root: NodeHash,
    size: u64,
    root: NodeHash,
    hashes: Vec<NodeHash>,
    checkpoint: String,
}

/// A proof, written or to be printed.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ProofReport {
    /// To be printed as it is.
    Text(serde_json::Value),
    /// It is in a file.
    Written {
        /// Which.
        written: PathBuf,
    },
}

impl ProofReport {
    fn of(text: String, args: &ProofArgs, existing: Existing) -> Result<Self, CommandError> {
        match &args.output {
            Some(path) => {
                new_file::write(path, text.as_bytes(), existing)?;
                Ok(Self::Written { written: path.clone() })
            }
            None => {
                let value = serde_json::from_str(&text);
                Ok(Self::Text(value.unwrap_or(serde_json::Value::String(text))))
            }
        }
    }
}

impl Rendered for ProofReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Text(serde_json::Value::String(text)) => out.write_all(text.as_bytes()),
            Self::Text(value) => writeln!(out, "{value}"),
            Self::Written { written } => writeln!(out, "proof     → {}", written.display()),
        }
    }
}

/// What a statement is about is not in it.
#[derive(Debug, thiserror::Error)]
#[error("entry {entry} is about something that it does not hold: the file itself")]
struct NoArtifactError {
    entry: u64,
}

impl Coded for NoArtifactError {
    fn code(&self) -> &'static str {
        "log.no-artifact"
    }
}
