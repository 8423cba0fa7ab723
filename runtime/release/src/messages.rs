//! The other messages: hello, request, answer, refusal.

use base64ct::Base64UrlUnpadded;
use evanesce_evidence::EvidenceEnvelope;
use evanesce_ledger::Envelope;
use evanesce_protocol::Digest;
use evanesce_protocol::evidence::Nonce;
use evanesce_protocol::release::RELEASE_SEALED_BYTES;
use serde::{Deserialize, Serialize};

use crate::error::ReleaseError;
use crate::text::{self, Message};

/// Bytes in a request. The longest that is expected, with a TDX quote and collateral, has about
/// 90 KiB.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// Bytes in an answer; one has about 2 KiB.
pub const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// Asks for a challenge, where there is a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {}

impl Hello {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`].
    pub fn from_text(line: &[u8]) -> Result<Self, ReleaseError> {
        text::read(line)
    }

    /// One line of JSON, without a newline.
    pub fn to_text(self) -> String {
        text::write(&self)
    }
}

impl Message for Hello {
    const TYPE: &'static str = "hello";
    const BYTES_MAX: usize = 64;
}

/// An asker's request: evidence that binds the challenge and a release key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub(crate) session: Nonce,
    pub(crate) challenge: Digest,
    pub(crate) evidence: EvidenceEnvelope,
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] where it is none of this version, in its one spelling.
    pub fn from_text(line: &[u8]) -> Result<Self, ReleaseError> {
        text::read(line)
    }

    /// One line of JSON, without a newline.
    pub fn to_text(&self) -> String {
        text::write(self)
    }

    /// The session that it says it is of.
    pub const fn session(&self) -> Nonce {
        self.session
    }
}

impl Message for Request {
    const TYPE: &'static str = "request";
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;
}

/// A holder's answer: the sealed key, and the notary's word on it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) session: Nonce,
    #[serde(with = "sealed_bytes")]
    pub(crate) sealed: [u8; RELEASE_SEALED_BYTES],
    pub(crate) release: Envelope,
}

impl Message for Answer {
    const TYPE: &'static str = "answer";
    const BYTES_MAX: usize = ANSWER_BYTES_MAX;
}

/// A holder's no, where there is a network. Nobody vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    code: String,
    message: String,
}

impl Refusal {
    /// A refusal with a stable name and one clause.
    pub fn new(code: &str, message: &str) -> Self {
        let cut = |text: &str| text.chars().take(REFUSAL_CHARS_MAX).collect();
        Self { code: cut(code), message: cut(message) }
    }

    /// One line of JSON, without a newline.
    pub fn to_text(&self) -> String {
        text::write(self)
    }

    /// Tells a refusal from what was to come: `Err` with the holder's words for a refusal. What it
    /// says is shown as text, whatever characters it has.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Refused`].
    pub fn tell_apart(line: &[u8]) -> Result<(), ReleaseError> {
        match text::read::<Self>(line) {
            Ok(Self { code, message }) => {
                let shown = |text: String| {
                    let text: String = text.chars().take(REFUSAL_CHARS_MAX).collect();
                    text.escape_debug().to_string()
                };
                Err(ReleaseError::Refused { code: shown(code), message: shown(message) })
            }
            Err(_) => Ok(()),
        }
    }
}

impl Message for Refusal {
    const TYPE: &'static str = "refusal";
    const BYTES_MAX: usize = 4 * 1024;
}

/// Characters in either member of a refusal.
const REFUSAL_CHARS_MAX: usize = 400;

/// The sealed bytes as base64url without padding (RFC 4648, section 5).
mod sealed_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use super::{Base64UrlUnpadded, RELEASE_SEALED_BYTES};
    use base64ct::Encoding as _;

    pub(super) fn serialize<S: Serializer>(
        bytes: &[u8; RELEASE_SEALED_BYTES],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Base64UrlUnpadded::encode_string(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; RELEASE_SEALED_BYTES], D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = Base64UrlUnpadded::decode_vec(&text)
            .map_err(|_| de::Error::custom("not unpadded base64url"))?;
        bytes.try_into().map_err(|_| de::Error::custom("not as long as a sealed key"))
    }
}
