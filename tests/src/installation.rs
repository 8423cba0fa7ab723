//! One installation of evanesce in directories of its own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64ct::{Base64, Encoding as _};
use serde_json::Value;
use tempfile::TempDir;

use crate::peers::{self, PATH};
use crate::process::{self, Outcome, Running};

/// One installation: a program, a user, and directories that nobody else has.
///
/// Everything it starts has an environment of a few variables and nothing of the caller's.
#[derive(Debug)]
pub struct Installation {
    root: TempDir,
    program: PathBuf,
    user: User,
}

/// Who runs an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    /// Whoever runs the tests.
    Same,
    /// `nobody`, where root runs the tests.
    Nobody,
}

impl Installation {
    /// An installation of `program` for whoever runs the tests.
    ///
    /// # Panics
    ///
    /// Where its directories cannot be made.
    pub fn new(program: &str) -> Self {
        Self::of_user(program.into(), User::Same)
    }

    /// An installation of `program` for a user without privileges: `nobody`, where root runs the
    /// tests.
    ///
    /// # Panics
    ///
    /// Where its directories cannot be made.
    pub fn unprivileged(program: &str) -> Self {
        match peers::is_root() {
            false => Self::new(program),
            true => {
                let mut installation = Self::of_user(program.into(), User::Nobody);
                installation.program = installation.install(Path::new(program));
                installation
            }
        }
    }

    fn of_user(program: PathBuf, user: User) -> Self {
        let root = tempfile::Builder::new().prefix("e2e-").tempdir().expect("a directory");
        let installation = Self { root, program, user };
        installation.give(installation.root.path());
        for directory in ["work", "home", "tmp", "bin"] {
            let directory = installation.root.path().join(directory);
            fs::create_dir(&directory).expect("the directory is new");
            installation.give(&directory);
        }
        installation
    }

    /// Copies a program to where the installation's user can execute it.
    ///
    /// # Panics
    ///
    /// Where it cannot be copied.
    pub fn install(&self, program: &Path) -> PathBuf {
        let copy = self.root.path().join("bin").join(program.file_name().expect("a file"));
        // Not by this process: a thread that forks meanwhile would keep the copy open for writing,
        // and nobody could execute it ("text file busy").
        let mut copying = Command::new("cp");
        copying.arg(program).arg(&copy);
        process::output(copying).expect_status(0);
        copy
    }

    /// Writes a file into the working directory, for its owner alone.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work_dir().join(name);
        fs::write(&path, contents).expect("the directory is ours");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("the file is ours");
        self.give(&path);
        path
    }

    /// Makes `path` the user's.
    ///
    /// # Panics
    ///
    /// Where it is not there.
    pub fn give(&self, path: &Path) {
        if self.user == User::Nobody {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
        }
    }

    /// `evanesce` with these arguments, to be run by the user in the working directory.
    pub fn evanesce(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Invocation {
        self.program(&self.program, args)
    }

    /// `evanesce` as [`Self::evanesce`], started by a program that changes something first.
    pub fn evanesce_under(
        &self,
        wrapper: &[&str],
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Invocation {
        let mut line: Vec<OsString> = wrapper[1..].iter().map(OsString::from).collect();
        line.push(self.program.clone().into());
        line.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self.program(wrapper[0], line)
    }

    /// Any program, to be run as `evanesce` is.
    pub fn program(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Invocation {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.work_dir())
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.root.path().join("home"))
            .env("TMPDIR", self.root.path().join("tmp"))
            .env("EVANESCE_STATE_DIR", self.state_dir())
            .env("RUNTIME_DIRECTORY", self.runtime_dir());
        if self.user == User::Nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        Invocation { command }
    }

    /// Runs `evanesce` to its end.
    ///
    /// # Panics
    ///
    /// Where it cannot be started or the deadline passes.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.evanesce(args).output()
    }

    /// Runs `evanesce` with `--json` to its end and reads what it printed.
    ///
    /// # Panics
    ///
    /// Where it fails or prints no JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let outcome = self.evanesce(args.iter().chain(&["--json"])).output().expect_status(0);
        serde_json::from_str(&outcome.stdout).expect("--json prints JSON")
    }

    /// Starts a workload whose command waits for the end of its input, and waits for the command.
    ///
    /// # Panics
    ///
    /// Where it does not start.
    #[track_caller]
    pub fn hold(&self, args: &[&str]) -> Held {
        let line = [&["run"], args, &["--", "sh", "-c", HOLD]].concat();
        Held::of(self.evanesce(line).start())
    }

    /// The receipt of a workload, by the ledger.
    ///
    /// # Panics
    ///
    /// Where there is none.
    #[track_caller]
    pub fn receipt(&self, workload: &str) -> Value {
        let envelope = self.json(&["audit", "receipt", workload]);
        payload(&envelope)["predicate"].clone()
    }

    /// Ledger and notary; not there until evanesce made it.
    pub fn state_dir(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// Sockets; not there until evanesce made it.
    pub fn runtime_dir(&self) -> PathBuf {
        self.root.path().join("run")
    }

    /// Where everything is run.
    pub fn work_dir(&self) -> PathBuf {
        self.root.path().join("work")
    }

    /// The directory that all of this is in.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The program that is run.
    pub fn program_file(&self) -> &Path {
        &self.program
    }

    /// The names in the working directory, sorted.
    ///
    /// # Panics
    ///
    /// Where it cannot be read.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.work_dir()).expect("the directory is ours");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// A program with its arguments, user, directory and environment.
#[derive(Debug)]
#[must_use = "nothing runs until it is started"]
pub struct Invocation {
    command: Command,
}

impl Invocation {
    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    ///
    /// Where it cannot be started or the deadline passes.
    #[track_caller]
    pub fn output(self) -> Outcome {
        process::output(self.command)
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// Where it cannot be started.
    #[track_caller]
    pub fn start(self) -> Running {
        Running::start(self.command)
    }
}

/// A workload whose command waits for the end of its input.
#[derive(Debug)]
pub struct Held {
    /// The launcher.
    pub launcher: Running,
    /// The workload's id.
    pub id: String,
    /// The agent socket.
    pub socket: PathBuf,
    /// The public key, in OpenSSH's format.
    pub public_key_file: PathBuf,
    /// The command.
    pub command_pid: u32,
}

impl Held {
    #[track_caller]
    fn of(mut launcher: Running) -> Self {
        Self {
            id: launcher.next_line(),
            socket: launcher.next_line().into(),
            public_key_file: launcher.next_line().into(),
            command_pid: launcher.next_line().parse().expect("a process id"),
            launcher,
        }
    }

    /// The process that holds the key, as `ps` lists it.
    ///
    /// # Panics
    ///
    /// Where it does not.
    #[track_caller]
    pub fn worker_pid(&self, installation: &Installation) -> u32 {
        let listed = installation.json(&["ps"]);
        let of_id = |entry: &&Value| entry["workload_id"] == self.id.as_str();
        let entry = listed.as_array().expect("an array").iter().find(of_id);
        let pid = entry.and_then(|entry| entry["worker_pid"].as_u64());
        u32::try_from(pid.expect("ps lists the workload")).expect("a process id")
    }

    /// Lets the command end, and waits for the launcher.
    ///
    /// # Panics
    ///
    /// Where the deadline passes.
    #[track_caller]
    pub fn finish(self) -> Outcome {
        self.launcher.finish()
    }
}

/// The payload of a DSSE envelope, its signature not checked.
///
/// # Panics
///
/// Where it is not one.
pub fn payload(envelope: &Value) -> Value {
    let text = envelope["payload"].as_str().expect("an envelope has a payload");
    let bytes = Base64::decode_vec(text).expect("the payload is base64");
    serde_json::from_slice(&bytes).expect("the payload is JSON")
}

const HOLD: &str = r#"
printf '%s\n' "$EVANESCE_WORKLOAD_ID" "$SSH_AUTH_SOCK" "$EVANESCE_PUBLIC_KEY_FILE" "$$"
read -r _
exit 0
"#;

/// The user `nobody` on every Linux system.
const NOBODY: u32 = 65534;
