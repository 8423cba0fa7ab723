//! How one signing key hands over to the next: the statement, and the chain of them.

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

use evanesce_protocol::rotation::Handover;
use evanesce_protocol::{Digest, PublicKey};

use crate::base64;
use crate::checkpoint::LedgerId;
use crate::dsse::Envelope;
use crate::notary::{NotaryKeyId, NotaryKeys};
use crate::read::{ReadError, Reader};
use crate::row::{Event, Row};
use crate::statement::{Predicate, Statement, StatementError, Subject};
use crate::timestamp::Timestamp;

/// One key hands over to the next: both keys have signed it, and the notary signs it all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotation {
    /// The ledger it is for.
    pub ledger: LedgerId,
    /// The successor's generation: a key that was never rotated has generation 1.
    pub generation: u64,
    /// The key that signs no longer.
    pub retired: PublicKey,
    /// The key that signs from now on.
    pub successor: PublicKey,
    /// When.
    pub at: Timestamp,
    /// SHA-256 of the payload of the statement that made the retired key the successor of another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// Why, in the operator's words.
    pub reason: String,
    /// The signatures of both keys; see [`Handover::signed_bytes`].
    pub signatures: HandoverSignatures,
}

/// What both keys signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverSignatures {
    /// By the retired key.
    pub retired: KeySignature,
    /// By its successor.
    pub successor: KeySignature,
}

/// A pure Ed25519 signature. In JSON, its 64 bytes in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySignature([u8; 64]);

impl KeySignature {
    /// Takes `R` and `S` (RFC 8032, section 5.1.6).
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Whether it is `key`'s over these bytes.
    pub fn is_by(&self, key: &PublicKey, bytes: &[u8]) -> bool {
        let signature = Signature::from_bytes(&self.0);
        VerifyingKey::from_bytes(key.as_bytes())
            .is_ok_and(|key| key.verify_strict(bytes, &signature).is_ok())
    }
}

impl Serialize for KeySignature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        base64::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for KeySignature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = base64::deserialize(deserializer)?;
        let bytes = bytes.try_into().map_err(|_| serde::de::Error::custom("not 64 bytes"))?;
        Ok(Self(bytes))
    }
}

impl Predicate for KeyRotation {
    const TYPE: &str = "https://evanesce.dev/key-rotation/v1";

    fn subject(&self) -> Subject {
        Subject::new(format!("key generation {}", self.generation), self.successor.digest())
    }
}

impl KeyRotation {
    /// What both keys signed.
    pub fn handover(&self) -> Handover {
        Handover {
            ledger: *self.ledger.as_bytes(),
            generation: self.generation,
            retired: self.retired,
            successor: self.successor,
            at_unix_ms: self.at.unix_ms(),
            previous: self.previous,
            reason: self.reason.clone(),
        }
    }

    /// Which of the two keys did not sign it; `None` where both did.
    pub fn missing_signature(&self) -> Option<PublicKey> {
        let bytes = self.handover().signed_bytes();
        let signed = [
            (self.retired, &self.signatures.retired),
            (self.successor, &self.signatures.successor),
        ];
        signed
            .into_iter()
            .find(|(key, signature)| !signature.is_by(key, &bytes))
            .map(|(key, _)| key)
    }
}

/// One rotation of a key's history, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// Its row.
    pub row: u64,
    /// What it says.
    pub rotation: KeyRotation,
    /// The digest of its payload, which the next one names.
    pub statement: Digest,
    /// The notary that signed it.
    pub notary: NotaryKeyId,
    /// What does not hold. None where all of it was checked and holds.
    pub problems: Vec<HistoryProblem>,
}

/// What can be wrong with one rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HistoryProblem {
    /// The notary that signed it is not known to the verifier.
    UnknownNotary,
    /// The notary's signature does not hold, or it had handed over before.
    Notary,
    /// One of the two keys did not sign it.
    NotSigned(PublicKey),
    /// It is of another ledger.
    OtherLedger,
    /// Its generation is not the one after that of the key it retires.
    Generation,
    /// It does not name the statement before it.
    Previous,
    /// The key it retires was retired before: two keys claim to succeed it.
    RetiredTwice,
}

/// The rotations by which `key` came to be and by which it was succeeded, oldest first. One pass
/// over the rows; memory grows with the number of rotations in the ledger alone.
///
/// `notaries` are the notary keys that the verifier trusts; keys that these hand over to are
/// followed.
///
/// # Errors
///
/// [`ReadError`] where the ledger cannot be read. That its rows are chained is for
/// [`crate::verify()`] to say.
pub fn history(
    reader: &Reader,
    mut notaries: NotaryKeys,
    key: &PublicKey,
) -> Result<Vec<HistoryEntry>, ReadError> {
    let ledger = reader.ledger_id()?;
    let mut all: Vec<HistoryEntry> = Vec::new();
    for row in reader.rows() {
        match row? {
            Row { event: Event::Notary(row), .. } => {
                if let Some(rotation) = &row.rotation {
                    // What does not hold is not followed; the audit says why.
                    notaries.rotate(rotation, &ledger, &row.public_key).ok();
                }
            }
            Row { seq, event: Event::KeyRotated(rotated), .. } => {
                if let Ok(mut entry) = HistoryEntry::of(seq, &rotated.envelope, &notaries) {
                    if entry.rotation.ledger != ledger {
                        entry.problems.push(HistoryProblem::OtherLedger);
                    }
                    entry.link(&all);
                    all.push(entry);
                }
            }
            _ => {}
        }
    }
    Ok(chain_of(all, key))
}

impl HistoryEntry {
    fn of(row: u64, envelope: &Envelope, notaries: &NotaryKeys) -> Result<Self, StatementError> {
        let rotation: KeyRotation = Statement::parse_unverified(envelope)?.into_predicate();
        let notary = envelope.key_id();
        let mut problems = Vec::new();
        match notaries.find(notary) {
            None => problems.push(HistoryProblem::UnknownNotary),
            Some((key, crate::notary::Standing::Current)) if envelope.verify(key).is_ok() => {}
            Some(_) => problems.push(HistoryProblem::Notary),
        }
        problems.extend(rotation.missing_signature().map(HistoryProblem::NotSigned));
        let statement = Digest::of(envelope.payload_unverified());
        Ok(Self { row, rotation, statement, notary, problems })
    }

    /// Checks it against those before it.
    fn link(&mut self, before: &[Self]) {
        let KeyRotation { generation, retired, previous, .. } = &self.rotation;
        let made = before.iter().rev().find(|entry| entry.rotation.successor == *retired);
        match made {
            Some(made) => {
                if *generation != made.rotation.generation.saturating_add(1) {
                    self.problems.push(HistoryProblem::Generation);
                }
                if *previous != Some(made.statement) {
                    self.problems.push(HistoryProblem::Previous);
                }
            }
            // The key may have been made before this ledger: its generation is what it says.
            None if *generation < 2 => self.problems.push(HistoryProblem::Generation),
            None => {}
        }
        if before.iter().any(|entry| entry.rotation.retired == self.rotation.retired) {
            self.problems.push(HistoryProblem::RetiredTwice);
        }
    }
}

/// Those that lead to `key`, and on from it.
fn chain_of(all: Vec<HistoryEntry>, key: &PublicKey) -> Vec<HistoryEntry> {
    let mut keys = vec![*key];
    // Backwards: each key has one statement that made it.
    for entry in all.iter().rev() {
        if keys.last() == Some(&entry.rotation.successor) {
            keys.push(entry.rotation.retired);
        }
    }
    for entry in &all {
        if keys.contains(&entry.rotation.retired) && !keys.contains(&entry.rotation.successor) {
            keys.push(entry.rotation.successor);
        }
    }
    let is_of_key = |entry: &HistoryEntry| {
        keys.contains(&entry.rotation.retired) && keys.contains(&entry.rotation.successor)
    };
    all.into_iter().filter(is_of_key).collect()
}
