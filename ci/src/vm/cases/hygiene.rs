//! Places beyond memory: core files and swap.

use evanesce_guest::Death;

use crate::vm::bench::{Bench, EVANESCE, GUEST};
use crate::vm::error::VmError;
use crate::vm::machine::Store::{Disk, Memory, Swap};
use crate::vm::row::Expected::{Every, Nothing, Unclaimed};

/// The system keeps core files, and everybody aborts.
pub(crate) fn core_files(bench: &mut Bench) -> Result<(), VmError> {
    let case = "core files are kept; SIGABRT to worker and launcher";
    let control = "control: the core file of a program with a key on its heap";
    bench.machine.guest.write("/proc/sys/kernel/core_pattern", "/var/crash/core.%p")?;

    let key = bench.key();
    let guest = &mut bench.machine.guest;
    let (pid, _) = guest.start("dumped", &[GUEST, "hold", &key.masked(), "1"])?;
    guest.strike(&[], &[pid], Death::Abort)?;
    guest.finish("dumped")?;
    bench.look((control, "after"), &[&key], &[(Disk, Every)])?;
    // What is removed from a disk is not gone.
    bench.machine.guest.output(&["/bin/rm", &format!("/var/crash/core.{pid}")])?;
    bench.look((control, "removed"), &[&key], &[(Disk, Every)])?;

    // In the middle of a signature: what the kernel keeps of that moment is that of any kill.
    let left = if bench.init_on_free { Nothing } else { Unclaimed };
    let (worker, launcher) = (bench.start("aborted-worker", 0)?, bench.start("aborted", 0)?);
    let guest = &mut bench.machine.guest;
    guest.strike(&[], &[worker.worker], Death::Abort)?;
    guest.finish("aborted-worker")?;
    guest.strike(&[], &[launcher.launcher], Death::Abort)?;
    guest.finish("aborted")?;
    bench.await_end(launcher.worker)?;
    bench.look(
        (case, "after, worker's key"),
        &[&worker.key],
        &[(Memory, left), (Disk, Nothing)],
    )?;
    let launchers = (case, "after, launcher's key");
    bench.look(launchers, &[&launcher.key], &[(Memory, Nothing), (Disk, Nothing)])?;
    let cores = bench.machine.guest.output(&["/bin/ls", "/var/crash"])?;
    for pid in [worker.worker, worker.launcher, launcher.worker, launcher.launcher] {
        if cores.contains(&format!("core.{pid}")) {
            bench.fault(format!("there is a core file of process {pid}: {cores}"));
        }
    }
    bench.machine.guest.output(&[EVANESCE, "ps"])?;
    bench.check_receipt("aborted-worker", "kernel")?;
    bench.check_receipt("aborted", "kernel")?;
    Ok(())
}

/// A system with swap and too little memory.
pub(crate) fn swap_pressure(bench: &mut Bench) -> Result<(), VmError> {
    let case = "swap, and more memory asked for than there is";
    let control = "control: a key on a heap, 256 pages; swap as above";
    bench.machine.guest.output(&["/sbin/mkswap", "/dev/vdc"])?;
    bench.machine.guest.output(&["/sbin/swapon", "/dev/vdc"])?;

    let key = bench.key();
    let argv = [GUEST, "hold", &key.masked(), "256"];
    bench.machine.guest.start("swapped", &argv)?;
    let workload = bench.start("swap", 200)?;
    bench.machine.guest.start("hog", &[GUEST, "hog", HOG_MIB])?;
    bench.look((control, "alive"), &[&key], &[(Swap, Every)])?;
    let keys = [&workload.key];
    bench.look((case, "alive"), &keys, &[(Memory, Every), (Swap, Nothing), (Disk, Nothing)])?;

    bench.machine.guest.finish("hog")?;
    bench.machine.guest.finish("swapped")?;
    bench.machine.guest.finish("swap")?;
    bench.look((control, "after"), &[&key], &[(Swap, Every)])?;
    bench.look((case, "after"), &keys, &[(Memory, Nothing), (Swap, Nothing), (Disk, Nothing)])?;
    bench.check_receipt("swap", super::ends::WIPED)?;
    bench.machine.guest.output(&["/sbin/swapoff", "/dev/vdc"])?;
    Ok(())
}

/// More than the guest's memory, less than memory and swap.
const HOG_MIB: &str = "1100";
