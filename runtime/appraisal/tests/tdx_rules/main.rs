//! One fault a case, validly signed by a PKI made for the test, each refused for its own reason.
//!
//! What `dcap-qvl` checks is here, too: that it does, and that its word becomes the right rule.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../support/der.rs"]
mod der;
mod pki;
mod setup;

use std::collections::BTreeSet;

use evanesce_appraisal::{Outcome, rules};
use pki::Key;
use setup::{
    ATTRIBUTES, CONFIG_ID, MRTD, OWNER, OWNER_CONFIG, PLATFORM_CA, RTMR, SEAM_ATTRIBUTES,
    SERVICE_TD, SIGNER_SEAM, SVN, SVN_2, Setup, XFAM, at,
};
use toml::Value;

fn other(bytes: usize) -> Value {
    Value::Array(vec![hex::encode(vec![0xA5; bytes]).into()])
}

fn masked(value: &str) -> Value {
    let fields = [("value", value), ("mask", "ffffffffffffffff")];
    Value::Table(fields.map(|(name, value)| (name.to_owned(), value.into())).into_iter().collect())
}

/// A baseline, a fault, and the rule that has to name it.
type Case = (&'static str, &'static str, fn() -> Setup, fn(&mut Setup));

const V4: fn() -> Setup = Setup::v4;
const V5: fn() -> Setup = Setup::v5;

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("input.clock", "the clock is of 2019", V4, |s| {
        s.at = at("2019-12-31");
        for (place, time) in [("issueDate", "2019-12-01T00:00:00Z"), ("nextUpdate", "2020-02-01T00:00:00Z")] {
            s.tcb_info[place] = time.into();
            s.identity[place] = time.into();
        }
        for list in [&mut s.root_crl, &mut s.pck_crl] { (list.this_update, list.next_update) = ("191225", "200125"); }
        for certificate in [&mut s.root, &mut s.platform_ca, &mut s.pck, &mut s.tcb_signer] { certificate.from = "180101"; }
    }),
    ("input.roots", "a production policy meets replaced roots", V4, |s| { s.policy.insert("profile".to_owned(), "production".into()); }),
    ("input.report-data", "the quote binds something else", V4, |s| s.report_data = Some([0x31; 64])),
    ("input.report-data", "nothing is given to compare with", V4, |s| s.report_data = None),

    ("tdx.quote.length", "a quote without end", V4, |s| s.tamper = |quote| quote.resize(33 * 1024, 0)),
    ("tdx.quote.readable", "a quote that is cut off", V4, |s| s.tamper = |quote| quote.truncate(1000)),
    ("tdx.quote.readable", "a quote of an SGX enclave's kind", V4, |s| s.tee = 0),
    ("tdx.quote.readable", "a quote of version 6", V4, |s| s.version = 6),
    ("tdx.quote.readable", "a key on P-384", V4, |s| s.key_type = 3),
    ("tdx.quote.version-allowed", "a version that the policy does not list", V4, |s| s.set("quote_versions", vec![5])),
    ("tdx.quote.padding", "something after the quote", V4, |s| s.tamper = |quote| quote.push(1)),

    ("tdx.collateral.present", "no collateral", V4, |s| s.no_collateral = true),
    ("tdx.collateral.present", "collateral without end", V4, |s| s.collateral = Some(vec![b' '; 2 << 20])),
    ("tdx.collateral.readable", "text in place of collateral", V4, |s| s.collateral = Some(b"collateral".to_vec())),
    ("tdx.collateral.readable", "collateral without QE identity", V4, |s| s.tamper_collateral = |c| c["qe_identity"] = "".into()),
    ("tdx.collateral.current", "TCB info of tomorrow", V4, |s| s.tcb_info["issueDate"] = "2026-06-02T00:00:00Z".into()),
    ("tdx.collateral.current", "TCB info that was to be replaced", V4, |s| s.tcb_info["nextUpdate"] = "2026-05-31T00:00:00Z".into()),
    ("tdx.collateral.current", "a QE identity of tomorrow", V4, |s| s.identity["issueDate"] = "2026-06-02T00:00:00Z".into()),
    ("tdx.collateral.current", "a QE identity that was to be replaced", V4, |s| s.identity["nextUpdate"] = "2026-05-31T00:00:00Z".into()),
    ("tdx.collateral.current", "a root's revocation list that was to be replaced", V4, |s| s.root_crl.next_update = "260531"),
    ("tdx.collateral.current", "a platform's revocation list that was to be replaced", V4, |s| s.pck_crl.next_update = "260531"),
    ("tdx.collateral.current", "an expired platform certificate", V4, |s| s.pck.until = "260531"),
    ("tdx.collateral.current", "a platform certificate of tomorrow", V4, |s| s.pck.from = "260602"),
    ("tdx.collateral.current", "an expired platform authority", V4, |s| s.platform_ca.until = "260531"),
    ("tdx.collateral.current", "an expired signer of TCB info", V4, |s| s.tcb_signer.until = "260531"),
    ("tdx.collateral.signature", "TCB info that was changed", V4, |s| s.tamper_collateral = |c| {
        c["tcb_info"] = c["tcb_info"].as_str().unwrap().replace("OutOfDate", "UpToDate").into();
    }),
    ("tdx.collateral.signature", "TCB info signed by a stranger", V4, |s| s.tcb_info_signer = Key::Stranger),
    ("tdx.collateral.signature", "a QE identity that was changed", V4, |s| s.tamper_collateral = |c| {
        c["qe_identity"] = c["qe_identity"].as_str().unwrap().replace("OutOfDate", "UpToDate").into();
    }),
    ("tdx.collateral.signature", "a QE identity signed by a stranger", V4, |s| s.identity_signer = Key::Stranger),
    ("tdx.collateral.signature", "a root's revocation list signed by a stranger", V4, |s| s.root_crl.signer = Key::Stranger),
    ("tdx.collateral.signature", "a platform's revocation list signed by a stranger", V4, |s| s.pck_crl.signer = Key::Stranger),
    ("tdx.collateral.signature", "a platform's revocation list of another issuer", V4, |s| s.pck_crl.issuer = "Other CA"),
    ("tdx.collateral.signature", "no certificate of TCB info's signer", V4, |s| s.tamper_collateral = |c| c["tcb_info_issuer_chain"] = "-".into()),
    ("tdx.collateral.platform", "collateral of another kind of platform", V4, |s| s.tcb_info["fmspc"] = "00806F050000".into()),
    ("tdx.collateral.platform", "TCB info for SGX", V4, |s| s.tcb_info["id"] = "SGX".into()),
    ("tdx.collateral.platform", "an identity of SGX's quoting enclave", V4, |s| s.identity["id"] = "QE".into()),

    ("tdx.chain.signature", "a stranger signed the platform's certificate", V4, |s| s.pck.signer = Key::Stranger),
    ("tdx.chain.signature", "a stranger signed the platform authority", V4, |s| s.platform_ca.signer = Key::Stranger),
    ("tdx.chain.signature", "a stranger signed the signer of TCB info", V4, |s| s.tcb_signer.signer = Key::Stranger),
    ("tdx.chain.signature", "a platform's certificate of an issuer nobody knows", V4, |s| s.pck.issuer = "Other CA"),
    ("tdx.chain.signature", "the platform authority vouches for TCB info", V4, |s| {
        (s.tcb_signer.issuer, s.tcb_signer.signer) = (PLATFORM_CA, Key::PlatformCa);
    }),
    ("tdx.chain.revoked", "the platform's certificate is revoked", V4, |s| s.pck_crl.serials.push(3)),
    ("tdx.chain.revoked", "the platform authority is revoked", V4, |s| s.root_crl.serials.push(2)),
    ("tdx.chain.revoked", "the signer of TCB info is revoked", V4, |s| s.root_crl.serials.push(4)),

    ("tdx.quote.enclave", "another vendor's quoting enclave", V4, |s| s.vendor = [0; 16]),
    ("tdx.quote.enclave", "another key signed the enclave's report", V4, |s| s.qe_signer = Key::Stranger),
    ("tdx.quote.enclave", "the enclave names another attestation key", V4, |s| s.qe_names_key = false),
    ("tdx.quote.enclave", "another signer's enclave", V4, |s| s.qe[128] = 0),
    ("tdx.quote.enclave", "another product of the signer", V4, |s| s.qe[256] = 1),
    ("tdx.quote.enclave", "another MISCSELECT", V4, |s| s.qe[16] = 1),
    ("tdx.quote.enclave", "other attributes", V4, |s| s.qe[49] = 1),
    ("tdx.quote.enclave", "a debug enclave", V4, |s| s.qe[48] |= 2),
    ("tdx.quote.signature", "another key signed the quote", V4, |s| s.td_signer = Key::Stranger),
    ("tdx.quote.signature", "RTMR 3 was changed afterwards", V4, |s| s.tamper = |quote| quote[48 + RTMR + 144] ^= 1),
    ("tdx.quote.verified", "no certificate chain in the quote", V4, |s| s.certification_type = 4),

    ("tdx.tcb.level", "a platform below every level", V4, |s| s.platform.cpu_svn = [2; 16]),
    ("tdx.tcb.level", "a provisioning enclave below every level", V4, |s| s.platform.pce_svn = 10),
    ("tdx.tcb.level", "a quoting enclave below every level", V4, |s| s.qe[258] = 5),
    ("tdx.tcb.status-now", "after an update a module that is out of date", V5, |s| s.td[SVN_2 + 2] = 0),
    ("tdx.tcb.revoked", "a revoked TCB", V4, |s| { s.platform.cpu_svn = [3; 16]; }),
    ("tdx.tcb.status", "a platform that is out of date", V4, |s| s.platform.cpu_svn = [4; 16]),
    ("tdx.tcb.status", "a quoting enclave that is out of date", V4, |s| s.qe[258] = 7),
    ("tdx.tcb.status", "a module that is out of date", V4, |s| s.td[SVN] = 5),
    ("tdx.tcb.advisories", "an open advisory that the policy denies", V4, |s| {
        s.platform.cpu_svn = [4; 16];
        s.set("tcb_statuses", vec!["OutOfDate"]);
        s.set("advisories_denied", vec!["INTEL-SA-00837"]);
    }),
    ("tdx.tcb.evaluation", "collateral of an earlier evaluation", V4, |s| s.set("tcb_evaluation_min", 18)),
    ("tdx.module.identity", "a module of another signer", V4, |s| s.td[SIGNER_SEAM] = 1),
    ("tdx.module.identity", "a module with other attributes", V4, |s| s.td[SEAM_ATTRIBUTES] = 1),
    ("tdx.module.identity", "a module version nobody knows", V4, |s| s.td[SVN + 1] = 9),
    ("tdx.module.identity", "a module below every level", V4, |s| s.td[SVN] = 3),
    ("tdx.module.identity", "after an update a module below every level", V5, |s| s.td[SVN_2] = 3),
    ("tdx.module.mrseam", "another module", V4, |s| s.set("mrseam", other(48))),

    ("tdx.platform.dynamic", "packages may be added", V4, |s| s.platform.flags[0] = true),
    ("tdx.platform.cached-keys", "keys are cached at Intel", V4, |s| s.platform.flags[1] = true),
    ("tdx.platform.smt", "SMT is on", V4, |s| s.platform.flags[2] = true),
    ("tdx.platform.allowed", "another platform", V4, |s| s.platform.ppid = vec![0x52; 16]),

    ("tdx.td.debug", "a debug TD", V4, |s| s.td[ATTRIBUTES] |= 1),
    ("tdx.td.profiling", "a TD that is profiled", V4, |s| s.td[ATTRIBUTES] |= 1 << 4),
    ("tdx.td.reserved", "a reserved attribute", V4, |s| s.td[ATTRIBUTES + 1] |= 1),
    ("tdx.td.migratable", "a TD that can be migrated", V4, |s| s.td[ATTRIBUTES + 3] |= 1 << 5),
    ("tdx.td.sept-ve-disable", "exceptions by unmapping", V4, |s| s.td[ATTRIBUTES + 3] &= !(1 << 4)),
    ("tdx.td.service-td", "a service TD may be bound", V4, |s| s.td[ATTRIBUTES + 2] |= 1 << 1),
    ("tdx.td.service-td", "a service TD is bound", V5, |s| s.td[SERVICE_TD] = 1),
    ("tdx.td.attributes", "PERFMON", V4, |s| s.td[ATTRIBUTES + 7] |= 1 << 7),
    ("tdx.td.attributes", "the policy wants key locker", V4, |s| s.set("td_attributes", masked("0000009000000000"))),
    ("tdx.td.xfam", "AMX", V4, |s| s.td[XFAM + 2] ^= 0x02),
    ("tdx.td.mrtd", "another image", V4, |s| s.td[MRTD] = 0),
    ("tdx.td.rtmr0", "another configuration of the firmware", V4, |s| s.td[RTMR] = 0),
    ("tdx.td.rtmr1", "another kernel", V4, |s| s.td[RTMR + 48] = 0),
    ("tdx.td.rtmr2", "another command line", V4, |s| s.td[RTMR + 96] = 0),
    ("tdx.td.rtmr3", "another measurement of the guest's own", V4, |s| s.td[RTMR + 144] = 0),
    ("tdx.td.mrconfigid", "another configuration", V4, |s| s.td[CONFIG_ID] = 0),
    ("tdx.td.mrowner", "another owner", V4, |s| s.td[OWNER] = 0),
    ("tdx.td.mrownerconfig", "another configuration of the owner's", V4, |s| s.td[OWNER_CONFIG] = 0),
];

#[test]
fn a_td_that_meets_its_policy_is_trusted() {
    for (name, baseline) in [("version 4", V4), ("version 5", V5)] {
        assert_eq!(baseline().failures(), (Outcome::Trusted, vec![], String::new()), "{name}");
    }
}

#[test]
fn each_fault_is_refused_for_its_own_reason() {
    for (rule, fault, baseline, change) in CASES {
        let mut setup = baseline();
        change(&mut setup);
        let is_of_listing = rules::ALL.iter().any(|r| r.code == *rule && r.is_of_listing());
        let outcome = if is_of_listing { Outcome::Unknown } else { Outcome::Refused };
        let (found, failures, text) = setup.failures();
        assert_eq!((found, failures), (outcome, vec![*rule]), "{fault}: {text}");
    }
}

#[test]
fn every_rule_of_the_checklist_has_a_case() {
    let with_case: BTreeSet<_> = CASES.iter().map(|(rule, ..)| *rule).collect();
    let rules = rules::ALL.iter().map(|rule| rule.code).filter(|code| code.starts_with("tdx."));

    let without: Vec<_> = rules.filter(|code| !with_case.contains(code)).collect();

    assert_eq!(without, Vec::<&str>::new());
    assert!(CASES.len() >= 60, "{} cases", CASES.len());
}
