//! A client that speaks HTTP/2 over TLS and checks what it is given.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use evanesce_protocol::sshsig::{Envelope, HashAlgorithm, SignedData};
use h2::client::{Builder, SendRequest};
use http::Request;
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ServeError;
use super::server::Server;

/// How a client of a server does TLS.
pub(super) fn tls(server: &Server, client: &str) -> Result<Arc<ClientConfig>, ServeError> {
    let wrong = |error| ServeError::Io(io::Error::other(error));
    let certificates = |name: &str| -> Result<Vec<_>, ServeError> {
        let path = server.path(&format!("{name}.pem"));
        let found = CertificateDer::pem_file_iter(path).map_err(io::Error::other)?;
        Ok(found.collect::<Result<_, _>>().map_err(io::Error::other)?)
    };
    let mut roots = RootCertStore::empty();
    for root in certificates("ca")? {
        roots.add(root).map_err(wrong)?;
    }
    let key = PrivateKeyDer::from_pem_file(server.path(&format!("{client}.key")));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(client)?, key.map_err(io::Error::other)?)
        .map_err(wrong)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Connects and shakes hands.
pub(super) async fn connect(
    server: std::net::SocketAddr,
    tls: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(tls).connect(name, stream).await
}

/// One connection, for any number of requests at once.
#[derive(Clone, Debug)]
pub(super) struct Client {
    requests: SendRequest<Bytes>,
}

impl Client {
    pub(super) async fn over(stream: TlsStream<TcpStream>) -> Result<Self, ServeError> {
        let (requests, connection) = Builder::new().handshake(stream).await?;
        // Its end is seen by whoever asks next.
        tokio::spawn(async move { connection.await.unwrap_or(()) });
        Ok(Self { requests })
    }

    /// Has a digest of its own signed; returns the status and the body.
    pub(super) async fn sign(&mut self, number: u64) -> Result<(u16, Vec<u8>), ServeError> {
        let digest = hex::encode(digest_of(number));
        let body = format!(r#"{{"digest":"sha512:{digest}","namespace":"file"}}"#);
        let request = Request::post("https://localhost/v1/keys/files/sign")
            .header("content-type", "application/json")
            .body(())
            .expect("a request");
        let mut requests = self.requests.clone().ready().await?;
        let (answer, mut stream) = requests.send_request(request, false)?;
        stream.send_data(Bytes::from(body), true)?;
        let answer = answer.await?;
        let status = answer.status().as_u16();
        let (mut body, mut found) = (answer.into_body(), Vec::new());
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            found.extend_from_slice(&data);
        }
        Ok((status, found))
    }
}

/// Sees that an answer is a signature of the digest with this number.
pub(super) fn check(number: u64, body: &[u8]) -> Result<(), ServeError> {
    let wrong =
        |what: &str| ServeError::Answer(format!("{what}: {}", String::from_utf8_lossy(body)));
    let answer: Value = serde_json::from_slice(body).map_err(|_| wrong("no JSON"))?;
    let text = |name: &str| answer[name].as_str().ok_or_else(|| wrong(name));
    let envelope = Envelope::from_armoured(text("signature")?.as_bytes());
    let envelope = envelope.map_err(|_| wrong("no signature"))?;
    let key = text("public_key")?.strip_prefix("ed25519:").and_then(|key| hex::decode(key).ok());
    let signature = envelope.signature.last_chunk::<64>().ok_or_else(|| wrong("too short"))?;
    UnparsedPublicKey::new(&ED25519, key.ok_or_else(|| wrong("no key"))?)
        .verify(&message_of(number), signature)
        .map_err(|_| wrong("not a signature of what was asked for"))
}

/// What is signed for the digest with this number.
pub(super) fn message_of(number: u64) -> Vec<u8> {
    let (hash, digest) = (HashAlgorithm::Sha512, digest_of(number));
    SignedData { namespace: "file", hash, message_digest: &digest }.to_bytes()
}

fn digest_of(number: u64) -> [u8; 64] {
    let mut digest = [0; 64];
    digest[..8].copy_from_slice(&number.to_be_bytes());
    digest
}
