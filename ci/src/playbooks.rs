//! `cargo xtask playbooks`: does what every playbook says, on this machine, and undoes it.
//!
//! Volumes, swap and core files are made for it in a directory that is removed. A step is left out
//! where the machine has no systemd or no device mapper, and the report says so; where anything else
//! is missing, the task fails.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::programs::{ProgramError, cargo, output, show, target_directory};

/// Do what every playbook says, in an installation of its own, and undo it
///
/// Needs root, gcore (Debian's package gdb) and cryptsetup.
#[derive(Debug, clap::Args)]
pub(crate) struct PlaybooksArgs {
    /// Only the playbook NAME (can be repeated)
    #[arg(long = "only", value_name = "NAME")]
    only: Vec<String>,
}

pub(crate) fn run(args: &PlaybooksArgs) -> Result<PlaybooksReport, PlaybooksError> {
    show(cargo().args(["build", "--quiet", "--release", "--locked", "--bin", "evanesce"]))?;
    let stage = Stage::prepare()?;
    let mut report = PlaybooksReport::default();
    let listed = stage.json(&["playbook", "list"], &[0])?;
    for playbook in listed.as_array().into_iter().flatten() {
        let name = playbook["name"].as_str().unwrap_or_default().to_owned();
        if args.only.is_empty() || args.only.contains(&name) {
            stage.follow(&name, &mut report)?;
        }
    }
    stage.json(&["audit", "verify"], &[0])?;
    Ok(report)
}

/// A directory with an installation and everything that a playbook may destroy.
struct Stage {
    root: tempfile::TempDir,
    program: PathBuf,
    core_pattern: Option<String>,
}

impl Stage {
    fn prepare() -> Result<Self, PlaybooksError> {
        let root = tempfile::tempdir().map_err(PlaybooksError::Directory)?;
        let program = target_directory()?.join("release/evanesce");
        let core_pattern = fs::read_to_string(CORE_PATTERN).ok();
        let stage = Self { root, program, core_pattern };
        let make = || -> io::Result<()> {
            fs::write(stage.path("artifact.tar"), "an artefact")?;
            fs::write(stage.path("passphrase"), "correct horse battery staple")?;
            for (file, bytes) in [("volume.img", 32 << 20), ("swap.img", 4 << 20)] {
                fs::File::create_new(stage.path(file))?.set_len(bytes)?;
            }
            fs::create_dir(stage.path("cores"))?;
            fs::write(stage.path("cores/core.4711"), "what a process held")
        };
        make().map_err(PlaybooksError::Directory)?;
        output(
            Command::new("cryptsetup")
                .args(["luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2"])
                .args(["--pbkdf-force-iterations", "1000", "--key-file"])
                .args([stage.path("passphrase"), stage.path("volume.img")]),
        )?;
        Ok(stage)
    }

    fn follow(&self, name: &str, report: &mut PlaybooksReport) -> Result<(), PlaybooksError> {
        let evidence = self.path(&format!("evidence-{name}"));
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        let settings = match name {
            "crypto-shred" => vec![
                set("ARTIFACT", &self.path("artifact.tar")),
                set("EVIDENCE", &evidence),
                "SIGNATURES=100".to_owned(),
            ],
            "suspected-exposure" => vec![set("EVIDENCE", &evidence)],
            "swap-and-cores" => {
                vec![set("SWAP", &self.path("swap.img")), set("CORES", &self.path("cores"))]
            }
            "host-reuse" => {
                vec![set("EVIDENCE", &evidence), set("VOLUME", &self.path("volume.img"))]
            }
            _ => Vec::new(),
        };
        let settings: Vec<&str> =
            settings.iter().flat_map(|setting| ["--set", setting.as_str()]).collect();
        let line = ["playbook", "run", name, "--yes", "--leave-out-missing"];
        let ran = self.json(&[&line, &settings[..]].concat(), &[0, 1])?;
        for (index, step) in ran["report"]["steps"].as_array().into_iter().flatten().enumerate() {
            let (title, seen) = (&step["title"], step["seen"].as_str().unwrap_or_default());
            let done = format!("{name}, {}", title.as_str().unwrap_or_default());
            match step["outcome"].as_str() {
                Some("holds") => {
                    let number = (index + 1).to_string();
                    let undo = ["playbook", "run", name, "--yes", "--undo", &number];
                    report.undone += usize::from(self.undo(&[&undo, &settings[..]].concat())?);
                    report.done.push(done);
                }
                Some("left-out") if MAY_LACK.iter().any(|need| seen.ends_with(need)) => {
                    report.left_out.push(format!("{done}: {seen}"));
                }
                _ => return Err(PlaybooksError::Step { step: done, seen: seen.to_owned() }),
            }
        }
        Ok(())
    }

    /// Undoes a step; `false` where nothing can, and the playbook says why.
    fn undo(&self, line: &[&str]) -> Result<bool, PlaybooksError> {
        let undone = self.evanesce(line)?;
        let seen = String::from_utf8_lossy(&undone.stderr).into_owned();
        match undone.status.code() {
            Some(0) => Ok(true),
            Some(2) if seen.contains("playbook.no-undo") => Ok(false),
            _ => Err(PlaybooksError::Step { step: line.join(" "), seen }),
        }
    }

    fn json(&self, args: &[&str], statuses: &[i32]) -> Result<Value, PlaybooksError> {
        let ran = self.evanesce(&[args, &["--json"]].concat())?;
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        if !ran.status.code().is_some_and(|status| statuses.contains(&status)) {
            return Err(PlaybooksError::Step { step: args.join(" "), seen: said });
        }
        serde_json::from_slice(&ran.stdout)
            .map_err(|_| PlaybooksError::Step { step: args.join(" "), seen: said })
    }

    fn evanesce(&self, args: &[&str]) -> Result<Output, PlaybooksError> {
        Command::new(&self.program)
            .args(args)
            .current_dir(self.root.path())
            .stdin(Stdio::null())
            .env("EVANESCE_STATE_DIR", self.path("state"))
            .env("RUNTIME_DIRECTORY", self.path("run"))
            .output()
            .map_err(PlaybooksError::Directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Undoing a step of `swap-and-cores` may have taken the file into use.
        drop(Command::new("swapoff").arg(self.path("swap.img")).output());
        if let Some(pattern) = &self.core_pattern {
            // Without root it was not changed either.
            fs::write(CORE_PATTERN, pattern).unwrap_or(());
        }
    }
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct PlaybooksReport {
    done: Vec<String>,
    left_out: Vec<String>,
    undone: usize,
}

impl fmt::Display for PlaybooksReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.left_out {
            writeln!(f, "left out: {step}")?;
        }
        let (done, left_out) = (self.done.len(), self.left_out.len());
        write!(
            f,
            "{done} steps of the playbooks hold, {} of them undone, {left_out} left out",
            self.undone
        )
    }
}

/// Why the playbooks were not done, or not to their end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PlaybooksError {
    #[error("the directory for the playbooks could not be prepared")]
    Directory(#[source] io::Error),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("{step} does not hold:\n{seen}")]
    Step { step: String, seen: String },
}

/// What a machine of CI may lack.
const MAY_LACK: [&str; 2] = ["systemd", "device-mapper"];

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";
