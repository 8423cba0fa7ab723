//! Policies: nothing is accepted by default, and what makes no sense is refused with its field.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use evanesce_appraisal::{POLICY_BYTES_MAX, Policy, PolicyError};
use toml::{Table, Value};

/// A strict policy for one image on Genoa machines and one on TDX machines.
const STRICT: &str = include_str!("policy/strict.toml");

#[test]
fn a_strict_policy_is_read_and_written_alike() {
    let policy = Policy::from_toml(STRICT).unwrap();

    assert_eq!(Policy::from_toml(&policy.to_toml()).unwrap(), policy);
}

#[test]
fn every_field_is_required() {
    let whole: Table = STRICT.parse().unwrap();
    for kind in ["snp", "tdx"] {
        for field in whole[kind].as_table().unwrap().keys() {
            let mut table = whole.clone();
            table[kind].as_table_mut().unwrap().remove(field).unwrap();
            let error = Policy::from_toml(&table.to_string()).unwrap_err();
            assert_eq!(error.code(), "appraisal.policy-parse", "{kind}.{field}");
        }
    }
}

#[test]
fn a_field_that_is_not_known_is_refused_in_every_table() {
    for path in ["", "snp", "snp.crl", "snp.tcb_min.Genoa", "tdx", "tdx.xfam"] {
        let mut table: Table = STRICT.parse().unwrap();
        let mut place = &mut table;
        for name in path.split('.').filter(|name| !name.is_empty()) {
            place = place[name].as_table_mut().unwrap();
        }
        place.insert("measurement".to_owned(), "any".into());
        let error = Policy::from_toml(&table.to_string()).unwrap_err();
        assert_eq!(error.code(), "appraisal.policy-parse", "{path}");
    }
}

#[test]
fn an_empty_list_is_refused_because_nothing_could_pass() {
    let whole: Table = STRICT.parse().unwrap();
    let optional = [
        "csp_ids",
        "guest_policy_allowed",
        "guest_policy_required",
        "platform_allowed",
        "platform_required",
        "advisories_denied",
        "guest_policy_abi_min",
        "firmware_min",
    ];
    for kind in ["snp", "tdx"] {
        for (field, value) in whole[kind].as_table().unwrap() {
            if !value.is_array() || optional.contains(&field.as_str()) {
                continue;
            }
            let error = with(kind, field, Value::Array(Vec::new())).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("the policy accepts nothing, because it lists nothing in {kind}.{field}")
            );
        }
    }
}

#[test]
fn a_policy_without_a_kind_of_machine_accepts_nothing() {
    let mut table: Table = STRICT.parse().unwrap();
    table.remove("snp").unwrap();
    table.remove("tdx").unwrap();

    let error = Policy::from_toml(&table.to_string()).unwrap_err();

    assert_eq!(error.code(), "appraisal.policy-accepts-nothing");
}

#[test]
fn a_production_policy_names_its_images() {
    for (kind, field) in [("snp", "measurements"), ("tdx", "mrtd")] {
        let error = with(kind, field, "any".into()).unwrap_err();
        assert_eq!(error.code(), "appraisal.policy-accepts-everything", "{kind}.{field}");
    }
}

#[test]
fn a_production_policy_accepts_no_guest_that_its_host_may_read() {
    for risk in ["debug", "migration"] {
        let error = with("snp", "guest_policy_allowed", vec![risk].into()).unwrap_err();
        assert_eq!(error.code(), "appraisal.policy-not-for-production", "{risk}");
    }
}

#[test]
fn a_product_line_without_a_minimum_is_refused() {
    let error = with("snp", "products", vec!["Genoa", "Turin"].into()).unwrap_err();

    assert_eq!(error.to_string(), "the policy lists Turin but has no [snp.tcb_min.Turin]");
}

#[test]
fn a_status_that_means_revoked_cannot_be_listed() {
    let error = with("tdx", "tcb_statuses", vec!["Revoked"].into()).unwrap_err();

    assert_eq!(error.code(), "appraisal.policy-tcb-status");
}

#[test]
fn values_of_the_wrong_length_or_spelling_are_refused() {
    for value in ["", "00", "any ", "ANY", "zz"] {
        let error = with("snp", "measurements", vec![value].into()).unwrap_err();
        assert_eq!(error.code(), "appraisal.policy-parse", "{value:?}");
    }
}

#[test]
fn another_version_and_a_policy_without_end_are_refused() {
    let mut table: Table = STRICT.parse().unwrap();
    table.insert("version".to_owned(), 2.into());
    let long = " ".repeat(POLICY_BYTES_MAX + 1);

    assert_eq!(
        Policy::from_toml(&table.to_string()).unwrap_err().code(),
        "appraisal.policy-version"
    );
    assert_eq!(Policy::from_toml(&long).unwrap_err().code(), "appraisal.policy-too-long");
}

#[test]
fn the_explanation_names_what_is_open() {
    let mut table: Table = STRICT.parse().unwrap();
    table["snp"].as_table_mut().unwrap().insert("chip_ids".to_owned(), "any".into());
    table.insert("report_data".to_owned(), "not-checked".into());

    let sentences = Policy::from_toml(&table.to_string()).unwrap().explain().join("\n");

    for part in ["any chip", "NOT compared", "production"] {
        assert!(sentences.contains(part), "{sentences}");
    }
}

/// The strict policy with one field changed.
fn with(kind: &str, field: &str, value: Value) -> Result<Policy, PolicyError> {
    let mut table: Table = STRICT.parse().unwrap();
    let changed = table[kind].as_table_mut().unwrap().insert(field.to_owned(), value);
    assert!(changed.is_some(), "no field {kind}.{field}");
    Policy::from_toml(&table.to_string())
}
