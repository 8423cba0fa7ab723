//! The installation's local log, as commands use it.

use std::path::PathBuf;

use evanesce_launcher::{Launcher, NotaryError, NotarySession};
use evanesce_ledger::{Envelope, NotaryKey, Reader};
use evanesce_transparency::publish::{OutboxError, TargetName};
use evanesce_transparency::{
    Bundle, ExtendError, Extended, LogDirectory, LogError, LogReader, Outbox, Sources, extend,
};

use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::trust;

/// Where the log is, and whose checkpoints count.
#[derive(Debug)]
pub struct LocalLog {
    directory: LogDirectory,
    ledger: PathBuf,
    keys: Vec<NotaryKey>,
}

impl LocalLog {
    /// The log of this installation, which need not exist.
    ///
    /// # Errors
    ///
    /// Where there is no state directory, or the notary's public keys cannot be read.
    pub fn of(context: &Context<'_>) -> Result<Self, CommandError> {
        let keys = trust::own_notaries(&context.notary_dir()?)?;
        let directory = LogDirectory::new(&context.log_dir()?);
        Ok(Self { directory, ledger: context.ledger_dir()?, keys })
    }

    /// Grows the log by what the ledger has by now; `notary` signs.
    ///
    /// # Errors
    ///
    /// [`ExtendError`].
    pub fn extend_with(&self, notary: &mut NotarySession) -> Result<Extended, ExtendError> {
        extend(self.sources(), |text| notary.sign_log_checkpoint(text))
    }

    /// Grows the log by what the ledger has by now. The notary is started only if there is something
    /// to sign.
    ///
    /// # Errors
    ///
    /// [`ExtendError`].
    pub fn extend(&self, launcher: &Launcher) -> Result<Extended, ExtendError> {
        extend(self.sources(), |text| {
            let mut notary = launcher.notary().session()?;
            let signed = notary.sign_log_checkpoint(text)?;
            notary.close()?;
            Ok::<_, NotaryError>(signed)
        })
    }

    /// Opens the log.
    ///
    /// # Errors
    ///
    /// [`NoLogError`] where there is none yet, else [`LogError`].
    pub fn open(&self) -> Result<LogReader, CommandError> {
        let log = LogReader::open(&self.directory, &self.keys)?;
        Ok(log.ok_or_else(|| NoLogError { directory: self.directory.tiles() })?)
    }

    /// The log, if there is one.
    ///
    /// # Errors
    ///
    /// [`LogError`].
    pub fn open_if_there(&self) -> Result<Option<LogReader>, LogError> {
        LogReader::open(&self.directory, &self.keys)
    }

    /// The bundle of the statement in `row`, which has to be in the log.
    ///
    /// # Errors
    ///
    /// Where it is not, or the log cannot be read.
    pub fn bundle(
        &self,
        log: &mut LogReader,
        envelope: &Envelope,
        row: u64,
    ) -> Result<String, CommandError> {
        let index = log.index_of(row)?.ok_or(NoEntryOfRowError { row })?;
        let entries = [log.log_entry(index)?];
        Ok(Bundle::new(envelope, &entries, &[]).to_json())
    }

    /// The bundle of an entry, with its places in the logs of `target`, or in the local log.
    ///
    /// # Errors
    ///
    /// Where it is not there.
    pub fn bundle_of(
        &self,
        log: &mut LogReader,
        index: u64,
        target: Option<&TargetName>,
    ) -> Result<(Envelope, String), CommandError> {
        let row = log.row_of(index)?;
        let envelope = self.statement(row)?;
        let bundle = match target {
            None => self.bundle(log, &envelope, row)?,
            Some(name) => {
                let outbox = self.outbox();
                outbox.files(name)?;
                let published = outbox.published(name, index)?;
                let published = published
                    .ok_or_else(|| NotPublishedError { entry: index, target: name.clone() })?;
                Bundle::new(&envelope, &published.entries, &published.timestamps).to_json()
            }
        };
        Ok((envelope, bundle))
    }

    /// The statement of a row.
    fn statement(&self, row: u64) -> Result<Envelope, CommandError> {
        let ledger = Reader::open(&self.ledger)?;
        let mut rows = ledger.raw_rows_from(row)?;
        let found = rows.next_row()?.filter(|found| found.seq == row);
        let envelope = found.and_then(|found| found.envelope());
        Ok(envelope.ok_or(OutboxError::NoStatement { row })?)
    }

    /// Log, ledger and keys.
    pub fn sources(&self) -> Sources<'_> {
        Sources { log: &self.directory, ledger: &self.ledger, keys: &self.keys }
    }

    /// What waits to be published.
    pub fn outbox(&self) -> Outbox {
        Outbox::new(self.directory.clone())
    }

    /// The directory of the ledger.
    pub fn ledger(&self) -> &std::path::Path {
        &self.ledger
    }

    /// The files of the log.
    pub const fn directory(&self) -> &LogDirectory {
        &self.directory
    }

    /// The keys that the notary has and had.
    pub fn keys(&self) -> &[NotaryKey] {
        &self.keys
    }
}

/// Grows the log by what a command put in the ledger. Where that fails the next command does it, and
/// this one is none the worse: all of it is in the ledger.
pub fn grow(context: &Context<'_>, launcher: &Launcher) {
    grown(context, LocalLog::of(context).and_then(|log| Ok(log.extend(launcher)?)));
}

/// As [`grow`], with a notary that is at work already and is closed then.
pub fn grow_with(context: &Context<'_>, mut notary: NotarySession) {
    let extended = LocalLog::of(context).and_then(|log| {
        let extended = log.extend_with(&mut notary)?;
        notary.close()?;
        Ok(extended)
    });
    grown(context, extended);
}

fn grown(context: &Context<'_>, extended: Result<Extended, CommandError>) {
    if let Err(error) = extended {
        let clauses = error.clauses().join(": ");
        context.ui().say(&format!("evanesce: the log waits for the next command: {clauses}"));
    }
}

/// There is no log.
#[derive(Debug, thiserror::Error)]
#[error("there is no log in {}", directory.display())]
pub struct NoLogError {
    directory: PathBuf,
}

impl NoLogError {
    /// There is none in `directory`.
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }
}

impl Coded for NoLogError {
    fn code(&self) -> &'static str {
        "log.none"
    }
}

/// A row is not in the log.
#[derive(Debug, thiserror::Error)]
#[error("row {row} of the ledger has no entry in the log")]
pub struct NoEntryOfRowError {
    /// The row.
    pub row: u64,
}

impl Coded for NoEntryOfRowError {
    fn code(&self) -> &'static str {
        "log.no-entry-of-row"
    }
}

/// An entry is not published yet.
#[derive(Debug, thiserror::Error)]
#[error("entry {entry} is not published to {target} yet")]
struct NotPublishedError {
    entry: u64,
    target: TargetName,
}

impl Coded for NotPublishedError {
    fn code(&self) -> &'static str {
        "log.not-published"
    }
}
