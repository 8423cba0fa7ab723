//! What can go wrong between host and guest.

use std::io;
use std::path::PathBuf;

use evanesce_residue::ScanError;

use crate::programs::ProgramError;

/// Why the virtual machine proved nothing. A row of the table that is not as it must be is no
/// error but a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum VmError {
    #[error(
        "{} not installed: as root, run `apt-get install --no-install-recommends {}`",
        if missing.len() == 1 { "a program is" } else { "some programs are" },
        missing.join(" ")
    )]
    Tools { missing: Vec<&'static str> },
    #[error("the image of a system is made by root: run this as root, in a container for one")]
    NotRoot,
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("could not {what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("the packages have no {what}")]
    Package { what: String },
    #[error("the virtual machine did not do as told: {what}\nits console ended with:\n{console}")]
    Machine { what: String, console: String },
    #[error("QEMU refused {command}: {reason}")]
    Qmp { command: String, reason: String },
    #[error("the guest could not do {order}: {reason}")]
    Guest { order: String, reason: String },
    #[error("`{program}` ended with status {status} in the guest: {said}")]
    InGuest { program: String, status: i32, said: String },
    #[error("the guest said something unexpected: {what}")]
    Unexpected { what: String },
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Parts(#[from] evanesce_machine::ImageError),
    #[error("{} has no lines `{begin}` and `{end}` to write the table between", path.display())]
    NoMarks { path: PathBuf, begin: &'static str, end: &'static str },
}

impl VmError {
    /// For `map_err`: what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
