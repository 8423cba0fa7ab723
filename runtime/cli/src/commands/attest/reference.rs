//! What an image's evidence has to say, known before the image was ever started.

use std::path::Path;

use evanesce_appraisal::SnpImage;
use evanesce_launcher::WorkerImage;
use evanesce_launcher::machine::parts::{
    Enclave, Firmware, Image, SNP_GUEST_POLICY, SnpMeasurement,
};
use evanesce_ledger::NotaryKey;
use evanesce_protocol::Digest;
use evanesce_protocol::evidence::NotaryPoint;

use crate::errors::{Coded, CommandError};

/// Measures the image in `folder` as `run --enclave` starts it.
pub(super) fn of_image(
    folder: &Path,
    enclave: Enclave,
    firmware: Option<&Path>,
    notary: Option<NotaryPoint>,
) -> Result<SnpImage, CommandError> {
    match enclave {
        Enclave::Snp => {}
        Enclave::Tdx => return Err(ReferenceError::Tdx.into()),
        Enclave::Vm => return Err(ReferenceError::Vm.into()),
    }
    let firmware = Firmware::read(firmware.ok_or(ReferenceError::NoFirmware)?)?;
    let image = Image::open(folder)?;
    let (worker, expected) = (image.manifest().worker, WorkerImage::digest());
    if worker != expected {
        return Err(ReferenceError::OtherWorker { worker, expected }.into());
    }
    Ok(SnpImage {
        measurement: *SnpMeasurement::of(&image, &firmware)?.as_bytes(),
        guest_policy: SNP_GUEST_POLICY,
        signer: WorkerImage::signer_digest(),
        worker,
        notary,
    })
}

/// A notary as evidence names it.
pub(super) fn point(notary: &NotaryKey) -> NotaryPoint {
    let point = notary.to_sec1().try_into().expect("an uncompressed point of P-256 has 65 bytes");
    NotaryPoint::from_bytes(point)
}

/// Why nothing is known of an image's evidence.
#[derive(Debug, thiserror::Error)]
enum ReferenceError {
    /// It has no evidence.
    #[error("a machine of kind vm has no evidence, so no policy can accept it")]
    Vm,
    /// The firmware of a TD measures kernel, archive and command line as it runs.
    #[error("what a TDX machine measures cannot be calculated from its image")]
    Tdx,
    /// The firmware is most of what is measured.
    #[error("the measurement of an image depends on its firmware, and none was named")]
    NoFirmware,
    /// Which signer is in another worker is not known here.
    #[error("the image has worker {worker}, and this evanesce has {expected}")]
    OtherWorker { worker: Digest, expected: Digest },
}

impl Coded for ReferenceError {
    fn code(&self) -> &'static str {
        match self {
            Self::Vm => "measure.vm",
            Self::Tdx => "measure.tdx",
            Self::NoFirmware => "measure.no-firmware",
            Self::OtherWorker { .. } => "measure.other-worker",
        }
    }
}
