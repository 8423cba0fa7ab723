//! Segment files: how they are named, listed, and read from either end.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use evanesce_protocol::Digest;

use crate::append::BATCH_BYTES_MAX;
use crate::row::{Header, ROW_BYTES_MAX};

/// The file that writers lock, beside the segments.
pub(crate) const LOCK: &str = "lock";

/// One segment file. Its name is the sequence number of its first row, in twenty digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
}

impl Segment {
    pub(crate) fn new(dir: &Path, first: u64) -> Self {
        Self { first, path: dir.join(format!("{first:020}.jsonl")) }
    }

    /// The file's name.
    pub(crate) fn name(&self) -> String {
        format!("{:020}.jsonl", self.first)
    }

    /// Where a line begins that is not after row `seq`, as near to it as bisection comes. 0 where
    /// the lines do not tell.
    pub(crate) fn near(&self, bytes: u64, seq: u64) -> io::Result<u64> {
        let file = File::open(&self.path)?;
        let (mut low, mut high) = (0, bytes);
        while high - low > NEAR_BYTES {
            let middle = low + (high - low) / 2;
            let mut window = vec![0; 2 * ROW_BYTES_MAX];
            let read = file.read_at(&mut window, middle)?;
            let window = &window[..read];
            let Some(newline) = window.iter().position(|byte| *byte == b'\n') else {
                return Ok(low);
            };
            let start = middle + newline as u64 + 1;
            match Header::parse(&window[newline + 1..]) {
                _ if start >= high => high = middle,
                Some(header) if header.seq <= seq => low = start,
                Some(_) => high = middle,
                None => return Ok(low),
            }
        }
        Ok(low)
    }

    /// The segments in `dir`, oldest first; other files are left out.
    pub(crate) fn list(dir: &Path) -> io::Result<Vec<Self>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(".jsonl"));
            let number = digits.filter(|digits| digits.len() == 20).map(str::parse);
            if let Some(Ok(first)) = number {
                segments.push(Self::new(dir, first));
            }
        }
        segments.sort_by_key(|segment| segment.first);
        Ok(segments)
    }
}

/// How a segment ends.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Bytes up to the end of the last whole row.
    pub(crate) whole_bytes: u64,
    /// The last whole row.
    pub(crate) last: Option<LastRow>,
    /// What comes after it: nothing, or what a writer left that died.
    pub(crate) torn: Vec<u8>,
}

/// The row that the next one is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastRow {
    pub(crate) seq: u64,
    pub(crate) digest: Digest,
}

impl Tail {
    /// Reads the end of `file`, which has `bytes` bytes; never more than one batch and two rows.
    pub(crate) fn read(file: &File, bytes: u64) -> Result<Self, TailError> {
        let mut window_bytes = TAIL_WINDOW_BYTES;
        loop {
            let start = bytes.saturating_sub(window_bytes);
            let window_len = usize::try_from(bytes - start).expect("a window fits memory");
            let mut window = vec![0; window_len];
            file.read_exact_at(&mut window, start)?;
            match Self::find(&window, start) {
                Some(tail) => return tail,
                None if start > 0 && window_bytes < TAIL_WINDOW_BYTES_MAX => window_bytes *= 2,
                None => return Err(TailError::Damaged { offset: start }),
            }
        }
    }

    /// Finds the last whole row in `window`, which starts at `start`; `None` if it is further up.
    fn find(window: &[u8], start: u64) -> Option<Result<Self, TailError>> {
        let mut end = window.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        loop {
            if end == 0 {
                let torn = window.to_vec();
                return (start == 0).then_some(Ok(Self { whole_bytes: 0, last: None, torn }));
            }
            let newline_before = window[..end - 1].iter().rposition(|byte| *byte == b'\n');
            let line_start = match newline_before {
                Some(at) => at + 1,
                None if start == 0 => 0,
                None => return None,
            };
            let line = &window[line_start..end - 1];
            if is_torn(line) {
                end = line_start;
                continue;
            }
            let offset = start + line_start as u64;
            return Some(match Header::parse(line) {
                None => Err(TailError::Damaged { offset }),
                Some(header) => Ok(Self {
                    whole_bytes: start + end as u64,
                    last: Some(LastRow { seq: header.seq, digest: Digest::of(line) }),
                    torn: window[end..].to_vec(),
                }),
            });
        }
    }
}

/// Whether a line at the very end is one that a writer did not finish: a block of a file that the
/// disk never got reads as zeros, which no JSON text has.
pub(crate) fn is_torn(line: &[u8]) -> bool {
    line.contains(&0)
}

/// Why the end of a segment cannot be built on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TailError {
    #[error("could not read the end of the segment")]
    Read(#[from] io::Error),
    /// The last line is whole, and not a row.
    #[error("the last line, at byte {offset}, is not a row")]
    Damaged { offset: u64 },
}

/// Walks over the lines of segments, up to the length each had when the walk began. Holds one line
/// at a time.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    segments: &'a [(Segment, u64)],
    input: Option<io::Take<BufReader<File>>>,
    next: Position,
    buffer: Vec<u8>,
}

/// Where a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Which of the segments.
    pub(crate) segment: usize,
    /// The first line of a segment is 1.
    pub(crate) line: u64,
    /// Its first byte in the segment.
    pub(crate) offset: u64,
    /// How it ends.
    pub(crate) end: LineEnd,
}

/// How a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineEnd {
    /// With a newline.
    Newline,
    /// It is what a writer left that died, at the end of the newest segment.
    Torn,
    /// With a segment that is followed by another.
    Segment,
    /// Not within [`ROW_BYTES_MAX`]: the line is cut off there, and nothing follows.
    TooLong,
}

/// A segment could not be read.
#[derive(Debug)]
pub(crate) struct WalkError {
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl<'a> Walk<'a> {
    pub(crate) const fn new(segments: &'a [(Segment, u64)]) -> Self {
        Self::from_offset(segments, 0)
    }

    /// Starts at byte `offset` of the first segment, where a line has to begin. Positions in that
    /// segment then count lines from there.
    pub(crate) const fn from_offset(segments: &'a [(Segment, u64)], offset: u64) -> Self {
        let next = Position { segment: 0, line: 1, offset, end: LineEnd::Newline };
        Self { segments, input: None, next, buffer: Vec::new() }
    }

    /// Goes to the next line.
    pub(crate) fn advance(&mut self) -> Result<Option<Position>, WalkError> {
        while let Some((segment, bytes)) = self.segments.get(self.next.segment) {
            let read = self.read(segment, *bytes);
            match read.map_err(|source| WalkError { path: segment.path.clone(), source })? {
                Some(position) => return Ok(Some(position)),
                None => {
                    let segment = self.next.segment + 1;
                    self.next = Position { segment, line: 1, offset: 0, end: LineEnd::Newline };
                    self.input = None;
                }
            }
        }
        self.buffer.clear();
        Ok(None)
    }

    /// The line that the walk is at, without its newline.
    pub(crate) fn line(&self) -> &[u8] {
        &self.buffer
    }

    /// The segment of a position.
    pub(crate) fn segment(&self, position: Position) -> &'a Segment {
        &self.segments[position.segment].0
    }

    fn read(&mut self, segment: &Segment, bytes: u64) -> io::Result<Option<Position>> {
        let input = match &mut self.input {
            Some(input) => input,
            None => {
                let mut file = File::open(&segment.path)?;
                let offset = self.next.offset;
                file.seek(SeekFrom::Start(offset))?;
                let reader = BufReader::with_capacity(READ_BYTES, file);
                self.input.insert(reader.take(bytes.saturating_sub(offset)))
            }
        };
        self.buffer.clear();
        let read = input.take(ROW_BYTES_MAX as u64).read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(None);
        }
        let newest = self.next.segment + 1 == self.segments.len();
        let end = match self.buffer.pop_if(|byte| *byte == b'\n') {
            Some(_) if newest && is_torn(&self.buffer) && input.fill_buf()?.is_empty() => {
                LineEnd::Torn
            }
            Some(_) => LineEnd::Newline,
            None if read == ROW_BYTES_MAX => LineEnd::TooLong,
            None if newest => LineEnd::Torn,
            None => LineEnd::Segment,
        };
        let position = Position { end, ..self.next };
        self.next.offset += read as u64;
        self.next.line += 1;
        if end == LineEnd::TooLong {
            self.segments = &self.segments[..=self.next.segment];
            self.next.segment += 1;
        }
        Ok(Some(position))
    }
}

const READ_BYTES: usize = 256 * 1024;

/// How near bisection comes to a row: reading on from there costs less than another step.
const NEAR_BYTES: u64 = 256 * 1024;
const TAIL_WINDOW_BYTES: u64 = 8 * 1024;
const TAIL_WINDOW_BYTES_MAX: u64 = 2 * BATCH_BYTES_MAX as u64;
