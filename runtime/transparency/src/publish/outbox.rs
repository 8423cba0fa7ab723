//! What waits to be published, to which target, and what came of it.
//!
//! ```text
//! LOG/targets/NAME/signing_config.json, trusted_root.json   the target
//!                  lock                                      held by whoever publishes to it
//!                  published/000.json, x001/000.json …       an entry's places in the target's logs
//!                  cursor                                    all entries before this one are published
//!                  failure.json                              why the last try came to nothing
//! ```
//!
//! An entry waits until its file is there. The file is written after the answer was verified, so
//! that a process that is killed has at worst published what it does not know of; the log then says
//! that it has the entry already.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evanesce_ledger::{Envelope, NotaryKey, Reader, Timestamp};
use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, LogEntry, TimestampToken};
use crate::files::{self, FileError, Store};
use crate::publish::http::Http;
use crate::publish::rekor::{Item, SubmitError};
use crate::publish::target::{Target, TargetError, TargetFiles, TargetName};
use crate::publish::tsa;
use crate::reader::{LogDirectory, LogError, LogReader};

/// How often one request is tried before the entry is left for later.
pub const ATTEMPTS_MAX: u32 = 4;

/// The targets of a local log.
#[derive(Clone, Debug)]
pub struct Outbox {
    log: LogDirectory,
}

/// What a waiter says: see [`Outbox::publish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The time is over: go on.
    Over,
    /// Somebody wants this to end.
    Aborted,
}

/// What came of publishing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The target.
    pub target: TargetName,
    /// Entries that were published now.
    pub published: u64,
    /// Entries that still wait.
    pub waiting: u64,
    /// Why not all were published.
    pub stopped: Option<Stopped>,
}

/// Why publishing ended before the last entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// It was asked to.
    Aborted,
    /// A step failed.
    Failed(Failure),
}

/// Why an entry was not published, in words that are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The entry.
    pub entry: u64,
    /// When.
    pub at: Timestamp,
    /// The stable name of the error.
    pub code: String,
    /// The error with its causes, in one line.
    pub message: String,
}

/// How far a target is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutboxStatus {
    /// The target.
    pub target: TargetName,
    /// Entries that are published.
    pub published: u64,
    /// Entries that wait, the first of them, and what the last failure was.
    pub waiting: Waiting,
}

/// What waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// How many entries.
    pub entries: u64,
    /// The first of them.
    pub first: Option<u64>,
    /// Why the last try came to nothing; absent after one that did not.
    pub failure: Option<Failure>,
}

/// An entry's places in the logs of a target. Verified before it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedEntry {
    /// The row of the statement.
    pub row: u64,
    /// Its entries.
    pub entries: Vec<LogEntry>,
    /// Tokens over its signature.
    pub timestamps: Vec<TimestampToken>,
}

/// What publishing is given.
#[derive(Clone, Copy)]
struct Job<'a> {
    target: &'a Target,
    http: &'a Http,
    keys: &'a [NotaryKey],
}

impl Outbox {
    /// The targets of `log`.
    pub const fn new(log: LogDirectory) -> Self {
        Self { log }
    }

    /// Adds a target: from now on every entry, from the first, waits until it is published there.
    ///
    /// # Errors
    ///
    /// [`TargetError`].
    pub fn add(&self, name: &TargetName, files: &TargetFiles) -> Result<(), TargetError> {
        if TargetFiles::read(&self.directory(name))?.is_some() {
            return Err(TargetError::Exists { name: name.clone() });
        }
        let mut store = Store::new(self.log.path());
        Ok(files.write(&mut store, &format!("{TARGETS}/{name}"))?)
    }

    /// Forgets a target, and what was published there.
    ///
    /// # Errors
    ///
    /// [`TargetError`].
    pub fn remove(&self, name: &TargetName) -> Result<(), TargetError> {
        self.files(name)?;
        let directory = self.directory(name);
        let removed = fs::remove_dir_all(&directory);
        Ok(removed.map_err(|source| FileError { path: directory, source })?)
    }

    /// The names of all targets, sorted.
    ///
    /// # Errors
    ///
    /// [`TargetError`].
    pub fn targets(&self) -> Result<Vec<TargetName>, TargetError> {
        let directory = self.log.path().join(TARGETS);
        let list = || -> io::Result<Vec<TargetName>> {
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let mut names = Vec::new();
            for entry in entries {
                names.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()));
            }
            names.sort();
            Ok(names)
        };
        Ok(list().map_err(|source| FileError { path: directory.clone(), source })?)
    }

    /// The files of a target.
    ///
    /// # Errors
    ///
    /// [`TargetError::None`] where there is no such target.
    pub fn files(&self, name: &TargetName) -> Result<TargetFiles, TargetError> {
        let files = TargetFiles::read(&self.directory(name))?;
        files.ok_or_else(|| TargetError::None { name: name.clone() })
    }

    /// How far a target is, in a log of `size` entries.
    ///
    /// # Errors
    ///
    /// [`OutboxError`].
    pub fn status(&self, name: &TargetName, size: u64) -> Result<OutboxStatus, OutboxError> {
        let directory = self.directory(name);
        let cursor = read_cursor(&directory)?.min(size);
        let is_waiting = |entry: &u64| !published_path(&directory, *entry).exists();
        let mut waiting = (cursor..size).filter(is_waiting);
        let first = waiting.next();
        let entries = u64::from(first.is_some()) + waiting.count() as u64;
        let failure = files::read(&directory.join(FAILURE), FAILURE_BYTES_MAX)?;
        let failure = failure.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let waiting = Waiting { entries, first, failure: failure.filter(|_| entries > 0) };
        Ok(OutboxStatus { target: name.clone(), published: size - entries, waiting })
    }

    /// An entry's places in the logs of a target; `None` where it is not published yet.
    ///
    /// # Errors
    ///
    /// [`OutboxError`].
    pub fn published(
        &self,
        name: &TargetName,
        entry: u64,
    ) -> Result<Option<PublishedEntry>, OutboxError> {
        let path = published_path(&self.directory(name), entry);
        let Some(bytes) = files::read(&path, PUBLISHED_BYTES_MAX)? else {
            return Ok(None);
        };
        let entry = serde_json::from_slice(&bytes);
        entry.map(Some).map_err(|_| OutboxError::Damaged { path })
    }

    /// Publishes what waits, oldest first. A server that is down or answers what does not hold ends
    /// this; an entry that it refuses is left, and the next one tried. `pause` waits between two
    /// tries, and says whether to go on.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] where the target, the log or the ledger cannot be used. What a server does is
    /// in the result.
    pub fn publish(
        &self,
        name: &TargetName,
        (log, ledger): (&LogReader, &Path),
        (http, now): (&Http, Timestamp),
        pause: &mut dyn FnMut(Duration) -> Pause,
    ) -> Result<Published, OutboxError> {
        let directory = self.directory(name);
        let files = self.files(name)?;
        let _lock = lock_now(&directory)?;
        let notaries = log.notaries()?;
        let target = Target::new(&files, &notaries)?;
        let keys: Vec<NotaryKey> = notaries.into_iter().map(|notary| notary.key).collect();
        let job = Job { target: &target, http, keys: &keys };
        let ledger = Reader::open(ledger).map_err(LogError::from)?;
        let mut store = Store::new(&directory);
        let mut outcome =
            Published { target: name.clone(), published: 0, waiting: 0, stopped: None };
        let mut refused = None;
        let size = log.checkpoint().size;
        for entry in read_cursor(&directory)?..size {
            if published_path(&directory, entry).exists() {
                continue;
            }
            if pause(Duration::ZERO) == Pause::Aborted {
                outcome.stopped = Some(Stopped::Aborted);
                break;
            }
            let row = log.row_of(entry)?;
            let envelope = envelope_of(&ledger, row)?;
            match job.publish(entry, row, &envelope, &mut store, pause)? {
                Tried::Published => outcome.published += 1,
                Tried::Aborted => {
                    outcome.stopped = Some(Stopped::Aborted);
                    break;
                }
                Tried::Failed(error) => {
                    let failure = Failure::of(entry, now, &error);
                    store.write(FAILURE, &serde_json::to_vec(&failure).expect("plain data"))?;
                    refused = Some(Stopped::Failed(failure));
                    if !error.is_of_entry() {
                        break;
                    }
                }
            }
        }
        outcome.stopped = outcome.stopped.or(refused);
        if outcome.stopped.is_none() {
            remove_if_there(&directory.join(FAILURE))?;
        }
        let status = self.status(name, size)?;
        let cursor = status.waiting.first.unwrap_or(size);
        store.write(CURSOR, cursor.to_string().as_bytes())?;
        store.settle()?;
        outcome.waiting = status.waiting.entries;
        Ok(outcome)
    }

    fn directory(&self, name: &TargetName) -> PathBuf {
        self.log.path().join(TARGETS).join(name.as_str())
    }
}

/// What came of one entry.
enum Tried {
    Published,
    Aborted,
    Failed(SubmitError),
}

impl Job<'_> {
    fn publish(
        self,
        entry: u64,
        row: u64,
        envelope: &Envelope,
        store: &mut Store,
        pause: &mut dyn FnMut(Duration) -> Pause,
    ) -> Result<Tried, OutboxError> {
        let key = self.keys.iter().find(|key| key.id() == envelope.key_id());
        let key = key.ok_or(OutboxError::NoKey { row })?;
        let mut wait = BACK_OFF;
        for attempt in 1.. {
            match self.submit(Item { envelope, key }, row) {
                Ok(published) => {
                    let name = published_name(entry);
                    store.write(&name, &serde_json::to_vec(&published).expect("plain data"))?;
                    store.settle()?;
                    return Ok(Tried::Published);
                }
                Err(error) if error.is_transient() && attempt < ATTEMPTS_MAX => {
                    if pause(wait) == Pause::Aborted {
                        return Ok(Tried::Aborted);
                    }
                    wait *= 2;
                }
                Err(error) => return Ok(Tried::Failed(error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Enters a statement in each log of the target, and verifies all that came back.
    fn submit(self, item: Item<'_>, row: u64) -> Result<PublishedEntry, SubmitError> {
        let mut entries = Vec::new();
        for server in &self.target.servers {
            let entry = server.submit(self.http, item)?;
            self.verify(server.url(), item.envelope, std::slice::from_ref(&entry), &[])?;
            entries.push(entry);
        }
        let mut timestamps = Vec::new();
        // A promise vouches for a time; without one an authority has to.
        if entries.iter().any(|entry| entry.inclusion_promise.is_none()) {
            let signature = item.envelope.signature().to_der();
            for authority in &self.target.timestamp_authorities {
                let token = tsa::stamp(self.http, authority, &signature)?;
                self.verify(authority, item.envelope, &entries, std::slice::from_ref(&token))?;
                timestamps.push(token);
            }
        }
        Ok(PublishedEntry { row, entries, timestamps })
    }

    fn verify(
        self,
        url: &str,
        envelope: &Envelope,
        entries: &[LogEntry],
        timestamps: &[TimestampToken],
    ) -> Result<(), SubmitError> {
        let bundle = Bundle::new(envelope, entries, timestamps).to_json();
        let held = self.target.verifier.verify_place(bundle.as_bytes());
        held.map_err(|reason| SubmitError::NotVerified { url: url.to_owned(), reason })
    }
}

impl Failure {
    fn of(entry: u64, at: Timestamp, error: &SubmitError) -> Self {
        Self { entry, at, code: error.code().into(), message: crate::verify::clauses(error) }
    }
}

/// The statement of a row.
fn envelope_of(ledger: &Reader, row: u64) -> Result<Envelope, OutboxError> {
    let mut rows = ledger.raw_rows_from(row).map_err(LogError::from)?;
    let found = rows.next_row().map_err(LogError::from)?;
    let envelope = found.filter(|found| found.seq == row).and_then(|found| found.envelope());
    envelope.ok_or(OutboxError::NoStatement { row })
}

/// Locks a target, or says that somebody else publishes to it.
fn lock_now(directory: &Path) -> Result<fs::File, OutboxError> {
    let path = directory.join("lock");
    let failed = |source| FileError { path: path.clone(), source };
    let file = fs::File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OutboxError::Busy),
        Err(fs::TryLockError::Error(source)) => Err(failed(source).into()),
    }
}

fn read_cursor(directory: &Path) -> Result<u64, FileError> {
    let bytes = files::read(&directory.join(CURSOR), CURSOR_BYTES_MAX)?;
    // Only a hint: without it all are looked for.
    let cursor = bytes.and_then(|bytes| str::from_utf8(&bytes).ok()?.parse().ok());
    Ok(cursor.unwrap_or(0))
}

fn remove_if_there(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError { path: path.to_owned(), source: error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn published_path(directory: &Path, entry: u64) -> PathBuf {
    directory.join(published_name(entry))
}

/// A thousand files in a directory.
fn published_name(entry: u64) -> String {
    format!("{PUBLISHED}/{:06}/{:03}.json", entry / 1000, entry % 1000)
}

/// Why publishing could not even be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The target cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file of the outbox cannot be used.
    #[error("the outbox cannot be used")]
    File(#[from] FileError),
    /// A file of the outbox does not hold what belongs there.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Another process publishes to this target.
    #[error("another process publishes to this target")]
    Busy,
    /// The ledger does not have the statement of an entry.
    #[error("row {row} of the ledger has no statement, and the log has an entry of it")]
    NoStatement {
        /// The row.
        row: u64,
    },
    /// The key of a statement is not known.
    #[error("the key of the statement in row {row} is not known")]
    NoKey {
        /// The row.
        row: u64,
    },
}

impl OutboxError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Target(error) => error.code(),
            Self::Log(error) => error.code(),
            Self::File(_) => "outbox.file",
            Self::Damaged { .. } => "outbox.damaged",
            Self::Busy => "outbox.busy",
            Self::NoStatement { .. } | Self::NoKey { .. } => "outbox.no-statement",
        }
    }
}

/// Before the second try; twice that before each later one.
const BACK_OFF: Duration = Duration::from_millis(500);

const TARGETS: &str = "targets";
const PUBLISHED: &str = "published";
const CURSOR: &str = "cursor";
const FAILURE: &str = "failure.json";

const CURSOR_BYTES_MAX: u64 = 20;
const FAILURE_BYTES_MAX: u64 = 64 * 1024;
const PUBLISHED_BYTES_MAX: u64 = 4 * 1024 * 1024;
