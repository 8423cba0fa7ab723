//! A server in a directory of its own, with certificates made for it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use evanesce_residue::{Canary, ScanReport, Scanner, unwatched};
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
    /// The key that is served as `files`: made for being searched for.
    canary: Canary,
    workers: Vec<u32>,
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
        let canary = Canary::random().map_err(std::io::Error::other)?;
        write_secret(&path("files.key"), &canary.to_pkcs8_pem())?;
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
        // From here on the key is where it should be, or where it is found.
        fs::remove_file(path("files.key"))?;
        let (program, workers) = (program.to_owned(), Vec::new());
        let mut server = Self { child, directory, program, canary, workers, address };
        server.workers = server.alive()?;
        Ok(server)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The agent socket of a key's worker.
    pub(super) fn agent(&self, key: &str) -> PathBuf {
        self.path("run").join(key).join("agent.sock")
    }

    /// The server itself, and its workers.
    pub(super) fn processes(&self) -> Vec<u32> {
        [&[self.child.id()], self.workers.as_slice()].concat()
    }

    /// Searches what anybody could read of the server and its workers for the key, which signed
    /// `messages`. Each is stopped meanwhile. Returns how many bytes were searched.
    pub(super) fn search_processes(&self, messages: &[Vec<u8>]) -> Result<u64, ServeError> {
        let (scanner, mut bytes) = (self.scanner(messages), 0);
        for process in self.processes() {
            let signal = |signal| {
                let pid = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process");
                kill_process(pid, signal).map_err(std::io::Error::from)
            };
            signal(Signal::STOP)?;
            let found = scanner.scan_process(process, &mut unwatched());
            signal(Signal::CONT)?;
            bytes += searched(&found.map_err(std::io::Error::other)?)?;
        }
        Ok(bytes)
    }

    /// Searches everything that it wrote.
    pub(super) fn search_files(&self, messages: &[Vec<u8>]) -> Result<u64, ServeError> {
        let found = self.scanner(messages).scan_path(self.directory.path(), &mut unwatched());
        searched(&found.map_err(std::io::Error::other)?)
    }

    fn scanner(&self, messages: &[Vec<u8>]) -> Scanner {
        let messages: Vec<_> = messages.iter().map(Vec::as_slice).collect();
        Scanner::new(&self.canary.forms(&messages))
    }

    /// How many requests the ledger has as signed.
    pub(super) fn recorded(&self) -> Result<u64, ServeError> {
        let rows = self.says(&["audit", "show", "--json"])?;
        let mut recorded = 0;
        for row in rows.lines().filter(|row| row.contains("\"event\":\"signed\"")) {
            let row: Value =
                serde_json::from_str(row).map_err(|error| ServeError::Answer(error.to_string()))?;
            recorded += row["requests"].as_array().map_or(0, Vec::len) as u64;
        }
        Ok(recorded)
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
        let alive = self.alive()?;
        let left =
            self.workers.iter().find(|worker| Path::new(&format!("/proc/{worker}")).exists());
        if !alive.is_empty() || left.is_some() {
            return Err(ServeError::Left(format!("a worker is left: {alive:?} {left:?}")));
        }
        self.says(&["audit", "verify"])?;
        Ok(())
    }

    /// The workers that live.
    fn alive(&self) -> Result<Vec<u32>, ServeError> {
        let alive: Value = serde_json::from_str(&self.says(&["ps", "--json"])?)
            .map_err(|error| ServeError::Answer(error.to_string()))?;
        let wrong = || ServeError::Answer(format!("not a list of workers: {alive}"));
        let pid = |worker: &Value| u32::try_from(worker["worker_pid"].as_u64()?).ok();
        let pids = alive.as_array().ok_or_else(wrong)?.iter().map(pid);
        pids.collect::<Option<_>>().ok_or_else(wrong)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where it has ended there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn write_secret(path: &Path, text: &str) -> Result<(), ServeError> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// The bytes of a search that found nothing.
fn searched(found: &ScanReport) -> Result<u64, ServeError> {
    match found.found_nothing() {
        true => Ok(found.bytes_scanned),
        false => Err(ServeError::Left(format!("something of the key was found: {:?}", found.hits))),
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
file = "DIRECTORY/files.key"
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
