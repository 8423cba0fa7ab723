//! The side that has the key.

use evanesce_appraisal::Trusted;
use evanesce_evidence::EvidenceEnvelope;
use evanesce_ledger::shred::LedgerHead;
use evanesce_ledger::{
    Envelope, KeyRelease, NotaryKeyId, P256Signature, Predicate as _, Released, Timestamp,
};
use evanesce_protocol::Digest;
use evanesce_protocol::evidence::ReleaseKey;
use evanesce_protocol::release::{RELEASE_SEALED_BYTES, ReleaseContext};

use crate::asker::release_key_of;
use crate::challenge::Challenge;
use crate::error::ReleaseError;
use crate::messages::{Answer, Request};
use crate::text;

/// A request to an open challenge, whose evidence is not judged yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    challenge: Challenge,
    request: Request,
    context: ReleaseContext,
    release_key: ReleaseKey,
}

impl Admitted {
    /// Holds a request against the challenge of its session, which the caller has given up before:
    /// whatever comes of this, it is used.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] for a request to another challenge, one that is late, and evidence that is
    /// not about this release.
    pub fn of(
        request: Request,
        challenge: Challenge,
        now: Timestamp,
    ) -> Result<Self, ReleaseError> {
        if request.session != challenge.session() {
            let (expected, found) = (challenge.session(), request.session);
            return Err(ReleaseError::OtherSession { expected, found });
        }
        challenge.check_time(now)?;
        if request.challenge != challenge.digest() {
            return Err(ReleaseError::OtherChallenge);
        }
        let release_key = release_key_of(&request.evidence, &challenge)?;
        let context = ReleaseContext {
            session: challenge.session(),
            challenge: challenge.digest(),
            request: text::digest(&request.to_text()),
            public_key: challenge.public_key(),
        };
        Ok(Self { challenge, request, context, release_key })
    }

    /// What is to be appraised, with the challenge's nonce and key as what is expected.
    pub const fn evidence(&self) -> &EvidenceEnvelope {
        &self.request.evidence
    }

    /// The challenge that it is a request to.
    pub const fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// Takes the proof that the evidence met `policy`.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::NotAppraised`] where the proof is of other evidence, or of a machine whose
    /// REPORT_DATA nobody compared.
    pub fn approve(self, trusted: &Trusted, policy: Digest) -> Result<Approved, ReleaseError> {
        let is_of_this = trusted.is_bound()
            && trusted.binding() == Some(&self.request.evidence.binding)
            && *trusted.report_data() == self.request.evidence.binding.report_data();
        if !is_of_this {
            return Err(ReleaseError::NotAppraised);
        }
        let tee = serde_json::to_value(trusted.tee()).ok();
        let tee = tee.and_then(|tee| tee.as_str().map(str::to_owned)).unwrap_or_default();
        let measurement = trusted.measurement().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Approved { admitted: self, policy, tee, measurement })
    }
}

/// A request that may be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approved {
    admitted: Admitted,
    policy: Digest,
    tee: String,
    measurement: String,
}

impl Approved {
    /// Whom the key is to be sealed to.
    pub const fn release_key(&self) -> ReleaseKey {
        self.admitted.release_key
    }

    /// Whether the challenge still counts.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Expired`].
    pub fn check_time(&self, now: Timestamp) -> Result<(), ReleaseError> {
        self.admitted.challenge.check_time(now)
    }

    /// What it is to be sealed under.
    pub const fn context(&self) -> ReleaseContext {
        self.admitted.context
    }

    /// Puts the answer together: as of the row of the holder's ledger before the one that the answer
    /// will be in. `sign` is the notary's, with the key named `key`.
    ///
    /// # Errors
    ///
    /// Whatever `sign` returns.
    pub fn answer<E>(
        self,
        sealed: [u8; RELEASE_SEALED_BYTES],
        (ledger, at): (LedgerHead, Timestamp),
        key: NotaryKeyId,
        sign: impl FnMut(&[u8]) -> Result<P256Signature, E>,
    ) -> Result<Answered, E> {
        let Admitted { challenge, request, context, release_key } = self.admitted;
        let release = KeyRelease {
            ledger,
            session: context.session,
            challenge: context.challenge,
            request: context.request,
            public_key: context.public_key,
            release_key,
            sealed: Digest::of(&sealed),
            evidence: request.evidence.digest(),
            notary: request.evidence.binding.notary,
            tee: self.tee,
            measurement: self.measurement,
            policy: self.policy,
            at,
        };
        let envelope: Envelope = release.clone().sign(key, sign)?;
        let answer = Answer { session: context.session, sealed, release: envelope.clone() };
        let line = text::write(&answer);
        let transcript = text::transcript(&challenge.to_text(), &request.to_text(), &line);
        Ok(Answered { line, release, row: Released { transcript, envelope } })
    }
}

/// An answer, and what the holder's ledger says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "append the row before the answer is handed out"]
pub struct Answered {
    /// The answer: one line of JSON, without a newline.
    pub line: String,
    /// What the notary signed.
    pub release: KeyRelease,
    /// The row.
    pub row: Released,
}
