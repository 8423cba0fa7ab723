//! A place to publish to: servers by a SigningConfig, trust by a TrustedRoot.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sigstore_trust_root::TrustedRoot;
use sigstore_trust_root::signing_config::{ServiceEndpoint, ServiceSelector, SigningConfig};

use crate::files::{self, FileError, Store};
use crate::publish::rekor::Rekor;
use crate::publish::rekor_v1::RekorV1;
use crate::publish::rekor_v2::RekorV2;
use crate::trust::{KnownNotary, TRUSTED_ROOT_BYTES_MAX, TrustedRootError, parse_trusted_root};
use crate::verify::{BundleVerifier, TrustError};

/// Bytes in a signing configuration that is read; the public one has about 3 KiB.
pub const SIGNING_CONFIG_BYTES_MAX: usize = 1024 * 1024;

/// Names a target: 1 to 64 of `a`-`z`, `0`-`9`, `-` and `_`, the first a letter or a digit. It
/// becomes a directory's name as it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetName(String);

impl TargetName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TargetName {
    type Err = ParseTargetNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len())
            && text.starts_with(first)
            && text.chars().all(|c| first(c) || matches!(c, '-' | '_'));
        match fits {
            true => Ok(Self(text.to_owned())),
            false => Err(ParseTargetNameError),
        }
    }
}

impl TryFrom<String> for TargetName {
    type Error = ParseTargetNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TargetName> for String {
    fn from(name: TargetName) -> Self {
        name.0
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no target's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a target's name has 1 to 64 of a-z, 0-9, '-' and '_', the first a letter or a digit")]
pub struct ParseTargetNameError;

/// The two files that make a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetFiles {
    signing_config: String,
    trusted_root: String,
}

impl TargetFiles {
    /// Takes the texts of both files, if they are what they have to be and name a server.
    ///
    /// # Errors
    ///
    /// [`TargetError`].
    pub fn new(signing_config: String, trusted_root: String) -> Result<Self, TargetError> {
        let files = Self { signing_config, trusted_root };
        let (config, root) = files.parse()?;
        servers(&config, &root)?;
        Ok(files)
    }

    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, TargetError> {
        let read = |name, bytes_max: usize| -> Result<Option<String>, TargetError> {
            let path = directory.join(name);
            let bytes = files::read(&path, bytes_max as u64)?;
            let text = bytes.map(String::from_utf8).transpose();
            text.map_err(|_| TargetError::Damaged { path })
        };
        let config = read(SIGNING_CONFIG, SIGNING_CONFIG_BYTES_MAX)?;
        let root = read(TRUSTED_ROOT, TRUSTED_ROOT_BYTES_MAX)?;
        let files = config.zip(root);
        Ok(files.map(|(signing_config, trusted_root)| Self { signing_config, trusted_root }))
    }

    /// Writes both; the target is there once both are.
    pub(crate) fn write(&self, store: &mut Store, directory: &str) -> Result<(), FileError> {
        store.write(&format!("{directory}/{TRUSTED_ROOT}"), self.trusted_root.as_bytes())?;
        store.write(&format!("{directory}/{SIGNING_CONFIG}"), self.signing_config.as_bytes())?;
        store.settle()
    }

    fn parse(&self) -> Result<(SigningConfig, TrustedRoot), TargetError> {
        if self.signing_config.len() > SIGNING_CONFIG_BYTES_MAX {
            return Err(TargetError::ConfigTooLong { found: self.signing_config.len() });
        }
        let config = SigningConfig::from_json(&self.signing_config)
            .map_err(|source| TargetError::Config(Box::new(source)))?;
        Ok((config, parse_trusted_root(&self.trusted_root)?))
    }
}

/// A target, ready to be published to.
#[derive(Debug)]
pub struct Target {
    pub(crate) servers: Vec<Box<dyn Rekor>>,
    pub(crate) timestamp_authorities: Vec<String>,
    pub(crate) verifier: BundleVerifier,
}

impl Target {
    /// Chooses servers as the SigningConfig says, and trusts what the TrustedRoot says.
    ///
    /// # Errors
    ///
    /// [`TargetError`].
    pub fn new(files: &TargetFiles, notaries: &[KnownNotary]) -> Result<Self, TargetError> {
        let (config, root) = files.parse()?;
        let servers = servers(&config, &root)?;
        let selected = select(&config.tsa_config, config.eligible_tsa_urls());
        let timestamp_authorities =
            selected.into_iter().flatten().map(|authority| authority.url.clone()).collect();
        let verifier = BundleVerifier::new(root, notaries)?;
        Ok(Self { servers, timestamp_authorities, verifier })
    }

    /// The addresses of its logs.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| server.url())
    }
}

fn servers(config: &SigningConfig, root: &TrustedRoot) -> Result<Vec<Box<dyn Rekor>>, TargetError> {
    let selected = select(&config.rekor_tlog_config, config.eligible_rekor_urls(None));
    let selected = selected.filter(|servers| !servers.is_empty()).ok_or(TargetError::NoServer)?;
    let client = |server: &ServiceEndpoint| -> Box<dyn Rekor> {
        match server.major_api_version {
            1 => Box::new(RekorV1::new(&server.url)),
            _ => {
                let ids = root.tlogs.iter().map(|log| log.log_id.key_id.as_bytes().to_vec());
                Box::new(RekorV2::new(&server.url, ids.collect()))
            }
        }
    };
    Ok(selected.into_iter().map(client).collect())
}

/// As many services as the selector asks for, the best first; `None` where there are not so many,
/// or it does not say.
fn select<'a>(
    asked: &sigstore_trust_root::signing_config::ServiceConfiguration,
    eligible: Vec<&'a ServiceEndpoint>,
) -> Option<Vec<&'a ServiceEndpoint>> {
    let count = match asked.selector {
        ServiceSelector::All => eligible.len(),
        ServiceSelector::Any => 1,
        ServiceSelector::Exact => usize::try_from(asked.count?).ok()?,
        _ => return None,
    };
    (count <= eligible.len()).then(|| eligible.into_iter().take(count).collect())
}

/// Why a target cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// A file could not be used.
    #[error("the target cannot be used")]
    File(#[from] FileError),
    /// A file of it is not text.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The signing configuration is longer than any.
    #[error(
        "a signing configuration has at most {SIGNING_CONFIG_BYTES_MAX} bytes, this has {found}"
    )]
    ConfigTooLong {
        /// Its bytes.
        found: usize,
    },
    /// The signing configuration is not one.
    #[error("not a Sigstore signing configuration, v0.2")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The trusted root is not one.
    #[error(transparent)]
    Root(#[from] TrustedRootError),
    /// The trusted root holds what cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// No log of the signing configuration is valid now, or not as many as it asks for.
    #[error("the signing configuration names no log that is valid now, or too few")]
    NoServer,
    /// There is no such target.
    #[error("there is no target {name}")]
    None {
        /// Its name.
        name: TargetName,
    },
    /// There is one of this name already.
    #[error("there is a target {name} already")]
    Exists {
        /// Its name.
        name: TargetName,
    },
}

impl TargetError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::File(_) => "target.file",
            Self::Damaged { .. } => "target.damaged",
            Self::ConfigTooLong { .. } | Self::Config(_) => "target.signing-config",
            Self::Root(error) => error.code(),
            Self::Trust(error) => error.code(),
            Self::NoServer => "target.no-server",
            Self::None { .. } => "target.none",
            Self::Exists { .. } => "target.exists",
        }
    }
}

const NAME_BYTES_MAX: usize = 64;
const SIGNING_CONFIG: &str = "signing_config.json";
const TRUSTED_ROOT: &str = "trusted_root.json";
