//! `cargo xtask residue`: the search for residue, and proof that the search finds what leaks.
//!
//! The tests are those of `tests/e2e/residue.rs`. One of them needs mutants: workers that leak a key
//! to the heap, to the stack or to a vector register on purpose. It builds a program for each, which
//! is slow, so that `cargo test` leaves it out.

use std::fmt;

use crate::programs::{ProgramError, cargo, show};

/// Search all that root can read for residue of a key, mutants included
///
/// Needs root and gcore (Debian's package gdb), and fails where they are missing.
#[derive(Debug, clap::Args)]
pub(crate) struct ResidueArgs {
    /// Search the mutants only
    #[arg(long)]
    mutants_only: bool,
}

pub(crate) fn run(args: &ResidueArgs) -> Result<ResidueReport, ProgramError> {
    let which = if args.mutants_only { "--ignored" } else { "--include-ignored" };
    show(
        cargo()
            .args(["test", "--locked", "--workspace", "--test", "e2e", "--"])
            .args(["--nocapture", "--test-threads=1", which, "residue::"])
            .env("CI", "true"), // where this is set, a test that cannot be run fails
    )?;
    Ok(ResidueReport)
}

/// The tests say themselves what they searched and what they found.
#[derive(Debug)]
pub(crate) struct ResidueReport;

impl fmt::Display for ResidueReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tests of residue passed")
    }
}
