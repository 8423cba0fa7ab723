//! `cargo xtask`: the tasks of this repository that are not `cargo build` or `cargo test`.

#![forbid(unsafe_code)]

mod bench;
mod enclave;
mod fuzz;
mod kills;
mod licences;
mod packages;
mod playbooks;
mod programs;
mod readme;
mod rekor;
mod reproduce;
mod residue;
mod sbom;
mod serve;
mod signer;
mod systemd;
mod vm;

// What plays the firmware of a confidential machine is that of the tests of its appraisal.
#[path = "../../runtime/appraisal/tests/support/der.rs"]
mod der;
#[path = "../../runtime/appraisal/tests/support/genoa.rs"]
#[expect(clippy::unwrap_used, reason = "as in the tests it comes from")]
mod genoa;
#[path = "../../runtime/appraisal/tests/snp_rules/pki.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "as in the tests it comes from")]
mod snp_pki;

use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;

/// Tasks of this repository
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    Bench(bench::BenchArgs),
    Enclave(enclave::EnclaveArgs),
    Fuzz(fuzz::FuzzArgs),
    Kills(kills::KillsArgs),
    Playbooks(playbooks::PlaybooksArgs),
    Readme(readme::ReadmeArgs),
    Rekor(rekor::RekorArgs),
    Reproduce(reproduce::ReproduceArgs),
    Residue(residue::ResidueArgs),
    Sbom(sbom::SbomArgs),
    Serve(serve::ServeArgs),
    Signer(signer::SignerArgs),
    Systemd(systemd::SystemdArgs),
    Vm(vm::VmArgs),
}

impl Task {
    /// What is to be printed, and whether it is good.
    fn run(&self) -> Result<(Box<dyn Display>, ExitCode), Box<dyn Error>> {
        let report: Box<dyn Display> = match self {
            Self::Bench(args) => Box::new(bench::run(args)?),
            Self::Enclave(args) => Box::new(enclave::run(args)?),
            Self::Fuzz(args) => Box::new(fuzz::run(args)?),
            Self::Kills(args) => Box::new(kills::run(args)?),
            Self::Playbooks(args) => Box::new(playbooks::run(args)?),
            Self::Readme(args) => Box::new(readme::run(args)?),
            Self::Rekor(args) => Box::new(rekor::run(args)?),
            Self::Reproduce(args) => Box::new(reproduce::run(args)?),
            Self::Residue(args) => Box::new(residue::run(args)?),
            Self::Sbom(args) => Box::new(sbom::run(args)?),
            Self::Serve(args) => Box::new(serve::run(args)?),
            Self::Signer(args) => Box::new(signer::run(args)?),
            Self::Systemd(args) => Box::new(systemd::run(args)?),
            Self::Vm(args) => {
                let report = vm::run(args)?;
                let status = if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
                return Ok((Box::new(report), status));
            }
        };
        Ok((report, ExitCode::SUCCESS))
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the one place that prints")]
fn main() -> ExitCode {
    match Task::parse().run() {
        Ok((report, status)) => {
            println!("{report}");
            status
        }
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
