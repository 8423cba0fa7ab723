//! `log status`: how long the log is, who signed it, and what waits to be published.

use std::io::{self, Write};

use evanesce_ledger::{LedgerId, NotaryKeyId, Reader};
use evanesce_transparency::merkle::NodeHash;
use evanesce_transparency::note::verifier_key;
use evanesce_transparency::publish::OutboxStatus;
use serde::Serialize;

use super::{Rendered, entries_text};
use crate::context::Context;
use crate::errors::CommandError;
use crate::local_log::LocalLog;
use crate::ui::{FAINT, UNSURE};

/// Print how long the log is, who signed it, and what waits to be published
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Print the signed checkpoint and nothing else: a signed note, to be kept elsewhere
    #[arg(long)]
    checkpoint: bool,
}

pub(super) fn run(args: &StatusArgs, context: &Context<'_>) -> Result<StatusReport, CommandError> {
    let local = LocalLog::of(context)?;
    let log = local.open()?;
    let checkpoint = log.checkpoint();
    let newest = Reader::open(local.ledger())?.last(1)?.last().map_or(0, |row| row.seq);
    let outbox = local.outbox();
    let targets = outbox.targets()?;
    let targets = targets.iter().map(|name| outbox.status(name, checkpoint.size));
    Ok(StatusReport {
        origin: checkpoint.origin.to_string(),
        entries: checkpoint.size,
        root: checkpoint.root,
        ledger: checkpoint.ledger.id,
        rows: checkpoint.ledger.rows,
        rows_after: newest.saturating_sub(checkpoint.ledger.rows),
        signed_by: log.key().id(),
        verifier_key: verifier_key(&checkpoint.origin, log.key()),
        targets: targets.collect::<Result<_, _>>()?,
        checkpoint: log.note().to_owned(),
        only_checkpoint: args.checkpoint,
    })
}

/// The log in figures.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    origin: String,
    entries: u64,
    root: NodeHash,
    ledger: LedgerId,
    rows: u64,
    rows_after: u64,
    signed_by: NotaryKeyId,
    verifier_key: String,
    targets: Vec<OutboxStatus>,
    checkpoint: String,
    #[serde(skip)]
    only_checkpoint: bool,
}

impl Rendered for StatusReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.only_checkpoint {
            return out.write_all(self.checkpoint.as_bytes());
        }
        writeln!(out, "log           {}", self.origin)?;
        let (entries, rows) = (entries_text(self.entries), self.rows);
        writeln!(out, "entries       {entries}, of the first {rows} rows of the ledger")?;
        writeln!(out, "root          {}", self.root)?;
        writeln!(out, "signed by     {}", self.signed_by)?;
        writeln!(out, "verifier key  {FAINT}{}{FAINT:#}", self.verifier_key)?;
        for target in &self.targets {
            let waiting = &target.waiting;
            let published = target.published;
            write!(out, "published     {published} to {}", target.target)?;
            match waiting.entries {
                0 => writeln!(out)?,
                more => writeln!(out, ", {UNSURE}{more} waiting{UNSURE:#}")?,
            }
            if let Some(failure) = &waiting.failure {
                let (at, entry, message) = (failure.at, failure.entry, &failure.message);
                writeln!(out, "              {FAINT}{at}, entry {entry}: {message}{FAINT:#}")?;
            }
        }
        Ok(())
    }
}
