//! `cargo xtask systemd`: the tests of `tests/systemd` under a real systemd.
//!
//! A small Debian with systemd is made once and kept in the target directory. For each run it is
//! booted in a container on an overlay that is thrown away, with the target directory and the
//! checkout at their own paths, read-only; a unit in it runs the tests and hands its status out.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::programs::{ProgramError, cargo, output, repository, show, target_directory};

/// Run the tests of units under a real systemd
///
/// Needs root and the Debian packages mmdebstrap and systemd-container; the first run downloads a
/// Debian of about 280 MB.
#[derive(Debug, clap::Args)]
pub(crate) struct SystemdArgs {
    /// Run only the tests whose names have TEXT in them
    #[arg(value_name = "TEXT")]
    filter: Option<String>,

    /// Build for release: for the figures
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(args: &SystemdArgs) -> Result<SystemdReport, SystemdError> {
    if !rustix::process::geteuid().is_root() {
        return Err(SystemdError::NotRoot);
    }
    let missing = ["mmdebstrap", "systemd-nspawn"].into_iter().filter(|name| !is_installed(name));
    let missing: Vec<_> = missing.collect();
    if !missing.is_empty() {
        return Err(SystemdError::Missing { programs: missing.join(", ") });
    }
    let target = target_directory()?;
    let tests = build_tests(args.release)?;
    let machine = machine(&target.join("systemd"))?;
    boot(&machine, &target, &tests, args.filter.as_deref())
}

/// Builds the tests and returns their program.
fn build_tests(release: bool) -> Result<PathBuf, SystemdError> {
    let mut build = cargo();
    build.args(["test", "--locked", "--workspace", "--test", "systemd"]);
    build.args(["--no-run", "--message-format=json-render-diagnostics"]);
    if release {
        build.arg("--release");
    }
    let messages = output(&mut build)?;
    let program = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "systemd")
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .next_back();
    program.ok_or(SystemdError::NoTests)
}

/// The directory of a small Debian with systemd, made where there is none of this recipe.
fn machine(directory: &Path) -> Result<PathBuf, SystemdError> {
    let io = |source| SystemdError::Io { path: directory.to_owned(), source };
    let recipe = hex::encode(Sha256::digest(format!("{SUITE} {PACKAGES}")));
    let machine = directory.join(&recipe[..16]);
    if machine.join("usr/bin/systemctl").exists() {
        return Ok(machine);
    }
    fs::create_dir_all(directory).map_err(io)?;
    // Whole or not there: what an interrupted run left is made anew.
    let new = directory.join("new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        Ok(()) | Err(_) => {}
    }
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=essential", "--format=directory"])
        .arg(format!("--include={PACKAGES}"))
        .arg("--aptopt=Apt::Install-Recommends \"false\"")
        .arg(SUITE)
        .arg(&new);
    show(&mut make)?;
    fs::rename(&new, &machine).map_err(io)?;
    Ok(machine)
}

fn boot(
    machine: &Path,
    target: &Path,
    tests: &Path,
    filter: Option<&str>,
) -> Result<SystemdReport, SystemdError> {
    let shared = tempfile::tempdir()
        .map_err(|source| SystemdError::Io { path: std::env::temp_dir(), source })?;
    let io = |source| SystemdError::Io { path: shared.path().to_owned(), source };
    let unit = shared.path().join(UNIT);
    fs::write(&unit, unit_file(tests, filter)).map_err(io)?;
    let log = shared.path().join("log");
    fs::write(&log, "").map_err(io)?;

    let mut boot = Command::new("timeout");
    boot.args(["--kill-after=10", DEADLINE_S, "systemd-nspawn", "--quiet"])
        // In this process's control group, and unknown to a systemd that runs this machine.
        .args(["--register=no", "--keep-unit", "--volatile=overlay"])
        .arg(format!("--machine=evanesce-{}", std::process::id()))
        .arg("--directory")
        .arg(machine)
        .arg("--capability=CAP_IPC_LOCK")
        .arg(format!("--system-call-filter={CALLS}"))
        .args(bind("--bind-ro", target, target))
        .args(bind("--bind-ro", repository(), repository()))
        .args(bind("--bind-ro", &unit, &Path::new("/etc/systemd/system").join(UNIT)))
        .args(bind("--bind", shared.path(), Path::new(SHARED)))
        .args(fuse())
        .args(["--console=pipe", "--boot", &format!("systemd.unit={UNIT}")])
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
    let ended = output(&mut boot);
    let log = fs::read_to_string(&log).map_err(io)?;
    match ended {
        Ok(_) if log.contains("test result: ok") => Ok(SystemdReport { log }),
        Ok(_) => Err(SystemdError::Tests { log }),
        // What the tests said is worth more than what the container did, if they got that far.
        Err(_) if log.contains("test result:") => Err(SystemdError::Tests { log }),
        Err(error) => Err(error.into()),
    }
}

/// Runs the tests as root, one at a time, and those that lower the limits of PID 1 after the others.
fn unit_file(tests: &Path, filter: Option<&str>) -> String {
    let tests = tests.display();
    let flags = "--ignored --test-threads=1 --nocapture";
    let filter = filter.unwrap_or_default();
    let mut commands = vec![format!("{tests} {flags} --skip limits:: {filter}")];
    if filter.is_empty() || filter.starts_with("limits") {
        commands.push(format!("{tests} {flags} limits::"));
    }
    let commands: String =
        commands.iter().map(|command| format!("ExecStart={}\n", command.trim_end())).collect();
    format!(
        "[Unit]\nSuccessAction=exit\nFailureAction=exit\nWants=dbus.service\n\
         After=dbus.service systemd-journald.service systemd-tmpfiles-setup.service\n\
         Wants=systemd-tmpfiles-setup.service\n\
         [Service]\nType=oneshot\n{commands}Environment=CI=true\n\
         StandardOutput=append:{LOG}\nStandardError=append:{LOG}\n"
    )
}

/// For a machine that vouches for itself, in user space; where there is none, tests say that they
/// show nothing.
fn fuse() -> Option<String> {
    Path::new(FUSE).exists().then(|| format!("--bind={FUSE}"))
}

fn bind(option: &str, from: &Path, to: &Path) -> [String; 1] {
    [format!("{option}={}:{}", from.display(), to.display())]
}

fn is_installed(program: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .any(|directory| Path::new(directory).join(program).exists())
}

/// What the tests printed.
#[derive(Debug)]
pub(crate) struct SystemdReport {
    log: String,
}

impl fmt::Display for SystemdReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_told = |line: &&str| {
            ["test ", "figure: "].iter().any(|start| line.starts_with(start))
                || line.contains("figure: ")
        };
        for line in self.log.lines().filter(is_told) {
            writeln!(f, "{line}")?;
        }
        f.write_str("the tests of units passed under a real systemd")
    }
}

/// Why the tests of units did not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SystemdError {
    #[error("only root can boot a container: run it with sudo")]
    NotRoot,
    #[error("not installed: {programs} (apt-get install mmdebstrap systemd-container)")]
    Missing { programs: String },
    #[error("cargo named no program of the tests")]
    NoTests,
    #[error("{} could not be used", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the tests of units failed:\n{log}")]
    Tests { log: String },
    #[error(transparent)]
    Program(#[from] ProgramError),
}

const SUITE: &str = "bookworm";

/// systemd and its bus, and what the tests run beside evanesce.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,mount,procps,nodejs,openssh-client";

/// What systemd-nspawn refuses to containers and a worker needs.
const CALLS: &str = "memfd_secret landlock_create_ruleset landlock_add_rule landlock_restrict_self";

/// Not named as a worker's unit is.
const UNIT: &str = "tests-of-units.service";
const SHARED: &str = "/evanesce-tests";
const FUSE: &str = "/dev/fuse";
const LOG: &str = "/evanesce-tests/log";

/// Two hundred units take a minute; a loaded machine several.
const DEADLINE_S: &str = "1500";
