//! A holder with a key, an asker in a machine that does not exist, and everything that passes
//! between them.

use std::time::Duration;

use evanesce_appraisal::{
    Appraisal, Evidence, Expected, Policy, Roots, SnpEndorsements, Trusted, appraise,
    policy_from_evidence,
};
use evanesce_evidence::{Endorsements, EvidenceEnvelope, SnpEndorsements as Endorsed};
use evanesce_ledger::shred::LedgerHead;
use evanesce_ledger::{
    Envelope, KeyRelease, LedgerId, NotaryKey, P256Signature, Predicate as _, Timestamp,
};
use evanesce_protocol::evidence::{
    Binding, Nonce, NotaryPoint, RawEvidence, ReleaseKey, Subject, provider,
};
use evanesce_protocol::release::RELEASE_SEALED_BYTES;
use evanesce_protocol::{Digest, PublicKey};
use evanesce_release::{Admitted, Answered, Asked, Challenge, Pending, ReleaseError, Request};
use p256::ecdsa::signature::Signer as _;
use time::OffsetDateTime;

use crate::genoa::Machine;

pub(crate) const NOW: Timestamp = Timestamp::from_unix_ms(1_795_313_400_000);
pub(crate) const SEALED: [u8; RELEASE_SEALED_BYTES] = [0x5e; RELEASE_SEALED_BYTES];
pub(crate) const LIFETIME: Duration = Duration::from_secs(120);

pub(crate) fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32])
}

pub(crate) fn release_key(number: u8) -> ReleaseKey {
    ReleaseKey::from_bytes([number; 32])
}

pub(crate) fn session(number: u8) -> Nonce {
    Nonce::from_bytes([number; 32])
}

pub(crate) fn after(seconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(NOW.unix_ms() + 1000 * seconds)
}

fn ledger() -> LedgerHead {
    LedgerHead { id: LedgerId::from_bytes([7; 32]), last: 9, head: Digest::of(b"row 9") }
}

/// A notary with a key that is no secret.
pub(crate) struct Notary {
    secret: p256::ecdsa::SigningKey,
    pub(crate) key: NotaryKey,
}

impl Notary {
    pub(crate) fn new(number: u8) -> Self {
        let secret = p256::ecdsa::SigningKey::from_slice(&[number; 32]).unwrap();
        let point = secret.verifying_key().to_sec1_point(false);
        Self { secret, key: NotaryKey::from_sec1(point.as_bytes()).unwrap() }
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> Result<P256Signature, ()> {
        let signature: p256::ecdsa::Signature = self.secret.sign(bytes);
        P256Signature::from_fixed(&signature.to_bytes().into()).map_err(|_| ())
    }

    pub(crate) fn envelope(&self, release: KeyRelease) -> Envelope {
        release.sign(self.key.id(), |bytes| self.sign(bytes)).unwrap()
    }
}

/// Both sides.
pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) holder: Notary,
    pub(crate) policy: Policy,
    roots: Roots,
}

impl World {
    pub(crate) fn new() -> Self {
        let machine = Machine::new();
        let holder = Notary::new(1);
        let roots = Roots::danger_from_pem(&machine.roots).unwrap();
        let mut world = Self { policy: unlimited(&machine, &roots), machine, holder, roots };
        let evidence = world.evidence(release(key(2), release_key(6)), session(1));
        world.policy = world.policy_of(&evidence);
        world
    }

    /// A strict policy for the machine and signer of `evidence`.
    pub(crate) fn policy_of(&self, evidence: &EvidenceEnvelope) -> Policy {
        let binding = Some(&evidence.binding);
        let strict = policy_from_evidence(self.snp(evidence), binding, &self.roots, at(NOW));
        let text = strict.unwrap().to_toml().replace("\"production\"", "\"development\"");
        Policy::from_toml(&text.replace("age_hours_max = 720", "age_hours_max = 1000000")).unwrap()
    }

    pub(crate) fn challenge(&self, number: u8) -> Challenge {
        Challenge::new(session(number), key(2), self.holder.key.id(), NOW, LIFETIME).unwrap()
    }

    pub(crate) fn asked(&self, number: u8) -> Asked {
        Asked::accept(self.challenge(number), &self.holder.key, Some(&key(2)), NOW).unwrap()
    }

    /// Evidence of the machine about `subject`.
    pub(crate) fn evidence(&self, subject: Subject, nonce: Nonce) -> EvidenceEnvelope {
        let configuration = "{\"version\":\"0.1.0\",\"degraded\":[]}".to_owned();
        let binding = Binding {
            subject,
            nonce,
            notary: NotaryPoint::from_bytes([5; 65]),
            signer: Digest::of(b"signer"),
            worker: Digest::of(b"worker"),
            configuration: Digest::of(configuration.as_bytes()),
        };
        let raw = RawEvidence {
            provider: provider::SNP.to_owned(),
            outblob: self.machine.report(&binding.report_data()),
            auxblob: None,
        };
        let (vek, crl) = (Some(self.machine.vek.clone()), Some(self.machine.crl.clone()));
        let endorsements = Endorsements { snp: Some(Endorsed { vek, crl }), tdx: None };
        EvidenceEnvelope { binding, configuration, raw, endorsements }
    }

    /// What the asker's worker with this release key sends to the challenge of this session.
    pub(crate) fn pending(&self, number: u8, release_key: ReleaseKey) -> Pending {
        let asked = self.asked(number);
        let evidence = self.evidence(release(key(2), release_key), asked.nonce());
        asked.request(evidence).unwrap()
    }

    pub(crate) fn admit(
        &self,
        line: &str,
        challenge: &Challenge,
        now: Timestamp,
    ) -> Result<Admitted, ReleaseError> {
        Admitted::of(Request::from_text(line.as_bytes())?, challenge.clone(), now)
    }

    pub(crate) fn appraise(&self, evidence: &EvidenceEnvelope, challenge: &Challenge) -> Appraisal {
        let (nonce, public_key) = (challenge.nonce(), challenge.public_key());
        let expected = Expected::Binding {
            binding: &evidence.binding,
            nonce: Some(&nonce),
            public_key: Some(&public_key),
        };
        appraise(self.snp(evidence), expected, &self.policy, &self.roots, at(NOW))
    }

    pub(crate) fn trusted(&self, evidence: &EvidenceEnvelope, challenge: &Challenge) -> Trusted {
        self.appraise(evidence, challenge).into_trusted().unwrap()
    }

    /// What the holder answers to a request.
    pub(crate) fn answer(&self, pending: &Pending, number: u8) -> Answered {
        let challenge = self.challenge(number);
        let admitted = self.admit(pending.to_text(), &challenge, NOW).unwrap();
        let trusted = self.trusted(admitted.evidence(), &challenge);
        let approved = admitted.approve(&trusted, self.policy.digest()).unwrap();
        let sign = |bytes: &[u8]| self.holder.sign(bytes);
        approved.answer(SEALED, (ledger(), NOW), self.holder.key.id(), sign).unwrap()
    }

    fn snp<'e>(&self, evidence: &'e EvidenceEnvelope) -> Evidence<'e> {
        let endorsements = SnpEndorsements { vek: evidence.vek(), crl: evidence.crl() };
        match evidence.raw.provider.as_str() {
            provider::SNP => Evidence::Snp { report: &evidence.raw.outblob, endorsements },
            _ => Evidence::InsecureSoftware { statement: &evidence.raw.outblob },
        }
    }
}

pub(crate) fn release(public_key: PublicKey, release_key: ReleaseKey) -> Subject {
    Subject::KeyRelease { public_key, release_key }
}

/// A time as appraisals take it.
pub(crate) fn at(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.unix_ms()) * 1_000_000).unwrap()
}

/// A policy to begin with, before the one that is meant.
fn unlimited(machine: &Machine, roots: &Roots) -> Policy {
    let report = machine.report(&[0; 64]);
    let endorsements = SnpEndorsements { vek: Some(&machine.vek), crl: Some(&machine.crl) };
    let evidence = Evidence::Snp { report: &report, endorsements };
    policy_from_evidence(evidence, None, roots, at(NOW)).unwrap()
}
