//! What the ledgers on both sides say of a key that was released to another machine.

use serde::{Deserialize, Serialize};

use evanesce_protocol::evidence::{Nonce, NotaryPoint, ReleaseKey};
use evanesce_protocol::{Digest, PublicKey};

use crate::checkpoint::LedgerId;
use crate::dsse::Envelope;
use crate::notary::NotaryKeyId;
use crate::shred::LedgerHead;
use crate::statement::{Predicate, Subject};
use crate::timestamp::Timestamp;

/// That a key was sealed to an appraised worker, signed by the holder's notary. It authenticates the
/// answer to the asker, and is the holder's own record.
///
/// The statement's subject is the public half of the key that was released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "append it to the ledger: a release that nobody recorded cannot be shown"]
pub struct KeyRelease {
    /// The holder's ledger, as of the row just before this one.
    pub ledger: LedgerHead,
    /// The session that the holder opened.
    pub session: Nonce,
    /// SHA-256 of the challenge.
    pub challenge: Digest,
    /// SHA-256 of the request.
    pub request: Digest,
    /// The key that was released.
    pub public_key: PublicKey,
    /// What it was sealed to.
    pub release_key: ReleaseKey,
    /// SHA-256 of what was sealed.
    pub sealed: Digest,
    /// The evidence's digest.
    pub evidence: Digest,
    /// The asker's notary, as the evidence binds it.
    pub notary: NotaryPoint,
    /// The kind of machine: `snp`, `tdx`.
    pub tee: String,
    /// MEASUREMENT or MRTD, 96 hexadecimal digits.
    pub measurement: String,
    /// The policy that was met.
    pub policy: Digest,
    /// When.
    pub at: Timestamp,
}

impl Predicate for KeyRelease {
    const TYPE: &str = "https://evanesce.dev/key-release/v1";

    fn subject(&self) -> Subject {
        Subject::new("released key", self.public_key.digest())
    }
}

/// A row of the holder's ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// SHA-256 of the transcript: of challenge, request and answer (`docs/formats/release.md`).
    pub transcript: Digest,
    /// The [`KeyRelease`], signed by this installation's notary.
    pub envelope: Envelope,
}

/// A row of the asker's ledger, in the life of the workload that the key is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// SHA-256 of the transcript: the same as in the holder's row.
    pub transcript: Digest,
    /// The session.
    pub session: Nonce,
    /// The holder's notary, whom the asker trusts to release this key.
    pub holder: NotaryKeyId,
    /// The holder's ledger, where the same transcript is.
    pub ledger: LedgerId,
    /// The key that was received.
    pub public_key: PublicKey,
    /// The digest of the evidence that was shown.
    pub evidence: Digest,
}
