//! `cargo xtask enclave`: workers in machines of their own.
//!
//! The tests are `tests/enclave`; they need root, QEMU and a kernel.

use std::fmt;
use std::path::PathBuf;

use crate::programs::{cargo, show};
use crate::vm::{Image, VmError};

/// Run workers in machines of their own under QEMU, without KVM, and search what is left of them
///
/// The kernel is the one of `cargo xtask vm` unless another is named. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct EnclaveArgs {
    /// Boot FILE (bzImage)
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Run only tests whose name contains TEXT
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

pub(crate) fn run(args: &EnclaveArgs) -> Result<EnclaveReport, VmError> {
    let kernel = match &args.kernel {
        Some(kernel) => kernel.clone(),
        None => Image::get(&|_| {})?.kernel(),
    };
    let mut cargo = cargo();
    cargo
        .args(["test", "--locked", "--workspace", "--test", "enclave", "--"])
        // One machine at a time: two would wait for each other's processor.
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .args(&args.only)
        .env("EVANESCE_ENCLAVE_KERNEL", kernel);
    show(&mut cargo)?;
    Ok(EnclaveReport)
}

/// The tests say themselves what they did.
#[derive(Debug)]
pub(crate) struct EnclaveReport;

impl fmt::Display for EnclaveReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("every machine is gone, and nothing of its key is left")
    }
}
