//! `log check`: hold the whole log to the ledger.

use std::io::{self, Write};
use std::path::PathBuf;

use evanesce_ledger::{Outcome, Verdict};
use evanesce_transparency::note::NOTE_BYTES_MAX;
use evanesce_transparency::{KeptFinding, LogFinding, Wrong, check};
use serde::Serialize;

use super::{Rendered, entries_text};
use crate::clock;
use crate::commands::audit;
use crate::context::Context;
use crate::errors::CommandError;
use crate::exit::Exit;
use crate::files;
use crate::local_log::{LocalLog, NoLogError};
use crate::receipt_text::counted;
use crate::trust;
use crate::ui::{BAD, FAINT, GOOD, UNSURE};

/// Check every entry, every tile and the checkpoint against the ledger, and the ledger itself
///
/// Exits 0 where everything holds, 1 where something does not, 2 where something could not be read,
/// and 3 where a notary signed that is not known here.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Hold the log to the checkpoint in FILE, from `log status --checkpoint`, kept elsewhere
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
}

pub(super) fn run(args: &CheckArgs, context: &Context<'_>) -> Result<CheckReport, CommandError> {
    let local = LocalLog::of(context)?;
    let kept = args.checkpoint.as_deref();
    let kept = kept.map(|path| files::read_small(path, NOTE_BYTES_MAX as u64)).transpose()?;
    let kept = kept.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let began = clock::now().unix_ms();
    let mut told = began;
    let mut progress = |entries| {
        let now = clock::now().unix_ms();
        if now - told >= PROGRESS_INTERVAL_MS {
            told = now;
            context.ui().say(&format!("{entries} entries checked"));
        }
    };
    let log = check(local.sources(), kept.as_deref(), &mut progress)?;
    let log = log.ok_or_else(|| NoLogError::new(local.directory().tiles()))?;
    let ledger = trust::audit(local.ledger(), local.keys(), None)?;
    let outcome = match (log.holds(), ledger.outcome) {
        (false, _) | (_, Outcome::Invalid) => Outcome::Invalid,
        (true, outcome) => outcome,
    };
    Ok(CheckReport { outcome, log, ledger })
}

/// What the log and the ledger are worth.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    outcome: Outcome,
    log: LogFinding,
    ledger: Verdict,
}

impl Rendered for CheckReport {
    fn exit(&self) -> Exit {
        audit::exit_of(self.outcome)
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let (style, word) = match self.log.holds() {
            true => (GOOD, "holds"),
            false => (BAD, "does not hold"),
        };
        let entries = entries_text(self.log.entries);
        writeln!(out, "log: {style}{word}{style:#}: {entries}, root {}", self.log.root)?;
        if let Some(wrong) = &self.log.wrong {
            writeln!(out, "wrong        {BAD}{}{BAD:#}", wrong_text(wrong))?;
        }
        if let Some(kept) = self.log.kept {
            writeln!(out, "kept         {}", kept_text(kept))?;
        } else {
            writeln!(out, "forks        {UNSURE}unknown{UNSURE:#}: no kept checkpoint was given")?;
        }
        if self.log.rows_after > 0 {
            let rows = counted(self.log.rows_after, "row");
            writeln!(out, "later        {FAINT}{rows} after the checkpoint{FAINT:#}")?;
        }
        audit::render_verdict(&self.ledger, out)
    }
}

fn wrong_text(wrong: &Wrong) -> String {
    match wrong {
        Wrong::Ledger { row } => format!("row {row} of the ledger is not the one that was signed"),
        Wrong::Tile { path } => format!("{} is not what the ledger makes of it", path.display()),
        Wrong::RowIndex { entry } => format!("the index does not know the row of entry {entry}"),
        Wrong::Root { entries, root } => {
            format!("the ledger makes {entries} entries with root {root}")
        }
        _ => "something this version does not know".into(),
    }
}

fn kept_text(kept: KeptFinding) -> String {
    match kept {
        KeptFinding::Holds => "the log begins with what the kept checkpoint signs".into(),
        KeptFinding::EntriesMissing { expected } => {
            format!("{BAD}entries were removed{BAD:#}: there were {expected}")
        }
        KeptFinding::OtherTree => format!("{BAD}the log has other entries now{BAD:#}"),
        KeptFinding::Unreadable => {
            format!("{BAD}not a checkpoint of this log by a notary that is known here{BAD:#}")
        }
        _ => "something this version does not know".into(),
    }
}

const PROGRESS_INTERVAL_MS: u64 = 1000;
