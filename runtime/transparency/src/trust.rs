//! Whom a verifier believes: notaries, and the logs and clocks of a Sigstore trusted root.

use evanesce_ledger::{NotaryKey, NotaryKeyId, Timestamp};
use serde::Serialize;
pub use sigstore_trust_root::TrustedRoot;

use crate::bundle::{Base64Bytes, LogId, log_id};
use crate::note::Origin;

/// Bytes in a trusted root that is read; the public one has about 10 KiB.
pub const TRUSTED_ROOT_BYTES_MAX: usize = 1024 * 1024;

/// A notary's key, and from when to when it signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNotary {
    /// The key.
    pub key: NotaryKey,
    /// Since when; `None` where that is not known.
    pub since: Option<Timestamp>,
    /// Its handover to another; `None` where it did not hand over, as far as is known.
    pub until: Option<HandedOver>,
}

/// When one key handed over to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// By the clock of the machine where it did.
    pub at: Timestamp,
    /// Where the handover is logged: what comes before it in the same log was signed before it.
    pub place: Option<Place>,
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The log, as its checkpoint names it.
    pub origin: String,
    /// The entry's number there.
    pub index: u64,
}

/// Whether something was signed before a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It was: its place in the log, or a time that others vouch for, says so.
    Before,
    /// It was not: it is after the handover in the same log.
    After,
    /// Nothing tells. A time after the handover does not: a statement may be logged later.
    Unknown,
}

impl HandedOver {
    /// Whether what is logged at `place`, and was signed before `time`, was signed before this.
    pub fn order(&self, place: Option<&Place>, time: Option<Timestamp>) -> Order {
        if let (Some(place), Some(own)) = (place, &self.place)
            && place.origin == own.origin
        {
            return if place.index <= own.index { Order::Before } else { Order::After };
        }
        match time {
            Some(time) if time <= self.at => Order::Before,
            Some(_) | None => Order::Unknown,
        }
    }
}

impl KnownNotary {
    /// A key of which nothing else is known.
    pub const fn of_key(key: NotaryKey) -> Self {
        Self { key, since: None, until: None }
    }

    /// Its name.
    pub const fn id(&self) -> NotaryKeyId {
        self.key.id()
    }
}

/// The trusted root of a local log: its keys, as Sigstore verifiers want them. It vouches for
/// nothing by itself: that the keys are the notary's has to be known from elsewhere.
pub fn local_trusted_root(origin: &Origin, notaries: &[KnownNotary]) -> String {
    let tlogs = notaries.iter().map(|notary| Tlog {
        base_url: format!("https://{origin}"),
        hash_algorithm: "SHA2_256",
        public_key: PublicKey {
            raw_bytes: Base64Bytes(notary.key.spki().to_vec()),
            key_details: "PKIX_ECDSA_P256_SHA_256",
            // A log signs its old entries anew under each key, so no key of it ever expires.
            valid_for: ValidFor { start: notary.since.unwrap_or(EPOCH) },
        },
        log_id: LogId { key_id: log_id(&notary.key) },
    });
    let root = Root {
        media_type: "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        tlogs: tlogs.collect(),
        certificate_authorities: [],
        ctlogs: [],
        timestamp_authorities: [],
    };
    serde_json::to_string(&root).expect("plain data") + "\n"
}

/// Reads a trusted root.
///
/// # Errors
///
/// [`TrustedRootError`].
pub fn parse_trusted_root(text: &str) -> Result<TrustedRoot, TrustedRootError> {
    if text.len() > TRUSTED_ROOT_BYTES_MAX {
        return Err(TrustedRootError::TooLong { found: text.len() });
    }
    TrustedRoot::from_json(text).map_err(|source| TrustedRootError::Parse(Box::new(source)))
}

/// Why a trusted root cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustedRootError {
    /// It is longer than any.
    #[error("a trusted root has at most {TRUSTED_ROOT_BYTES_MAX} bytes, this one has {found}")]
    TooLong {
        /// Its bytes.
        found: usize,
    },
    /// It is not one.
    #[error("not a Sigstore trusted root")]
    Parse(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl TrustedRootError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "trusted-root.too-long",
            Self::Parse(_) => "trusted-root.parse",
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    media_type: &'static str,
    tlogs: Vec<Tlog>,
    certificate_authorities: [(); 0],
    ctlogs: [(); 0],
    timestamp_authorities: [(); 0],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tlog {
    base_url: String,
    hash_algorithm: &'static str,
    public_key: PublicKey,
    log_id: LogId,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PublicKey {
    raw_bytes: Base64Bytes,
    key_details: &'static str,
    valid_for: ValidFor,
}

#[derive(Serialize)]
struct ValidFor {
    start: Timestamp,
}

const EPOCH: Timestamp = Timestamp::from_unix_ms(0);
