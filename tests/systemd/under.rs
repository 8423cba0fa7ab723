//! evanesce in a unit that an operator made: `systemd-run`.

use std::fs;
use std::path::Path;

use evanesce_tests::Installation;
use serde_json::Value;

use crate::{PROGRAM, installation, program};

const USER: &str = "65534";

fn launcher_unit(receipt: &Value) -> &str {
    receipt["placement"]["launcher_unit"].as_str().unwrap_or_default()
}

/// The invocation that the documentation names, with a Node program that has no dependencies.
#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_node_program_signs_in_a_scope_of_another_user() {
    let here = Installation::unprivileged(PROGRAM);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/node/run.mjs");
    let script = here.file("run.mjs", fs::read(source).unwrap());
    here.file("artifact", "content");
    let as_user = [format!("--uid={USER}"), format!("--gid={USER}")];
    let home = format!("--setenv=HOME={}", here.root().join("home").display());

    // As root: systemd-run changes the user itself.
    let run = program(&[
        "systemd-run",
        "--quiet",
        &as_user[0],
        &as_user[1],
        "--scope",
        &home,
        &format!("--working-directory={}", here.work_dir().display()),
        &format!("--setenv=EVANESCE={}", here.program_file().display()),
        &format!("--setenv=EVANESCE_STATE_DIR={}", here.state_dir().display()),
        &format!("--setenv=RUNTIME_DIRECTORY={}", here.runtime_dir().display()),
        "node",
        script.to_str().unwrap(),
        "--workload-id",
        "node-1",
        "artifact",
    ])
    .expect_status(0);

    assert!(run.stdout.contains("signed artifact as workload node-1"), "{run:?}");
    here.run(&["verify", "artifact"]).expect_status(0);
    let receipt = here.receipt("node-1");
    assert_eq!(receipt["signatures"]["count"], 1, "{receipt:#}");
    assert_eq!(receipt["placement"]["spawn"], "direct", "{receipt:#}");
    let unit = launcher_unit(&receipt);
    assert!(unit.starts_with("run-") && unit.ends_with(".scope"), "{receipt:#}");
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_service_of_an_operator_is_named_in_the_receipt() {
    let here = installation();

    program(&[
        "systemd-run",
        "--quiet",
        "--wait",
        "--unit=release.service",
        "-p",
        "LimitMEMLOCK=8M",
        &format!("--setenv=EVANESCE_STATE_DIR={}", here.state_dir().display()),
        &format!("--setenv=RUNTIME_DIRECTORY={}", here.runtime_dir().display()),
        PROGRAM,
        "run",
        "--workload-id",
        "w",
        "--spawn",
        "systemd",
        "--",
        "true",
    ])
    .expect_status(0);

    let receipt = here.receipt("w");
    assert_eq!(launcher_unit(&receipt), "release.service", "{receipt:#}");
    assert_eq!(receipt["placement"]["unit"], "evanesce-w.service", "{receipt:#}");
}

/// Each is a valid unit, and the services keep what they promise of themselves.
#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn the_shipped_files_are_taken_by_systemd() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let path = |name: &str| shipped.join(name).display().to_string();
    program(&["systemd-tmpfiles", "--create", &path("evanesce.tmpfiles.conf")]).expect_status(0);
    program(&["systemd-sysusers", &path("evanesce.sysusers.conf")]).expect_status(0);
    program(&["getent", "passwd", "evanesce"]).expect_status(0);
    for (source, unit) in [
        ("evanesce@.service", "evanesce@.service"),
        ("evanesce-recover.service", "evanesce-recover.service"),
        ("evanesce-serve.service", "evanesce-serve.service"),
        ("evanesce-serve.socket", "evanesce-serve.socket"),
    ] {
        let text = fs::read_to_string(shipped.join(source)).unwrap();
        let text = text.replace("/usr/bin/evanesce", PROGRAM);
        fs::write(Path::new("/run/systemd/system").join(unit), text).unwrap();
    }
    fs::create_dir_all("/etc/evanesce/commands").unwrap();
    fs::copy("/usr/bin/true", "/etc/evanesce/commands/nothing").unwrap();
    program(&["systemctl", "daemon-reload"]).expect_status(0);

    program(&["systemctl", "start", "--wait", "evanesce@nothing.service"]).expect_status(0);
    let result = crate::property("evanesce@nothing.service", "Result");
    assert_eq!(result, "success");
    let ledger = "--state-dir=/var/lib/evanesce-commands";
    let rows = program(&[PROGRAM, "audit", "show", "--json", ledger]).expect_status(0);
    assert!(rows.stdout.contains(r#""event":"receipt""#), "{rows:?}");
    program(&["systemctl", "start", "evanesce-recover.service"]).expect_status(0);
}
