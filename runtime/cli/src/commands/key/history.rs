//! `key history`: the keys before and after a key, and whether each handover holds.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use evanesce_launcher::PublicFile;
use evanesce_ledger::rotation::{HistoryEntry, HistoryProblem, history};
use evanesce_ledger::{NotaryKey, NotaryKeys, Reader};
use evanesce_protocol::PublicKey;
use serde::Serialize;

use super::Rendered;
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::exit::Exit;
use crate::trust;
use crate::ui::{BAD, FAINT, GOOD, UNSURE};

/// Show the keys before and after a key, and check each handover
///
/// Each has to be signed by both keys and by a notary that is trusted, and to follow the one before.
/// Exits 0 where all hold, 1 where one does not, 3 where a notary is not known here. That no row is
/// missing is for `evanesce audit verify` to say.
#[derive(Debug, clap::Args)]
pub(super) struct HistoryArgs {
    /// A key file with its public file, or a public key: ed25519:HEX
    #[arg(value_name = "FILE|PUBLIC-KEY")]
    key: String,

    /// Trust the notary in FILE as well: PEM, or a line of OpenSSH (can be repeated)
    #[arg(long, value_name = "FILE")]
    notary: Vec<PathBuf>,
}

pub(super) fn run(
    args: &HistoryArgs,
    context: &Context<'_>,
) -> Result<HistoryReport, CommandError> {
    let keys = keys_of(&args.key)?;
    let mut notaries = trust::own_notaries(&context.notary_dir()?)?;
    for path in &args.notary {
        notaries.push(trust::read_notary(path)?);
    }
    let reader = Reader::open(&context.ledger_dir()?)?;
    // Of two keys that an interrupted rotation left, the first is there in any case.
    let key = *keys.first().ok_or_else(|| NoKeyError { key: args.key.clone() })?;
    let notaries: Vec<NotaryKey> = notaries;
    let rotations = history(&reader, NotaryKeys::new(notaries), &key)?;
    Ok(HistoryReport::new(key, rotations))
}

fn keys_of(text: &str) -> Result<Vec<PublicKey>, CommandError> {
    if let Ok(key) = text.parse() {
        return Ok(vec![key]);
    }
    let named = PublicFile::of(Path::new(text)).read().map_err(UnreadError)?;
    Ok(named.unwrap_or_default().into_iter().map(|named| named.key).collect())
}

/// The history of a key.
#[derive(Debug, Serialize)]
pub struct HistoryReport {
    key: PublicKey,
    rotations: Vec<HistoryEntry>,
    consistent: bool,
    #[serde(skip)]
    exit: Exit,
}

impl HistoryReport {
    fn new(key: PublicKey, rotations: Vec<HistoryEntry>) -> Self {
        let problems = || rotations.iter().flat_map(|entry| &entry.problems);
        let exit = if problems().any(|problem| *problem != HistoryProblem::UnknownNotary) {
            Exit::Failure
        } else if problems().next().is_some() {
            Exit::UnknownSigner
        } else {
            Exit::Success
        };
        Self { key, consistent: exit == Exit::Success, rotations, exit }
    }
}

impl Rendered for HistoryReport {
    fn exit(&self) -> Exit {
        self.exit
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.rotations.first() {
            None => {
                return writeln!(out, "{}  {FAINT}never rotated in this ledger{FAINT:#}", self.key);
            }
            Some(first) => {
                let (generation, key) = (first.rotation.generation - 1, first.rotation.retired);
                writeln!(out, "{generation:>4}  {key}")?;
            }
        }
        for entry in &self.rotations {
            let rotation = &entry.rotation;
            let (generation, key, at) = (rotation.generation, rotation.successor, rotation.at);
            let verdict = match entry.problems.as_slice() {
                [] => format!("{GOOD}holds{GOOD:#}"),
                [HistoryProblem::UnknownNotary] => format!("{UNSURE}notary unknown{UNSURE:#}"),
                problems => format!("{BAD}does not hold{BAD:#}: {problems:?}"),
            };
            let reason = match rotation.reason.as_str() {
                "" => String::new(),
                reason => format!(", {}", reason.escape_debug()),
            };
            writeln!(out, "{generation:>4}  {key}  {verdict}  {FAINT}{at}{reason}{FAINT:#}")?;
        }
        Ok(())
    }
}

/// The public file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the key's public file could not be used")]
struct UnreadError(#[source] evanesce_launcher::PublicFileError);

impl Coded for UnreadError {
    fn code(&self) -> &'static str {
        self.0.code()
    }
}

/// Nothing says which key it is.
#[derive(Debug, thiserror::Error)]
#[error("{key} is no public key, and has no public file beside it")]
struct NoKeyError {
    key: String,
}

impl Coded for NoKeyError {
    fn code(&self) -> &'static str {
        "history.no-key"
    }
}
