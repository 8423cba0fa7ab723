//! Workers in machines of their own, and what is left of the machines.
//!
//! `cargo xtask enclave` says with which kernel and runs this, as root. By itself there is nothing
//! to run: every test is `#[ignore]`d, since a machine that QEMU alone executes takes seconds to
//! boot.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test and its helpers, a panic is the failure")]

mod attestation;
mod memory;

#[path = "../../runtime/appraisal/tests/support/der.rs"]
mod der;
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../runtime/appraisal/tests/support/genoa.rs"]
mod genoa;
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../runtime/appraisal/tests/snp_rules/pki.rs"]
mod snp_pki;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use evanesce_tests::agent::{Agent, numbered_request};
use evanesce_tests::process::{is_alive, send, wait_until};
use evanesce_tests::{Held, Installation};
use rustix::process::Signal;
use serde_json::Value;

use crate::memory::Memory;

/// The main line: an ordinary client signs, and then there is nothing left.
#[test]
#[ignore = "boots a machine: cargo xtask enclave"]
fn a_worker_in_a_machine_signs_for_ordinary_clients_and_its_machine_leaves_nothing() {
    // Given a worker in a machine of its own, which has signed,
    let here = Here::new();
    let begin = Instant::now();
    let held = here.hold(&["--workload-id", "m"]);
    let public_key = sign(&held, 1);
    let first_signature = begin.elapsed();
    let machine = held.worker_pid(&here.installation);
    let memory = Memory::of(machine);
    let forms = memory.find_key(&public_key).expect("the control: the key is in the machine");
    let alive = memory.hits(&forms);
    assert!(alive > 0, "the control: forms of the key are found while it lives");

    // When its command ends,
    let ending = Instant::now();
    held.finish().expect_status(0);
    let end = ending.elapsed();

    // Then the machine is gone, its memory holds nothing, and the receipt says by whose word.
    assert!(!is_alive(machine));
    assert_eq!(memory.hits(&forms), 0);
    assert!(memory.is_zero());
    let receipt = here.installation.receipt("m");
    assert_eq!(receipt["key"]["fate"], "destroyed", "{receipt:#}");
    assert_eq!(receipt["cause"], "command-ended", "{receipt:#}");
    assert_eq!(receipt["scrub"]["method"], "machine-overwritten", "{receipt:#}");
    assert_eq!(receipt["signatures"]["count"], 1, "{receipt:#}");
    assert_eq!(receipt["signatures"]["complete"], true, "{receipt:#}");
    assert_eq!(receipt["placement"]["machine"]["enclave"], "vm", "{receipt:#}");
    assert_eq!(receipt["placement"]["machine"]["image"], here.digest, "{receipt:#}");
    for (claim, observer) in [
        ("own-machine", "observed-outside"),
        ("machine-memory-overwritten", "observed-outside"),
        ("process-gone", "observed-outside"),
        ("seccomp-filter", "self-reported"),
        ("regions-wiped-and-read-back", "self-reported"),
    ] {
        assert_eq!(observer_of(&receipt, claim), Some(observer), "{claim}: {receipt:#}");
    }
    assert_eq!(observer_of(&receipt, "memory-key-destroyed"), None);
    assert_eq!(observer_of(&receipt, "secret-pages-cleared-on-free"), None);
    here.installation.run(&["audit", "verify"]).expect_status(0);
    report(&format!(
        "start to first signature {} ms, end to receipt {} ms; {alive} places held forms of the key \
         while it lived, 0 after the end",
        first_signature.as_millis(),
        end.as_millis(),
    ));
}

#[test]
#[ignore = "boots a machine: cargo xtask enclave"]
fn ssh_keygen_signs_through_a_machine_and_anyone_can_check_it() {
    let here = Here::new();
    here.installation.file("artifact", "contents");
    let script = "ssh-keygen -Y sign -q -f \"$EVANESCE_PUBLIC_KEY_FILE\" -n file artifact && \
                  ssh-keygen -Y check-novalidate -n file -s artifact.sig < artifact";

    let line = [&["run"], &here.flags()[..], &["--workload-id", "s", "--", "sh", "-c", script]];
    here.installation.run(&line.concat()).expect_status(0);

    assert_eq!(here.installation.receipt("s")["signatures"]["count"], 1);
}

#[test]
#[ignore = "boots a machine: cargo xtask enclave"]
fn a_spent_budget_ends_the_machine_before_the_command() {
    let here = Here::new();
    let held = here.hold(&["--workload-id", "b", "--signatures-max", "2"]);
    let machine = held.worker_pid(&here.installation);

    sign(&held, 2);
    wait_until("the machine is gone", || !is_alive(machine));
    assert!(is_alive(held.command_pid), "the command goes on");
    held.finish().expect_status(0);

    let receipt = here.installation.receipt("b");
    assert_eq!(receipt["cause"], "signatures-spent", "{receipt:#}");
    assert_eq!(receipt["signatures"]["count"], 2, "{receipt:#}");
    assert_eq!(receipt["key"]["fate"], "destroyed", "{receipt:#}");
}

#[test]
#[ignore = "boots a machine: cargo xtask enclave"]
fn a_key_whose_time_is_over_ends_with_its_machine_before_the_command() {
    let here = Here::new();
    let held = here.hold(&["--workload-id", "t", "--ttl", "20s"]);
    let machine = held.worker_pid(&here.installation);

    sign(&held, 1);
    wait_until("the machine is gone", || !is_alive(machine));
    assert!(is_alive(held.command_pid), "the command goes on");
    held.finish().expect_status(0);

    let receipt = here.installation.receipt("t");
    assert_eq!(receipt["cause"], "time-to-live", "{receipt:#}");
    assert_eq!(receipt["signatures"]["complete"], true, "{receipt:#}");
    assert_eq!(receipt["key"]["fate"], "destroyed", "{receipt:#}");
}

/// Between a request's entry and its answer, and anywhere else: what a client has, the ledger has.
#[test]
#[ignore = "boots a machine: cargo xtask enclave"]
fn a_machine_that_is_killed_while_it_signs_leaves_no_answer_without_its_request() {
    let here = Here::new();
    let held = here.hold(&["--workload-id", "j"]);
    let machine = held.worker_pid(&here.installation);
    sign(&held, 1);

    // Signs until nobody answers any more; killed somewhere in between.
    let (socket, answers) = (&held.socket, AtomicU64::new(1));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut agent = Agent::connect(socket).unwrap();
            let key = agent.keys().unwrap().pop().unwrap();
            while let Ok(Some(_)) = agent.sign(&key, &numbered_request(7)) {
                answers.fetch_add(1, Ordering::SeqCst);
            }
        });
        wait_until("it signs", || answers.load(Ordering::SeqCst) > 100);
        send(machine, Signal::KILL);
    });
    let answered = answers.into_inner();
    held.finish().expect_status(0);

    let receipt = here.installation.receipt("j");
    let recorded = receipt["signatures"]["count"].as_u64().unwrap();
    // At most one that nobody got an answer for.
    assert!([answered, answered + 1].contains(&recorded), "{answered} answers: {receipt:#}");
    here.installation.run(&["audit", "verify"]).expect_status(0);
    report(&format!("{answered} answers, {recorded} requests in the ledger of a killed machine"));
}

#[test]
#[ignore = "boots a machine: cargo xtask enclave"]
fn the_kill_switch_outside_ends_the_key_inside() {
    let here = Here::new();
    let switch = here.installation.work_dir().join("stop");
    let held = here.hold(&["--workload-id", "k", "--kill-switch", switch.to_str().unwrap()]);
    let machine = held.worker_pid(&here.installation);

    fs::write(&switch, "").unwrap();
    wait_until("the machine is gone", || !is_alive(machine));
    held.finish().expect_status(0);

    assert_eq!(here.installation.receipt("k")["cause"], "kill-switch");
}

#[test]
#[ignore = "boots a machine: cargo xtask enclave"]
fn a_killed_launcher_takes_the_machine_with_it_and_the_next_command_writes_the_receipt() {
    let here = Here::new();
    let held = here.hold(&["--workload-id", "l"]);
    let public_key = sign(&held, 1);
    let machine = held.worker_pid(&here.installation);
    let memory = Memory::of(machine);
    let forms = memory.find_key(&public_key).expect("the control: the key is in the machine");

    held.launcher.signal(Signal::KILL);
    wait_until("the machine is gone", || !is_alive(machine));

    // Nobody was left to overwrite it: the worker has wiped, as it does without a machine.
    assert_eq!(memory.hits(&forms), 0);
    here.installation.run(&["ps"]).expect_status(0);
    let receipt = here.installation.receipt("l");
    assert_eq!(receipt["cause"], "launcher-lost", "{receipt:#}");
    assert_eq!(receipt["signatures"]["count"], 1, "{receipt:#}");
    // What nobody saw is not claimed.
    let shown = receipt["host"]["init_on_free"] == "yes";
    let fate = if shown { "destroyed" } else { "unproven" };
    assert_eq!(receipt["key"]["fate"], fate, "{receipt:#}");
}

#[test]
#[ignore = "boots a machine: cargo xtask enclave"]
fn a_machine_that_is_killed_is_overwritten_all_the_same_and_the_receipt_says_so() {
    let here = Here::new();
    let held = here.hold(&["--workload-id", "q"]);
    let public_key = sign(&held, 3);
    let machine = held.worker_pid(&here.installation);
    let memory = Memory::of(machine);
    let forms = memory.find_key(&public_key).expect("the control: the key is in the machine");
    assert!(memory.hits(&forms) > 0, "the control: forms of the key are found while it lives");

    send(machine, Signal::KILL);
    wait_until("its memory is overwritten", || memory.is_zero());
    held.finish().expect_status(0);

    assert_eq!(memory.hits(&forms), 0);
    let receipt = here.installation.receipt("q");
    assert_eq!(receipt["cause"], "worker-lost", "{receipt:#}");
    assert_eq!(receipt["scrub"]["method"], "machine-overwritten", "{receipt:#}");
    assert_eq!(receipt["scrub"]["forced"]["happened"], "by-signal", "{receipt:#}");
    assert_eq!(receipt["signatures"]["count"], 3, "{receipt:#}");
    assert_eq!(receipt["signatures"]["complete"], false, "{receipt:#}");
}

/// Refusals come before anything is booted.
#[test]
#[ignore = "needs a kernel: cargo xtask enclave"]
fn what_cannot_be_in_a_machine_is_refused_in_one_line_before_it_is_started() {
    let here = Here::new();
    let run = |flags: &[&str]| {
        let line = [&["run", "--quiet"], flags, &["--", "true"]].concat();
        here.installation.run(&line)
    };
    let flags = here.flags();

    run(&[&flags[..], &["--require", "guarded"]].concat())
        .expect_refusal(125, "start.not-in-machine");
    run(&[&flags[..], &["--enclave-firmware", "/OVMF.fd"]].concat())
        .expect_refusal(125, "machine.plan");
    run(&["--enclave", "snp", "--enclave-image", here.image.to_str().unwrap()])
        .expect_refusal(125, "machine.plan");
    run(&["--enclave", "vm", "--enclave-image", "/no/such/image"])
        .expect_refusal(125, "image.read");
    let initrd = here.image.join("initrd");
    let mut bytes = fs::read(&initrd).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&initrd, bytes).unwrap();
    run(&flags).expect_refusal(125, "image.changed");
}

#[test]
#[ignore = "needs a kernel: cargo xtask enclave"]
fn two_builds_of_an_image_have_the_same_bytes() {
    let here = Here::new();
    let again = here.installation.work_dir().join("again");
    build(&here.installation, &again, &[]);

    for name in ["kernel", "initrd", "image.json"] {
        let [one, other] = [&here.image, &again].map(|at| fs::read(at.join(name)).unwrap());
        assert!(one == other, "{name}");
    }
}

/// An installation with an image.
struct Here {
    installation: Installation,
    image: PathBuf,
    /// What `image build` says of it.
    built: Value,
    digest: String,
}

impl Here {
    fn new() -> Self {
        Self::building(&[])
    }

    /// With more flags for what builds the image.
    fn building(flags: &[&str]) -> Self {
        let installation = Installation::new(env!("CARGO_BIN_EXE_evanesce-under-test"));
        let image = installation.work_dir().join("machine");
        let built = build(&installation, &image, flags);
        let digest = built["image"].as_str().unwrap().to_owned();
        Self { installation, image, built, digest }
    }

    fn flags(&self) -> Vec<&str> {
        let image = self.image.to_str().unwrap();
        vec!["--enclave", "vm", "--enclave-image", image, "--enclave-accelerator", "tcg"]
    }

    fn hold(&self, flags: &[&str]) -> Held {
        self.installation.hold(&[&self.flags()[..], flags].concat())
    }
}

fn build(installation: &Installation, image: &Path, flags: &[&str]) -> Value {
    let (kernel, image) = (setting("EVANESCE_ENCLAVE_KERNEL"), image.to_str().unwrap());
    let line = ["image", "build", "--kernel", &kernel, "--output", image];
    installation.json(&[&line, flags].concat())
}

#[expect(clippy::disallowed_methods, reason = "the task says so in the environment")]
fn setting(name: &str) -> String {
    std::env::var(name).expect("run this with cargo xtask enclave")
}

/// Has `count` requests signed, checks each signature, and returns the public key.
fn sign(held: &Held, count: usize) -> [u8; 32] {
    let mut agent = Agent::connect(&held.socket).unwrap();
    let keys = agent.keys().unwrap();
    // The last key is the plain one: four length bytes, its algorithm, four more, 32 bytes.
    let plain = keys.last().unwrap();
    let public_key: [u8; 32] = plain[plain.len() - 32..].try_into().unwrap();
    let verifying = ed25519_dalek::VerifyingKey::from_bytes(&public_key).unwrap();
    for index in 0..count {
        let request = numbered_request(index);
        let signature = agent.sign(plain, &request).unwrap().expect("the agent signs");
        let signature = ed25519_dalek::Signature::from_bytes(&signature);
        verifying.verify_strict(&request, &signature).unwrap();
    }
    public_key
}

fn observer_of<'a>(receipt: &'a Value, claim: &str) -> Option<&'a str> {
    let statements = receipt["scrub"]["statements"].as_array()?;
    statements.iter().find(|statement| statement["claim"] == claim)?["observer"].as_str()
}

#[expect(clippy::print_stderr, reason = "a figure for docs/performance.md")]
fn report(line: &str) {
    eprintln!("FIGURE: {line}");
}
