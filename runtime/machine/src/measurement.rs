//! What the processor measures as it launches a SEV-SNP machine.
//!
//! The crate `sev` calculates it, from files. What it is given are copies of what was checked, so that
//! it calculates with these bytes and no others.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use evanesce_protocol::Digest;
use rustix::fs::MemfdFlags;
use serde::{Serialize, Serializer};
use sev::error::MeasurementError;
use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType};

use crate::command::PROCESSORS;
use crate::firmware::Firmware;
use crate::image::{Image, ImageError};

/// The launch measurement of a SEV-SNP machine: SHA-384 of how it begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnpMeasurement([u8; Self::LEN]);

impl SnpMeasurement {
    /// Its length in bytes.
    pub const LEN: usize = 48;

    /// Calculates the measurement of a machine that has this image and this firmware, and is started
    /// as [`crate::arguments`] says.
    ///
    /// # Errors
    ///
    /// [`MeasureError`] where a file of the image is not what its list says, or its command line is
    /// one that QEMU and the calculator would hash differently.
    pub fn of(image: &Image, firmware: &Firmware) -> Result<Self, MeasureError> {
        let manifest = image.manifest();
        let command_line = manifest.command_line.as_str();
        // The calculator strips white space, QEMU does not.
        if command_line.trim() != command_line || command_line.contains('\0') {
            return Err(MeasureError::CommandLine);
        }
        let kernel = Copy::of_listed(&image.kernel(), manifest.kernel)?;
        let initrd = Copy::of_listed(&image.initrd(), manifest.initrd)?;
        let firmware = Copy::of(firmware.as_bytes())?;
        let digest = snp_calc_launch_digest(SnpMeasurementArgs {
            vcpus: PROCESSORS,
            vcpu_type: SNP_CPU,
            ovmf_file: firmware.path(),
            guest_features: GuestFeatures(SNP_ACTIVE),
            kernel_file: Some(kernel.path()),
            initrd_file: Some(initrd.path()),
            append: Some(command_line),
            ovmf_hash_str: None,
            vmm_type: Some(VMMType::QEMU),
        })?;
        let bytes: Vec<u8> = digest.try_into()?;
        Ok(Self(bytes.try_into().expect("SHA-384 has 48 bytes")))
    }

    /// The bytes, in the order in which a report has them.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for SnpMeasurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SnpMeasurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnpMeasurement({self})")
    }
}

impl Serialize for SnpMeasurement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// A file of the image cannot be read, or is not the listed one.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The command line of the image begins or ends with white space, or has a byte of zero.
    #[error("the command line in the image's list is not one that is measured in one way")]
    CommandLine,
    /// There is no memory for what is measured.
    #[error("there is no memory for what is measured")]
    Memory(#[source] io::Error),
    /// The calculator failed, with a firmware that was checked.
    #[error("the measurement cannot be calculated")]
    Calculate(#[from] MeasurementError),
}

impl MeasureError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Image(error) => error.code(),
            Self::CommandLine => "measure.command-line",
            Self::Memory(_) => "measure.memory",
            Self::Calculate(_) => "measure.calculate",
        }
    }
}

/// Bytes in memory, with a path for who takes only paths.
struct Copy(File);

impl Copy {
    /// A copy of the file at `path`, which has the digest that the image lists.
    fn of_listed(path: &Path, expected: Digest) -> Result<Self, MeasureError> {
        let bytes =
            fs::read(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
        let found = Digest::of(&bytes);
        if found != expected {
            return Err(ImageError::Changed { path: path.to_owned(), expected, found }.into());
        }
        Self::of(&bytes)
    }

    fn of(bytes: &[u8]) -> Result<Self, MeasureError> {
        let make = || {
            let memory = rustix::fs::memfd_create("measured", MemfdFlags::CLOEXEC)?;
            let mut file = File::from(memory);
            file.write_all(bytes)?;
            Ok(Self(file))
        };
        make().map_err(MeasureError::Memory)
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// What `-cpu` names: the processor's signature is in the register that a machine starts with.
const SNP_CPU: CpuType = CpuType::EpycV4;

/// Bit 0 of SEV_FEATURES: SEV-SNP is active. QEMU sets no other without being told.
const SNP_ACTIVE: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// AMD's 25481, "CPUID Fn0000_0001_EAX": family 23, model 1, stepping 2, which QEMU's
    /// `target/i386/cpu.c` has for EPYC in all of its versions.
    #[test]
    fn the_processor_that_is_measured_is_the_one_that_qemu_is_told_of() {
        assert_eq!(SNP_CPU.to_string(), crate::command::SNP_CPU);
        assert_eq!(SNP_CPU.sig(), 0x0080_0F12);
    }
}
