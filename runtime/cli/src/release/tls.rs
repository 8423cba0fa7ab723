//! TLS 1.3 by rustls, with ring. It hides who asks for which key; it is not what the release
//! rests on: the answer is signed, and the key in it sealed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use crate::errors::Coded;
use crate::files::{self, ReadError};

/// The holder's side: a certificate chain and its private key, PEM.
///
/// # Errors
///
/// [`TlsError`] where a file cannot be read, or the two do not belong together.
pub(crate) fn server(certificates: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates_of(certificates)?;
    let text = files::read_small(key, PEM_BYTES_MAX)?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| TlsError::Pem { path: key.to_owned(), what: "private key" })?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(TlsError::Tls)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Tls)?;
    Ok(Arc::new(config))
}

/// The asker's side: who may vouch for the holder's certificate. Without a file, Mozilla's list.
///
/// # Errors
///
/// [`TlsError`] where the file cannot be read or holds no certificate.
pub(crate) fn client(roots: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut store = RootCertStore::empty();
    match roots {
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            for certificate in certificates_of(path)? {
                store.add(certificate).map_err(TlsError::Tls)?;
            }
        }
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(TlsError::Tls)?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Begins a connection to `host`, whose certificate has to be for that name or address.
///
/// # Errors
///
/// [`TlsError`] for a name that no certificate can be for.
pub(crate) fn connect(
    config: &Arc<ClientConfig>,
    host: &str,
) -> Result<ClientConnection, TlsError> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| TlsError::Name { host: host.to_owned() })?;
    ClientConnection::new(Arc::clone(config), name).map_err(TlsError::Tls)
}

/// Begins the holder's side of a connection.
///
/// # Errors
///
/// [`TlsError`].
pub(crate) fn accept(config: &Arc<ServerConfig>) -> Result<ServerConnection, TlsError> {
    ServerConnection::new(Arc::clone(config)).map_err(TlsError::Tls)
}

fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = files::read_small(path, PEM_BYTES_MAX)?;
    let none = || TlsError::Pem { path: path.to_owned(), what: "certificate" };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(none()),
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TlsError {
    /// A file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file holds something else.
    #[error("{} holds no {what} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// A host that no certificate can be for.
    #[error("no certificate can be for {host:?}")]
    Name {
        /// The host.
        host: String,
    },
    /// rustls refuses what it was given.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

impl Coded for TlsError {
    fn code(&self) -> &'static str {
        match self {
            Self::Read(error) => error.code(),
            Self::Pem { .. } => "tls.pem",
            Self::Name { .. } => "tls.name",
            Self::Tls(_) => "tls.setup",
        }
    }
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        Self::other(error)
    }
}

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Bytes in a file of certificates: a bundle of all public roots has 220 KiB.
const PEM_BYTES_MAX: u64 = 1024 * 1024;
