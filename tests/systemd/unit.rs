//! What a worker's unit is, and how it ends.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use evanesce_tests::process::{is_alive, send};
use evanesce_tests::{Held, Installation, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{installation, program, property, units};

fn hold(here: &Installation, more: &[&str]) -> Held {
    here.hold(&[&["--spawn", "systemd", "--workload-id", "w"], more].concat())
}

/// A line of a file of `/proc/PID`, by its start.
#[track_caller]
fn line(pid: u32, file: &str, start: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(start));
    let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
    words.join(" ")
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn every_setting_of_the_unit_is_in_force() {
    let here = installation();
    let held = hold(&here, &["--ttl", "5m"]);
    let (unit, pid) = ("evanesce-w.service", held.worker_pid(&here));

    // By systemd's word,
    for (name, wanted) in [
        ("ActiveState", "active"),
        ("MainPID", pid.to_string().as_str()),
        ("DynamicUser", "yes"),
        ("LimitCORE", "0"),
        ("LimitMEMLOCK", "2097152"),
        ("MemorySwapMax", "0"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("PrivateNetwork", "yes"),
        ("RestrictAddressFamilies", "AF_UNIX"),
        ("MemoryDenyWriteExecute", "yes"),
        ("CapabilityBoundingSet", ""),
        ("KeyringMode", "private"),
        ("ProtectProc", "invisible"),
        ("RuntimeMaxUSec", "5min 30s"),
        ("CollectMode", "inactive-or-failed"),
    ] {
        assert_eq!(property(unit, name), wanted, "{name}");
    }
    let calls = property(unit, "SystemCallFilter");
    let has = |call: &str| calls.split(' ').any(|found| found == call);
    assert!(has("memfd_secret") && !has("ptrace") && !has("mount"), "{calls}");

    // and by the kernel's.
    let uid = line(pid, "status", "Uid:");
    let uid = uid.split(' ').next().unwrap();
    assert!(uid.parse::<u32>().unwrap() >= 61184, "{uid} is a dynamic user");
    for (start, wanted) in [
        ("CapBnd:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
        ("Groups:", uid),
    ] {
        assert_eq!(line(pid, "status", start), wanted, "{start}");
    }
    assert_eq!(line(pid, "limits", "Max core file size"), "0 0 bytes");
    assert_eq!(line(pid, "limits", "Max locked memory"), "2097152 2097152 bytes");
    assert!(line(pid, "cgroup", "0::").ends_with("/evanesce-w.service"));
    let net = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(net("self"), net(&pid.to_string()));

    // The receipt says that it was looked at, and where the worker was.
    held.finish().expect_status(0);
    let receipt = here.receipt("w");
    let statements = receipt["scrub"]["statements"].as_array().unwrap();
    for claim in ["unit-settings", "own-user", "own-namespaces", "not-swapped", "secret-pages"] {
        assert!(statements.iter().any(|s| s["claim"] == claim), "{claim}: {receipt:#}");
    }
    assert_eq!(receipt["placement"]["spawn"], "systemd", "{receipt:#}");
    assert_eq!(receipt["placement"]["unit"], unit, "{receipt:#}");
    assert_eq!(receipt["separation"]["workload"], "other-uid", "{receipt:#}");
    assert_eq!(receipt["key"]["fate"], "destroyed", "{receipt:#}");
    assert_eq!(receipt["scrub"]["unproven"], Value::Null, "{receipt:#}");
    let gone = statements.iter().find(|s| s["claim"] == "process-gone").unwrap();
    assert!(gone["detail"].as_str().unwrap().ends_with("ended by signal 9"), "{gone}");
    assert_eq!(units(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_worker_runs_as_the_user_and_group_that_are_named() {
    let here = installation();
    let users = "--inline";
    program(&["systemd-sysusers", users, "g signing 1300", "u signing 1200:1300"]).expect_status(0);
    let held = hold(&here, &["--uid", "1200", "--gid", "1300"]);
    let pid = held.worker_pid(&here);

    assert_eq!(line(pid, "status", "Uid:"), "1200 1200 1200 1200");
    assert_eq!(line(pid, "status", "Gid:"), "1300 1300 1300 1300");
    held.finish().expect_status(0);
}

/// systemd reads key and passphrase; neither worker nor launcher has to be able to.
#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_sealed_key_and_its_passphrase_come_as_credentials_of_the_unit() {
    let here = installation();
    here.file("artifact", "content");
    let passphrase = here.file("passphrase", "correct horse battery staple\n");
    let key = here.work_dir().join("release.age");
    let (key, passphrase) = (key.to_str().unwrap(), passphrase.to_str().unwrap());
    let make = format!("exec \"$0\" \"$@\" 3< {passphrase}");
    let new = ["key", "new", key, "--new-passphrase-fd", "3"];
    here.evanesce_under(&["sh", "-c", &make], new).output().expect_status(0);
    let encrypted = here.work_dir().join("passphrase.cred");
    let encrypted = encrypted.to_str().unwrap();
    let name = "--name=evanesce.passphrase";
    program(&["systemd-creds", "--with-key=host", name, "encrypt", passphrase, encrypted])
        .expect_status(0);

    let [key, clear, sealed] = [
        format!("evanesce.key:{key}"),
        format!("evanesce.passphrase:{passphrase}"),
        format!("evanesce.passphrase:{encrypted}"),
    ];
    let sign = "ssh-keygen -q -Y sign -f \"$EVANESCE_PUBLIC_KEY_FILE\" -n file artifact";
    for (flag, passphrase) in
        [("--load-credential", &clear), ("--load-credential-encrypted", &sealed)]
    {
        let mut line = vec!["run", "--spawn", "systemd", "--load-credential", &key, flag];
        line.extend([passphrase.as_str(), "--", "sh", "-c", sign]);
        here.run(&line).expect_status(0);
        here.run(&["verify", "artifact"]).expect_status(0);
        fs::remove_file(here.work_dir().join("artifact.sig")).unwrap();
    }
    assert_eq!(units(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_command_signs_through_the_agent_of_a_unit() {
    let here = installation();
    here.file("artifact", "content");

    let command = "ssh-keygen -q -Y sign -f \"$EVANESCE_PUBLIC_KEY_FILE\" -n file artifact";
    here.run(&["run", "--spawn", "systemd", "--", "sh", "-c", command]).expect_status(0);

    here.run(&["verify", "artifact"]).expect_status(0);
}

/// Whoever stops the unit stops the workload: the worker wipes between two signatures, the command
/// is told to end, and the receipt is written at once.
#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn systemctl_stop_ends_the_workload_with_a_scrub_and_a_receipt() {
    let here = installation();
    let held = hold(&here, &[]);

    program(&["systemctl", "stop", "evanesce-w.service"]).expect_status(0);

    held.launcher.wait().expect_status(128 + 15);
    let receipt = here.receipt("w");
    assert_eq!(receipt["cause"], "operator", "{receipt:#}");
    assert_eq!(receipt["scrub"]["method"], "worker-wiped-then-overwritten", "{receipt:#}");
    assert_eq!(receipt["scrub"]["forced"]["happened"], "no", "{receipt:#}");
    assert_eq!(receipt["key"]["fate"], "destroyed", "{receipt:#}");
    assert_eq!(units(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_unit_that_is_killed_is_receipted_as_a_forced_end() {
    let here = installation();
    let held = hold(&here, &[]);

    program(&["systemctl", "kill", "-s", "KILL", "evanesce-w.service"]).expect_status(0);
    wait_until("the unit has ended", || {
        !["active", "deactivating"]
            .contains(&property("evanesce-w.service", "ActiveState").as_str())
    });

    held.finish().expect_status(0);
    let receipt = here.receipt("w");
    assert_eq!(receipt["cause"], "worker-lost", "{receipt:#}");
    assert_eq!(receipt["scrub"]["forced"]["happened"], "by-signal", "{receipt:#}");
    assert_eq!(units(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_killed_launcher_takes_its_unit_along_and_the_next_command_writes_the_receipt() {
    let here = installation();
    let held = hold(&here, &[]);
    let worker = held.worker_pid(&here);

    send(held.launcher.pid(), Signal::KILL);
    held.finish();

    wait_until("the worker has ended", || !is_alive(worker));
    wait_until("the unit is gone", || units().is_empty());
    assert_eq!(here.json(&["ps"]), json!([]));
    let receipt = here.receipt("w");
    assert_eq!(receipt["cause"], "launcher-lost", "{receipt:#}");
    assert_eq!(receipt["placement"]["unit"], "evanesce-w.service", "{receipt:#}");
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn auto_asks_systemd_where_it_may_and_does_without_where_it_may_not() {
    let spawn = |here: &Installation| {
        here.run(&["run", "--spawn", "auto", "--workload-id", "w", "--", "true"]).expect_status(0);
        here.receipt("w")["placement"]["spawn"].clone()
    };

    assert_eq!(spawn(&installation()), "systemd");
    assert_eq!(spawn(&Installation::unprivileged(crate::PROGRAM)), "direct");
}

/// systemd's own words about the process that it starts are written by that process, after the
/// filter is up: they take system calls as well.
#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_unit_starts_where_systemd_logs_everything() {
    let here = installation();
    let level = program(&["systemctl", "log-level"]).expect_status(0).stdout;
    program(&["systemctl", "log-level", "debug"]).expect_status(0);

    let ended = here.run(&["run", "--spawn", "systemd", "--workload-id", "w", "--", "true"]);

    program(&["systemctl", "log-level", level.trim_end()]).expect_status(0);
    ended.expect_status(0);
    assert_eq!(here.receipt("w")["key"]["fate"], "destroyed");
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_name_can_be_used_again_at_once() {
    let here = installation();
    for _ in 0..5 {
        here.run(&["run", "--spawn", "systemd", "--workload-id", "again", "--", "true"])
            .expect_status(0);
    }
}

/// What is left after 200 workloads is what was there before the first.
#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn two_hundred_units_leave_nothing() {
    let here = installation();
    let run = || {
        here.run(&["run", "--quiet", "--spawn", "systemd", "--", "true"]).expect_status(0);
    };
    run();
    let before = traces(&here);

    for _ in 0..200 {
        run();
    }

    wait_until("nothing is left", || traces(&here) == before);
    assert_eq!(units(), [] as [&str; 0]);
}

/// Units, control groups, sockets and files that a unit could leave.
fn traces(here: &Installation) -> Vec<String> {
    let mut traces = units();
    for directory in [
        "/sys/fs/cgroup/system.slice",
        "/run/systemd/transient",
        "/run/systemd/units",
        "/run/systemd/dynamic-uid",
        "/run/credentials",
        "/var/lib/private",
        "/var/lib/evanesce-worker",
        "/tmp",
        "/var/tmp",
    ] {
        traces.extend(names(Path::new(directory)).into_iter().filter(|name| {
            // What systemd makes of evanesce's units, its private /tmp included.
            name.contains("evanesce") || directory.ends_with("dynamic-uid")
        }));
    }
    traces.extend(names(&here.runtime_dir()));
    traces.extend(names(&here.state_dir().join("workloads")));
    traces
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Prints the figures; a machine with other work on it says nothing about them.
#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
#[expect(clippy::print_stdout, reason = "the figures are what this is for")]
fn what_a_unit_costs_over_a_plain_systemd_run() {
    let here = installation();
    let evanesce = ["run", "--quiet", "--spawn", "systemd", "--", "true"];
    let direct = ["run", "--quiet", "--", "true"];
    let settings = settings_of_a_worker();
    let systemd_run = |more: &[String]| {
        let start = ["systemd-run", "--quiet", "--wait"];
        let words: Vec<_> = start.into_iter().chain(more.iter().map(String::as_str)).collect();
        program(&[&words[..], &["true"]].concat()).expect_status(0);
    };
    let (mut ours, mut launchers, mut plain, mut walled) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        // The kernel clears up behind a unit with namespaces for a while: what comes right after it
        // is slower. Neither of the two that are compared does.
        walled.push(time(|| systemd_run(&settings)));
        plain.push(time(|| systemd_run(&[])));
        ours.push(time(|| drop(here.run(&evanesce).expect_status(0))));
        launchers.push(time(|| drop(here.run(&direct).expect_status(0))));
    }
    let [ours, launchers, plain, walled] = [ours, launchers, plain, walled].map(median);

    println!(
        "figure: median of {ROUNDS}: systemd-run --wait true {plain:?}, the same with a worker's \
         settings {walled:?}, evanesce run --spawn systemd -- true {ours:?}, evanesce run -- true \
         {launchers:?}; more than systemd-run: {:?}, and with the settings: {:?}",
        ours.saturating_sub(plain),
        ours.saturating_sub(walled),
    );
}

/// What a worker's unit is asked for, as options of systemd-run; what says which program it runs,
/// and where that writes to, is left out.
fn settings_of_a_worker() -> Vec<String> {
    let shipped =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/systemd/evanesce-worker.service");
    let text = fs::read_to_string(shipped).unwrap();
    let (_, service) = text.split_once("[Service]\n").unwrap();
    let is_setting = |line: &&str| {
        !["Exec", "Standard", "SuccessExitStatus"].iter().any(|start| line.starts_with(start))
    };
    service.lines().filter(is_setting).map(|line| format!("--property={line}")).collect()
}

fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

const ROUNDS: usize = 31;
