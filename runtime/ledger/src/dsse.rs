//! DSSE envelopes (Dead Simple Signing Envelope, protocol v1.0.2) with one P-256 signature.

use serde::{Deserialize, Serialize};

use crate::base64;
use crate::notary::{NotaryKey, NotaryKeyId, P256Signature};

/// The payload type of every envelope here: an in-toto Statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Bytes in a payload that is read; a receipt has about 4 KiB.
pub const PAYLOAD_BYTES_MAX: usize = 40 * 1024;

/// A payload and the notary's signature over it, neither checked yet: see [`Envelope::verify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    #[serde(with = "base64")]
    payload: Vec<u8>,
    payload_type: String,
    signatures: [EnvelopeSignature; 1],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeSignature {
    keyid: NotaryKeyId,
    sig: P256Signature,
}

impl Envelope {
    /// Has `payload` signed: `sign` is given the bytes to sign (see [`pre_authentication_encoding`])
    /// and returns an ECDSA signature over their SHA-256, made with the key named `key`.
    ///
    /// # Errors
    ///
    /// Whatever `sign` returns.
    pub fn sign<E>(
        payload: Vec<u8>,
        key: NotaryKeyId,
        mut sign: impl FnMut(&[u8]) -> Result<P256Signature, E>,
    ) -> Result<Self, E> {
        let sig = sign(&pre_authentication_encoding(PAYLOAD_TYPE, &payload))?;
        let signatures = [EnvelopeSignature { keyid: key, sig }];
        Ok(Self { payload, payload_type: PAYLOAD_TYPE.to_owned(), signatures })
    }

    /// The payload, if `key` signed it.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`] where the envelope names another key or payload type, or the signature
    /// does not verify.
    pub fn verify(&self, key: &NotaryKey) -> Result<Payload<'_>, EnvelopeError> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(EnvelopeError::PayloadType { found: self.payload_type.clone() });
        }
        if self.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(EnvelopeError::TooLong { found: self.payload.len() });
        }
        let [signature] = &self.signatures;
        if signature.keyid != key.id() {
            return Err(EnvelopeError::OtherKey { expected: key.id(), found: signature.keyid });
        }
        match key.verifies(&self.to_be_signed(), &signature.sig) {
            true => Ok(Payload(&self.payload)),
            false => Err(EnvelopeError::Signature { key: key.id() }),
        }
    }

    /// The key that the envelope says it was signed with.
    pub const fn key_id(&self) -> NotaryKeyId {
        self.signatures[0].keyid
    }

    /// The signature, whoever made it.
    pub const fn signature(&self) -> &P256Signature {
        &self.signatures[0].sig
    }

    /// The payload as it is, whoever signed it.
    pub fn payload_unverified(&self) -> &[u8] {
        &self.payload
    }

    /// What the signature is over: see [`pre_authentication_encoding`].
    pub fn to_be_signed(&self) -> Vec<u8> {
        pre_authentication_encoding(&self.payload_type, &self.payload)
    }
}

/// A payload whose signature was checked. Only [`Envelope::verify`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a>(&'a [u8]);

impl<'a> Payload<'a> {
    /// The bytes.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Why an envelope does not vouch for its payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The payload is not an in-toto Statement.
    #[error("payload type {PAYLOAD_TYPE:?} expected, {found:?} found")]
    PayloadType {
        /// What the envelope says.
        found: String,
    },
    /// The payload is longer than [`PAYLOAD_BYTES_MAX`].
    #[error("a payload has at most {PAYLOAD_BYTES_MAX} bytes, this one has {found}")]
    TooLong {
        /// Bytes in the payload.
        found: usize,
    },
    /// The envelope names another key.
    #[error("signed with {found}, not with {expected}")]
    OtherKey {
        /// The key that was given.
        expected: NotaryKeyId,
        /// The key that the envelope names.
        found: NotaryKeyId,
    },
    /// The signature is not this key's over this payload.
    #[error("the signature does not verify with {key}")]
    Signature {
        /// The key.
        key: NotaryKeyId,
    },
}

impl EnvelopeError {
    /// A stable name for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::PayloadType { .. } => "envelope.payload-type",
            Self::TooLong { .. } => "envelope.too-long",
            Self::OtherKey { .. } => "envelope.other-key",
            Self::Signature { .. } => "envelope.signature",
        }
    }
}

/// The bytes that a DSSE signature covers (DSSE protocol, "PAE"):
/// `"DSSEv1" SP length(type) SP type SP length(payload) SP payload`.
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notary::tests::TestNotary;

    /// The example in the DSSE protocol document.
    #[test]
    fn the_encoding_is_the_one_in_the_dsse_protocol() {
        assert_eq!(
            pre_authentication_encoding("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn an_envelope_opens_with_its_key_and_with_no_other() {
        let (notary, other) = (TestNotary::new(1), TestNotary::new(2));
        let envelope = notary.envelope(b"{}");

        assert_eq!(envelope.verify(notary.key()).unwrap().as_bytes(), b"{}");
        assert_eq!(
            envelope.verify(other.key()).unwrap_err(),
            EnvelopeError::OtherKey { expected: other.key().id(), found: notary.key().id() }
        );
    }

    #[test]
    fn a_changed_payload_or_type_does_not_verify() {
        let notary = TestNotary::new(1);
        let mut payload = notary.envelope(b"{}");
        payload.payload = b"[]".to_vec();
        let mut payload_type = notary.envelope(b"{}");
        payload_type.payload_type = "text/plain".into();

        assert_eq!(
            payload.verify(notary.key()).unwrap_err(),
            EnvelopeError::Signature { key: notary.key().id() }
        );
        assert_eq!(
            payload_type.verify(notary.key()).unwrap_err(),
            EnvelopeError::PayloadType { found: "text/plain".into() }
        );
    }

    #[test]
    fn an_envelope_with_no_or_two_signatures_is_not_read() {
        let text = serde_json::to_string(&TestNotary::new(1).envelope(b"{}")).unwrap();
        let envelope: serde_json::Value = serde_json::from_str(&text).unwrap();
        let signature = envelope["signatures"][0].clone();

        for signatures in [vec![], vec![signature.clone(), signature]] {
            let mut changed = envelope.clone();
            changed["signatures"] = signatures.into();
            let error = serde_json::from_value::<Envelope>(changed).unwrap_err();
            assert!(error.to_string().contains("length"), "{error}");
        }
    }
}
