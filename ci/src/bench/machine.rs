//! What the figures were measured on, and against which versions.

use std::fmt;
use std::fs;
use std::num::NonZero;
use std::process::Command;
use std::thread::available_parallelism;

use serde::Serialize;

use super::installation::Installation;
use crate::programs::{ProgramError, output, repository};

/// Versions and hardware, as each names itself.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    /// What the ledger was written to.
    file_system: String,
    openssh: String,
    node: String,
    compiler: String,
    commit: String,
}

impl Machine {
    pub(super) fn of(installation: &Installation) -> Result<Self, ProgramError> {
        let line = |command: &mut Command| Ok(output(command)?.trim().to_owned());
        let or_none = |found: Result<String, ProgramError>| found.unwrap_or_else(|_| "none".into());
        Ok(Self {
            processor: processor(),
            cores: available_parallelism().map_or(1, NonZero::get),
            kernel: line(Command::new("uname").args(["-sr"]))?,
            file_system: line(
                Command::new("stat").args(["-f", "-c", "%T"]).arg(installation.path()),
            )?,
            // It says so on standard error.
            openssh: line(Command::new("sh").args(["-c", "ssh -V 2>&1"]))?,
            node: or_none(line(Command::new("node").arg("--version"))),
            compiler: line(Command::new("rustc").arg("--version"))?,
            commit: or_none(line(
                Command::new("git")
                    .args(["describe", "--always", "--dirty"])
                    .current_dir(repository()),
            )),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, kernel, file_system, openssh, node, compiler, commit } = self;
        write!(
            f,
            "{processor}, {cores} cores; {kernel}; ledger on {file_system}; {openssh}; \
             node {node}; {compiler}; commit {commit}"
        )
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    model.unwrap_or("an unnamed processor").to_owned()
}
