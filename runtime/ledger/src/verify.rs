//! The audit: one pass over all rows, in bounded memory.

use std::fmt;
use std::num::NonZero;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use evanesce_protocol::{Digest, WorkloadId};

use crate::checkpoint::{Checkpoint, LedgerId};
use crate::dsse::Envelope;
use crate::life::{Lives, Step, Wrong, read};
use crate::notary::{NotaryKey, NotaryKeyId, NotaryKeys, RotationError, Standing};
use crate::read::{ReadError, Reader};
use crate::release::{KeyRelease, Released};
use crate::report::FiledReport;
use crate::rotation::KeyRotation;
use crate::row::{
    CheckpointRow, ClosedTornRow, Header, KeyRotatedRow, NotaryRow, Opened, ROW_BYTES_MAX,
    ReportedRow, ShreddedRow, StatementRow, genesis,
};
use crate::segment::{LineEnd, Position, Segment, Walk};
use crate::shred::{LedgerHead, ShredReceipt};
use crate::statement::{Predicate as _, Statement, StatementError};
use crate::timestamp::Timestamp;

/// Warnings that a verdict lists.
const WARNINGS_MAX: usize = 100;

/// Open workloads that a verdict lists.
const OPEN_LISTED_MAX: usize = 1000;

/// Signatures that wait for a thread to check them.
const CHECKS_WAITING_MAX: usize = 64;

/// What a verifier brings along.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions<'a> {
    /// The notary keys that it trusts. Keys that these hand over to are followed.
    pub notary_keys: &'a [NotaryKey],
    /// A checkpoint that was exported earlier and kept elsewhere.
    pub checkpoint: Option<&'a Envelope>,
    /// Threads that check signatures beside the one that reads.
    pub signature_threads: NonZero<usize>,
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[must_use = "a verdict that nobody looks at proves nothing"]
pub struct Verdict {
    /// The whole in one word.
    pub outcome: Outcome,
    /// The ledger's id; absent if its first row is bad.
    pub ledger: Option<LedgerId>,
    /// How many segments it has.
    pub segments: u64,
    /// How many rows were read and stand in the chain.
    pub rows: u64,
    /// The digest of the last of them; absent where the row after it is bad and so says nothing.
    pub head: Option<Digest>,
    /// The first row that is not right.
    pub first_bad_row: Option<BadRow>,
    /// The signatures of receipts and checkpoints in the ledger.
    pub signatures: SignatureCounts,
    /// The newest row that one of the signatures that hold, or the given checkpoint, covers. Rows
    /// after it are chained, and signed by no one.
    pub signed_through: u64,
    /// What the given checkpoint shows; absent if none was given.
    pub checkpoint: Option<CheckpointFinding>,
    /// Whether newest rows may have been deleted.
    pub completeness: Completeness,
    /// Workloads that have no receipt, oldest first; at most a thousand are listed.
    pub open_workloads: Vec<StillOpen>,
    /// How many there are.
    pub open_workloads_count: u64,
    /// What is no error, and worth a look; at most a hundred are listed.
    pub warnings: Vec<Warning>,
    /// What this audit cannot tell.
    pub not_checked: Vec<NotChecked>,
}

/// The verdict in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything that was checked holds, by keys that the verifier trusts.
    Trusted,
    /// Something does not hold.
    Invalid,
    /// Nothing is wrong, and something was signed by a key that the verifier does not know.
    UnknownSigner,
}

/// A row that is not right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadRow {
    /// The segment's file name.
    pub segment: String,
    /// The line in it; the first is 1.
    pub line: u64,
    /// The sequence number that belongs there.
    pub seq: u64,
    /// The line's first byte in the segment.
    pub offset: u64,
    /// What is wrong.
    pub problem: Problem,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, line, seq, offset, problem, expected, found } = self;
        write!(
            f,
            "row {seq} (line {line} of {segment}, byte {offset}): {problem}: expected {expected}, found {found}"
        )
    }
}

/// What can be wrong with a row. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Problem {
    /// The line does not start as a row does.
    Header,
    /// The line is not UTF-8 or JSON, or lacks members that its event has.
    Parse,
    /// The line is longer than a row may be.
    TooLong,
    /// The segment ends in the middle of the line, and there is a later one.
    CutOff,
    /// The sequence number is not the next one: rows were deleted, added or swapped.
    Sequence,
    /// The row is not the one that the next row was chained to: one was changed.
    Chain,
    /// The segment's name or its first row is not the one that belongs there.
    Segment,
    /// An event of a workload's life does not name one.
    NoWorkload,
    /// The workload is open already.
    StartedTwice,
    /// The workload is not open: it was never started, or has its receipt.
    NotStarted,
    /// The workload has a key already.
    LoadedTwice,
    /// The workload has no key.
    NoKey,
    /// There are too many workloads without a receipt to follow.
    TooManyOpen,
    /// The requests are not the next ones.
    Requests,
    /// The receipt does not say what the rows say.
    Receipt,
    /// The report does not say what its steps and the rows say.
    Report,
    /// The signature does not hold.
    Signature,
    /// The key that signed had handed over to another before.
    RetiredSigner,
    /// The checkpoint does not say what the rows say.
    Checkpoint,
    /// The notary's key and its name do not belong together, or it is not the successor.
    Notary,
    /// The rotation is of another ledger, or one of its two keys did not sign it.
    Rotation,
    /// The release does not say what the rows say, or the key that was received is not the one that
    /// was loaded.
    Release,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// How many signatures were found to be what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SignatureCounts {
    /// They hold, by keys that are trusted.
    pub trusted: u64,
    /// They do not hold.
    pub invalid: u64,
    /// They are by keys that the verifier does not know, and were not checked.
    pub unknown_signer: u64,
}

/// What a checkpoint that was kept elsewhere shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CheckpointFinding {
    /// The ledger has the row that it names.
    Holds,
    /// The ledger is shorter: newest rows were deleted.
    RowsMissing {
        /// How many rows there were.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// The row that it names is another one: the ledger was rewritten.
    OtherHead,
    /// It is of another ledger.
    OtherLedger,
    /// Its signature does not hold, or it is not a checkpoint.
    Invalid,
    /// It is signed by a key that the verifier does not know; it shows nothing.
    UnknownSigner,
}

/// Whether newest rows may have been deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Completeness {
    /// There is no checkpoint to tell.
    Unknown,
    /// None up to this row.
    Through(u64),
}

/// A workload without a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StillOpen {
    /// The workload.
    pub workload: WorkloadId,
    /// Its `started` row.
    pub row: u64,
    /// When that was.
    pub started_at: Timestamp,
}

/// What is no error, and worth a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "warning")]
#[non_exhaustive]
pub enum Warning {
    /// The newest segment ends in the middle of a row, which never counted. The next writer
    /// closes it.
    TornTail {
        /// Its bytes.
        bytes: u64,
    },
    /// A writer died, and the next one dropped what it had left.
    ClosedTornRow {
        /// The row that says so.
        row: u64,
    },
    /// The ledger has no row yet: its maker died.
    NoRows,
    /// A row is older than the one before it: the clock was set back.
    TimeWentBack {
        /// The row.
        row: u64,
    },
    /// A notary key that no trusted key vouches for.
    UnknownNotary {
        /// The row.
        row: u64,
        /// The key.
        key: NotaryKeyId,
    },
}

/// What an audit cannot tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NotChecked {
    /// Whether newest rows were deleted: no checkpoint tells.
    Completeness,
    /// Signatures by keys that were not given.
    UnknownSigners,
    /// Rows after the last one that a signature covers: whoever can write the files can have
    /// written them.
    RowsAfterLastSignature,
    /// Rows after the first bad one.
    RowsAfterFirstBad,
    /// Times: they are the word of the machine that ran the workload.
    Times,
    /// What receipts say of a scrub: it is the word of the observers that they name.
    Scrubs,
}

impl fmt::Display for NotChecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completeness => "whether newest rows were deleted: give a checkpoint to tell",
            Self::UnknownSigners => "signatures by notary keys that were not given",
            Self::RowsAfterLastSignature => "who wrote the rows after the last signature",
            Self::RowsAfterFirstBad => "the rows after the first bad one",
            Self::Times => "times: they are the word of the machine that ran the workload",
            Self::Scrubs => "scrubs: they are the word of the observers that receipts name",
        })
    }
}

/// Audits the ledger in `dir`: the chain, each workload's life, and every signature.
///
/// # Errors
///
/// [`ReadError`] where there is no ledger or a file cannot be read. A ledger that can be read and
/// is wrong is a [`Verdict`].
pub fn verify(dir: &Path, options: &VerifyOptions<'_>) -> Result<Verdict, ReadError> {
    let reader = Reader::open(dir)?;
    let (send, waiting) = sync_channel(CHECKS_WAITING_MAX);
    let waiting = Mutex::new(waiting);
    thread::scope(|scope| {
        let checkers: Vec<_> = (0..options.signature_threads.get())
            .map(|_| scope.spawn(|| Tally::of_all(&waiting)))
            .collect();
        let mut audit = Audit::new(&reader.segments, options, send);
        let read = audit.read_all(&mut Walk::new(&reader.segments));
        // Dropping the sender, which `finish` does, ends the checkers.
        let (verdict, tally) = audit.finish();
        let tally = checkers.into_iter().fold(tally, |tally, checker| {
            tally.with(checker.join().expect("checking a signature does not panic"))
        });
        read?;
        Ok(verdict.conclude(tally))
    })
}

/// The members that every row has, each at most once: of two, another reader may take the other.
#[derive(Deserialize)]
#[expect(dead_code, reason = "that each can be read once is all that is asked")]
struct Once {
    seq: IgnoredAny,
    prev: IgnoredAny,
    at: IgnoredAny,
    #[serde(default)]
    workload: Option<IgnoredAny>,
    event: IgnoredAny,
}

/// One pass over the rows: what was seen so far.
struct Audit<'a> {
    segments: &'a [(Segment, u64)],
    keys: NotaryKeys,
    given: Option<GivenCheckpoint<'a>>,
    checks: SyncSender<Check>,
    tally: Tally,
    lives: Lives,
    verdict: Verdict,
    last_at: Timestamp,
    /// Where the row before is.
    before: Position,
}

/// The checkpoint that the verifier brought along.
struct GivenCheckpoint<'a> {
    envelope: &'a Envelope,
    /// What it says; `None` if it is no checkpoint.
    claim: Option<Checkpoint>,
    /// The digest of the row that it names, once that was read.
    digest: Option<Digest>,
}

/// How the pass goes on after a line.
enum Flow {
    /// With the next line.
    Next,
    /// Not at all: what follows a bad row cannot be told from what was added.
    Stop,
    /// The row is not chained to the one before it. The row after it tells which was changed: it
    /// holds the digest that this row had.
    BrokenLink {
        /// This row's digest, as it is.
        digest: Digest,
        /// What it says of the row before.
        prev: Digest,
    },
}

impl<'a> Audit<'a> {
    fn new(
        segments: &'a [(Segment, u64)],
        options: &VerifyOptions<'a>,
        checks: SyncSender<Check>,
    ) -> Self {
        let given = options.checkpoint.map(|envelope| {
            let statement = Statement::<Checkpoint>::parse_unverified(envelope);
            let claim = statement.ok().map(Statement::into_predicate);
            GivenCheckpoint { envelope, claim, digest: None }
        });
        Self {
            segments,
            keys: NotaryKeys::new(options.notary_keys.iter().cloned()),
            given,
            checks,
            tally: Tally::default(),
            lives: Lives::default(),
            verdict: Verdict::new(segments.len()),
            last_at: Timestamp::from_unix_ms(0),
            before: Position { segment: 0, line: 0, offset: 0, end: LineEnd::Newline },
        }
    }

    fn read_all(&mut self, walk: &mut Walk<'_>) -> Result<(), ReadError> {
        while let Some(position) = walk.advance()? {
            match self.line(position, walk.line()) {
                Flow::Next => {}
                Flow::Stop => return Ok(()),
                Flow::BrokenLink { digest, prev } => {
                    let after = walk.advance()?;
                    let after = after.and_then(|_| Header::parse(walk.line()));
                    self.broken_link(position, digest, prev, after.as_ref());
                    return Ok(());
                }
            }
        }
        self.skipped(self.segments.len());
        Ok(())
    }

    fn line(&mut self, position: Position, line: &[u8]) -> Flow {
        if position.line == 1 && !self.begins(position) {
            return Flow::Stop;
        }
        match position.end {
            LineEnd::Newline => {}
            LineEnd::Torn => {
                let bytes = self.segments[position.segment].1 - position.offset;
                self.verdict.warn(Warning::TornTail { bytes });
                return Flow::Stop;
            }
            LineEnd::Segment => return self.stop(position, Problem::CutOff, "a newline", "none"),
            LineEnd::TooLong => {
                let expected = format!("a newline within {ROW_BYTES_MAX} bytes");
                return self.stop(position, Problem::TooLong, expected, "none");
            }
        }
        let Some(header) = Header::parse(line) else {
            let start = String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]);
            return self.stop(position, Problem::Header, "{\"seq\":…,\"prev\":…,\"at\":…", start);
        };
        let seq = self.verdict.rows + 1;
        if header.seq != seq {
            return self.stop(position, Problem::Sequence, seq, header.seq);
        }
        let digest = Digest::of(line);
        if header.prev != self.head() {
            return Flow::BrokenLink { digest, prev: header.prev };
        }
        if header.at < self.last_at {
            self.verdict.warn(Warning::TimeWentBack { row: seq });
        }
        let followed = match str::from_utf8(line) {
            Ok(text) => self.event(position, &header, text, digest),
            Err(error) => Err(Wrong::new(Problem::Parse, "UTF-8", error)),
        };
        if let Err(wrong) = followed {
            let bad = self.bad(position, seq, wrong);
            self.tally.bad_row(bad);
        }
        self.last_at = header.at;
        self.before = position;
        self.verdict.rows = seq;
        self.verdict.head = Some(digest);
        if let Some(given) = &mut self.given
            && given.claim.as_ref().is_some_and(|claim| claim.rows == seq)
        {
            given.digest = Some(digest);
        }
        Flow::Next
    }

    /// Checks what a row says, once its place in the chain is right.
    fn event(
        &mut self,
        position: Position,
        header: &Header<'_>,
        line: &str,
        digest: Digest,
    ) -> Result<(), Wrong> {
        read::<Once>(line)?;
        let begins = match (header.seq, position.line) {
            (1, _) => Some("opened"),
            (_, 1) => Some("segment"),
            _ => None,
        };
        let found = header.event;
        if begins.is_some_and(|begins| begins != found) {
            return Err(Wrong::new(Problem::Segment, begins.unwrap_or_default(), found));
        }
        match found {
            "opened" | "segment" if begins.is_none() => {
                Err(Wrong::new(Problem::Segment, "another event", found))
            }
            "opened" => {
                self.verdict.ledger = Some(read::<Opened>(line)?.ledger);
                Ok(())
            }
            "notary" => self.notary(header.seq, &read(line)?),
            "checkpoint" => {
                let CheckpointRow { envelope } = read(line)?;
                self.checkpoint(&envelope, header.seq)?;
                self.check(position, header.seq, envelope, header.seq - 1)
            }
            "shredded" => {
                let ShreddedRow { envelope } = read(line)?;
                let covers = self.shredded(&envelope, header.seq)?;
                self.check(position, header.seq, envelope, covers)
            }
            "key-rotated" => {
                let KeyRotatedRow { envelope } = read(line)?;
                self.rotated(&envelope)?;
                self.check(position, header.seq, envelope, 0)
            }
            "statement" => {
                let StatementRow { envelope } = read(line)?;
                self.follow(header, line, digest)?;
                // What it says of files is for whoever has them; it says nothing of rows.
                self.check(position, header.seq, envelope, 0)
            }
            "released" => {
                let Released { envelope, .. } = read(line)?;
                let covers = self.released(&envelope, header.seq)?;
                self.check(position, header.seq, envelope, covers)
            }
            "reported" => {
                let ReportedRow { envelope } = read(line)?;
                let covers = self.reported(&envelope, header.seq)?;
                self.check(position, header.seq, envelope, covers)
            }
            "closed-torn-row" => {
                self.verdict.warn(Warning::ClosedTornRow { row: header.seq });
                read::<ClosedTornRow>(line).map(drop)
            }
            _ => match self.follow(header, line, digest)? {
                Step::Other => Ok(()),
                Step::Receipt { envelope, covers } => {
                    self.check(position, header.seq, envelope, covers)
                }
            },
        }
    }

    /// Follows the workload that a row is of.
    fn follow(&mut self, header: &Header<'_>, line: &str, digest: Digest) -> Result<Step, Wrong> {
        let Some(ledger) = self.verdict.ledger else {
            return Err(Wrong::new(Problem::Segment, "a ledger's id in row 1", "none"));
        };
        self.lives.follow(header, line, digest, ledger)
    }

    /// Takes note of a notary key, and trusts it if a trusted one hands over to it.
    fn notary(&mut self, row: u64, notary: &NotaryRow) -> Result<(), Wrong> {
        let key = notary.public_key.id();
        if key != notary.key_id {
            return Err(Wrong::new(Problem::Notary, key, notary.key_id));
        }
        if let (Some(rotation), Some(ledger)) = (&notary.rotation, self.verdict.ledger) {
            match self.keys.rotate(rotation, &ledger, &notary.public_key) {
                Ok(()) | Err(RotationError::UnknownKey { .. }) => {}
                Err(error) => return Err(Wrong::new(Problem::Notary, "a rotation", error)),
            }
        }
        if self.keys.find(key).is_none() {
            self.verdict.warn(Warning::UnknownNotary { row, key });
        }
        Ok(())
    }

    /// Checks what a checkpoint in the ledger says of the row before it; returns that row.
    fn checkpoint(&self, envelope: &Envelope, seq: u64) -> Result<u64, Wrong> {
        let statement = Statement::<Checkpoint>::parse_unverified(envelope);
        let claim =
            statement.map_err(|error| Wrong::new(Problem::Checkpoint, "a checkpoint", error))?;
        let claim = claim.into_predicate();
        let named = LedgerHead { id: claim.ledger, last: claim.rows, head: claim.head };
        self.ends_before(named, seq, Problem::Checkpoint)
    }

    /// Checks that a statement names this ledger, up to the row before its own; returns that row.
    fn ends_before(&self, named: LedgerHead, seq: u64, problem: Problem) -> Result<u64, Wrong> {
        let LedgerHead { id, last, head } = named;
        let found = (Some(id), last, head);
        let expected = (self.verdict.ledger, seq - 1, self.head());
        match found == expected {
            true => Ok(last),
            false => {
                let [expected, found] = [expected, found].map(|text| format!("{text:?}"));
                Err(Wrong::new(problem, expected, found))
            }
        }
    }

    /// Checks that a shredded process's receipt is of this ledger and says no more than it counts;
    /// returns the row that its signature covers.
    fn shredded(&self, envelope: &Envelope, seq: u64) -> Result<u64, Wrong> {
        let statement = Statement::<ShredReceipt>::parse_unverified(envelope);
        let problem = |error: &StatementError| match error {
            // Not JSON at all, which no statement of any type would be.
            StatementError::Parse(error) if !error.is_data() => Problem::Parse,
            _ => Problem::Receipt,
        };
        let receipt = statement
            .map_err(|error| Wrong::new(problem(&error), ShredReceipt::TYPE, error))?
            .into_predicate();
        if !receipt.is_consistent() {
            let found = format!("{:?}", receipt.fate);
            return Err(Wrong::new(Problem::Receipt, "the fate that its counts allow", found));
        }
        self.ends_before(receipt.ledger, seq, Problem::Receipt)
    }

    /// Checks that a rotation is of this ledger, and that both of its keys signed it.
    fn rotated(&self, envelope: &Envelope) -> Result<(), Wrong> {
        let statement = Statement::<KeyRotation>::parse_unverified(envelope);
        let rotation = statement
            .map_err(|error| Wrong::new(Problem::Rotation, KeyRotation::TYPE, error))?
            .into_predicate();
        if Some(rotation.ledger) != self.verdict.ledger {
            return Err(Wrong::new(Problem::Rotation, "this ledger", rotation.ledger));
        }
        match rotation.missing_signature() {
            Some(key) => {
                Err(Wrong::new(Problem::Rotation, format!("a signature by {key}"), "none"))
            }
            None => Ok(()),
        }
    }

    /// Checks that a release is of this ledger; returns the row that its signature covers.
    fn released(&self, envelope: &Envelope, seq: u64) -> Result<u64, Wrong> {
        let statement = Statement::<KeyRelease>::parse_unverified(envelope);
        let release = statement
            .map_err(|error| Wrong::new(Problem::Release, KeyRelease::TYPE, error))?
            .into_predicate();
        self.ends_before(release.ledger, seq, Problem::Release)
    }

    /// Checks that the run of a playbook is of this ledger and says no more than its steps; returns
    /// the row that its signature covers.
    fn reported(&self, envelope: &Envelope, seq: u64) -> Result<u64, Wrong> {
        let statement = Statement::<FiledReport>::parse_unverified(envelope);
        let report = statement
            .map_err(|error| Wrong::new(Problem::Report, FiledReport::TYPE, error))?
            .into_predicate();
        if !report.is_consistent() {
            let found = format!("{:?}", report.outcome);
            return Err(Wrong::new(Problem::Report, "the outcome that its steps allow", found));
        }
        self.ends_before(report.ledger, seq, Problem::Report)
    }

    /// Has a signature checked, if its key is known.
    fn check(
        &mut self,
        position: Position,
        seq: u64,
        envelope: Envelope,
        covers: u64,
    ) -> Result<(), Wrong> {
        let id = envelope.key_id();
        match self.keys.find(id) {
            None => self.tally.counts.unknown_signer += 1,
            Some((_, Standing::Retired)) => {
                self.tally.counts.invalid += 1;
                return Err(Wrong::new(Problem::RetiredSigner, "a key that may sign", id));
            }
            Some((key, Standing::Current)) => {
                let key = key.clone();
                let wrong = Wrong::new(Problem::Signature, format!("a signature by {id}"), "none");
                let if_bad = self.bad(position, seq, wrong);
                let check = Check { envelope, key, covers, if_bad };
                self.checks.send(check).expect("checkers wait until the sender is dropped");
            }
        }
        Ok(())
    }

    /// Whether the segment of `position`, a first line, is the one that belongs there.
    fn begins(&mut self, position: Position) -> bool {
        if !self.skipped(position.segment) {
            return false;
        }
        let (segment, next) = (&self.segments[position.segment].0, self.verdict.rows + 1);
        if segment.first != next {
            let expected = Segment::new(Path::new(""), next).name();
            self.stop(position, Problem::Segment, expected, segment.name());
            return false;
        }
        true
    }

    /// Checks the segments without a row before segment `end`. Only the newest may have none: its
    /// writer died before the first.
    fn skipped(&mut self, end: usize) -> bool {
        let next = self.verdict.rows + 1;
        let first = self.before.segment + usize::from(self.before.line > 0);
        for at in first..end {
            let segment = &self.segments[at].0;
            if segment.first != next || at + 1 != self.segments.len() {
                let position = Position { segment: at, line: 1, offset: 0, end: LineEnd::Segment };
                self.stop(position, Problem::Segment, format!("row {next}"), segment.name());
                return false;
            }
        }
        true
    }

    /// Says which of two rows was changed that are not linked: the one before `position`, unless
    /// the row after shows that the one at `position` is not what it was.
    fn broken_link(
        &mut self,
        position: Position,
        digest: Digest,
        prev: Digest,
        after: Option<&Header<'_>>,
    ) {
        let seq = self.verdict.rows + 1;
        let as_chained = match (after, self.claimed_digest(seq)) {
            (Some(after), _) => Some(after.prev),
            (None, claimed) => claimed,
        };
        match (seq, as_chained) {
            // The first row has nothing before it.
            (1, _) => {
                self.stop(position, Problem::Chain, genesis(), prev);
            }
            (_, Some(expected)) if expected != digest => {
                self.stop(position, Problem::Chain, expected, digest);
            }
            _ => {
                let head = self.head();
                (self.verdict.rows, self.verdict.head) = (seq - 2, None);
                let wrong = Wrong::new(Problem::Chain, prev, head);
                let bad = self.bad(self.before, seq - 1, wrong);
                self.tally.bad_row(bad);
            }
        }
    }

    /// The digest that the given checkpoint has for row `seq`.
    fn claimed_digest(&self, seq: u64) -> Option<Digest> {
        let claim = self.given.as_ref()?.claim.as_ref()?;
        (claim.rows == seq).then_some(claim.head)
    }

    /// The digest of the row before.
    fn head(&self) -> Digest {
        self.verdict.head.unwrap_or_else(genesis)
    }

    fn stop(
        &mut self,
        position: Position,
        problem: Problem,
        expected: impl ToString,
        found: impl ToString,
    ) -> Flow {
        let wrong = Wrong::new(problem, expected, found);
        let bad = self.bad(position, self.verdict.rows + 1, wrong);
        self.tally.bad_row(bad);
        Flow::Stop
    }

    fn bad(&self, position: Position, seq: u64, wrong: Wrong) -> BadRow {
        let Wrong { problem, expected, found } = wrong;
        BadRow {
            segment: self.segments[position.segment].0.name(),
            line: position.line,
            seq,
            offset: position.offset,
            problem,
            expected,
            found,
        }
    }

    fn finish(mut self) -> (Verdict, Tally) {
        if let Some(given) = &self.given {
            self.verdict.checkpoint = Some(self.given_finding(given));
            if let (Some(CheckpointFinding::Holds), Some(claim)) =
                (self.verdict.checkpoint, &given.claim)
            {
                self.verdict.completeness = Completeness::Through(claim.rows);
                self.tally.signed_through = claim.rows;
            }
        }
        self.verdict.list_open(&self.lives);
        (self.verdict, self.tally)
    }

    fn given_finding(&self, given: &GivenCheckpoint<'_>) -> CheckpointFinding {
        let Some((key, _)) = self.keys.find(given.envelope.key_id()) else {
            return CheckpointFinding::UnknownSigner;
        };
        let Ok(statement) = Statement::<Checkpoint>::open(given.envelope, key) else {
            return CheckpointFinding::Invalid;
        };
        let claim = statement.predicate();
        match given.digest {
            _ if self.verdict.ledger.is_some_and(|ledger| ledger != claim.ledger) => {
                CheckpointFinding::OtherLedger
            }
            None => {
                CheckpointFinding::RowsMissing { expected: claim.rows, found: self.verdict.rows }
            }
            Some(digest) if digest != claim.head => CheckpointFinding::OtherHead,
            Some(_) => CheckpointFinding::Holds,
        }
    }
}

impl Verdict {
    const fn new(segments: usize) -> Self {
        Self {
            outcome: Outcome::Invalid,
            ledger: None,
            segments: segments as u64,
            rows: 0,
            head: None,
            first_bad_row: None,
            signatures: SignatureCounts { trusted: 0, invalid: 0, unknown_signer: 0 },
            signed_through: 0,
            checkpoint: None,
            completeness: Completeness::Unknown,
            open_workloads: Vec::new(),
            open_workloads_count: 0,
            warnings: Vec::new(),
            not_checked: Vec::new(),
        }
    }

    fn warn(&mut self, warning: Warning) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(warning);
        }
    }

    fn list_open(&mut self, lives: &Lives) {
        self.open_workloads_count = lives.open().len() as u64;
        let mut open: Vec<_> = lives.open().collect();
        open.sort_by_key(|life| life.first);
        let list = open.into_iter().take(OPEN_LISTED_MAX).map(|life| StillOpen {
            workload: life.workload.clone(),
            row: life.first,
            started_at: life.started_at,
        });
        self.open_workloads = list.collect();
    }

    fn conclude(mut self, tally: Tally) -> Self {
        self.signatures = tally.counts;
        self.first_bad_row = tally.first_bad_row;
        self.signed_through = tally.signed_through;
        if self.rows == 0 && self.first_bad_row.is_none() {
            self.warn(Warning::NoRows);
        }
        let checkpoint_holds = matches!(
            self.checkpoint,
            None | Some(CheckpointFinding::Holds | CheckpointFinding::UnknownSigner)
        );
        let unknown = self.signatures.unknown_signer > 0
            || self.checkpoint == Some(CheckpointFinding::UnknownSigner);
        self.outcome = match (self.first_bad_row.is_none() && checkpoint_holds, unknown) {
            (false, _) => Outcome::Invalid,
            (true, false) if self.signed_through > 0 => Outcome::Trusted,
            (true, _) => Outcome::UnknownSigner,
        };
        let limits = [
            (self.completeness == Completeness::Unknown, NotChecked::Completeness),
            (unknown, NotChecked::UnknownSigners),
            (self.signed_through < self.rows, NotChecked::RowsAfterLastSignature),
            (self.first_bad_row.is_some(), NotChecked::RowsAfterFirstBad),
            (true, NotChecked::Times),
            (true, NotChecked::Scrubs),
        ];
        self.not_checked = limits.into_iter().filter_map(|(so, what)| so.then_some(what)).collect();
        self
    }
}

/// A signature to be checked.
struct Check {
    envelope: Envelope,
    key: NotaryKey,
    covers: u64,
    /// What to report if it does not hold.
    if_bad: BadRow,
}

/// What signatures were found to be, by one checker or all.
#[derive(Default)]
struct Tally {
    counts: SignatureCounts,
    signed_through: u64,
    first_bad_row: Option<BadRow>,
}

impl Tally {
    /// Checks what `waiting` brings until there is no more.
    fn of_all(waiting: &Mutex<Receiver<Check>>) -> Self {
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
        let mut tally = Self::default();
        while let Some(check) = next() {
            match check.envelope.verify(&check.key) {
                Ok(_) => {
                    tally.counts.trusted += 1;
                    tally.signed_through = tally.signed_through.max(check.covers);
                }
                Err(_) => {
                    tally.counts.invalid += 1;
                    tally.bad_row(check.if_bad);
                }
            }
        }
        tally
    }

    fn with(mut self, other: Self) -> Self {
        self.counts.trusted += other.counts.trusted;
        self.counts.invalid += other.counts.invalid;
        self.counts.unknown_signer += other.counts.unknown_signer;
        self.signed_through = self.signed_through.max(other.signed_through);
        other.first_bad_row.into_iter().for_each(|bad| self.bad_row(bad));
        self
    }

    /// Keeps the earliest.
    fn bad_row(&mut self, bad: BadRow) {
        if self.first_bad_row.as_ref().is_none_or(|first| bad.seq < first.seq) {
            self.first_bad_row = Some(bad);
        }
    }
}

/// Bytes of a line that is no row which a verdict shows.
const SHOWN_BYTES: usize = 40;
