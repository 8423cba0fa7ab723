//! What a worker's machine is made of, and how it is started.
//!
//! Start at [`Parts::build`], which makes an image, at [`Image::open`], which reads one, at
//! [`arguments`], which says how QEMU starts it. [`KernelModules`] finds what evidence is given
//! through.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | the same parts make the same bytes | the archive has no time, no order but the written one, and no owner but root | `image.rs` |
//! | a machine has no network, no disk and no monitor | [`arguments`] names every device | `command.rs` |
//! | an image that was changed is not started | [`Image::open`] compares every file with its digest | `image.rs` |
//!
//! # Invariant
//!
//! No process is started here and no environment read; a command line is a value.

#![forbid(unsafe_code)]

mod command;
mod cpio;
mod image;
mod modules;

pub use command::{
    Accelerator, Enclave, MEMORY_BYTES, ParseAcceleratorError, ParseEnclaveError, Start, arguments,
};
pub use cpio::Archive;
pub use image::{COMMAND_LINE, Image, ImageError, Manifest, Parts, libraries_of_host};
pub use modules::{KernelModules, Module};
