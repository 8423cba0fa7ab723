//! `cargo xtask reproduce`: builds worker, attester and first program again, elsewhere and from nothing, and compares.
//!
//! Whoever has the source and the compiler can so tell what a launcher embeds; the ledger names the
//! same digest in each workload's `started` row.

#[expect(clippy::disallowed_methods, reason = "a build inherits where its registry is")]
#[path = "../../runtime/launcher/worker_build.rs"]
mod worker_build;

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::programs::{ProgramError, cargo, output, repository, show, target_directory};

/// Build worker and attester once more from a copy of the source in another directory, and compare
///
/// Compares with what the launcher embeds, which a clean checkout builds from nothing as
/// well. Takes minutes: nothing is taken over from earlier builds.
#[derive(Debug, clap::Args)]
pub(crate) struct ReproduceArgs {
    /// Build from nothing in two other directories, and compare all three
    #[arg(long)]
    both: bool,
}

pub(crate) fn run(args: &ReproduceArgs) -> Result<ReproduceReport, ReproduceError> {
    let target = target_directory()?;
    let shipped = embedded()?;

    let began = Instant::now();
    // Of other lengths, so that a path that gets into the worker shows in any case.
    let names: &[&str] = match args.both {
        true => &["b", "another-checkout-with-a-longer-name"],
        false => &["another-checkout-with-a-longer-name"],
    };
    for name in names {
        let checkout = target.join("reproduce").join(name);
        let again = build_in(&checkout)?;
        for ((package, shipped), again) in PACKAGES.iter().zip(&shipped).zip(&again) {
            if again != shipped {
                return Err(ReproduceError::differs(package, shipped, again, &checkout));
            }
        }
        remove(&checkout)?;
    }
    Ok(ReproduceReport {
        builds: names.len() + 1,
        sha256: shipped.iter().map(|bytes| hex::encode(Sha256::digest(bytes))).collect(),
        took: began.elapsed(),
    })
}

/// What the builds came to.
#[derive(Debug)]
pub(crate) struct ReproduceReport {
    builds: usize,
    /// Of each of [`PACKAGES`].
    sha256: Vec<String>,
    took: Duration,
}

impl fmt::Display for ReproduceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { builds, sha256, took } = self;
        write!(f, "{builds} builds give the same programs ({} s)", took.as_secs())?;
        let programs = PACKAGES.iter().zip(sha256);
        programs.into_iter().try_for_each(|(package, sha256)| write!(f, "\n{sha256}  {package}"))
    }
}

/// Builds the launcher, and reads what it embeds: its build script says where that is.
fn embedded() -> Result<Vec<Vec<u8>>, ReproduceError> {
    let build = ["build", "--quiet", "--release", "--locked", "--bin", "evanesce"];
    let said = output(cargo().args(build).arg("--message-format=json"))?;
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let variables: Vec<Value> = messages
        .filter(|message| message["reason"] == "build-script-executed")
        .flat_map(|message| message["env"].as_array().cloned().unwrap_or_default())
        .collect();
    let file = |variable: &str| {
        let pair = variables.iter().find(|pair| pair[0] == variable);
        let path = pair.and_then(|pair| pair[1].as_str());
        path.map(PathBuf::from).ok_or(ReproduceError::NotSaid)
    };
    ["EVANESCE_WORKER_FILE", "EVANESCE_ATTESTER_FILE", "EVANESCE_INIT_FILE"]
        .map(file)
        .into_iter()
        .map(|path| read(&path?))
        .collect()
}

/// Copies the source to `checkout` and builds the programs there, from nothing.
fn build_in(checkout: &Path) -> Result<Vec<Vec<u8>>, ReproduceError> {
    remove(checkout)?;
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let files = output(Command::new("git").args(list).current_dir(repository()))?;
    for name in files.split_terminator('\0').map(|name| OsStr::from_bytes(name.as_bytes())) {
        let (from, to) = (repository().join(name), checkout.join(name));
        // Listed, and removed since.
        if from.symlink_metadata().is_err() {
            continue;
        }
        fs::create_dir_all(to.parent().expect("below the checkout"))
            .and_then(|()| fs::copy(&from, &to))
            .map_err(|source| ReproduceError::File { path: to.clone(), source })?;
    }
    let target = checkout.join("target");
    for package in PACKAGES {
        show(&mut worker_build::command(OsStr::new(env!("CARGO")), checkout, &target, package))?;
    }
    programs(&target)
}

/// The bytes of each of [`PACKAGES`] in a target directory.
fn programs(target: &Path) -> Result<Vec<Vec<u8>>, ReproduceError> {
    PACKAGES.iter().map(|package| read(&worker_build::program(target, package))).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, ReproduceError> {
    fs::read(path).map_err(|source| ReproduceError::File { path: path.to_owned(), source })
}

fn remove(checkout: &Path) -> Result<(), ReproduceError> {
    match fs::remove_dir_all(checkout) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ReproduceError::File { path: checkout.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Why it is not known that the worker can be reproduced, or that it cannot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReproduceError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("the launcher's build script did not say what it embeds")]
    NotSaid,
    #[error("{} could not be read or written", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{package} differs from byte {offset} on ({shipped} here, {again} there); what was built again is left in {}",
        checkout.display()
    )]
    Differs {
        package: &'static str,
        offset: usize,
        shipped: String,
        again: String,
        checkout: PathBuf,
    },
}

impl ReproduceError {
    fn differs(package: &'static str, shipped: &[u8], again: &[u8], checkout: &Path) -> Self {
        let same = shipped.iter().zip(again).take_while(|(one, other)| one == other).count();
        Self::Differs {
            package,
            offset: same,
            shipped: hex::encode(Sha256::digest(shipped)),
            again: hex::encode(Sha256::digest(again)),
            checkout: checkout.to_owned(),
        }
    }
}

/// What the launcher embeds.
const PACKAGES: [&str; 3] = ["evanesce-worker", "evanesce-attester", "evanesce-init"];
