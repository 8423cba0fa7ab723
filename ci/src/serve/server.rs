//! A server in a directory of its own, with certificates made for it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::ServeError;
use crate::programs::output;

/// A server that listens. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    directory: TempDir,
    program: PathBuf,
    pub(super) address: SocketAddr,
}

impl Server {
    /// Makes certificates and a configuration, and starts `program`.
    pub(super) fn start(program: &Path) -> Result<Self, ServeError> {
        let directory = tempfile::Builder::new().prefix("serve-").tempdir()?;
        let path = |name: &str| directory.path().join(name);
        fs::write(path("openssl.cnf"), OPENSSL_CNF)?;
        certificate(directory.path(), "ca", "authority")?;
        certificate(directory.path(), "server", "server")?;
        for client in [CLIENT, FLOOD] {
            certificate(directory.path(), client, "client")?;
        }
        let at = directory.path().display();
        fs::write(path("serve.toml"), CONFIG.replace("DIRECTORY", &at.to_string()))?;
        let mut child = evanesce(program, directory.path())
            .args(["serve"])
            .arg(path("serve.toml"))
            .stdout(Stdio::piped())
            .stderr(fs::File::create(path("stderr"))?)
            .spawn()?;
        let mut said = String::new();
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut said)?;
        let address = said.trim_end().strip_prefix("listening ").and_then(|at| at.parse().ok());
        let Some(address) = address else {
            child.wait()?;
            said.push_str(&fs::read_to_string(path("stderr"))?);
            return Err(ServeError::NotListening { said });
        };
        // Receipts are printed at the end: they fit a pipe's buffer.
        child.stdout = Some(stdout.into_inner());
        Ok(Self { child, directory, program: program.to_owned(), address })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The agent socket of a key's worker.
    pub(super) fn agent(&self, key: &str) -> PathBuf {
        self.path("run").join(key).join("agent.sock")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What `evanesce` of this installation prints.
    pub(super) fn says(&self, args: &[&str]) -> Result<String, ServeError> {
        Ok(output(evanesce(&self.program, self.directory.path()).args(args))?)
    }

    /// Ends it in order, and sees that nothing is left: no worker, and one receipt for each key.
    pub(super) fn stop(mut self) -> Result<(), ServeError> {
        self.terminate()?;
        self.finish()
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) -> Result<(), ServeError> {
        let pid = Pid::from_child(&self.child);
        Ok(kill_process(pid, Signal::TERM).map_err(std::io::Error::from)?)
    }

    /// Waits for its end, and looks at what is left.
    pub(super) fn finish(&mut self) -> Result<(), ServeError> {
        let mut said = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut said)?;
        }
        let status = self.child.wait()?;
        if !status.success() {
            said.push_str(&fs::read_to_string(self.path("stderr"))?);
            return Err(ServeError::Ended { status, said });
        }
        let rows = self.says(&["audit", "show", "--json"])?;
        let receipts = rows.lines().filter(|row| row.contains("\"event\":\"receipt\"")).count();
        if receipts != KEYS.len() {
            let found = format!("{} keys have {receipts} receipts", KEYS.len());
            return Err(ServeError::Left(found));
        }
        let alive: Value = serde_json::from_str(&self.says(&["ps", "--json"])?)
            .map_err(|error| ServeError::Answer(error.to_string()))?;
        if alive.as_array().is_none_or(|alive| !alive.is_empty()) {
            return Err(ServeError::Left(format!("a worker is left: {alive}")));
        }
        self.says(&["audit", "verify"])?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where it has ended there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn evanesce(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .env("EVANESCE_STATE_DIR", directory.join("state"))
        .env("RUNTIME_DIRECTORY", directory.join("run"))
        .env_remove("EVANESCE_LOG");
    command
}

fn certificate(directory: &Path, name: &str, extensions: &str) -> Result<(), ServeError> {
    let path = |name: String| directory.join(name);
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", &format!("/CN={name}"), "-extensions", extensions])
        .arg("-config")
        .arg(path("openssl.cnf".into()))
        .arg("-keyout")
        .arg(path(format!("{name}.key")))
        .arg("-out")
        .arg(path(format!("{name}.pem")));
    if name != "ca" {
        openssl.arg("-CA").arg(path("ca.pem".into())).arg("-CAkey").arg(path("ca.key".into()));
    }
    output(&mut openssl)?;
    Ok(())
}

/// Who may ask for as much as the machine gives.
pub(super) const CLIENT: &str = "client";

/// Who may not.
pub(super) const FLOOD: &str = "flood";

/// The names of its keys.
pub(super) const KEYS: [&str; 2] = ["files", "digests"];

const CONFIG: &str = r#"
listen = ["127.0.0.1:0"]
connections = 4096

[timeouts]
handshake = "2s"
idle = "5s"
body = "2s"

[tls]
certificate = "DIRECTORY/server.pem"
key = "DIRECTORY/server.key"
client-ca = "DIRECTORY/ca.pem"

[keys.files]
grants = ["sshsig"]
signatures-max = 1000000000

[keys.digests]
grants = ["digest"]
signatures-max = 1000000000

[clients.client]
subject = "CN=client"
keys = ["files", "digests"]
grants = ["sshsig", "digest"]
rate = 1000000
metrics = true

[clients.flood]
subject = "CN=flood"
keys = ["files"]
grants = ["sshsig:file"]
rate = 20
"#;

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
authorityKeyIdentifier = keyid
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
";
