//! Whether evidence of a confidential machine can be trusted, and why.
//!
//! Start at [`appraise`]: a pure function of evidence, endorsements, policy and time. It reads no
//! clock, no file and no network; the roots it ends at are compiled in ([`Roots::vendors`]).
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | a report is judged by the bytes that were received, not by what a parser made of them | `snp::report` reads in place; the signature is over the raw bytes | `tests/vectors.rs` |
//! | what the policy does not list is refused | [`Policy`] has no default that accepts; `"any"` is spelled out | `tests/policy.rs` |
//! | each rule can refuse, and says what was expected and found | one fault a case, signed by a PKI made for the test | `tests/snp_rules`, `tests/vectors.rs` |
//! | [`Trusted`] exists only where every rule held | private fields; [`Appraisal::into_trusted`] | the types |
//! | no bytes make it panic, and sizes are bounded | limits before each parser | `tests/any_bytes.rs` |
//!
//! # What it does not promise
//!
//! Whether the nonce in REPORT_DATA was issued by the caller and is unused; attacks by who holds
//! the machine in their hands (memory interposers); what the measured image does once it runs.
//! Each appraisal lists what it did not look at.
//!
//! # How a command calls it
//!
//! Read the files with a limit, the policy with [`Policy::from_toml`], take the time from `--at` or
//! the clock at the edge, and call [`appraise`] with [`Roots::vendors`]. Print each [`Check`] with
//! its `Display`, then [`Appraisal::not_checked`]; [`Appraisal`] is also `Serialize` for `--json`.
//! Exit with 0 for [`Outcome::Trusted`] and 1 for [`Outcome::Refused`]. `policy init` prints
//! [`Policy::to_toml`] of [`policy_from_evidence`], and `policy check` prints [`Policy::explain`].
#![forbid(unsafe_code)]

mod appraisal;
mod policy;
mod roots;
pub mod rules;
mod snp;
mod tdx;

use time::OffsetDateTime;

pub use appraisal::{Appraisal, Check, Outcome, Tee, Trusted};
pub use policy::{POLICY_BYTES_MAX, Policy, PolicyError};
pub use roots::Roots;
pub use snp::{Product, SnpEndorsements, SnpPolicyError};
pub use tdx::TdxPolicyError;

use appraisal::{Checks, rfc3339};
use policy::{Profile, ReportDataRule};

/// Evidence as a machine gave it, and what came with it to check it by.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Evidence<'a> {
    /// A SEV-SNP attestation report.
    Snp {
        /// The 1184 bytes of the report.
        report: &'a [u8],
        /// Its certificate and revocation list.
        endorsements: SnpEndorsements<'a>,
    },
    /// A TDX quote.
    Tdx {
        /// The quote, zeros after it allowed.
        quote: &'a [u8],
        /// JSON as DCAP's tools write it.
        collateral: Option<&'a [u8]>,
    },
}

impl Evidence<'_> {
    /// The kind of machine.
    pub fn tee(&self) -> Tee {
        match self {
            Self::Snp { .. } => Tee::Snp,
            Self::Tdx { .. } => Tee::Tdx,
        }
    }
}

/// Appraises `evidence` by `policy` as of the time `at`.
///
/// `report_data` is what REPORT_DATA has to be: the hash over nonce, key and the rest that the
/// relying party computed itself. Where it is `None`, a policy that wants it compared refuses.
///
/// An appraisal goes on after a rule that does not hold, as far as there is something to read, so
/// that one run names everything that has to be fixed.
pub fn appraise(
    evidence: Evidence<'_>,
    report_data: Option<&[u8; 64]>,
    policy: &Policy,
    roots: &Roots,
    at: OffsetDateTime,
) -> Appraisal {
    let mut checks = Checks::default();
    checks.check(
        rules::CLOCK,
        at.year() >= YEAR_MIN,
        format!("{YEAR_MIN}-01-01 or later"),
        rfc3339(at),
    );
    if policy.profile == Profile::Production {
        let found = if roots.replaced { "replaced ones" } else { "these" };
        checks.check(rules::ROOTS, !roots.replaced, "the vendors' roots", found);
    } else if roots.replaced {
        checks.skip(
            "Who the roots belong to: they were replaced, so this proves nothing outside a test.",
        );
    }
    let tee = evidence.tee();
    let claims = match (evidence, &policy.snp, &policy.tdx) {
        (Evidence::Snp { report, endorsements }, Some(policy), _) => {
            snp::appraise(&mut checks, report, endorsements, policy, roots, at)
        }
        (Evidence::Tdx { quote, collateral }, _, Some(policy)) => {
            tdx::appraise(&mut checks, quote, collateral, policy, roots, at)
        }
        (Evidence::Snp { .. } | Evidence::Tdx { .. }, _, _) => {
            checks.check(
                rules::KIND,
                false,
                "a kind the policy has a section for",
                tee.to_string(),
            );
            checks.skip("Everything else: the policy has no rules for this kind of evidence.");
            None
        }
    };
    let claims = claims.map(|mut claims| {
        match (report_data, policy.report_data) {
            (Some(expected), _) => {
                // Both sides are public: evidence is not secret, and neither is what it binds.
                claims.bound = claims.report_data == *expected;
                let found = hex::encode(claims.report_data);
                checks.check(rules::BINDING, claims.bound, hex::encode(expected), found);
            }
            (None, ReportDataRule::Compared) => {
                let expected = "the value that you computed from nonce and key";
                checks.check(rules::BINDING, false, expected, "none was given to compare with");
            }
            (None, ReportDataRule::NotChecked) => checks.skip(
                "REPORT_DATA: nothing was given to compare with, so this says nothing of any key.",
            ),
        }
        claims
    });
    checks.skip("Whether the nonce was issued by you and is unused: only its issuer can know.");
    checks.skip(
        "Attacks with the machine in hand, such as memory interposers: no evidence shows them.",
    );
    checks.finish(tee, at, claims)
}

/// A strict production policy that `evidence` itself meets, to be reviewed and then widened.
///
/// The TDX half verifies the quote at `at`, because the platform's identity stands in its
/// certificate. Debug guests get a policy that refuses them.
///
/// # Errors
///
/// Evidence that cannot be read, or a policy that could accept nothing.
pub fn policy_from_evidence(
    evidence: Evidence<'_>,
    at: OffsetDateTime,
) -> Result<Policy, PolicyFromEvidenceError> {
    let policy = match evidence {
        Evidence::Snp { report, endorsements } => {
            let vek = endorsements.vek.ok_or(PolicyFromEvidenceError::NoEndorsement)?;
            Policy::new(Some(snp::policy_of(report, vek)?), None)
        }
        Evidence::Tdx { quote, collateral } => {
            let collateral = collateral.ok_or(PolicyFromEvidenceError::NoEndorsement)?;
            Policy::new(None, Some(tdx::policy_of(quote, collateral, at)?))
        }
    };
    Ok(policy.reviewed()?)
}

/// Why no policy can be made from evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyFromEvidenceError {
    /// A certificate or collateral is needed to know which machine it is.
    #[error("the certificate or collateral of the evidence is missing")]
    NoEndorsement,
    /// The SEV-SNP report or its certificate cannot be read.
    #[error(transparent)]
    Snp(#[from] SnpPolicyError),
    /// The TDX quote or its collateral cannot be read or verified.
    #[error(transparent)]
    Tdx(#[from] TdxPolicyError),
    /// What came out would accept nothing.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// A clock that shows an earlier year has lost its battery: every certificate here is younger.
const YEAR_MIN: i32 = 2020;
