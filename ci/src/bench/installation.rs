//! What is measured: an installation of evanesce in a directory of its own, and OpenSSH's agent.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::BenchError;
use super::client::Client;
use crate::programs::output;

/// An installation of evanesce with a notary, so that no figure has the making of one in it.
#[derive(Debug)]
pub(super) struct Installation {
    directory: TempDir,
    program: PathBuf,
}

impl Installation {
    /// A new one, in a new directory in `parent`.
    pub(super) fn new(program: PathBuf, parent: &Path) -> Result<Self, BenchError> {
        let directory = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(parent)
            .map_err(|source| BenchError::Directory { path: parent.to_owned(), source })?;
        let installation = Self { directory, program };
        output(installation.evanesce().args(["notary", "init"]))?;
        Ok(installation)
    }

    /// `evanesce`, still without arguments.
    pub(super) fn evanesce(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .stdin(Stdio::null())
            .env("EVANESCE_STATE_DIR", self.path().join("state"))
            .env("RUNTIME_DIRECTORY", self.path().join("run"))
            .env_remove("EVANESCE_LOG");
        command
    }

    /// Starts a workload whose command waits, and waits for that command.
    pub(super) fn hold(&self) -> Result<Held, BenchError> {
        Held::start(self.evanesce().args(["run", "--quiet", "--log", "info"]).args(HOLD))
    }

    /// What `evanesce ps` says.
    pub(super) fn workloads(&self) -> Result<Vec<Value>, BenchError> {
        let listed = output(self.evanesce().args(["ps", "--json"]))?;
        serde_json::from_str(&listed).map_err(|_| BenchError::Output { of: "evanesce ps" })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// A workload whose command waits for the end of its input. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Held {
    launcher: Child,
    input: Option<ChildStdin>,
    socket: PathBuf,
}

impl Held {
    fn start(command: &mut Command) -> Result<Self, BenchError> {
        let mut launcher = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(BenchError::Start)?;
        let input = launcher.stdin.take();
        let mut held = Self { launcher, input, socket: PathBuf::new() };
        let mut line = String::new();
        let stdout = held.launcher.stdout.take().expect("standard output is piped");
        BufReader::new(stdout).read_line(&mut line).map_err(BenchError::Start)?;
        match line.strip_suffix('\n') {
            Some(socket) => held.socket = socket.into(),
            None => {
                let said = held.finish()?;
                return Err(BenchError::Workload { said });
            }
        }
        Ok(held)
    }

    /// Lets the command end, and returns what the launcher wrote to standard error by its own end.
    pub(super) fn finish(mut self) -> Result<String, BenchError> {
        self.input = None;
        let mut said = String::new();
        let mut stderr = self.launcher.stderr.take().expect("standard error is piped");
        stderr.read_to_string(&mut said).map_err(BenchError::Start)?;
        match self.launcher.wait().map_err(BenchError::Start)?.success() {
            true => Ok(said),
            false => Err(BenchError::Workload { said }),
        }
    }

    pub(super) fn connect(&self) -> Result<Client, BenchError> {
        Client::connect(&self.socket).map_err(BenchError::Agent)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.input = None;
        // It ends by itself now; where it is gone already there is nothing to wait for.
        self.launcher.wait().ok();
    }
}

/// OpenSSH's agent with one new Ed25519 key. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct SshAgent {
    process: Child,
    directory: TempDir,
}

impl SshAgent {
    pub(super) fn start() -> Result<Self, BenchError> {
        let directory = tempfile::tempdir().map_err(BenchError::Start)?;
        let key = directory.path().join("key");
        output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?;
        let process = Command::new("ssh-agent")
            .arg("-D") // stays a child of this process
            .arg("-a")
            .arg(directory.path().join(SOCKET))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BenchError::Start)?;
        let mut agent = Self { process, directory };
        // It says where its socket is once that is there.
        let stdout = agent.process.stdout.take().expect("standard output is piped");
        BufReader::new(stdout).read_line(&mut String::new()).map_err(BenchError::Start)?;
        output(Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", agent.socket()))?;
        Ok(agent)
    }

    pub(super) fn connect(&self) -> Result<Client, BenchError> {
        Client::connect(&self.socket()).map_err(BenchError::Agent)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join(SOCKET)
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        // Where it is gone already there is nothing to kill.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A command that says where its agent is and waits for the end of its input.
const HOLD: [&str; 4] = ["--", "sh", "-c", "echo \"$SSH_AUTH_SOCK\"; read -r _; exit 0"];

const SOCKET: &str = "agent.sock";
