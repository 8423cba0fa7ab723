//! The lives of workloads as the rows tell them: a machine that is fed one row after the other.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use evanesce_protocol::commitment::RequestCommitment;
use evanesce_protocol::{Digest, KeyOrigin, WorkloadId};

use crate::attestation::{Attestation, Attested};
use crate::checkpoint::LedgerId;
use crate::dsse::Envelope;
use crate::receipt::{KeyRecord, LedgerSpan, Receipt, ReleasedBy, Signatures};
use crate::release::Received;
use crate::row::{
    Caged, Certified, Failed, Header, Loaded, REQUESTS_PER_ROW_MAX, ReceiptRow, Signed, Started,
    Wiped,
};
use crate::statement::{Predicate as _, STATEMENT_TYPE, Subject};
use crate::timestamp::Timestamp;
use crate::verify::Problem;

/// Workloads without a receipt that are followed at one time.
pub const OPEN_WORKLOADS_MAX: usize = 65_536;

/// A workload that was started and has no receipt, as far as the rows tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenWorkload {
    /// The workload.
    pub workload: WorkloadId,
    /// When it was started.
    pub started_at: Timestamp,
    /// How it was started.
    pub started: Started,
    /// When its key was loaded, and the key; `None` if no row says so.
    pub loaded: Option<(Timestamp, Loaded)>,
    /// The requests in its `signed` rows; `None` without a key.
    pub requests: Option<RequestCommitment>,
    /// The newest evidence that was collected for its key.
    pub attested: Option<Attestation>,
    /// Where its key was received from, where another machine released it.
    pub received: Option<Received>,
    /// Whether its worker said that it wiped its memory.
    pub wiped: bool,
    /// Its `started` row.
    pub first: u64,
    /// Its newest row.
    pub last: u64,
    /// The digest of its newest row.
    pub head: Digest,
}

impl OpenWorkload {
    /// What a receipt made now says of its rows in `ledger`.
    pub const fn span(&self, ledger: LedgerId) -> LedgerSpan {
        LedgerSpan { id: ledger, first: self.first, last: self.last, head: self.head }
    }
}

/// A wrong step: what, and what was expected and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) problem: Problem,
    pub(crate) expected: String,
    pub(crate) found: String,
}

impl Wrong {
    pub(crate) fn new(problem: Problem, expected: impl ToString, found: impl ToString) -> Self {
        Self { problem, expected: expected.to_string(), found: found.to_string() }
    }

    pub(crate) fn parse(error: &serde_json::Error) -> Self {
        Self::new(Problem::Parse, "a row of this event", error)
    }
}

/// What a row means beyond its own workload.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing.
    Other,
    /// A workload ended with this receipt, whose signature is not checked yet.
    Receipt {
        envelope: Envelope,
        /// The newest row that the receipt's signature covers.
        covers: u64,
    },
}

/// All workloads that are open at one point of the ledger.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    open: BTreeMap<String, OpenWorkload>,
}

impl Lives {
    /// Follows the next row, if it is a workload's. `digest` is the row's own.
    pub(crate) fn follow(
        &mut self,
        header: &Header<'_>,
        line: &str,
        digest: Digest,
        ledger: LedgerId,
    ) -> Result<Step, Wrong> {
        let Some(workload) = header.workload else {
            return match header.event {
                "started" | "received" | "loaded" | "signed" | "receipt" => {
                    Err(Wrong::new(Problem::NoWorkload, "a workload's id", "none"))
                }
                event => has_members(event, line).map(|()| Step::Other),
            };
        };
        match header.event {
            "started" => self.start(workload, header, read(line)?, digest)?,
            "loaded" => self.life(workload)?.load(header.at, read(line)?)?,
            "signed" => self.life(workload)?.sign(&read(line)?)?,
            "attested" => {
                let Attested { attestation, .. } = read(line)?;
                if let Some(life) = self.open.get_mut(workload) {
                    life.attested = Some(attestation);
                }
            }
            "received" => self.life(workload)?.receive(read(line)?)?,
            "wiped" => {
                read::<Wiped>(line)?;
                if let Some(life) = self.open.get_mut(workload) {
                    life.wiped = true;
                }
            }
            "failed" => {
                read::<Failed>(line)?;
                if self.open.get(workload).is_some_and(|life| life.loaded.is_none()) {
                    self.open.remove(workload);
                }
            }
            "receipt" => {
                let ReceiptRow { envelope } = read(line)?;
                let life = self.life(workload)?;
                let covers = life.last;
                let checked = life.check(&envelope, ledger);
                self.open.remove(workload);
                checked?;
                return Ok(Step::Receipt { envelope, covers });
            }
            event => has_members(event, line)?,
        }
        if let Some(life) = self.open.get_mut(workload) {
            (life.last, life.head) = (header.seq, digest);
        }
        Ok(Step::Other)
    }

    /// Those that are open, by id.
    pub(crate) fn open(&self) -> impl ExactSizeIterator<Item = &OpenWorkload> {
        self.open.values()
    }

    pub(crate) fn into_open(self) -> impl Iterator<Item = OpenWorkload> {
        self.open.into_values()
    }

    fn start(
        &mut self,
        workload: &str,
        header: &Header<'_>,
        started: Started,
        digest: Digest,
    ) -> Result<(), Wrong> {
        if let Some(life) = self.open.get(workload) {
            let since = format!("{workload} started in row {}", life.first);
            return Err(Wrong::new(Problem::StartedTwice, "a workload that is not open", since));
        }
        if self.open.len() == OPEN_WORKLOADS_MAX {
            let limit = format!("at most {OPEN_WORKLOADS_MAX} open workloads");
            return Err(Wrong::new(Problem::TooManyOpen, limit, "one more"));
        }
        let life = OpenWorkload {
            workload: workload.parse().expect("a header is read only if its workload id parses"),
            started_at: header.at,
            started,
            loaded: None,
            requests: None,
            attested: None,
            received: None,
            wiped: false,
            first: header.seq,
            last: header.seq,
            head: digest,
        };
        self.open.insert(workload.to_owned(), life);
        Ok(())
    }

    fn life(&mut self, workload: &str) -> Result<&mut OpenWorkload, Wrong> {
        self.open
            .get_mut(workload)
            .ok_or_else(|| Wrong::new(Problem::NotStarted, "a workload that is open", workload))
    }
}

impl OpenWorkload {
    fn receive(&mut self, received: Received) -> Result<(), Wrong> {
        match &self.loaded {
            None => {
                self.received = Some(received);
                Ok(())
            }
            Some(_) => Err(Wrong::new(Problem::Release, "a key that is not loaded yet", "one")),
        }
    }

    fn load(&mut self, at: Timestamp, loaded: Loaded) -> Result<(), Wrong> {
        let received = self.received.as_ref().map(|received| received.public_key);
        let is_released = loaded.origin == KeyOrigin::Released;
        if is_released != (received == Some(loaded.public_key)) {
            let expected = received.map_or("a `received` row of this key".into(), |key| {
                format!("the key that was received, {key}")
            });
            return Err(Wrong::new(Problem::Release, expected, loaded.public_key));
        }
        if let Some((_, before)) = &self.loaded {
            return Err(Wrong::new(
                Problem::LoadedTwice,
                "one key for one workload",
                format!("{} after {}", loaded.public_key, before.public_key),
            ));
        }
        self.requests = Some(RequestCommitment::new(&loaded.public_key));
        self.loaded = Some((at, loaded));
        Ok(())
    }

    fn sign(&mut self, signed: &Signed) -> Result<(), Wrong> {
        let Some(requests) = &mut self.requests else {
            return Err(Wrong::new(Problem::NoKey, "a `loaded` row before", "none"));
        };
        if signed.requests.is_empty() || signed.requests.len() > REQUESTS_PER_ROW_MAX {
            let expected = format!("1 to {REQUESTS_PER_ROW_MAX} requests");
            return Err(Wrong::new(Problem::Requests, expected, signed.requests.len()));
        }
        let next = requests.count() + 1;
        if signed.first != next {
            let expected = format!("request {next} first");
            return Err(Wrong::new(Problem::Requests, expected, signed.first));
        }
        signed.requests.iter().for_each(|request| requests.extend(request));
        Ok(())
    }

    /// Whether a receipt says of this workload what its rows say.
    fn check(&self, envelope: &Envelope, ledger: LedgerId) -> Result<(), Wrong> {
        let payload = str::from_utf8(envelope.payload_unverified()).unwrap_or_default();
        let statement: ReceiptEssence = read(payload)?;
        let receipt = statement.predicate;
        let wrong = |expected: &dyn ToString, found: &dyn ToString| {
            Err(Wrong::new(Problem::Receipt, expected.to_string(), found.to_string()))
        };
        let (Some((_, loaded)), Some(requests)) = (&self.loaded, &self.requests) else {
            return Err(Wrong::new(Problem::NoKey, "a `loaded` row before", "none"));
        };
        if statement.statement_type != STATEMENT_TYPE || statement.predicate_type != Receipt::TYPE {
            return wrong(&Receipt::TYPE, &statement.predicate_type);
        }
        let subject = Subject::new(self.workload.as_str(), loaded.public_key.digest());
        if statement.subject != [subject] {
            return wrong(&"the workload's key as subject", &"another subject");
        }
        if receipt.workload != self.workload {
            return wrong(&self.workload, &receipt.workload);
        }
        let key = &receipt.key;
        if (key.public_key, key.key_use, key.origin)
            != (loaded.public_key, loaded.key_use, loaded.origin)
        {
            let text = |key, key_use, origin| format!("{key} {key_use:?} {origin:?}");
            return wrong(
                &text(loaded.public_key, loaded.key_use, loaded.origin),
                &text(key.public_key, key.key_use, key.origin),
            );
        }
        if !key.fate.fits(key.origin) {
            return wrong(&"a fate that a key from there can have", &format!("{:?}", key.fate));
        }
        if receipt.signatures.count != requests.count() {
            let expected = format!("{} signatures", requests.count());
            return wrong(&expected, &receipt.signatures.count);
        }
        if receipt.signatures.commitment != requests.value() {
            return wrong(&requests.value(), &receipt.signatures.commitment);
        }
        if receipt.attestation != self.attested {
            let text = |attestation: &Option<Attestation>| match attestation {
                Some(attestation) => format!("evidence {}", attestation.evidence),
                None => "no evidence".to_owned(),
            };
            return wrong(&text(&self.attested), &text(&receipt.attestation));
        }
        let released_by = self.received.as_ref().map(ReleasedBy::of);
        if receipt.released_by != released_by {
            let text = |by: &Option<ReleasedBy>| match by {
                Some(by) => format!("released by {}", by.holder),
                None => "not released".to_owned(),
            };
            return wrong(&text(&released_by), &text(&receipt.released_by));
        }
        let span = self.span(ledger);
        match receipt.ledger == span {
            true => Ok(()),
            false => wrong(&format!("{span:?}"), &format!("{:?}", receipt.ledger)),
        }
    }
}

/// The members of a receipt that its rows can contradict. The others may grow without making
/// older verifiers refuse the ledger.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReceiptEssence {
    #[serde(rename = "_type")]
    statement_type: String,
    subject: [Subject; 1],
    predicate_type: String,
    predicate: PredicateEssence,
}

#[derive(Deserialize)]
struct PredicateEssence {
    workload: WorkloadId,
    key: KeyRecord,
    #[serde(default)]
    attestation: Option<Attestation>,
    #[serde(default)]
    released_by: Option<ReleasedBy>,
    signatures: Signatures,
    ledger: LedgerSpan,
}

/// Checks that an event of which nothing follows has its members. One of a later version has
/// members that are not known here.
fn has_members(event: &str, line: &str) -> Result<(), Wrong> {
    match event {
        "caged" => read::<Caged>(line).map(drop),
        "certified" => read::<Certified>(line).map(drop),
        "wiped" => read::<Wiped>(line).map(drop),
        "failed" => read::<Failed>(line).map(drop),
        _ => read::<IgnoredAny>(line).map(drop),
    }
}

pub(crate) fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Wrong> {
    serde_json::from_str(json).map_err(|error| Wrong::parse(&error))
}
