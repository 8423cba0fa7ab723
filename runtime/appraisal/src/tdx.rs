//! The checklist for TDX: `dcap-qvl` verifies, and what it leaves to its caller is here.

use dcap_qvl::quote::{Quote, TDReport10};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{PckCertFlag, QuoteClaims, QuoteCollateralV3, QuotePolicy};
use time::OffsetDateTime;

use crate::appraisal::{Checks, Claims, Tee, rfc3339};
use crate::policy::{Allowed, Hex, Masked, TdxPolicy, one_of};
use crate::roots::Roots;
use crate::rules::{self, Rule};
use crate::snp::listed;

/// Bytes in a quote: what the kernel's configfs interface gives at most.
pub(crate) const QUOTE_BYTES_MAX: usize = 32 * 1024;
/// Bytes in a file of collateral. Intel's have about 40 KiB.
const COLLATERAL_BYTES_MAX: usize = 1024 * 1024;

/// Appraises one quote. Returns what it claims, if it could be verified to its end.
pub(crate) fn appraise(
    checks: &mut Checks,
    bytes: &[u8],
    collateral: Option<&[u8]>,
    policy: &TdxPolicy,
    roots: &Roots,
    at: OffsetDateTime,
) -> Option<Claims> {
    let (quote, report) = read(checks, bytes)?;
    let version = quote.header.version;
    checks.check(
        rules::TDX_VERSION,
        policy.quote_versions.contains(&version),
        one_of(&policy.quote_versions),
        version.to_string(),
    );
    let collateral = read_collateral(checks, collateral)?;
    let verified = verify(checks, bytes, collateral, roots, at)?;
    platform(checks, &verified, policy, at);
    guest(checks, &report, policy);
    checks.skip(
        "The event log behind RTMR 0 to 3: compare it with the registers that were accepted.",
    );
    Some(Claims {
        tee: Tee::Tdx,
        measurement: report.mr_td,
        report_data: report.report_data,
        bound: false,
        binding: None,
    })
}

/// A policy that accepts this quote and as little else as it can.
pub(crate) fn policy_of(
    bytes: &[u8],
    collateral: &[u8],
    roots: &Roots,
    at: OffsetDateTime,
) -> Result<TdxPolicy, TdxPolicyError> {
    let mut checks = Checks::default();
    let (quote, report) = read(&mut checks, bytes).ok_or(TdxPolicyError::Quote)?;
    let collateral = read_collateral(&mut checks, Some(collateral));
    let collateral = collateral.ok_or(TdxPolicyError::Collateral)?;
    let claims = verify(&mut checks, bytes, collateral, roots, at);
    let claims = claims.ok_or(TdxPolicyError::NotVerified)?;
    let ppid = claims.platform.pck.ppid.as_slice().try_into();
    let set = |flag| flag == PckCertFlag::True;
    Ok(TdxPolicy {
        quote_versions: vec![quote.header.version],
        mrtd: Allowed::one(Hex(report.mr_td)),
        rtmr0: Allowed::one(Hex(report.rt_mr0)),
        rtmr1: Allowed::one(Hex(report.rt_mr1)),
        rtmr2: Allowed::one(Hex(report.rt_mr2)),
        rtmr3: Allowed::one(Hex(report.rt_mr3)),
        mrconfigid: Allowed::one(Hex(report.mr_config_id)),
        mrowner: Allowed::one(Hex(report.mr_owner)),
        mrownerconfig: Allowed::one(Hex(report.mr_owner_config)),
        mrseam: Allowed::one(Hex(report.mr_seam)),
        platform_ids: Allowed::one(Hex(ppid.map_err(|_| TdxPolicyError::NotVerified)?)),
        tcb_statuses: vec!["UpToDate".to_owned()],
        advisories_denied: Vec::new(),
        tcb_evaluation_min: claims.tcb.eval_data_number,
        dynamic_platform_allowed: set(claims.platform.pck.dynamic_platform),
        cached_keys_allowed: set(claims.platform.pck.cached_keys),
        smt_allowed: set(claims.platform.pck.smt_enabled),
        td_attributes: Masked::exactly(report.td_attributes),
        xfam: Masked::exactly(report.xfam),
    })
}

/// Why no policy can be made from a quote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TdxPolicyError {
    /// Not one quote of version 4 or 5 of a TD.
    #[error("the bytes are not one quote of version 4 or 5 of a TD")]
    Quote,
    /// Not collateral in the form that DCAP uses.
    #[error("the collateral is not JSON of the form that DCAP uses, or a part is missing")]
    Collateral,
    /// The quote does not pass verification at the time given; appraise it to see why.
    #[error("the quote does not pass verification with this collateral at this time")]
    NotVerified,
}

/// Reads a quote whole: nothing but zeros may follow it.
fn read(checks: &mut Checks, bytes: &[u8]) -> Option<(Quote, TDReport10)> {
    const SKIPPED: &str = "Everything in the quote: it could not be read.";
    if !checks.check(
        rules::TDX_LENGTH,
        bytes.len() <= QUOTE_BYTES_MAX,
        format!("at most {QUOTE_BYTES_MAX} bytes"),
        format!("{} bytes", bytes.len()),
    ) {
        checks.skip(SKIPPED);
        return None;
    }
    let quote = Quote::parse(bytes);
    let (readable, found) = match &quote {
        Ok(quote) if quote.report.as_td10().is_some() => {
            (true, format!("one of version {}", quote.header.version))
        }
        Ok(_) => (false, "a quote of an SGX enclave".to_owned()),
        Err(error) => (false, error.to_string()),
    };
    checks.check(rules::TDX_READABLE, readable, "a quote of a TD", found);
    let Some((quote, report)) =
        quote.ok().and_then(|quote| quote.report.as_td10().copied().map(|report| (quote, report)))
    else {
        checks.skip(SKIPPED);
        return None;
    };
    let rest = bytes.get(end_of(&quote, bytes)..).unwrap_or_default();
    let padded = rest.iter().all(|byte| *byte == 0);
    checks.check(
        rules::TDX_PADDING,
        padded,
        "zeros, or nothing",
        if padded { format!("{} zeros", rest.len()) } else { "something else".to_owned() },
    );
    Some((quote, report))
}

/// Where the quote ends: what is signed, four bytes of length, and as many more.
fn end_of(quote: &Quote, bytes: &[u8]) -> usize {
    let signed = quote.signed_length();
    let length =
        bytes.get(signed..).and_then(<[u8]>::first_chunk).map(|length| u32::from_le_bytes(*length));
    let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    signed.saturating_add(4).saturating_add(length)
}

fn read_collateral(checks: &mut Checks, bytes: Option<&[u8]>) -> Option<QuoteCollateralV3> {
    const SKIPPED: &str = "The quote's signature, its platform's TCB and what it says of the TD: \
                           without collateral nobody can say who signed.";
    let bytes = match bytes {
        Some(bytes) if bytes.len() <= COLLATERAL_BYTES_MAX => bytes,
        given => {
            let found = match given {
                Some(bytes) => format!("{} bytes, more than {COLLATERAL_BYTES_MAX}", bytes.len()),
                None => "none".to_owned(),
            };
            checks.check(rules::TDX_COLLATERAL_PRESENT, false, "collateral", found);
            checks.skip(SKIPPED);
            return None;
        }
    };
    checks.check(rules::TDX_COLLATERAL_PRESENT, true, "collateral", "some");
    let read = serde_json::from_slice::<QuoteCollateralV3>(bytes);
    let (collateral, found) = match read {
        Ok(collateral) => match missing(&collateral) {
            Some(part) => (None, format!("nothing in {part}")),
            None => (Some(collateral), "all parts".to_owned()),
        },
        Err(error) => (None, error.to_string()),
    };
    let expected = "JSON with issuer chains, CRLs, TCB info and QE identity";
    checks.check(rules::TDX_COLLATERAL_READABLE, collateral.is_some(), expected, found);
    if collateral.is_none() {
        checks.skip(SKIPPED);
    }
    collateral
}

/// The first part of the collateral that is empty.
fn missing(collateral: &QuoteCollateralV3) -> Option<&'static str> {
    let parts = [
        ("pck_crl_issuer_chain", collateral.pck_crl_issuer_chain.is_empty()),
        ("root_ca_crl", collateral.root_ca_crl.is_empty()),
        ("pck_crl", collateral.pck_crl.is_empty()),
        ("tcb_info_issuer_chain", collateral.tcb_info_issuer_chain.is_empty()),
        ("tcb_info", collateral.tcb_info.is_empty()),
        ("tcb_info_signature", collateral.tcb_info_signature.is_empty()),
        ("qe_identity_issuer_chain", collateral.qe_identity_issuer_chain.is_empty()),
        ("qe_identity", collateral.qe_identity.is_empty()),
        ("qe_identity_signature", collateral.qe_identity_signature.is_empty()),
    ];
    parts.into_iter().find_map(|(part, empty)| empty.then_some(part))
}

/// Runs DCAP verification, and says which rule it failed by.
fn verify(
    checks: &mut Checks,
    bytes: &[u8],
    collateral: QuoteCollateralV3,
    roots: &Roots,
    at: OffsetDateTime,
) -> Option<QuoteClaims> {
    let verifier = match &roots.tdx {
        Some(root) => QuoteVerifier::new(root.clone()),
        None => QuoteVerifier::new_prod(),
    };
    let seconds = u64::try_from(at.unix_timestamp()).unwrap_or(0);
    // Every policy question is asked below, where it gets a rule of its own.
    let everything = QuotePolicy::claims_only(seconds);
    match verifier.verify_with_policy(bytes, collateral, seconds, &everything) {
        Ok(claims) => {
            checks.check(rules::TDX_VERIFIED, true, "a verified quote", "one");
            Some(claims)
        }
        Err(error) => {
            let found = format!("{error:#}");
            let rule = rule_of(&found);
            let expected = if rule == rules::TDX_COLLATERAL_TIME {
                format!("collateral that is current at {}", rfc3339(at))
            } else {
                rule.asks.to_owned()
            };
            checks.check(rule, false, expected, found);
            checks.skip("What the TD and its platform are: the quote did not pass verification.");
            None
        }
    }
}

/// The rule that a message of `dcap-qvl` 0.7.1 is about. The vectors pin these messages.
fn rule_of(message: &str) -> Rule {
    const RULES: &[(&str, Rule)] = &[
        ("QE report validation failed", rules::TDX_ENCLAVE),
        ("Debug mode is enabled", rules::TDX_DEBUG),
        ("profiling is enabled", rules::TDX_PROFILING),
        ("Reserved bits in TD attributes", rules::TDX_RESERVED),
        ("TD migration is enabled", rules::TDX_MIGRATABLE),
        ("SERVTD_EXT is enabled", rules::TDX_SERVICE),
        ("Invalid MR service TD", rules::TDX_SERVICE),
        ("Unknown QE vendor ID", rules::TDX_ENCLAVE),
        ("QE MRSIGNER mismatch", rules::TDX_ENCLAVE),
        ("QE ISVPRODID mismatch", rules::TDX_ENCLAVE),
        ("QE MISCSELECT mismatch", rules::TDX_ENCLAVE),
        ("QE ATTRIBUTES mismatch", rules::TDX_ENCLAVE),
        ("QE ISVSVN", rules::TDX_TCB_LEVEL),
        ("TDX module", rules::TDX_MODULE),
        ("status is invalid: Revoked", rules::TDX_TCB_REVOKED),
        ("CertRevoked", rules::TDX_REVOKED),
        ("InvalidCrlSignature", rules::TDX_COLLATERAL_SIGNATURE),
        ("UnknownIssuer", rules::TDX_CHAIN),
        ("must be issued directly by the root", rules::TDX_CHAIN),
        ("QE Identity id/version", rules::TDX_COLLATERAL_PLATFORM),
        ("non-TDX TCB info", rules::TDX_COLLATERAL_PLATFORM),
        ("InvalidSignatureForPublicKey", rules::TDX_CHAIN),
        ("SEPT_VE_DISABLE", rules::TDX_SEPT_VE),
        ("Fmspc mismatch", rules::TDX_COLLATERAL_PLATFORM),
        ("PCE ID mismatch", rules::TDX_COLLATERAL_PLATFORM),
        ("No matching TCB level", rules::TDX_TCB_LEVEL),
        ("in the future", rules::TDX_COLLATERAL_TIME),
        ("expired", rules::TDX_COLLATERAL_TIME),
        ("Expired", rules::TDX_COLLATERAL_TIME),
        ("NotValidYet", rules::TDX_COLLATERAL_TIME),
        ("qe_report", rules::TDX_ENCLAVE),
        ("QE report hash", rules::TDX_ENCLAVE),
        ("ISV enclave report signature", rules::TDX_SIGNATURE),
        ("quote_collateral", rules::TDX_COLLATERAL_SIGNATURE),
        ("CRL", rules::TDX_COLLATERAL_SIGNATURE),
        ("RevocationStatus", rules::TDX_COLLATERAL_SIGNATURE),
        ("Certificate chain is too short", rules::TDX_COLLATERAL_SIGNATURE),
        ("attestation key type", rules::TDX_READABLE),
    ];
    let known = RULES.iter().find(|(part, _)| message.contains(part));
    known.map_or(rules::TDX_VERIFIED, |(_, rule)| *rule)
}

/// What Intel says of the platform, and whether that is accepted.
fn platform(checks: &mut Checks, claims: &QuoteClaims, policy: &TdxPolicy, at: OffsetDateTime) {
    let expires = i64::try_from(claims.earliest_expiration_date).ok();
    let expires = expires.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    checks.check(
        rules::TDX_COLLATERAL_TIME,
        expires.is_some_and(|expires| at <= expires),
        format!("collateral that is current at {}", rfc3339(at)),
        expires.map_or("no date".to_owned(), |expires| format!("until {}", rfc3339(expires))),
    );
    let status = claims.tcb.status.to_string();
    checks.check(
        rules::TDX_STATUS,
        policy.tcb_statuses.contains(&status),
        one_of(&policy.tcb_statuses),
        status,
    );
    // A report of TDX 1.5 also has what runs now, which `dcap-qvl` lets pass where it is the worse.
    if let Some(now) = &claims.platform.current_tcb_level {
        let status = now.tcb_status.to_string();
        let holds = policy.tcb_statuses.contains(&status);
        checks.check(rules::TDX_STATUS_NOW, holds, one_of(&policy.tcb_statuses), status);
    }
    let open = &claims.tcb.advisory_ids;
    checks.check(
        rules::TDX_ADVISORIES,
        !open.iter().any(|id| policy.advisories_denied.contains(id)),
        match policy.advisories_denied.as_slice() {
            [] => "any".to_owned(),
            denied => format!("none of {}", denied.join(", ")),
        },
        if open.is_empty() { "none".to_owned() } else { open.join(", ") },
    );
    let evaluation = claims.tcb.eval_data_number;
    checks.check(
        rules::TDX_EVALUATION,
        evaluation >= policy.tcb_evaluation_min,
        format!("at least {}", policy.tcb_evaluation_min),
        evaluation.to_string(),
    );
    let pck = &claims.platform.pck;
    for (rule, flag, allowed) in [
        (rules::TDX_DYNAMIC, pck.dynamic_platform, policy.dynamic_platform_allowed),
        (rules::TDX_CACHED, pck.cached_keys, policy.cached_keys_allowed),
        (rules::TDX_SMT, pck.smt_enabled, policy.smt_allowed),
    ] {
        let found = match flag {
            PckCertFlag::True => "yes",
            PckCertFlag::False => "no",
            PckCertFlag::Undefined => "not said",
        };
        let holds = allowed || flag != PckCertFlag::True;
        checks.check(rule, holds, if allowed { "yes or no" } else { "no" }, found);
        if flag == PckCertFlag::Undefined {
            checks.skip(format!("{}: the platform's certificate does not say.", rule.code));
        }
    }
    match pck.ppid.as_slice().try_into() {
        Ok(ppid) => listed(
            checks,
            rules::TDX_PLATFORM,
            &policy.platform_ids,
            Hex(ppid),
            "which platform it is",
        ),
        Err(_) => {
            let found = hex::encode(&pck.ppid);
            checks.check(rules::TDX_PLATFORM, false, policy.platform_ids.to_string(), found);
        }
    }
}

/// What runs inside.
fn guest(checks: &mut Checks, report: &TDReport10, policy: &TdxPolicy) {
    for (rule, allowed, found) in [
        (rules::TDX_ATTRIBUTES, &policy.td_attributes, report.td_attributes),
        (rules::TDX_XFAM, &policy.xfam, report.xfam),
    ] {
        checks.check(rule, allowed.allows(found), allowed.to_string(), hex::encode(found));
    }
    for (rule, allowed, found, what) in [
        (rules::TDX_MRTD, &policy.mrtd, report.mr_td, "what was launched"),
        (rules::TDX_RTMR0, &policy.rtmr0, report.rt_mr0, "the firmware's configuration"),
        (rules::TDX_RTMR1, &policy.rtmr1, report.rt_mr1, "the kernel"),
        (rules::TDX_RTMR2, &policy.rtmr2, report.rt_mr2, "the command line and initrd"),
        (rules::TDX_RTMR3, &policy.rtmr3, report.rt_mr3, "what the guest measured"),
        (rules::TDX_CONFIG_ID, &policy.mrconfigid, report.mr_config_id, "the configuration"),
        (rules::TDX_OWNER, &policy.mrowner, report.mr_owner, "the owner"),
        (
            rules::TDX_OWNER_CONFIG,
            &policy.mrownerconfig,
            report.mr_owner_config,
            "the owner's configuration",
        ),
        (rules::TDX_SEAM, &policy.mrseam, report.mr_seam, "the TDX module"),
    ] {
        listed(checks, rule, allowed, Hex(found), what);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    type Fault = fn(&mut QuoteClaims);

    /// Rules about platforms that no vector has: what DCAP says of a genuine one, changed.
    #[test]
    #[expect(clippy::print_stderr, reason = "a test that shows nothing has to say so")]
    fn open_advisories_cached_keys_and_smt_are_refused_unless_the_policy_allows_them() {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/tdx");
        if !vectors.is_dir() {
            eprintln!("nothing shown: {} is not there", vectors.display());
            return;
        }
        let quote = fs::read(vectors.join("v4-b0c06f-phala.quote.bin")).unwrap();
        let collateral = fs::read(vectors.join("collateral-b0c06f-2025-06.json")).unwrap();
        let at = OffsetDateTime::from_unix_timestamp(1_752_919_234).unwrap();
        let mut policy = policy_of(&quote, &collateral, &Roots::vendors(), at).unwrap();
        policy.smt_allowed = false;
        policy.cached_keys_allowed = false;
        policy.advisories_denied = vec!["INTEL-SA-00001".to_owned()];
        let collateral = serde_json::from_slice(&collateral).unwrap();
        let vendors = Roots::vendors();
        let mut genuine = verify(&mut Checks::default(), &quote, collateral, &vendors, at).unwrap();
        genuine.platform.pck.smt_enabled = PckCertFlag::False;
        genuine.platform.pck.cached_keys = PckCertFlag::False;
        let faults: [(&str, Fault); 6] = [
            ("tdx.tcb.advisories", |claims| {
                claims.tcb.advisory_ids = vec!["INTEL-SA-00001".into()]
            }),
            ("tdx.platform.cached-keys", |claims| {
                claims.platform.pck.cached_keys = PckCertFlag::True
            }),
            ("tdx.platform.smt", |claims| claims.platform.pck.smt_enabled = PckCertFlag::True),
            ("tdx.platform.allowed", |claims| claims.platform.pck.ppid.clear()),
            ("tdx.tcb.status", |claims| claims.tcb.status = dcap_qvl::TcbStatus::OutOfDate),
            ("tdx.collateral.current", |claims| claims.earliest_expiration_date = 1_752_919_233),
        ];

        for (rule, fault) in faults {
            let mut claims = genuine.clone();
            fault(&mut claims);
            let mut checks = Checks::default();
            platform(&mut checks, &claims, &policy, at);
            let appraisal = checks.finish(Tee::Tdx, at, None);
            let failures: Vec<_> = appraisal.failures().map(|check| check.rule).collect();
            assert_eq!(failures, [rule]);
        }
    }
}
