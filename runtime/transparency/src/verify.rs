//! What a bundle proves, offline, and what it does not.
//!
//! The envelope's signature, the log's proof and checkpoint, promises and timestamps are checked by
//! `sigstore-verify`; what the statement itself says, here. A statement by a key that the verifier
//! does not know is never [`Outcome::Trusted`].

use ed25519_dalek::{Signature, VerifyingKey};
use evanesce_ledger::notary::NotaryRotation;
use evanesce_ledger::receipt::{KeyFate, Observer};
use evanesce_ledger::rotation::KeyRotation;
use evanesce_ledger::statement::{Predicate, StatementError};
use evanesce_ledger::{
    FiledReport, NotaryKeyId, Outcome, Receipt, ShredReceipt, SignatureRecord, Statement, Timestamp,
};
use evanesce_protocol::commitment::request_of_message;
use evanesce_protocol::sshsig::{HashAlgorithm, SignedData};
use evanesce_protocol::{Digest, PublicKey};
use serde::{Deserialize, Serialize};
use sigstore_trust_root::TrustedRoot;
use sigstore_types::bundle::VerificationMaterialContent;
use sigstore_types::{ArtifactDigest, DerPublicKey, Sha256Hash, SignatureContent};
use sigstore_verify::{PublicKeyVerificationPolicy, Verifier};

use crate::bundle::BUNDLE_BYTES_MAX;
use crate::crypto;
use crate::trust::{HandedOver, KnownNotary, Order, Place};

/// Trust, prepared once for many bundles.
pub struct BundleVerifier {
    verifier: Verifier,
    root: TrustedRoot,
    notaries: Vec<(KnownNotary, PublicKeyVerificationPolicy)>,
}

/// What there is beside the bundle.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// SHA-256 of the artifact.
    pub sha256: Digest,
    /// SHA-512 of the artifact.
    pub sha512: &'a [u8; 64],
    /// The receipt of the key, whose signature was checked; absent where there is none.
    pub receipt: Option<&'a Receipt>,
    /// The rotations that are known, of keys that live longer than one workload.
    pub rotations: &'a KnownRotations,
}

/// The standing of one generation of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// No rotation tells of the key: it is of one workload, or its rotations are not known.
    NotRotated,
    /// It was the one to sign with.
    Current {
        /// Which: the first is 1.
        number: u64,
    },
    /// It had been retired before.
    Retired {
        /// Which.
        number: u64,
        /// When.
        at: Timestamp,
    },
    /// It is retired, and whether it signed before that is not known.
    RetiredAndUndated {
        /// Which.
        number: u64,
    },
}

/// Rotations that were checked: that both keys and a trusted notary signed them.
#[derive(Clone, Debug, Default)]
pub struct KnownRotations(Vec<KnownRotation>);

/// One rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRotation {
    /// The successor's generation.
    pub generation: u64,
    /// The key that signs no longer.
    pub retired: PublicKey,
    /// The key that signs from then on.
    pub successor: PublicKey,
    /// When.
    pub handed_over: HandedOver,
}

impl KnownRotations {
    /// Takes rotations that the caller checked.
    pub fn new(rotations: impl IntoIterator<Item = KnownRotation>) -> Self {
        Self(rotations.into_iter().collect())
    }

    /// The standing of a key when it signed what is logged at `place`, before `time`.
    pub fn standing(
        &self,
        key: &PublicKey,
        place: Option<&Place>,
        time: Option<Timestamp>,
    ) -> Generation {
        if let Some(rotation) = self.0.iter().find(|rotation| rotation.retired == *key) {
            let (number, at) = (rotation.generation.saturating_sub(1), rotation.handed_over.at);
            return match rotation.handed_over.order(place, time) {
                Order::Before => Generation::Current { number },
                Order::After => Generation::Retired { number, at },
                Order::Unknown => Generation::RetiredAndUndated { number },
            };
        }
        match self.0.iter().find(|rotation| rotation.successor == *key) {
            Some(rotation) => Generation::Current { number: rotation.generation },
            None => Generation::NotRotated,
        }
    }
}

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[must_use = "a verdict that nobody looks at proves nothing"]
pub struct BundleVerdict {
    /// The answer in one word.
    pub outcome: Outcome,
    /// Why, in one clause.
    pub reason: String,
    /// What the statement is.
    pub kind: Option<StatementKind>,
    /// The notary that signed it.
    pub notary: Option<NotaryKeyId>,
    /// The key that it tells of.
    pub public_key: Option<PublicKey>,
    /// Where it is logged.
    pub log: Option<Logged>,
    /// When it was signed at the latest, by the word of a log or a timestamp authority.
    pub signed_before: Option<Timestamp>,
    /// What was checked and held.
    pub checked: Vec<String>,
    /// What was not checked, and why.
    pub not_checked: Vec<String>,
}

/// The kinds of statements that are understood here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StatementKind {
    /// A key signed a file.
    Signature,
    /// A key ended.
    Receipt,
    /// The memory of a process was overwritten.
    ShredReceipt,
    /// One key handed over to another.
    KeyRotation,
    /// One notary handed over to another.
    NotaryRotation,
    /// The steps of a playbook were done.
    PlaybookReport,
    /// Another kind: signed by the notary and logged, and its content not looked at.
    Other,
}

/// Where a statement is logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Logged {
    /// The log, as its checkpoint names it.
    pub origin: String,
    /// The entry's number there.
    pub index: u64,
    /// Entries of the tree that the proof is in.
    pub size: u64,
}

impl BundleVerifier {
    /// Prepares to believe these notaries, and the logs and timestamp authorities of `root`.
    ///
    /// # Errors
    ///
    /// [`TrustError`] where a key or certificate of the root cannot be used.
    pub fn new(root: TrustedRoot, notaries: &[KnownNotary]) -> Result<Self, TrustError> {
        crypto::use_ring();
        let verifier = Verifier::new(&root).map_err(|source| TrustError(Box::new(source)))?;
        let policy = |notary: &KnownNotary| {
            let key = DerPublicKey::from_bytes(notary.key.spki());
            (notary.clone(), PublicKeyVerificationPolicy::new(key))
        };
        Ok(Self { verifier, root, notaries: notaries.iter().map(policy).collect() })
    }

    /// Judges a bundle, as text, over an artifact.
    pub fn verify(&self, bundle: &[u8], given: &Given<'_>) -> BundleVerdict {
        let mut judge = Judge::default();
        let (outcome, reason) = match self.judge(bundle, given, &mut judge) {
            Ok(reason) => (Outcome::Trusted, reason),
            Err(Flaw { outcome, reason }) => (outcome, reason),
        };
        judge.conclude(outcome, reason)
    }

    /// Checks the place that a log gave to a statement, and the timestamps over it, whatever the
    /// statement says; by the time of this machine.
    pub(crate) fn verify_place(&self, bundle: &[u8]) -> Result<(), String> {
        let place = || {
            let parsed = parse(bundle)?;
            let (envelope, hint) = content(&parsed)?;
            let sha256 = subject_of(envelope.payload.as_bytes())?;
            self.verify_with(&parsed, hint, sha256)?;
            self.look_at_log(&parsed, &mut Judge::default())
        };
        place().map_err(|flaw: Flaw| flaw.reason)
    }

    /// Checks everything but what the statement says.
    fn verify_with(
        &self,
        bundle: &sigstore_types::Bundle,
        hint: &str,
        sha256: Sha256Hash,
    ) -> Result<(&KnownNotary, sigstore_verify::VerificationResult), Flaw> {
        let known = self.notaries.iter().find(|(notary, _)| notary.id().to_string() == hint);
        let Some((notary, policy)) = known else {
            return Err(Flaw::unknown(format!("signed by {hint}, which is not known here")));
        };
        let verified = self.verifier.verify(ArtifactDigest::sha256(sha256), bundle, policy);
        Ok((notary, verified.map_err(|error| Flaw::invalid(clauses(&error)))?))
    }

    fn judge(&self, bundle: &[u8], given: &Given<'_>, judge: &mut Judge) -> Result<String, Flaw> {
        let parsed = parse(bundle)?;
        let (envelope, hint) = content(&parsed)?;
        let sha256 = Sha256Hash::new(*given.sha256.as_bytes());
        let (notary, verified) = self.verify_with(&parsed, hint, sha256).inspect_err(|_| {
            judge.not_checked.push("the rest: this decides alone".into());
        })?;
        judge.notary = Some(notary.id());
        self.look_at_log(&parsed, judge)?;
        judge.checked.push(format!("notary {} signed the statement", notary.id()));
        judge.checked.push("the statement is about this very file".into());
        let times = verified.verified_timestamps().iter();
        judge.signed_before = times
            .filter_map(|time| u64::try_from(time.as_millisecond()).ok())
            .map(Timestamp::from_unix_ms)
            .min();
        if let Some(time) = judge.signed_before {
            judge.checked.push(format!("signed before {time}, by a log or timestamp authority"));
        } else {
            let why = "when it was signed: times in it are the signing machine's word";
            judge.not_checked.push(why.into());
        }
        let reason = judge.look_at_statement(envelope.payload.as_bytes(), given)?;
        judge.look_at_retirement(notary)?;
        Ok(reason)
    }

    /// The log's key has to be the one that the entry names, and each entry has to be proven.
    fn look_at_log(&self, bundle: &sigstore_types::Bundle, judge: &mut Judge) -> Result<(), Flaw> {
        for entry in &bundle.verification_material.tlog_entries {
            let id = &entry.log_id.key_id;
            if !self.root.tlogs.iter().any(|log| log.log_id.key_id == *id) {
                return Err(Flaw::invalid(format!("the log {id} is not in the trusted root")));
            }
            if entry.integrated_time.is_some() && entry.inclusion_promise.is_none() {
                return Err(Flaw::invalid("a log's time comes without its promise".into()));
            }
            let proof = entry.inclusion_proof.as_ref();
            let checkpoint = proof.and_then(|proof| proof.checkpoint.checkpoint());
            let Some(checkpoint) = checkpoint else {
                return Err(Flaw::invalid("a log entry comes without a proof".into()));
            };
            let hint = id.as_bytes().get(..crate::note::HINT_BYTES);
            let signs = |line: &sigstore_types::CheckpointSignature| {
                Some(line.key_id.as_bytes().as_slice()) == hint
            };
            if !checkpoint.signatures().iter().any(signs) {
                return Err(Flaw::invalid(
                    "the checkpoint is of another log than the entry".into(),
                ));
            }
            let logged = Logged {
                origin: checkpoint.origin().to_owned(),
                index: entry.log_index.get(),
                size: checkpoint.tree_size(),
            };
            judge.checked.push(format!(
                "entry {} of log {}, in its signed tree of {} entries",
                logged.index, logged.origin, logged.size
            ));
            judge.log.get_or_insert(logged);
        }
        judge.not_checked.push("whether the log shows everybody the same tree".into());
        Ok(())
    }
}

impl std::fmt::Debug for BundleVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let notaries: Vec<_> = self.notaries.iter().map(|(notary, _)| notary.id()).collect();
        f.debug_struct("BundleVerifier").field("notaries", &notaries).finish_non_exhaustive()
    }
}

/// Judges one bundle: see [`BundleVerifier`].
///
/// # Errors
///
/// [`TrustError`].
pub fn verify_bundle(
    bundle: &[u8],
    root: TrustedRoot,
    notaries: &[KnownNotary],
    given: &Given<'_>,
) -> Result<BundleVerdict, TrustError> {
    Ok(BundleVerifier::new(root, notaries)?.verify(bundle, given))
}

/// The trusted root holds a key or certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the trusted root cannot be used")]
pub struct TrustError(#[source] Box<sigstore_verify::Error>);

impl TrustError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        "trusted-root.unusable"
    }
}

/// What decides against a bundle.
struct Flaw {
    outcome: Outcome,
    reason: String,
}

impl Flaw {
    fn invalid(reason: String) -> Self {
        Self { outcome: Outcome::Invalid, reason }
    }

    fn unknown(reason: String) -> Self {
        Self { outcome: Outcome::UnknownSigner, reason }
    }
}

fn parse(bundle: &[u8]) -> Result<sigstore_types::Bundle, Flaw> {
    if bundle.len() > BUNDLE_BYTES_MAX {
        let found = bundle.len();
        let reason = format!("a bundle has at most {BUNDLE_BYTES_MAX} bytes, this one {found}");
        return Err(Flaw::invalid(reason));
    }
    let text =
        str::from_utf8(bundle).map_err(|_| Flaw::invalid("the bundle is not text".into()))?;
    sigstore_types::Bundle::from_json(text)
        .map_err(|error| Flaw::invalid(format!("not a Sigstore bundle: {}", clauses(&error))))
}

/// The envelope, and the name of the key that signed it.
fn content(bundle: &sigstore_types::Bundle) -> Result<(&sigstore_types::DsseEnvelope, &str), Flaw> {
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        return Err(Flaw::invalid("the bundle holds no statement".into()));
    };
    let VerificationMaterialContent::PublicKey(key) = &bundle.verification_material.content else {
        return Err(Flaw::invalid("the bundle names no notary: it has a certificate".into()));
    };
    let hint = key.hint.as_str();
    match envelope.signature.keyid.as_str() == hint {
        true => Ok((envelope, hint)),
        false => Err(Flaw::invalid("bundle and envelope name different keys".into())),
    }
}

/// The SHA-256 of what a statement is about.
fn subject_of(payload: &[u8]) -> Result<Sha256Hash, Flaw> {
    #[derive(Deserialize)]
    struct Subjects {
        subject: Vec<Subject>,
    }
    #[derive(Deserialize)]
    struct Subject {
        digest: SubjectDigest,
    }
    #[derive(Deserialize)]
    struct SubjectDigest {
        sha256: String,
    }
    let subjects: Result<Subjects, _> = serde_json::from_slice(payload);
    let first = subjects.ok().and_then(|subjects| subjects.subject.into_iter().next());
    let digest = first.and_then(|subject| Sha256Hash::from_hex(&subject.digest.sha256).ok());
    digest.ok_or_else(|| Flaw::invalid("the statement has no subject with a SHA-256".into()))
}

/// An error and its causes, as one clause.
pub(crate) fn clauses(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let clause = cause.to_string();
        if !text.ends_with(&clause) {
            text = format!("{text}: {clause}");
        }
        next = cause.source();
    }
    text
}

/// What was found so far.
#[derive(Default)]
struct Judge {
    kind: Option<StatementKind>,
    notary: Option<NotaryKeyId>,
    public_key: Option<PublicKey>,
    log: Option<Logged>,
    signed_before: Option<Timestamp>,
    checked: Vec<String>,
    not_checked: Vec<String>,
}

impl Judge {
    /// A notary that handed over to another does not sign any more; the handover is its last.
    fn look_at_retirement(&mut self, notary: &KnownNotary) -> Result<(), Flaw> {
        let Some(until) = &notary.until else {
            return Ok(());
        };
        let at = until.at;
        match until.order(self.place().as_ref(), self.signed_before) {
            _ if self.kind == Some(StatementKind::NotaryRotation) => Ok(()),
            Order::Before => {
                self.checked.push(format!("signed before its notary was retired at {at}"));
                Ok(())
            }
            Order::After => {
                Err(Flaw::invalid(format!("its notary was retired at {at}, before it was logged")))
            }
            Order::Unknown => Err(Flaw::unknown(format!(
                "its notary was retired at {at}, and whether it signed this before is not known"
            ))),
        }
    }

    fn place(&self) -> Option<Place> {
        let log = self.log.as_ref()?;
        Some(Place { origin: log.origin.clone(), index: log.index })
    }

    fn look_at_statement(&mut self, payload: &[u8], given: &Given<'_>) -> Result<String, Flaw> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            predicate_type: String,
        }
        let typed: Typed = serde_json::from_slice(payload)
            .map_err(|error| Flaw::invalid(format!("the statement cannot be read: {error}")))?;
        match typed.predicate_type.as_str() {
            SignatureRecord::TYPE => self.signature(&open(payload)?, given),
            Receipt::TYPE => self.receipt(&open(payload)?),
            ShredReceipt::TYPE => self.shred_receipt(&open(payload)?),
            FiledReport::TYPE => self.playbook_report(&open(payload)?),
            KeyRotation::TYPE => self.key_rotation(&open(payload)?),
            NotaryRotation::TYPE => {
                let rotation: NotaryRotation = open(payload)?;
                self.kind = Some(StatementKind::NotaryRotation);
                let (from, to) = (rotation.retired, rotation.successor.id());
                if Some(from) != self.notary {
                    return Err(Flaw::invalid("signed by another key than it retires".into()));
                }
                Ok(format!("notary {from} handed over to {to}"))
            }
            other => {
                self.kind = Some(StatementKind::Other);
                self.not_checked.push("what the statement says: its type is not known here".into());
                Ok(format!("a known notary signed a statement of type {other:?}"))
            }
        }
    }

    fn signature(&mut self, record: &SignatureRecord, given: &Given<'_>) -> Result<String, Flaw> {
        self.kind = Some(StatementKind::Signature);
        self.public_key = Some(record.public_key);
        if record.artifact.sha512.as_bytes() != given.sha512 {
            return Err(Flaw::invalid("the record's SHA-512 is not that of the file".into()));
        }
        let message = SignedData {
            namespace: &record.signature.namespace,
            hash: HashAlgorithm::Sha512,
            message_digest: given.sha512,
        }
        .to_bytes();
        let key = VerifyingKey::from_bytes(record.public_key.as_bytes())
            .map_err(|_| Flaw::invalid("the record's public key is malformed".into()))?;
        let holds = Signature::from_slice(&record.signature.value)
            .is_ok_and(|signature| key.verify_strict(&message, &signature).is_ok());
        if !holds {
            return Err(Flaw::invalid("the key's own signature does not fit the file".into()));
        }
        if record.request != request_of_message(&message) {
            return Err(Flaw::invalid("the record names another request than it signs".into()));
        }
        self.checked.push(format!("{} signed this file", record.public_key));
        self.generation(&record.public_key, given)?;
        self.receipt_of(record, given.receipt)?;
        Ok(format!("a known notary recorded that workload {} signed it", record.workload))
    }

    fn generation(&mut self, key: &PublicKey, given: &Given<'_>) -> Result<(), Flaw> {
        let place = self.place();
        match given.rotations.standing(key, place.as_ref(), self.signed_before) {
            Generation::NotRotated => {
                self.not_checked.push("rotations: none is known of this key".into());
            }
            Generation::Current { number } => {
                self.checked.push(format!("generation {number} of the key was the current one"));
            }
            Generation::Retired { number, at } => {
                return Err(Flaw::invalid(format!(
                    "generation {number} of the key was retired at {at}, before this was signed"
                )));
            }
            Generation::RetiredAndUndated { number } => {
                return Err(Flaw::unknown(format!(
                    "generation {number} of the key is retired, and when this was signed is not known"
                )));
            }
        }
        Ok(())
    }

    fn key_rotation(&mut self, rotation: &KeyRotation) -> Result<String, Flaw> {
        self.kind = Some(StatementKind::KeyRotation);
        self.public_key = Some(rotation.successor);
        if let Some(key) = rotation.missing_signature() {
            return Err(Flaw::invalid(format!("{key} did not sign the handover")));
        }
        self.checked.push("both keys signed the handover".into());
        self.not_checked.push("the rotations before it: `key history` does".into());
        let KeyRotation { generation, retired, .. } = rotation;
        Ok(format!("{retired} handed over to generation {generation} of the key"))
    }

    /// What became of the key, by a receipt that the caller checked.
    fn receipt_of(
        &mut self,
        record: &SignatureRecord,
        receipt: Option<&Receipt>,
    ) -> Result<(), Flaw> {
        let Some(receipt) = receipt else {
            self.not_checked.push("what became of the key: no receipt was given".into());
            return Ok(());
        };
        let found = (&receipt.key.public_key, &receipt.workload, receipt.ledger.id);
        if found != (&record.public_key, &record.workload, record.ledger) {
            return Err(Flaw::invalid("the receipt is of another key or workload".into()));
        }
        self.checked.push(fate(receipt));
        self.not_checked.push("that the receipt's list has this signature: ask the ledger".into());
        Ok(())
    }

    fn receipt(&mut self, receipt: &Receipt) -> Result<String, Flaw> {
        self.kind = Some(StatementKind::Receipt);
        self.public_key = Some(receipt.key.public_key);
        if !receipt.key.fate.fits(receipt.key.origin) {
            return Err(Flaw::invalid(
                "the receipt claims more than the key's origin allows".into(),
            ));
        }
        self.checked.push(fate(receipt));
        self.not_checked.push("the scrub itself: it is the word of the observers it names".into());
        self.not_checked.push("that its rows are in the ledger: `audit verify` does".into());
        Ok(format!("a known notary signed the receipt of workload {}", receipt.workload))
    }

    fn shred_receipt(&mut self, receipt: &ShredReceipt) -> Result<String, Flaw> {
        self.kind = Some(StatementKind::ShredReceipt);
        if !receipt.is_consistent() {
            return Err(Flaw::invalid("the receipt claims more than it counts".into()));
        }
        self.not_checked.push("the shredding itself: it is the word of the observers".into());
        Ok(format!("a known notary signed the shred receipt of process {}", receipt.process.pid))
    }

    fn playbook_report(&mut self, report: &FiledReport) -> Result<String, Flaw> {
        self.kind = Some(StatementKind::PlaybookReport);
        if !report.is_consistent() {
            return Err(Flaw::invalid("the report claims more than its steps allow".into()));
        }
        self.not_checked
            .push("that the steps did what they say: it is their reporter's word".into());
        Ok(format!("a known notary signed what was reported of playbook {}", report.playbook))
    }

    fn conclude(self, outcome: Outcome, reason: String) -> BundleVerdict {
        let Self { kind, notary, public_key, log, signed_before, checked, not_checked } = self;
        BundleVerdict {
            outcome,
            reason,
            kind,
            notary,
            public_key,
            log,
            signed_before,
            checked,
            not_checked,
        }
    }
}

fn open<P: Predicate>(payload: &[u8]) -> Result<P, Flaw> {
    let statement = Statement::<P>::parse(payload);
    let wrong = |error: StatementError| Flaw::invalid(clauses(&error));
    Ok(statement.map_err(wrong)?.into_predicate())
}

/// What became of a key, how, when, and by whose word.
fn fate(receipt: &Receipt) -> String {
    let fate = match receipt.key.fate {
        KeyFate::Destroyed => "the key was destroyed",
        KeyFate::ThisCopyDestroyed => "this copy of the key was destroyed",
        KeyFate::Unproven => "what became of the key is unproven",
    };
    let seen = receipt.scrub.statements.iter();
    let outside = seen.filter(|seen| seen.observer == Observer::ObservedOutside).count();
    let all = receipt.scrub.statements.len();
    format!(
        "{fate}, at {}; {outside} of {all} statements were observed outside",
        receipt.times.ended
    )
}
