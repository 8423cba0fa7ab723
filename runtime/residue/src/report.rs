//! What a scan saw, what it could not see, and what it found.

use serde::Serialize;

/// What one or several scans saw and found. The same value is printed and written as JSON.
///
/// `bytes_scanned + bytes_absent + bytes_unreadable` is all there was to look at: a report without
/// hits says as much as its unreadable part is small.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[must_use = "a scan that nobody looks at proves nothing"]
pub struct ScanReport {
    /// Bytes that were read and searched.
    pub bytes_scanned: u64,
    /// Bytes that hold nothing: holes of sparse files, and pages of private anonymous memory that
    /// were never touched.
    pub bytes_absent: u64,
    /// Bytes in [`ScanReport::unreadable`], as far as their number is known.
    pub bytes_unreadable: u64,
    /// What was scanned, in order.
    pub sources: Vec<Source>,
    /// What could not be read. Never left out, however long.
    pub unreadable: Vec<Unreadable>,
    /// Runs of key bytes that were found, the unlisted ones included.
    pub hits_total: u64,
    /// Fragments in those runs: what a table of "windows found" counts.
    pub fragments_found: u64,
    /// The first [`ScanReport::HITS_LISTED_MAX`] runs.
    pub hits: Vec<Hit>,
}

impl ScanReport {
    /// Runs that are listed one by one; further ones are counted.
    pub const HITS_LISTED_MAX: usize = 1024;

    /// Adds what another scan saw and found.
    pub fn merge(&mut self, other: Self) {
        self.bytes_scanned += other.bytes_scanned;
        self.bytes_absent += other.bytes_absent;
        self.bytes_unreadable += other.bytes_unreadable;
        self.sources.extend(other.sources);
        self.unreadable.extend(other.unreadable);
        self.hits_total += other.hits_total;
        self.fragments_found += other.fragments_found;
        let room = Self::HITS_LISTED_MAX.saturating_sub(self.hits.len());
        self.hits.extend(other.hits.into_iter().take(room));
    }

    /// Whether something was read and nothing of the key was in it. What could not be read is
    /// for the caller to judge.
    pub const fn found_nothing(&self) -> bool {
        self.bytes_scanned > 0 && self.hits_total == 0
    }

    pub(crate) fn record(&mut self, hit: Hit) {
        self.hits_total += 1;
        self.fragments_found += u64::from(hit.fragments);
        if self.hits.len() < Self::HITS_LISTED_MAX {
            self.hits.push(hit);
        }
    }
}

/// One thing that was scanned: a process, a file, a device, a directory with all below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    /// `process 4711`, a path, or the name the caller gave.
    pub name: String,
    /// Mappings of a process, files below a directory, otherwise 1.
    pub parts: u64,
    /// Bytes of it that were read and searched.
    pub bytes_scanned: u64,
}

/// A stretch that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Which part of which source, with addresses or offsets in hexadecimal.
    pub what: String,
    /// What the kernel said.
    pub reason: String,
}

/// A run of bytes of one form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// The form's name ([`crate::Forms`] has the table).
    pub form: String,
    /// Where in the form the run starts, in bytes.
    pub form_offset: u32,
    /// Bytes in the run.
    pub bytes: u32,
    /// Fragments in the run.
    pub fragments: u32,
    /// The source's name.
    pub source: String,
    /// The mapping of a process (its line in `/proc/PID/maps`, shortened) or the file's path.
    pub place: String,
    /// The address in the process, or the offset in the file or device.
    pub offset: u64,
}

/// How far a scan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes scanned, absent or unreadable so far.
    pub bytes_done: u64,
    /// Bytes there are, where that is known before the end.
    pub bytes_total: Option<u64>,
}

/// A progress callback that does nothing.
pub fn unwatched() -> impl FnMut(Progress) {
    |_| {}
}
