//! `audit`: check and read the ledger of all keys.

use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use evanesce_ledger::{
    CheckpointFinding, Completeness, Envelope, Event, Exported, FiledReport, FoundReceipt,
    KeyRelease, NotaryKey, Outcome, Reader, Receipt, Released, Row, ShredReceipt, SignatureRecord,
    Statement, Verdict,
};
use evanesce_protocol::WorkloadId;
use serde::Serialize;

use crate::certificate_page::Certificate;
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::exit::Exit;
use crate::files::{self, ReadError};
use crate::new_file::{self, Existing, NewFile};
use crate::receipt_text::{self, counted, name_of};
use crate::trust;
use crate::ui::{BAD, FAINT, GOOD, Report, Stream, UNSURE};

/// Check and read the ledger of all keys
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce audit verify --checkpoint kept-elsewhere.json
  evanesce audit show --last 20
  evanesce audit receipt release-1 --format json
  evanesce audit receipt release-1 --format html > certificate.html
  evanesce audit export --output ledger.tar")]
pub struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

impl AuditArgs {
    /// Whether this asks for a verdict, whose exit statuses an error must not be taken for.
    pub const fn is_verify(&self) -> bool {
        matches!(self.command, AuditCommand::Verify(_))
    }
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    Verify(AuditVerifyArgs),
    Show(AuditShowArgs),
    Receipt(AuditReceiptArgs),
    Checkpoint(AuditCheckpointArgs),
    Export(AuditExportArgs),
}

/// Check the chain, the life of every workload, and every signature
///
/// Without a checkpoint that was kept elsewhere nobody can tell whether the newest rows were
/// deleted, and the verdict says so. Exits 0 where everything holds, 1 where something does not, 2
/// where something could not be read, and 3 where a notary signed that is not known here.
#[derive(Debug, clap::Args)]
struct AuditVerifyArgs {
    /// Hold the ledger to the checkpoint in FILE, from `audit checkpoint`
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,

    /// Trust the notary with the public key in PUB, PEM or OpenSSH (can be repeated)
    #[arg(long = "notary", value_name = "PUB")]
    notaries: Vec<PathBuf>,
}

/// Print rows of the ledger, oldest first
#[derive(Debug, clap::Args)]
struct AuditShowArgs {
    /// Only rows of workload ID
    #[arg(long, value_name = "ID")]
    workload: Option<WorkloadId>,

    /// Only the newest N rows
    #[arg(long, value_name = "N")]
    last: Option<usize>,
}

/// Print the receipt of a workload
#[derive(Debug, clap::Args)]
struct AuditReceiptArgs {
    /// The workload
    #[arg(value_name = "ID")]
    workload: WorkloadId,

    /// Print text for people, the signed envelope (DSSE) as it stands in the ledger, or a page
    ///
    /// The page (html) is a certificate of sanitization with the fields of NIST SP 800-88 Rev. 2. It
    /// stands alone, prints on one sheet, and says how to check it.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    format: ReceiptFormat,
}

/// How a receipt is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReceiptFormat {
    /// For people
    Text,
    /// The signed envelope
    Json,
    /// A certificate to print
    Html,
}

/// Sign how long the ledger is now, to be kept elsewhere
#[derive(Debug, clap::Args)]
struct AuditCheckpointArgs {
    /// Write the checkpoint to FILE instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace FILE where it exists
    #[arg(long, requires = "output")]
    force: bool,
}

/// Write the ledger into one file that anyone can verify elsewhere
///
/// A tar archive of all segments, the notary's public keys and a checkpoint of this moment, in the
/// format of docs/formats/ledger-export.md. That the keys are the notary's has to be known from
/// elsewhere: an archive cannot vouch for itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce audit export --output ledger.tar
  tar -xf ledger.tar && evanesce --state-dir evanesce-ledger audit verify \\
    --checkpoint evanesce-ledger/checkpoint.json --notary known-notary.pem")]
struct AuditExportArgs {
    /// Write the archive to FILE instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace FILE where it exists
    #[arg(long, requires = "output")]
    force: bool,

    /// Put the checkpoint in FILE into the archive instead of a new one
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
}

/// Audits.
///
/// # Errors
///
/// Where the ledger or a file that was named cannot be read. A ledger that is wrong is a report.
pub fn run(args: &AuditArgs, context: &Context<'_>) -> Result<AuditReport, CommandError> {
    match &args.command {
        AuditCommand::Verify(args) => verify(args, context).map(AuditReport::Verify),
        AuditCommand::Show(args) => show(args, context).map(AuditReport::Show),
        AuditCommand::Receipt(args) => receipt(args, context).map(AuditReport::Receipt),
        AuditCommand::Checkpoint(args) => checkpoint(args, context).map(AuditReport::Checkpoint),
        AuditCommand::Export(args) => export(args, context).map(AuditReport::Export),
    }
}

fn verify(args: &AuditVerifyArgs, context: &Context<'_>) -> Result<Box<Verdict>, CommandError> {
    let dir = context.ledger_dir()?;
    let mut notaries = trust::own_notaries(&context.notary_dir()?)?;
    for path in &args.notaries {
        notaries.push(trust::read_notary(path)?);
    }
    let checkpoint = args.checkpoint.as_deref().map(read_envelope).transpose()?;
    Ok(Box::new(trust::audit(&dir, &notaries, checkpoint.as_ref())?))
}

fn read_envelope(path: &Path) -> Result<Envelope, CheckpointFileError> {
    let bytes = files::read_small(path, ENVELOPE_BYTES_MAX).map_err(CheckpointFileError::Read)?;
    serde_json::from_slice(&bytes)
        .map_err(|_| CheckpointFileError::NotOne { path: path.to_owned() })
}

fn show(args: &AuditShowArgs, context: &Context<'_>) -> Result<ShowReport, CommandError> {
    let reader = Reader::open(&context.ledger_dir()?)?;
    let Some(workload) = &args.workload else {
        let rows = match args.last {
            Some(count) => reader.last(count)?,
            None => reader.rows().collect::<Result<_, _>>()?,
        };
        return Ok(ShowReport { rows });
    };
    let of_workload = |row: &Row| row.workload.as_ref() == Some(workload);
    let mut rows = Vec::new();
    for row in reader.rows() {
        let row = row?;
        if of_workload(&row) {
            rows.push(row);
        }
    }
    let surplus = args.last.map_or(0, |count| rows.len().saturating_sub(count));
    Ok(ShowReport { rows: rows.split_off(surplus) })
}

fn receipt(
    args: &AuditReceiptArgs,
    context: &Context<'_>,
) -> Result<Box<ReceiptReport>, CommandError> {
    let dir = context.ledger_dir()?;
    let found = Reader::open(&dir)?
        .receipt_of(&args.workload)?
        .ok_or_else(|| NoReceiptError { workload: args.workload.clone() })?;
    let notaries = trust::own_notaries(&context.notary_dir()?)?;
    let (receipt, signed) = open_receipt(&found, &notaries)?;
    Ok(Box::new(ReceiptReport { receipt, signed, found, format: args.format }))
}

/// Reads a receipt and says whether a notary of this installation signed it.
fn open_receipt(
    found: &FoundReceipt,
    notaries: &[NotaryKey],
) -> Result<(Receipt, bool), CommandError> {
    let key = notaries.iter().find(|key| key.id() == found.envelope.key_id());
    Ok(match key {
        Some(key) => (Statement::open(&found.envelope, key)?.into_predicate(), true),
        None => (Statement::parse_unverified(&found.envelope)?.into_predicate(), false),
    })
}

fn checkpoint(
    args: &AuditCheckpointArgs,
    context: &Context<'_>,
) -> Result<CheckpointReport, CommandError> {
    let existing = Existing::of_force(args.force);
    if let Some(path) = &args.output {
        new_file::check(path, existing)?;
    }
    let checkpoint = context.launcher()?.checkpoint()?;
    if let Some(path) = &args.output {
        let text = serde_json::to_string(&checkpoint).expect("an envelope is plain data");
        new_file::write(path, format!("{text}\n").as_bytes(), existing)?;
    }
    Ok(CheckpointReport { checkpoint, written: args.output.clone() })
}

fn export(args: &AuditExportArgs, context: &Context<'_>) -> Result<ExportReport, CommandError> {
    let existing = Existing::of_force(args.force);
    match &args.output {
        Some(path) => new_file::check(path, existing)?,
        None if io::stdout().is_terminal() => return Err(TerminalError.into()),
        None => {}
    }
    let checkpoint = match &args.checkpoint {
        Some(path) => read_envelope(path)?,
        None => context.launcher()?.checkpoint()?,
    };
    let notaries = trust::own_notaries(&context.notary_dir()?)?;
    // Opened last: it has the row of the checkpoint, and everything before.
    let reader = Reader::open(&context.ledger_dir()?)?;
    let exported = match &args.output {
        Some(path) => {
            let mut file = NewFile::create(path)?;
            let exported = reader.export(&notaries, &checkpoint, &mut file)?;
            file.keep(existing)?;
            exported
        }
        None => reader.export(&notaries, &checkpoint, &mut context.ui().raw_output())?,
    };
    Ok(ExportReport { exported, written: args.output.clone() })
}

/// What one of the audits found.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum AuditReport {
    #[expect(missing_docs, reason = "named like its command")]
    Verify(Box<Verdict>),
    #[expect(missing_docs, reason = "named like its command")]
    Show(ShowReport),
    #[expect(missing_docs, reason = "named like its command")]
    Receipt(Box<ReceiptReport>),
    #[expect(missing_docs, reason = "named like its command")]
    Checkpoint(CheckpointReport),
    #[expect(missing_docs, reason = "named like its command")]
    Export(ExportReport),
}

impl Report for AuditReport {
    fn exit(&self) -> Exit {
        match self {
            Self::Verify(verdict) => exit_of(verdict.outcome),
            Self::Receipt(report) if !report.signed => Exit::UnknownSigner,
            Self::Show(_) | Self::Receipt(_) | Self::Checkpoint(_) | Self::Export(_) => {
                Exit::Success
            }
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Verify(verdict) => render_verdict(verdict, out),
            Self::Show(report) => report.rows.iter().try_for_each(|row| render_row(row, out)),
            Self::Receipt(report) => report.render(out),
            Self::Checkpoint(report) => report.render(out),
            Self::Export(report) => report.render(out),
        }
    }

    fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Show(report) => report.rows.iter().try_for_each(|row| write_line(row, out)),
            Self::Receipt(report) => write_line(&report.found.envelope, out),
            Self::Checkpoint(report) => write_line(&report.checkpoint, out),
            Self::Verify(verdict) => write_line(verdict, out),
            Self::Export(report) => write_line(report, out),
        }
    }

    fn json_stream(&self) -> Stream {
        match self {
            // Standard output has the archive.
            Self::Export(ExportReport { written: None, .. }) => Stream::Error,
            _ => Stream::Output,
        }
    }
}

pub(crate) const fn exit_of(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Trusted => Exit::Success,
        Outcome::Invalid => Exit::Failure,
        Outcome::UnknownSigner => Exit::UnknownSigner,
    }
}

pub(crate) fn render_verdict(verdict: &Verdict, out: &mut dyn Write) -> io::Result<()> {
    let (style, word) = match verdict.outcome {
        Outcome::Trusted => (GOOD, "trusted"),
        Outcome::Invalid => (BAD, "invalid"),
        Outcome::UnknownSigner => (UNSURE, "intact, signer unknown"),
    };
    let (rows, segments) = (counted(verdict.rows, "row"), counted(verdict.segments, "segment"));
    writeln!(out, "ledger: {style}{word}{style:#}: {rows} in {segments}")?;
    if let Some(bad) = &verdict.first_bad_row {
        writeln!(out, "bad row      {BAD}{bad}{BAD:#}")?;
    }
    let signatures = verdict.signatures;
    writeln!(
        out,
        "signatures   {} trusted, {} invalid, {} by unknown signers; signed through row {}",
        signatures.trusted, signatures.invalid, signatures.unknown_signer, verdict.signed_through,
    )?;
    if let Some(finding) = verdict.checkpoint {
        writeln!(out, "checkpoint   {}", checkpoint_finding(finding))?;
    }
    match verdict.completeness {
        Completeness::Unknown => writeln!(out, "complete     {UNSURE}unknown{UNSURE:#}")?,
        Completeness::Through(row) => writeln!(out, "complete     through row {row}")?,
    }
    for open in &verdict.open_workloads {
        let (workload, row) = (&open.workload, open.row);
        writeln!(out, "open         {workload}, since row {row} at {}", open.started_at)?;
    }
    for warning in &verdict.warnings {
        let warning = serde_json::to_value(warning)?;
        writeln!(out, "warning      {UNSURE}{}{UNSURE:#}", members(&warning))?;
    }
    for reason in &verdict.not_checked {
        writeln!(out, "not checked  {FAINT}{reason}{FAINT:#}")?;
    }
    Ok(())
}

fn checkpoint_finding(finding: CheckpointFinding) -> String {
    match finding {
        CheckpointFinding::Holds => "holds".into(),
        CheckpointFinding::RowsMissing { expected, found } => {
            format!("newest rows were deleted: there were {expected}, there are {found}")
        }
        CheckpointFinding::OtherHead => "its row is another one: the ledger was rewritten".into(),
        CheckpointFinding::OtherLedger => "it is of another ledger".into(),
        CheckpointFinding::Invalid => "its signature does not hold".into(),
        CheckpointFinding::UnknownSigner => "it is by a notary that is not known here".into(),
        _ => "says something this version does not know".into(),
    }
}

/// One row in one line: number, time, workload, event, and what the event says.
fn render_row(row: &Row, out: &mut dyn Write) -> io::Result<()> {
    let mut event = serde_json::to_value(&row.event)?;
    let name = event.as_object_mut().and_then(|event| event.remove("event"));
    let name = name.as_ref().and_then(serde_json::Value::as_str).unwrap_or("other");
    let workload = row.workload.as_ref().map_or("-", |id| id.as_str());
    let detail = match &row.event {
        Event::Signed(signed) => {
            let count = u64::try_from(signed.requests.len()).unwrap_or(u64::MAX);
            format!("{} from number {}", counted(count, "signature"), signed.first)
        }
        Event::Receipt(receipt) => receipt_summary(&receipt.envelope),
        Event::Shredded(shredded) => shred_summary(&shredded.envelope),
        Event::Attested(attested) => {
            let found = &attested.attestation;
            format!("evidence={} provider={}", found.evidence, found.provider)
        }
        Event::Released(row) => release_summary(row),
        Event::Statement(row) => statement_summary(&row.envelope),
        Event::Reported(reported) => report_summary(&reported.envelope),
        Event::Checkpoint(_) => String::new(),
        Event::Notary(notary) => notary.key_id.to_string(),
        _ => members(&event),
    };
    writeln!(out, "{:>6}  {}  {workload:<24}  {name:<9}  {FAINT}{detail}{FAINT:#}", row.seq, row.at)
}

fn statement_summary(envelope: &Envelope) -> String {
    match Statement::<SignatureRecord>::parse_unverified(envelope) {
        Ok(statement) => format!("{} was signed", statement.predicate().artifact.name),
        Err(_) => "a statement of another kind".into(),
    }
}

fn release_summary(row: &Released) -> String {
    match Statement::<KeyRelease>::parse_unverified(&row.envelope) {
        Ok(statement) => {
            let KeyRelease { public_key, tee, .. } = statement.predicate();
            format!("{public_key} to a worker in a {tee} machine, transcript {}", row.transcript)
        }
        Err(_) => "not a release".into(),
    }
}

fn receipt_summary(envelope: &Envelope) -> String {
    match Statement::<Receipt>::parse_unverified(envelope) {
        Ok(statement) => {
            let receipt = statement.predicate();
            let fate = receipt_text::fate(receipt.key.fate);
            format!("{fate}, {}", counted(receipt.signatures.count, "signature"))
        }
        Err(_) => "not a receipt".into(),
    }
}

fn shred_summary(envelope: &Envelope) -> String {
    match Statement::<ShredReceipt>::parse_unverified(envelope) {
        Ok(statement) => {
            let receipt = statement.predicate();
            let (name, pid) = (&receipt.process.name, receipt.process.pid);
            format!("process {pid} ({name}): {}", name_of(receipt.fate))
        }
        Err(_) => "not a receipt".into(),
    }
}

fn report_summary(envelope: &Envelope) -> String {
    match Statement::<FiledReport>::parse_unverified(envelope) {
        Ok(statement) => {
            let report = statement.predicate();
            format!("playbook {}: {}", report.playbook, name_of(report.outcome))
        }
        Err(_) => "not a report".into(),
    }
}

/// `name=value` for each member, without quotes where there is no need.
fn members(value: &serde_json::Value) -> String {
    let Some(object) = value.as_object() else {
        return value.to_string();
    };
    let shown = object.iter().map(|(name, value)| match value {
        serde_json::Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn write_line(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Rows of the ledger. As JSON, one row a line.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct ShowReport {
    rows: Vec<Row>,
}

/// A receipt. As JSON, its signed envelope.
#[derive(Debug, Serialize)]
pub struct ReceiptReport {
    receipt: Receipt,
    signed: bool,
    found: FoundReceipt,
    #[serde(skip)]
    format: ReceiptFormat,
}

impl ReceiptReport {
    const fn certificate(&self) -> Certificate<'_> {
        Certificate {
            receipt: &self.receipt,
            envelope: &self.found.envelope,
            row: self.found.row,
            recorded_at: self.found.at,
            signed: self.signed,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.format {
            ReceiptFormat::Text => {}
            ReceiptFormat::Json => return write_line(&self.found.envelope, out),
            ReceiptFormat::Html => return out.write_all(self.certificate().to_html().as_bytes()),
        }
        receipt_text::write(&self.receipt, self.found.row, out)?;
        for statement in &self.receipt.scrub.statements {
            writeln!(
                out,
                "{FAINT}          {}: {} ({}){FAINT:#}",
                name_of(statement.claim),
                statement.detail,
                name_of(statement.observer),
            )?;
        }
        match self.signed {
            true => writeln!(out, "signed by {GOOD}{}{GOOD:#}", self.found.envelope.key_id()),
            false => writeln!(
                out,
                "signed by {UNSURE}{}{UNSURE:#}, which is not known here: not checked",
                self.found.envelope.key_id(),
            ),
        }
    }
}

/// A checkpoint and where it was written.
#[derive(Debug, Serialize)]
pub struct CheckpointReport {
    checkpoint: Envelope,
    written: Option<PathBuf>,
}

impl CheckpointReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.written {
            Some(path) => writeln!(out, "checkpoint → {}", path.display()),
            None => write_line(&self.checkpoint, out),
        }
    }
}

/// What was exported and where to.
#[derive(Debug, Serialize)]
pub struct ExportReport {
    #[serde(flatten)]
    exported: Exported,
    written: Option<PathBuf>,
}

impl ExportReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(path) = &self.written else { return Ok(()) };
        let Exported { ledger, rows, segments, notary_keys, .. } = &self.exported;
        let (rows, segments) = (counted(*rows, "row"), counted(*segments, "segment"));
        writeln!(out, "ledger {ledger}: {rows} in {segments} → {}", path.display())?;
        notary_keys.iter().try_for_each(|key| writeln!(out, "notary key {key}"))
    }
}

/// An archive is no text.
#[derive(Debug, thiserror::Error)]
#[error("an archive is not for a terminal")]
pub(crate) struct TerminalError;

impl Coded for TerminalError {
    fn code(&self) -> &'static str {
        "export.terminal"
    }
}

/// The workload has no receipt.
#[derive(Debug, thiserror::Error)]
#[error("the ledger has no receipt of workload {workload}")]
pub(crate) struct NoReceiptError {
    pub(crate) workload: WorkloadId,
}

impl Coded for NoReceiptError {
    fn code(&self) -> &'static str {
        "audit.no-receipt"
    }
}

/// Why a checkpoint that was named cannot be used.
#[derive(Debug, thiserror::Error)]
enum CheckpointFileError {
    #[error("the checkpoint could not be read")]
    Read(#[source] ReadError),
    #[error("{} holds no checkpoint", path.display())]
    NotOne { path: PathBuf },
}

impl Coded for CheckpointFileError {
    fn code(&self) -> &'static str {
        match self {
            Self::Read(_) => "checkpoint.read",
            Self::NotOne { .. } => "checkpoint.not-one",
        }
    }
}

const ENVELOPE_BYTES_MAX: u64 = 128 * 1024;
