//! A key goes from an installation that has it to a worker of another: over sockets, TLS and files,
//! and to nobody else.
//!
//! The machines are made of PKIs in the shapes of AMD's (`snp_pki`) and Intel's (`tdx`), behind configfs
//! in user space.

pub(crate) mod pair;

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::Command;

use evanesce_tests::process::output;
use evanesce_tests::{peers, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use self::pair::{Pair, socket};
use crate::tdx;

#[test]
fn a_key_is_released_to_an_attested_worker_and_both_ledgers_have_the_same_transcript() {
    let Some(pair) = Pair::new() else { return };
    let (path, address) = socket(pair.holder.root());
    let holder = pair.listen(&address, &["--releases-max", "1"]);
    wait_until("the holder listens", || path.exists());

    // When a file is signed with a key that its holder releases,
    let signed = pair.sign(&address, &["--json"]).expect_status(0);
    let said = holder.wait().expect_status(0);

    // Then the signature is by the holder's key,
    let report: Value = serde_json::from_str(&signed.stdout).unwrap();
    let released = &Pair::rows(&pair.holder, "released")[0];
    let statement = evanesce_tests::payload(&released["envelope"]);
    let key = &statement["predicate"]["public_key"];
    assert_eq!(&report["receipt"]["key"]["public_key"], key, "{report:#}");
    assert!(said.stderr.contains("released"), "{said:#?}");
    // the receipt says where it came from, and claims no more than this copy's end,
    let receipt = &report["receipt"];
    assert_eq!(receipt["key"]["origin"], "released");
    assert_eq!(receipt["key"]["fate"], "this-copy-destroyed");
    // both ledgers hold, and have the same transcript of it,
    let received = &Pair::rows(&pair.asker, "received")[0];
    assert_eq!(received["transcript"], released["transcript"]);
    assert_eq!(receipt["released_by"]["transcript"], released["transcript"]);
    assert_eq!(received["evidence"], statement["predicate"]["evidence"]);
    assert_eq!(received["ledger"], statement["predicate"]["ledger"]["id"]);
    for here in [&pair.holder, &pair.asker] {
        here.run(&["audit", "verify"]).expect_status(0);
    }
    // and anybody can check the signature as any other.
    pair.asker.run(&["verify", "artifact"]).expect_status(0);
}

#[test]
fn a_key_is_released_to_a_tdx_machine_that_the_policy_lists_and_to_no_other() {
    let Some(pair) = Pair::within(tdx::machine()) else { return };
    let (path, address) = socket(pair.holder.root());
    let policy = fs::read_to_string(pair.holder.work_dir().join("policy.toml")).unwrap();
    let mrtd = "32".repeat(48);
    assert!(policy.contains(&mrtd), "{policy}");

    // Given a policy that lists another image, nothing is released,
    pair.holder.file("policy.toml", policy.replace(&mrtd, &"33".repeat(48)));
    let holder = pair.listen(&address, &[]);
    wait_until("the holder listens", || path.exists());
    let refused = pair.sign(&address, &[]).expect_status(1);
    assert!(refused.stderr.contains("tdx.td.mrtd"), "{refused:#?}");
    pair.assert_nothing_released();
    holder.signal(Signal::TERM);
    holder.wait().expect_status(0);

    // and given one that lists this image, the key is, to a machine of Intel's kind.
    pair.holder.file("policy.toml", policy);
    let holder = pair.listen(&address, &["--releases-max", "1"]);
    wait_until("the holder listens", || path.exists());
    pair.sign(&address, &[]).expect_status(0);
    holder.wait().expect_status(0);
    let released = &Pair::rows(&pair.holder, "released")[0];
    let predicate = &evanesce_tests::payload(&released["envelope"])["predicate"];
    assert_eq!((&predicate["tee"], &predicate["measurement"]), (&"tdx".into(), &mrtd.into()));
    for here in [&pair.holder, &pair.asker] {
        here.run(&["audit", "verify"]).expect_status(0);
    }
    pair.asker.run(&["verify", "artifact"]).expect_status(0);
}

#[test]
fn a_key_goes_by_files_and_no_message_is_good_for_a_second_release() {
    let Some(pair) = Pair::new() else { return };
    let medium = pair.asker.work_dir().join("medium");
    fs::create_dir(&medium).unwrap();
    let at = |name: &str| medium.join(name).display().to_string();
    let challenge = |out: &str| {
        let line = ["release", "challenge", "--key", "key.pem", "--out", out];
        pair.holder.run(&line).expect_status(0);
    };
    let answer = |request: &str, out: &str| {
        let line = ["release", "answer", "--key", "key.pem", "--policy", "policy.toml"];
        let rest = ["--unsafe-trust-root", "roots.pem", "--request", request, "--out", out];
        pair.holder.evanesce(line.iter().chain(&rest)).output()
    };

    // Given a challenge that was carried over, and an asker who waits for the answer,
    challenge(&at("challenge.json"));
    let asker = pair.asker.evanesce(pair.line("medium")).start();
    wait_until("the request is there", || medium.join("request.json").exists());
    let (request, spent) = (at("request.json"), at("spent.json"));

    // When it comes,
    answer(&request, &at("answer.json")).expect_status(0);
    asker.wait().expect_status(0);

    // Then the file is signed. The same request is refused from then on,
    pair.asker.run(&["verify", "artifact"]).expect_status(0);
    let refused = answer(&request, &spent).expect_status(1);
    assert!(refused.stderr.contains("[release.not-open]"), "{refused:#?}");
    // its answer is of no use to another worker,
    let first = fs::read(medium.join("answer.json")).unwrap();
    for name in ["challenge.json", "request.json", "answer.json"] {
        fs::remove_file(medium.join(name)).unwrap();
    }
    challenge(&at("challenge.json"));
    let asker = pair.asker.evanesce(pair.line("medium")).start();
    wait_until("the request is there", || medium.join("request.json").exists());
    fs::write(medium.join("answer.json"), first).unwrap();
    let refused = asker.wait().expect_status(1);
    assert!(refused.stderr.contains("release.other-session"), "{refused:#?}");
    // a directory that was used is not used again,
    pair.sign("medium", &[]).expect_refusal(2, "release.directory-used");
    // and only one key was released.
    assert_eq!(Pair::rows(&pair.holder, "released").len(), 1);
    for here in [&pair.holder, &pair.asker] {
        here.run(&["audit", "verify"]).expect_status(0);
    }
}

#[test]
fn whoever_the_policy_does_not_list_and_whoever_is_not_the_holder_gets_nothing() {
    let Some(pair) = Pair::new() else { return };
    let (path, address) = socket(pair.holder.root());
    let holder = pair.listen(&address, &[]);
    wait_until("the holder listens", || path.exists());

    // Evidence of no machine is refused by its kind.
    let line = ["sign", "artifact", "--key-from", &address, "--holder", "holder.pem"];
    let line = line.iter().chain(&["--insecure-software-attestation"]);
    let refused = pair.asker.evanesce(line).output().expect_status(1);
    assert!(refused.stderr.contains("release.refused"), "{refused:#?}");
    assert!(refused.stderr.contains("software."), "{refused:#?}");
    // A holder that is not the pinned one is not asked, nor one with another key.
    let own = pair.asker.state_dir().join("notary/notary.pem");
    pair.asker.file("other.pem", fs::read(own).unwrap());
    let line = ["sign", "artifact", "--key-from", &address, "--holder", "other.pem"];
    pair.asker.run(&line).expect_refusal(1, "release.other-holder");
    let other = format!("ed25519:{}", "07".repeat(32));
    pair.sign(&address, &["--expect-key", &other]).expect_refusal(1, "release.other-public-key");
    // What is no message is answered with a refusal, and a peer that says nothing holds up nobody.
    let _silent = UnixStream::connect(&path).unwrap();
    let mut garbage = UnixStream::connect(&path).unwrap();
    garbage.write_all(b"\0\0\0\x02{}").unwrap();
    pair.assert_nothing_released();
    pair.sign(&address, &[]).expect_status(0);

    // Told to end, it ends in order.
    holder.signal(Signal::TERM);
    let said = holder.wait().expect_status(0);
    assert!(said.stdout.contains("1 release, 2 refused"), "{said:#?}");
    assert!(!path.exists());

    // A policy for signers is none for releases.
    fs::remove_file(pair.asker.work_dir().join("artifact.sig")).unwrap();
    let signers = fs::read(pair.holder.work_dir().join("signers.toml")).unwrap();
    pair.holder.file("policy.toml", signers);
    let holder = pair.listen(&address, &[]);
    wait_until("the holder listens", || path.exists());
    let refused = pair.sign(&address, &[]).expect_status(1);
    assert!(refused.stderr.contains("bound.purpose"), "{refused:#?}");
    holder.signal(Signal::TERM);
    holder.wait().expect_status(0);
    assert_eq!(Pair::rows(&pair.holder, "released").len(), 1);
}

#[test]
fn over_a_network_the_holder_shows_a_certificate_that_the_asker_trusts() {
    if peers::missing(&["openssl"]) {
        return;
    }
    let Some(pair) = Pair::new() else { return };
    let certificate = |name: &str| {
        let mut openssl = Command::new("openssl");
        let line = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                    -subj /CN=holder -addext subjectAltName=IP:127.0.0.1 \
                    -addext basicConstraints=critical,CA:FALSE";
        openssl.args(line.split_whitespace()).current_dir(pair.holder.work_dir());
        openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
        output(openssl).expect_status(0);
        let path = pair.holder.work_dir().join(format!("{name}.pem"));
        pair.asker.file(&format!("{name}.pem"), fs::read(path).unwrap());
    };
    certificate("tls");
    certificate("stranger");
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tls://{}", free.local_addr().unwrap());
    drop(free);

    pair.holder
        .run(&["release", "--listen", &address, "--key", "key.pem", "--policy", "policy.toml"])
        .expect_refusal(2, "tls.files");
    let holder = pair.listen(&address, &["--tls-cert", "tls.pem", "--tls-key", "tls.key"]);
    let reachable = address.strip_prefix("tls://").unwrap();
    wait_until("the holder listens", || std::net::TcpStream::connect(reachable).is_ok());

    // By nobody's and by a stranger's word the holder is not believed.
    pair.sign(&address, &[]).expect_refusal(1, "release.channel");
    pair.sign(&address, &["--tls-root", "stranger.pem"]).expect_refusal(1, "release.channel");
    pair.assert_nothing_released();
    pair.sign(&address, &["--tls-root", "tls.pem"]).expect_status(0);
    pair.asker.run(&["verify", "artifact"]).expect_status(0);
    holder.signal(Signal::TERM);
    holder.wait().expect_status(0);
}

#[test]
fn an_asker_who_is_killed_while_it_waits_leaves_no_worker_and_a_row_that_says_so() {
    let Some(pair) = Pair::new() else { return };
    let medium = pair.asker.work_dir().join("medium");
    fs::create_dir(&medium).unwrap();
    let out = medium.join("challenge.json").display().to_string();
    let line = ["release", "challenge", "--key", "key.pem", "--out", &out];
    pair.holder.run(&line).expect_status(0);

    // One that is asked to end says so and ends,
    let asker = pair.asker.evanesce(pair.line("medium")).start();
    wait_until("the request is there", || medium.join("request.json").exists());
    asker.signal(Signal::TERM);
    let ended = asker.wait().expect_status(1);
    assert!(ended.stderr.contains("load.interrupted"), "{ended:#?}");
    // one that is killed is ended by the next command.
    fs::remove_file(medium.join("request.json")).unwrap();
    let asker = pair.asker.evanesce(pair.line("medium")).start();
    wait_until("the request is there", || medium.join("request.json").exists());
    asker.signal(Signal::KILL);
    drop(asker);
    assert_eq!(pair.asker.json(&["ps"]), serde_json::json!([]));

    let failed = Pair::rows(&pair.asker, "failed");
    let codes: Vec<_> = failed.iter().map(|row| row["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["load.interrupted", "launcher.lost"]);
    assert_eq!(Pair::rows(&pair.asker, "received"), Vec::<Value>::new());
    pair.asker.run(&["audit", "verify"]).expect_status(0);
}
