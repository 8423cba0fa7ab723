//! What an auditor runs: certificates, searches for a canary, drills and playbooks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use evanesce_tests::process::{Outcome, Running, output};
use evanesce_tests::{Installation, peers};
use serde_json::Value;

use crate::{PROGRAM, installation};

fn report_of(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{outcome:#?}"))
}

/// The same checks for every page: `tests/check_page.py`.
fn assert_page_stands_alone(page: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/check_page.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(page);
    output(python).expect_status(0);
}

#[test]
fn the_certificate_of_a_key_stands_alone_and_has_the_digest_of_its_receipt() {
    if peers::missing(&["python3", "sha256sum"]) {
        return;
    }
    let here = installation();
    here.run(&["run", "--workload-id", "a", "--", "true"]).expect_status(0);

    let page = here.run(&["audit", "receipt", "a", "--format", "html"]).expect_status(0).stdout;

    let file = here.file("certificate.html", &page);
    assert_page_stands_alone(&file);
    let receipt = here.run(&["audit", "receipt", "a", "--format", "json"]).expect_status(0).stdout;
    let receipt = here.file("receipt.json", receipt);
    let mut sum = Command::new("sha256sum");
    sum.arg(receipt);
    let sum = output(sum).expect_status(0).stdout;
    assert!(page.contains(sum.split(' ').next().unwrap()), "{sum} is not in {page}");
}

#[test]
fn a_canary_is_found_where_it_lies_open_and_placed() {
    // Given a canary, and a process that has its seed on its heap,
    let here = installation();
    let made = here.json(&["drill", "canary", "new", "canary.pem"]);
    assert!(made["public_key"].as_str().unwrap().starts_with("ed25519:"));
    let canary = here.work_dir().join("canary.pem");
    assert_eq!(fs::metadata(&canary).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&canary).unwrap();
    let body = text.lines().rev().nth(1).unwrap();
    let mut holder = Running::start(Command::new(env!("CARGO_BIN_EXE_canary-holder")));
    holder.write(format!("{}\n\n", hex::encode(body)).as_bytes());
    assert_eq!(holder.next_line(), "holding");

    // When that process, a copy of the file and a file without it are searched,
    let copy = here.file("dump.core", &text);
    let pid = holder.pid().to_string();
    let scan = ["drill", "scan", "--canary", "canary.pem", "--json"];
    let found = here.run(&[&scan[..], &["--pid", &pid, "--core", copy.to_str().unwrap()]].concat());
    here.file("other", [7; 5000]);
    let clean = here.run(&[&scan[..], &["--file", "other", "--numbered", "3"]].concat());

    // Then both places are named, and the other file is clean.
    let found = report_of(&found.expect_status(1));
    assert_eq!(found["verdict"], "found");
    let places: Vec<_> = found["report"]["hits"].as_array().unwrap().iter().collect();
    let is_in = |part: &str| places.iter().any(|hit| hit["place"].as_str().unwrap().contains(part));
    assert!(is_in("[heap]") && is_in("dump.core"), "{places:#?}");
    let clean = report_of(&clean.expect_status(0));
    assert_eq!(
        (&clean["verdict"], &clean["canary"]["signatures"]),
        (&"nothing-found".into(), &3.into())
    );
    holder.finish();
}

#[test]
fn no_key_but_a_marked_canary_is_searched_for() {
    if peers::missing(&["openssl"]) {
        return;
    }
    let here = installation();
    let openssl = ["genpkey", "-algorithm", "ed25519", "-out", "real.pem"];
    here.program("openssl", openssl).output().expect_status(0);

    let scan = |canary| here.run(&["drill", "scan", "--canary", canary, "--file", "real.pem"]);

    scan("real.pem").expect_refusal(2, "canary.not-one");
    scan("none.pem").expect_refusal(2, "canary.read");
    here.run(&["drill", "canary", "new", "canary.pem"]).expect_status(0);
    here.run(&["drill", "canary", "new", "canary.pem"]).expect_refusal(2, "output.exists");
    here.run(&["drill", "scan", "--canary", "canary.pem"]).expect_refusal(2, "scan.nothing");
    let no_device = ["drill", "scan", "--canary", "canary.pem", "--device", "real.pem"];
    here.run(&no_device).expect_refusal(2, "scan.kind");
    let no_process = ["drill", "scan", "--canary", "canary.pem", "--pid", "999999999"];
    here.run(&no_process).expect_refusal(1, "scan.open");
}

#[test]
fn a_drill_shows_that_nothing_is_left_here_and_leaves_nothing_itself() {
    if peers::not_root() || peers::missing(&["gcore", "python3"]) {
        return;
    }
    let here = installation();
    let temporary = here.work_dir().join("tmp");
    fs::create_dir(&temporary).unwrap();

    let drill = here.evanesce(["drill", "--signatures", "100", "--html", "drill.html", "--json"]);
    let outcome = drill.env("TMPDIR", &temporary).output();

    let report = report_of(&outcome);
    for stage in report["stages"].as_array().unwrap() {
        assert_ne!(stage["outcome"], "does-not-hold", "{stage:#}");
    }
    // A machine with swap that cannot be looked into is a reason not to hold, and says so.
    let expected = if report["verdict"] == "holds" { 0 } else { 1 };
    assert_eq!(outcome.status.code(), Some(expected), "{report:#}");
    let names: Vec<_> =
        report["stages"].as_array().unwrap().iter().map(|stage| stage["name"].clone()).collect();
    for name in ["control-memory", "control-core", "alive-memory", "alive-core", "crash", "scrub"] {
        let stage = report["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == name);
        assert_eq!(stage.unwrap()["outcome"], "holds", "{name} of {names:?}: {report:#}");
    }
    assert_page_stands_alone(&here.work_dir().join("drill.html"));
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    assert!(!here.state_dir().exists(), "a drill needs no installation");
}

#[test]
fn a_drill_without_root_says_what_it_could_not_look_at_and_does_not_claim_to_hold() {
    if !peers::is_root() && peers::missing(&["gcore"]) {
        return;
    }
    let here = Installation::unprivileged(PROGRAM);

    let report = report_of(&here.run(&["drill", "--signatures", "10", "--json"]).expect_status(1));

    assert_eq!(report["verdict"], "incomplete", "{report:#}");
    let listed: Vec<_> = report["not_looked_at"].as_array().unwrap().iter().collect();
    let is_listed = |name: &str| listed.iter().any(|line| line.as_str().unwrap().starts_with(name));
    assert!(is_listed("alive-memory"), "{listed:#?}");
}

#[test]
fn a_playbook_stops_at_what_does_not_hold_and_goes_on_there() {
    if peers::missing(&["bash", "ssh-keygen", "sha256sum"]) {
        return;
    }
    // Given a playbook whose third step needs a file that is not there,
    let here = installation();
    let line = [
        "playbook",
        "run",
        "crypto-shred",
        "--yes",
        "--leave-out-missing",
        "--json",
        "--set",
        "SIGNATURES=10",
        "--set",
        "WORKLOAD=w",
    ];

    // When it is run, and run again with the file there,
    let stopped = report_of(&here.run(&line).expect_status(1));
    here.file("artifact.tar", "an artefact");
    let outcome = here.run(&line);

    // Then the first run stops there, and the second goes on there and does the rest.
    let outcomes = |report: &Value| -> Vec<String> {
        let steps = report["report"]["steps"].as_array().unwrap().iter();
        steps.map(|step| step["outcome"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(outcomes(&stopped).len(), 3, "{stopped:#}");
    assert_eq!(outcomes(&stopped)[2], "does-not-hold", "{stopped:#}");
    let done = report_of(&outcome);
    assert_eq!((&done["resumed"], outcomes(&done).len()), (&2.into(), 7), "{done:#}");
    assert!(outcomes(&done)[2..].iter().all(|outcome| outcome == "holds"), "{done:#}");
    // And both reports are in the ledger, signed.
    here.run(&["audit", "verify"]).expect_status(0);
    let rows = here.run(&["audit", "show"]).expect_status(0).stdout;
    assert_eq!(rows.matches("reported").count(), 2, "{rows}");
    assert_page_stands_alone(&here.work_dir().join("evidence/certificate.html"));
}

#[test]
fn a_playbook_destroys_nothing_that_nobody_confirmed() {
    if peers::missing(&["bash"]) {
        return;
    }
    let here = installation();
    let held = here.hold(&["--workload-id", "a"]);

    let line = ["playbook", "run", "suspected-exposure", "--set", "EVIDENCE=e"];
    let outcome = here.run(&line).expect_status(2);

    assert!(outcome.stderr.contains("[playbook.not-confirmed]"), "{outcome:#?}");
    assert_eq!(here.json(&["ps"])[0]["workload_id"], "a");
    // What was done until then stays done; other settings are another run.
    let other = ["playbook", "run", "suspected-exposure", "--set", "EVIDENCE=f"];
    let outcome = here.run(&other).expect_status(2);
    assert!(outcome.stderr.contains("[playbook.other-run]"), "{outcome:#?}");
    held.finish().expect_status(0);
}

#[test]
fn what_is_no_playbook_step_or_setting_is_refused() {
    let here = installation();

    here.run(&["playbook", "show", "nothing"]).expect_refusal(2, "playbook.none");
    let set = ["playbook", "run", "crypto-shred", "--set", "ARTEFACT=x"];
    here.run(&set).expect_refusal(2, "playbook.setting");
    let undo = ["playbook", "run", "crypto-shred", "--undo", "5", "--yes"];
    here.run(&undo).expect_refusal(2, "playbook.no-undo");
    let undo = ["playbook", "run", "crypto-shred", "--undo", "8", "--yes"];
    here.run(&undo).expect_refusal(2, "playbook.no-step");
    let listed = here.json(&["playbook", "list"]);
    assert!(listed.as_array().unwrap().len() >= 5);
}
