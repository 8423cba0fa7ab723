//! `cargo xtask residue`: the search for residue, and proof that the search finds what leaks.
//!
//! The tests are those of `tests/e2e/residue.rs`. Some need mutants: workers that leak a key to the
//! heap, to the stack or to a vector register on purpose. Such a test builds a program for each, and
//! `cargo test` leaves it out. It is run here, where its builds start from a copy of the ordinary
//! one, so that of each mutant's worker little more than its own crate is compiled.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::{ProgramError, cargo, output, show, target_directory};

/// Search all that root can read for residue of a key, mutants included
///
/// Needs root and gcore (Debian's package gdb), and fails where they are missing.
#[derive(Debug, clap::Args)]
pub(crate) struct ResidueArgs {
    /// Search the mutants only
    #[arg(long)]
    mutants_only: bool,
}

pub(crate) fn run(args: &ResidueArgs) -> Result<ResidueReport, ResidueError> {
    show(cargo().args(TESTS).arg("--no-run"))?;
    let target = target_directory()?;
    seed(&target.join(WORKER_BUILD), &target.join(MUTANTS).join(WORKER_BUILD))?;

    let which = if args.mutants_only { "--ignored" } else { "--include-ignored" };
    let mut tests = cargo();
    tests.args(TESTS).args(["--", "--nocapture", "--test-threads=1", which, "residue::"]);
    tests.env("CI", "true"); // where this is set, a test that cannot be run fails
    show(&mut tests)?;
    Ok(ResidueReport)
}

/// The tests say what they searched and found as they go.
#[derive(Debug)]
pub(crate) struct ResidueReport;

impl fmt::Display for ResidueReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the residue tests passed")
    }
}

/// Why the search was not made, or found what it should not or missed what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ResidueError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("could not make {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Copies a finished build, times of modification included, so that cargo takes it for its own.
///
/// A copy and no link: a leaking worker must never be where an ordinary build looks for its own.
fn seed(from: &Path, to: &Path) -> Result<(), ResidueError> {
    if to.exists() {
        return Ok(());
    }
    fs::create_dir_all(to)
        .map_err(|source| ResidueError::Directory { path: to.to_owned(), source })?;
    output(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(from.join(".")).arg(to))?;
    Ok(())
}

const TESTS: &[&str] = &["test", "--locked", "--package", "evanesce-tests", "--test", "e2e"];

/// Where the tests build mutants, in the target directory: cargo's `CARGO_TARGET_TMPDIR`.
const MUTANTS: &str = "tmp/mutants";

/// Where the launcher's build script builds the worker, in a target directory.
const WORKER_BUILD: &str = "worker-build";
