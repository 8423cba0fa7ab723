//! TLS: the server's certificate, and which clients' certificates are believed.
//!
//! TLS 1.3 alone, so that a client's certificate is not sent in the clear. No sessions are kept: a
//! client shows its certificate each time it connects, and a reload takes hold of all of them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::config::TlsFiles;
use crate::limits::PEM_BYTES_MAX;

/// What connections are taken with.
#[derive(Clone, Debug)]
pub struct Tls {
    pub(crate) server: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`TlsError`] names the file.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = read_certificates(&files.client_ca.0)?;
        let mut store = RootCertStore::empty();
        for root in roots {
            store
                .add(root)
                .map_err(|source| TlsError::Root { path: files.client_ca.0.clone(), source })?;
        }
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(store.into(), Arc::clone(&provider));
        if let Some(crl) = &files.client_crl {
            verifier = verifier.with_crls(read_crls(&crl.0)?);
        }
        let verifier = verifier.build().map_err(TlsError::Clients)?;
        let certificates = read_certificates(&files.certificate.0)?;
        let key = read_key(&files.key.0)?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Server)?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(certificates, key)
            .map_err(TlsError::Server)?;
        server.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { server: server.into(), verifier })
    }

    /// Whether a client's certificates, the client's own first, are still believed.
    pub(crate) fn believes(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((own, others)) = chain.split_first() else { return false };
        self.verifier.verify_client_cert(own, others, UnixTime::now()).is_ok()
    }
}

/// Why connections cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is longer than any of its kind.
    #[error("{} has more than {PEM_BYTES_MAX} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {wanted} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// A root for clients' certificates cannot be used.
    #[error("a root in {} cannot be used", path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
    /// Roots and revocation lists do not go together.
    #[error("clients' certificates cannot be verified")]
    Clients(#[source] VerifierBuilderError),
    /// Certificate and key do not go together.
    #[error("the server's certificate and key cannot be used")]
    Server(#[source] rustls::Error),
}

impl TlsError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "serve-tls.read",
            Self::TooLong { .. } => "serve-tls.too-long",
            Self::Pem { .. } => "serve-tls.pem",
            Self::Root { .. } => "serve-tls.root",
            Self::Clients(_) => "serve-tls.clients",
            Self::Server(_) => "serve-tls.server",
        }
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| TlsError::Pem { path: path.to_owned(), wanted: "certificate" })
}

fn read_crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| TlsError::Pem { path: path.to_owned(), wanted: "revocation list" })
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|_| TlsError::Pem { path: path.to_owned(), wanted: "private key" })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > PEM_BYTES_MAX {
        true => Err(TlsError::TooLong { path: path.to_owned() }),
        false => Ok(bytes),
    }
}

/// HTTP/2 over TLS (RFC 9113, section 3.2).
pub(crate) const H2: &[u8] = b"h2";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AbsolutePath;

    #[test]
    fn each_file_that_is_missing_or_something_else_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| AbsolutePath(directory.path().join(name));
        let files = TlsFiles {
            certificate: path("server.pem"),
            key: path("server.key"),
            client_ca: path("clients.pem"),
            client_crl: None,
        };
        assert_eq!(Tls::load(&files).unwrap_err().code(), "serve-tls.read");

        std::fs::write(&files.client_ca.0, "no certificate").unwrap();
        let refused = Tls::load(&files).unwrap_err();
        assert_eq!(refused.code(), "serve-tls.pem");
        assert!(refused.to_string().contains("clients.pem"), "{refused}");

        let long = vec![b'-'; usize::try_from(PEM_BYTES_MAX).unwrap() + 1];
        std::fs::write(&files.client_ca.0, long).unwrap();
        assert_eq!(Tls::load(&files).unwrap_err().code(), "serve-tls.too-long");
    }
}
