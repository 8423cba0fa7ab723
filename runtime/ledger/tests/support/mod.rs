//! What the tests of the ledger share: a notary, whole lives, and a look at the files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use evanesce_ledger::receipt::*;
use evanesce_ledger::report::*;
use evanesce_ledger::row::*;
use evanesce_ledger::shred::*;
use evanesce_ledger::{
    AppendError, Appended, Attestation, Attested, Envelope, KeyRelease, Ledger, LedgerId,
    NotaryKey, P256Signature, Predicate as _, Received, Released, Setup, Timestamp, Verdict,
    VerifyOptions, verify,
};
use evanesce_protocol::commitment::RequestCommitment;
use evanesce_protocol::evidence::{Nonce, NotaryPoint, ReleaseKey};
use evanesce_protocol::smaps::Backing;
use evanesce_protocol::{Digest, KeyOrigin, KeyUse, PublicKey, WorkloadId};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;

pub(crate) const LEDGER: LedgerId = LedgerId::from_bytes([1; 32]);
pub(crate) const START_MS: u64 = 1_795_313_400_123;

/// A notary whose private key is a small number.
pub(crate) struct TestNotary {
    private: SigningKey,
    pub(crate) key: NotaryKey,
}

impl TestNotary {
    pub(crate) fn new(number: u8) -> Self {
        let private = SigningKey::from_slice(&[number; 32]).unwrap();
        let point = private.verifying_key().to_sec1_point(false);
        Self { private, key: NotaryKey::from_sec1(point.as_bytes()).unwrap() }
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> Result<P256Signature, Infallible> {
        let signature: p256::ecdsa::Signature = self.private.sign(bytes);
        Ok(P256Signature::from_fixed(&signature.to_bytes().into()).unwrap())
    }

    pub(crate) fn row(&self, at: Timestamp) -> NewRow {
        let key_id = self.key.id();
        let public_key = self.key.clone();
        NewRow::of_ledger(at, Event::Notary(NotaryRow { key_id, public_key, rotation: None }))
    }
}

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(START_MS + 1000 * seconds)
}

pub(crate) fn setup() -> Setup {
    Setup::new(LEDGER, at(0))
}

pub(crate) fn open(dir: &Path) -> Ledger {
    Ledger::open(dir, setup()).unwrap()
}

pub(crate) fn failed(code: &str) -> NewRow {
    let message = "it did not work".to_owned();
    NewRow::of_ledger(at(1), Event::Failed(Failed { code: code.to_owned(), message }))
}

/// One workload's life, step by step.
pub(crate) struct Life {
    pub(crate) workload: WorkloadId,
    pub(crate) key: PublicKey,
    pub(crate) requests: RequestCommitment,
    pub(crate) attested: Option<Attestation>,
    pub(crate) received: Option<Received>,
    first: u64,
    newest: Option<Appended>,
}

impl Life {
    pub(crate) fn start(ledger: &mut Ledger, workload: &str, number: u8) -> Self {
        let key = PublicKey::from_bytes([number; 32]);
        let mut life = Self {
            workload: workload.parse().unwrap(),
            key,
            requests: RequestCommitment::new(&key),
            attested: None,
            received: None,
            first: 0,
            newest: None,
        };
        life.append(
            ledger,
            Event::Started(Started {
                launcher_pid: 42,
                spawn: Spawn::Direct,
                worker: Digest::of(b"worker"),
                signer: Digest::of(b"signer"),
                command: Some("sh".into()),
            }),
        );
        life.first = life.newest.unwrap().first;
        life
    }

    pub(crate) fn load(&mut self, ledger: &mut Ledger) {
        let (public_key, origin) = (self.key, self.origin());
        let key_use = KeyUse::Message;
        self.append(ledger, Event::Loaded(Loaded { public_key, key_use, origin }));
    }

    pub(crate) fn receive(&mut self, ledger: &mut Ledger) {
        let received = self.to_be_received();
        self.received = Some(received.clone());
        self.append(ledger, Event::Received(received));
    }

    pub(crate) fn to_be_received(&self) -> Received {
        Received {
            transcript: Digest::of(b"transcript"),
            session: Nonce::from_bytes([4; 32]),
            holder: TestNotary::new(9).key.id(),
            ledger: LedgerId::from_bytes([9; 32]),
            public_key: self.key,
            evidence: Digest::of(b"evidence"),
        }
    }

    fn origin(&self) -> KeyOrigin {
        match self.received {
            Some(_) => KeyOrigin::Released,
            None => KeyOrigin::BornInside,
        }
    }

    pub(crate) fn attest(&mut self, ledger: &mut Ledger) {
        let attestation = Attestation {
            evidence: Digest::of(b"evidence"),
            provider: "sev_guest".into(),
            nonce: Nonce::from_bytes([3; 32]),
            collected: at(1),
        };
        self.attested = Some(attestation.clone());
        let envelope = Some(serde_json::json!({"v": 1}));
        self.append(ledger, Event::Attested(Box::new(Attested { attestation, envelope })));
    }

    pub(crate) fn sign(&mut self, ledger: &mut Ledger, messages: &[&[u8]]) {
        let first = self.requests.count() + 1;
        let requests: Vec<Digest> = messages.iter().map(|message| Digest::of(message)).collect();
        requests.iter().for_each(|request| self.requests.extend(request));
        self.append(ledger, Event::Signed(Signed { first, requests }));
    }

    pub(crate) fn wipe(&mut self, ledger: &mut Ledger) {
        self.append(ledger, Event::Wiped(Wiped { regions: 3, bytes: 196_608 }));
    }

    pub(crate) fn append(&mut self, ledger: &mut Ledger, event: Event) {
        let row = NewRow::of_workload(at(1), self.workload.clone(), event);
        self.newest = Some(ledger.append(&[row]).unwrap());
    }

    pub(crate) fn receipt(&self) -> Receipt {
        let time = at(1);
        let newest = self.newest.unwrap();
        Receipt {
            workload: self.workload.clone(),
            key: KeyRecord {
                public_key: self.key,
                key_use: KeyUse::Message,
                origin: self.origin(),
                fate: KeyFate::shown(self.origin()),
            },
            times: Times { started: time, loaded: time, ended: time, made: time },
            software: Software {
                version: "0.1.0".into(),
                worker: Digest::of(b"worker"),
                signer: Digest::of(b"signer"),
            },
            cause: Cause::CommandEnded,
            attestation: self.attested.clone(),
            released_by: self.received.as_ref().map(ReleasedBy::of),
            command: Some(CommandEnd::Exited(0)),
            scrub: Scrub {
                method: ScrubMethod::WorkerWipedThenOverwritten,
                statements: vec![ScrubStatement {
                    claim: Claim::ProcessGone,
                    observer: Observer::ObservedOutside,
                    detail: "the pidfd is readable".into(),
                }],
                unproven: vec![],
                regions: 3,
                bytes_wiped: 196_608,
                bytes_overwritten: 1_048_576,
                pages_absent: 12,
                forced: None,
            },
            signatures: Signatures {
                count: self.requests.count(),
                commitment: self.requests.value(),
                complete: true,
            },
            ledger: LedgerSpan {
                id: LEDGER,
                first: self.first,
                last: newest.last,
                head: newest.head,
            },
            degraded: vec![],
            separation: Separation {
                notary: Apart::SameUid,
                workload: Apart::SameUid,
                notary_memory: Some(Backing::SecretPages),
            },
            host: HostFacts {
                kernel: "6.1.0".into(),
                init_on_free: Known::No,
                swap: Swap::None,
                core_pattern: Some("core".into()),
                kdump: Known::No,
                hibernation: Known::Unknown,
                other: Default::default(),
            },
            grades: vec![],
            placement: None,
        }
    }

    pub(crate) fn end(&mut self, ledger: &mut Ledger, notary: &TestNotary) {
        let receipt = self.receipt();
        self.end_with(ledger, notary, receipt);
    }

    pub(crate) fn end_with(&mut self, ledger: &mut Ledger, notary: &TestNotary, receipt: Receipt) {
        let Ok(envelope) = receipt.sign(notary.key.id(), |bytes| notary.sign(bytes));
        self.append(ledger, Event::Receipt(ReceiptRow { envelope }));
    }
}

/// A ledger with one whole life and one failure: nine rows.
pub(crate) fn small_ledger(dir: &Path, notary: &TestNotary) -> Ledger {
    let mut ledger = open(dir);
    ledger.append(&[notary.row(at(0))]).unwrap();
    let mut life = Life::start(&mut ledger, "w-1", 7);
    life.load(&mut ledger);
    life.sign(&mut ledger, &[b"one", b"two"]);
    life.sign(&mut ledger, &[b"three"]);
    life.wipe(&mut ledger);
    life.end(&mut ledger, notary);
    ledger.append(&[failed("notary.slow")]).unwrap();
    ledger
}

pub(crate) fn checkpoint_of(ledger: &mut Ledger, notary: &TestNotary) -> Envelope {
    let (rows, head) = ledger.lock().unwrap().head().unwrap().unwrap();
    let checkpoint = evanesce_ledger::Checkpoint { ledger: ledger.id(), rows, head, at: at(9) };
    let Ok(envelope) = checkpoint.sign(notary.key.id(), |bytes| notary.sign(bytes));
    envelope
}

pub(crate) fn audit(dir: &Path, keys: &[NotaryKey], checkpoint: Option<&Envelope>) -> Verdict {
    let signature_threads = NonZero::new(2).unwrap();
    verify(dir, &VerifyOptions { notary_keys: keys, checkpoint, signature_threads }).unwrap()
}

/// The segments of a ledger, oldest first.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    segments.sort();
    segments
}

/// The bytes of the newest segment.
pub(crate) fn newest_bytes(dir: &Path) -> Vec<u8> {
    fs::read(segments(dir).last().unwrap()).unwrap()
}

/// Appends about `rows` rows: lives of `signed` rows of one request each, with all that is around
/// them, a thousand rows a batch.
pub(crate) fn fill(ledger: &mut Ledger, notary: &TestNotary, rows: u64, signed: u64) {
    let mut life_number = 0_u64;
    let mut written = 0;
    while written < rows {
        life_number += 1;
        let mut life = Life::start(ledger, &format!("fill-{life_number}"), 7);
        life.load(ledger);
        for batch in (0..signed).collect::<Vec<_>>().chunks(1000) {
            let batch: Vec<NewRow> = batch
                .iter()
                .map(|number| {
                    let request = Digest::of(&number.to_le_bytes());
                    let first = life.requests.count() + 1;
                    life.requests.extend(&request);
                    let event = Event::Signed(Signed { first, requests: vec![request] });
                    NewRow::of_workload(at(1), life.workload.clone(), event)
                })
                .collect();
            life.newest = Some(ledger.append(&batch).unwrap());
        }
        life.wipe(ledger);
        life.end(ledger, notary);
        written += signed + 4;
    }
}

/// Appends that a key was released, as a release of the ledger `of`.
pub(crate) fn append_released(ledger: &mut Ledger, notary: &TestNotary, of: LedgerId) {
    let mut writer = ledger.lock().unwrap();
    let release = |ledger| KeyRelease {
        ledger,
        session: Nonce::from_bytes([4; 32]),
        challenge: Digest::of(b"challenge"),
        request: Digest::of(b"request"),
        public_key: PublicKey::from_bytes([8; 32]),
        release_key: ReleaseKey::from_bytes([6; 32]),
        sealed: Digest::of(b"sealed"),
        evidence: Digest::of(b"evidence"),
        notary: NotaryPoint::from_bytes([5; 65]),
        tee: "snp".into(),
        measurement: "14".repeat(48),
        policy: Digest::of(b"policy"),
        at: at(1),
    };
    let appended = writer.append_after(at(1), |last, head| {
        let release = release(LedgerHead { id: of, last, head });
        let Ok(envelope) = release.sign(notary.key.id(), |bytes| notary.sign(bytes));
        let transcript = Digest::of(b"transcript");
        Ok::<_, AppendError>(Event::Released(Released { transcript, envelope }))
    });
    appended.unwrap();
}

/// Appends the receipt of a process that was shredded and left `left` behind.
pub(crate) fn append_shredded(
    ledger: &mut Ledger,
    notary: &TestNotary,
    left: LeftPages,
    fate: ShredFate,
) {
    let mut writer = ledger.lock().unwrap();
    let receipt = |ledger| ShredReceipt {
        ledger,
        process: ShreddedProcess {
            pid: 4711,
            start_time: 123_456,
            boot_id: "7d0c2a4e-0a52-4a4e-9b69-8f1f0a5c3f11".into(),
            name: "python3".into(),
            uid: 1000,
        },
        fate,
        times: ShredTimes { stopped: at(1), ended: at(1) },
        version: "0.1.0".into(),
        statements: vec![],
        unproven: vec![],
        bytes_overwritten: 1_048_576,
        pages_absent: 10,
        pages_unmodified: 700,
        left,
        separation: Separation {
            notary: Apart::SameUid,
            workload: Apart::SameUid,
            notary_memory: Some(Backing::SecretPages),
        },
        host: HostFacts {
            kernel: "6.1.0".into(),
            init_on_free: Known::No,
            swap: Swap::None,
            core_pattern: None,
            kdump: Known::No,
            hibernation: Known::No,
            other: std::collections::BTreeMap::new(),
        },
    };
    let appended = writer.append_after(at(1), |last, head| {
        let receipt = receipt(LedgerHead { id: LEDGER, last, head });
        let Ok(envelope) = receipt.sign(notary.key.id(), |bytes| notary.sign(bytes));
        Ok::<_, AppendError>(Event::Shredded(ShreddedRow { envelope }))
    });
    appended.unwrap();
}

/// Appends the report of a playbook with one step, as `outcome` calls it.
pub(crate) fn append_reported(
    ledger: &mut Ledger,
    notary: &TestNotary,
    step: StepOutcome,
    outcome: ReportOutcome,
) {
    let mut writer = ledger.lock().unwrap();
    let appended = writer.append_after(at(1), |last, head| {
        let step = FiledStep {
            title: "1. Look".into(),
            outcome: step,
            seen: "nothing".into(),
            ended: at(1),
        };
        let report = FiledReport {
            ledger: LedgerHead { id: LEDGER, last, head },
            playbook: "host-reuse".into(),
            text: Digest::of(b"# Text"),
            outcome,
            began: at(1),
            ended: at(1),
            version: "0.1.0".into(),
            steps: vec![step],
            host: HostFacts {
                kernel: "6.1.0".into(),
                init_on_free: Known::No,
                swap: Swap::None,
                core_pattern: None,
                kdump: Known::No,
                hibernation: Known::No,
                other: std::collections::BTreeMap::new(),
            },
        };
        let Ok(envelope) = report.sign(notary.key.id(), |bytes| notary.sign(bytes));
        Ok::<_, AppendError>(Event::Reported(ReportedRow { envelope }))
    });
    appended.unwrap();
}
