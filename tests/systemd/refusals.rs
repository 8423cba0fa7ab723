//! Where there is no unit to be had, or not the one that was asked for: a clear line, and no key.

use evanesce_tests::{Installation, Outcome};
use serde_json::Value;

use crate::{PROGRAM, installation, program, property};

const RUN: [&str; 6] = ["run", "--spawn", "systemd", "--", "touch", "ran"];

/// Asserts that a workload was refused by this code, that its command did not run, and that the
/// ledger knows of no key.
#[track_caller]
pub(crate) fn assert_refused(here: &Installation, outcome: Outcome, code: &str) {
    let outcome = outcome.expect_status(125);
    assert!(outcome.stderr.contains(&format!("[{code}]")), "{code}: {}", outcome.stderr);
    assert!(!here.work_dir().join("ran").exists(), "the command was run");
    assert_no_key(here);
}

#[track_caller]
pub(crate) fn assert_no_key(here: &Installation) {
    let rows = here.run(&["audit", "show", "--json"]);
    let is_loaded =
        |row: &str| serde_json::from_str::<Value>(row).is_ok_and(|row| row["event"] == "loaded");
    assert!(!rows.stdout.lines().any(is_loaded), "{}", rows.stdout);
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn without_dbus_there_is_no_key() {
    let here = installation();
    let hide = "mount -t tmpfs none /run/dbus && exec \"$0\" \"$@\"";

    let refused = here.evanesce_under(&["unshare", "--mount", "sh", "-c", hide], RUN).output();

    assert_refused(&here, refused, "systemd.no-bus");
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn without_systemd_there_is_no_key() {
    let here = installation();
    let hide = "mount -t tmpfs none /run/systemd && exec \"$0\" \"$@\"";

    let refused = here.evanesce_under(&["unshare", "--mount", "sh", "-c", hide], RUN).output();

    assert_refused(&here, refused, "systemd.none");
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_bus_that_nobody_answers_at_is_refused() {
    let here = installation();
    let replace =
        "mount -t tmpfs none /run/dbus && touch /run/dbus/system_bus_socket && exec \"$0\" \"$@\"";

    let refused = here.evanesce_under(&["unshare", "--mount", "sh", "-c", replace], RUN).output();

    assert_refused(&here, refused, "systemd.bus");
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn an_ordinary_user_is_told_that_it_takes_root() {
    let here = Installation::unprivileged(PROGRAM);

    let refused = here.run(&RUN);

    assert_refused(&here, refused, "systemd.not-root");
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_unit_of_the_same_name_is_left_alone() {
    let here = installation();
    let unit = "evanesce-taken.service";
    program(&["systemd-run", "--quiet", &format!("--unit={unit}"), "sleep", "600"])
        .expect_status(0);

    let named = ["run", "--spawn", "systemd", "--workload-id", "taken", "--", "touch", "ran"];
    let refused = here.run(&named);

    assert_eq!(property(unit, "ActiveState"), "active");
    program(&["systemctl", "stop", unit]).expect_status(0);
    assert_refused(&here, refused, "systemd.name-taken");
}

/// The worker's number belongs to somebody else here, or to nobody, and nobody is killed.
#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_worker_whose_proc_is_hidden_gets_no_key() {
    let here = installation();

    let elsewhere = ["unshare", "--pid", "--fork", "--mount-proc"];
    let refused = here.evanesce_under(&elsewhere, RUN).output();

    assert_refused(&here, refused, "systemd.hidden");
}

/// systemd says by a status what it could not do before it executed the worker.
#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_unit_that_systemd_cannot_start_is_refused_with_its_status() {
    let here = installation();
    for (more, status) in [
        (["--uid", "4321", "--gid", "4321"].as_slice(), "217"),
        (&["--load-credential", "evanesce.key:/not/there"], "243"),
    ] {
        let line = [&["run", "--spawn", "systemd"], more, &["--", "touch", "ran"]].concat();
        let refused = here.run(&line);

        assert!(refused.stderr.contains(&format!("exited with status {status}")), "{refused:?}");
        assert_refused(&here, refused, "systemd.not-started");
    }
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_worker_is_not_run_as_root() {
    let here = installation();

    let mut line = vec!["run", "--spawn", "systemd", "--uid", "0", "--gid", "0"];
    line.extend(["--", "touch", "ran"]);

    assert_refused(&here, here.run(&line), "start.no-own-user");
}
