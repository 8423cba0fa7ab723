//! Every end of a workload leaves no key and one receipt that says how.

use std::fs;
use std::iter::once;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use evanesce_tests::agent::{Agent, numbered_request};
use evanesce_tests::process::{DEADLINE, is_alive, send};
use evanesce_tests::{Held, Installation, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::installation;

/// Asserts what the one receipt of a workload says, and that the ledger holds together.
#[track_caller]
fn assert_receipt(here: &Installation, workload: &str, cause: &str, method: &str) -> Value {
    let receipt = here.receipt(workload);
    assert_eq!(receipt["cause"], cause, "{receipt:#}");
    assert_eq!(receipt["scrub"]["method"], method, "{receipt:#}");
    let verdict = here.json(&["audit", "verify"]);
    assert_eq!(verdict["outcome"], "trusted", "{verdict:#}");
    assert_eq!(verdict["open_workloads_count"], 0, "{verdict:#}");
    let rows = here.run(&["audit", "show", "--workload", workload, "--json"]).expect_status(0);
    let receipts = rows.stdout.matches(r#""event":"receipt""#).count();
    assert_eq!(receipts, 1, "{rows:#?}");
    receipt
}

/// A connection to a workload's agent that has signed once, and the key it signed with.
fn signed_once(held: &Held) -> (Agent, Vec<u8>) {
    let mut agent = Agent::connect(&held.socket).unwrap();
    let key = agent.keys().unwrap().swap_remove(0);
    agent.sign(&key, &numbered_request(0)).unwrap().expect("SSHSIG is granted by default");
    (agent, key)
}

#[test]
fn the_last_signature_of_the_budget_ends_the_key() {
    let here = installation();
    let held = here.hold(&["--workload-id", "w", "--signatures-max", "2"]);
    let worker = held.worker_pid(&here);

    let (mut agent, key) = signed_once(&held);
    agent.sign(&key, &numbered_request(1)).unwrap().expect("the second of two");
    // Whether the third is refused or the socket is dead by then, there is no signature.
    assert!(!matches!(agent.sign(&key, &numbered_request(2)), Ok(Some(_))));

    held.finish().expect_status(0);
    assert!(!is_alive(worker));
    let receipt = assert_receipt(&here, "w", "signatures-spent", WIPED);
    assert_eq!(receipt["signatures"]["count"], 2);
    assert_eq!(receipt["signatures"]["complete"], true);
}

#[test]
fn the_time_to_live_ends_the_key() {
    let here = installation();
    let held = here.hold(&["--workload-id", "w", "--ttl", "1s"]);

    let (mut agent, _) = signed_once(&held);
    assert_eq!(agent.answer().unwrap_or(None), None, "the agent hangs up by itself");

    held.finish().expect_status(0);
    assert_receipt(&here, "w", "time-to-live", WIPED);
}

#[test]
fn the_kill_switch_ends_the_key() {
    let here = installation();
    let held = here.hold(&["--workload-id", "w", "--kill-switch", "stop-it"]);

    let (mut agent, _) = signed_once(&held);
    fs::write(here.work_dir().join("another-file"), "").unwrap();
    let (_still_there, _) = signed_once(&held);
    fs::write(here.work_dir().join("stop-it"), "").unwrap();
    assert_eq!(agent.answer().unwrap_or(None), None, "the agent hangs up by itself");

    held.finish().expect_status(0);
    assert_receipt(&here, "w", "kill-switch", WIPED);
}

#[test]
fn a_kill_switch_that_is_set_already_stops_before_there_is_a_key() {
    let here = installation();
    here.file("stop-it", "");

    let refused = here.run(&["run", "--kill-switch", "stop-it", "--", "touch", "ran"]);

    refused.expect_status(125);
    assert_eq!(here.files(), ["stop-it"]);
}

#[test]
fn a_signal_to_the_launcher_reaches_the_command_and_the_scrub_is_done() {
    let here = installation();
    let held = here.hold(&["--workload-id", "w"]);
    signed_once(&held);

    held.launcher.signal(Signal::TERM);

    held.launcher.wait().expect_status(128 + 15);
    let receipt = here.receipt("w");
    assert_eq!(receipt["scrub"]["method"], WIPED, "{receipt:#}");
    assert_eq!(receipt["key"]["fate"], "destroyed", "{receipt:#}");
}

/// A service manager's stop reaches the worker as SIGTERM: it wipes between two signatures, and the
/// workload ends with it.
#[test]
fn a_worker_that_is_told_to_stop_wipes_and_the_command_is_told_as_well() {
    let here = installation();
    let held = here.hold(&["--workload-id", "w"]);
    signed_once(&held);

    send(held.worker_pid(&here), Signal::TERM);

    held.launcher.wait().expect_status(128 + 15);
    let receipt = assert_receipt(&here, "w", "operator", WIPED);
    assert_eq!(receipt["scrub"]["forced"]["happened"], "no", "{receipt:#}");
    assert_eq!(receipt["signatures"]["complete"], true, "{receipt:#}");
}

/// A service manager that stops a unit sends SIGTERM to every process in it, and looks again until
/// there is none that it has not sent it to: the notary's worker, which is started for the receipt,
/// gets it in the middle of its start.
#[test]
fn a_stop_that_reaches_what_is_started_for_the_receipt_leaves_a_whole_receipt() {
    let here = installation();
    let held = here.hold(&["--workload-id", "w"]);
    signed_once(&held);

    let launcher = held.launcher.pid();
    let (mut told, deadline) = (Vec::new(), Instant::now() + DEADLINE);
    while is_alive(launcher) && Instant::now() < deadline {
        for process in once(launcher).chain(children(launcher)) {
            if !told.contains(&process) {
                // One that has ended meanwhile is in no need of being told.
                let pid = i32::try_from(process).ok().and_then(Pid::from_raw).unwrap();
                kill_process(pid, Signal::TERM).ok();
                told.push(process);
            }
        }
    }

    // Launcher, worker, command, and the notary's worker.
    assert!(told.len() >= 4, "{told:?}");
    held.launcher.wait().expect_status(128 + 15);
    let receipt = here.receipt("w");
    assert_eq!(receipt["scrub"]["method"], WIPED, "{receipt:#}");
}

#[test]
fn a_killed_launcher_takes_its_worker_along_and_the_next_command_writes_the_receipt() {
    // Given a workload that has signed,
    let here = installation();
    let held = here.hold(&["--workload-id", "w"]);
    let worker = held.worker_pid(&here);
    signed_once(&held);

    // When its launcher is killed,
    let socket = held.socket.clone();
    held.launcher.signal(Signal::KILL);
    held.finish();

    // Then the worker ends by itself, nothing answers at the socket,
    wait_until("the worker has ended", || !is_alive(worker));
    UnixStream::connect(&socket).unwrap_err();
    // and the next command of whatever kind writes the receipt, which claims no scrub.
    assert_eq!(here.json(&["ps"]), serde_json::json!([]));
    let receipt = assert_receipt(&here, "w", "launcher-lost", "kernel");
    assert_eq!(receipt["signatures"]["count"], 1, "{receipt:#}");
    assert_eq!(receipt["signatures"]["complete"], false, "{receipt:#}");
    assert_claims_no_wipe(&receipt);
}

#[test]
fn a_killed_worker_is_receipted_as_cleared_by_the_kernel_and_the_signatures_as_incomplete() {
    let here = installation();
    let held = here.hold(&["--workload-id", "w"]);
    signed_once(&held);

    let worker = held.worker_pid(&here);
    send(worker, Signal::KILL);
    wait_until("the worker is dead", || !is_alive(worker));
    let outcome = held.finish();

    let receipt = assert_receipt(&here, "w", "worker-lost", "kernel");
    assert_eq!(receipt["signatures"]["complete"], false, "{receipt:#}");
    assert_claims_no_wipe(&receipt);
    let forced = &receipt["scrub"]["forced"];
    assert_eq!(forced["happened"], "by-signal", "{receipt:#}");
    assert_eq!(forced["kernel_clears"], receipt["host"]["init_on_free"], "{receipt:#}");
    let unproven = receipt["key"]["fate"] == "unproven";
    assert_eq!(outcome.status.code(), Some(if unproven { 125 } else { 0 }), "{outcome:#?}");
}

#[test]
fn a_stopped_worker_does_not_keep_its_key() {
    let here = installation();
    let held = here.hold(&["--workload-id", "w"]);
    let worker = held.worker_pid(&here);
    signed_once(&held);

    send(worker, Signal::STOP);
    held.finish();

    assert!(!is_alive(worker));
    let receipt = here.receipt("w");
    assert_eq!(receipt["scrub"]["method"], "kernel", "{receipt:#}");
    assert_claims_no_wipe(&receipt);
}

#[test]
fn an_output_directory_is_one_workloads_until_its_end() {
    let here = installation();
    fs::create_dir(here.work_dir().join("out")).unwrap();
    let held = here.hold(&["--workload-id", "first", "--output-dir", "out"]);

    let line = ["run", "--output-dir", "out", "--", "true"];
    let refused = here.run(&line).expect_refusal(125, "output-dir.busy");
    assert!(refused.stderr.contains("first"), "{refused:#?}");
    here.run(&["run", "--", "true"]).expect_status(0);

    held.finish().expect_status(0);
    here.run(&line).expect_status(0);
    assert_eq!(names(&here.work_dir().join("out")), [""; 0]);
}

#[test]
fn the_agents_socket_is_for_its_owner_alone_and_gone_with_its_key() {
    use std::os::unix::fs::PermissionsExt as _;
    let here = installation();
    let held = here.hold(&[]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;

    assert_eq!(mode(&held.socket), 0o600);
    assert_eq!(mode(held.socket.parent().unwrap()), 0o700);

    held.finish().expect_status(0);
    assert_eq!(names(&here.runtime_dir()), [""; 0]);
}

#[track_caller]
/// The children of a process, whichever of its threads started them.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect()
}

fn assert_claims_no_wipe(receipt: &Value) {
    let statements = receipt["scrub"]["statements"].as_array().unwrap();
    let claims: Vec<_> = statements.iter().map(|statement| &statement["claim"]).collect();
    for claim in ["regions-wiped-and-read-back", "private-pages-overwritten-and-read-back"] {
        assert!(!claims.contains(&&Value::from(claim)), "{receipt:#}");
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// The normal path.
const WIPED: &str = "worker-wiped-then-overwritten";
