//! `cargo xtask enclave`: workers in machines of their own.
//!
//! The tests are `tests/enclave`; they need root, QEMU and a kernel.

use std::fmt;

use crate::programs::{cargo, show};
use crate::vm::{Image, VmError};

/// Run workers in machines of their own under QEMU, without KVM, and search what is left of them
///
/// The kernel and its modules are those of `cargo xtask vm`. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct EnclaveArgs {
    /// Run only tests whose name contains TEXT
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

pub(crate) fn run(args: &EnclaveArgs) -> Result<EnclaveReport, VmError> {
    let image = Image::get(&|_| {})?;
    let mut cargo = cargo();
    cargo
        .args(["test", "--locked", "--workspace", "--test", "enclave", "--"])
        // One machine at a time: two would wait for each other's processor.
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .args(&args.only)
        .env("EVANESCE_ENCLAVE_KERNEL", image.kernel())
        .env("EVANESCE_ENCLAVE_MODULES", image.modules());
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
