//! A signed note of how long the ledger was and how it ended: what shows that rows are missing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use evanesce_protocol::Digest;

use crate::statement::{Predicate, Subject};
use crate::timestamp::Timestamp;

/// Names one ledger, by 32 random bytes made with it. Printed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct LedgerId([u8; 32]);

impl LedgerId {
    /// Takes 32 bytes, which have to be random.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LedgerId {
    type Err = ParseLedgerIdError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseLedgerIdError)?;
        match text.bytes().any(|digit| digit.is_ascii_uppercase()) {
            true => Err(ParseLedgerIdError),
            false => Ok(Self(bytes)),
        }
    }
}

impl TryFrom<String> for LedgerId {
    type Error = ParseLedgerIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LedgerId> for String {
    fn from(id: LedgerId) -> Self {
        id.to_string()
    }
}

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a ledger's id: expected 64 lower-case hexadecimal digits")]
pub struct ParseLedgerIdError;

/// The predicate of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The ledger.
    pub ledger: LedgerId,
    /// How many rows it had: the sequence number of its last row.
    pub rows: u64,
    /// The digest of that row.
    pub head: Digest,
    /// When.
    pub at: Timestamp,
}

impl Predicate for Checkpoint {
    const TYPE: &str = "https://evanesce.dev/ledger-checkpoint/v1";

    fn subject(&self) -> Subject {
        Subject::new(format!("ledger {}", self.ledger), self.head)
    }
}
