//! Looking things up.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use evanesce_protocol::{Digest, PublicKey, WorkloadId};

use crate::attestation::Attested;
use crate::checkpoint::LedgerId;
use crate::dsse::Envelope;
use crate::life::{Lives, OpenWorkload};
use crate::row::{Event, Header, Loaded, ReceiptRow, Row, Signed};
use crate::segment::{LOCK, LineEnd, Segment, Walk, WalkError};
use crate::timestamp::Timestamp;

/// A ledger as it was at one moment. Needs no right to write, and keeps no one from appending.
///
/// Rows are read, not verified: [`crate::verify()`] says whether they are to be believed.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(crate) segments: Vec<(Segment, u64)>,
}

impl Reader {
    /// Notes which segments there are in `dir`, and how long each is.
    ///
    /// # Errors
    ///
    /// [`ReadError::None`] where there is no ledger, [`ReadError::Io`] where it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        let io = |source| ReadError::Io { path: dir.to_owned(), source };
        // A writer holds this lock while it closes a torn row. Without it there is no writer.
        let lock = match File::open(dir.join(LOCK)) {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(error)),
        };
        if let Some(lock) = &lock {
            lock.lock_shared().map_err(io)?;
        }
        let segments = match Segment::list(dir) {
            Ok(segments) if !segments.is_empty() => segments,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            Ok(_) | Err(_) => {
                return Err(ReadError::None { dir: dir.to_owned() });
            }
        };
        let measure = |segment: Segment| {
            let bytes =
                std::fs::metadata(&segment.path).map_err(|source| segment.unread(source))?;
            Ok((segment, bytes.len()))
        };
        Ok(Self { segments: segments.into_iter().map(measure).collect::<Result<_, ReadError>>()? })
    }

    /// The id in the first row.
    ///
    /// # Errors
    ///
    /// [`ReadError`], also where the first row is not the one that a ledger begins with.
    pub fn ledger_id(&self) -> Result<LedgerId, ReadError> {
        match self.rows().next() {
            Some(Ok(Row { event: Event::Opened(opened), .. })) => Ok(opened.ledger),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => Err(self.segments[0].0.bad_row(1)),
        }
    }

    /// All rows, oldest first.
    pub fn rows(&self) -> Rows<'_> {
        self.rows_from(1)
    }

    /// The rows from number `seq` on.
    pub fn rows_from(&self, seq: u64) -> Rows<'_> {
        let after = self.segments.partition_point(|(segment, _)| segment.first <= seq);
        Rows { from: seq, lines: LineWalk::new(&self.segments[after.saturating_sub(1)..]) }
    }

    /// The newest `count` rows, oldest first.
    ///
    /// # Errors
    ///
    /// [`ReadError`] where a segment cannot be read or a line is no row.
    pub fn last(&self, count: usize) -> Result<Vec<Row>, ReadError> {
        let mut newest: VecDeque<Row> = VecDeque::new();
        for at in (0..self.segments.len()).rev() {
            let missing = count - newest.len();
            if missing == 0 {
                break;
            }
            let mut walk = LineWalk::new(&self.segments[at..=at]);
            let mut texts: VecDeque<(u64, String)> = VecDeque::new();
            while let Some(line) = walk.next_line()? {
                if texts.len() == missing {
                    texts.pop_front();
                }
                texts.push_back((line.number, line.text.to_owned()));
            }
            for (number, text) in texts.iter().rev() {
                let line = Line { segment: &self.segments[at].0, number: *number, text };
                newest.push_front(line.row()?);
            }
        }
        Ok(newest.into())
    }

    /// The newest receipt of a workload.
    ///
    /// # Errors
    ///
    /// [`ReadError`] where a segment cannot be read or a line is no row.
    pub fn receipt_of(&self, workload: &WorkloadId) -> Result<Option<FoundReceipt>, ReadError> {
        let mut found = None;
        let mut walk = LineWalk::new(&self.segments);
        while let Some(line) = walk.next_line()? {
            let header = line.header()?;
            if header.event == "receipt" && header.workload == Some(workload.as_str()) {
                let ReceiptRow { envelope } = line.event()?;
                found = Some(FoundReceipt { row: header.seq, at: header.at, envelope });
            }
        }
        Ok(found)
    }

    /// The newest evidence that was collected for a key.
    ///
    /// # Errors
    ///
    /// [`ReadError`] where a segment cannot be read or a line is no row.
    pub fn attested_of(&self, key: &PublicKey) -> Result<Option<Attested>, ReadError> {
        let (mut holder, mut found) = (None, None);
        let mut walk = LineWalk::new(&self.segments);
        while let Some(line) = walk.next_line()? {
            let header = line.header()?;
            // Evidence stands in the rows that are appended together with `loaded`, or after it.
            match (header.event, header.workload) {
                ("loaded", workload) if line.event::<Loaded>()?.public_key == *key => {
                    holder = workload.map(str::to_owned);
                }
                ("attested", Some(workload)) if holder.as_deref() == Some(workload) => {
                    found = Some(line.event()?);
                }
                ("receipt", workload) if holder.as_deref() == workload => holder = None,
                _ => {}
            }
        }
        Ok(found)
    }

    /// The row with this digest: its number, and when it was appended.
    ///
    /// # Errors
    ///
    /// [`ReadError`] where a segment cannot be read or a line is no row.
    pub fn place_of(&self, digest: &Digest) -> Result<Option<(u64, Timestamp)>, ReadError> {
        let mut walk = LineWalk::new(&self.segments);
        while let Some(line) = walk.next_line()? {
            if Digest::of(line.text.as_bytes()) == *digest {
                let header = line.header()?;
                return Ok(Some((header.seq, header.at)));
            }
        }
        Ok(None)
    }

    /// The workloads that were started and have no receipt, by id.
    ///
    /// # Errors
    ///
    /// [`ReadError`] where a segment cannot be read, a line is no row or tells an impossible life.
    pub fn open_workloads(&self) -> Result<Vec<OpenWorkload>, ReadError> {
        let ledger = self.ledger_id()?;
        let mut lives = Lives::default();
        let mut walk = LineWalk::new(&self.segments);
        while let Some(line) = walk.next_line()? {
            let header = line.header()?;
            let followed =
                lives.follow(&header, line.text, Digest::of(line.text.as_bytes()), ledger);
            followed.map_err(|_| line.bad())?;
        }
        Ok(lives.into_open().collect())
    }

    /// Who signed `request` with `key`, oldest first: `request` as
    /// [`evanesce_protocol::commitment`] names what was signed.
    ///
    /// # Errors
    ///
    /// [`ReadError`] where a segment cannot be read or a line is no row.
    pub fn signatures_of(
        &self,
        key: &PublicKey,
        request: &Digest,
    ) -> Result<Vec<SignedMatch>, ReadError> {
        let mut holder: Option<WorkloadId> = None;
        let mut matches: Vec<SignedMatch> = Vec::new();
        let mut walk = LineWalk::new(&self.segments);
        while let Some(line) = walk.next_line()? {
            let header = line.header()?;
            let Some(workload) = header.workload else {
                continue;
            };
            let holds = holder.as_ref().is_some_and(|holder| holder.as_str() == workload);
            match header.event {
                "loaded" if line.event::<Loaded>()?.public_key == *key => {
                    holder = Some(workload.parse().map_err(|_| line.bad())?);
                }
                "signed" if holds => {
                    let signed: Signed = line.event()?;
                    let positions = signed.requests.iter().zip(signed.first..);
                    let equal = positions.filter(|(signed, _)| *signed == request);
                    matches.extend(equal.map(|(_, number)| SignedMatch {
                        workload: workload.parse().expect("the holder's id was parsed before"),
                        row: header.seq,
                        number,
                        at: header.at,
                        receipt: None,
                    }));
                }
                "receipt" if holds => {
                    let ReceiptRow { envelope } = line.event()?;
                    let receipt = FoundReceipt { row: header.seq, at: header.at, envelope };
                    for found in matches.iter_mut().filter(|found| found.receipt.is_none()) {
                        found.receipt = Some(receipt.clone());
                    }
                    holder = None;
                }
                _ => {}
            }
        }
        Ok(matches)
    }
}

/// A receipt and where it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundReceipt {
    /// Its row.
    pub row: u64,
    /// When it was appended.
    pub at: Timestamp,
    /// The signed receipt; nothing of it is checked.
    pub envelope: Envelope,
}

/// A signature that a `signed` row tells of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignedMatch {
    /// The workload that held the key.
    pub workload: WorkloadId,
    /// The row.
    pub row: u64,
    /// The request's number among the key's: the first is 1.
    pub number: u64,
    /// When the row was appended.
    pub at: Timestamp,
    /// The workload's receipt; `None` while it has none.
    pub receipt: Option<FoundReceipt>,
}

/// An iterator over rows. Made by [`Reader::rows`].
#[derive(Debug)]
pub struct Rows<'a> {
    from: u64,
    lines: LineWalk<'a>,
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let row = match self.lines.next_line() {
                Ok(line) => line?.row(),
                Err(error) => Err(error),
            };
            match row {
                Ok(row) if row.seq < self.from => {}
                Ok(row) => return Some(Ok(row)),
                Err(error) => {
                    self.lines = LineWalk::new(&[]);
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Walks over the whole lines of segments; a torn last one is left out.
#[derive(Debug)]
struct LineWalk<'a>(Walk<'a>);

/// A line with what is needed to complain about it.
#[derive(Clone, Copy)]
struct Line<'a> {
    segment: &'a Segment,
    number: u64,
    text: &'a str,
}

impl<'a> LineWalk<'a> {
    const fn new(segments: &'a [(Segment, u64)]) -> Self {
        Self(Walk::new(segments))
    }

    fn next_line(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        let Some(position) = self.0.advance()? else {
            return Ok(None);
        };
        let (segment, number) = (self.0.segment(position), position.line);
        match (position.end, str::from_utf8(self.0.line())) {
            (LineEnd::Newline, Ok(text)) => Ok(Some(Line { segment, number, text })),
            (LineEnd::Torn, _) => Ok(None),
            _ => Err(segment.bad_row(number)),
        }
    }
}

impl Line<'_> {
    fn header(&self) -> Result<Header<'_>, ReadError> {
        Header::parse(self.text.as_bytes()).ok_or_else(|| self.bad())
    }

    fn row(&self) -> Result<Row, ReadError> {
        self.event()
    }

    fn event<T: serde::de::DeserializeOwned>(&self) -> Result<T, ReadError> {
        serde_json::from_str(self.text).map_err(|_| self.bad())
    }

    fn bad(&self) -> ReadError {
        self.segment.bad_row(self.number)
    }
}

impl Segment {
    pub(crate) fn bad_row(&self, line: u64) -> ReadError {
        ReadError::BadRow { path: self.path.clone(), line }
    }

    pub(crate) fn unread(&self, source: io::Error) -> ReadError {
        ReadError::Io { path: self.path.clone(), source }
    }
}

/// Why a ledger could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There is none.
    #[error("there is no ledger in {}", dir.display())]
    None {
        /// Where one was looked for.
        dir: PathBuf,
    },
    /// A file or directory could not be read.
    #[error("could not read {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A line is not a row, or cannot follow the ones before it.
    #[error("line {line} of {} is not a row that can stand there", path.display())]
    BadRow {
        /// The segment.
        path: PathBuf,
        /// The line; the first is 1.
        line: u64,
    },
}

impl From<WalkError> for ReadError {
    fn from(WalkError { path, source }: WalkError) -> Self {
        Self::Io { path, source }
    }
}

impl ReadError {
    /// A stable name for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::None { .. } => "ledger.none",
            Self::Io { .. } => "ledger.read",
            Self::BadRow { .. } => "ledger.bad-row",
        }
    }

    /// What the operator can do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::None { .. } => "run a workload first, or name its state with --state-dir",
            Self::Io { .. } => "see that the ledger belongs to this user",
            Self::BadRow { .. } => "run `evanesce audit verify` to see what is wrong with it",
        }
    }
}
