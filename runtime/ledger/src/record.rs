//! The record of one signature: which key signed which file, in words that travel with the file.

use serde::{Deserialize, Serialize};

use evanesce_protocol::{Digest, KeyUse, PublicKey, WorkloadId};

use crate::base64;
use crate::checkpoint::LedgerId;
use crate::statement::{Predicate, Subject};
use crate::timestamp::Timestamp;

/// What the notary signs where a key of this installation signed a file.
///
/// The signature of the key itself travels inside: whoever has the file can check it without
/// believing the notary. The statement's subject is the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureRecord {
    /// The workload that held the key.
    pub workload: WorkloadId,
    /// The file.
    pub artifact: ArtifactRecord,
    /// The key that signed.
    pub public_key: PublicKey,
    /// What the key was bound to sign.
    #[serde(rename = "use")]
    pub key_use: KeyUse,
    /// The signature.
    pub signature: SshSignature,
    /// How the ledger names what was signed: see [`evanesce_protocol::commitment`].
    pub request: Digest,
    /// The ledger whose rows tell of the key.
    pub ledger: LedgerId,
    /// When this was recorded, by the clock of the machine that signed.
    pub at: Timestamp,
}

impl Predicate for SignatureRecord {
    const TYPE: &str = "https://evanesce.dev/signature/v1";

    fn subject(&self) -> Subject {
        let ArtifactRecord { name, sha256, sha512 } = &self.artifact;
        Subject::new(name.clone(), *sha256).with_sha512(sha512.clone())
    }
}

/// A file, by name and digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRecord {
    /// Its name without directories; says nothing, and helps people.
    pub name: String,
    /// SHA-256 of its bytes: what verifiers compare.
    pub sha256: Digest,
    /// SHA-512 of its bytes: what the signature is over.
    pub sha512: Sha512Digest,
}

/// An Ed25519 signature over what SSHSIG makes of a SHA-512 digest (OpenSSH, `PROTOCOL.sshsig`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshSignature {
    /// What it is for: `file`.
    pub namespace: String,
    /// Its 64 bytes.
    #[serde(with = "base64")]
    pub value: Vec<u8>,
}

/// A SHA-512 digest. In JSON, 128 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sha512Digest(Box<[u8; 64]>);

impl Sha512Digest {
    /// A digest that was computed elsewhere.
    pub fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(Box::new(bytes))
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// The digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0.as_slice())
    }
}

impl From<Sha512Digest> for String {
    fn from(digest: Sha512Digest) -> Self {
        digest.to_hex()
    }
}

impl TryFrom<String> for Sha512Digest {
    type Error = ParseSha512Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 64];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| ParseSha512Error)?;
        let digest = Self::from_bytes(bytes);
        match digest.to_hex() == text {
            true => Ok(digest),
            false => Err(ParseSha512Error),
        }
    }
}

/// A text that is not 128 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-512 digest: expected 128 lower-case hexadecimal digits")]
pub struct ParseSha512Error;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notary::tests::TestNotary;
    use crate::statement::Statement;

    fn record() -> SignatureRecord {
        SignatureRecord {
            workload: "w-1".parse().unwrap(),
            artifact: ArtifactRecord {
                name: "a.tar".into(),
                sha256: Digest::of(b"a"),
                sha512: Sha512Digest::from_bytes([5; 64]),
            },
            public_key: PublicKey::from_bytes([7; 32]),
            key_use: KeyUse::Message,
            signature: SshSignature { namespace: "file".into(), value: vec![1; 64] },
            request: Digest::of(b"request"),
            ledger: LedgerId::from_bytes([1; 32]),
            at: Timestamp::from_unix_ms(1),
        }
    }

    #[test]
    fn a_record_is_read_back_and_its_subject_is_the_file() {
        let notary = TestNotary::new(1);
        let Ok(envelope) = record().sign(notary.key().id(), |bytes| notary.sign(bytes));

        let statement = Statement::<SignatureRecord>::open(&envelope, notary.key()).unwrap();
        assert_eq!(statement.predicate(), &record());
        let payload: serde_json::Value =
            serde_json::from_slice(envelope.payload_unverified()).unwrap();
        let digest = &payload["subject"][0]["digest"];
        assert_eq!(digest["sha256"], Digest::of(b"a").to_hex());
        assert_eq!(digest["sha512"], "05".repeat(64));
    }

    #[test]
    fn a_record_about_another_file_than_its_subject_is_not_read() {
        let notary = TestNotary::new(1);
        let payload = serde_json::to_string(&Statement::of(record())).unwrap();
        let swapped = payload.replacen(&Digest::of(b"a").to_hex(), &Digest::of(b"b").to_hex(), 1);
        let envelope = notary.envelope(swapped.as_bytes());

        let error = Statement::<SignatureRecord>::open(&envelope, notary.key()).unwrap_err();
        assert_eq!(error.code(), "statement.subject");
    }
}
