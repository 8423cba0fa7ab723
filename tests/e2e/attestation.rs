//! Attested signers: from evidence to the verdict of somebody who has files and nothing else.
//!
//! The machines here are made of a PKI in the shape of AMD's (`snp_pki`); what a real kernel hands
//! over is shown in a virtual machine.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use evanesce_evidence::{Endorsements, EvidenceEnvelope, SnpEndorsements};
use evanesce_protocol::Digest;
use evanesce_protocol::evidence::{Binding, Nonce, NotaryPoint, RawEvidence, Subject, provider};
use evanesce_tests::process::is_alive;
use evanesce_tests::{Installation, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::genoa::Machine;
use crate::installation;
use crate::tsm_fs::TsmFs;

impl Machine {
    /// What an attester in this machine would have brought for the key of a workload.
    fn evidence(&self, here: &Installation, receipt: &Value) -> EvidenceEnvelope {
        let notary = fs::read_to_string(here.state_dir().join("notary/notary.pem")).unwrap();
        let notary = evanesce_ledger::NotaryKey::from_pem(&notary).unwrap().to_sec1();
        let configuration = "{\"version\":\"0.1.0\",\"degraded\":[]}".to_owned();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let binding = Binding {
            subject: Subject::SigningIdentity {
                public_key: text(&receipt["key"]["public_key"]).parse().unwrap(),
            },
            nonce: Nonce::from_bytes([7; 32]),
            notary: NotaryPoint::from_bytes(notary.try_into().unwrap()),
            signer: text(&receipt["software"]["signer"]).parse().unwrap(),
            worker: text(&receipt["software"]["worker"]).parse().unwrap(),
            configuration: Digest::of(configuration.as_bytes()),
        };
        let raw = RawEvidence {
            provider: provider::SNP.to_owned(),
            outblob: self.report(&binding.report_data()),
            auxblob: None,
        };
        let snp = SnpEndorsements { vek: Some(self.vek.clone()), crl: Some(self.crl.clone()) };
        let endorsements = Endorsements { snp: Some(snp), tdx: None };
        EvidenceEnvelope { binding, configuration, raw, endorsements }
    }
}

/// A file that was signed by a key that is said to live in `machine`, with evidence beside it and
/// a policy that lists the machine.
fn attested_file(here: &Installation, machine: &Machine) -> PathBuf {
    here.file("artifact", "the artifact");
    let report = here.json(&["sign", "artifact"]);
    let evidence = machine.evidence(here, &report["receipt"]);
    here.file("artifact.evidence.json", evidence.to_json());
    here.file("roots.pem", &machine.roots);
    let init = ["attest", "policy", "init", "--from-evidence", "artifact.evidence.json"];
    here.evanesce(init.iter().chain(&["--output", "strict.toml"])).output().expect_status(0);
    // Replaced roots are for development alone.
    let strict = fs::read_to_string(here.work_dir().join("strict.toml")).unwrap();
    here.file("policy.toml", of_test(&strict))
}

/// A policy for replaced roots, and for a revocation list that was made once and for all.
pub(crate) fn of_test(strict: &str) -> String {
    let policy = strict.replace("\"production\"", "\"development\"");
    policy.replace("age_hours_max = 720", "age_hours_max = 1000000")
}

pub(crate) const ROOTS: [&str; 2] = ["--unsafe-trust-root", "roots.pem"];

fn verify(here: &Installation, args: &[&str]) -> (i32, Value) {
    let line = ["verify", "artifact", "--json"];
    let outcome = here.evanesce(line.iter().chain(args).chain(&ROOTS)).output();
    let report = serde_json::from_str(&outcome.stdout).unwrap_or(Value::Null);
    (outcome.status.code().unwrap(), report)
}

#[test]
fn a_signature_by_an_attested_signer_is_trusted_by_somebody_who_has_files_alone() {
    let (here, machine) = (installation(), Machine::new());
    attested_file(&here, &machine);
    // Given somebody else, with an installation of nothing,
    let elsewhere = installation();
    for name in ["artifact", "artifact.sig", "artifact.evidence.json", "policy.toml", "roots.pem"] {
        elsewhere.file(name, fs::read(here.work_dir().join(name)).unwrap());
    }

    // When he verifies without any word on the notary,
    let (status, report) = verify(&elsewhere, &["--policy", "policy.toml"]);

    // Then the notary in the evidence vouches for the certificate, and the verdict says on what
    // all that rests.
    assert_eq!(status, 0, "{report:#}");
    assert_eq!(report["attestation"]["outcome"], "attested");
    assert_eq!(report["attestation"]["tee"], "snp");
    let lines = |name: &str| report[name].to_string();
    for part in ["meets the policy", "the machine launched", "the notary in the evidence"] {
        assert!(lines("checked").contains(part), "{part}: {report:#}");
    }
    for part in ["nonce", "the key never left", "memory interposers"] {
        assert!(lines("not_checked").contains(part), "{part}: {report:#}");
    }
    // Without the policy nobody vouches for the signer.
    elsewhere.run(&["verify", "artifact"]).expect_status(3);
}

/// The whole way, but for the silicon: the attester asks configfs-tsm, the launcher binds the key,
/// the ledger keeps the evidence, and somebody else judges it.
#[test]
fn what_a_machine_says_through_configfs_is_trusted_from_the_ledger_alone() {
    let (here, machine) = (installation(), Machine::new());
    let firmware = Machine::new();
    let certificates = machine.certificate_table();
    let Some(tsm) = TsmFs::mount(
        provider::SNP,
        Some(certificates),
        Box::new(move |data| firmware.report(data)),
    ) else {
        return;
    };
    here.file("artifact", "the artifact");
    here.file("roots.pem", &machine.roots);
    let crl = here.file("crl.der", &machine.crl);

    // When a key is attested,
    let root = tsm.root.path().to_str().unwrap();
    here.run(&["sign", "--attest", "--tsm-root", root, "artifact"]).expect_status(0);
    assert_eq!(fs::read_dir(tsm.root.path()).unwrap().count(), 0, "a request was left behind");

    // Then its policy accepts the evidence with the certificate that the host handed over, once
    // somebody adds a revocation list,
    let init = ["attest", "policy", "init", "--from-evidence", "artifact.evidence.json"];
    let init = here.evanesce(init).output().expect_status(0);
    here.file("policy.toml", of_test(&init.stdout));
    let line = ["attest", "appraise", "--evidence", "artifact.evidence.json", "--policy"];
    let rest = ["policy.toml", "--crl", crl.to_str().unwrap()];
    here.evanesce(line.iter().chain(&rest).chain(&ROOTS)).output().expect_status(0);
    // and a verifier who has the ledger needs no evidence file.
    let kept = here.state_dir().join("collateral/snp/Genoa");
    fs::create_dir_all(&kept).unwrap();
    fs::copy(&crl, kept.join("crl.der")).unwrap();
    fs::remove_file(here.work_dir().join("artifact.evidence.json")).unwrap();
    let (status, report) = verify(&here, &["--policy", "policy.toml"]);
    assert_eq!(status, 0, "{report:#}");
    assert_eq!(report["attestation"]["outcome"], "attested");
    let checked = report["checked"].to_string();
    assert!(checked.contains("younger than row"), "{checked}");
    here.run(&["audit", "verify"]).expect_status(0);
    // A nonce of somebody's own is bound as well,
    let nonce = "5a".repeat(32);
    let collect = ["attest", "collect", "--nonce", &nonce, "--tsm-root", root, "--out", "own.json"];
    here.run(&collect).expect_status(0);
    let own = fs::read(here.work_dir().join("own.json")).unwrap();
    let own = EvidenceEnvelope::from_json(&own).unwrap();
    assert_eq!(own.binding.nonce.to_string(), nonce);
    // and evidence for an installation is none for a signer.
    let line = ["attest", "appraise", "--evidence", "own.json", "--policy", "policy.toml"];
    let outcome = here.evanesce(line.iter().chain(&ROOTS)).output().expect_status(1);
    assert!(outcome.stdout.contains("bound.purpose"), "{}", outcome.stdout);
}

#[test]
fn evidence_that_the_policy_refuses_or_does_not_list_is_no_reason_to_trust() {
    let (here, machine) = (installation(), Machine::new());
    let policy = attested_file(&here, &machine);
    let genuine = fs::read_to_string(&policy).unwrap();
    assert_eq!(verify(&here, &["--policy", "policy.toml"]).0, 0);

    // A production policy refuses replaced roots.
    assert_eq!(verify(&here, &["--policy", "strict.toml"]).0, 1);
    // Another image, and another worker, are unknown.
    for (field, other) in
        [("measurements", "a5".repeat(48)), ("workers", "sha256:".to_owned() + &"a5".repeat(32))]
    {
        let line = genuine.lines().find(|line| line.starts_with(field)).unwrap();
        here.file("other.toml", genuine.replace(line, &format!("{field} = [\"{other}\"]")));
        let (status, report) = verify(&here, &["--policy", "other.toml"]);
        assert_eq!((status, &report["attestation"]["outcome"]), (3, &"unknown".into()), "{field}");
    }
    // Evidence that was changed, and that of another key, are invalid.
    let receipt = here.json(&["sign", "policy.toml"])["receipt"].clone();
    here.file("other.json", machine.evidence(&here, &receipt).to_json());
    let (status, report) = verify(&here, &["--policy", "policy.toml", "--evidence", "other.json"]);
    assert_eq!((status, &report["attestation"]["outcome"]), (1, &"refused".into()), "{report:#}");
    let mut changed = machine.evidence(&here, &receipt);
    changed.raw.outblob[0x90] ^= 1;
    here.file("changed.json", changed.to_json());
    assert_eq!(verify(&here, &["--policy", "policy.toml", "--evidence", "changed.json"]).0, 1);
    // And none at all is nobody's word.
    fs::remove_file(here.work_dir().join("artifact.evidence.json")).unwrap();
    let (status, report) = verify(&here, &["--policy", "policy.toml"]);
    assert_eq!((status, &report["attestation"]["outcome"]), (3, &"none".into()));
}

#[test]
fn a_verifiers_signed_result_is_taken_for_its_key_its_evidence_and_its_time_alone() {
    let (here, machine) = (installation(), Machine::new());
    attested_file(&here, &machine);
    // Given a verifier who judged the evidence and signed the result,
    let verifier = installation();
    for name in ["artifact.evidence.json", "policy.toml", "roots.pem"] {
        verifier.file(name, fs::read(here.work_dir().join(name)).unwrap());
    }
    let line = ["attest", "appraise", "--evidence", "artifact.evidence.json"];
    let rest = ["--policy", "policy.toml", "--result", "bundle.json", "--valid-for", "1h"];
    verifier.evanesce(line.iter().chain(&rest).chain(&ROOTS)).output().expect_status(0);
    let public = verifier.state_dir().join("notary/notary.pem");
    here.file("verifier.pem", fs::read(public).unwrap());
    here.file("bundle.json", fs::read(verifier.work_dir().join("bundle.json")).unwrap());

    // When his word is taken, without the policy,
    let by_result = |more: &[&str]| {
        let line = ["verify", "artifact", "--json", "--evidence", "bundle.json"];
        let outcome = here.evanesce(line.iter().chain(more)).output();
        (outcome.status.code().unwrap(), serde_json::from_str::<Value>(&outcome.stdout).unwrap())
    };
    let (status, report) = by_result(&["--verifier", "verifier.pem"]);

    // Then the signer counts as attested,
    assert_eq!(status, 0, "{report:#}");
    assert_eq!(report["attestation"]["outcome"], "attested");
    assert!(report["attestation"]["result_by"].is_string());
    // but not by another's word,
    let own = here.state_dir().join("notary/notary.pem");
    let (status, report) = by_result(&["--verifier", own.to_str().unwrap()]);
    assert_eq!((status, &report["attestation"]["outcome"]), (3, &"unknown".into()));
    // nor after its time,
    let (status, report) =
        by_result(&["--verifier", "verifier.pem", "--at", "2049-01-01T00:00:00Z"]);
    assert_eq!((status, &report["attestation"]["outcome"]), (1, &"refused".into()), "{report:#}");
    // nor for other evidence.
    let mut bundle: Value =
        serde_json::from_slice(&fs::read(here.work_dir().join("bundle.json")).unwrap()).unwrap();
    let receipt = here.json(&["sign", "policy.toml"])["receipt"].clone();
    let other = machine.evidence(&here, &receipt);
    bundle["evidence"] = serde_json::from_str(&other.to_json()).unwrap();
    here.file("bundle.json", bundle.to_string());
    assert_eq!(by_result(&["--verifier", "verifier.pem"]).0, 1);
}

#[test]
fn a_key_that_is_to_be_attested_is_refused_where_no_machine_vouches() {
    let here = installation();
    here.file("artifact", "the artifact");

    if Path::new("/dev/sev-guest").exists() {
        return;
    }
    let line = ["sign", "--attest", "--tsm-root", "/nonexistent/tsm", "artifact"];
    let outcome = here.run(&line).expect_status(1);

    assert!(outcome.stderr.contains("attest.no-provider"), "{}", outcome.stderr);
    assert!(!here.work_dir().join("artifact.sig").exists());
    // The workload ended before anybody could use its key, and the ledger says why.
    let rows = here.run(&["audit", "show", "--json"]).stdout;
    assert!(rows.contains("attest.no-provider") && !rows.contains("\"loaded\""), "{rows}");
    assert!(here.json(&["ps"]).as_array().unwrap().is_empty());
}

#[test]
fn insecure_software_evidence_goes_all_the_way_and_is_trusted_nowhere() {
    let here = installation();
    here.file("artifact", "the artifact");

    // When a key is attested by no machine,
    let line = ["sign", "--attest", "--insecure-software-attestation", "artifact"];
    let outcome = here.run(&line).expect_status(0);
    let report = here.json(&["verify", "artifact"]);

    // Then that is said, evidence is beside the file, in the receipt and in the ledger,
    assert!(outcome.stderr.contains("DANGER"), "{}", outcome.stderr);
    let attestation = &report["receipt"]["attestation"];
    assert_eq!(attestation["provider"], "insecure_software", "{report:#}");
    let rows = here.run(&["audit", "show", "--json"]).stdout;
    let row = rows.lines().find(|line| line.contains("\"attested\"")).unwrap();
    let row: Value = serde_json::from_str(row).unwrap();
    assert_eq!(row["evidence"], attestation["evidence"]);
    let text = fs::read(here.work_dir().join("artifact.evidence.json")).unwrap();
    let evidence = EvidenceEnvelope::from_json(&text).unwrap();
    assert_eq!(Value::from(evidence.digest().to_string()), row["evidence"]);
    let in_row: EvidenceEnvelope = serde_json::from_value(row["envelope"].clone()).unwrap();
    assert_eq!(in_row, evidence);
    here.run(&["audit", "verify"]).expect_status(0);
    // its nonce is the digest of the `started` row,
    let started = rows.lines().find(|line| line.contains("\"started\"")).unwrap();
    assert_eq!(evidence.binding.nonce.as_bytes(), Digest::of(started.as_bytes()).as_bytes());
    // no policy trusts it, and one for production refuses it by its kind.
    let policy = "version = 1\nprofile = \"PROFILE\"\nreport_data = \"compared\"\n";
    let machine = Machine::new();
    let (vek, report) = (here.file("vek.der", &machine.vek), machine.report(&[1; 64]));
    here.file("report.bin", report);
    let init = ["attest", "policy", "init", "--from-snp-report", "report.bin", "--vek"];
    let init = init.iter().map(OsString::from).chain([vek.into_os_string()]);
    let init = here.evanesce(init).output().expect_status(0);
    let section = init.stdout.split_once("[snp]").unwrap().1;
    let binding = &evidence.binding;
    let own = format!(
        "[evanesce]\npurposes = [\"signing-identity\"]\nsigners = [\"{}\"]\nworkers = [\"{}\"]\n\
         notaries = [\"{}\"]\nconfigurations = \"any\"\n",
        binding.signer, binding.worker, binding.notary
    );
    for (profile, status, rule) in
        [("development", 3, "software.vouched"), ("production", 1, "software.profile")]
    {
        let policy = policy.replace("PROFILE", profile);
        here.file("policy.toml", format!("{policy}\n[snp]{section}\n{own}"));
        let line = ["attest", "appraise", "--evidence", "artifact.evidence.json"];
        let line = line.iter().chain(&["--policy", "policy.toml"]);
        let outcome = here.evanesce(line).output().expect_status(status);
        assert!(outcome.stdout.contains(rule), "{}", outcome.stdout);
        here.run(&["verify", "artifact", "--policy", "policy.toml"]).expect_status(status);
    }
}

#[test]
fn what_a_vendor_hands_out_is_fetched_kept_and_found_without_the_network() {
    let (here, machine) = (installation(), Machine::new());
    // Given a vendor on this machine,
    let vendor = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", vendor.local_addr().unwrap());
    let bodies = [machine.vek.clone(), machine.crl.clone()];
    let serving = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for body in bodies {
            let (stream, _) = vendor.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            asked.push(line.clone());
            while line.trim() != "" {
                line.clear();
                reader.read_line(&mut line).unwrap();
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let stream = reader.get_mut();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
        }
        asked
    });
    here.file("report.bin", machine.report(&[0x13; 64]));
    here.file("roots.pem", &machine.roots);

    // When certificate and list are fetched from it,
    let line = ["attest", "collateral", "fetch", "--snp-report", "report.bin", "--amd-url", &url];
    here.run(&line).expect_status(0);

    // Then it was asked for this chip at its TCB,
    let asked = serving.join().unwrap();
    let chip = "18".repeat(64);
    let wanted = format!("/vcek/v1/Genoa/{chip}?blSPL=10&teeSPL=01&snpSPL=23&ucodeSPL=200");
    assert!(asked[0].contains(&wanted), "{}", asked[0]);
    assert!(asked[1].contains("/vcek/v1/Genoa/crl"), "{}", asked[1]);
    // and the evidence is judged by what was kept.
    let vek = here.file("vek.der", &machine.vek);
    let init = ["attest", "policy", "init", "--from-snp-report", "report.bin", "--vek"];
    let init = init.iter().map(OsString::from).chain([vek.into_os_string()]);
    let init = here.evanesce(init).output().expect_status(0);
    here.file("policy.toml", of_test(&init.stdout));
    let data = "13".repeat(64);
    let line = ["attest", "appraise", "--snp-report", "report.bin", "--policy", "policy.toml"];
    let rest = ["--report-data", &data];
    here.evanesce(line.iter().chain(&rest).chain(&ROOTS)).output().expect_status(0);
}

#[test]
fn a_killed_launchers_receipt_still_names_the_evidence() {
    let here = installation();
    let held = here.hold(&["--workload-id", "w", "--attest", "--insecure-software-attestation"]);
    let worker = held.worker_pid(&here);

    held.launcher.signal(Signal::KILL);
    held.finish();
    wait_until("the worker has ended", || !is_alive(worker));
    assert_eq!(here.json(&["ps"]), serde_json::json!([]));

    let receipt = here.receipt("w");
    assert_eq!(receipt["attestation"]["provider"], "insecure_software", "{receipt:#}");
    here.run(&["audit", "verify"]).expect_status(0);
}
