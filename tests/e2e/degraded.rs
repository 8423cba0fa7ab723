//! A host without secret pages: nothing is loaded, unless that guarantee was given up by name.
//!
//! The programs here run on what looks to them like a kernel without `memfd_secret(2)`. Their
//! guarded memory can be read by root then, which the last test needs: it looks into a worker at
//! its last moment.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use evanesce_residue::{Canary, Scanner, unwatched};
use evanesce_tests::process::send;
use evanesce_tests::{Installation, peers};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;
use serde_json::json;

use crate::{PROGRAM, installation};

#[test]
fn without_secret_pages_no_key_is_loaded_and_the_refusal_names_the_way_out() {
    let here = installation();

    let refused = here.evanesce_under(WITHOUT_SECRET_PAGES, ["run", "--", "touch", "ran"]).output();

    let refused = refused.expect_refusal(125, "worker.secret-pages");
    assert!(refused.stderr.contains("--allow-degraded=secret-pages"), "{refused:#?}");
    assert!(!here.work_dir().join("ran").exists());
    assert_eq!(here.json(&["ps"]), json!([]));
}

#[test]
fn secret_pages_that_are_given_up_by_name_are_missing_by_name_in_everything() {
    let here = installation();
    let given_up = "--allow-degraded=secret-pages";

    // Where the host has none,
    let line = ["run", "--workload-id", "degraded", given_up, "--", "true"];
    let degraded = here.evanesce_under(WITHOUT_SECRET_PAGES, line).output().expect_status(0);

    // Then text, receipt and ledger say so, of the workload's key and of the notary's,
    assert!(degraded.stderr.contains("given up  secret-pages"), "{degraded:#?}");
    assert!(degraded.stderr.contains("its key in locked pages"), "{degraded:#?}");
    let receipt = here.receipt("degraded");
    assert_eq!(receipt["degraded"], json!(["secret-pages"]));
    assert_eq!(receipt["separation"]["notary_memory"], "locked-pages");
    let claims = receipt["scrub"]["statements"].as_array().unwrap();
    let claimed = |name| claims.iter().any(|statement| statement["claim"] == name);
    assert!(claimed("locked-bytes"), "{receipt:#}");
    assert!(!claimed("secret-pages") && !claimed("secret-pages-cleared-on-free"), "{receipt:#}");
    here.run(&["audit", "verify"]).expect_status(0);

    // and where it has them, giving them up takes nothing away.
    here.run(&["run", "--workload-id", "strict", given_up, "--", "true"]).expect_status(0);
    let receipt = here.receipt("strict");
    assert_eq!(receipt["separation"]["notary_memory"], "secret-pages");
    let claims = receipt["scrub"]["statements"].as_array().unwrap();
    assert!(claims.iter().any(|statement| statement["claim"] == "secret-pages"), "{receipt:#}");
}

#[test]
fn a_worker_whose_invariant_breaks_has_wiped_before_it_is_dead() {
    if peers::not_root() {
        return;
    }
    // Given a worker with a known key in memory that root can read,
    let here = Installation::new(PROGRAM);
    let canary = Canary::random().unwrap();
    let scanner = Scanner::new(&canary.forms(&[]));
    let key = here.file("canary.pem", canary.to_pkcs8_pem());
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let workload = env!("CARGO_BIN_EXE_signing-workload");
    let key = key.to_str().unwrap();
    let line = [
        "run",
        "--key",
        key,
        "--workload-id",
        "broken",
        "--allow-degraded=secret-pages",
        "--",
        workload,
        "10",
    ];
    let mut launcher = here.evanesce_under(WITHOUT_SECRET_PAGES, line).start();
    assert!(launcher.next_line().starts_with("signed "));
    let listed = here.json(&["ps"]);
    let worker = u32::try_from(listed[0]["worker_pid"].as_u64().unwrap()).unwrap();
    let pid = Pid::from_raw(i32::try_from(worker).unwrap());
    ptrace::seize(pid, Options::PTRACE_O_TRACEEXIT).unwrap();
    let alive = scanner.scan_process(worker, &mut unwatched()).unwrap();
    assert!(!alive.found_nothing(), "the control: the key can be read while it lives");

    // When it gets what only a guest that runs for ever would get,
    send(worker, Signal::XCPU);
    let ended = until_exit(pid);

    // Then it aborts, and at its last moment, its memory still mapped, nothing of the key is there.
    assert_eq!(ended, libc::SIGABRT);
    let at_exit = scanner.scan_process(worker, &mut unwatched()).unwrap();
    assert!(at_exit.bytes_scanned > 0);
    assert!(at_exit.found_nothing(), "{:#?}", at_exit.hits);
    ptrace::detach(pid, None).unwrap();

    // And the receipt says that the worker was dead already.
    let ended = launcher.finish();
    assert_eq!(here.receipt("broken")["scrub"]["method"], "kernel", "{ended:#?}");
}

/// Lets a traced process run until it exits, and gives the signal that it exits with.
fn until_exit(pid: Pid) -> i32 {
    loop {
        match waitpid(pid, None).unwrap() {
            WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal).unwrap(),
            WaitStatus::PtraceEvent(..) => {
                let status = i32::try_from(ptrace::getevent(pid).unwrap()).unwrap();
                assert!(libc::WIFSIGNALED(status), "exits with status {status:#x}");
                return libc::WTERMSIG(status);
            }
            other => panic!("the process ended unseen: {other:?}"),
        }
    }
}

/// What runs a program without secret pages.
const WITHOUT_SECRET_PAGES: &[&str] = &[env!("CARGO_BIN_EXE_without-secret-pages")];
