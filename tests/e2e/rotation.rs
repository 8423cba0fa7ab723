//! One signing key hands over to the next, whatever happens on the way.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use evanesce_tests::process::output;
use evanesce_tests::{Installation, Running, peers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

use crate::installation;

/// An installation with a sealed key, and what opens it.
struct Sealed {
    here: Installation,
    recipient: String,
}

impl Sealed {
    fn new() -> Self {
        let here = installation();
        here.program("age-keygen", ["-o", "id.txt"]).output().expect_status(0);
        here.file("id.txt", fs::read(here.work_dir().join("id.txt")).unwrap());
        let shown = here.program("age-keygen", ["-y", "id.txt"]).output().expect_status(0);
        let recipient = shown.stdout.trim().to_owned();
        here.run(&["key", "new", "key.age", "--recipient", &recipient]).expect_status(0);
        Self { here, recipient }
    }

    fn rotate_line(&self) -> [&str; 7] {
        ["key", "rotate", "key.age", "--identity", "id.txt", "--recipient", &self.recipient]
    }

    /// The key with which the file signs now.
    fn signing_key(&self) -> String {
        let line = ["run", "--json", "--key", "key.age", "--identity", "id.txt", "--", "true"];
        let report = self.here.run(&line).expect_status(0).stderr;
        let report = report.lines().last().expect("--json prints a line");
        let report: Value = serde_json::from_str(report).expect("--json of run");
        report["public_key"].as_str().unwrap().to_owned()
    }

    /// Asserts that the file holds a key that works, that its history ends with it and holds, and
    /// that nothing of an interrupted rotation is left.
    #[track_caller]
    fn assert_whole(&self, when: &str) -> String {
        let key = self.signing_key();
        let history = self.here.json(&["key", "history", &key]);
        assert_eq!(history["consistent"], true, "{when}: {history:#}");
        let rotations = history["rotations"].as_array().unwrap();
        if let Some(last) = rotations.last() {
            assert_eq!(last["rotation"]["successor"], key.as_str(), "{when}: {history:#}");
        }
        // A file that was not finished may lie about; the next command writes over it.
        let files = self.here.files();
        let files: Vec<_> = files.iter().filter(|name| !name.ends_with(".new")).collect();
        assert_eq!(files, ["id.txt", "key.age", "key.age.pub"], "{when}");
        let public = fs::read_to_string(self.here.work_dir().join("key.age.pub")).unwrap();
        let lines = public.lines().count();
        assert!(lines == 1 && !public.contains("pending"), "{when}: {public}");
        key
    }
}

#[test]
fn a_rotated_key_is_handed_over_by_three_signatures_and_the_old_one_is_destroyed() {
    if peers::missing(&["age-keygen"]) {
        return;
    }
    let sealed = Sealed::new();
    let here = &sealed.here;
    let first = sealed.signing_key();

    let line = [&sealed.rotate_line()[..], &["--reason", "yearly", "--json"]].concat();
    let rotated: Value = serde_json::from_str(&here.run(&line).expect_status(0).stdout).unwrap();

    assert_eq!(rotated["retired"], first.as_str());
    assert_eq!(rotated["generation"], 2);
    assert_eq!(rotated["receipt"]["key"]["public_key"], first.as_str());
    assert_eq!(rotated["receipt"]["key"]["fate"], "this-copy-destroyed");
    // The signature of the statement is a request like any other: recorded and counted.
    assert_eq!(rotated["receipt"]["signatures"]["count"], 1);
    let second = sealed.assert_whole("after a rotation");
    assert_eq!(rotated["successor"], second.as_str());

    here.run(&sealed.rotate_line()).expect_status(0);
    let history = here.json(&["key", "history", "key.age"]);
    let rotations = history["rotations"].as_array().unwrap();
    assert_eq!(rotations.len(), 2, "{history:#}");
    assert_eq!(rotations[0]["rotation"]["reason"], "yearly");
    assert_eq!(rotations[1]["rotation"]["previous"], rotations[0]["statement"]);
    assert_eq!(here.json(&["key", "history", &first]), {
        let mut of_first = history.clone();
        of_first["key"] = first.as_str().into();
        of_first
    });
    here.run(&["audit", "verify"]).expect_status(0);
    assert_python_agrees(here);
}

#[test]
fn a_run_rotates_its_key_at_its_end() {
    if peers::missing(&["age-keygen"]) {
        return;
    }
    let sealed = Sealed::new();
    let first = sealed.signing_key();
    let recipient = sealed.recipient.as_str();
    let line = [
        "run",
        "--key",
        "key.age",
        "--identity",
        "id.txt",
        "--rotate",
        "--recipient",
        recipient,
        "--",
        "sh",
        "-c",
        "exit 7",
    ];

    sealed.here.run(&line).expect_status(7);

    assert_ne!(sealed.assert_whole("after run --rotate"), first);
    let history = sealed.here.json(&["key", "history", &first]);
    assert_eq!(history["rotations"].as_array().unwrap().len(), 1);
    let unasked = ["run", "--key", "key.age", "--recipient", recipient, "--", "true"];
    sealed.here.run(&unasked).expect_refusal(125, "run.seal");
}

#[test]
fn a_statement_that_says_something_else_does_not_hold() {
    if peers::missing(&["age-keygen"]) {
        return;
    }
    let sealed = Sealed::new();
    let here = &sealed.here;
    let line = [&sealed.rotate_line()[..], &["--reason", "yearly"]].concat();
    here.run(&line).expect_status(0);
    let ledger = here.state_dir().join("ledger");
    let segment = fs::read_dir(&ledger).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.into_iter().find(|path| path.extension().is_some_and(|e| e == "jsonl"));
    let segment = segment.expect("a segment");

    let text = fs::read_to_string(&segment).unwrap();
    let row = text.lines().find(|line| line.contains("\"key-rotated\"")).unwrap();
    let value: Value = serde_json::from_str(row).unwrap();
    let payload = value["envelope"]["payload"].as_str().unwrap();
    let said = String::from_utf8(decode(payload)).unwrap();
    let forged = encode(said.replace("yearly", "hourly").as_bytes());
    fs::write(&segment, text.replace(payload, &forged)).unwrap();

    let history = here.evanesce(["key", "history", "key.age", "--json"]).output();
    let history = history.expect_status(1);
    assert!(history.stdout.contains("not-signed"), "{history:#?}");
    here.run(&["audit", "verify"]).expect_status(1);
}

#[test]
fn a_key_in_the_clear_is_not_rotated() {
    if peers::missing(&["openssl"]) {
        return;
    }
    let here = installation();
    let make = "umask 077; openssl genpkey -algorithm ed25519 -out key.pem";
    here.program("sh", ["-c", make]).output().expect_status(0);
    let before = fs::read(here.work_dir().join("key.pem")).unwrap();

    here.run(&["key", "rotate", "key.pem"]).expect_refusal(1, "rotate.plaintext");

    assert_eq!(fs::read(here.work_dir().join("key.pem")).unwrap(), before);
    assert_eq!(here.files(), ["key.pem"]);
}

/// Killed at every hundredth of its time: the launcher alone, with its workers, or the workers alone.
#[test]
fn a_rotation_that_is_killed_at_any_moment_leaves_a_key_that_works_and_a_history_that_holds() {
    if peers::missing(&["age-keygen"]) {
        return;
    }
    let killings = [Kill::Launcher, Kill::All, Kill::Workers];
    std::thread::scope(|scope| {
        for killing in killings {
            scope.spawn(move || kill_at_every_hundredth(killing));
        }
    });
}

#[derive(Clone, Copy, Debug)]
enum Kill {
    Launcher,
    Workers,
    All,
}

fn kill_at_every_hundredth(killing: Kill) {
    let sealed = Sealed::new();
    let mut times: Vec<_> = (0..5)
        .map(|_| {
            let begin = Instant::now();
            sealed.here.run(&sealed.rotate_line()).expect_status(0);
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    let whole = times[times.len() / 2];
    let (mut interrupted, mut before) = (0, sealed.assert_whole("before the first kill"));
    let mut handed_over = 0;
    for percent in 1..=100 {
        let rotation = sealed.here.evanesce(sealed.rotate_line()).start();
        let is_interrupted = kill_after(rotation, whole * percent / 100, killing);
        interrupted += u32::from(is_interrupted);
        let key = sealed.assert_whole(&format!("{killing:?} at {percent} %"));
        handed_over += u32::from(key != before);
        before = key;
    }
    let verdict = sealed.here.json(&["audit", "verify"]);
    assert_eq!(verdict["outcome"], "trusted", "{verdict:#}");
    assert_eq!(verdict["open_workloads_count"], 0, "{verdict:#}");
    print(&format!(
        "{killing:?}: {whole:?} each, {interrupted} of 100 interrupted, {handed_over} handed over"
    ));
    assert!(interrupted > 30, "only {interrupted} of 100 were interrupted");
}

/// Kills after a time; whether there was something to kill.
fn kill_after(rotation: Running, time: Duration, killing: Kill) -> bool {
    let launcher = rotation.pid();
    let pid = raw(launcher);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let time = Timespec::try_from(time).unwrap();
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&time)).unwrap() > 0;
    let workers = match killing {
        Kill::Launcher => Vec::new(),
        Kill::Workers | Kill::All => children(launcher),
    };
    if !ended && !matches!(killing, Kill::Workers) {
        kill_process(pid, Signal::KILL).unwrap();
    }
    for worker in &workers {
        // It may be gone by itself.
        kill_process(raw(*worker), Signal::KILL).ok();
    }
    let outcome = rotation.finish();
    !ended && !outcome.status.success()
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn raw(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap()
}

fn assert_python_agrees(here: &Installation) {
    if peers::missing(&["python3"]) {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("verify_ledger.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(here.state_dir().join("ledger"));
    python.arg("--notary").arg(here.state_dir().join("notary/notary.pem"));
    let outcome = output(python);
    assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
}

fn decode(text: &str) -> Vec<u8> {
    use base64ct::Encoding as _;
    base64ct::Base64::decode_vec(text).unwrap()
}

fn encode(bytes: &[u8]) -> String {
    use base64ct::Encoding as _;
    base64ct::Base64::encode_string(bytes)
}

#[expect(clippy::print_stderr, reason = "the figures that the documents quote")]
fn print(line: &str) {
    eprintln!("{line}");
}
