//! The playbooks that need a real systemd and the kernel's device mapper.

use serde_json::Value;

use crate::vm::bench::{Bench, EVANESCE};
use crate::vm::error::VmError;

/// Jobs side by side, one of them a transient service.
pub(crate) fn one_workload_per_process(bench: &mut Bench) -> Result<(), VmError> {
    follow(bench, "one-workload-per-process", &[])
}

/// Swap through a key that nobody knows, on a disk of its own.
pub(crate) fn swap_and_cores(bench: &mut Bench) -> Result<(), VmError> {
    bench.load(&["dm_mod", "dm_crypt", "xts"])?;
    bench.machine.guest.output(&["/sbin/mkswap", "/dev/vdc"])?;
    bench.machine.guest.output(&["/sbin/swapon", "/dev/vdc"])?;
    follow(bench, "swap-and-cores", &["--set", "SWAP=/dev/vdc", "--set", "CORES=/var/crash"])?;
    bench.machine.guest.output(&["/sbin/swapoff", "/dev/mapper/evanesce-swap"])?;
    bench.machine.guest.output(&["/sbin/cryptsetup", "close", "evanesce-swap"])?;
    Ok(())
}

/// Does every step; none may be left out here.
fn follow(bench: &mut Bench, name: &str, settings: &[&str]) -> Result<(), VmError> {
    let line = ["/usr/bin/env", PATH, HOME, EVANESCE, "playbook", "run", name, "--yes", "--json"];
    let ended = bench.machine.guest.run(&[&line, settings].concat())?;
    let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
    let outcome = &report["report"]["outcome"];
    match ended.status == 0 && outcome == "holds" {
        true => bench.show(format!("playbook {name}: every step holds")),
        false => {
            let (status, said) = (ended.status, ended.stderr);
            bench.fault(format!("playbook {name}: status {status}, {outcome}: {said} {report}"));
        }
    }
    Ok(())
}

/// Where a person who follows a playbook has the command.
const PATH: &str = "PATH=/payload:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const HOME: &str = "HOME=/root";
