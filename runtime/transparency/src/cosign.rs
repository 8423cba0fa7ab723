//! What witnesses say of the log's checkpoints: C2SP tlog-cosignature v1.0.1.
//!
//! A witness signs a checkpoint only where it is consistent with all it signed before. Its line is
//! kept and shown with the checkpoint; who is to be believed as a witness is for whoever verifies.

use std::path::PathBuf;
use std::str::FromStr;

use base64ct::{Base64, Encoding as _};
use ed25519_dalek::{Signature, VerifyingKey};
use evanesce_ledger::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::files::{self, Store};
use crate::note::{HINT_BYTES, LogCheckpoint, NOTE_BYTES_MAX, Note, NoteError};
use crate::reader::{LogDirectory, LogError, LogReader};

/// A witness's key, as one line: `NAME+HEX+BASE64` (C2SP signed-note, "verifier keys").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessKey {
    name: String,
    hint: [u8; HINT_BYTES],
    key: VerifyingKey,
}

impl FromStr for WitnessKey {
    type Err = ParseWitnessKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            // The base64 may have a plus, the name and the digits have none.
            let mut parts = text.splitn(3, '+');
            let (name, digits, key) = (parts.next()?, parts.next()?, parts.next()?);
            let mut hint = [0; HINT_BYTES];
            hex::decode_to_slice(digits, &mut hint).ok()?;
            let typed = Base64::decode_vec(key).ok()?;
            let (&kind, point) = typed.split_first()?;
            let key = VerifyingKey::from_bytes(point.try_into().ok()?).ok()?;
            let id = Sha256::new().chain_update(name).chain_update(b"\n").chain_update(&typed);
            let is_its_own = id.finalize().starts_with(&hint);
            let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
            (kind == COSIGNATURE_V1 && is_its_own && is_name).then(|| Self {
                name: name.to_owned(),
                hint,
                key,
            })
        };
        parse().ok_or(ParseWitnessKeyError)
    }
}

/// A text that is no witness's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a witness's key: NAME+HEX+BASE64 with an Ed25519 key of type 4")]
pub struct ParseWitnessKeyError;

/// A cosignature that was checked and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cosigned {
    /// The witness.
    pub witness: String,
    /// Entries of the tree that it signed.
    pub size: u64,
    /// When, by its clock.
    pub at: Timestamp,
}

/// Keeps the line of `witness` under `note`, a checkpoint of this log that it signed.
///
/// # Errors
///
/// [`CosignError`]; nothing is kept then.
pub fn keep_cosignature(
    directory: &LogDirectory,
    log: &mut LogReader,
    note: &str,
    witness: &WitnessKey,
) -> Result<Cosigned, CosignError> {
    let (checkpoint, _) = LogCheckpoint::open(note, &log.known_keys()?)?;
    let size = checkpoint.size;
    if checkpoint.origin != log.checkpoint().origin || size > log.checkpoint().size {
        return Err(CosignError::OtherLog);
    }
    if log.root_at(size)? != checkpoint.root {
        return Err(CosignError::OtherTree { size });
    }
    let parsed = Note::parse(note)?;
    let mut lines = parsed.signatures.iter();
    let line = lines
        .find(|line| line.name == witness.name && line.hint == witness.hint)
        .ok_or_else(|| CosignError::NotSigned { witness: witness.name.clone() })?;
    let seconds = time_of(parsed.text, &line.signature, &witness.key)
        .ok_or_else(|| CosignError::Signature { witness: witness.name.clone() })?;

    let _lock = files::lock(&directory.lock()).map_err(LogError::from)?;
    let mut kept = read(directory, size)?;
    let is_of_witness = |kept: &str| {
        Note::parse(&format!("x\n\n{kept}\n")).is_ok_and(|note| {
            note.signatures.iter().any(|kept| (kept.name, kept.hint) == (line.name, line.hint))
        })
    };
    kept.retain(|kept| !is_of_witness(kept));
    kept.push(line.line.to_owned());
    let mut store = Store::new(directory.path());
    let text = kept.join("\n") + "\n";
    store.write(&name(size), text.as_bytes()).map_err(LogError::from)?;
    store.settle().map_err(LogError::from)?;
    let at = Timestamp::from_unix_ms(seconds.saturating_mul(1000));
    Ok(Cosigned { witness: witness.name.clone(), size, at })
}

/// The lines that witnesses put under the checkpoint of `size` entries.
pub(crate) fn read(directory: &LogDirectory, size: u64) -> Result<Vec<String>, LogError> {
    let path: PathBuf = directory.path().join(name(size));
    let bytes = files::read(&path, NOTE_BYTES_MAX as u64)?.unwrap_or_default();
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| LogError::damaged(&path, "it is no text"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The time in a cosignature over `text`, if it holds: eight bytes, then the signature.
fn time_of(text: &str, signature: &[u8], key: &VerifyingKey) -> Option<u64> {
    let (time, signature) = signature.split_first_chunk()?;
    let time = u64::from_be_bytes(*time);
    let message = format!("cosignature/v1\ntime {time}\n{text}");
    let signature = Signature::from_slice(signature).ok()?;
    key.verify_strict(message.as_bytes(), &signature).is_ok().then_some(time)
}

fn name(size: u64) -> String {
    format!("cosignatures/{size}")
}

/// Why a cosignature is not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CosignError {
    /// The note is no checkpoint that a known notary signed.
    #[error("the note is not a checkpoint of this log")]
    Note(#[from] NoteError),
    /// The checkpoint is of another log, or of a tree that this one has not grown to.
    #[error("the checkpoint is of another log, or of a later tree than there is here")]
    OtherLog,
    /// The log has another tree of this size: it was forked.
    #[error("the log has another tree of {size} entries than the checkpoint")]
    OtherTree {
        /// The size.
        size: u64,
    },
    /// There is no line of this witness.
    #[error("the note has no line of witness {witness}")]
    NotSigned {
        /// Its name.
        witness: String,
    },
    /// The line does not hold.
    #[error("the cosignature of {witness} does not verify")]
    Signature {
        /// Its name.
        witness: String,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl CosignError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Note(error) => error.code(),
            Self::OtherLog => "cosign.other-log",
            Self::OtherTree { .. } => "cosign.other-tree",
            Self::NotSigned { .. } => "cosign.not-signed",
            Self::Signature { .. } => "cosign.signature",
            Self::Log(error) => error.code(),
        }
    }
}

/// The signature type of a timestamped Ed25519 cosignature.
const COSIGNATURE_V1: u8 = 4;

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    fn witness(name: &str) -> (SigningKey, String) {
        let key = SigningKey::from_bytes(&[3; 32]);
        let typed = [&[COSIGNATURE_V1], key.verifying_key().as_bytes().as_slice()].concat();
        let id = Sha256::new().chain_update(name).chain_update(b"\n").chain_update(&typed);
        let hint = hex::encode(&id.finalize()[..HINT_BYTES]);
        (key, format!("{name}+{hint}+{}", Base64::encode_string(&typed)))
    }

    #[test]
    fn a_witnesss_key_is_read_only_with_its_own_name_and_type() {
        let (_, text) = witness("witness.example/a");
        let key: WitnessKey = text.parse().unwrap();
        assert_eq!(key.name, "witness.example/a");
        for (from, to) in [("example/a", "example/b"), ("+", ""), ("+B", "+A")] {
            text.replacen(from, to, 1).parse::<WitnessKey>().unwrap_err();
        }
    }

    #[test]
    fn a_cosignature_holds_over_time_and_text_together() {
        let (key, _) = witness("w");
        let sign = |time: u64, text: &str| {
            let message = format!("cosignature/v1\ntime {time}\n{text}");
            let signature = key.sign(message.as_bytes()).to_bytes();
            [time.to_be_bytes().as_slice(), &signature].concat()
        };
        let verifying = key.verifying_key();

        let signature = sign(1_795_313_400, "text\n");
        assert_eq!(time_of("text\n", &signature, &verifying), Some(1_795_313_400));
        assert_eq!(time_of("other\n", &signature, &verifying), None);
        let mut later = signature.clone();
        later[7] ^= 1;
        assert_eq!(time_of("text\n", &later, &verifying), None);
        assert_eq!(time_of("text\n", &signature[..70], &verifying), None);
    }
}
