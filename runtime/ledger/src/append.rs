//! Appending: one lock, one write, one sync.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use evanesce_protocol::Digest;

use crate::checkpoint::LedgerId;
use crate::row::{ClosedTornRow, Event, NewRow, Opened, ROW_BYTES_MAX, Row, genesis};
use crate::segment::{LOCK, LastRow, LineEnd, Segment, Tail, TailError, Walk};
use crate::timestamp::Timestamp;

/// Bytes in one batch of rows.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Bytes after which a segment is followed by a new one, where nothing else is asked for.
pub const SEGMENT_BYTES_MAX_DEFAULT: u64 = 64 * 1024 * 1024;

/// A ledger that can be appended to.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    lock: File,
    id: LedgerId,
    segment_bytes_max: u64,
}

/// What a ledger is made of where there is none yet, and how it grows.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The id of a new ledger: random. Unused where there is a ledger.
    pub new_id: LedgerId,
    /// The time of a new ledger's first row.
    pub at: Timestamp,
    /// Bytes after which a segment is followed by a new one.
    pub segment_bytes_max: u64,
}

impl Setup {
    /// The usual setup.
    pub const fn new(new_id: LedgerId, at: Timestamp) -> Self {
        Self { new_id, at, segment_bytes_max: SEGMENT_BYTES_MAX_DEFAULT }
    }
}

/// Where a batch of rows was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The sequence number of the batch's first row.
    pub first: u64,
    /// Of its last row.
    pub last: u64,
    /// The digest of its last row.
    pub head: Digest,
}

impl Ledger {
    /// Opens the ledger in `dir`, or makes one there (directory 0700, files 0600).
    ///
    /// # Errors
    ///
    /// [`AppendError`], as for [`Ledger::append`].
    pub fn open(dir: &Path, setup: Setup) -> Result<Self, AppendError> {
        let at_dir = |source| AppendError::io(dir, source);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at_dir)?;
        let path = dir.join(LOCK);
        let options =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone();
        let lock = options.open(&path).map_err(|source| AppendError::io(&path, source))?;
        let segment_bytes_max = setup.segment_bytes_max;
        let mut ledger = Self { dir: dir.to_owned(), lock, id: setup.new_id, segment_bytes_max };
        let mut writer = ledger.lock()?;
        let id = match writer.ledger_id()? {
            Some(id) => id,
            None => {
                let opened = Event::Opened(Opened { ledger: setup.new_id, format: FORMAT });
                writer.append(&[NewRow::of_ledger(setup.at, opened)])?;
                setup.new_id
            }
        };
        drop(writer);
        ledger.id = id;
        Ok(ledger)
    }

    /// Appends `rows` as one batch: all of them or none. They count when this returns.
    ///
    /// Between the write and the sync other writers may append theirs, so that one sync of the
    /// disk serves many.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; its [`hint`](AppendError::hint) says what to do. Nothing was appended, but
    /// for [`AppendError::Sync`], after which the rows may or may not be there.
    pub fn append(&mut self, rows: &[NewRow]) -> Result<Appended, AppendError> {
        let written = self.lock()?.write(rows)?;
        written.sync()
    }

    /// Locks the ledger, for a decision that has to hold until its rows are appended. Keep it
    /// short: all other writers wait.
    ///
    /// # Errors
    ///
    /// [`AppendError::Io`] where the lock cannot be taken.
    pub fn lock(&mut self) -> Result<Writer<'_>, AppendError> {
        self.lock.lock().map_err(|source| AppendError::io(&self.dir.join(LOCK), source))?;
        Ok(Writer { ledger: self })
    }

    /// The ledger's id.
    pub const fn id(&self) -> LedgerId {
        self.id
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The ledger while no one else may append to it.
#[derive(Debug)]
pub struct Writer<'a> {
    ledger: &'a mut Ledger,
}

impl Writer<'_> {
    /// As [`Ledger::append`], with the lock held throughout.
    ///
    /// # Errors
    ///
    /// As [`Ledger::append`].
    pub fn append(&mut self, rows: &[NewRow]) -> Result<Appended, AppendError> {
        self.write(rows)?.sync()
    }

    /// Appends one row of the ledger's own that speaks of the row just before it: `event` is given
    /// that row's number and digest, whether it is there already or, because a segment begins or a
    /// torn row is closed, is written with this one.
    ///
    /// # Errors
    ///
    /// Those of [`Ledger::append`] and of `event`.
    pub fn append_after<E: From<AppendError>>(
        &mut self,
        at: Timestamp,
        event: impl FnOnce(u64, Digest) -> Result<Event, E>,
    ) -> Result<Appended, E> {
        let end = self.end()?;
        let place = self.place(&end)?;
        let mut batch = Batch::begin(&end, &place, at, &[])?;
        let event = event(batch.last_seq, batch.head)?;
        let first = batch.last_seq + 1;
        batch.push(&NewRow::of_ledger(at, event))?;
        Ok(self.put(place, &batch, first)?.sync()?)
    }

    /// The last row: what a checkpoint states. `None` where there is none yet.
    ///
    /// # Errors
    ///
    /// As [`Ledger::append`].
    pub fn head(&mut self) -> Result<Option<(u64, Digest)>, AppendError> {
        Ok(self.end()?.last.map(|last| (last.seq, last.digest)))
    }

    fn write(&mut self, rows: &[NewRow]) -> Result<Written, AppendError> {
        let time = rows.first().ok_or(AppendError::NoRows)?.at;
        let end = self.end()?;
        let place = self.place(&end)?;
        // A new ledger's first row goes first, whatever is to be closed after it.
        let (leading, others) = rows.split_at(usize::from(end.last.is_none()));
        let mut batch = Batch::begin(&end, &place, time, leading)?;
        let first = match leading.is_empty() {
            true => batch.last_seq + 1,
            false => 1,
        };
        others.iter().try_for_each(|row| batch.push(row))?;
        self.put(place, &batch, first)
    }

    /// Writes a batch, whose first row that was asked for is `first`.
    fn put(&self, place: Place, batch: &Batch, first: u64) -> Result<Written, AppendError> {
        if batch.bytes.len() > BATCH_BYTES_MAX {
            return Err(AppendError::BatchTooLong { found: batch.bytes.len() });
        }
        let path = place.segment.path;
        // The bytes go over a torn row before what is left of it is cut off: at no moment is it
        // gone without the row that says so.
        let put = |file: &File| {
            file.write_all_at(&batch.bytes, place.offset)?;
            file.set_len(place.offset + batch.bytes.len() as u64)
        };
        if let Err(source) = put(&place.file) {
            if place.torn.is_empty() {
                // Where even this fails, the next writer closes what is there as a torn row.
                place.file.set_len(place.offset).ok();
            }
            return Err(AppendError::io(&path, source));
        }
        if place.begins_segment {
            let synced = File::open(&self.ledger.dir).and_then(|dir| dir.sync_all());
            synced.map_err(|source| AppendError::Sync { path: path.clone(), source })?;
        }
        let appended = Appended { first, last: batch.last_seq, head: batch.head };
        Ok(Written { file: place.file, path, appended })
    }

    /// Finds the last row, and the newest segment with it.
    fn end(&self) -> Result<End, AppendError> {
        let dir = &self.ledger.dir;
        let mut segments = Segment::list(dir).map_err(|source| AppendError::io(dir, source))?;
        let Some(newest) = segments.pop() else {
            return Ok(End { newest: None, last: None });
        };
        let newest = Found::open(newest)?;
        let last = match (newest.tail.last, segments.pop()) {
            (Some(last), _) => Some(last),
            (None, None) => None,
            // The newest segment was made and nothing came of it.
            (None, Some(before)) => {
                let before = Found::open(before)?;
                match before.tail {
                    Tail { last: Some(last), torn, .. } if torn.is_empty() => Some(last),
                    tail => return Err(before.segment.damaged(tail.whole_bytes)),
                }
            }
        };
        let expected = last.map_or(1, |last| last.seq + 1);
        if newest.tail.last.is_none() && newest.segment.first != expected {
            return Err(newest.segment.damaged(0));
        }
        Ok(End { newest: Some(newest), last })
    }

    /// Decides where the next row goes.
    fn place(&self, end: &End) -> Result<Place, AppendError> {
        let next = end.last.map_or(1, |last| last.seq + 1);
        if let Some(newest) = &end.newest {
            let bytes = newest.tail.whole_bytes;
            let full = bytes > 0 && bytes >= self.ledger.segment_bytes_max;
            if !full || !newest.tail.torn.is_empty() {
                let segment = newest.segment.clone();
                let file = segment.open_to_write(OpenOptions::new().write(true))?;
                let offset = newest.tail.whole_bytes;
                let torn = newest.tail.torn.clone();
                return Ok(Place { segment, file, offset, torn, begins_segment: offset == 0 });
            }
            // No row of a new segment may outlive one of the segment before it.
            newest.file.sync_data().map_err(|source| AppendError::Sync {
                path: newest.segment.path.clone(),
                source,
            })?;
        }
        let segment = Segment::new(&self.ledger.dir, next);
        let file =
            segment.open_to_write(OpenOptions::new().write(true).create_new(true).mode(0o600))?;
        Ok(Place { segment, file, offset: 0, torn: Vec::new(), begins_segment: true })
    }

    /// The id in the ledger's first row.
    fn ledger_id(&self) -> Result<Option<LedgerId>, AppendError> {
        let dir = &self.ledger.dir;
        let segments = Segment::list(dir).map_err(|source| AppendError::io(dir, source))?;
        let Some(first) = segments.first() else {
            return Ok(None);
        };
        let only = [(first.clone(), u64::MAX)];
        let mut walk = Walk::new(&only);
        let position =
            walk.advance().map_err(|error| AppendError::io(&error.path, error.source))?;
        match position.map(|position| position.end) {
            Some(LineEnd::Newline) => match serde_json::from_slice(walk.line()) {
                Ok(Row { seq: 1, event: Event::Opened(opened), .. }) if opened.format == FORMAT => {
                    Ok(Some(opened.ledger))
                }
                _ => Err(first.damaged(0)),
            },
            // Whoever was making the ledger died before its first row was whole.
            None | Some(LineEnd::Torn) if segments.len() == 1 => Ok(None),
            _ => Err(first.damaged(0)),
        }
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        let unlocked = self.ledger.lock.unlock();
        debug_assert!(unlocked.is_ok(), "unlocking a file that this process locked cannot fail");
    }
}

/// Rows that are in the file, and not yet known to be on the disk.
#[must_use = "rows count only once they are synced"]
struct Written {
    file: File,
    path: PathBuf,
    appended: Appended,
}

impl Written {
    fn sync(self) -> Result<Appended, AppendError> {
        let path = self.path;
        self.file.sync_data().map_err(|source| AppendError::Sync { path, source })?;
        Ok(self.appended)
    }
}

/// The end of the ledger.
struct End {
    newest: Option<Found>,
    last: Option<LastRow>,
}

/// A segment and how it ends.
struct Found {
    segment: Segment,
    file: File,
    tail: Tail,
}

impl Found {
    fn open(segment: Segment) -> Result<Self, AppendError> {
        let io = |source| AppendError::io(&segment.path, source);
        let file = File::open(&segment.path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        match Tail::read(&file, bytes) {
            Ok(tail) => Ok(Self { segment, file, tail }),
            Err(TailError::Read(source)) => Err(io(source)),
            Err(TailError::Damaged { offset }) => Err(segment.damaged(offset)),
        }
    }
}

impl Segment {
    fn open_to_write(&self, options: &OpenOptions) -> Result<File, AppendError> {
        options.open(&self.path).map_err(|source| AppendError::io(&self.path, source))
    }

    fn damaged(&self, offset: u64) -> AppendError {
        AppendError::Damaged { path: self.path.clone(), offset }
    }
}

/// Where a batch goes.
struct Place {
    segment: Segment,
    file: File,
    offset: u64,
    torn: Vec<u8>,
    begins_segment: bool,
}

/// Lines that follow one another.
struct Batch {
    bytes: Vec<u8>,
    last_seq: u64,
    head: Digest,
}

impl Batch {
    /// What comes before the rows that were asked for: the row that begins a segment, the rows in
    /// `leading`, the row that closes a torn one.
    fn begin(
        end: &End,
        place: &Place,
        at: Timestamp,
        leading: &[NewRow],
    ) -> Result<Self, AppendError> {
        let mut batch = Self::after(end.last);
        if place.begins_segment && end.last.is_some() {
            batch.push(&NewRow::of_ledger(at, Event::Segment {}))?;
        }
        leading.iter().try_for_each(|row| batch.push(row))?;
        if !place.torn.is_empty() {
            let bytes = place.torn.len() as u64;
            let closed = ClosedTornRow { bytes, digest: Digest::of(&place.torn) };
            batch.push(&NewRow::of_ledger(at, Event::ClosedTornRow(closed)))?;
        }
        Ok(batch)
    }

    fn after(last: Option<LastRow>) -> Self {
        let (last_seq, head) = last.map_or_else(|| (0, genesis()), |last| (last.seq, last.digest));
        Self { bytes: Vec::new(), last_seq, head }
    }

    fn push(&mut self, row: &NewRow) -> Result<(), AppendError> {
        let seq = self.last_seq + 1;
        let line = row.encode(seq, self.head).map_err(AppendError::Encode)?;
        if line.len() >= ROW_BYTES_MAX {
            return Err(AppendError::RowTooLong { found: line.len() + 1 });
        }
        self.head = Digest::of(&line);
        self.last_seq = seq;
        self.bytes.extend_from_slice(&line);
        self.bytes.push(b'\n');
        Ok(())
    }
}

/// Why rows were not appended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// There is nothing to append.
    #[error("a batch has at least one row")]
    NoRows,
    /// A row of an event that this version does not know.
    #[error("the row cannot be written")]
    Encode(#[source] serde_json::Error),
    /// A row is longer than [`ROW_BYTES_MAX`].
    #[error("a row has at most {ROW_BYTES_MAX} bytes, this one has {found}")]
    RowTooLong {
        /// Its bytes.
        found: usize,
    },
    /// A batch is longer than [`BATCH_BYTES_MAX`].
    #[error("a batch has at most {BATCH_BYTES_MAX} bytes, this one has {found}")]
    BatchTooLong {
        /// Its bytes.
        found: usize,
    },
    /// The disk is full, or a quota or size limit is reached.
    #[error("there is no room left for {}", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The disk is mounted read-only, or the file may not be written.
    #[error("{} cannot be written", path.display())]
    NotWritable {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another step of reading or writing failed.
    #[error("could not use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The rows were written, and whether they are on the disk is not known.
    #[error("could not sync {}", path.display())]
    Sync {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The last line is whole and not a row, or a segment is missing: someone changed it.
    #[error("{} is damaged at byte {offset}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
}

impl AppendError {
    /// A stable name for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoRows => "ledger.no-rows",
            Self::Encode(_) => "ledger.encode",
            Self::RowTooLong { .. } => "ledger.row-too-long",
            Self::BatchTooLong { .. } => "ledger.batch-too-long",
            Self::NoSpace { .. } => "ledger.no-space",
            Self::NotWritable { .. } => "ledger.not-writable",
            Self::Io { .. } => "ledger.io",
            Self::Sync { .. } => "ledger.sync",
            Self::Damaged { .. } => "ledger.damaged",
        }
    }

    /// What the operator can do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::NoRows
            | Self::Encode(_)
            | Self::RowTooLong { .. }
            | Self::BatchTooLong { .. } => "this is a bug: please report it",
            Self::NoSpace { .. } => "make room on that disk; no row was lost and none was added",
            Self::NotWritable { .. } => {
                "make it writable for this user, or name another directory with --state-dir"
            }
            Self::Io { .. } => "see that the directory exists and belongs to this user",
            Self::Sync { .. } => {
                "the disk may be failing: check it, then run `evanesce audit verify`"
            }
            Self::Damaged { .. } => {
                "run `evanesce audit verify` to see which row; move the ledger aside to start a new one"
            }
        }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::NoSpace { path, source }
            }
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                Self::NotWritable { path, source }
            }
            _ => Self::Io { path, source },
        }
    }
}

/// The version of the format.
const FORMAT: u32 = 1;
