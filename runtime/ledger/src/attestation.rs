//! What receipts, rows and results say of evidence.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use evanesce_protocol::evidence::{Nonce, NotaryPoint};
use evanesce_protocol::{Digest, PublicKey};

use crate::statement::{Predicate, Subject};
use crate::timestamp::Timestamp;

/// Evidence that was collected for a key: enough to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// The evidence's digest (`docs/formats/evidence.md`).
    pub evidence: Digest,
    /// Who made it, as the kernel names its providers: `sev_guest`, `tdx_guest`.
    pub provider: String,
    /// What makes it fresh.
    pub nonce: Nonce,
    /// When it was collected.
    pub collected: Timestamp,
}

/// A row that evidence was collected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// Which evidence.
    #[serde(flatten)]
    pub attestation: Attestation,
    /// The evidence itself without endorsements, as its own format has it; absent where it is too
    /// long for a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Value>,
}

/// What came of an appraisal, signed by whoever appraised.
///
/// The statement's subject is the key that the evidence speaks for; where it speaks for none, the
/// evidence itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "have the result signed: nobody believes one that is not"]
pub struct AttestationResult {
    /// The evidence's digest.
    pub evidence: Digest,
    /// The workload's key; none where the evidence speaks for an installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
    /// The notary that the evidence binds.
    pub notary: NotaryPoint,
    /// What the evidence is for: `signing-identity`, `key-release`, `installation`.
    pub purpose: String,
    /// What makes it fresh.
    pub nonce: Nonce,
    /// SHA-256 of `signer.wasm`.
    pub signer: Digest,
    /// SHA-256 of the worker's file.
    pub worker: Digest,
    /// SHA-256 of the runtime configuration.
    pub configuration: Digest,
    /// The kind of machine: `snp`, `tdx`.
    pub tee: String,
    /// MEASUREMENT or MRTD, 96 hexadecimal digits.
    pub measurement: String,
    /// The policy that was met.
    pub policy: Digest,
    /// The time that was appraised for.
    pub appraised_at: Timestamp,
    /// Until when the result may be relied on without another appraisal.
    pub expires: Timestamp,
    /// What was not looked at, a sentence each.
    pub not_checked: Vec<String>,
}

impl Predicate for AttestationResult {
    const TYPE: &str = "https://evanesce.dev/attestation-result/v1";

    fn subject(&self) -> Subject {
        match &self.public_key {
            Some(key) => Subject::new("attested key", key.digest()),
            None => Subject::new("attested installation", self.evidence),
        }
    }
}

/// Bytes in an envelope that a row takes along; the row's other members need less than a KiB.
pub const ENVELOPE_IN_ROW_BYTES_MAX: usize = 60 * 1024;
