//! What a log's entry is: the body of Rekor's `dsse` 0.0.1, in its one canonical form.
//!
//! Standard Sigstore verifiers know this form and compare it with the envelope of a bundle.

use base64ct::{Base64, Encoding as _};
use evanesce_ledger::{Envelope, NotaryKey};
use evanesce_protocol::Digest;
use serde::Serialize;

/// The kind of every entry of the local log.
pub const KIND: &str = "dsse";

/// Its version.
pub const KIND_VERSION: &str = "0.0.1";

/// The entry for an envelope that says it was signed with `key`: JSON with sorted members and
/// without white space (RFC 8785).
///
/// The payload is not in it, only its digest; nor is there a time.
///
/// # Panics
///
/// Where the envelope names another key.
pub fn body(envelope: &Envelope, key: &NotaryKey) -> Vec<u8> {
    assert_eq!(envelope.key_id(), key.id(), "an entry names the key that its envelope names");
    let text = serde_json::to_vec(envelope).expect("an envelope is plain data");
    let entry = Entry {
        api_version: KIND_VERSION,
        kind: KIND,
        spec: Spec {
            envelope_hash: Sha256Value::of(&text),
            payload_hash: Sha256Value::of(envelope.payload_unverified()),
            signatures: [EntrySignature {
                signature: Base64::encode_string(&envelope.signature().to_der()),
                verifier: Base64::encode_string(key.to_pem().as_bytes()),
            }],
        },
    };
    serde_json::to_vec(&entry).expect("texts alone")
}

// The order of these members is that of RFC 8785.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    api_version: &'static str,
    kind: &'static str,
    spec: Spec,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    envelope_hash: Sha256Value,
    payload_hash: Sha256Value,
    signatures: [EntrySignature; 1],
}

#[derive(Serialize)]
struct Sha256Value {
    algorithm: &'static str,
    value: String,
}

#[derive(Serialize)]
struct EntrySignature {
    signature: String,
    verifier: String,
}

impl Sha256Value {
    fn of(bytes: &[u8]) -> Self {
        Self { algorithm: "sha256", value: Digest::of(bytes).to_hex() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestNotary;

    #[test]
    fn members_are_sorted_and_there_is_no_white_space() {
        let notary = TestNotary::new(1);
        let found = body(&notary.envelope(b"{}"), &notary.key);

        let value: serde_json::Value = serde_json::from_slice(&found).unwrap();
        assert_eq!(serde_json::to_vec(&value).unwrap(), found, "serde_json's map is sorted");
    }
}
