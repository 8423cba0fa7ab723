//! A policy for an image that was built and measured, and not yet started anywhere.

use evanesce_protocol::Digest;
use evanesce_protocol::evidence::NotaryPoint;

use crate::policy::{Allowed, Any, EvanescePolicy, Policy, Purpose};
use crate::snp::{self, Product};
use crate::{Evidence, PolicyFromEvidenceError};

/// What is known of a machine's image before it is started: reference values, as RFC 9334 calls them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpImage {
    /// What the processor measures as it launches the image.
    pub measurement: [u8; 48],
    /// The policy that it is launched with.
    pub guest_policy: u64,
    /// The digest of the signer in its worker.
    pub signer: Digest,
    /// The digest of its worker.
    pub worker: Digest,
    /// The notary that is to vouch for its keys; any where there is none.
    pub notary: Option<NotaryPoint>,
}

/// On which machines an image is accepted.
#[derive(Clone, Copy, Debug)]
pub enum SnpPlatforms<'a> {
    /// On all of these product lines.
    Products(&'a [Product]),
    /// On the machine that this SEV-SNP evidence is of, as it is or better.
    Of(Evidence<'a>),
}

/// A strict production policy that accepts exactly this image, for keys that are born in it.
///
/// # Errors
///
/// Evidence that cannot be read, or is of another kind of machine; or no product line.
pub fn policy_for_image(
    image: &SnpImage,
    platforms: SnpPlatforms<'_>,
) -> Result<Policy, PolicyFromEvidenceError> {
    let snp = match platforms {
        SnpPlatforms::Products(products) => snp::policy_of_image(image, products),
        SnpPlatforms::Of(Evidence::Snp { report, endorsements }) => {
            let vek = endorsements.vek.ok_or(PolicyFromEvidenceError::NoEndorsement)?;
            snp::with_image(snp::policy_of(report, vek)?, image)
        }
        SnpPlatforms::Of(evidence) => {
            return Err(PolicyFromEvidenceError::NotSnp { found: evidence.tee() });
        }
    };
    let section = EvanescePolicy {
        purposes: vec![Purpose::SigningIdentity],
        signers: Allowed::one(image.signer),
        workers: Allowed::one(image.worker),
        notaries: image.notary.map_or(Allowed::Any(Any::Any), Allowed::one),
        // It names the workload, so that listing one would accept one run alone.
        configurations: Allowed::Any(Any::Any),
    };
    Ok(Policy::new(Some(snp), None, Some(section)).reviewed()?)
}
