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
//! | a policy for an image accepts that image alone | [`policy_for_image`] lists what was calculated, and what starts it so | `tests/snp_rules` |
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
//! the clock at the edge, and call [`appraise`] with [`Roots::vendors`]. [`wanted`] says which
//! certificates or collateral to fetch for evidence.
#![forbid(unsafe_code)]

mod appraisal;
mod bound;
mod endorsement;
mod image;
mod policy;
mod roots;
pub mod rules;
mod snp;
mod software;
mod tdx;

use evanesce_protocol::PublicKey;
use evanesce_protocol::evidence::{Binding, Nonce};
use time::OffsetDateTime;

pub use appraisal::{Appraisal, Check, Outcome, Tee, Trusted};
pub use endorsement::{EndorsementRequest, PckCa, TcbParts, WantedError, wanted};
pub use image::{SnpImage, SnpPlatforms, policy_for_image};
pub use policy::{POLICY_BYTES_MAX, ParsePurposeError, Policy, PolicyError, Purpose};
pub use roots::Roots;
pub use snp::{Product, SnpEndorsements, SnpPolicyError, UnknownProduct};
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
    /// Evidence of no machine, made for development. Never trusted.
    InsecureSoftware {
        /// The bytes of [`evanesce_protocol::evidence::INSECURE_SOFTWARE_TAG`].
        statement: &'a [u8],
    },
}

/// What REPORT_DATA has to be.
#[derive(Clone, Copy, Debug)]
pub enum Expected<'a> {
    /// Nothing is known of it. A policy that wants it compared refuses.
    Nothing,
    /// These 64 bytes, which the relying party computed itself.
    ReportData(&'a [u8; 64]),
    /// The digest of this binding, whose parts the policy's `[evanesce]` section judges.
    Binding {
        /// What the evidence says it binds.
        binding: &'a Binding,
        /// The nonce that the relying party issued.
        nonce: Option<&'a Nonce>,
        /// The key that the evidence has to speak for.
        public_key: Option<&'a PublicKey>,
    },
}

impl Evidence<'_> {
    /// The kind of machine.
    pub fn tee(&self) -> Tee {
        match self {
            Self::Snp { .. } => Tee::Snp,
            Self::Tdx { .. } => Tee::Tdx,
            Self::InsecureSoftware { .. } => Tee::InsecureSoftware,
        }
    }
}

/// Appraises `evidence` by `policy` as of the time `at`.
///
/// `expected` is what REPORT_DATA has to be: the hash over nonce, key and the rest.
///
/// An appraisal goes on after a rule that does not hold, as far as there is something to read, so
/// that one run names everything that has to be fixed.
pub fn appraise(
    evidence: Evidence<'_>,
    expected: Expected<'_>,
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
        (Evidence::InsecureSoftware { statement }, _, _) => {
            software::appraise(&mut checks, statement, policy.profile)
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
        let mut compare = |checks: &mut Checks, expected: &[u8; 64]| {
            // Both sides are public: evidence is not secret, and neither is what it binds.
            claims.bound = claims.report_data == *expected;
            let found = hex::encode(claims.report_data);
            checks.check(rules::BINDING, claims.bound, hex::encode(expected), found);
        };
        match (expected, policy.report_data) {
            (Expected::ReportData(expected), _) => compare(&mut checks, expected),
            (Expected::Binding { binding, nonce, public_key }, _) => {
                compare(&mut checks, &binding.report_data());
                let section = policy.evanesce.as_ref();
                bound::appraise(&mut checks, binding, nonce, public_key, section);
                claims.binding = claims.bound.then(|| binding.clone());
            }
            (Expected::Nothing, ReportDataRule::Compared) => {
                let expected = "the value that you computed from nonce and key";
                checks.check(rules::BINDING, false, expected, "none was given to compare with");
            }
            (Expected::Nothing, ReportDataRule::NotChecked) => checks.skip(
                "REPORT_DATA: nothing was given to compare with, so this says nothing of any key.",
            ),
        }
        claims
    });
    let asked = matches!(expected, Expected::Binding { nonce: Some(_), .. });
    checks.skip(match asked {
        true => "Whether the nonce is unused: only its issuer can know.",
        false => "Whether the nonce was issued by you and is unused: only its issuer can know.",
    });
    checks.skip(
        "Attacks with the machine in hand, such as memory interposers: no evidence shows them.",
    );
    checks.finish(tee, at, claims)
}

/// A strict production policy that `evidence` itself meets, to be reviewed and then widened.
///
/// The TDX half verifies the quote at `at`, because the platform's identity stands in its
/// certificate. Debug guests get a policy that refuses them. With a `binding` the policy lists its
/// signer, worker, notary and purpose.
///
/// # Errors
///
/// Evidence that cannot be read, or a policy that could accept nothing.
pub fn policy_from_evidence(
    evidence: Evidence<'_>,
    binding: Option<&Binding>,
    roots: &Roots,
    at: OffsetDateTime,
) -> Result<Policy, PolicyFromEvidenceError> {
    let section = binding.map(bound::section_of);
    let policy = match evidence {
        Evidence::Snp { report, endorsements } => {
            let vek = endorsements.vek.ok_or(PolicyFromEvidenceError::NoEndorsement)?;
            Policy::new(Some(snp::policy_of(report, vek)?), None, section)
        }
        Evidence::Tdx { quote, collateral } => {
            let collateral = collateral.ok_or(PolicyFromEvidenceError::NoEndorsement)?;
            Policy::new(None, Some(tdx::policy_of(quote, collateral, roots, at)?), section)
        }
        Evidence::InsecureSoftware { .. } => return Err(PolicyFromEvidenceError::Software),
    };
    Ok(policy.reviewed()?)
}

/// Why no policy can be made from evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyFromEvidenceError {
    /// Evidence of no machine: there is nothing that a policy could list.
    #[error("insecure software evidence is of no machine, and no policy can accept it")]
    Software,
    /// A certificate or collateral is needed to know which machine it is.
    #[error("the certificate or collateral of the evidence is missing")]
    NoEndorsement,
    /// An image's measurement is one of SEV-SNP, and the evidence is of another kind of machine.
    #[error("the evidence is of {found}, and the policy is to be for SEV-SNP machines")]
    NotSnp {
        /// What it is of.
        found: Tee,
    },
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

impl PolicyFromEvidenceError {
    /// A stable name for `--json` and alerts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Software => "appraisal.policy-from-software",
            Self::NoEndorsement => "appraisal.policy-no-endorsement",
            Self::NotSnp { .. } => "appraisal.policy-not-snp",
            Self::Snp(_) => "appraisal.policy-from-report",
            Self::Tdx(_) => "appraisal.policy-from-quote",
            Self::Policy(error) => error.code(),
        }
    }
}

/// A clock that shows an earlier year has lost its battery: every certificate here is younger.
const YEAR_MIN: i32 = 2020;
