//! No bytes, no text and no time make an appraisal panic, and what is not evidence is refused.

use std::sync::LazyLock;

use evanesce_appraisal::{
    Evidence, Expected, Outcome, Policy, Roots, SnpEndorsements, appraise, policy_from_evidence,
};
use proptest::prelude::*;
use time::OffsetDateTime;

/// A policy that accepts about as much as one can.
const OPEN: &str = r#"
version = 1
profile = "development"
report_data = "not-checked"

[snp]
products = ["Milan", "Genoa", "Turin"]
report_versions = [2, 3, 4, 5]
signing_keys = ["vcek", "vlek"]
csp_ids = []
chip_ids = "any"
measurements = "any"
guest_svn_min = 0
family_ids = "any"
image_ids = "any"
host_data = "any"
id_key_digests = "any"
author_key_digests = "any"
vmpls = [0, 1, 2, 3]
guest_policy_abi_min = [0, 0]
guest_policy_allowed = ["smt", "migration", "debug", "cxl"]
guest_policy_required = []
platform_allowed = ["smt", "tio"]
platform_required = []
provisional_firmware_allowed = true
firmware_min = [0, 0, 0]
mitigations = 0

[snp.crl]
required = false
age_hours_max = 720

[snp.tcb_min]
Milan = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }
Genoa = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }
Turin = { fmc = 0, bootloader = 0, tee = 0, snp = 0, microcode = 0 }

[snp.launch_tcb_min]
Milan = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }
Genoa = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }
Turin = { fmc = 0, bootloader = 0, tee = 0, snp = 0, microcode = 0 }

[tdx]
quote_versions = [4, 5]
mrtd = "any"
rtmr0 = "any"
rtmr1 = "any"
rtmr2 = "any"
rtmr3 = "any"
mrconfigid = "any"
mrowner = "any"
mrownerconfig = "any"
mrseam = "any"
platform_ids = "any"
tcb_statuses = ["UpToDate", "OutOfDate"]
advisories_denied = []
tcb_evaluation_min = 0
dynamic_platform_allowed = true
cached_keys_allowed = true
smt_allowed = true
td_attributes = { value = "0000000000000000", mask = "0000000000000000" }
xfam = { value = "0000000000000000", mask = "0000000000000000" }
"#;

static POLICY: LazyLock<Policy> = LazyLock::new(|| Policy::from_toml(OPEN).expect("a policy"));
static ROOTS: LazyLock<Roots> = LazyLock::new(Roots::vendors);

/// A certificate whose bytes are changed here and there: the root in this crate, which is public.
const ROOT: &str = include_str!("../roots/amd-turin.pem");

/// Bytes of any kind, and those that look like a report, a certificate or a quote from the start.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let changed_root = (0..ROOT.len(), any::<u8>()).prop_map(|(at, byte)| {
        let mut pem = ROOT.as_bytes().to_vec();
        pem[at] = byte;
        pem
    });
    let report = prop::collection::vec(any::<u8>(), 1184).prop_map(|mut report| {
        report[..4].copy_from_slice(&[3, 0, 0, 0]);
        report
    });
    let quote = (4u8..=5, prop::collection::vec(any::<u8>(), 0..4000))
        .prop_map(|(version, rest)| [&[version, 0, 2, 0, 0x81, 0, 0, 0][..], &rest].concat());
    let sequence = prop::collection::vec(any::<u8>(), 0..600)
        .prop_map(|rest| [&[0x30, 0x82, 2, 0x58][..], &rest].concat());
    prop_oneof![prop::collection::vec(any::<u8>(), 0..2000), changed_root, report, quote, sequence,]
}

proptest! {
    #[test]
    fn bytes_that_no_vendor_signed_are_refused_without_a_panic(
        evidence in bytes(),
        endorsement in prop::option::of(bytes()),
        crl in prop::option::of(bytes()),
        seconds in -1_000_000_000_i64..100_000_000_000,
    ) {
        let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let endorsements = SnpEndorsements { vek: endorsement.as_deref(), crl: crl.as_deref() };
        for evidence in [
            Evidence::Snp { report: &evidence, endorsements },
            Evidence::Tdx { quote: &evidence, collateral: endorsement.as_deref() },
        ] {
            let appraisal = appraise(evidence, Expected::Nothing, &POLICY, &ROOTS, at);
            prop_assert_eq!(appraisal.outcome(), Outcome::Refused);
            prop_assert!(appraisal.failures().next().is_some());
            // A policy may come out of a report that is only of the right form; it must be one.
            if let Ok(policy) = policy_from_evidence(evidence, None, &ROOTS, at) {
                prop_assert_eq!(Policy::from_toml(&policy.to_toml()).unwrap(), policy);
            }
        }
    }

    #[test]
    fn a_policy_with_one_changed_character_is_read_or_refused_without_a_panic(
        place in 0..OPEN.len(),
        character in any::<char>(),
    ) {
        let mut text: Vec<char> = OPEN.chars().collect();
        text[place] = character;
        let text: String = text.into_iter().collect();
        if let Ok(policy) = Policy::from_toml(&text) {
            prop_assert_eq!(Policy::from_toml(&policy.to_toml()).unwrap(), policy);
        }
    }
}
