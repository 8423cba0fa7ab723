//! One scan under way: streams of bytes into one report.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use crate::index::{Index, PADDING, REACH, Run, STEP};
use crate::report::{Hit, Progress, ScanReport, Source, Unreadable};

/// The state of one scan of one source.
pub(crate) struct Pass<'a> {
    index: &'a Index,
    progress: &'a mut dyn FnMut(Progress),
    total: Option<u64>,
    buffer: Vec<u8>,
    report: ScanReport,
    source: Source,
}

impl<'a> Pass<'a> {
    pub(crate) fn over(
        index: &'a Index,
        source: String,
        total: Option<u64>,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        Self {
            index,
            progress,
            total,
            buffer: vec![0; CHUNK_BYTES + 2 * REACH + PADDING],
            report: ScanReport::default(),
            source: Source { name: source, parts: 0, bytes_scanned: 0 },
        }
    }

    pub(crate) fn done(mut self) -> ScanReport {
        self.source.bytes_scanned = self.report.bytes_scanned;
        self.report.sources.push(self.source);
        self.report
    }

    /// Counts one more mapping or file of the source.
    pub(crate) const fn next_part(&mut self) {
        self.source.parts += 1;
    }

    pub(crate) fn absent(&mut self, bytes: u64) {
        self.report.bytes_absent += bytes;
        self.tell();
    }

    pub(crate) fn unreadable(&mut self, what: String, bytes: u64, reason: &dyn ToString) {
        self.report.bytes_unreadable += bytes;
        self.report.unreadable.push(Unreadable { what, reason: reason.to_string() });
        self.tell();
    }

    /// Scans a stretch of a file or of a process's memory, page by page around what cannot be read.
    ///
    /// Ends early, without counting the rest, where the file does.
    pub(crate) fn range(&mut self, place: &str, file: &File, range: Range<u64>) {
        let mut position = range.start;
        let mut gap: Option<(Range<u64>, io::Error)> = None;
        while position < range.end {
            let start = position;
            let ended = self.stream(place, start, &mut |room| {
                let left = usize::try_from(range.end - position).unwrap_or(usize::MAX);
                let room_bytes = room.len().min(left);
                let count = file.read_at(&mut room[..room_bytes], position)?;
                position += count as u64;
                Ok(count)
            });
            if position > start {
                self.close(place, gap.take());
            }
            let Err(reason) = ended else { break };

            let page_end = (position / PAGE_BYTES).saturating_add(1).saturating_mul(PAGE_BYTES);
            let unread = position..page_end.min(range.end);
            position = unread.end;
            // Neighbouring pages that fail in the same way are one entry.
            gap = match gap.take() {
                Some((gap, first)) if first.raw_os_error() == reason.raw_os_error() => {
                    Some((gap.start..unread.end, first))
                }
                other => {
                    self.close(place, other);
                    (!unread.is_empty()).then_some((unread, reason))
                }
            };
        }
        self.close(place, gap);
    }

    /// Scans what `read` gives, to its end. The first byte is at `base` of `place`.
    ///
    /// What was read before an error has been scanned when the error is returned.
    pub(crate) fn stream(
        &mut self,
        place: &str,
        base: u64,
        read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        // The buffer holds REACH bytes that were searched, those to search, and REACH bytes to
        // look ahead into; the end only pads. All positions stay multiples of STEP.
        let room_end = self.buffer.len() - PADDING;
        let mut buffer_base = base;
        let mut from = 0;
        let mut filled = 0;
        let mut reported_until = HashMap::new();
        loop {
            let mut ended = None;
            while filled < room_end && ended.is_none() {
                match read(&mut self.buffer[filled..room_end]) {
                    Ok(0) => ended = Some(Ok(())),
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => ended = Some(Err(error)),
                }
            }
            let to = match ended {
                Some(_) => filled.next_multiple_of(STEP),
                None => filled - REACH,
            };
            let Self { index, buffer, report, source, .. } = self;
            buffer[filled..filled + PADDING].fill(0);
            index.search(buffer, filled, (from, to), &mut |run: Run| {
                let offset = buffer_base + run.start as u64;
                let until = reported_until.entry(run.form).or_insert(0);
                if offset >= *until {
                    *until = offset + run.bytes as u64;
                    report.record(Hit {
                        form: index.form(run.form).name().to_owned(),
                        form_offset: small(run.form_offset),
                        bytes: small(run.bytes),
                        fragments: small(run.fragments),
                        source: source.name.clone(),
                        place: place.to_owned(),
                        offset,
                    });
                }
            });
            self.report.bytes_scanned += (to.min(filled) - from) as u64;
            self.tell();
            if let Some(ended) = ended {
                return ended;
            }
            let kept = to - REACH;
            self.buffer.copy_within(kept..filled, 0);
            buffer_base += kept as u64;
            filled -= kept;
            from = REACH;
        }
    }

    fn close(&mut self, place: &str, gap: Option<(Range<u64>, io::Error)>) {
        if let Some((gap, reason)) = gap {
            let what = format!("{} {place}, {:#x}-{:#x}", self.source.name, gap.start, gap.end);
            self.unreadable(what, gap.end - gap.start, &reason);
        }
    }

    fn tell(&mut self) {
        let ScanReport { bytes_scanned, bytes_absent, bytes_unreadable, .. } = self.report;
        let bytes_done = bytes_scanned + bytes_absent + bytes_unreadable;
        (self.progress)(Progress { bytes_done, bytes_total: self.total });
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).expect("a form has at most 80 bytes")
}

/// Large enough that a read costs little for each byte, small enough to leave the second-level
/// cache to the index.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

const PAGE_BYTES: u64 = 4096;

const _: () = assert!(CHUNK_BYTES.is_multiple_of(STEP));
