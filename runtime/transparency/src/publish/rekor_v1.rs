//! The client of Rekor v1: entries of kind `dsse` 0.0.1.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding as _};
use serde::{Deserialize, Serialize};

use crate::bundle::{
    Base64Bytes, Checkpoint, Decimal, InclusionPromise, InclusionProof, KindVersion, LogEntry,
    LogId,
};
use crate::entry;
use crate::publish::http::Http;
use crate::publish::rekor::{Item, JSON, Rekor, SubmitError, join, parse};

/// A Rekor v1 server.
#[derive(Clone, Debug)]
pub struct RekorV1 {
    url: String,
}

impl RekorV1 {
    /// The server at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into() }
    }

    fn entry(&self, body: &[u8]) -> Result<LogEntry, SubmitError> {
        let entries: BTreeMap<String, Answered> = parse(&self.url, body)?;
        let mut entries = entries.into_values();
        match (entries.next(), entries.next()) {
            (Some(entry), None) => entry.into_entry(&self.url),
            _ => Err(SubmitError::garbage(&self.url, "not exactly one entry")),
        }
    }
}

impl Rekor for RekorV1 {
    fn submit(&self, http: &Http, item: Item<'_>) -> Result<LogEntry, SubmitError> {
        let url = join(&self.url, ENTRIES);
        let request = serde_json::to_vec(&Request::of(item)).expect("texts alone");
        let answer = http.post(&url, (JSON, JSON), &request)?;
        match answer.status {
            201 => self.entry(&answer.body),
            // It has the entry already: an answer was lost, or somebody else entered it.
            409 => {
                let location = answer.location.unwrap_or_default();
                let uuid = location.rsplit('/').next().unwrap_or_default();
                let is_id = matches!(uuid.len(), 64 | 80)
                    && uuid.bytes().all(|digit| digit.is_ascii_hexdigit());
                if !is_id {
                    let what = "it has the entry, and does not say where";
                    return Err(SubmitError::garbage(&url, what));
                }
                let found = http.get(&format!("{url}/{uuid}"), JSON)?;
                match found.status {
                    200 => self.entry(&found.body),
                    _ => Err(SubmitError::of_status(&url, &found)),
                }
            }
            _ => Err(SubmitError::of_status(&url, &answer)),
        }
    }

    fn url(&self) -> &str {
        &self.url
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    api_version: &'static str,
    kind: &'static str,
    spec: RequestSpec,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestSpec {
    proposed_content: ProposedContent,
}

#[derive(Serialize)]
struct ProposedContent {
    envelope: String,
    verifiers: [String; 1],
}

impl Request {
    fn of(item: Item<'_>) -> Self {
        let envelope = serde_json::to_string(item.envelope).expect("an envelope is plain data");
        let verifiers = [Base64::encode_string(item.key.to_pem().as_bytes())];
        let spec = RequestSpec { proposed_content: ProposedContent { envelope, verifiers } };
        Self { api_version: entry::KIND_VERSION, kind: entry::KIND, spec }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answered {
    body: Base64Bytes,
    integrated_time: u64,
    #[serde(rename = "logID")]
    log_id: String,
    log_index: u64,
    verification: Verification,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verification {
    inclusion_proof: Proof,
    signed_entry_timestamp: Base64Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Proof {
    checkpoint: String,
    hashes: Vec<String>,
    log_index: u64,
    root_hash: String,
    tree_size: u64,
}

impl Answered {
    fn into_entry(self, url: &str) -> Result<LogEntry, SubmitError> {
        let bytes = |digits: &str| {
            let bytes = hex::decode(digits).map(Base64Bytes);
            bytes.map_err(|_| SubmitError::garbage(url, "a hash that is not hexadecimal"))
        };
        let Verification { inclusion_proof: proof, signed_entry_timestamp } = self.verification;
        Ok(LogEntry {
            log_index: Decimal(self.log_index),
            log_id: LogId { key_id: bytes(&self.log_id)? },
            kind_version: KindVersion {
                kind: entry::KIND.to_owned(),
                version: entry::KIND_VERSION.to_owned(),
            },
            integrated_time: Decimal(self.integrated_time),
            inclusion_promise: Some(InclusionPromise { signed_entry_timestamp }),
            inclusion_proof: InclusionProof {
                log_index: Decimal(proof.log_index),
                root_hash: bytes(&proof.root_hash)?,
                tree_size: Decimal(proof.tree_size),
                hashes: proof.hashes.iter().map(|hash| bytes(hash)).collect::<Result<_, _>>()?,
                checkpoint: Checkpoint { envelope: proof.checkpoint },
            },
            canonicalized_body: self.body,
        })
    }
}

const ENTRIES: &str = "api/v1/log/entries";
