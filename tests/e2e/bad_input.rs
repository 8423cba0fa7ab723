//! What is wrong is refused with one clear line, a documented status, and nothing left behind.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use evanesce_tests::{Installation, Outcome, peers};
use serde_json::Value;

use crate::{PROGRAM, installation};

/// Of `run`: evanesce refused.
const REFUSED: i32 = 125;

/// Runs a command that would leave a trace, with these arguments of `run`.
fn run(here: &Installation, args: &[&str]) -> Outcome {
    here.run(&[&["run"], args, &["--", "touch", "ran"]].concat())
}

/// Asserts that no command was run, no socket was left and no worker lives.
#[track_caller]
fn assert_nothing_left(here: &Installation) {
    assert!(!here.work_dir().join("ran").exists(), "the command was run");
    assert_eq!(here.json(&["ps"]), serde_json::json!([]));
    let left: Vec<_> = fs::read_dir(here.runtime_dir()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // Where there never was a key there is no notary yet, so nobody has signed the ledger.
    let verdict = here.evanesce(["audit", "verify", "--json"]).output();
    let verdict: Value = serde_json::from_str(&verdict.stdout).expect("--json prints JSON");
    assert_eq!(verdict["first_bad_row"], Value::Null, "{verdict:#}");
    assert_eq!(verdict["open_workloads_count"], 0, "{verdict:#}");
}

#[test]
fn a_key_file_that_is_cut_off_anywhere_is_not_a_key() {
    if peers::missing(&["openssl"]) {
        return;
    }
    let here = installation();
    let make = "openssl genpkey -algorithm ed25519";
    let pem = here.program("sh", ["-c", make]).output().expect_status(0).stdout;

    let whole = pem.trim_end().len();
    for bytes in [1, 10, 27, 28, 40, 60, 92, whole - 25, whole - 1] {
        here.file("key.pem", &pem[..bytes]);
        run(&here, &["--key", "key.pem"]).expect_refusal(REFUSED, "key.not-pem");
    }
    here.file("key.pem", "");
    run(&here, &["--key", "key.pem"]).expect_refusal(REFUSED, "key-file.empty");

    assert_nothing_left(&here);
}

#[test]
fn a_file_of_another_kind_is_refused_by_what_it_is() {
    if peers::missing(&["openssl", "ssh-keygen"]) {
        return;
    }
    let here = installation();
    let cases = [
        ("openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048", "key.algorithm"),
        ("openssl genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-256", "key.algorithm"),
        ("openssl genpkey -algorithm x25519", "key.algorithm"),
        ("openssl genpkey -algorithm ed448", "key.algorithm"),
        ("openssl genpkey -algorithm ed25519 | openssl pkey -pubout", "key.label"),
        (
            "openssl genpkey -algorithm ed25519 \
             | openssl pkcs8 -topk8 -passout pass:word",
            "passphrase.none",
        ),
        (
            "openssl req -x509 -newkey ed25519 -nodes -keyout /dev/null -subj /CN=a 2>/dev/null",
            "key.label",
        ),
        ("ssh-keygen -q -t ed25519 -N word -f ssh && cat ssh && rm ssh ssh.pub", "passphrase.none"),
        ("ssh-keygen -q -t rsa -N '' -f ssh && cat ssh && rm ssh ssh.pub", "key.algorithm"),
        ("ssh-keygen -q -t ecdsa -N word -f ssh && cat ssh && rm ssh ssh.pub", "key.algorithm"),
        ("openssl genpkey -algorithm ed25519 -outform DER", "key.not-pem"),
        ("head -c 16384 /dev/zero", "key.not-pem"),
        ("head -c 16385 /dev/zero", "key-file.too-long"),
    ];

    for (make, code) in cases {
        let make = format!("umask 077; ({make}) > key.pem");
        here.program("sh", ["-c", &make]).output().expect_status(0);
        run(&here, &["--key", "key.pem"]).expect_refusal(REFUSED, code);
    }

    assert_nothing_left(&here);
}

#[test]
fn a_key_that_is_no_private_file_is_refused_at_once() {
    if peers::missing(&["mkfifo"]) {
        return;
    }
    let here = installation();
    let key = here.file("key.pem", "a key");
    let refusal = |name: &str, code| {
        run(&here, &["--key", name]).expect_refusal(REFUSED, code);
    };

    refusal("missing.pem", "key-file.open");
    refusal(".", "key-file.not-a-file");
    symlink("key.pem", here.work_dir().join("link.pem")).unwrap();
    refusal("link.pem", "key-file.open");
    here.program("mkfifo", ["-m", "600", "pipe.pem"]).output().expect_status(0);
    refusal("pipe.pem", "key-file.not-a-file");
    for mode in [0o604, 0o640, 0o602, 0o644] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        refusal("key.pem", "key-file.mode");
    }

    assert_nothing_left(&here);
}

#[test]
fn too_small_a_limit_of_locked_memory_stops_before_there_is_a_key() {
    if peers::missing(&["prlimit"]) {
        return;
    }
    let here = Installation::unprivileged(PROGRAM);
    let limited = ["prlimit", "--memlock=65536:65536", "--"];

    let refused = here.evanesce_under(&limited, ["run", "--", "touch", "ran"]).output();

    let refused = refused.expect_refusal(REFUSED, "worker.lock-limit");
    assert!(refused.stderr.contains("RLIMIT_MEMLOCK"), "{refused:#?}");
    assert_nothing_left(&here);
}

#[test]
fn too_long_a_socket_path_is_refused_with_its_length() {
    let here = installation();
    let long = here.root().join("d".repeat(120));

    let line = ["run", "--", "touch", "ran"];
    let refused = here.evanesce(line).env("RUNTIME_DIRECTORY", long).output();

    refused.expect_refusal(REFUSED, "agent-socket.too-long");
    assert_nothing_left(&here);
}

#[test]
fn a_state_directory_that_is_not_ours_alone_is_refused() {
    let here = Installation::unprivileged(PROGRAM);
    let refusal = |state: &Path, code| {
        let invocation = here.evanesce(["run", "--", "touch", "ran"]);
        invocation.env("EVANESCE_STATE_DIR", state).output().expect_refusal(REFUSED, code);
    };
    let make = |name: &str, mode| {
        let path = here.root().join(name);
        fs::create_dir(&path).unwrap();
        here.give(&path);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };

    refusal(&make("read-only", 0o500).join("state"), "directory.access");
    refusal(&make("world-writable", 0o777), "directory.mode");
    refusal(&make("group-readable", 0o750), "directory.mode");
    refusal(&here.file("a-file", ""), "directory.access");
    if peers::is_root() {
        let roots = here.root().join("roots");
        fs::create_dir(&roots).unwrap();
        refusal(&roots, "directory.owner");
    }
}

#[test]
fn a_command_that_does_not_exist_costs_nothing_but_its_own_status() {
    let here = installation();

    let missing = here.run(&["run", "--", "no-such-command-anywhere"]).expect_status(127);
    assert!(missing.stderr.contains("[command.not-found]"), "{missing:#?}");

    assert_nothing_left(&here);
}

#[test]
fn a_word_that_is_no_id_grant_or_time_is_refused_before_anything_is_made() {
    let here = installation();
    let cases: &[&[&str]] = &[
        &["--workload-id", "Two Words"],
        &["--workload-id", "../escape"],
        &["--workload-id", ""],
        &["--grant", "everything"],
        &["--grant", "sshsig:"],
        &["--grant", "sshsig:evanesce-receipt"],
        &["--ttl", "0s"],
        &["--ttl", "soon"],
        &["--signatures-max", "0"],
        &["--allow-degraded", "everything"],
        &["--no-such-flag"],
    ];
    for args in cases {
        let refused = run(&here, args).expect_status(REFUSED);
        assert!(refused.stderr.starts_with("error: "), "{args:?}: {refused:#?}");
    }
    assert!(!here.state_dir().exists());

    run(&here, &["--grant", "digest", "--grant", "raw"]).expect_refusal(REFUSED, "run.grants");
    assert!(!here.work_dir().join("ran").exists());
}

#[test]
fn an_id_that_is_in_use_is_refused_and_its_holder_lives_on() {
    let here = installation();
    let held = here.hold(&["--workload-id", "release"]);

    run(&here, &["--workload-id", "release"]).expect_refusal(REFUSED, "claim.in-use");

    held.finish().expect_status(0);
    assert_nothing_left(&here);
}
