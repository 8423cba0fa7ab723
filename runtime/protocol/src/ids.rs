//! Names and digests that may be printed, logged and compared.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::limits::WORKLOAD_ID_BYTES_MAX;

/// Names one workload: a command and its key, for one life.
///
/// One to 64 characters of `a`-`z`, `0`-`9`, `-`, `_` and `.`, the first a letter or a digit: it
/// becomes a file name, a certificate's key id and the name of a systemd unit as it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadId(String);

impl WorkloadId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkloadId {
    type Err = ParseWorkloadIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > WORKLOAD_ID_BYTES_MAX {
            return Err(ParseWorkloadIdError::Length { found: text.len() });
        }
        if !text.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit()) {
            return Err(ParseWorkloadIdError::First);
        }
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        match text.chars().find(|c| !allowed(*c)) {
            Some(found) => Err(ParseWorkloadIdError::Character { found }),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for WorkloadId {
    type Error = ParseWorkloadIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WorkloadId> for String {
    fn from(id: WorkloadId) -> Self {
        id.0
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a workload id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseWorkloadIdError {
    /// Empty, or longer than [`WORKLOAD_ID_BYTES_MAX`].
    #[error("a workload id has 1 to {WORKLOAD_ID_BYTES_MAX} characters, this one has {found}")]
    Length {
        /// Bytes in the text.
        found: usize,
    },
    /// The first character is not a lower-case letter or a digit.
    #[error("a workload id starts with a lower-case letter or a digit")]
    First,
    /// A character that is not allowed.
    #[error("a workload id has only a-z, 0-9, '-', '_' and '.', not {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
}

/// A SHA-256 digest. Printed as `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; Self::BYTES]);

impl Digest {
    /// Bytes in a digest.
    pub const BYTES: usize = 32;

    const PREFIX: &str = "sha256:";

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of the parts, one after the other.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// A digest that was computed elsewhere.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The 64 hexadecimal digits without the prefix, as in-toto and OCI digests want them.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(Self::PREFIX).ok_or(ParseDigestError)?;
        let mut bytes = [0; Self::BYTES];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| ParseDigestError)?;
        if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
            return Err(ParseDigestError);
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: expected `sha256:` and 64 lower-case hexadecimal digits")]
pub struct ParseDigestError;

/// The public half of a workload's Ed25519 key (RFC 8032, section 5.1.5): 32 bytes.
///
/// The bytes are as the worker sent them; whether they are a point on the curve is for the code
/// that verifies with them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey([u8; Self::BYTES]);

impl PublicKey {
    /// Bytes in an encoded public key.
    pub const BYTES: usize = 32;

    const PREFIX: &str = "ed25519:";

    /// Takes the encoded point.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The encoded point.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The SHA-256 of the encoded point: how receipts and statements name the key.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}

impl FromStr for PublicKey {
    type Err = ParsePublicKeyError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(Self::PREFIX).ok_or(ParsePublicKeyError)?;
        let mut bytes = [0; Self::BYTES];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| ParsePublicKeyError)?;
        if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
            return Err(ParsePublicKeyError);
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = ParsePublicKeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not `ed25519:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a public key: expected `ed25519:` and 64 lower-case hexadecimal digits")]
pub struct ParsePublicKeyError;

/// What a key may be used for. Bound when the key is loaded; RFC 8032 warns against using one key
/// for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyUse {
    /// Pure Ed25519: the signer is given messages.
    Message,
    /// Ed25519ph: the signer is given SHA-512 digests.
    Digest,
}

/// Where a key came from. Decides what a receipt may say of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum KeyOrigin {
    /// Made inside the signer from the kernel's entropy; it was never anywhere else.
    BornInside,
    /// Read from a file that holds it in the clear, which still exists.
    PlaintextFile,
    /// Read from a sealed file, which still exists.
    SealedFile,
    /// Released by another machine, whose holder still has it.
    Released,
}

impl KeyOrigin {
    /// Whether the end of the worker is the end of the key, and not just of this copy.
    pub const fn ends_with_worker(self) -> bool {
        match self {
            Self::BornInside => true,
            Self::PlaintextFile | Self::SealedFile | Self::Released => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_id_that_could_leave_its_directory_is_refused() {
        for text in ["", "..", ".hidden", "a/b", "A", "-x", "a b", "a\n", &"a".repeat(65)] {
            assert!(text.parse::<WorkloadId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn printed_ids_digests_and_keys_parse_to_what_was_printed() {
        let id: WorkloadId = "release-2026.11_a".parse().unwrap();
        let digest = Digest::of(b"abc");
        let key = PublicKey::from_bytes([7; 32]);

        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn upper_case_digits_are_not_a_second_spelling() {
        let text = Digest::of(b"abc").to_string().to_uppercase().replace("SHA256", "sha256");
        assert_eq!(text.parse::<Digest>(), Err(ParseDigestError));
    }

    #[test]
    fn digest_of_parts_is_the_digest_of_their_concatenation() {
        assert_eq!(Digest::of_parts(&[b"ab", b"", b"c"]), Digest::of(b"abc"));
    }
}
