//! Evidence from inside of a worker's machine, through its kernel's configfs-tsm.
//!
//! The chip does not exist: a module and a program stand in for it, in a machine for tests, with a
//! PKI in the shape of AMD's. Everything in between is as on a real platform.

use std::fs;
use std::path::Path;

use evanesce_machine::{Archive, Image};
use evanesce_protocol::Digest;
use evanesce_residue::{Canary, Scanner, unwatched};
use evanesce_tests::process::{is_alive, wait_until};
use evanesce_tests::{Installation, payload};
use serde_json::Value;

use crate::genoa::Machine as Chip;
use crate::memory::Memory;
use crate::{Here, setting, sign, snp_pki};

#[test]
#[ignore = "boots a machine: cargo xtask enclave"]
fn what_vouches_for_a_key_is_inside_and_the_signature_is_trusted_by_its_word() {
    // Given a machine with a chip, which this host has not,
    let chip = Chip::new();
    let here = Here::with_chip(&chip);
    here.installation.file("artifact", "contents");

    // When a key that was born inside of it signs,
    let script = "ssh-keygen -Y sign -q -f \"$EVANESCE_PUBLIC_KEY_FILE\" -n file artifact";
    let more = ["--workload-id", "a", "--attest", "--", "sh", "-c", script];
    let line = [&["run"], &here.flags()[..], &more].concat();
    here.installation.run(&line).expect_status(0);

    // Then the machine itself has vouched for it,
    let receipt = here.installation.receipt("a");
    let evidence = evidence(&here.installation);
    let of_binding = |member: &str| &evidence["binding"][member];
    assert_eq!(of_binding("subject")["purpose"], "signing-identity");
    assert_eq!(of_binding("subject")["public_key"], receipt["key"]["public_key"]);
    assert_eq!(of_binding("worker"), &receipt["software"]["worker"]);
    assert_eq!(receipt["attestation"]["provider"], "sev_guest", "{receipt:#}");
    assert_eq!(receipt["placement"]["machine"]["image"], here.digest, "{receipt:#}");

    // and somebody who trusts the chip and the image, and nothing else, trusts the signature.
    let policy = here.policy("signing-identity");
    here.installation.file("policy.toml", policy);
    here.installation.file("roots.pem", &chip.roots);
    let kept = here.installation.state_dir().join("collateral/snp/Genoa");
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("crl.der"), &chip.crl).unwrap();
    let line = ["verify", "artifact", "--namespace", "file", "--json", "--policy", "policy.toml"];
    let outcome = here.installation.evanesce(line.iter().chain(&ROOTS)).output().expect_status(0);
    let verdict: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(verdict["attestation"]["outcome"], "attested", "{verdict:#}");
    here.installation.run(&["audit", "verify"]).expect_status(0);
}

#[test]
#[ignore = "boots machines: cargo xtask enclave"]
fn a_key_is_released_into_a_machine_and_goes_with_it() {
    // Given a holder who releases to workers in this machine alone,
    let chip = Chip::new();
    let here = Here::with_chip(&chip);
    let asker = &here.installation;
    asker.run(&["notary", "init"]).expect_status(0);
    let holder = Installation::new(env!("CARGO_BIN_EXE_evanesce-under-test"));
    let canary = Canary::random().unwrap();
    holder.file("key.pem", canary.to_pkcs8_pem());
    holder.run(&["notary", "init"]).expect_status(0);
    holder.file("policy.toml", here.policy("key-release"));
    holder.file("roots.pem", &chip.roots);
    let kept = holder.state_dir().join("collateral/snp/Genoa");
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("crl.der"), &chip.crl).unwrap();
    let notary = fs::read(holder.state_dir().join("notary/notary.pem")).unwrap();
    let pinned = asker.file("holder.pem", notary);

    // When a worker in the machine asks for the key, and has signed with it,
    let medium = asker.work_dir().join("medium");
    fs::create_dir(&medium).unwrap();
    let at = |name: &str| medium.join(name).display().to_string();
    let challenge = ["release", "challenge", "--key", "key.pem", "--lifetime", "30m", "--out"];
    holder.run(&[&challenge[..], &[&at("challenge.json")]].concat()).expect_status(0);
    let held = std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("the request is there", || medium.join("request.json").exists());
            let line = ["release", "answer", "--key", "key.pem", "--policy", "policy.toml"];
            let (request, answer) = (at("request.json"), at("answer.json"));
            let files = ["--request", &request, "--out", &answer];
            holder.evanesce(line.iter().chain(&ROOTS).chain(&files)).output().expect_status(0);
        });
        let (medium, pinned) = (medium.to_str().unwrap(), pinned.to_str().unwrap());
        here.hold(&["--workload-id", "r", "--key-from", medium, "--holder", pinned])
    });
    let public_key = sign(&held, 1);
    let machine = held.worker_pid(asker);
    let memory = Memory::of(machine);
    let forms = Scanner::new(&canary.forms(&[]));
    assert!(memory.hits(&forms) > 0, "the control: forms of the key are found while it lives");
    // What carried it there has nothing of it.
    let launcher = forms.scan_process(held.launcher.pid(), &mut unwatched()).unwrap();
    let files = forms.scan_path(asker.root(), &mut unwatched()).unwrap();
    assert_eq!((launcher.hits, files.hits), (vec![], vec![]));
    held.finish().expect_status(0);

    // Then it was the holder's key, both ledgers have the same transcript, and this copy is gone.
    assert!(!is_alive(machine));
    assert_eq!(memory.hits(&forms), 0);
    let receipt = asker.receipt("r");
    assert_eq!(receipt["key"]["public_key"], format!("ed25519:{}", hex::encode(public_key)));
    assert_eq!(receipt["key"]["origin"], "released", "{receipt:#}");
    assert_eq!(receipt["key"]["fate"], "this-copy-destroyed", "{receipt:#}");
    assert_eq!(receipt["scrub"]["method"], "machine-overwritten", "{receipt:#}");
    let released = row(&holder, "released");
    assert_eq!(receipt["released_by"]["transcript"], released["transcript"], "{receipt:#}");
    let said = &payload(&released["envelope"])["predicate"];
    assert_eq!(said["public_key"], receipt["key"]["public_key"], "{said:#}");
    for here in [&holder, asker] {
        here.run(&["audit", "verify"]).expect_status(0);
    }
}

#[test]
#[ignore = "boots a machine: cargo xtask enclave"]
fn a_machine_that_nothing_vouches_for_signs_nothing_where_evidence_was_asked_for() {
    let here = Here::new();

    let line = [&["run", "--quiet"], &here.flags()[..], &["--attest", "--", "true"]].concat();

    // Not the host's word in its place: what was looked for is in the machine.
    let refused = here.installation.run(&line).expect_refusal(125, "attest.no-provider");
    assert!(refused.stderr.contains("/sys/kernel/config/tsm/report"), "{refused:#?}");
}

#[test]
#[ignore = "boots a machine: cargo xtask enclave"]
fn a_machine_whose_module_is_of_another_kernel_does_not_start_and_says_why() {
    let elsewhere = Installation::new(env!("CARGO_BIN_EXE_evanesce-under-test"));
    let module = elsewhere.file("other.ko", b"\x7fELF\0depends=\0");
    let here = Here::building(&["--module", module.to_str().unwrap()]);

    let line = [&["run", "--quiet"], &here.flags()[..], &["--", "true"]].concat();
    let refused = here.installation.run(&line).expect_refusal(125, "machine.ended");

    assert!(refused.stderr.contains("load a module failed"), "{refused:#?}");
}

impl Here {
    /// With the kernel's drivers for evidence in its image, and a chip for them.
    fn with_chip(chip: &Chip) -> Self {
        let modules = setting("EVANESCE_ENCLAVE_MODULES");
        let fake = Path::new(&modules).join("fake_tsm.ko");
        let mut here = Self::building(&["--modules", &modules, "--module", fake.to_str().unwrap()]);
        let names = here.built["modules"].as_array().unwrap();
        let names: Vec<_> = names.iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(names, ["configfs", "tsm", "sev_guest", "tdx_guest", "fake_tsm"]);

        // The chip measures the image that was built: it is not part of it, as no chip is.
        let installation = &here.installation;
        installation.file("OVMF.fd", OVMF);
        let shown = ["image", "show", "machine", "--enclave-firmware", "OVMF.fd"];
        let measured = installation.json(&shown)["snp_measurement"].clone();
        let measured = hex::decode(measured.as_str().unwrap()).unwrap();
        let report = chip.report_with(&[0; 64], |report| {
            report[0x08..0x10].copy_from_slice(&0x3_0000_u64.to_le_bytes());
            report[0x90..0xC0].copy_from_slice(&measured);
        });

        // A kernel unpacks several archives, one behind the other.
        let mut archive = Archive::default();
        archive.directory("chip");
        archive.program("chip/chip", &fs::read(env!("CARGO_BIN_EXE_fake-chip")).unwrap());
        archive.library("chip/key", snp_pki::vek_pkcs8());
        archive.library("chip/report", &report);
        archive.library("chip/certificates", &chip.certificate_table());
        let image = Image::open(&here.image).unwrap();
        let initrd = [fs::read(image.initrd()).unwrap(), archive.finish()].concat();
        let mut manifest = image.manifest().clone();
        manifest.initrd = Digest::of(&initrd);
        let booted = installation.work_dir().join("booted");
        fs::create_dir(&booted).unwrap();
        fs::copy(image.kernel(), booted.join("kernel")).unwrap();
        fs::write(booted.join("initrd"), initrd).unwrap();
        fs::write(booted.join("image.json"), manifest.to_text()).unwrap();
        here.digest = manifest.digest().to_string();
        here.image = booted;
        here
    }

    /// The policy that accepts the image that was built, beside the notary of this installation.
    fn policy(&self, purpose: &str) -> String {
        let notary = self.installation.state_dir().join("notary/notary.pem");
        let of_image = ["--for-image", "machine", "--enclave-firmware", "OVMF.fd"];
        let rest = ["--product", "Genoa", "--notary", notary.to_str().unwrap()];
        let init = [&["attest", "policy", "init", "--purpose", purpose], &of_image[..], &rest];
        let init = self.installation.evanesce(init.concat()).output().expect_status(0);
        // Replaced roots are for development alone, and the list of revocations was made for good.
        let policy = init.stdout.replace("\"production\"", "\"development\"");
        policy.replace("age_hours_max = 720", "age_hours_max = 1000000")
    }
}

/// The evidence in the ledger's one row of it.
fn evidence(here: &Installation) -> Value {
    row(here, "attested")["envelope"].clone()
}

/// The only row of an event.
fn row(here: &Installation, event: &str) -> Value {
    let rows = here.run(&["audit", "show", "--json"]).stdout;
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut rows: Vec<_> = rows.filter(|row| row["event"] == event).collect();
    assert_eq!(rows.len(), 1, "{event}");
    rows.remove(0)
}

const ROOTS: [&str; 2] = ["--unsafe-trust-root", "roots.pem"];

/// The end of an OVMF for SEV-SNP.
const OVMF: &[u8] = include_bytes!("../../runtime/machine/tests/vectors/ovmf_AmdSev_suffix.bin");
