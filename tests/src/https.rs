//! A client of `evanesce serve` that also does what no client should, and a PKI made for the test.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::process::{self, DEADLINE};

/// Certificates of one authority, made by OpenSSL in a directory.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
}

impl Pki {
    /// An authority, and a certificate for `localhost`.
    ///
    /// # Panics
    ///
    /// Where OpenSSL does not make them.
    pub fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("the directory is ours");
        let pki = Self { directory: directory.to_owned() };
        fs::write(pki.path("openssl.cnf"), OPENSSL_CNF).expect("the directory is ours");
        pki.openssl("ca", "/CN=test authority", "authority", &[]);
        pki.issue("server", "/CN=localhost", "server");
        pki
    }

    /// Makes a client's certificate `NAME.pem`, with its key `NAME.key`.
    ///
    /// # Panics
    ///
    /// Where OpenSSL does not make it.
    pub fn client(&self, name: &str) {
        self.issue(name, &format!("/CN={name}"), "client");
    }

    /// A file of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The SHA-256 of a certificate, as a policy names it.
    ///
    /// # Panics
    ///
    /// Where there is none of this name.
    pub fn digest(&self, name: &str) -> String {
        let certificate = &self.certificates(&format!("{name}.pem"))[0];
        format!("sha256:{}", hex::encode(Sha256::digest(certificate)))
    }

    /// What a client of this authority does TLS with, as `client` or as nobody.
    ///
    /// # Panics
    ///
    /// Where there is no such client.
    pub fn config(&self, client: Option<&str>) -> Arc<ClientConfig> {
        self.config_believing(self, client)
    }

    /// The same, for a server of another authority.
    ///
    /// # Panics
    ///
    /// Where there is no such client.
    pub fn config_believing(&self, of_server: &Self, client: Option<&str>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for root in of_server.certificates("ca.pem") {
            roots.add(root).expect("a root of the test");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key")));
                let chain = self.certificates(&format!("{name}.pem"));
                let key = key.expect("a key of the test");
                builder.with_client_auth_cert(chain, key).expect("it is the certificate's key")
            }
        };
        Arc::new(config)
    }

    fn certificates(&self, file: &str) -> Vec<CertificateDer<'static>> {
        let found = CertificateDer::pem_file_iter(self.path(file)).expect("a file of the test");
        found.map(|certificate| certificate.expect("a certificate of the test")).collect()
    }

    fn issue(&self, name: &str, subject: &str, extensions: &str) {
        let (ca, key) = (self.path("ca.pem"), self.path("ca.key"));
        let by = [Path::new("-CA"), &ca, Path::new("-CAkey"), &key];
        self.openssl(name, subject, extensions, &by);
    }

    fn openssl(&self, name: &str, subject: &str, extensions: &str, by: &[&Path]) {
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", subject, "-extensions", extensions, "-config"])
            .arg(self.path("openssl.cnf"))
            .arg("-keyout")
            .arg(self.path(&format!("{name}.key")))
            .arg("-out")
            .arg(self.path(&format!("{name}.pem")))
            .args(by);
        process::output(command).expect_status(0);
    }
}

/// One connection.
#[derive(Debug)]
pub struct Https {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// Where it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error}: {self:?}"),
        }
    }

    /// Asserts status and code of a problem.
    ///
    /// # Panics
    ///
    /// For any other answer.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.json()["code"], code, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        self
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }
}

impl Https {
    /// Connects; the handshake is done by the first request.
    ///
    /// # Errors
    ///
    /// Those of connect(2).
    pub fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self { stream: BufReader::new(StreamOwned::new(session, stream)) })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// Those of write(2) and of TLS.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    ///
    /// Where there is none: refused by TLS, or hung up.
    pub fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let length = body.len();
        self.send(
            format!(
                "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{kind}content-length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        )?;
        self.answer()
    }

    /// The next answer.
    ///
    /// # Errors
    ///
    /// Where there is none.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            match line.split_once(':') {
                None => break,
                Some((name, value)) => {
                    headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
            }
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        let length = answer.header("content-length").and_then(|length| length.parse().ok());
        answer.body = vec![0; length.unwrap_or(0)];
        self.stream.read_exact(&mut answer.body)?;
        Ok(answer)
    }

    /// Whether the server hangs up without another byte.
    pub fn is_hung_up(&mut self) -> bool {
        matches!(self.stream.fill_buf(), Ok([]) | Err(_))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

const OPENSSL_CNF: &str = "\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
";
