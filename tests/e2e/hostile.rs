//! A workload that turns on its worker: every attempt fails or is detected.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use base64ct::{Base64, Encoding as _};
use evanesce_protocol::agent::request;
use evanesce_protocol::limits::{AGENT_CONNECTIONS_MAX, AGENT_FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use evanesce_tests::agent::{Agent, numbered_request, request_for_file};
use evanesce_tests::{Held, Installation, peers, wait_until};

use serde_json::Value;

use crate::{PROGRAM, installation};

#[test]
fn no_way_into_the_memory_or_descriptors_of_worker_or_launcher_is_open_to_the_same_user() {
    // Given a workload of a user without privileges that tries all of them,
    let here = Installation::unprivileged(PROGRAM);
    let hostile = here.install(HOSTILE.as_ref());
    let hostile = hostile.to_str().unwrap();

    let outcome = here.run(&["run", "--", hostile, "look"]).expect_status(0);

    // Then each succeeds against a process that does nothing against it, so each is a real one,
    // and each is refused by the launcher and by the worker.
    let lines: Vec<Vec<&str>> =
        outcome.stdout.lines().map(|line| line.split('\t').collect()).collect();
    for target in ["bystander", "launcher", "worker"] {
        let of_target: Vec<_> = lines.iter().filter(|line| line[0] == target).collect();
        assert!(of_target.len() >= 10, "{outcome:#?}");
        let expected = if target == "bystander" { "succeeded" } else { "refused" };
        for line in of_target {
            assert_eq!(line[2], expected, "{line:?}");
        }
    }
}

#[test]
fn a_workers_memory_cannot_be_opened_from_its_first_instruction_on() {
    // Given a user without privileges, and programs that do not defend themselves,
    let here = Installation::unprivileged(PROGRAM);
    let hostile = here.install(HOSTILE.as_ref());
    let race = |args: &[&str]| {
        let race = here.program(&hostile, [&["race"], args].concat()).output().expect_status(0);
        let mut lines = race.stdout.lines();
        let said = lines.next().expect("the target says a line").to_owned();
        let number = |word: &str| word.parse::<u64>().unwrap();
        let tried: BTreeMap<u64, [u64; 2]> = lines
            .map(|line| line.split(' ').map(number).collect::<Vec<_>>())
            .map(|numbers| (numbers[0], [numbers[1], numbers[2]]))
            .collect();
        (said, tried)
    };
    let cats = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do cat /dev/null; done; echo"];
    wait_until("the race is won against cat", || {
        race(&cats).1.values().any(|[_, opened]| *opened > 0)
    });

    // When workloads are raced from before their workers exist until their commands have asked for
    // the worker's number,
    let program = here.program_file().to_str().unwrap();
    let command = format!("{program} ps --json; read -r _; exit 0");
    let mut attempts = 0;
    wait_until("there were attempts enough", || {
        let (said, tried) = race(&[program, "run", "--", "sh", "-c", &command]);
        let listed: Value = serde_json::from_str(&said).expect("ps prints JSON");
        let worker = listed[0]["worker_pid"].as_u64().expect("the workload is listed");
        let [tries, opened] = tried.get(&worker).expect("the worker is a child");

        // Then not one attempt opens a worker's memory.
        assert_eq!(*opened, 0);
        attempts += tries;
        attempts >= RACE_ATTEMPTS
    });
}

/// Connects to a workload and names its plain key.
fn connect(held: &Held) -> (Agent, Vec<u8>) {
    let mut agent = Agent::connect(&held.socket).unwrap();
    let key = agent.keys().unwrap().pop().expect("the agent offers keys");
    (agent, key)
}

/// What a workload was granted, and messages that are and are not covered by that.
struct Case {
    grants: &'static [&'static str],
    signed: Vec<Vec<u8>>,
    refused: Vec<Vec<u8>>,
}

#[test]
fn nothing_is_signed_that_was_not_granted_and_our_own_statements_never() {
    let own = [
        b"DSSEv1 28 application/vnd.in-toto+json 2 {}".to_vec(),
        b"evanesce rotation v1".to_vec(),
        request_for_file("evanesce", b"a receipt"),
        request_for_file("evanesce-rotation", b"the next key"),
    ];
    let raw = b"a message as it stands".to_vec();
    let mut cut_off = numbered_request(0);
    cut_off.pop();
    let cases = [
        Case {
            grants: &[],
            signed: vec![numbered_request(0)],
            refused: vec![raw.clone(), cut_off.clone()],
        },
        Case {
            grants: &["--grant", "sshsig:git"],
            signed: vec![request_for_file("git", b"a commit")],
            refused: vec![raw.clone(), numbered_request(0)],
        },
        Case {
            grants: &["--grant", "raw"],
            signed: vec![raw, numbered_request(0)],
            refused: vec![cut_off],
        },
    ];

    for Case { grants, signed, refused } in cases {
        let here = installation();
        let held = here.hold(grants);
        let (mut agent, key) = connect(&held);
        for message in &signed {
            assert!(agent.sign(&key, message).unwrap().is_some(), "{grants:?} {message:?}");
        }
        for message in refused.iter().chain(&own) {
            assert_eq!(agent.sign(&key, message).unwrap(), None, "{grants:?} {message:?}");
        }
        let digest = agent.ask(&request::sign_digest(&key, b"", &[7; 64])).unwrap().unwrap();
        assert_eq!(digest, [EXTENSION_FAILURE], "a key for messages signs no digest");
        let (other, large) = (vec![0; 51], vec![0; MESSAGE_BYTES_MAX + 1]);
        assert_eq!(agent.sign(&other, &numbered_request(0)).unwrap(), None, "another key");
        assert_eq!(agent.sign(&key, &large).unwrap(), None, "a message over the limit");

        let id = held.id.clone();
        held.finish().expect_status(0);
        assert_eq!(here.receipt(&id)["signatures"]["count"], signed.len());
    }
}

#[test]
fn requests_that_a_signer_has_no_business_with_are_refused_and_the_next_one_is_answered() {
    let here = installation();
    let held = here.hold(&[]);
    let (mut agent, key) = connect(&held);

    for number in 0..=255 {
        if ANSWERED.contains(&number) {
            continue;
        }
        let bare = agent.ask(&frame(&[number])).unwrap().expect("the agent answers");
        assert!(is_failure(&bare), "request {number}: {bare:?}");
        let filled = [&[number][..], &[0; 200]].concat();
        let filled = agent.ask(&frame(&filled)).unwrap().expect("the agent answers");
        assert!(is_failure(&filled), "request {number}: {filled:?}");
    }
    let empty = agent.ask(&frame(&[])).unwrap().expect("the agent answers");
    assert!(is_failure(&empty), "{empty:?}");

    assert!(agent.sign(&key, &numbered_request(0)).unwrap().is_some());
    held.finish().expect_status(0);
}

#[test]
fn a_broken_client_costs_its_own_connection_and_nobody_elses() {
    let here = installation();
    let held = here.hold(&[]);
    let (mut agent, key) = connect(&held);

    // A frame that announces too much is not waited for.
    let announced = u32::try_from(AGENT_FRAME_BYTES_MAX + 1).unwrap();
    for announced in [announced, u32::MAX] {
        let mut oversized = Agent::connect(&held.socket).unwrap();
        assert_eq!(oversized.ask(&announced.to_be_bytes()).unwrap_or(None), None);
    }
    // Half a frame is waited for, and nobody waits for it.
    let whole = request::sign(&key, &numbered_request(0));
    let mut half = Agent::connect(&held.socket).unwrap();
    half.send(&whole[..whole.len() / 2]).unwrap();
    assert!(agent.sign(&key, &numbered_request(1)).unwrap().is_some());
    half.send(&whole[whole.len() / 2..]).unwrap();
    assert!(half.answer().unwrap().is_some(), "the other half makes it whole");
    // One that never reads its answers is not written to without end.
    let mut deaf = UnixStream::connect(&held.socket).unwrap();
    deaf.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut deaf, &request::identities()).is_ok() {}
    assert!(agent.sign(&key, &numbered_request(2)).unwrap().is_some());

    held.finish().expect_status(0);
}

#[test]
fn a_hundred_clients_at_once_are_all_answered_while_the_workers_memory_stays_bounded() {
    let here = installation();
    let held = here.hold(&[]);
    let (_, key) = connect(&held);

    // More clients than are served at one time: the others wait for their turn in the backlog.
    let clients: Vec<_> = (0..100)
        .map(|index| {
            let (socket, key) = (held.socket.clone(), key.clone());
            std::thread::spawn(move || {
                let mut agent = Agent::connect(&socket)?;
                agent.sign(&key, &numbered_request(index))
            })
        })
        .collect();
    assert!(clients.len() > AGENT_CONNECTIONS_MAX);
    for client in clients {
        assert!(client.join().unwrap().unwrap().is_some());
    }

    let id = held.id.clone();
    held.finish().expect_status(0);
    assert_eq!(here.receipt(&id)["signatures"]["count"], 100);
}

#[test]
fn the_agent_serves_its_own_user_and_not_even_root_beside() {
    if peers::not_root() {
        return;
    }
    let here = Installation::unprivileged(PROGRAM);
    let held = here.hold(&[]);

    let mut agent = Agent::connect(&held.socket).unwrap();

    assert_eq!(agent.ask(&request::identities()).unwrap_or(None), None);
    held.finish().expect_status(0);
}

/// An installation with two receipts in its ledger, and the ledger's file.
fn with_ledger() -> (Installation, PathBuf) {
    let here = installation();
    here.file("file", "contents");
    here.run(&["sign", "file"]).expect_status(0);
    here.run(&["sign", "file", "--force"]).expect_status(0);
    let mut segments: Vec<_> = fs::read_dir(here.state_dir().join("ledger"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| fs::read(path).unwrap().starts_with(b"{\"seq\":"))
        .collect();
    let segment = segments.pop().expect("a segment");
    assert!(segments.is_empty());
    here.run(&["audit", "verify"]).expect_status(0);
    (here, segment)
}

#[test]
fn a_changed_row_is_named() {
    let (here, segment) = with_ledger();
    let text = fs::read_to_string(&segment).unwrap();
    let rows: Vec<_> = text.lines().collect();

    for changed in 0..rows.len() - 1 {
        // One digit of the time: the row still parses, and says something else.
        let mut row = rows[changed].to_owned();
        let second = row.find("\"at\":\"").unwrap() + "\"at\":\"2026-11-22T02:10:0".len();
        let digit = if row.as_bytes()[second] == b'0' { "1" } else { "0" };
        row.replace_range(second..=second, digit);
        let mut forged = rows.clone();
        forged[changed] = &row;
        fs::write(&segment, forged.join("\n") + "\n").unwrap();

        let verdict = here.evanesce(["audit", "verify", "--json"]).output().expect_status(1);
        let verdict: Value = serde_json::from_str(&verdict.stdout).unwrap();
        let bad = verdict["first_bad_row"]["seq"].as_u64().expect("a row is named");
        // The chain shows that the row before is another one than was meant, or the row itself.
        let changed = u64::try_from(changed).unwrap() + 1;
        assert!((changed..=changed + 1).contains(&bad), "row {changed}: {verdict:#}");
    }
}

#[test]
fn a_receipt_that_says_something_else_does_not_verify() {
    let (here, segment) = with_ledger();
    let text = fs::read_to_string(&segment).unwrap();
    let (earlier, last) = text.trim_end().rsplit_once('\n').unwrap();
    let row: Value = serde_json::from_str(last).unwrap();
    assert_eq!(row["event"], "receipt", "the newest row is a receipt: nothing is chained to it");

    // The newest receipt, with a kinder word in it.
    let payload = row["envelope"]["payload"].as_str().unwrap();
    let statement = String::from_utf8(Base64::decode_vec(payload).unwrap()).unwrap();
    let kinder = statement.replace("\"command-ended\"", "\"signatures-spent\"");
    assert_ne!(kinder, statement);
    let forged = last.replace(payload, &Base64::encode_string(kinder.as_bytes()));
    fs::write(&segment, format!("{earlier}\n{forged}\n")).unwrap();

    let verdict = here.run(&["audit", "verify"]).expect_status(1);
    assert!(verdict.stdout.contains("bad row"), "{verdict:#?}");
    let verified = here.run(&["verify", "file"]);
    assert!(verified.stdout.contains("damaged"), "{verified:#?}");
}

#[test]
fn deleted_newest_rows_are_detected_by_a_checkpoint_and_called_unknown_without_one() {
    let (here, segment) = with_ledger();
    let short = fs::read(&segment).unwrap();
    here.run(&["sign", "file", "--force"]).expect_status(0);
    here.run(&["audit", "checkpoint", "--output", "kept.json"]).expect_status(0);
    let kept = ["audit", "verify", "--checkpoint", "kept.json"];
    here.run(&kept).expect_status(0);

    fs::write(&segment, short).unwrap();

    let without = here.json(&["audit", "verify"]);
    assert_eq!(without["outcome"], "trusted");
    assert_eq!(without["completeness"], "unknown");
    let with = here.run(&kept).expect_status(1);
    assert!(with.stdout.contains("newest rows were deleted"), "{with:#?}");
}

/// Enough to hit each step between fork and the worker's own first call many times.
const RACE_ATTEMPTS: u64 = 20_000;

const HOSTILE: &str = env!("CARGO_BIN_EXE_hostile-workload");

fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_be_bytes(), body].concat()
}

fn is_failure(answer: &[u8]) -> bool {
    matches!(answer, [FAILURE | EXTENSION_FAILURE, ..])
}

// RFC 9987: what a worker has an answer to (identities, sign, extension), and the two refusals.
const ANSWERED: [u8; 3] = [11, 13, 27];
const FAILURE: u8 = 5;
const EXTENSION_FAILURE: u8 = 28;
