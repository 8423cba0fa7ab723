//! Which notaries are believed: this installation's, and those that were named.

use std::fs;
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use evanesce_ledger::{Envelope, NotaryKey, ReadError as LedgerError, Verdict, VerifyOptions};
use ssh_key::public::{EcdsaPublicKey, KeyData};

use crate::errors::Coded;
use crate::files::{self, ReadError};

/// Reads the public key of a notary: PEM, or one line as OpenSSH writes it.
///
/// # Errors
///
/// [`TrustError`].
pub fn read_notary(path: &Path) -> Result<NotaryKey, TrustError> {
    let bytes = files::read_small(path, NOTARY_FILE_BYTES_MAX).map_err(TrustError::Read)?;
    let text = str::from_utf8(&bytes).ok();
    text.and_then(parse_notary).ok_or_else(|| TrustError::NotANotary { path: path.to_owned() })
}

/// The notaries that the installation with `notary_dir` has and had: `notary.pem`, and what it
/// retired. None where there is no notary yet.
///
/// # Errors
///
/// [`TrustError`] where a file is there and cannot be read.
pub fn own_notaries(notary_dir: &Path) -> Result<Vec<NotaryKey>, TrustError> {
    let current = notary_dir.join("notary.pem");
    if !current.exists() {
        return Ok(Vec::new());
    }
    let mut notaries = vec![read_notary(&current)?];
    let retired = notary_dir.join("retired");
    if retired.exists() {
        let unread = |source| TrustError::List { path: retired.clone(), source };
        for entry in fs::read_dir(&retired).map_err(unread)? {
            notaries.push(read_notary(&entry.map_err(unread)?.path())?);
        }
    }
    Ok(notaries)
}

/// Audits the ledger in `dir`, trusting `notaries`.
///
/// # Errors
///
/// [`LedgerError`] where there is no ledger or it cannot be read.
pub fn audit(
    dir: &Path,
    notaries: &[NotaryKey],
    checkpoint: Option<&Envelope>,
) -> Result<Verdict, LedgerError> {
    let signature_threads = available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let options = VerifyOptions { notary_keys: notaries, checkpoint, signature_threads };
    evanesce_ledger::verify(dir, &options)
}

/// A notary's key as SSH has it.
pub fn ssh_key_of(key: &NotaryKey) -> KeyData {
    let point = EcdsaPublicKey::from_sec1_bytes(&key.to_sec1());
    KeyData::Ecdsa(point.expect("a notary key is a point of P-256"))
}

pub(crate) fn parse_notary(text: &str) -> Option<NotaryKey> {
    if let Ok(key) = NotaryKey::from_pem(text) {
        return Some(key);
    }
    let key = ssh_key::PublicKey::from_openssh(text.trim()).ok()?;
    match key.key_data() {
        KeyData::Ecdsa(EcdsaPublicKey::NistP256(point)) => {
            NotaryKey::from_sec1(point.as_bytes()).ok()
        }
        _ => None,
    }
}

/// Why a notary's key was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The file cannot be read.
    #[error("the notary's key could not be read")]
    Read(#[source] ReadError),
    /// The directory of retired notaries cannot be read.
    #[error("{} could not be listed", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} holds no public key of P-256, in PEM or as OpenSSH writes it", path.display())]
    NotANotary {
        /// The file.
        path: PathBuf,
    },
}

impl Coded for TrustError {
    fn code(&self) -> &'static str {
        match self {
            Self::Read(_) | Self::List { .. } => "notary-key.read",
            Self::NotANotary { .. } => "notary-key.not-one",
        }
    }
}

const NOTARY_FILE_BYTES_MAX: u64 = 16 * 1024;
