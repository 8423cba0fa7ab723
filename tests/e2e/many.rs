//! Many workloads side by side, that do not know of each other.

use std::collections::BTreeSet;
use std::fs;

use evanesce_protocol::limits::LOCKED_BYTES_MAX;
use evanesce_tests::process::is_alive;
use evanesce_tests::{Held, peers};

use crate::installation;

#[test]
fn a_hundred_workloads_fit_into_a_gibibyte_and_all_end_with_a_receipt() {
    if peers::not_root() {
        return;
    }
    // Given a hundred workloads at once,
    let here = installation();
    let held: Vec<Held> = (0..WORKLOADS).map(|_| here.hold(&["--quiet"])).collect();

    // Then `ps` lists each once, with processes that live,
    let listed = here.json(&["ps"]);
    let listed = listed.as_array().unwrap();
    let ids: BTreeSet<_> =
        listed.iter().map(|entry| entry["workload_id"].as_str().unwrap()).collect();
    assert_eq!((listed.len(), ids.len()), (WORKLOADS, WORKLOADS));
    let pids: Vec<_> = ["worker_pid", "launcher_pid"]
        .into_iter()
        .flat_map(|name| listed.iter().map(move |entry| entry[name].as_u64().unwrap()))
        .collect();
    assert!(pids.iter().all(|pid| is_alive(u32::try_from(*pid).unwrap())));

    // all of them fit,
    let pss_kib: u64 = pids.iter().map(|pid| field_kib(*pid, "smaps_rollup", "Pss:")).sum();
    let locked_kib: Vec<_> =
        pids[..WORKLOADS].iter().map(|pid| field_kib(*pid, "status", "VmLck:")).collect();
    let most_kib = locked_kib.iter().max().unwrap();
    assert!(pss_kib <= 1024 * 1024, "{pss_kib} KiB PSS");
    assert!(locked_kib.iter().all(|kib| *kib <= LOCKED_BYTES_MAX / 1024), "{most_kib} KiB");
    report(&format!(
        "{WORKLOADS} workloads: {pss_kib} KiB PSS, at most {most_kib} KiB locked each"
    ));

    // and each ends with a receipt of its own.
    for held in held {
        let id = held.id.clone();
        held.finish().expect_status(0);
        assert_eq!(here.receipt(&id)["key"]["fate"], "destroyed");
    }
    let verdict = here.json(&["audit", "verify"]);
    assert_eq!(verdict["outcome"], "trusted", "{verdict:#}");
    assert_eq!(verdict["open_workloads_count"], 0);
}

#[test]
fn the_key_of_one_workload_does_not_sign_for_another() {
    use evanesce_tests::agent::{Agent, numbered_request};
    let here = installation();
    let (one, other) = (here.hold(&[]), here.hold(&[]));
    let keys = |held: &Held| Agent::connect(&held.socket).unwrap().keys().unwrap();

    let mut agent = Agent::connect(&one.socket).unwrap();
    for key in keys(&other) {
        assert_eq!(agent.sign(&key, &numbered_request(0)).unwrap(), None);
    }
    for key in keys(&one) {
        assert!(agent.sign(&key, &numbered_request(0)).unwrap().is_some());
    }

    one.finish().expect_status(0);
    other.finish().expect_status(0);
}

fn field_kib(pid: u64, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[expect(clippy::print_stderr, reason = "a figure that the documents quote")]
fn report(figure: &str) {
    eprintln!("{figure}");
}

const WORKLOADS: usize = 100;
