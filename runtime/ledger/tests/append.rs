//! What holds when many append, and when appending fails at the worst moment.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its part")]
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::slice::from_ref;
use std::thread;

use evanesce_ledger::row::{Event, NewRow, ROW_BYTES_MAX, genesis};
use evanesce_ledger::{AppendError, Ledger, Outcome, Reader, Setup, Warning};
use evanesce_protocol::Digest;
use support::*;

/// The chain written out by hand, so that a change of the format cannot pass unseen.
#[test]
fn a_known_chain_has_known_bytes() {
    let dir = tempfile::tempdir().unwrap();

    open(dir.path()).append(&[failed("a.b")]).unwrap();

    let first = format!(
        "{{\"seq\":1,\"prev\":\"{}\",\"at\":\"2026-11-22T02:10:00.123Z\",\"event\":\"opened\",\
         \"ledger\":\"{}\",\"format\":1}}",
        genesis(),
        "01".repeat(32)
    );
    let second = format!(
        "{{\"seq\":2,\"prev\":\"{}\",\"at\":\"2026-11-22T02:10:01.123Z\",\"event\":\"failed\",\
         \"code\":\"a.b\",\"message\":\"it did not work\"}}",
        Digest::of(first.as_bytes())
    );
    let found = String::from_utf8(newest_bytes(dir.path())).unwrap();
    assert_eq!(found, format!("{first}\n{second}\n"));
    let name = segments(dir.path())[0].file_name().unwrap().to_owned();
    assert_eq!(name, "00000000000000000001.jsonl");
}

#[test]
fn a_ledger_keeps_its_id_and_an_append_says_where_its_rows_are() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    let other = Setup::new(evanesce_ledger::LedgerId::from_bytes([9; 32]), at(5));

    let mut ledger = Ledger::open(dir.path(), other).unwrap();
    let appended = ledger.append(&[failed("a.b"), failed("c.d")]).unwrap();

    assert_eq!(ledger.id(), LEDGER);
    assert_eq!((appended.first, appended.last), (2, 3));
    let bytes = newest_bytes(dir.path());
    let last = bytes.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap();
    assert_eq!(appended.head, Digest::of(last));
    assert_eq!(ledger.lock().unwrap().head().unwrap(), Some((3, appended.head)));
}

/// A writer that died leaves a prefix of its row. Whatever the prefix, the next one goes on, and
/// says how much it dropped.
#[test]
fn a_row_torn_at_any_byte_is_closed_by_the_next_writer() {
    let (dir, notary) = (tempfile::tempdir().unwrap(), TestNotary::new(1));
    small_ledger(dir.path(), &notary);
    let whole = newest_bytes(dir.path());
    let last_start = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for end in last_start + 1..whole.len() {
        fs::write(&segments(dir.path())[0], &whole[..end]).unwrap();

        let appended = open(dir.path()).append(&[failed("a.b")]).unwrap();

        // Row 9 was torn; it is closed as row 9, and the new one is row 10.
        assert_eq!((appended.first, appended.last), (10, 10));
        let verdict = audit(dir.path(), from_ref(&notary.key), None);
        assert_eq!((verdict.outcome, verdict.rows), (Outcome::Trusted, 10), "torn at {end}");
        assert_eq!(verdict.warnings, [Warning::ClosedTornRow { row: 9 }]);
        let row = Reader::open(dir.path()).unwrap().rows_from(9).next().unwrap().unwrap();
        let Event::ClosedTornRow(closed) = row.event else { panic!("{row:?}") };
        assert_eq!(closed.bytes, (end - last_start) as u64);
        assert_eq!(closed.digest, Digest::of(&whole[last_start..end]));
    }
}

#[test]
fn blocks_that_the_disk_never_got_are_closed_as_torn() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).append(&[failed("a.b")]).unwrap();
    let mut torn = newest_bytes(dir.path());
    torn.extend([0; 9000]);
    torn.extend(b"x\"}\n");
    fs::write(&segments(dir.path())[0], torn).unwrap();

    open(dir.path()).append(&[failed("c.d")]).unwrap();

    let verdict = audit(dir.path(), &[], None);
    assert_eq!((verdict.rows, verdict.warnings.len(), verdict.first_bad_row), (4, 1, None));
}

#[test]
fn a_ledger_whose_maker_died_at_any_byte_is_made_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    let whole = newest_bytes(dir.path());
    for end in 0..whole.len() {
        fs::write(&segments(dir.path())[0], &whole[..end]).unwrap();

        open(dir.path()).append(&[failed("a.b")]).unwrap();

        let verdict = audit(dir.path(), &[], None);
        let expected = if end == 0 { 2 } else { 3 };
        assert_eq!((verdict.rows, verdict.first_bad_row), (expected, None), "cut at {end}");
        assert_eq!(verdict.ledger, Some(LEDGER));
    }
}

/// Not torn: someone changed a whole row. Building on it would bury that.
#[test]
fn a_last_row_that_was_changed_is_not_built_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = open(dir.path());
    ledger.append(&[failed("a.b")]).unwrap();
    let text = String::from_utf8(newest_bytes(dir.path())).unwrap();
    let changed = text.replacen("{\"seq\":2", "{\"sEq\":2", 1);
    fs::write(&segments(dir.path())[0], &changed).unwrap();

    let error = ledger.append(&[failed("c.d")]).unwrap_err();

    assert_eq!(error.code(), "ledger.damaged", "{error}");
    assert_eq!(newest_bytes(dir.path()), changed.as_bytes());
}

#[test]
fn a_full_segment_is_followed_by_one_that_continues_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup { segment_bytes_max: 1000, ..setup() };
    let mut ledger = Ledger::open(dir.path(), setup).unwrap();
    for _ in 0..20 {
        ledger.append(&[failed("a.b")]).unwrap();
    }

    let verdict = audit(dir.path(), &[], None);

    assert_eq!(verdict.first_bad_row, None);
    assert!(verdict.segments > 3, "{}", verdict.segments);
    // Each segment begins with a row of its own.
    assert_eq!(verdict.rows, 20 + verdict.segments);
    let reader = Reader::open(dir.path()).unwrap();
    let rows: Vec<u64> = reader.rows().map(|row| row.unwrap().seq).collect();
    assert_eq!(rows, (1..=verdict.rows).collect::<Vec<_>>());
    let last: Vec<u64> = reader.last(7).unwrap().iter().map(|row| row.seq).collect();
    assert_eq!(last, (verdict.rows - 6..=verdict.rows).collect::<Vec<_>>());
    assert_eq!(reader.rows_from(11).next().unwrap().unwrap().seq, 11);

    // When one in the middle is deleted, the row that is missing first is named.
    let second = &segments(dir.path())[1];
    let first_missing: u64 = second.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    fs::remove_file(second).unwrap();
    let bad = audit(dir.path(), &[], None).first_bad_row.unwrap();
    assert_eq!((bad.seq, bad.problem.to_string().as_str()), (first_missing, "segment"));
}

#[test]
fn a_segment_whose_maker_died_is_used_by_the_next_writer() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = open(dir.path());
    ledger.append(&[failed("a.b")]).unwrap();
    for torn in ["", "{\"seq\":3,\"pre"] {
        let rows = audit(dir.path(), &[], None).rows;
        fs::write(dir.path().join(format!("{:020}.jsonl", rows + 1)), torn).unwrap();
        assert_eq!(audit(dir.path(), &[], None).first_bad_row, None);

        ledger.append(&[failed("c.d")]).unwrap();

        let verdict = audit(dir.path(), &[], None);
        assert_eq!(verdict.first_bad_row, None);
        assert_eq!(verdict.rows, rows + if torn.is_empty() { 2 } else { 3 });
    }
}

#[test]
fn a_row_that_is_too_long_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = open(dir.path());
    let before = newest_bytes(dir.path());
    let long = failed(&"x".repeat(ROW_BYTES_MAX));

    let error = ledger.append(&[failed("a.b"), long]).unwrap_err();
    let none = ledger.append(&[]).unwrap_err();
    let unknown = ledger.append(&[NewRow::of_ledger(at(1), Event::Other)]).unwrap_err();

    assert!(matches!(error, AppendError::RowTooLong { .. }), "{error}");
    assert_eq!((none.code(), unknown.code()), ("ledger.no-rows", "ledger.encode"));
    assert_eq!(newest_bytes(dir.path()), before);
}

/// Threads and processes at once: every row that was acknowledged is there, in order, once.
#[test]
fn many_writers_make_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup { segment_bytes_max: 4000, ..setup() };
    Ledger::open(dir.path(), setup).unwrap();
    let children: Vec<_> =
        (0..3).map(|_| child(dir.path(), "appends_fifty_rows").spawn().unwrap()).collect();
    let appended: Vec<u64> = thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let dir = dir.path();
                scope.spawn(move || {
                    let mut ledger = Ledger::open(dir, setup).unwrap();
                    let code = format!("writer.{writer}");
                    (0..50)
                        .map(|_| ledger.append(&[failed(&code)]).unwrap().first)
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }

    let verdict = audit(dir.path(), &[], None);
    assert_eq!(verdict.first_bad_row, None);
    let rows: Vec<_> = Reader::open(dir.path()).unwrap().rows().map(|row| row.unwrap()).collect();
    let failures = rows.iter().filter(|row| matches!(row.event, Event::Failed(_))).count();
    assert_eq!(failures, 300);
    for seq in appended {
        let row = &rows[usize::try_from(seq).unwrap() - 1];
        assert!(matches!(row.event, Event::Failed(_)), "{row:?}");
    }
}

/// The kernel itself refuses the write here, part of the way through: a limit on the file's size,
/// with the signal ignored that would come with it.
#[test]
fn a_disk_that_is_full_loses_no_row_and_leaves_no_half_of_one() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());

    let mut full = child_after(dir.path(), "trap '' XFSZ; ulimit -f 8", "appends_until_refused");
    let out = full.stdout(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();

    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}");
    let said = |name| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    assert_eq!(said("code="), "ledger.no-space");
    let verdict = audit(dir.path(), &[], None);
    assert_eq!((verdict.rows.to_string(), verdict.first_bad_row), (said("rows="), None));
    assert_eq!(verdict.warnings, []);
    let after = open(dir.path()).append(&[failed("c.d")]).unwrap();
    assert_eq!(after.first, verdict.rows + 1);
}

#[test]
fn a_ledger_on_a_read_only_disk_can_be_read_and_says_that_it_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    let unshare = ["--map-root-user", "--mount", "sh", "-c"];
    let possible = Command::new("unshare").args(unshare).arg("mount -t tmpfs none /mnt").status();
    if !possible.is_ok_and(|status| status.success()) {
        skipped("unprivileged mount namespaces are not allowed here");
        return;
    }
    let remount = "mount --bind . . && mount -o remount,bind,ro \"$PWD\" && cd \"$PWD\"";
    let script = format!("{remount} && exec \"$0\" \"$@\"");
    let mut read_only = Command::new("unshare");
    read_only.args(unshare).arg(script).arg(std::env::current_exe().unwrap());
    read_only.args(["--exact", "appends_until_refused", "--ignored", "--nocapture"]);

    let out = read_only.current_dir(dir.path()).output().unwrap();

    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("code=ledger.not-writable\n"), "{text}");
    assert!(text.contains("rows=1\n"), "{text}");
}

/// SIGKILL between any two instructions: what was acknowledged is there, and the chain is whole.
#[test]
fn a_killed_writer_loses_no_row_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    let mut acknowledged = 1;
    for round in 1..=10 {
        let mut writer = child(dir.path(), "appends_until_killed");
        let mut writer = writer.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(writer.stdout.take().unwrap());
        let mut line = String::new();
        let mut seen = 0;
        while seen < round {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0);
            seen += u64::from(line.starts_with("row="));
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        out.read_to_string(&mut line).unwrap();
        let rows = line.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let newest = rows.filter_map(|line| line.trim().strip_prefix("row=")?.parse().ok()).max();
        acknowledged = newest.unwrap_or(acknowledged).max(acknowledged);

        open(dir.path()).append(&[failed("c.d")]).unwrap();
        let verdict = audit(dir.path(), &[], None);
        assert_eq!(verdict.first_bad_row, None);
        assert!(verdict.rows > acknowledged, "{} rows, {acknowledged} told of", verdict.rows);
    }
}

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn appends_fifty_rows() {
    let setup = Setup { segment_bytes_max: 4000, ..setup() };
    let mut ledger = Ledger::open(Path::new("."), setup).unwrap();
    for _ in 0..50 {
        ledger.append(&[failed("child")]).unwrap();
    }
}

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn appends_until_killed() {
    let mut ledger = open(Path::new("."));
    loop {
        let appended = ledger.append(&[failed("a.b"), failed("c.d")]).unwrap();
        say(&format!("row={}", appended.last));
    }
}

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn appends_until_refused() {
    let mut rows = audit(Path::new("."), &[], None).rows;
    let error = match Ledger::open(Path::new("."), setup()) {
        Err(error) => error,
        Ok(mut ledger) => loop {
            match ledger.append(&[failed("a.b"), failed(&"x".repeat(500))]) {
                Ok(appended) => rows = appended.last,
                Err(error) => break error,
            }
        },
    };
    say(&format!("code={}\nrows={rows}", error.code()));
}

/// This test binary again, running one test in `dir`.
fn child(dir: &Path, test: &str) -> Command {
    child_after(dir, ":", test)
}

/// The same, after a step of the shell.
fn child_after(dir: &Path, step: &str, test: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{step}; exec \"$0\" \"$@\""));
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command.current_dir(dir).stdout(Stdio::null());
    command
}

/// Writes past the test harness, which would keep it back.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{text}").unwrap();
    out.flush().unwrap();
}

fn skipped(reason: &str) {
    say(&format!("skipped: {reason}"));
}
