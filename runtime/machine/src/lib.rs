//! What a worker's machine is made of, how it is started, and what is measured of it.
//!
//! Start at [`Parts::build`], which makes an image, at [`Image::open`], which reads one, at
//! [`arguments`], which says how QEMU starts it, at [`SnpMeasurement::of`], which says what a
//! processor with SEV-SNP measures of it. [`KernelModules`] finds what evidence is given through.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | the same parts make the same bytes | the archive has no time, no order but the written one, and no owner but root | `image.rs` |
//! | a machine has no network, no disk and no monitor | [`arguments`] names every device | `command.rs` |
//! | no firmware makes the calculator of measurements panic | [`Firmware`] reads every table of it before | `tests/measurement.rs` |
//! | an image that was changed is not started | [`Image::open`] compares every file with its digest | `image.rs` |
//!
//! # Invariant
//!
//! No process is started here and no environment read; a command line is a value.

#![forbid(unsafe_code)]

mod command;
mod cpio;
mod firmware;
mod image;
mod measurement;
mod modules;

pub use command::{
    Accelerator, Enclave, MEMORY_BYTES, ParseAcceleratorError, ParseEnclaveError, SNP_GUEST_POLICY,
    Start, arguments,
};
pub use cpio::Archive;
pub use firmware::{Firmware, FirmwareError, FirmwareFault};
pub use image::{COMMAND_LINE, Image, ImageError, Manifest, Parts, libraries_of_host};
pub use measurement::{MeasureError, SnpMeasurement};
pub use modules::{KernelModules, Module};
