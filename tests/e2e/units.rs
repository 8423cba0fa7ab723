//! Units and grades, as far as they can be seen without a systemd that runs: `tests/systemd` has the
//! rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use evanesce_tests::{Installation, peers, process};
use serde_json::Value;

use crate::{PROGRAM, installation};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The exposure that systemd itself computes of what the launcher asks it for: 2.0 at most.
#[test]
fn systemd_calls_the_workers_unit_safe() {
    if peers::missing(&["systemd-analyze"]) {
        return;
    }
    let here = installation();
    let shipped = repository().join("packaging/systemd/evanesce-worker.service");
    let text = fs::read_to_string(shipped).unwrap();
    // It wants a program that is there.
    let text = text.replace("/usr/lib/evanesce/evanesce-worker", "/bin/true");
    let unit = here.file("evanesce-worker.service", text);

    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=yes", "--no-pager", "--threshold=20"]).arg(unit);

    process::output(analyze).expect_status(0);
}

#[test]
fn where_there_is_no_systemd_a_unit_is_refused_and_auto_does_without() {
    let here = Installation::unprivileged(PROGRAM);
    let is_booted = Path::new("/run/systemd/system").is_dir();

    let refused = here.run(&["run", "--spawn", "systemd", "--", "touch", "ran"]);
    let auto = here.run(&["run", "--spawn", "auto", "--workload-id", "w", "--", "touch", "ran"]);

    let code = if is_booted { "systemd.not-root" } else { "systemd.none" };
    refused.expect_refusal(125, code);
    auto.expect_status(0);
    assert_eq!(here.receipt("w")["placement"]["spawn"], "direct");
}

#[test]
fn a_user_for_a_worker_that_systemd_does_not_start_is_refused() {
    let refused = installation().run(&["run", "--uid", "1200", "--gid", "1200", "--", "true"]);

    refused.expect_refusal(125, "run.spawn-user");
}

/// `doctor` and a receipt of the same host say the same.
#[test]
fn a_receipt_has_the_grades_that_doctor_prints() {
    let here = installation();
    let doctor = here.run(&["doctor", "--json"]);
    let doctor: Value = serde_json::from_str(&doctor.stdout).unwrap();

    here.run(&["run", "--workload-id", "w", "--", "true"]).expect_status(0);

    let names = |grades: &Value| -> Vec<(String, String)> {
        let grades = grades.as_array().unwrap();
        grades.iter().map(|g| (g["promise"].to_string(), g["grade"].to_string())).collect()
    };
    let receipt = here.receipt("w");
    assert_eq!(names(&receipt["grades"]), names(&doctor["grades"]), "{receipt:#}");
    assert_eq!(names(&receipt["grades"]).len(), 4);
    let first = receipt["grades"][0]["evidence"].as_array().unwrap();
    assert!(first.iter().any(|e| e.as_str().unwrap().starts_with("host.init-on-free ")));
}

/// The condition is looked at before there is a key, and says what is missing.
#[test]
fn a_grade_that_this_host_does_not_reach_is_refused_before_the_key_is_loaded() {
    let here = installation();
    let doctor = here.run(&["doctor", "--json"]);
    let doctor: Value = serde_json::from_str(&doctor.stdout).unwrap();
    for graded in doctor["grades"].as_array().unwrap() {
        let promise = graded["promise"].as_str().unwrap();
        let is_kept = graded["grade"] == "provable";
        let required = format!("{promise}=provable");

        let run =
            here.run(&["run", "--require", &required, "--workload-id", promise, "--", "true"]);

        match is_kept {
            true => drop(run.expect_status(0)),
            false => {
                let run = run.expect_refusal(125, "start.grades");
                assert!(run.stderr.contains(promise), "{}", run.stderr);
                let rows = here.run(&["audit", "show", "--workload", promise, "--json"]);
                assert!(!rows.stdout.contains(r#""event":"loaded""#), "{}", rows.stdout);
            }
        }
    }
}

#[test]
fn a_node_program_without_dependencies_signs_through_the_agent() {
    if peers::missing(&["node"]) {
        return;
    }
    let here = installation();
    let script =
        here.file("run.mjs", fs::read(repository().join("examples/node/run.mjs")).unwrap());
    here.file("artifact", "content");
    let line = [script.to_str().unwrap(), "--workload-id", "node-1", "artifact"];

    let run = here.program("node", line).env("EVANESCE", here.program_file()).output();

    run.expect_status(0);
    here.run(&["verify", "artifact"]).expect_status(0);
    assert_eq!(here.receipt("node-1")["signatures"]["count"], 1);
}
