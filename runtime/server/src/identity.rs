//! Who a client is, by the certificate that TLS has verified.

use sha2::{Digest as _, Sha256};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// A client's certificate, as policies name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 of the certificate (DER).
    pub sha256: [u8; 32],
    /// Its subject, as RFC 4514 writes it; `None` where it cannot be read.
    pub subject: Option<String>,
}

impl Identity {
    /// Reads a certificate, DER.
    pub fn of_certificate(der: &[u8]) -> Self {
        let subject = Certificate::from_der(der)
            .ok()
            .map(|certificate| certificate.tbs_certificate().subject().to_string());
        Self { sha256: Sha256::digest(der).into(), subject }
    }
}
