//! A disk that is full, or that may only be read: nothing is signed that cannot be recorded, and
//! what was recorded stays.
//!
//! The disks are file systems in memory of a fixed size, in a mount namespace of their own.

use std::process::Command;

use evanesce_tests::{Installation, Invocation, Outcome, Running, peers};
use serde_json::Value;

use crate::installation;

/// An installation whose state directory is a file system of its own.
struct Disk {
    here: Installation,
    /// Keeps the namespace; its process id names it.
    keeper: Running,
}

impl Disk {
    /// `None` where it cannot be made, which is said.
    fn new() -> Option<Self> {
        if peers::not_root() || peers::missing(&["unshare", "nsenter", "mount", "dd"]) {
            return None;
        }
        let here = installation();
        let mut keeper = Command::new("unshare");
        let mount = "mkdir -m 700 \"$0\" && mount -t tmpfs -o size=2m,mode=700 none \"$0\" \
                     && echo mounted && read -r _";
        keeper.args(["--mount", "sh", "-c", mount]).arg(here.state_dir());
        let mut keeper = Running::start(keeper);
        assert_eq!(keeper.next_line(), "mounted");
        Some(Self { here, keeper })
    }

    fn evanesce(&self, args: &[&str]) -> Invocation {
        let (pid, work) = (self.keeper.pid().to_string(), self.here.work_dir());
        let directory = format!("--wd={}", work.display());
        let enter = ["nsenter", "--mount", "--target", &pid, &directory];
        self.here.evanesce_under(&enter, args)
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.evanesce(args).output()
    }

    fn json(&self, args: &[&str]) -> Value {
        let outcome = self.run(&[args, &["--json"]].concat()).expect_status(0);
        serde_json::from_str(&outcome.stdout).expect("--json prints JSON")
    }

    /// Runs a step of the shell in the namespace, with the state directory as `$0`.
    fn step(&self, script: &str) -> Outcome {
        let (pid, state) = (self.keeper.pid().to_string(), self.here.state_dir());
        let state = state.to_str().expect("a temporary directory's name is text");
        let line = ["--mount", "--target", &pid, "sh", "-c", script, state];
        self.here.program("nsenter", line).output()
    }

    fn fill(&self) {
        // dd ends with an error, as it should.
        self.step("dd if=/dev/zero of=\"$0/filler\" bs=4k 2>/dev/null");
        self.step(
            "! dd if=/dev/zero of=\"$0/filler\" bs=4k count=1 oflag=append conv=notrunc 2>&1",
        )
        .expect_status(0);
    }

    fn make_room(&self) {
        self.step("rm \"$0/filler\"").expect_status(0);
    }

    /// The rows of the ledger, which has to hold together.
    #[track_caller]
    fn rows(&self) -> u64 {
        let verdict = self.json(&["audit", "verify"]);
        assert_eq!(verdict["outcome"], "trusted", "{verdict:#}");
        verdict["rows"].as_u64().expect("a number")
    }
}

#[test]
fn on_a_full_disk_no_key_is_born_and_no_row_is_lost() {
    let Some(disk) = Disk::new() else { return };
    // Given a ledger with a life in it, on a disk that is full since,
    disk.run(&["run", "--workload-id", "before", "--", "true"]).expect_status(0);
    let rows = disk.rows();
    disk.fill();

    // When a workload is to run, then it does not, which is one clear line,
    let refused = disk.run(&["run", "--workload-id", "full", "--quiet", "--", "touch", "ran"]);
    let refused = refused.expect_status(125);
    let said: Vec<_> = refused.stderr.lines().collect();
    assert!(said.len() == 2 && said[0].starts_with("error: "), "{refused:#?}");
    assert!(said[0].contains("No space left on device"), "{refused:#?}");
    assert!(said[1].starts_with("hint: "), "{refused:#?}");
    assert_eq!(disk.here.files(), [""; 0]);
    // what is there can still be audited, with every row,
    assert!(disk.rows() >= rows);
    // and once there is room, all goes on, with nothing left open.
    disk.make_room();
    disk.run(&["run", "--workload-id", "after", "--", "true"]).expect_status(0);
    assert!(disk.rows() > rows);
    assert_eq!(disk.json(&["audit", "verify"])["open_workloads_count"], 0);
}

#[test]
fn a_disk_that_fills_up_while_a_key_lives_ends_the_key_and_the_receipt_comes_once_there_is_room() {
    let Some(disk) = Disk::new() else { return };
    // Given a command that signs until it gets no more, on a disk that fills up under it,
    let workload = env!("CARGO_BIN_EXE_signing-workload");
    let line = ["run", "--workload-id", "w", "--", workload, "1000000"];
    let launcher = disk.evanesce(&line).start();
    evanesce_tests::wait_until("something was signed", || {
        disk.json(&["ps"])[0]["signatures"].as_u64().is_some_and(|signatures| signatures > 0)
    });

    disk.fill();

    // Then the launcher ends and says that it failed,
    let outcome = launcher.wait().expect_status(125);
    assert!(outcome.stderr.contains("error: "), "{outcome:#?}");
    // and after there is room, there is one receipt, and no process and nothing open is left.
    disk.make_room();
    assert_eq!(disk.json(&["ps"]), serde_json::json!([]));
    let shown = disk.run(&["audit", "show", "--workload", "w", "--json"]).expect_status(0);
    assert_eq!(shown.stdout.matches(r#""event":"receipt""#).count(), 1, "{shown:#?}");
    let verdict = disk.json(&["audit", "verify"]);
    assert_eq!(verdict["outcome"], "trusted", "{verdict:#}");
    assert_eq!(verdict["open_workloads_count"], 0, "{verdict:#}");
}

#[test]
fn on_a_read_only_disk_nothing_runs_and_everything_can_be_audited() {
    let Some(disk) = Disk::new() else { return };
    disk.run(&["run", "--workload-id", "before", "--", "true"]).expect_status(0);
    let rows = disk.rows();

    disk.step("mount -o remount,ro \"$0\"").expect_status(0);

    let refused = disk.run(&["run", "--quiet", "--", "touch", "ran"]);
    refused.expect_refusal(125, "ledger.not-writable");
    assert_eq!(disk.here.files(), [""; 0]);
    assert_eq!(disk.rows(), rows);
    disk.run(&["audit", "receipt", "before"]).expect_status(0);
    let shown = disk.run(&["audit", "show", "--json"]).expect_status(0);
    assert_eq!(u64::try_from(shown.stdout.lines().count()).expect("some rows"), rows);
    disk.step("mount -o remount,rw \"$0\"").expect_status(0);
    disk.run(&["run", "--", "true"]).expect_status(0);
}
