//! Ends of a workload that the machine survives.

use evanesce_guest::Death;

use crate::vm::bench::{Bench, EVANESCE, Workload};
use crate::vm::error::VmError;
use crate::vm::machine::Store::{Disk, Memory};
use crate::vm::row::Expected::{Every, Nothing, Unclaimed};

/// The command ends; before, the host of the machine takes a snapshot.
pub(crate) fn orderly(bench: &mut Bench) -> Result<(), VmError> {
    let case = "the command ends";
    let workload = bench.start("orderly", 200)?;
    let key = [&workload.key];
    bench.look((case, "alive"), &key, &[(Memory, Every), (Disk, Nothing)])?;
    bench.look_at_snapshot(("the host takes a snapshot", "alive"), &key, Every)?;

    bench.machine.guest.finish("orderly")?;
    bench.look((case, "after"), &key, &[(Memory, Nothing), (Disk, Nothing)])?;
    bench.check_receipt("orderly", WIPED)?;
    Ok(())
}

/// Twenty workers that all sign, and are all killed at the same moment.
pub(crate) fn killed_in_mid_signature(bench: &mut Bench) -> Result<(), VmError> {
    let case = "20 workers in mid-signature; SIGKILL";
    let mut workloads = Vec::new();
    for index in 0..KILLED {
        let workload = bench.start(&format!("killed-{index}"), 0)?;
        // The next one is to start on an idle processor.
        bench.machine.guest.stop(&[workload.command])?;
        workloads.push(workload);
    }
    let commands: Vec<_> = workloads.iter().map(|workload| workload.command).collect();
    bench.machine.guest.let_go_on(&commands)?;
    bench.machine.guest.output(&["/bin/sleep", "1"])?;
    let interrupted = strike(bench, case, &workloads, Death::Kill)?;
    if (interrupted as usize) < KILLED / 2 {
        bench.fault(format!("only {interrupted} workers were at work when they were killed"));
    }
    Ok(())
}

/// The kernel chooses the worker when memory runs out.
pub(crate) fn out_of_memory(bench: &mut Bench) -> Result<(), VmError> {
    let workload = bench.start("out-of-memory", 0)?;
    strike(bench, "the out-of-memory killer", &[workload], Death::OutOfMemory)?;
    Ok(())
}

/// Ends workers while their launchers and commands stand still, looks, and looks again when there
/// is a receipt.
fn strike(
    bench: &mut Bench,
    case: &'static str,
    workloads: &[Workload],
    by: Death,
) -> Result<u32, VmError> {
    let keys: Vec<_> = workloads.iter().map(|workload| &workload.key).collect();
    bench.look((case, "alive"), &keys, &[(Memory, Every)])?;

    // A launcher that saw the end would start a worker for the receipt, and that one would be
    // given the very pages that are to be looked at.
    let bystanders: Vec<_> =
        workloads.iter().flat_map(|workload| [workload.launcher, workload.command]).collect();
    let workers: Vec<_> = workloads.iter().map(|workload| workload.worker).collect();
    let interrupted = bench.machine.guest.strike(&bystanders, &workers, by)?;
    bench.look((case, "dead, no receipt yet"), &keys, &[(Memory, Unclaimed)])?;

    bench.machine.guest.let_go_on(&bystanders)?;
    for workload in workloads {
        bench.machine.guest.finish(&workload.id)?;
    }
    let left = if bench.init_on_free { Nothing } else { Unclaimed };
    bench.look((case, "after"), &keys, &[(Memory, left), (Disk, Nothing)])?;
    for workload in workloads {
        let receipt = bench.check_receipt(&workload.id, "kernel")?;
        if !bench.init_on_free && receipt["scrub"]["unproven"].as_array().is_none_or(Vec::is_empty)
        {
            let id = &workload.id;
            bench.fault(format!("the receipt of {id} does not say what it cannot show"));
        }
    }
    Ok(interrupted)
}

/// The launcher is killed; its worker notices and wipes, and the next command writes the receipt.
pub(crate) fn launcher_killed(bench: &mut Bench) -> Result<(), VmError> {
    let case = "the launcher is killed";
    let workload = bench.start("launcher-killed", 0)?;
    let key = [&workload.key];
    bench.look((case, "alive"), &key, &[(Memory, Every)])?;

    bench.machine.guest.strike(&[], &[workload.launcher], Death::Kill)?;
    bench.machine.guest.finish("launcher-killed")?;
    bench.await_end(workload.worker)?;
    bench.look((case, "after"), &key, &[(Memory, Nothing), (Disk, Nothing)])?;
    bench.machine.guest.output(&[EVANESCE, "ps"])?;
    bench.check_receipt("launcher-killed", "kernel")?;
    Ok(())
}

/// `systemctl stop` on the unit that the operator runs evanesce in.
pub(crate) fn stopped_by_systemd(bench: &mut Bench) -> Result<(), VmError> {
    let case = "systemctl stop";
    let workload = bench.start_as_unit("unit-stopped")?;
    let key = [&workload.key];
    bench.look((case, "alive"), &key, &[(Memory, Every)])?;

    bench.machine.guest.output(&["/usr/bin/systemctl", "stop", "unit-stopped"])?;
    bench.look((case, "after"), &key, &[(Memory, Nothing), (Disk, Nothing)])?;
    bench.check_receipt("unit-stopped", WIPED)?;
    Ok(())
}

pub(crate) const WIPED: &str = "worker-wiped-then-overwritten";

const KILLED: usize = 20;
