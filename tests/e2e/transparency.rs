//! The local log and bundles, as the command has them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use evanesce_tests::peers;
use serde_json::json;

use crate::installation;

#[test]
fn a_signed_file_has_a_bundle_that_verifies_elsewhere_with_the_logs_trusted_root() {
    // Given a file that was signed there, and what its installation hands over,
    let (there, here) = (installation(), installation());
    there.file("release.tar", "the release");
    there.run(&["sign", "release.tar"]).expect_status(0);
    there.run(&["log", "export", "--trusted-root", "-o", "root.json"]).expect_status(0);
    here.file("release.tar", "the release");
    for name in ["release.tar.sigstore.json", "root.json"] {
        here.file(name, fs::read(there.work_dir().join(name)).unwrap());
    }
    let notary = there.state_dir().join("notary/notary.pub");
    here.file("there.pub", fs::read(notary).unwrap());
    let verify = [
        "verify",
        "release.tar",
        "--bundle",
        "release.tar.sigstore.json",
        "--offline",
        "--trusted-root",
        "root.json",
    ];

    // When it is verified here without and with its notary,
    let unknown = here.run(&verify).expect_status(3);
    let trusted = here.run(&[&verify[..], &["--notary", "there.pub"]].concat()).expect_status(0);

    // Then only the second verdict is trust, and it says what it could not see;
    assert!(unknown.stdout.contains("not known here"), "{unknown:#?}");
    assert!(trusted.stdout.contains("signed this file"), "{trusted:#?}");
    assert!(trusted.stdout.contains("not checked"), "{trusted:#?}");
    // there, the receipt is found as well.
    let own = ["verify", "release.tar", "--bundle", "release.tar.sigstore.json"];
    let own = there.run(&own).expect_status(0);
    assert!(own.stdout.contains("the key was destroyed"), "{own:#?}");

    // Another file is not what was signed.
    here.file("release.tar", "another release");
    here.run(&[&verify[..], &["--notary", "there.pub"]].concat()).expect_status(1);
}

#[test]
fn a_receipt_is_proven_to_be_in_the_log_and_the_log_checks() {
    let here = installation();
    here.run(&["run", "--workload-id", "w-1", "--", "true"]).expect_status(0);
    here.run(&["run", "--workload-id", "w-2", "--", "true"]).expect_status(0);

    here.run(&["log", "status"]).expect_status(0);
    let proof = ["log", "proof", "--workload", "w-1", "-o", "w-1.json", "--artifact", "w-1.key"];
    here.run(&proof).expect_status(0);
    let verdict = here.json(&["verify", "w-1.key", "--bundle", "w-1.json"]);
    assert_eq!((&verdict["outcome"], &verdict["kind"]), (&"trusted".into(), &"receipt".into()));
    let earlier = here.run(&["log", "status", "--checkpoint"]).expect_status(0).stdout;
    here.file("kept.txt", earlier);
    here.run(&["run", "--", "true"]).expect_status(0);
    let checked = here.run(&["log", "check", "--checkpoint", "kept.txt"]).expect_status(0);
    assert!(checked.stdout.contains("log: holds: 3 entries"), "{checked:#?}");
    here.run(&["log", "proof", "--from", "2"]).expect_status(0);
    here.run(&["log", "proof", "0", "--format", "tlog-proof"]).expect_status(0);
    here.run(&["log", "proof", "9"]).expect_refusal(2, "log.no-entry");
}

/// What a key signed before it handed over still verifies afterwards; the handover says so by its
/// place in the log.
#[test]
fn what_a_key_signed_before_it_was_rotated_still_verifies() {
    if peers::missing(&["bash"]) {
        return;
    }
    let here = installation();
    here.file("file", "contents");
    shell(&here, "\"$0\" key new release.age --new-passphrase-fd 3 3< <(echo secret)");
    shell(&here, "\"$0\" sign file --key release.age --passphrase-fd 3 3< <(echo secret)");
    shell(
        &here,
        "\"$0\" key rotate release.age --passphrase-fd 3 --new-passphrase-fd 4 \
         3< <(echo secret) 4< <(echo secret)",
    );

    let verdict = here.json(&["verify", "file", "--bundle", "file.sigstore.json"]);
    assert_eq!(verdict["outcome"], "trusted", "{verdict:#}");
    let checked = verdict["checked"].to_string();
    assert!(checked.contains("generation 1 of the key was the current one"), "{verdict:#}");
    // Elsewhere the rotation's own bundle says the same, and without it nobody knows of one.
    let rows = here.run(&["audit", "show", "--json"]).expect_status(0).stdout;
    let rotation = rows.lines().find(|row| row.contains("\"key-rotated\"")).unwrap();
    let row: serde_json::Value = serde_json::from_str(rotation).unwrap();
    let row = row["seq"].to_string();
    here.run(&["log", "proof", "--row", &row, "-o", "r.json", "--artifact", "new.key"])
        .expect_status(0);
    let rotated = here.json(&["verify", "new.key", "--bundle", "r.json"]);
    let found = (&rotated["outcome"], &rotated["kind"]);
    assert_eq!(found, (&"trusted".into(), &"key-rotation".into()), "{rotated:#}");
    let with = ["verify", "file", "--bundle", "file.sigstore.json", "--rotation", "r.json"];
    assert_eq!(here.json(&with)["outcome"], "trusted");
}

/// Somebody kept the sealed file of the retired key and signs with it: the log has that signature
/// after the handover, and says so.
#[test]
fn what_a_key_signs_after_it_was_rotated_is_refused() {
    if peers::missing(&["bash"]) {
        return;
    }
    let here = installation();
    here.file("file", "contents");
    shell(&here, "\"$0\" key new release.age --new-passphrase-fd 3 3< <(echo secret)");
    shell(&here, "mkdir -m 700 kept && cp -p release.age* kept/");
    shell(
        &here,
        "\"$0\" key rotate release.age --passphrase-fd 3 --new-passphrase-fd 4 \
         3< <(echo secret) 4< <(echo secret)",
    );
    shell(&here, "\"$0\" sign file --key kept/release.age --passphrase-fd 3 3< <(echo secret)");

    let verify = ["verify", "file", "--bundle", "file.sigstore.json"];
    let refused = here.run(&verify).expect_status(1);

    assert!(refused.stdout.contains("generation 1 of the key was retired"), "{refused:#?}");
}

/// The ledger of an earlier version has no log; it gets one.
#[test]
fn a_log_that_is_gone_or_never_was_is_made_from_the_ledger() {
    let here = installation();
    here.file("file", "contents");
    here.run(&["log", "status"]).expect_refusal(2, "log.none");
    here.run(&["sign", "file"]).expect_status(0);
    let before = here.json(&["log", "status"]);
    fs::remove_dir_all(here.state_dir().join("log")).unwrap();

    here.run(&["run", "--", "true"]).expect_status(0);

    let after = here.json(&["log", "status"]);
    assert_eq!(after["entries"], before["entries"].as_u64().unwrap() + 1);
    here.run(&["log", "check"]).expect_status(0);
    here.run(&["audit", "verify"]).expect_status(0);
}

#[test]
fn a_changed_tile_or_row_fails_the_check() {
    let here = installation();
    here.file("file", "contents");
    here.run(&["sign", "file"]).expect_status(0);
    let tile = here.state_dir().join("log/tiles/tile/0/000.p/2");
    let good = fs::read(&tile).unwrap();
    let mut bad = good.clone();
    bad[3] ^= 1;
    fs::write(&tile, bad).unwrap();
    let checked = here.run(&["log", "check"]).expect_status(1);
    assert!(checked.stdout.contains("tile/0/000.p/2"), "{checked:#?}");
    fs::write(&tile, good).unwrap();
    here.run(&["log", "check"]).expect_status(0);
}

#[test]
fn verifying_a_bundle_opens_no_socket() {
    if peers::missing(&["strace"]) {
        return;
    }
    let here = installation();
    here.file("file", "contents");
    here.run(&["sign", "file"]).expect_status(0);
    let traced = ["strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", "trace.txt"];
    let verify = ["verify", "file", "--bundle", "file.sigstore.json", "--offline"];

    here.evanesce_under(&traced, verify).output().expect_status(0);

    assert_eq!(fs::read_to_string(here.work_dir().join("trace.txt")).unwrap(), "");
    // Where one is opened, this sees it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    add_target(&here, &url);
    drop(listener);
    let publish = ["log", "publish", "test", "--give-up-after", "1s"];
    here.evanesce_under(&traced, publish).output().expect_status(1);
    let trace = fs::read_to_string(here.work_dir().join("trace.txt")).unwrap();
    assert!(trace.contains("connect("), "{trace}");
}

/// Whatever the server does, the command's result is the command's.
#[test]
fn publishing_to_a_bad_server_changes_nothing_of_the_workloads_result() {
    let here = installation();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut stream, mut request) = (stream, [0; 1024]);
            stream.read(&mut request).map(drop).unwrap_or(());
            let answer = b"HTTP/1.1 201 X\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
            stream.write_all(answer).unwrap_or(());
        }
    });
    here.run(&["run", "--publish", "nowhere", "--", "true"]).expect_refusal(125, "target.none");
    add_target(&here, &url);

    let ran = here.run(&["run", "--publish", "test", "--", "sh", "-c", "exit 7"]);

    assert_eq!(ran.status.code(), Some(7), "{ran:#?}");
    assert!(ran.stderr.contains("the rest waits"), "{ran:#?}");
    assert!(ran.stderr.contains("makes no sense"), "{ran:#?}");
    let status = here.json(&["log", "status"]);
    let waiting = &status["targets"][0]["waiting"];
    assert_eq!((&waiting["entries"], &waiting["first"]), (&1.into(), &0.into()), "{status:#}");
    assert_eq!(waiting["failure"]["code"], "publish.garbage");
}

fn add_target(here: &evanesce_tests::Installation, url: &str) {
    let config = json!({
        "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
        "rekorTlogUrls": [{
            "url": url,
            "majorApiVersion": 2,
            "validFor": {"start": "2020-01-01T00:00:00Z"},
            "operator": "test",
        }],
    });
    let root = json!({
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": [],
    });
    here.file("config.json", config.to_string());
    here.file("root.json", root.to_string());
    let add = ["log", "target", "add", "test", "--signing-config", "config.json"];
    here.run(&[&add[..], &["--trusted-root", "root.json"]].concat()).expect_status(0);
}

/// Runs a line of bash, in which `$0` is the command.
fn shell(here: &evanesce_tests::Installation, line: &str) {
    here.evanesce_under(&["bash", "-c", line], [""; 0]).output().expect_status(0);
}
