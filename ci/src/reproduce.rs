//! `cargo xtask reproduce`: builds the worker again, elsewhere and from nothing, and compares.
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

use sha2::{Digest as _, Sha256};

use crate::programs::{ProgramError, cargo, output, repository, show, target_directory};

/// Build the worker once more from a copy of the source in another directory, and compare
///
/// Compares with the worker that the launcher embeds, which a clean checkout builds from nothing as
/// well. Takes minutes: nothing is taken over from earlier builds.
#[derive(Debug, clap::Args)]
pub(crate) struct ReproduceArgs {
    /// Build from nothing in two other directories, and compare all three
    #[arg(long)]
    both: bool,
}

pub(crate) fn run(args: &ReproduceArgs) -> Result<ReproduceReport, ReproduceError> {
    show(cargo().args(["build", "--quiet", "--locked", "--package", "evanesce-launcher"]))?;
    let target = target_directory()?;
    let shipped = read(&worker_build::program(&target.join("worker-build"), WORKER))?;

    let began = Instant::now();
    // Of other lengths, so that a path that gets into the worker shows in any case.
    let names: &[&str] = match args.both {
        true => &["b", "another-checkout-with-a-longer-name"],
        false => &["another-checkout-with-a-longer-name"],
    };
    for name in names {
        let checkout = target.join("reproduce").join(name);
        let again = build_in(&checkout)?;
        if again != shipped {
            return Err(ReproduceError::differs(&shipped, &again, &checkout));
        }
        remove(&checkout)?;
    }
    Ok(ReproduceReport {
        builds: names.len() + 1,
        sha256: hex::encode(Sha256::digest(&shipped)),
        bytes: shipped.len(),
        took: began.elapsed(),
    })
}

/// What the builds came to.
#[derive(Debug)]
pub(crate) struct ReproduceReport {
    builds: usize,
    sha256: String,
    bytes: usize,
    took: Duration,
}

impl fmt::Display for ReproduceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { builds, sha256, bytes, took } = self;
        let seconds = took.as_secs();
        write!(f, "{builds} builds give the same worker: {bytes} bytes, {sha256} ({seconds} s)")
    }
}

/// Copies the source to `checkout` and builds the worker there, from nothing.
fn build_in(checkout: &Path) -> Result<Vec<u8>, ReproduceError> {
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
    show(&mut worker_build::command(OsStr::new(env!("CARGO")), checkout, WORKER, &target))?;
    read(&worker_build::program(&target, WORKER))
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
    #[error("{} could not be read or written", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the worker differs from byte {offset} on ({shipped} here, {again} there); what was built again is left in {}",
        checkout.display()
    )]
    Differs { offset: usize, shipped: String, again: String, checkout: PathBuf },
}

impl ReproduceError {
    fn differs(shipped: &[u8], again: &[u8], checkout: &Path) -> Self {
        let same = shipped.iter().zip(again).take_while(|(one, other)| one == other).count();
        Self::Differs {
            offset: same,
            shipped: hex::encode(Sha256::digest(shipped)),
            again: hex::encode(Sha256::digest(again)),
            checkout: checkout.to_owned(),
        }
    }
}

/// The package and program that is compared.
const WORKER: &str = "evanesce-worker";
