//! Whether a signature came from an attested signer, and on what that rests. Decisions only;
//! `commands/verify.rs` reads the files.
//!
//! Two ways lead there. By a policy ([`by_policy`]) the evidence itself is judged here, as of the
//! time of the signature. By a result ([`by_result`]) somebody else judged it, whose word is taken.

use std::fmt::Write as _;

use evanesce_appraisal::{Appraisal, Check, Outcome, Policy, Roots, Tee, appraise};
use evanesce_evidence::EvidenceEnvelope;
use evanesce_ledger::{AttestationResult, Envelope, NotaryKey, NotaryKeyId, Statement, Timestamp};
use evanesce_protocol::evidence::NotaryPoint;
use evanesce_protocol::{Digest, PublicKey};
use serde::{Deserialize, Serialize};

use crate::commands::attest::input::{Input, moment};
use crate::signature::{Judgement, Verdict};

/// Evidence and what others said of it, in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// The evidence.
    pub evidence: EvidenceEnvelope,
    /// An [`AttestationResult`], signed by whoever appraised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Envelope>,
}

/// What evidence says of the key of a signature.
#[derive(Debug, Serialize)]
pub struct AttestationRecord {
    outcome: AttestationOutcome,
    reason: String,
    evidence: Option<Digest>,
    tee: Option<Tee>,
    measurement: Option<String>,
    policy: Option<Digest>,
    /// Who appraised, where it was not done here.
    result_by: Option<NotaryKeyId>,
    /// The time for which the signer counts as attested.
    at: Option<Timestamp>,
    failures: Vec<Check>,
    #[serde(skip)]
    notary: Option<NotaryKey>,
    #[serde(skip)]
    checked: Vec<String>,
    #[serde(skip)]
    not_checked: Vec<String>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttestationOutcome {
    /// The key lived in a machine and a worker that are accepted.
    Attested,
    /// Genuine, and not listed; or nobody who is trusted judged it.
    Unknown,
    /// Not genuine, not of this key, or what the policy refuses.
    Refused,
    /// There is none.
    None,
}

impl AttestationRecord {
    /// There is no evidence to judge.
    pub fn none(why: &str) -> Self {
        Self {
            outcome: AttestationOutcome::None,
            reason: format!("no evidence of an attested signer: {why}"),
            evidence: None,
            tee: None,
            measurement: None,
            policy: None,
            result_by: None,
            at: None,
            failures: Vec::new(),
            notary: None,
            checked: Vec::new(),
            not_checked: Vec::new(),
        }
    }

    /// The notary that stands beside an attested signer.
    pub const fn notary(&self) -> Option<&NotaryKey> {
        self.notary.as_ref()
    }

    /// The answer.
    pub const fn outcome(&self) -> AttestationOutcome {
        self.outcome
    }

    /// Adds something that was found to hold.
    pub fn add_checked(&mut self, sentence: String) {
        self.checked.push(sentence);
    }

    /// Adds something that was not looked at.
    pub fn add_not_checked(&mut self, sentence: &str) {
        self.not_checked.push(sentence.to_owned());
    }

    /// Says for which time all this was judged, and by whose word.
    pub fn add_time(&mut self, is_given: bool, recorded: Option<(Timestamp, u64)>) {
        let Some(at) = self.at else { return };
        match (is_given, recorded) {
            (true, _) => self.checked.push(format!("attested as of {at}, the time of --at")),
            (false, Some((_, row))) => {
                self.checked.push(format!("attested as of {at}, by row {row} of the ledger"));
            }
            (false, None) => self.not_checked.push(format!(
                "when the signer was attested: judged as of now, {at}, since no ledger and no --at says when it signed"
            )),
        }
    }

    /// Lets the verdict on a signature depend on this: who asks for attested signers wants no other.
    pub fn apply(&mut self, judgement: &mut Judgement, has_certificate: bool) {
        judgement.checked.append(&mut self.checked);
        judgement.not_checked.append(&mut self.not_checked);
        let verdict = match (self.outcome, judgement.verdict) {
            (_, Verdict::Invalid) => return,
            (AttestationOutcome::Attested, Verdict::Trusted) => {
                judgement.reason = format!("{}; {}", judgement.reason, self.reason);
                return;
            }
            // Evidence vouches for the plain key. A certificate has an issuer and a time of its
            // own, and what is wrong with those evidence does not heal.
            (AttestationOutcome::Attested, Verdict::SignerUnknown) if !has_certificate => {
                Verdict::Trusted
            }
            (AttestationOutcome::Attested, Verdict::SignerUnknown) => return,
            (AttestationOutcome::Unknown | AttestationOutcome::None, _) => Verdict::SignerUnknown,
            (AttestationOutcome::Refused, _) => Verdict::Invalid,
        };
        judgement.verdict = verdict;
        judgement.reason.clone_from(&self.reason);
    }
}

/// Judges evidence under a policy: it has to speak for `key`, and to hold as of the time `at`.
pub fn by_policy(
    input: &Input,
    key: &PublicKey,
    policy: &Policy,
    roots: &Roots,
    at: Timestamp,
) -> AttestationRecord {
    let expected = input.expected(None, Some(key), None);
    let appraisal = appraise(input.evidence(), expected, policy, roots, moment(Some(at)));
    let mut record = AttestationRecord::none("");
    record.evidence = input.envelope().map(EvidenceEnvelope::digest);
    record.policy = Some(policy.digest());
    record.tee = Some(appraisal.tee());
    record.at = Some(at);
    record.failures = appraisal.failures().cloned().collect();
    record.not_checked = not_checked(&appraisal);
    (record.outcome, record.reason) = match appraisal.outcome() {
        Outcome::Trusted => (AttestationOutcome::Attested, String::new()),
        Outcome::Unknown => {
            (AttestationOutcome::Unknown, failed("the policy does not list it", &record.failures))
        }
        Outcome::Refused => {
            (AttestationOutcome::Refused, failed("the evidence is refused", &record.failures))
        }
    };
    match appraisal.into_trusted() {
        Ok(trusted) if trusted.is_bound() => {
            let measurement = hex::encode(trusted.measurement());
            let tee = trusted.tee();
            record.reason = format!("its key lives in a {tee} machine that the policy accepts");
            record.checked.push(format!(
                "{tee} evidence of this key meets the policy as of {at}, by the vendor's roots"
            ));
            record.checked.push(format!("the machine launched {measurement}"));
            if let Some(binding) = trusted.binding() {
                record.notary = notary_of(&binding.notary);
                record
                    .checked
                    .push(format!("signer {} in worker {}", binding.signer, binding.worker));
            }
            record.measurement = Some(measurement);
        }
        Ok(_) => {
            record.outcome = AttestationOutcome::Unknown;
            record.reason = "the evidence does not bind this key".to_owned();
        }
        Err(_) => {}
    }
    record
}

/// Takes the word of a verifier whose key is trusted: of this evidence, this key and this time.
pub fn by_result(
    bundle: &Bundle,
    key: &PublicKey,
    verifiers: &[NotaryKey],
    at: Timestamp,
) -> AttestationRecord {
    let Some(envelope) = &bundle.result else {
        return AttestationRecord::none("nobody signed a result of its appraisal");
    };
    let mut record = AttestationRecord::none("");
    record.evidence = Some(bundle.evidence.digest());
    record.at = Some(at);
    let known = verifiers.iter().find(|verifier| verifier.id() == envelope.key_id());
    let Some(verifier) = known else {
        record.outcome = AttestationOutcome::Unknown;
        record.reason =
            format!("{} judged the evidence, who is not trusted here", envelope.key_id());
        return record;
    };
    let refuse = |mut record: AttestationRecord, reason: String| {
        record.outcome = AttestationOutcome::Refused;
        record.reason = reason;
        record
    };
    let result = match Statement::<AttestationResult>::open(envelope, verifier) {
        Ok(statement) => statement.into_predicate(),
        Err(error) => return refuse(record, format!("the result does not hold: {error}")),
    };
    record.result_by = Some(verifier.id());
    record.policy = Some(result.policy);
    if result.evidence != bundle.evidence.digest() {
        return refuse(record, "the result is of other evidence".to_owned());
    }
    if result.public_key != Some(*key) {
        return refuse(record, "the result is of another key".to_owned());
    }
    if result.expires < at {
        let until = result.expires;
        return refuse(record, format!("the result counts until {until}, not at {at}"));
    }
    record.outcome = AttestationOutcome::Attested;
    record.reason =
        format!("a trusted verifier judged its key to live in a {} machine", result.tee);
    record.checked.push(format!(
        "verifier {} says that the evidence of this key met policy {} at {}",
        verifier.id(),
        result.policy,
        result.appraised_at
    ));
    record.checked.push(format!("the machine launched {}", result.measurement));
    record.checked.push(format!("signer {} in worker {}", result.signer, result.worker));
    record.notary = notary_of(&result.notary);
    record.measurement = Some(result.measurement);
    record.not_checked = vec![
        "the evidence itself: the verifier's word was taken, which --policy would not".to_owned(),
        STAYED.to_owned(),
    ];
    if at < result.appraised_at {
        record.not_checked.push(format!(
            "that the key was attested before it signed: the result is of {}",
            result.appraised_at
        ));
    }
    record
        .not_checked
        .extend(result.not_checked.iter().map(|sentence| format!("by the verifier: {sentence}")));
    record
}

fn not_checked(appraisal: &Appraisal) -> Vec<String> {
    let mut sentences = appraisal.not_checked().to_vec();
    if appraisal.outcome() == Outcome::Trusted {
        sentences.push(STAYED.to_owned());
    }
    sentences
}

/// The first rules that do not hold, in one clause.
fn failed(what: &str, failures: &[Check]) -> String {
    let mut text = what.to_owned();
    for (number, check) in failures.iter().take(FAILURES_NAMED).enumerate() {
        let mark = if number == 0 { ": " } else { "; " };
        write!(text, "{mark}{} ({})", check.asks, check.rule).expect("a String takes any text");
    }
    match failures.len().saturating_sub(FAILURES_NAMED) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

fn notary_of(point: &NotaryPoint) -> Option<NotaryKey> {
    NotaryKey::from_sec1(point.as_bytes()).ok()
}

const STAYED: &str = "That the key never left: evidence shows where it was when the evidence was \
                      collected, and that worker lets none out.";

/// The others are in `--json`, and in `attest appraise`.
const FAILURES_NAMED: usize = 3;
