//! The workload's command: found before anything starts, run with the signer in its environment.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use evanesce_ledger::receipt::CommandEnd;
use rustix::fs::Access;
use rustix::process::{Resource, Rlimit, Signal};

use crate::process::{EndStatus, HeldProcess};
use crate::record::RecordError;

/// A command that was found, and the environment it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    program: PathBuf,
    words: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl CommandLine {
    /// Finds the program of `words` as a shell does: in the `PATH` of `environment`, unless its
    /// name has a slash.
    ///
    /// # Errors
    ///
    /// [`CommandError`] where there is none, or none that may be executed.
    pub fn resolve(
        words: &[OsString],
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Self, CommandError> {
        let name = words.first().filter(|name| !name.is_empty()).ok_or(CommandError::Empty)?;
        let path = variable(&environment, "PATH").unwrap_or(OsStr::new(PATH_DEFAULT));
        let program = find(name, path)?;
        Ok(Self { program, words: words.to_vec(), environment })
    }

    /// Starts the command with `signer` in its environment, in this process's group: the terminal's
    /// signals and job control reach it as if it had been started by the shell.
    pub(crate) fn spawn(
        &self,
        signer: &SignerVariables<'_>,
        core_limit: Rlimit,
    ) -> io::Result<HeldProcess> {
        let mut command = Command::new(&self.program);
        command
            .arg0(&self.words[0])
            .args(&self.words[1..])
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(signer.variables(&self.environment));
        let child = HeldProcess::spawn(&mut command)?;
        // The launcher writes no core files; the command's are its own business. It may be gone.
        rustix::process::prlimit(Some(child.pid()), Resource::Core, core_limit).ok();
        Ok(child)
    }

    /// Where the program was found.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The program's name without its directory or arguments, which may hold secrets.
    pub fn name(&self) -> String {
        let name = self.program.file_name().unwrap_or_default();
        name.to_string_lossy().chars().take(NAME_CHARACTERS_MAX).collect()
    }
}

/// What a command has to know to sign.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignerVariables<'a> {
    pub(crate) workload_id: &'a str,
    pub(crate) agent_socket: &'a Path,
    pub(crate) public_key_line: &'a str,
    pub(crate) public_key_file: &'a Path,
}

impl SignerVariables<'_> {
    fn variables(&self, environment: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
        let mut variables: Vec<(OsString, OsString)> = vec![
            ("SSH_AUTH_SOCK".into(), self.agent_socket.into()),
            ("EVANESCE_WORKLOAD_ID".into(), self.workload_id.into()),
            ("EVANESCE_PUBLIC_KEY".into(), self.public_key_line.into()),
            ("EVANESCE_PUBLIC_KEY_FILE".into(), self.public_key_file.into()),
        ];
        // Git numbers these; those that are set already stay, and ours come after them.
        let before = variable(environment, "GIT_CONFIG_COUNT").unwrap_or(OsStr::new("0"));
        let Some(before) = before.to_str().and_then(|count| count.parse::<u32>().ok()) else {
            return variables;
        };
        let git: [(&str, OsString); 2] =
            [("gpg.format", "ssh".into()), ("user.signingkey", self.public_key_file.into())];
        for (number, (key, value)) in (before..).zip(git) {
            variables.push((format!("GIT_CONFIG_KEY_{number}").into(), key.into()));
            variables.push((format!("GIT_CONFIG_VALUE_{number}").into(), value));
        }
        variables.push(("GIT_CONFIG_COUNT".into(), (before + 2).to_string().into()));
        variables
    }
}

impl From<EndStatus> for CommandEnd {
    fn from(status: EndStatus) -> Self {
        match status {
            EndStatus::Exited(code) => Self::Exited(code),
            EndStatus::Signalled(signal) => Self::Signalled(signal),
        }
    }
}

fn find(name: &OsStr, path: &OsStr) -> Result<PathBuf, CommandError> {
    let candidates: Vec<PathBuf> = match name.as_bytes().contains(&b'/') {
        true => vec![name.into()],
        false => std::env::split_paths(path).map(|directory| directory.join(name)).collect(),
    };
    let mut found = None;
    for candidate in candidates {
        if !candidate.is_file() {
            found = found.or(candidate.exists().then_some(candidate));
            continue;
        }
        match rustix::fs::access(&candidate, Access::EXEC_OK) {
            Ok(()) => return Ok(candidate),
            Err(_) => found = Some(candidate),
        }
    }
    match found {
        Some(path) => Err(CommandError::NotExecutable { path }),
        None => Err(CommandError::NotFound { name: name.to_owned() }),
    }
}

fn variable<'a>(environment: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    environment.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_os_str())
}

/// Why a command cannot be run. Found out before anything is started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// No command was named.
    #[error("no command was named")]
    Empty,
    /// There is none of this name. A shell's status for it is 127.
    #[error("command {} was not found", name.display())]
    NotFound {
        /// The name.
        name: OsString,
    },
    /// There is one, and it may not be executed. A shell's status for it is 126.
    #[error("command {} cannot be executed", path.display())]
    NotExecutable {
        /// Where it was found.
        path: PathBuf,
    },
}

impl CommandError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "command.empty",
            Self::NotFound { .. } => "command.not-found",
            Self::NotExecutable { .. } => "command.not-executable",
        }
    }
}

/// Why a command was not run to its end with a signer at its side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The kernel did not execute it: a script without an interpreter, or another machine's.
    #[error("command {} cannot be executed", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A signal came before the command was started.
    #[error("signal {signal} came before the command was started")]
    Interrupted {
        /// Its number.
        signal: i32,
    },
    /// The command, the worker or signals could not be waited for.
    #[error("the command could not be waited for")]
    Wait(#[source] io::Error),
    /// Signatures could not be put in the ledger; the key was wiped, and the command ran on.
    #[error("signatures could not be recorded, so the key was ended early")]
    Record(#[source] RecordError),
}

impl RunError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spawn { .. } => "command.not-executable",
            Self::Interrupted { .. } => "command.interrupted",
            Self::Wait(_) => "command.wait",
            Self::Record(error) => error.code(),
        }
    }
}

/// Signals that end a launcher which has no command yet.
pub(crate) const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// As execvp(3) has it where there is no `PATH`.
const PATH_DEFAULT: &str = "/bin:/usr/bin";

/// Of a command's name in the ledger.
const NAME_CHARACTERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn signer(environment: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
        SignerVariables {
            workload_id: "w",
            agent_socket: Path::new("/run/w/agent.sock"),
            public_key_line: "ssh-ed25519 AAAA w",
            public_key_file: Path::new("/run/w/key.pub"),
        }
        .variables(environment)
    }

    #[test]
    fn a_command_that_is_missing_or_not_executable_is_told_apart_before_it_starts() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tool");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let path = environment(&[("PATH", directory.path().to_str().unwrap())]);
        let code = |name: &str| {
            CommandLine::resolve(&words(&[name]), path.clone()).map_err(|error| error.code())
        };

        assert_eq!(code("tool"), Err("command.not-executable"));
        assert_eq!(code(directory.path().to_str().unwrap()), Err("command.not-executable"));
        assert_eq!(code("nothing-of-this-name"), Err("command.not-found"));
        assert_eq!(code(""), Err("command.empty"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(code("tool").unwrap().program, file);
    }

    #[test]
    fn gits_configuration_is_added_after_what_is_there() {
        let added = signer(&environment(&[("GIT_CONFIG_COUNT", "1")]));

        for (name, value) in [
            ("GIT_CONFIG_KEY_1", "gpg.format"),
            ("GIT_CONFIG_VALUE_1", "ssh"),
            ("GIT_CONFIG_KEY_2", "user.signingkey"),
            ("GIT_CONFIG_VALUE_2", "/run/w/key.pub"),
            ("GIT_CONFIG_COUNT", "3"),
        ] {
            assert_eq!(variable(&added, name), Some(OsStr::new(value)), "{name}");
        }
        assert_eq!(variable(&signer(&[]), "GIT_CONFIG_COUNT"), Some(OsStr::new("2")));
    }

    #[test]
    fn a_count_that_git_would_refuse_is_left_for_git_to_refuse() {
        let added = signer(&environment(&[("GIT_CONFIG_COUNT", "many")]));

        assert_eq!(variable(&added, "GIT_CONFIG_COUNT"), None);
        assert_eq!(variable(&added, "SSH_AUTH_SOCK"), Some(OsStr::new("/run/w/agent.sock")));
    }
}
