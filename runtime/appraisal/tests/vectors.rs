//! Real reports and quotes, and real ones that were changed, with the verdict that each has to get.
//!
//! They are other people's data and are not kept here. Where `../shared/vectors` beside the
//! repository is missing, each test says so and shows nothing.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::PathBuf;

use evanesce_appraisal::{
    Appraisal, Evidence, Expected, Outcome, Policy, Roots, SnpEndorsements, appraise,
    policy_from_evidence,
};
use time::OffsetDateTime;
use toml::{Table, Value};

#[test]
fn genuine_snp_reports_are_trusted_under_the_policy_made_from_them() {
    for (name, vek) in [
        ("milan-v2-virtee", "der"),
        ("milan-v3-ms", "pem"),
        ("genoa-v3-ms", "pem"),
        ("turin-v5-ms", "pem"),
        ("azure-milan-v2-cda", "der"),
    ] {
        let Some((report, vek)) = snp(name, vek) else { return };
        let appraisal = appraise_snp(&report, &vek, &snp_policy(&report, &vek));
        assert_eq!(appraisal.outcome(), Outcome::Trusted, "{name}: {:?}", failures(&appraisal));
    }
}

#[test]
fn a_genuine_debug_guest_is_refused_for_being_one() {
    let Some((report, vek)) = snp("milan-v2-debug-google", "der") else { return };

    let appraisal = appraise_snp(&report, &vek, &snp_policy(&report, &vek));

    assert_eq!(failures(&appraisal), ["snp.policy.debug"]);
}

#[test]
fn the_certificate_of_another_chip_fails_by_signature_and_chip() {
    let Some((report, vek)) = snp("azure-milan-v2-WRONG-VCEK", "pem") else { return };

    let appraisal = appraise_snp(&report, &vek, &snp_policy(&report, &vek));

    assert_eq!(failures(&appraisal), ["snp.report.signature", "snp.chip.certificate"]);
}

#[test]
fn a_made_up_certificate_fails_by_chain_signature_tcb_and_chip() {
    let Some((report, vek)) = snp("milan-v2-VCEK-new-invalid", "der") else { return };

    let appraisal = appraise_snp(&report, &vek, &snp_policy(&report, &vek));

    assert_eq!(
        failures(&appraisal),
        [
            "snp.chain.signature",
            "snp.report.signature",
            "snp.chip.certificate",
            "snp.tcb.certified",
        ]
    );
}

#[test]
fn the_certificate_of_another_generation_is_named() {
    let Some((report, genoa)) = snp("genoa-v3-ms", "pem") else { return };
    let Some((_, milan)) = snp("milan-v3-ms", "pem") else { return };

    let appraisal = appraise_snp(&report, &milan, &snp_policy(&report, &genoa));

    assert!(failures(&appraisal).contains(&"snp.chip.generation"), "{:?}", failures(&appraisal));
}

#[test]
fn changed_snp_reports_are_refused_for_what_was_changed() {
    const SIGNATURE: &str = "snp.report.signature";
    let Some((genuine, vek)) = snp("genoa-v3-ms", "pem") else { return };
    let policy = snp_policy(&genuine, &vek);
    let mut seen = 0;
    for (file, expected) in [
        ("all_zero", &["snp.report.version"][..]),
        (
            "chip_id_masked_v3",
            &[SIGNATURE, "snp.chip.certificate", "snp.chip.named", "snp.chip.allowed"],
        ),
        ("current_tcb_reserved", &[SIGNATURE, "snp.tcb.certified"]),
        ("guest_svn", &[SIGNATURE]),
        ("id_key_digest_flip", &[SIGNATURE, "snp.guest.id-key"]),
        ("key_info_signing_key_none", &[SIGNATURE, "snp.key.kind"]),
        ("plat_info_alias", &[SIGNATURE, "snp.platform.alias-check"]),
        ("policy_debug_set", &[SIGNATURE, "snp.policy.debug"]),
        ("policy_reserved_hi", &[SIGNATURE, "snp.policy.unknown"]),
        ("reported_tcb_reserved", &[SIGNATURE, "snp.tcb.certified"]),
        ("reserved_0x18b", &["snp.report.reserved", SIGNATURE]),
        ("reserved_0x208", &["snp.report.reserved", SIGNATURE]),
        ("sig_algo_0", &["snp.report.algorithm", SIGNATURE]),
        ("sig_r_pad_nonzero", &["snp.report.padding"]),
        ("sig_trailing_nonzero", &["snp.report.padding"]),
        ("truncated_1183", &["snp.report.length"]),
        ("version_1", &["snp.report.version"]),
        ("version_5_as", &["snp.report.version-allowed", SIGNATURE]),
        ("vmpl_1", &[SIGNATURE, "snp.guest.vmpl"]),
    ] {
        let Some(report) = read(&format!("snp/mutated/{file}.bin")) else { return };
        let appraisal = appraise_snp(&report, &vek, &policy);
        assert_eq!(failures(&appraisal), expected, "{file}");
        seen += 1;
    }
    assert_eq!(seen, files("snp/mutated"), "a file has no expected verdict");
}

/// Quotes that are current with their collateral at a time: quote, collateral, seconds.
const CURRENT: [(&str, &str, i64); 2] = [
    ("v4-b0c06f-phala", "b0c06f-2025-06", 1_752_919_234),
    ("v4-cos113-gcp-google", "00806f-2025-01", 1_740_048_927),
];

#[test]
fn genuine_tdx_quotes_are_trusted_under_the_policy_made_from_them() {
    for (quote, collateral, seconds) in CURRENT {
        let Some((quote, collateral)) = tdx(quote, collateral) else { return };
        let policy = tdx_policy(&quote, &collateral, seconds);
        let appraisal = appraise_tdx(&quote, Some(&collateral), &policy, seconds);
        assert_eq!(appraisal.outcome(), Outcome::Trusted, "{:?}", failures(&appraisal));
    }
}

#[test]
fn genuine_tdx_quotes_that_are_not_to_be_trusted_are_refused_for_their_reason() {
    let Some(policy) = tdx_baseline_policy() else { return };
    for (quote, collateral, seconds, expected) in [
        ("v5-90c06f-oldtcb-phala", "90c06f-2026-02", 1_774_003_274, "tdx.tcb.level"),
        ("v4-DEBUG-trustee", "50806f-2026-03", 1_776_291_362, "tdx.td.debug"),
        ("v4-nosept-zkdcap", "00806f-2025-01", 1_740_048_927, "tdx.td.sept-ve-disable"),
        ("v4-b0c06f-phala", "90c06f-2026-02", 1_774_003_274, "tdx.collateral.platform"),
    ] {
        let Some((bytes, collateral)) = tdx(quote, collateral) else { return };
        let appraisal = appraise_tdx(&bytes, Some(&collateral), &policy, seconds);
        assert!(failures(&appraisal).contains(&expected), "{quote}: {:?}", failures(&appraisal));
        assert_eq!(appraisal.outcome(), Outcome::Refused, "{quote}");
    }
}

#[test]
fn changed_tdx_quotes_are_refused_for_what_was_changed() {
    const SIGNATURE: &str = "tdx.quote.signature";
    const ENCLAVE: &str = "tdx.quote.enclave";
    const READABLE: &str = "tdx.quote.readable";
    let (_, collateral, seconds) = CURRENT[0];
    let Some(policy) = tdx_baseline_policy() else { return };
    let Some(collateral) = read(&format!("tdx/collateral-{collateral}.json")) else { return };
    for (file, expected) in [
        ("att_key_type_flip", READABLE),
        ("tee_type_flip", READABLE),
        ("mrsignerseam_flip", SIGNATURE),
        ("td_attributes_sept_flip", SIGNATURE),
        ("xfam_flip", SIGNATURE),
        ("mrconfigid_flip", SIGNATURE),
        ("rtmr3_flip", SIGNATURE),
        ("report_data_flip", SIGNATURE),
        ("quote_sig_r_flip", SIGNATURE),
        ("qe_report_sig_flip", ENCLAVE),
        ("qe_auth_data_flip", ENCLAVE),
        ("truncated_100", READABLE),
        ("empty", READABLE),
    ] {
        let Some(quote) = read(&format!("tdx/mutated/{file}.bin")) else { return };
        let appraisal = appraise_tdx(&quote, Some(&collateral), &policy, seconds);
        assert_eq!(failures(&appraisal), [expected], "{file}");
    }
}

#[test]
fn changed_missing_and_untimely_collateral_is_named() {
    let (quote, collateral, seconds) = CURRENT[0];
    let Some((quote, genuine)) = tdx(quote, collateral) else { return };
    let Some(policy) = tdx_baseline_policy() else { return };
    for file in ["pckcrl_is_rootcrl", "rootcrl_byte", "tcbinfo_sig_flip"] {
        let Some(changed) = read(&format!("tdx/mutated/collateral_{file}.json")) else { return };
        let appraisal = appraise_tdx(&quote, Some(&changed), &policy, seconds);
        assert_eq!(failures(&appraisal), ["tdx.collateral.signature"], "{file}");
    }
    for seconds in [1_750_000_000, 1_760_000_000] {
        let appraisal = appraise_tdx(&quote, Some(&genuine), &policy, seconds);
        assert_eq!(failures(&appraisal), ["tdx.collateral.current"], "at {seconds}");
    }
    let appraisal = appraise_tdx(&quote, None, &policy, seconds);
    assert_eq!(failures(&appraisal), ["tdx.collateral.present"]);
    for part in ["tcb_info_issuer_chain", "pck_crl", "qe_identity_signature"] {
        let mut parts: serde_json::Value = serde_json::from_slice(&genuine).unwrap();
        parts[part] = "".into();
        let appraisal = appraise_tdx(&quote, Some(parts.to_string().as_bytes()), &policy, seconds);
        assert_eq!(failures(&appraisal), ["tdx.collateral.readable"]);
        let found = &appraisal.failures().next().unwrap().found;
        assert!(found.contains(part), "{found}");
    }
}

#[test]
fn each_tdx_rule_of_ours_refuses_what_the_policy_does_not_list() {
    const OTHER: &str = "\"any\" is not meant";
    let (quote, collateral, seconds) = CURRENT[0];
    let Some((quote, collateral)) = tdx(quote, collateral) else { return };
    let other = || Value::Array(vec![hex::encode([0xA5; 48]).into()]);
    let masked = |value: &str| {
        Value::Table(
            [("value", value), ("mask", "ffffffffffffffff")]
                .map(|(name, value)| (name.to_owned(), value.into()))
                .into_iter()
                .collect(),
        )
    };
    let cases: [(&str, &str, Value); 18] = [
        ("tdx.quote.version-allowed", "quote_versions", vec![5].into()),
        ("tdx.tcb.status", "tcb_statuses", vec!["SWHardeningNeeded"].into()),
        ("tdx.tcb.evaluation", "tcb_evaluation_min", 1_000.into()),
        ("tdx.platform.dynamic", "dynamic_platform_allowed", false.into()),
        ("tdx.platform.smt", "smt_allowed", false.into()),
        ("tdx.platform.allowed", "platform_ids", vec![hex::encode([0xA5; 16])].into()),
        ("tdx.td.attributes", "td_attributes", masked("0000001000000080")),
        ("tdx.td.xfam", "xfam", masked("e702060000000001")),
        ("tdx.td.mrtd", "mrtd", other()),
        ("tdx.td.rtmr0", "rtmr0", other()),
        ("tdx.td.rtmr1", "rtmr1", other()),
        ("tdx.td.rtmr2", "rtmr2", other()),
        ("tdx.td.rtmr3", "rtmr3", other()),
        ("tdx.td.mrconfigid", "mrconfigid", other()),
        ("tdx.td.mrowner", "mrowner", other()),
        ("tdx.td.mrownerconfig", "mrownerconfig", other()),
        ("tdx.module.mrseam", "mrseam", other()),
        ("input.report-data", "", OTHER.into()),
    ];
    for (rule, field, value) in cases {
        let mut policy = tdx_policy(&quote, &collateral, seconds);
        if field.is_empty() {
            policy.insert("report_data".to_owned(), "compared".into());
        } else {
            let table = policy["tdx"].as_table_mut().unwrap();
            assert!(table.insert(field.to_owned(), value).is_some(), "no field {field}");
        }
        let appraisal = appraise_tdx(&quote, Some(&collateral), &policy, seconds);
        assert_eq!(failures(&appraisal), [rule]);
    }
}

#[test]
fn what_follows_a_quote_is_zeros_or_a_reason_to_refuse() {
    let (quote, collateral, seconds) = CURRENT[0];
    let Some((quote, collateral)) = tdx(quote, collateral) else { return };
    let policy = tdx_policy(&quote, &collateral, seconds);
    for (rest, expected) in [
        (vec![0; 3000], vec![]),
        (vec![0, 0, 1], vec!["tdx.quote.padding"]),
        (vec![0; 40_000], vec!["tdx.quote.length"]),
    ] {
        let longer = [quote.as_slice(), &rest].concat();
        let appraisal = appraise_tdx(&longer, Some(&collateral), &policy, seconds);
        assert_eq!(failures(&appraisal), expected);
    }
}

#[test]
fn a_policy_for_one_kind_refuses_the_other_kind() {
    let Some((report, vek)) = snp("genoa-v3-ms", "pem") else { return };
    let Some(policy) = tdx_baseline_policy() else { return };

    let appraisal = appraise_snp(&report, &vek, &policy);

    assert_eq!(failures(&appraisal), ["input.kind"]);
}

fn appraise_snp(report: &[u8], vek: &[u8], policy: &Table) -> Appraisal {
    let endorsements = SnpEndorsements { vek: Some(vek), crl: None };
    let policy = Policy::from_toml(&policy.to_string()).unwrap();
    let roots = Roots::vendors();
    appraise(
        Evidence::Snp { report, endorsements },
        Expected::Nothing,
        &policy,
        &roots,
        june_2026(),
    )
}

/// The strict policy, but for what the vectors have not: a revocation list and a known binding.
fn snp_policy(report: &[u8], vek: &[u8]) -> Table {
    let endorsements = SnpEndorsements { vek: Some(vek), crl: None };
    let evidence = Evidence::Snp { report, endorsements };
    let mut policy =
        table(&policy_from_evidence(evidence, None, &Roots::vendors(), june_2026()).unwrap());
    policy["snp"]["crl"].as_table_mut().unwrap().insert("required".to_owned(), false.into());
    policy
}

fn appraise_tdx(
    quote: &[u8],
    collateral: Option<&[u8]>,
    policy: &Table,
    seconds: i64,
) -> Appraisal {
    let policy = Policy::from_toml(&policy.to_string()).unwrap();
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    let evidence = Evidence::Tdx { quote, collateral };
    appraise(evidence, Expected::Nothing, &policy, &Roots::vendors(), at)
}

fn tdx_policy(quote: &[u8], collateral: &[u8], seconds: i64) -> Table {
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    let evidence = Evidence::Tdx { quote, collateral: Some(collateral) };
    table(&policy_from_evidence(evidence, None, &Roots::vendors(), at).unwrap())
}

fn tdx_baseline_policy() -> Option<Table> {
    let (quote, collateral, seconds) = CURRENT[0];
    let (quote, collateral) = tdx(quote, collateral)?;
    Some(tdx_policy(&quote, &collateral, seconds))
}

fn table(policy: &Policy) -> Table {
    let mut table: Table = policy.to_toml().parse().unwrap();
    table.insert("report_data".to_owned(), "not-checked".into());
    table
}

fn failures(appraisal: &Appraisal) -> Vec<&'static str> {
    appraisal.failures().map(|check| check.rule).collect()
}

/// A report and its certificate.
fn snp(name: &str, extension: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let report = read(&format!("snp/{name}.report.bin"))?;
    Some((report, read(&format!("snp/{name}.vek.{extension}"))?))
}

/// A quote and its collateral.
fn tdx(quote: &str, collateral: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let quote = read(&format!("tdx/{quote}.quote.bin"))?;
    Some((quote, read(&format!("tdx/collateral-{collateral}.json"))?))
}

/// A file of the vectors, or a word on their absence. A set without one of its files is a failure.
#[expect(clippy::print_stderr, reason = "a test that shows nothing has to say so")]
fn read(path: &str) -> Option<Vec<u8>> {
    let vectors = vectors();
    if !vectors.is_dir() {
        eprintln!("nothing shown: {} is not there", vectors.display());
        return None;
    }
    Some(fs::read(vectors.join(path)).unwrap_or_else(|error| panic!("{path}: {error}")))
}

fn files(path: &str) -> usize {
    fs::read_dir(vectors().join(path)).unwrap().count()
}

fn vectors() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors")
}

fn june_2026() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_780_272_000).unwrap()
}
