//! One line of JSON, in one spelling.

use evanesce_protocol::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::ReleaseError;

/// A message of the protocol.
pub(crate) trait Message: Serialize + DeserializeOwned {
    /// What the member `type` says, and errors call it.
    const TYPE: &'static str;
    /// Bytes that one may have.
    const BYTES_MAX: usize;
}

/// A message in its frame of version and type.
#[derive(Serialize)]
struct Framed<'a, M> {
    v: u32,
    r#type: &'static str,
    #[serde(flatten)]
    message: &'a M,
}

/// What is looked at before the rest.
#[derive(Deserialize)]
struct Peek {
    v: u32,
    r#type: String,
}

/// The line, without a newline.
pub(crate) fn write<M: Message>(message: &M) -> String {
    let framed = Framed { v: VERSION, r#type: M::TYPE, message };
    serde_json::to_string(&framed).expect("messages have text keys and finite numbers")
}

/// Reads a line that [`write`] could have written, and no other.
pub(crate) fn read<M: Message>(line: &[u8]) -> Result<M, ReleaseError> {
    let message = M::TYPE;
    let parse = |error: serde_json::Error| {
        let reason = error.to_string().escape_debug().to_string();
        ReleaseError::Parse { message, reason }
    };
    if line.len() > M::BYTES_MAX {
        let (limit_bytes, found) = (M::BYTES_MAX, line.len());
        return Err(ReleaseError::TooLong { message, limit_bytes, found });
    }
    let Peek { v, r#type: found } = serde_json::from_slice(line).map_err(parse)?;
    if v != VERSION {
        return Err(ReleaseError::Version { message, found: v });
    }
    if found != message {
        return Err(ReleaseError::OutOfOrder { expected: message, found });
    }
    // Members that are not the message's are not in what is written again.
    let read: M = serde_json::from_slice(line).map_err(parse)?;
    match write(&read).as_bytes() == line {
        true => Ok(read),
        false => Err(ReleaseError::Spelling { message }),
    }
}

/// How the other messages and the transcript name a message.
pub(crate) fn digest(line: &str) -> Digest {
    Digest::of(line.as_bytes())
}

/// SHA-256 over a tag and the three messages, each behind its length in four bytes, big-endian.
pub(crate) fn transcript(challenge: &str, request: &str, answer: &str) -> Digest {
    let mut bytes = TRANSCRIPT_TAG.to_vec();
    for line in [challenge, request, answer] {
        let length = u32::try_from(line.len()).expect("every message has a limit far below 4 GiB");
        bytes.extend(length.to_be_bytes());
        bytes.extend(line.as_bytes());
    }
    Digest::of(&bytes)
}

const VERSION: u32 = 1;
const TRANSCRIPT_TAG: &[u8] = b"evanesce/release-transcript/v1\0";
