//! One row: one line of JSON, chained to the one before it.

use serde::{Deserialize, Serialize};

use evanesce_protocol::{Digest, KeyOrigin, KeyUse, PublicKey, WorkloadId};

use crate::attestation::Attested;
use crate::checkpoint::LedgerId;
use crate::dsse::Envelope;
use crate::notary::{NotaryKey, NotaryKeyId};
use crate::receipt::Claim;
use crate::release::{Received, Released};
use crate::timestamp::Timestamp;

/// Bytes in one row, its newline included.
pub const ROW_BYTES_MAX: usize = 64 * 1024;

/// Request digests in one `signed` row.
pub const REQUESTS_PER_ROW_MAX: usize = 256;

/// What `prev` of the first row is computed from.
const GENESIS: &[u8] = b"evanesce ledger v1\0";

/// The `prev` of a ledger's first row: SHA-256 of `evanesce ledger v1` and a zero byte.
pub fn genesis() -> Digest {
    Digest::of(GENESIS)
}

/// A row to be appended; its place in the chain is given to it then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRow {
    /// When it happened.
    pub at: Timestamp,
    /// The workload it happened to; `None` for the ledger's own.
    pub workload: Option<WorkloadId>,
    /// What happened.
    pub event: Event,
}

impl NewRow {
    /// A row of a workload's life.
    pub const fn of_workload(at: Timestamp, workload: WorkloadId, event: Event) -> Self {
        Self { at, workload: Some(workload), event }
    }

    /// A row of the ledger's own.
    pub const fn of_ledger(at: Timestamp, event: Event) -> Self {
        Self { at, workload: None, event }
    }

    /// The line for place `seq` after the row with digest `prev`, without its newline.
    pub(crate) fn encode(&self, seq: u64, prev: Digest) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Line {
            seq,
            prev,
            at: self.at,
            workload: self.workload.as_ref(),
            event: &self.event,
        })
    }
}

/// The order of these members is part of the format.
#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    prev: Digest,
    at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<&'a WorkloadId>,
    #[serde(flatten)]
    event: &'a Event,
}

/// A row as it was read. That it is in the chain is for [`crate::verify()`] to say.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Row {
    /// Its place: the first row is 1.
    pub seq: u64,
    /// The digest of the row before it.
    pub prev: Digest,
    /// When it happened, by the clock of whoever appended it.
    pub at: Timestamp,
    /// The workload it happened to; `None` for the ledger's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadId>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What can happen. Later versions add events: an unknown one is read as [`Event::Other`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// The ledger was made. Its first row.
    Opened(Opened),
    /// A new segment begins. The first row of each segment but the first.
    Segment {},
    /// A worker was started.
    Started(Started),
    /// The worker's cage was checked.
    Caged(Caged),
    /// The key was loaded or born.
    Loaded(Loaded),
    /// The notary certified the key.
    Certified(Certified),
    /// Evidence of the machine was collected for the key.
    Attested(Box<Attested>),
    /// The key was received from the holder of another machine.
    Received(Received),
    /// A key was sealed to a worker of another machine.
    Released(Released),
    /// The key signed.
    Signed(Signed),
    /// The worker says that it wiped its memory.
    Wiped(Wiped),
    /// The workload's end.
    Receipt(ReceiptRow),
    /// Something failed. Ends a workload that had no key yet.
    Failed(Failed),
    /// The end of a process that was shredded.
    Shredded(ShreddedRow),
    /// A statement that is of no other event: that a key signed a file, for example.
    Statement(StatementRow),
    /// A signing key handed over to the next.
    KeyRotated(KeyRotatedRow),
    /// The run of a playbook.
    Reported(ReportedRow),
    /// A signed note of the ledger's length: of the row just before this one.
    Checkpoint(CheckpointRow),
    /// A notary key begins to sign.
    Notary(NotaryRow),
    /// Bytes at the end of a segment that were no whole row were dropped: a writer died.
    ClosedTornRow(ClosedTornRow),
    /// An event of a later version. Never written.
    #[serde(other, skip_serializing)]
    Other,
}

/// See [`Event::Opened`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The ledger's id.
    pub ledger: LedgerId,
    /// The version of the format: 1.
    pub format: u32,
}

/// See [`Event::Started`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The launcher's process id.
    pub launcher_pid: u32,
    /// How the worker was started.
    pub spawn: Spawn,
    /// SHA-256 of the worker's file.
    pub worker: Digest,
    /// SHA-256 of `signer.wasm`.
    pub signer: Digest,
    /// The command's name without its arguments, which may hold secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// How a worker is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Spawn {
    /// By the launcher.
    Direct,
    /// By systemd, as a transient service.
    Systemd,
}

/// See [`Event::Caged`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caged {
    /// The worker's process id.
    pub worker_pid: u32,
    /// What was found to hold.
    pub checks: Vec<Claim>,
    /// What the operator gave up by name.
    pub degraded: Vec<String>,
}

/// See [`Event::Loaded`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The public half.
    pub public_key: PublicKey,
    /// What the key is bound to sign.
    #[serde(rename = "use")]
    pub key_use: KeyUse,
    /// Where it came from.
    pub origin: KeyOrigin,
}

/// See [`Event::Certified`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certified {
    /// SHA-256 of the OpenSSH certificate's bytes.
    pub certificate: Digest,
    /// The notary key that signed it.
    pub notary: NotaryKeyId,
    /// When it ends.
    pub valid_before: Timestamp,
}

/// See [`Event::Signed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The number of the first of these requests; a key's first request is 1.
    pub first: u64,
    /// What was signed, in order: at least one and at most [`REQUESTS_PER_ROW_MAX`].
    pub requests: Vec<Digest>,
}

/// See [`Event::Wiped`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wiped {
    /// Guarded regions that were wiped and read back.
    pub regions: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// See [`Event::Receipt`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRow {
    /// The receipt, signed by the notary.
    pub envelope: Envelope,
}

/// See [`Event::Shredded`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShreddedRow {
    /// The [`crate::ShredReceipt`], signed by the notary.
    pub envelope: Envelope,
}

/// See [`Event::KeyRotated`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotatedRow {
    /// The [`crate::rotation::KeyRotation`], signed by the notary.
    pub envelope: Envelope,
}

/// See [`Event::Statement`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementRow {
    /// The statement, signed by the notary. Its predicate's type says what it is about.
    pub envelope: Envelope,
}

/// See [`Event::Reported`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedRow {
    /// The [`crate::FiledReport`], signed by the notary.
    pub envelope: Envelope,
}

/// See [`Event::Failed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The stable name of the error.
    pub code: String,
    /// The error in one line.
    pub message: String,
}

/// See [`Event::Checkpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRow {
    /// The checkpoint, signed by the notary.
    pub envelope: Envelope,
}

/// See [`Event::Notary`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotaryRow {
    /// The key's name.
    pub key_id: NotaryKeyId,
    /// The key.
    pub public_key: NotaryKey,
    /// The rotation, signed by the key before it; `None` for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Envelope>,
}

/// See [`Event::ClosedTornRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedTornRow {
    /// How many bytes were dropped.
    pub bytes: u64,
    /// Their SHA-256.
    pub digest: Digest,
}

/// What every row starts with, read without a JSON parser: one form, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub(crate) seq: u64,
    pub(crate) prev: Digest,
    pub(crate) at: Timestamp,
    pub(crate) workload: Option<&'a str>,
    pub(crate) event: &'a str,
}

impl<'a> Header<'a> {
    /// Reads the start of a line: `{"seq":N,"prev":"…","at":"…"[,"workload":"…"],"event":"…"`.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let (seq, rest) = take_number(line.strip_prefix(b"{\"seq\":")?)?;
        let (prev, rest) = take(rest.strip_prefix(b",\"prev\":\"")?, b"\"")?;
        let prev = str::from_utf8(prev).ok()?.parse().ok()?;
        let (at, mut rest) = take(rest.strip_prefix(b",\"at\":\"")?, b"\"")?;
        let at = Timestamp::parse(at)?;
        let mut workload = None;
        if let Some(after) = rest.strip_prefix(b",\"workload\":\"") {
            let (id, after) = take(after, b"\"")?;
            workload = Some(str::from_utf8(id).ok().filter(|id| id.parse::<WorkloadId>().is_ok())?);
            rest = after;
        }
        let (event, rest) = take(rest.strip_prefix(b",\"event\":\"")?, b"\"")?;
        let named = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'-';
        if event.is_empty()
            || !event.iter().all(named)
            || !matches!(rest.first(), Some(b',' | b'}'))
        {
            return None;
        }
        Some(Self { seq, prev, at, workload, event: str::from_utf8(event).ok()? })
    }
}

/// Takes a decimal number without leading zeros off the front.
fn take_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at(digits);
    match number.first() {
        None | Some(b'0') => None,
        Some(_) => Some((str::from_utf8(number).ok()?.parse().ok()?, rest)),
    }
}

/// Splits at the first `mark`, which goes with neither side.
fn take<'a>(text: &'a [u8], mark: &[u8; 1]) -> Option<(&'a [u8], &'a [u8])> {
    let end = text.iter().position(|byte| byte == &mark[0])?;
    Some((&text[..end], &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> NewRow {
        NewRow::of_workload(
            Timestamp::from_unix_ms(1_795_313_400_123),
            "w-1".parse().unwrap(),
            Event::Wiped(Wiped { regions: 3, bytes: 4096 }),
        )
    }

    #[test]
    fn a_row_is_one_line_with_its_members_in_the_order_of_the_format() {
        let line = row().encode(7, genesis()).unwrap();

        assert_eq!(
            str::from_utf8(&line).unwrap(),
            "{\"seq\":7,\"prev\":\"sha256:22bd85d40a4f5ab83be638f430422db3b55b0586cb00727a8cc2b91c4a76817c\",\
             \"at\":\"2026-11-22T02:10:00.123Z\",\"workload\":\"w-1\",\"event\":\"wiped\",\
             \"regions\":3,\"bytes\":4096}"
        );
    }

    #[test]
    fn a_row_and_its_header_are_read_back() {
        let line = row().encode(7, genesis()).unwrap();

        let read: Row = serde_json::from_slice(&line).unwrap();
        assert_eq!((read.seq, read.prev, &read.event), (7, genesis(), &row().event));
        let header = Header::parse(&line).unwrap();
        assert_eq!((header.seq, header.workload, header.event), (7, Some("w-1"), "wiped"));
    }

    #[test]
    fn an_event_of_a_later_version_is_read_as_other() {
        let line = String::from_utf8(row().encode(7, genesis()).unwrap()).unwrap();
        let later = line.replace("\"wiped\"", "\"rinsed\"");

        assert_eq!(serde_json::from_str::<Row>(&later).unwrap().event, Event::Other);
        assert_eq!(Header::parse(later.as_bytes()).unwrap().event, "rinsed");
    }

    #[test]
    fn a_header_in_any_other_form_is_not_read() {
        let line = String::from_utf8(row().encode(7, genesis()).unwrap()).unwrap();
        for (from, to) in [
            ("{\"seq\":7", "{ \"seq\":7"),
            (":7,", ":07,"),
            (":7,", ":-7,"),
            ("sha256:", "SHA256:"),
            ("\"wiped\"", "\"Wiped\""),
            ("\"wiped\",", "\"wiped\" ,"),
            ("\"w-1\"", "\"../w\""),
            ("\"at\"", "\"time\""),
        ] {
            let other = line.replacen(from, to, 1);
            assert_ne!(other, line, "{from} is not in the row");
            assert_eq!(Header::parse(other.as_bytes()), None, "{other}");
        }
    }
}
