//! A systemd whose own limits are low: it clamps what it is asked for, and does not say so.
//!
//! These lower the limits of PID 1 for good, so they are run last, in their own order.

use crate::refusals::assert_refused;
use crate::{installation, program};

#[test]
#[ignore = "lowers limits of PID 1 for good: cargo xtask systemd"]
fn a_limit_that_systemd_clamps_is_refused_before_there_is_a_key() {
    let here = installation();
    let run = ["run", "--spawn", "systemd", "--", "touch", "ran"];

    // Enough for a worker, and less than was asked for: systemd reports the one, /proc the other.
    program(&["prlimit", "--pid", "1", "--memlock=1048576:1048576"]).expect_status(0);
    let refused = here.run(&run);
    assert!(refused.stderr.contains("clamped: 1024 KiB are in force, not 2048"), "{refused:?}");
    assert_refused(&here, refused, "systemd.settings");

    // Not enough for a worker: it says so itself.
    program(&["prlimit", "--pid", "1", "--memlock=65536:65536"]).expect_status(0);
    assert_refused(&here, here.run(&run), "worker.lock-limit");
}
