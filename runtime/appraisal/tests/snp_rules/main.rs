//! One fault a case, validly signed by a PKI made for the test, each refused for its own reason.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/der.rs"]
mod der;
mod image;
#[expect(dead_code, reason = "each test binary uses its part")]
mod pki;
mod setup;

use std::collections::BTreeSet;

use der::{ia5, integer};
use evanesce_appraisal::{Outcome, rules};
use pki::Signer;
use setup::{
    CSP_ID, DELTA_CRL, HWID, PRODUCT_NAME, SPL_BOOTLOADER, SPL_FMC, SPL_MICROCODE, SPL_SNP,
    SPL_TEE, Setup, at,
};
use toml::Value;

fn hex_of(byte: u8, length: usize) -> Value {
    Value::Array(vec![hex::encode(vec![byte; length]).into()])
}

fn no_texts() -> Value {
    Value::Array(Vec::new())
}

/// A baseline, a fault, and the rule that has to name it.
type Case = (&'static str, &'static str, fn() -> Setup, fn(&mut Setup));

const GENOA: fn() -> Setup = Setup::genoa;
const TURIN: fn() -> Setup = Setup::turin;
const VLEK: fn() -> Setup = Setup::vlek;

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("input.clock", "the clock is of 2019", GENOA, |s| {
        s.at = at("2019-12-31");
        let crl = s.crl.as_mut().unwrap();
        (crl.this_update, crl.next_update) = ("191225", "200125");
    }),
    ("input.roots", "a production policy meets replaced roots", GENOA, |s| { s.policy.insert("profile".to_owned(), "production".into()); }),
    ("input.report-data", "the evidence binds something else", GENOA, |s| s.report_data = Some([0x31; 64])),
    ("input.report-data", "nothing is given to compare with", GENOA, |s| s.report_data = None),

    ("snp.report.length", "the last byte is missing", GENOA, |s| s.tamper = |report| { report.pop(); }),
    ("snp.report.length", "one byte too many", GENOA, |s| s.tamper = |report| report.push(0)),
    ("snp.report.version", "version 6", GENOA, |s| s.report[0] = 6),
    ("snp.report.version", "version 1", GENOA, |s| s.report[0] = 1),
    ("snp.report.version-allowed", "a version that the policy does not list", GENOA, |s| s.report[0] = 4),
    ("snp.report.algorithm", "no signature algorithm", GENOA, |s| s.report[0x34] = 0),
    ("snp.report.reserved", "a reserved byte after the stepping", GENOA, |s| s.report[0x18B] = 1),
    ("snp.report.reserved", "a reserved byte at the end", GENOA, |s| s.report[0x29F] = 1),
    ("snp.report.reserved", "a reserved bit of the key's flags", GENOA, |s| s.report[0x48] |= 1 << 5),
    ("snp.report.reserved", "mitigations in a version that has none", GENOA, |s| s.report[0x1F8] = 1),
    ("snp.report.padding", "a byte after r", GENOA, |s| s.tamper = |report| report[0x2A0 + 48] = 1),
    ("snp.report.padding", "a byte after s", GENOA, |s| s.tamper = |report| report[0x2E8 + 71] = 1),
    ("snp.report.padding", "the last byte", GENOA, |s| s.tamper = |report| report[1183] = 1),
    ("snp.report.signature", "a changed REPORT_ID", GENOA, |s| s.tamper = |report| report[0x140] = 1),
    ("snp.report.signature", "a changed number", GENOA, |s| s.tamper = |report| report[0x2A0] ^= 1),

    ("snp.vek.present", "no certificate", GENOA, |s| s.vek_bytes = Some(None)),
    ("snp.vek.readable", "text in place of the certificate", GENOA, |s| s.vek_bytes = Some(Some(b"certificate".to_vec()))),
    ("snp.vek.readable", "a megabyte", GENOA, |s| s.vek_bytes = Some(Some(vec![0x30; 1 << 20]))),
    ("snp.vek.subject", "a certificate for something else", GENOA, |s| s.vek.subject = "SEV-Other"),
    ("snp.vek.key", "another curve", GENOA, |s| s.vek.curve = "1.2.840.10045.3.1.7"),
    ("snp.vek.extensions", "an extension twice", GENOA, |s| s.vek.extensions.push((SPL_TEE, false, integer(1)))),
    ("snp.vek.extensions", "a critical extension", GENOA, |s| s.vek.extensions[0].1 = true),
    ("snp.vek.extensions", "a security version is missing", GENOA, |s| s.vek.extensions.retain(|(id, ..)| *id != SPL_SNP)),
    ("snp.vek.extensions", "a security version is not a number", GENOA, |s| *s.extension(SPL_SNP) = ia5("23")),
    ("snp.vek.extensions", "a chip id of seven bytes", GENOA, |s| *s.extension(HWID) = vec![0x18; 7]),
    ("snp.vek.validity", "an expired certificate", GENOA, |s| s.vek.until = "260531"),
    ("snp.vek.validity", "a certificate of tomorrow", GENOA, |s| s.vek.from = "260602"),
    ("snp.vek.product-name", "another product's name", GENOA, |s| *s.extension(PRODUCT_NAME) = ia5("Milan-B0")),

    ("snp.chain.product", "a product line without a root", GENOA, |s| s.vek.issuer = "SEV-Venice"),
    ("snp.chain.product", "a VCEK issued by the VLEKs' issuer", GENOA, |s| s.vek.issuer = "SEV-VLEK-Genoa"),
    ("snp.chain.product-allowed", "a product line that the policy does not list", GENOA, |s| {
        for minima in ["tcb_min", "launch_tcb_min"] {
            let genoa = s.policy["snp"][minima]["Genoa"].clone();
            s.policy["snp"][minima].as_table_mut().unwrap().insert("Milan".to_owned(), genoa);
        }
        s.set("products", vec!["Milan"]);
    }),
    ("snp.chain.root", "the root did not sign the issuer", GENOA, |s| s.ask.signer = Signer::Stranger),
    ("snp.chain.validity", "the issuer has expired", GENOA, |s| s.ask.until = "260531"),
    ("snp.chain.signature", "a stranger signed the certificate", GENOA, |s| s.vek.signer = Signer::Stranger),
    ("snp.chain.signature", "the root signed the certificate", GENOA, |s| s.vek.signer = Signer::Ark),

    ("snp.crl.present", "no revocation list", GENOA, |s| s.crl = None),
    ("snp.crl.readable", "text in place of the list", GENOA, |s| s.crl_bytes = Some(b"list".to_vec())),
    ("snp.crl.readable", "a list of changes in place of the whole", GENOA, |s| s.crl.as_mut().unwrap().extensions.push((DELTA_CRL, true, integer(1)))),
    ("snp.crl.issuer", "a list of another root", GENOA, |s| s.crl.as_mut().unwrap().issuer = "ARK-Other"),
    ("snp.crl.signature", "a stranger signed the list", GENOA, |s| s.crl.as_mut().unwrap().signer = Signer::Stranger),
    ("snp.crl.current", "a list that was to be replaced", GENOA, |s| s.crl.as_mut().unwrap().next_update = "260531"),
    ("snp.crl.current", "a list of tomorrow", GENOA, |s| s.crl.as_mut().unwrap().this_update = "260602"),
    ("snp.crl.age", "a list older than the policy wants", GENOA, |s| s.set("crl.age_hours_max", 24)),
    ("snp.crl.revoked", "the issuer is revoked", GENOA, |s| s.crl.as_mut().unwrap().serials.push(5)),

    ("snp.key.kind", "a VLEK's report with a VCEK", GENOA, |s| s.report[0x48] = 1 << 2),
    ("snp.key.kind", "a report that says nobody signed it", GENOA, |s| s.report[0x48] = 7 << 2),
    ("snp.key.kind", "a reserved kind of key", GENOA, |s| s.report[0x48] = 3 << 2),
    ("snp.key.kind", "a VCEK's report with a VLEK", VLEK, |s| s.report[0x48] = 0),
    ("snp.key.allowed", "a kind of key that the policy does not list", VLEK, |s| s.set("signing_keys", vec!["vcek"])),
    ("snp.key.masked", "a masked chip key", GENOA, |s| s.report[0x48] = 0b10),
    ("snp.key.provider", "a provider that the policy does not list", VLEK, |s| s.set("csp_ids", vec!["Other Cloud"])),
    ("snp.key.provider", "a VLEK that names no provider", VLEK, |s| s.vek.extensions.retain(|(id, ..)| *id != CSP_ID)),

    ("snp.chip.generation", "a Milan processor with a Genoa certificate", GENOA, |s| s.report[0x189] = 1),
    ("snp.chip.generation", "a processor nobody knows", GENOA, |s| s.report[0x188] = 0x20),
    ("snp.chip.certificate", "the certificate of another chip", GENOA, |s| s.extension(HWID)[63] = 0),
    ("snp.chip.certificate", "a VCEK that names no chip", GENOA, |s| s.vek.extensions.retain(|(id, ..)| *id != HWID)),
    ("snp.chip.certificate", "on Turin something behind the eight bytes", TURIN, |s| {
        s.report[0x1DF] = 1;
        s.set("chip_ids", "any");
    }),
    ("snp.chip.named", "a masked chip id", GENOA, |s| {
        s.report[0x1A0..0x1E0].fill(0);
        s.extension(HWID).fill(0);
        s.set("chip_ids", "any");
    }),
    ("snp.chip.allowed", "a chip that the policy does not list", GENOA, |s| s.set("chip_ids", hex_of(0x19, 64))),

    ("snp.tcb.certified", "a certificate for another boot loader", GENOA, |s| *s.extension(SPL_BOOTLOADER) = integer(11)),
    ("snp.tcb.certified", "a certificate for another TEE", GENOA, |s| *s.extension(SPL_TEE) = integer(0)),
    ("snp.tcb.certified", "a certificate for another SNP firmware", GENOA, |s| *s.extension(SPL_SNP) = integer(22)),
    ("snp.tcb.certified", "a certificate for another microcode", GENOA, |s| *s.extension(SPL_MICROCODE) = integer(255)),
    ("snp.tcb.certified", "a certificate for another FMC", TURIN, |s| *s.extension(SPL_FMC) = integer(1)),
    ("snp.tcb.certified", "a Turin certificate without FMC", TURIN, |s| s.vek.extensions.retain(|(id, ..)| *id != SPL_FMC)),
    ("snp.tcb.certified", "a reserved byte of the reported TCB", GENOA, |s| s.report[0x182] = 1),
    ("snp.tcb.certified", "a reserved byte of the current TCB", GENOA, |s| s.report[0x3A] = 1),
    ("snp.tcb.reported", "a reported TCB above the running one", GENOA, |s| for tcb in [0x38, 0x1E0] { s.report[tcb + 7] -= 1; }),
    ("snp.tcb.committed", "a committed TCB above the running one", GENOA, |s| {
        s.report[0x1E0 + 6] += 1;
        s.set("provisional_firmware_allowed", true);
    }),
    ("snp.tcb.provisional", "microcode that can be rolled back", GENOA, |s| s.report[0x38 + 7] += 1),
    ("snp.tcb.provisional", "firmware that can be rolled back", GENOA, |s| s.report[0x1E8] += 1),
    ("snp.tcb.minimum", "an old boot loader", GENOA, |s| s.raise("tcb_min.Genoa.bootloader")),
    ("snp.tcb.minimum", "an old TEE", GENOA, |s| s.raise("tcb_min.Genoa.tee")),
    ("snp.tcb.minimum", "an old SNP firmware", GENOA, |s| s.raise("tcb_min.Genoa.snp")),
    ("snp.tcb.minimum", "old microcode", GENOA, |s| s.raise("tcb_min.Genoa.microcode")),
    ("snp.tcb.minimum", "an old FMC", TURIN, |s| s.raise("tcb_min.Turin.fmc")),
    ("snp.tcb.launch", "old firmware when the guest was launched", GENOA, |s| s.report[0x1F0 + 6] -= 1),
    ("snp.firmware.minimum", "an old build", GENOA, |s| s.set("firmware_min", vec![1, 55, 41])),
    ("snp.firmware.mitigations", "a mitigation that was off at launch", TURIN, |s| s.report[0x1F8] = 0x1F),
    ("snp.firmware.mitigations", "a mitigation that is off", TURIN, |s| s.report[0x200] = 0x3E),
    ("snp.firmware.mitigations", "a report that names no mitigations", GENOA, |s| s.set("mitigations", 1)),

    ("snp.policy.abi", "an old ABI", GENOA, |s| s.report[0x08] = 0x36),
    ("snp.policy.fixed-bit", "bit 17 is zero", GENOA, |s| s.report[0x0A] &= !0b10),
    ("snp.policy.unknown", "bit 26 is set", GENOA, |s| s.report[0x0B] |= 1 << 2),
    ("snp.policy.unknown", "bit 63 is set", GENOA, |s| s.report[0x0F] |= 1 << 7),
    ("snp.policy.smt", "SMT may be on", GENOA, |s| s.report[0x0A] |= 1),
    ("snp.policy.migration", "a migration agent", GENOA, |s| s.report[0x0A] |= 1 << 2),
    ("snp.policy.debug", "a debug guest", GENOA, |s| s.report[0x0A] |= 1 << 3),
    ("snp.policy.cxl", "CXL memory may be used", GENOA, |s| s.report[0x0A] |= 1 << 5),
    ("snp.policy.single-socket", "two sockets may be used", GENOA, |s| s.report[0x0A] &= !(1 << 4)),
    ("snp.policy.aes-256-xts", "AES-128 will do", GENOA, |s| s.report[0x0A] &= !(1 << 6)),
    ("snp.policy.rapl-disabled", "RAPL may be on", GENOA, |s| s.report[0x0A] &= !(1 << 7)),
    ("snp.policy.ciphertext-hiding", "ciphertext need not be hidden", GENOA, |s| s.report[0x0B] &= !1),
    ("snp.policy.page-swap-disabled", "pages may be swapped", GENOA, |s| s.report[0x0B] &= !(1 << 1)),

    ("snp.platform.smt", "SMT is on", GENOA, |s| s.report[0x40] |= 1),
    ("snp.platform.tio", "trusted I/O is on", GENOA, |s| s.report[0x40] |= 1 << 7),
    ("snp.platform.tsme", "TSME is off", GENOA, |s| s.report[0x40] &= !(1 << 1)),
    ("snp.platform.ecc", "no ECC", GENOA, |s| s.report[0x40] &= !(1 << 2)),
    ("snp.platform.rapl-disabled", "RAPL is on", GENOA, |s| s.report[0x40] &= !(1 << 3)),
    ("snp.platform.ciphertext-hiding", "ciphertext is not hidden", GENOA, |s| s.report[0x40] &= !(1 << 4)),
    ("snp.platform.alias-check", "nobody looked for aliases", GENOA, |s| s.report[0x40] &= !(1 << 5)),

    ("snp.guest.vmpl", "a report of VMPL 1", GENOA, |s| s.report[0x30] = 1),
    ("snp.guest.measurement", "another image", GENOA, |s| s.report[0x90] = 0),
    ("snp.guest.svn", "an older image", GENOA, |s| s.report[0x04] = 6),
    ("snp.guest.family-id", "another family", GENOA, |s| s.report[0x10] = 0),
    ("snp.guest.image-id", "another image id", GENOA, |s| s.report[0x20] = 0),
    ("snp.guest.host-data", "other host data", GENOA, |s| s.report[0xC0] = 0),
    ("snp.guest.id-key", "another id key", GENOA, |s| s.report[0xE0] = 0),
    ("snp.guest.author-key", "another author key", GENOA, |s| s.report[0x110] = 0),
];

#[test]
fn a_machine_that_meets_its_policy_is_trusted() {
    for (name, baseline) in [("Genoa", GENOA), ("Turin", TURIN), ("VLEK", VLEK)] {
        assert_eq!(baseline().failures(), (Outcome::Trusted, vec![]), "{name}");
    }
}

#[test]
fn each_fault_is_refused_for_its_own_reason() {
    for (rule, fault, baseline, change) in CASES {
        let mut setup = baseline();
        change(&mut setup);
        let is_of_listing = rules::ALL.iter().any(|r| r.code == *rule && r.is_of_listing());
        let outcome = if is_of_listing { Outcome::Unknown } else { Outcome::Refused };
        assert_eq!(setup.failures(), (outcome, vec![*rule]), "{fault}");
    }
}

#[test]
fn every_rule_of_the_checklist_has_a_case() {
    let with_case: BTreeSet<_> = CASES.iter().map(|(rule, ..)| *rule).collect();
    let rules = rules::ALL.iter().map(|rule| rule.code).filter(|code| code.starts_with("snp."));

    let without: Vec<_> = rules.filter(|code| !with_case.contains(code)).collect();

    assert_eq!(without, Vec::<&str>::new());
}

#[test]
fn a_vcek_is_not_revoked_by_the_serial_number_that_all_of_them_have() {
    let mut setup = Setup::genoa();
    setup.crl.as_mut().unwrap().serials.push(0);

    assert_eq!(setup.failures(), (Outcome::Trusted, vec![]));
}

#[test]
fn a_chip_id_in_an_octet_string_is_the_same_chip() {
    let mut setup = Setup::genoa();
    let id = [vec![0x04, 64], vec![0x18; 64]].concat();
    *setup.extension(HWID) = id;

    assert_eq!(setup.failures(), (Outcome::Trusted, vec![]));
}

#[test]
fn what_a_policy_leaves_open_is_named_as_not_checked() {
    let mut setup = Setup::genoa();
    for field in ["chip_ids", "family_ids", "image_ids", "host_data"] {
        setup.set(field, "any");
    }
    setup.set("platform_required", no_texts());
    setup.policy.insert("report_data".to_owned(), "not-checked".into());
    setup.report_data = None;

    let appraisal = setup.appraise();

    assert_eq!(appraisal.outcome(), Outcome::Trusted);
    let open = appraisal.not_checked().join("\n");
    for part in ["chip.allowed", "family-id", "image-id", "host-data", "alias-check", "REPORT_DATA"]
    {
        assert!(open.contains(part), "{part} in {open}");
    }
    assert!(!appraisal.into_trusted().unwrap().is_bound());
}
