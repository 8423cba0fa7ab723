//! Policies for an image that was measured before anything was started.

use evanesce_appraisal::{
    Evidence, Outcome, Policy, PolicyFromEvidenceError, Product, SnpEndorsements, SnpImage,
    SnpPlatforms, policy_for_image,
};
use evanesce_protocol::Digest;
use evanesce_protocol::evidence::NotaryPoint;
use toml::{Table, Value};

use super::setup::Setup;

const MEASUREMENT: [u8; 48] = [0x5A; 48];

fn image() -> SnpImage {
    SnpImage {
        measurement: MEASUREMENT,
        // Bit 17 has to be set; SMT.
        guest_policy: 0x3_0000,
        signer: Digest::of(b"signer"),
        worker: Digest::of(b"worker"),
        notary: None,
    }
}

/// A machine that was started with the image, without an ID block and without host data.
fn launched(mut setup: Setup, policy: &Policy) -> Setup {
    let report = &mut setup.report;
    report[0x04] = 0;
    report[0x08..0x10].copy_from_slice(&0x3_0000_u64.to_le_bytes());
    for (offset, length) in [(0x10, 32), (0xC0, 32), (0xE0, 48), (0x110, 48)] {
        report[offset..][..length].fill(0);
    }
    report[0x90..0xC0].copy_from_slice(&MEASUREMENT);
    let mut table: Table = policy.to_toml().parse().unwrap();
    // The roots of the test are for development alone.
    table.insert("profile".to_owned(), "development".into());
    setup.policy = table;
    setup
}

fn any_machine() -> Policy {
    let products = [Product::Milan, Product::Genoa, Product::Turin];
    policy_for_image(&image(), SnpPlatforms::Products(&products)).unwrap()
}

#[test]
fn a_policy_for_an_image_accepts_it_on_machines_of_the_product_lines_it_names() {
    for setup in [Setup::genoa, Setup::turin] {
        let setup = launched(setup(), &any_machine());
        assert_eq!(setup.failures(), (Outcome::Trusted, vec![]));
    }
    let milan = policy_for_image(&image(), SnpPlatforms::Products(&[Product::Milan])).unwrap();
    let (outcome, rules) = launched(Setup::genoa(), &milan).failures();
    assert_eq!((outcome, rules[0]), (Outcome::Refused, "snp.chain.product-allowed"));
}

#[test]
fn a_policy_for_an_image_accepts_no_other_and_none_that_was_started_in_another_way() {
    type Change = fn(&mut [u8]);
    let cases: &[(&str, Change)] = &[
        ("snp.guest.measurement", |report| report[0x90] ^= 1),
        ("snp.guest.measurement", |report| report[0xBF] ^= 1),
        ("snp.guest.vmpl", |report| report[0x30] = 1),
        ("snp.policy.debug", |report| report[0x0A] |= 1 << 3),
        ("snp.policy.migration", |report| report[0x0A] |= 1 << 2),
        ("snp.policy.cxl", |report| report[0x0A] |= 1 << 5),
        ("snp.guest.family-id", |report| report[0x10] = 1),
        ("snp.guest.image-id", |report| report[0x20] = 1),
        ("snp.guest.host-data", |report| report[0xC0] = 1),
        ("snp.guest.id-key", |report| report[0xE0] = 1),
        ("snp.guest.author-key", |report| report[0x110] = 1),
        ("snp.platform.alias-check", |report| report[0x40] &= !(1 << 5)),
        ("snp.platform.ecc", |report| report[0x40] &= !(1 << 2)),
    ];
    for (rule, change) in cases {
        let mut setup = launched(Setup::genoa(), &any_machine());
        change(&mut setup.report);

        assert_eq!(setup.failures().1, [*rule]);
    }
}

#[test]
fn a_guest_that_must_not_share_a_core_gets_a_policy_for_platforms_without_threads() {
    let alone = SnpImage { guest_policy: 0x2_0000, ..image() };
    let policy = policy_for_image(&alone, SnpPlatforms::Products(&[Product::Genoa])).unwrap();

    for (rule, at, bit) in [("snp.policy.smt", 0x0A, 0), ("snp.platform.smt", 0x40, 0)] {
        let mut setup = launched(Setup::genoa(), &policy);
        setup.report[0x0A] &= !1;
        assert_eq!(setup.report[0x40] & 1, 0, "the platform of the test has threads");
        setup.report[at] |= 1 << bit;
        assert_eq!(setup.failures().1, [rule]);
    }
}

#[test]
fn with_evidence_of_a_machine_the_image_is_accepted_there_alone() {
    let machine = Setup::genoa();
    let vek = machine.vek.vek_der();
    let endorsements = SnpEndorsements { vek: Some(&vek), crl: None };
    let evidence = Evidence::Snp { report: &machine.report, endorsements };

    let policy = policy_for_image(&image(), SnpPlatforms::Of(evidence)).unwrap();

    assert_eq!(policy.warnings(), Vec::<String>::new());
    assert_eq!(launched(Setup::genoa(), &policy).failures(), (Outcome::Trusted, vec![]));
    // Another chip, and older firmware.
    let mut other = launched(Setup::genoa(), &policy);
    other.report[0x1A0..0x1E0].fill(0x19);
    *other.extension(super::HWID) = vec![0x19; 64];
    assert_eq!(other.failures(), (Outcome::Unknown, vec!["snp.chip.allowed"]));
    let mut older = launched(Setup::genoa(), &policy);
    older.raise("tcb_min.Genoa.microcode");
    assert_eq!(older.failures().1, ["snp.tcb.minimum"]);
    // Evidence of another kind says nothing of such a machine.
    let quote = Evidence::Tdx { quote: &[], collateral: None };
    let error = policy_for_image(&image(), SnpPlatforms::Of(quote)).unwrap_err();
    assert!(matches!(error, PolicyFromEvidenceError::NotSnp { .. }), "{error}");
}

#[test]
fn a_policy_for_an_image_lists_its_worker_and_signer_and_warns_of_what_is_not_known() {
    let notary = NotaryPoint::from_bytes([4; 65]);
    let named = SnpImage { notary: Some(notary), ..image() };
    let policy = policy_for_image(&named, SnpPlatforms::Products(&[Product::Turin])).unwrap();

    let table: Table = policy.to_toml().parse().unwrap();
    let section = &table["evanesce"];
    let texts = |text: String| Value::from(vec![text]);
    assert_eq!(table["profile"], "production".into());
    assert_eq!(table["report_data"], "compared".into());
    assert_eq!(section["purposes"], texts("signing-identity".to_owned()));
    assert_eq!(section["signers"], texts(Digest::of(b"signer").to_string()));
    assert_eq!(section["workers"], texts(Digest::of(b"worker").to_string()));
    assert_eq!(section["notaries"], texts(notary.to_string()));
    assert_eq!(Policy::from_toml(&policy.to_toml()).unwrap(), policy);
    let warnings = policy.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("snp.chip_ids") && warnings[1].contains("snp.tcb_min"));
    assert!(policy.explain().iter().any(|line| line.contains("Turin with firmware of any age")));
    // Nothing is accepted where no product line is.
    let error = policy_for_image(&image(), SnpPlatforms::Products(&[])).unwrap_err();
    assert_eq!(error.code(), "appraisal.policy-accepts-nothing");
}
