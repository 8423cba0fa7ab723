//! The side that wants the key.

use evanesce_evidence::EvidenceEnvelope;
use evanesce_ledger::{KeyRelease, NotaryKey, Received, Statement, Timestamp};
use evanesce_protocol::evidence::{Nonce, ReleaseKey, Subject};
use evanesce_protocol::release::{RELEASE_SEALED_BYTES, ReleaseContext};
use evanesce_protocol::{Digest, PublicKey};

use crate::challenge::Challenge;
use crate::error::ReleaseError;
use crate::messages::{Answer, Refusal, Request};
use crate::text;

/// A challenge of the holder that is trusted, about the key that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    challenge: Challenge,
    holder: NotaryKey,
}

impl Asked {
    /// Takes a challenge, if it names the trusted holder and, where one is wanted, the wanted key.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] for a challenge of another holder or key, and one that is over.
    pub fn accept(
        challenge: Challenge,
        holder: &NotaryKey,
        wanted: Option<&PublicKey>,
        now: Timestamp,
    ) -> Result<Self, ReleaseError> {
        if challenge.holder() != holder.id() {
            let (expected, found) = (holder.id(), challenge.holder());
            return Err(ReleaseError::OtherHolder { expected, found });
        }
        if let Some(wanted) = wanted.filter(|wanted| **wanted != challenge.public_key()) {
            let (expected, found) = (*wanted, challenge.public_key());
            return Err(ReleaseError::OtherKey { expected, found });
        }
        challenge.check_time(now)?;
        Ok(Self { challenge, holder: holder.clone() })
    }

    /// What the evidence has to bind.
    pub fn nonce(&self) -> Nonce {
        self.challenge.nonce()
    }

    /// The key that is asked for.
    pub const fn public_key(&self) -> PublicKey {
        self.challenge.public_key()
    }

    /// Until when the challenge counts.
    pub const fn expires(&self) -> Timestamp {
        self.challenge.expires()
    }

    /// Puts the request together, around evidence that was collected for it.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] for evidence that is not about this challenge and key.
    pub fn request(self, evidence: EvidenceEnvelope) -> Result<Pending, ReleaseError> {
        let release_key = release_key_of(&evidence, &self.challenge)?;
        let challenge = self.challenge.digest();
        let session = self.challenge.session();
        let evidence_digest = evidence.digest();
        let line = Request { session, challenge, evidence }.to_text();
        let context = ReleaseContext {
            session,
            challenge,
            request: text::digest(&line),
            public_key: self.challenge.public_key(),
        };
        Ok(Pending { asked: self, line, context, release_key, evidence: evidence_digest })
    }
}

/// The release key that `evidence` binds, if it is about `challenge`. Whether it is true is for an
/// appraisal to say.
pub(crate) fn release_key_of(
    evidence: &EvidenceEnvelope,
    challenge: &Challenge,
) -> Result<ReleaseKey, ReleaseError> {
    let Subject::KeyRelease { public_key, release_key } = evidence.binding.subject else {
        return Err(ReleaseError::Purpose { found: evidence.binding.subject.purpose() });
    };
    if public_key != challenge.public_key() {
        let expected = challenge.public_key();
        return Err(ReleaseError::OtherKey { expected, found: public_key });
    }
    match evidence.binding.nonce == challenge.nonce() {
        true => Ok(release_key),
        false => Err(ReleaseError::Nonce),
    }
}

/// A request that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    asked: Asked,
    line: String,
    context: ReleaseContext,
    release_key: ReleaseKey,
    evidence: Digest,
}

impl Pending {
    /// The request: one line of JSON, without a newline.
    pub fn to_text(&self) -> &str {
        &self.line
    }

    /// Until when an answer counts.
    pub const fn expires(&self) -> Timestamp {
        self.asked.expires()
    }

    /// Judges what came back.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] for anything but the answer of the pinned holder to this very request, in
    /// time; [`ReleaseError::Refused`] where the holder said no.
    pub fn receive(self, line: &[u8], now: Timestamp) -> Result<Accepted, ReleaseError> {
        Refusal::tell_apart(line)?;
        let answer: Answer = text::read(line)?;
        let (challenge, context) = (&self.asked.challenge, self.context);
        challenge.check_time(now)?;
        if answer.session != context.session {
            let (expected, found) = (context.session, answer.session);
            return Err(ReleaseError::OtherSession { expected, found });
        }
        let statement = Statement::<KeyRelease>::open(&answer.release, &self.asked.holder);
        let release = statement.map_err(ReleaseError::Signature)?.into_predicate();
        self.check(&release)?;
        if release.sealed != Digest::of(&answer.sealed) {
            return Err(ReleaseError::Sealed);
        }
        let line = text::write(&answer);
        let received = Received {
            transcript: text::transcript(&challenge.to_text(), &self.line, &line),
            session: context.session,
            holder: self.asked.holder.id(),
            ledger: release.ledger.id,
            public_key: context.public_key,
            evidence: self.evidence,
        };
        Ok(Accepted { context, sealed: answer.sealed, received })
    }

    /// Whether what the notary signed is about this request, member by member.
    fn check(&self, release: &KeyRelease) -> Result<(), ReleaseError> {
        let context = self.context;
        if release.session != context.session {
            let (expected, found) = (context.session, release.session);
            return Err(ReleaseError::OtherSession { expected, found });
        }
        if release.challenge != context.challenge {
            return Err(ReleaseError::OtherChallenge);
        }
        if release.request != context.request {
            let (expected, found) = (context.request, release.request);
            return Err(ReleaseError::OtherRequest { expected, found });
        }
        if release.public_key != context.public_key {
            let (expected, found) = (context.public_key, release.public_key);
            return Err(ReleaseError::OtherKey { expected, found });
        }
        if release.release_key != self.release_key {
            let (expected, found) = (self.release_key, release.release_key);
            return Err(ReleaseError::OtherReleaseKey { expected, found });
        }
        match release.evidence == self.evidence {
            true => Ok(()),
            false => Err(ReleaseError::OtherEvidence),
        }
    }
}

/// An answer that holds: for the worker that asked, and for the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What the key was sealed under.
    pub context: ReleaseContext,
    /// The sealed key, which that worker alone opens.
    pub sealed: [u8; RELEASE_SEALED_BYTES],
    /// The row that the asker's ledger gets.
    pub received: Received,
}
