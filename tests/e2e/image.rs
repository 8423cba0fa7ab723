//! From an image to a policy, and from the policy to a verdict on a machine that runs it.
//!
//! No such machine is here: reports are made of a PKI in the shape of AMD's (`snp_pki`), with the
//! measurement that a machine with that image would have.

use std::fs;

use evanesce_evidence::{Endorsements, EvidenceEnvelope, SnpEndorsements};
use evanesce_protocol::Digest;
use evanesce_protocol::evidence::{Binding, Nonce, NotaryPoint, RawEvidence, Subject, provider};
use evanesce_tests::Installation;
use evanesce_tests::process::Outcome;

use crate::attestation::{ROOTS, of_test};
use crate::genoa::Machine;
use crate::installation;

/// The end of an OVMF for SEV-SNP.
const OVMF: &[u8] = include_bytes!("../../runtime/machine/tests/vectors/ovmf_AmdSev_suffix.bin");

const REPORT_DATA: [u8; 64] = [0x13; 64];

/// An image, the firmware for it, and what judges evidence of a machine that runs both.
fn with_image(machine: &Machine) -> Installation {
    let here = installation();
    here.file("OVMF.fd", OVMF);
    here.file("roots.pem", &machine.roots);
    here.file("vek.der", &machine.vek);
    here.file("crl.der", &machine.crl);
    build(&here, "machine", 0);
    here
}

/// Builds an image with a kernel that boots nowhere.
fn build(here: &Installation, name: &str, byte: u8) {
    let mut kernel = vec![byte; 0x400];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    here.file("bzImage", kernel);
    here.run(&["image", "build", "--kernel", "bzImage", "--output", name]).expect_status(0);
}

/// What a processor would measure of the image, by `image show`.
fn measured(here: &Installation, image: &str, firmware: &str) -> Vec<u8> {
    let shown = here.json(&["image", "show", image, "--enclave-firmware", firmware]);
    hex::decode(shown["snp_measurement"].as_str().unwrap()).unwrap()
}

/// Writes a policy for the image, and one that differs in what only a test needs.
fn policy(here: &Installation, more: &[&str]) {
    let line = ["attest", "policy", "init", "--for-image", "machine", "--enclave-firmware"];
    let rest = ["OVMF.fd", "--force", "--output", "strict.toml"];
    here.evanesce(line.iter().chain(&rest).chain(more)).output().expect_status(0);
    let strict = fs::read_to_string(here.work_dir().join("strict.toml")).unwrap();
    here.file("policy.toml", of_test(&strict));
}

/// Makes of a report that of a guest that `run --enclave snp` started.
fn launched(report: &mut [u8], measurement: &[u8]) {
    report[0x08..0x10].copy_from_slice(&0x3_0000_u64.to_le_bytes());
    report[0x90..0xC0].copy_from_slice(measurement);
}

/// Judges the report of a machine that measured this.
fn appraise(here: &Installation, machine: &Machine, measurement: &[u8]) -> Outcome {
    here.file(
        "report.bin",
        machine.report_with(&REPORT_DATA, |report| launched(report, measurement)),
    );
    let data = hex::encode(REPORT_DATA);
    let line = ["attest", "appraise", "--snp-report", "report.bin", "--vek", "vek.der"];
    let rest = ["--crl", "crl.der", "--policy", "policy.toml", "--report-data", &data];
    here.evanesce(line.iter().chain(&rest).chain(&ROOTS)).output()
}

/// An image whose owner changed a file of it, and the list with it.
fn with_other(here: &Installation, name: &str, file: &str, byte: impl FnOnce(&mut Vec<u8>)) {
    let of = |file: &str| fs::read(here.work_dir().join("machine").join(file)).unwrap();
    fs::create_dir(here.work_dir().join(name)).unwrap();
    let mut changed = of(file);
    let before = Digest::of(&changed).to_string();
    byte(&mut changed);
    let list = String::from_utf8(of("image.json")).unwrap();
    let list = list.replacen(&before, &Digest::of(&changed).to_string(), 1);
    for unchanged in ["kernel", "initrd"] {
        here.file(&format!("{name}/{unchanged}"), of(unchanged));
    }
    here.file(&format!("{name}/image.json"), list);
    here.file(&format!("{name}/{file}"), changed);
}

#[test]
fn a_policy_for_an_image_trusts_a_machine_that_runs_it_and_none_with_another_byte() {
    let machine = Machine::new();
    let here = with_image(&machine);
    policy(&here, &["--product", "Genoa"]);
    let own = measured(&here, "machine", "OVMF.fd");

    // A machine that was started with this image and this firmware is trusted.
    appraise(&here, &machine, &own).expect_status(0);

    // One with another byte in any part is genuine, and not on the list.
    build(&here, "other-kernel", 1);
    with_other(&here, "other-initrd", "initrd", |bytes| *bytes.last_mut().unwrap() ^= 1);
    with_other(&here, "other-line", "image.json", |list| {
        let text = String::from_utf8(list.clone()).unwrap();
        *list = text.replace("init_on_free=1", "init_on_free=0").into_bytes();
    });
    let mut other = OVMF.to_vec();
    other[0] ^= 1;
    here.file("other.fd", other);
    for (image, firmware) in [
        ("other-kernel", "OVMF.fd"),
        ("other-initrd", "OVMF.fd"),
        ("other-line", "OVMF.fd"),
        ("machine", "other.fd"),
    ] {
        let measurement = measured(&here, image, firmware);
        let outcome = appraise(&here, &machine, &measurement).expect_status(3);
        let failed = "snp.guest.measurement";
        assert!(outcome.stdout.contains(failed), "{image} {firmware}: {}", outcome.stdout);
        for whose in [&own, &measurement] {
            assert!(outcome.stdout.contains(&hex::encode(whose)), "{}", outcome.stdout);
        }
    }
    // The same image under the eyes of a debugger is refused.
    let report = machine.report_with(&REPORT_DATA, |report| {
        launched(report, &own);
        report[0x0A] |= 1 << 3;
    });
    here.file("debug.bin", report);
    let data = hex::encode(REPORT_DATA);
    let line = ["attest", "appraise", "--snp-report", "debug.bin", "--vek", "vek.der"];
    let rest = ["--crl", "crl.der", "--policy", "policy.toml", "--report-data", &data];
    let outcome = here.evanesce(line.iter().chain(&rest).chain(&ROOTS)).output().expect_status(1);
    assert!(outcome.stdout.contains("snp.policy.debug"), "{}", outcome.stdout);
}

#[test]
fn evidence_of_a_key_in_the_image_is_trusted_for_its_own_worker_signer_and_notary() {
    let machine = Machine::new();
    let here = with_image(&machine);
    // Given the notary of an installation, and the machine that the image is to run on,
    here.file("artifact", "the artifact");
    let receipt = here.json(&["sign", "artifact"])["receipt"].clone();
    let pem = here.state_dir().join("notary/notary.pem");
    let notary = fs::read_to_string(&pem).unwrap();
    let notary = evanesce_ledger::NotaryKey::from_pem(&notary).unwrap().to_sec1();
    here.file("of-host.bin", machine.report(&[1; 64]));
    let pem = pem.to_str().unwrap();
    policy(&here, &["--notary", pem, "--from-snp-report", "of-host.bin", "--vek", "vek.der"]);
    let own = measured(&here, "machine", "OVMF.fd");

    // When evidence binds a key to worker, signer and notary in a machine with the image,
    let configuration = "{\"version\":\"0.1.0\",\"degraded\":[]}".to_owned();
    let text = |name: &str| receipt["software"][name].as_str().unwrap();
    let binding = Binding {
        subject: Subject::SigningIdentity {
            public_key: receipt["key"]["public_key"].as_str().unwrap().parse().unwrap(),
        },
        nonce: Nonce::from_bytes([7; 32]),
        notary: NotaryPoint::from_bytes(notary.try_into().unwrap()),
        signer: text("signer").parse().unwrap(),
        worker: text("worker").parse().unwrap(),
        configuration: Digest::of(configuration.as_bytes()),
    };
    let appraise = |binding: Binding| {
        let outblob = machine.report_with(&binding.report_data(), |report| launched(report, &own));
        let raw = RawEvidence { provider: provider::SNP.to_owned(), outblob, auxblob: None };
        let snp =
            SnpEndorsements { vek: Some(machine.vek.clone()), crl: Some(machine.crl.clone()) };
        let endorsements = Endorsements { snp: Some(snp), tdx: None };
        let configuration = configuration.clone();
        let envelope = EvidenceEnvelope { binding, configuration, raw, endorsements };
        here.file("evidence.json", envelope.to_json());
        let line = ["attest", "appraise", "--evidence", "evidence.json", "--policy", "policy.toml"];
        here.evanesce(line.iter().chain(&ROOTS)).output()
    };

    // Then it is trusted, and for none other of the three.
    appraise(binding.clone()).expect_status(0);
    for (rule, other) in [
        ("bound.worker", Binding { worker: Digest::of(b"other"), ..binding.clone() }),
        ("bound.signer", Binding { signer: Digest::of(b"other"), ..binding.clone() }),
        ("bound.notary", Binding { notary: NotaryPoint::from_bytes([5; 65]), ..binding }),
    ] {
        let outcome = appraise(other).expect_status(3);
        assert!(outcome.stdout.contains(rule), "{rule}: {}", outcome.stdout);
    }
}

#[test]
fn an_image_that_cannot_be_measured_gets_no_policy_and_the_reason_is_one_line() {
    let here = with_image(&Machine::new());
    here.file("short.fd", &OVMF[..4000]);
    with_other(&here, "other-worker", "image.json", |list| {
        let text = String::from_utf8(list.clone()).unwrap();
        let own = text.lines().find(|line| line.contains("\"worker\"")).unwrap();
        let other = format!("  \"worker\": \"{}\",", Digest::of(b"other"));
        *list = text.replace(own, &other).into_bytes();
    });

    let with = ["--enclave-firmware", "OVMF.fd"];
    for (image, more, code) in [
        ("machine", &["--enclave", "vm"][..], "measure.vm"),
        ("machine", &["--enclave", "tdx"], "measure.tdx"),
        ("machine", &[], "measure.no-firmware"),
        ("machine", &["--enclave-firmware", "short.fd"], "firmware.unfit"),
        ("machine", &["--enclave-firmware", "none.fd"], "firmware.read"),
        ("nothing", &with, "image.read"),
        ("other-worker", &with, "measure.other-worker"),
    ] {
        let line = ["attest", "policy", "init", "--for-image", image, "--output", "none.toml"];
        let outcome = here.evanesce(line.iter().chain(more)).output();
        assert!(!outcome.status.success(), "{code}");
        assert!(outcome.stderr.contains(&format!("[{code}]")), "{code}: {}", outcome.stderr);
        assert!(outcome.stderr.lines().any(|line| line.starts_with("hint: ")), "{code}");
        assert!(!here.work_dir().join("none.toml").exists(), "{code}");
    }
}
