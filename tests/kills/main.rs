//! SIGKILL at a random moment to launcher, worker or command: whatever was going on, no process is
//! left, the next command puts the ledger right, and every key has exactly one receipt.
//!
//! `EVANESCE_KILLS_ROUNDS` says how many rounds (`cargo xtask kills --rounds 500` sets it), and
//! `EVANESCE_KILLS_SEED` repeats the choices of an earlier run; when each process is where is up
//! to the machine.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test and its helpers, a panic is the failure")]
#![expect(clippy::print_stderr, reason = "a run says what it did, and how to repeat it")]
#![expect(clippy::disallowed_methods, reason = "how many rounds is for whoever runs them to say")]

mod chance;
mod victim;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use evanesce_tests::{Installation, Outcome, Running, wait_until};
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};
use serde_json::Value;

use chance::Chance;
use victim::{Child, Victim};

#[test]
fn sigkill_at_any_moment_leaves_no_process_and_one_receipt_for_every_key() {
    // Given a run that can be repeated, an installation, and how long a whole life takes there,
    // with this process as the parent of whatever loses its own,
    let rounds = setting("EVANESCE_KILLS_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
    let seed = setting("EVANESCE_KILLS_SEED").unwrap_or_else(chance::seed);
    eprintln!("{rounds} rounds; to repeat the choices: EVANESCE_KILLS_SEED={seed}");
    let mut chance = Chance::new(seed);
    set_child_subreaper(Some(getpid())).unwrap();
    let here = Installation::new(env!("CARGO_BIN_EXE_evanesce-under-test"));
    let mut life = life_of_a_workload(&here);
    let began = Instant::now();

    // When somebody is killed, again and again,
    let mut tally = BTreeMap::<String, u64>::new();
    let (mut kills, mut attempts) = (0, 0);
    while kills < rounds {
        attempts += 1;
        assert!(attempts <= 10 * rounds, "only {kills} of {attempts} victims were met alive");
        let id = format!("kill-{attempts}");
        let victim = Victim::of(&mut chance);
        let moment = life.mul_f64(chance.fraction());
        let started = Instant::now();
        let launcher = start(&here, &id);
        let killed = victim.kill_after(moment, launcher.pid());
        let ended = launcher.finish();
        if !killed {
            // Nobody was met: lives have become shorter, or longer, than was thought.
            life = (life * 3 + started.elapsed()) / 4;
        }

        // Then no process is left, but for a worker that had wiped its key and was stopped to be
        // overwritten when its launcher was killed; the next command ends that, and puts right what
        // it finds; and the rows of the workload tell one life with one end.
        assert_no_process_left(&id, Child::is_stopped_worker);
        assert_eq!(here.json(&["ps"]), serde_json::json!([]), "{id}: {ended:#?}");
        assert_no_process_left(&id, |_| false);
        let end = end_of(&here, &id, &ended);
        assert_eq!(names(&here.runtime_dir()), [""; 0], "{victim}, {end}");
        assert_eq!(names(&here.state_dir().join("workloads")), [""; 0], "{victim}, {end}");
        if killed {
            kills += 1;
            *tally.entry(format!("{victim}: {end}")).or_default() += 1;
        }
        if attempts % 50 == 0 {
            eprintln!("{kills} kills, {:.0} s", began.elapsed().as_secs_f64());
        }
    }

    assert_ledger_holds(&here);
    for (what, count) in &tally {
        eprintln!("{count:5} {what}");
    }
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{kills} kills in {attempts} lives of {life:?}: {seconds:.1} s");
}

/// Starts a workload that signs some times and ends.
fn start(here: &Installation, id: &str) -> Running {
    let script = "exec \"$0\" 20 < /dev/null";
    let workload = env!("CARGO_BIN_EXE_signing-workload");
    here.evanesce(["run", "--quiet", "--workload-id", id, "--", "sh", "-c", script, workload])
        .start()
}

/// How long a life takes that nobody cuts short: the shortest of some.
fn life_of_a_workload(here: &Installation) -> Duration {
    let lives = (0..3).map(|number| {
        let began = Instant::now();
        start(here, &format!("whole-{number}")).finish().expect_status(0);
        began.elapsed()
    });
    let shortest = lives.min().unwrap();
    assert_ledger_holds(here);
    shortest
}

/// Waits until this process has no children but those that may be left: what lost its parent became
/// one.
#[track_caller]
fn assert_no_process_left(id: &str, may_be_left: impl Fn(&Child) -> bool) {
    wait_until(&format!("no process is left of {id}"), || {
        let left = victim::children_of(getpid().as_raw_nonzero().get().unsigned_abs());
        for child in &left {
            let pid = i32::try_from(child.pid).ok().and_then(Pid::from_raw);
            // Whoever is still alive is asked again.
            waitpid(pid, WaitOptions::NOHANG).ok();
        }
        left.iter().all(&may_be_left)
    });
}

/// What the ledger says of a workload's end.
///
/// # Panics
///
/// Where a workload whose key was loaded has not exactly one receipt, or one without a key has not
/// exactly one end without.
#[track_caller]
fn end_of(here: &Installation, id: &str, ended: &Outcome) -> String {
    let shown = here.run(&["audit", "show", "--workload", id, "--json"]).expect_status(0);
    let rows: Vec<Value> =
        shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |event: &str| rows.iter().filter(|row| row["event"] == event).count();
    let context = format!("{id}: {ended:#?}\n{rows:#?}");
    match (rows.len(), count("loaded")) {
        (0, _) => "before there was a workload".into(),
        (_, 0) => {
            assert_eq!((count("receipt"), count("failed")), (0, 1), "{context}");
            "before there was a key".into()
        }
        (_, loaded) => {
            assert_eq!((loaded, count("receipt")), (1, 1), "{context}");
            let receipt = here.receipt(id);
            let word = |value: &Value| value.as_str().unwrap().to_owned();
            format!("{}, {}", word(&receipt["cause"]), word(&receipt["scrub"]["method"]))
        }
    }
}

#[track_caller]
fn assert_ledger_holds(here: &Installation) {
    let verdict = here.json(&["audit", "verify"]);
    assert_eq!(verdict["outcome"], "trusted", "{verdict:#}");
    assert_eq!(verdict["open_workloads_count"], 0, "{verdict:#}");
}

fn names(directory: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// A number that whoever runs the test has set.
fn setting(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")))
}

/// Rounds of an ordinary run.
const ROUNDS_DEFAULT: u64 = 60;
