//! A key that a holder releases to a worker in a unit.

use std::fs;

use evanesce_tests::wait_until;
use rustix::process::Signal;

use crate::pair::{Pair, socket};
use crate::units;

/// Signs a file with the key of the workload, by the socket that it is given.
const SIGN: [&str; 3] =
    ["sh", "-c", "exec ssh-keygen -q -Y sign -n file -f \"$EVANESCE_PUBLIC_KEY_FILE\" artifact"];

fn run<'a>(pair: &'a Pair, address: &'a str) -> Vec<&'a str> {
    let spawn = ["run", "--spawn", "systemd", "--workload-id", "w"];
    let source = ["--key-from", address, "--holder", "holder.pem", "--tsm-root", pair.tsm(), "--"];
    [&spawn[..], &source, &SIGN].concat()
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_key_is_released_to_a_worker_that_systemd_started() {
    let Some(pair) = Pair::new() else { return };
    let (path, address) = socket(pair.holder.root());
    let holder = pair.listen(&address, &["--releases-max", "1"]);
    wait_until("the holder listens", || path.exists());

    pair.asker.run(&run(&pair, &address)).expect_status(0);
    holder.wait().expect_status(0);

    pair.asker.run(&["verify", "artifact"]).expect_status(0);
    let receipt = pair.asker.receipt("w");
    assert_eq!(receipt["placement"]["unit"], "evanesce-w.service", "{receipt:#}");
    assert_eq!(receipt["separation"]["workload"], "other-uid", "{receipt:#}");
    assert_eq!(receipt["key"]["origin"], "released", "{receipt:#}");
    assert_eq!(receipt["key"]["fate"], "this-copy-destroyed", "{receipt:#}");
    let transcript = &Pair::rows(&pair.holder, "released")[0]["transcript"];
    assert_eq!(&receipt["released_by"]["transcript"], transcript);
    for here in [&pair.holder, &pair.asker] {
        here.run(&["audit", "verify"]).expect_status(0);
    }
    assert_eq!(units(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs a systemd of its own: cargo xtask systemd"]
fn a_unit_whose_key_is_not_released_is_ended() {
    let Some(pair) = Pair::new() else { return };
    let policy = fs::read(pair.holder.work_dir().join("signers.toml")).unwrap();
    pair.holder.file("policy.toml", policy);
    let (path, address) = socket(pair.holder.root());
    let holder = pair.listen(&address, &[]);
    wait_until("the holder listens", || path.exists());

    let refused = pair.asker.run(&run(&pair, &address)).expect_status(125);
    holder.signal(Signal::TERM);
    holder.wait().expect_status(0);

    assert!(refused.stderr.contains("release.refused"), "{refused:?}");
    assert!(!pair.asker.work_dir().join("artifact.sig").exists());
    let of_w = Pair::rows(&pair.asker, "failed");
    assert_eq!((of_w.len(), &of_w[0]["workload"]), (1, &"w".into()), "{of_w:?}");
    assert_eq!(units(), [] as [&str; 0]);
}
