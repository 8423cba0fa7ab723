//! The tools beside the main job: what the host promises, ending what is alive, taking the ledger
//! elsewhere.

use std::process::Command;

use evanesce_tests::process::{Running, is_alive};
use evanesce_tests::{Installation, peers};
use serde_json::Value;

use crate::installation;

#[test]
fn doctor_shows_on_a_host_that_runs_workloads_that_a_strict_worker_gets_what_it_needs() {
    let here = installation();

    let report = here.json(&["doctor", "--check", "worker"]);

    assert_eq!(report["holds"], true, "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    let names: Vec<_> = findings.iter().map(|finding| finding["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"worker.secret-pages") && names.contains(&"worker.landlock"));
    assert!(!here.state_dir().exists(), "asking leaves nothing behind");
}

#[test]
fn doctor_says_of_every_finding_what_it_means_and_how_to_change_it() {
    let here = installation();

    let outcome = here.run(&["doctor", "--json"]);

    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let holds = report["holds"].as_bool().unwrap();
    assert_eq!(outcome.status.code(), Some(i32::from(!holds)));
    let findings = report["findings"].as_array().unwrap();
    for member in ["name", "need", "verdict", "found", "source", "means", "change"] {
        let is_said =
            |finding: &Value| finding[member].as_str().is_some_and(|text| !text.is_empty());
        assert!(findings.iter().all(is_said), "{member}: {report:#}");
    }
    let fails = |finding: &&Value| finding["need"] != "extra" && finding["verdict"] != "holds";
    assert_eq!(holds, !findings.iter().any(|finding| fails(&finding)), "{report:#}");
}

#[test]
fn stop_ends_a_workload_in_order_and_prints_its_receipt() {
    // Given two workloads,
    let here = installation();
    let (held, other) = (here.hold(&["--workload-id", "a"]), here.hold(&["--workload-id", "b"]));
    let worker = held.worker_pid(&here);

    // When one is stopped,
    let report = here.json(&["stop", "a"]);

    // Then its key was wiped as at any end, the receipt says who wanted it,
    assert_eq!(report["receipt"]["key"]["fate"], "destroyed", "{report:#}");
    assert_eq!(report["receipt"]["cause"], "operator", "{report:#}");
    assert_eq!(report["receipt"], here.receipt("a"));
    assert!(!is_alive(worker));
    held.launcher.wait().expect_status(128 + 15);
    // and the other goes on.
    assert!(is_alive(other.worker_pid(&here)));
    other.finish().expect_status(0);
}

#[test]
fn stop_of_what_is_not_alive_is_one_clear_line() {
    let here = installation();
    here.run(&["run", "--workload-id", "a", "--", "true"]).expect_status(0);

    here.run(&["stop", "a"]).expect_refusal(2, "stop.unknown");
}

/// The command decides when it is done; a key that it still needs is not taken away.
#[test]
fn stop_does_not_wait_for_ever_for_a_command_that_will_not_end() {
    let here = installation();
    let deaf = "trap '' TERM; echo ready; read -r _; exit 0";
    let mut launcher = here.evanesce(["run", "--workload-id", "a", "--", "sh", "-c", deaf]).start();
    assert_eq!(launcher.next_line(), "ready");

    here.run(&["stop", "a", "--timeout", "200ms"]).expect_refusal(1, "stop.timed-out");

    assert_eq!(here.json(&["ps"])[0]["workload_id"], "a");
    launcher.finish().expect_status(0);
}

/// A program that held a key without a cage: says its process id, and waits.
fn python(script: &str) -> Running {
    let mut command = Command::new("python3");
    command.args([
        "-c",
        &format!("import mmap, os\n{script}\nprint(os.getpid(), flush=True)\ninput()"),
    ]);
    Running::start(command)
}

/// Shreds it and returns the exit status and the report.
fn shred(here: &Installation, holder: &mut Running) -> (Option<i32>, Value) {
    let pid = holder.next_line();
    let outcome = here.run(&["shred", "--yes", "--json", "--pid", &pid]);
    let report = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{outcome:#?}"));
    (outcome.status.code(), report)
}

#[test]
fn a_python_program_that_held_a_key_is_shredded_with_a_receipt_that_verifies() {
    if peers::not_root() || peers::missing(&["python3"]) {
        return;
    }
    let here = installation();
    let mut holder = python("key = os.urandom(32) * 1000");

    let (status, report) = shred(&here, &mut holder);

    assert_eq!(
        (status, &report["receipt"]["fate"]),
        (Some(0), &"overwritten".into()),
        "{report:#}"
    );
    assert!(report["receipt"]["bytes_overwritten"].as_u64().unwrap() >= 32_000);
    assert_eq!(holder.wait().signal(), Some(9));
    here.run(&["audit", "verify"]).expect_status(0);
    let shown = here.run(&["audit", "show", "--last", "1"]).expect_status(0);
    assert!(shown.stdout.contains("shredded"), "{shown:#?}");
}

#[test]
fn what_another_process_or_a_file_still_has_makes_the_shred_incomplete() {
    if peers::not_root() || peers::missing(&["python3"]) {
        return;
    }
    let here = installation();
    let shared = "m = mmap.mmap(-1, 8192); m[:] = b'k' * 8192";
    let forked = "key = os.urandom(32) * 1000\nr, w = os.pipe()\n\
                  if os.fork() == 0:\n    os.close(w)\n    os.read(r, 1)\n    os._exit(0)";
    let file = here.file("key.bin", [0; 4096]);
    let mapped = format!("m = mmap.mmap(os.open({file:?}, os.O_RDWR), 4096); m[:3] = b'key'");

    for (script, member) in
        [(shared, "shared"), (forked, "copy_on_write"), (mapped.as_str(), "file_backed")]
    {
        let mut holder = python(script);
        let (status, report) = shred(&here, &mut holder);

        let receipt = &report["receipt"];
        assert_eq!((status, &receipt["fate"]), (Some(1), &"incomplete".into()), "{report:#}");
        assert!(receipt["left"][member].as_u64().unwrap() > 0, "{member}: {report:#}");
    }
    here.run(&["audit", "verify"]).expect_status(0);
}

#[test]
fn what_is_not_to_be_shredded_is_refused_and_lives_on() {
    if peers::not_root() {
        return;
    }
    // Given a workload, and a process that nobody confirms,
    let here = installation();
    let held = here.hold(&["--workload-id", "a"]);
    let worker = held.worker_pid(&here).to_string();
    let mut bystander = Running::start({
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; read -r _; exit 0"]);
        command
    });
    assert_eq!(bystander.next_line(), "ready");
    let pid = bystander.pid().to_string();

    // When each is to be shredded, then each is refused by name, and lives on.
    here.run(&["shred", "--yes", "--pid", &worker]).expect_refusal(1, "shred.is-workload");
    here.run(&["shred", "--pid", &pid]).expect_refusal(2, "shred.not-confirmed");
    here.run(&["shred", "--yes", "--pid", "1"]).expect_refusal(2, "shred.vital");
    here.run(&["shred", "--yes", "--pid", "999999999"]).expect_refusal(2, "shred.no-process");
    bystander.finish().expect_status(0);
    held.finish().expect_status(0);
}

#[test]
fn an_export_is_verified_elsewhere_by_the_command_and_by_python() {
    if peers::missing(&["python3", "tar"]) || peers::missing_python_cryptography() {
        return;
    }
    // Given a ledger with a workload's life,
    let here = installation();
    here.run(&["run", "--workload-id", "a", "--", "true"]).expect_status(0);

    // When it is exported and unpacked,
    let report = here.json(&["audit", "export", "--output", "ledger.tar"]);
    here.program("tar", ["-xf", "ledger.tar"]).output().expect_status(0);

    // Then the archive does not vouch for itself,
    let verify = ["--state-dir", "evanesce-ledger", "audit", "verify"];
    here.run(&verify).expect_status(3);
    // and with the notary's key from elsewhere both verifiers trust it, complete.
    let key = here.state_dir().join("notary/notary.pem");
    let key = key.to_str().unwrap();
    let given = ["--notary", key, "--checkpoint", "evanesce-ledger/checkpoint.json"];
    here.run(&[&verify[..], &given].concat()).expect_status(0);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/verify_ledger.py");
    let python = [&[script, "evanesce-ledger/ledger"], &given[..]].concat();
    let python = here.program("python3", python).output().expect_status(0);
    let verdict: Value = serde_json::from_str(&python.stdout).unwrap();
    assert_eq!((&verdict["outcome"], &verdict["checkpoint"]), (&"trusted".into(), &"holds".into()));
    // Nothing is written over by accident.
    let again = here.run(&["audit", "export", "--output", "ledger.tar"]);
    again.expect_refusal(2, "output.exists");
    assert_eq!(report["written"], "ledger.tar");
}
