//! Sigstore bundles, v0.3, and the log entries in them: `docs/formats/bundle.md`.

use base64ct::{Base64, Encoding as _};
use evanesce_ledger::{Envelope, NotaryKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::entry;
use crate::merkle::NodeHash;
use crate::note::LogCheckpoint;
use crate::reader::{LogError, LogReader};

/// The media type of every bundle that is written here.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// Bytes in a bundle that is read: a receipt's has about 10 KiB.
pub const BUNDLE_BYTES_MAX: usize = 1024 * 1024;

/// A statement with the proof that it is in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle<'a> {
    media_type: &'static str,
    verification_material: Material<'a>,
    dsse_envelope: &'a Envelope,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Material<'a> {
    public_key: Hint,
    tlog_entries: &'a [LogEntry],
    #[serde(skip_serializing_if = "Timestamps::is_empty")]
    timestamp_verification_data: Timestamps,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Hint {
    hint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Timestamps {
    rfc3161_timestamps: Vec<TimestampToken>,
}

impl Timestamps {
    const fn is_empty(&self) -> bool {
        self.rfc3161_timestamps.is_empty()
    }
}

/// An RFC 3161 token over the raw bytes of the envelope's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimestampToken {
    /// The answer of the authority, DER.
    pub signed_timestamp: Base64Bytes,
}

impl<'a> Bundle<'a> {
    /// The bundle of an envelope, its log entries and its timestamps. The hint is the envelope's
    /// key id.
    pub fn new(
        envelope: &'a Envelope,
        entries: &'a [LogEntry],
        timestamps: &[TimestampToken],
    ) -> Self {
        Self {
            media_type: MEDIA_TYPE,
            verification_material: Material {
                public_key: Hint { hint: envelope.key_id().to_string() },
                tlog_entries: entries,
                timestamp_verification_data: Timestamps { rfc3161_timestamps: timestamps.to_vec() },
            },
            dsse_envelope: envelope,
        }
    }

    /// One line of JSON, with its newline.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data") + "\n"
    }
}

/// An entry of a log with the proof of its place, as protobuf-specs has it
/// (`dev.sigstore.rekor.v1.TransparencyLogEntry`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// Its number in the log.
    pub log_index: Decimal,
    /// Which log.
    pub log_id: LogId,
    /// What the body is.
    pub kind_version: KindVersion,
    /// Seconds since 1970, where the log gives a time; only a promise vouches for it.
    #[serde(default, skip_serializing_if = "Decimal::is_zero")]
    pub integrated_time: Decimal,
    /// The log's signature over entry and time (Rekor v1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inclusion_promise: Option<InclusionPromise>,
    /// The way to the root.
    pub inclusion_proof: InclusionProof,
    /// The entry's bytes.
    pub canonicalized_body: Base64Bytes,
}

/// Names a log by its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogId {
    /// What the trusted root calls it.
    pub key_id: Base64Bytes,
}

/// What an entry's body is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindVersion {
    /// `dsse` or `hashedrekord`.
    pub kind: String,
    /// `0.0.1` or `0.0.2`.
    pub version: String,
}

/// See [`LogEntry::inclusion_promise`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InclusionPromise {
    /// The signature.
    pub signed_entry_timestamp: Base64Bytes,
}

/// The way from an entry to a signed root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InclusionProof {
    /// The entry's number in the tree.
    #[serde(default)]
    pub log_index: Decimal,
    /// The root.
    #[serde(default)]
    pub root_hash: Base64Bytes,
    /// Entries of the tree.
    #[serde(default)]
    pub tree_size: Decimal,
    /// The hashes beside the way.
    #[serde(default)]
    pub hashes: Vec<Base64Bytes>,
    /// The signed root.
    pub checkpoint: Checkpoint,
}

/// A signed note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its text.
    pub envelope: String,
}

impl LogReader {
    /// The entry with its proof, for a bundle.
    ///
    /// # Errors
    ///
    /// [`LogError`].
    pub fn log_entry(&mut self, index: u64) -> Result<LogEntry, LogError> {
        let hashes = self.inclusion(index)?;
        let body = self.entry(index)?;
        Ok(LogEntry {
            log_index: Decimal(index),
            log_id: LogId { key_id: log_id(self.key()) },
            kind_version: KindVersion {
                kind: entry::KIND.to_owned(),
                version: entry::KIND_VERSION.to_owned(),
            },
            integrated_time: Decimal(0),
            inclusion_promise: None,
            inclusion_proof: proof(index, hashes, self.checkpoint(), self.note()),
            canonicalized_body: Base64Bytes(body),
        })
    }
}

fn proof(
    index: u64,
    hashes: Vec<NodeHash>,
    checkpoint: &LogCheckpoint,
    note: &str,
) -> InclusionProof {
    InclusionProof {
        log_index: Decimal(index),
        root_hash: checkpoint.root.into(),
        tree_size: Decimal(checkpoint.size),
        hashes: hashes.into_iter().map(Into::into).collect(),
        checkpoint: Checkpoint { envelope: note.to_owned() },
    }
}

/// What trusted roots call the log of a P-256 key: SHA-256 of its SubjectPublicKeyInfo.
pub fn log_id(key: &NotaryKey) -> Base64Bytes {
    Base64Bytes(key.id().digest().as_bytes().to_vec())
}

/// A number as protobuf's JSON has it: a text, so that no reader rounds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decimal(pub u64);

impl Decimal {
    const fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(number) => Ok(Self(number)),
            Either::Text(text) => text.parse().map(Self).map_err(de::Error::custom),
        }
    }
}

/// Bytes as padded standard base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base64Bytes(pub Vec<u8>);

impl From<NodeHash> for Base64Bytes {
    fn from(hash: NodeHash) -> Self {
        Self(hash.as_bytes().to_vec())
    }
}

impl Serialize for Base64Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Base64::encode_string(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = Base64::decode_vec(&text);
        bytes.map(Self).map_err(|_| de::Error::custom("not padded standard base64"))
    }
}
