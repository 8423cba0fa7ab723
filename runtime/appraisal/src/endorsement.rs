//! Which certificates or collateral evidence has to be checked by: what to ask a vendor for.

use dcap_qvl::config::PckCa as Ca;
use dcap_qvl::intel::{quote_ca, quote_fmspc};
use dcap_qvl::quote::Quote;

use crate::Evidence;
use crate::snp::{self, Product};

/// What to ask a vendor for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndorsementRequest {
    /// The VCEK of a chip at a TCB, and its product's revocation list. A VLEK cannot be asked for:
    /// its provider hands it to the guest.
    Snp {
        /// The product line.
        product: Product,
        /// CHIP_ID as AMD's service wants it: 64 bytes, for Turin 8.
        hardware_id: Vec<u8>,
        /// REPORTED_TCB.
        tcb: TcbParts,
    },
    /// The collateral of a platform.
    Tdx {
        /// Which kind of platform.
        fmspc: [u8; 6],
        /// Who issued its certificate.
        ca: PckCa,
    },
}

/// The security versions of a chip's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcbParts {
    /// Only on Turin.
    pub fmc: Option<u8>,
    /// The boot loader.
    pub bootloader: u8,
    /// The TEE.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// The microcode.
    pub microcode: u8,
}

/// Which of Intel's authorities issued a platform's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PckCa {
    /// For single processors.
    Processor,
    /// For platforms.
    Platform,
}

impl PckCa {
    /// Its name in URLs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Platform => "platform",
        }
    }
}

/// Says what `evidence` has to be checked by. `product` helps where the report does not say which
/// product line it is of, as those of version 2 do not.
///
/// # Errors
///
/// [`WantedError`] where the evidence does not say enough.
pub fn wanted(
    evidence: Evidence<'_>,
    product: Option<Product>,
) -> Result<EndorsementRequest, WantedError> {
    match evidence {
        Evidence::Snp { report, .. } => snp::wanted(report, product),
        Evidence::Tdx { quote, .. } => {
            if quote.len() > crate::tdx::QUOTE_BYTES_MAX {
                return Err(WantedError::Unreadable);
            }
            let quote = Quote::parse(quote).map_err(|_| WantedError::Unreadable)?;
            let fmspc = quote_fmspc(&quote).map_err(|_| WantedError::NoPlatform)?;
            let ca = match quote_ca(&quote).map_err(|_| WantedError::NoPlatform)? {
                Ca::Processor => PckCa::Processor,
                Ca::Platform => PckCa::Platform,
            };
            Ok(EndorsementRequest::Tdx { fmspc, ca })
        }
        Evidence::InsecureSoftware { .. } => Err(WantedError::Software),
    }
}

/// Why nobody can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WantedError {
    /// Not a report or quote.
    #[error("the evidence is not a report or quote that is known here")]
    Unreadable,
    /// The report does not say of which product line it is.
    #[error("the report does not say which product line its processor is of")]
    Product,
    /// The report names no chip, or is signed by a provider's key.
    #[error("the report names no chip to ask a certificate for")]
    Chip,
    /// The quote carries no certificate of its platform.
    #[error("the quote carries no certificate of its platform")]
    NoPlatform,
    /// There is no vendor.
    #[error("insecure software evidence has no vendor")]
    Software,
}

impl WantedError {
    /// A stable name for `--json` and alerts.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable => "collateral.evidence",
            Self::Product => "collateral.product",
            Self::Chip => "collateral.chip",
            Self::NoPlatform => "collateral.platform",
            Self::Software => "collateral.software",
        }
    }
}
