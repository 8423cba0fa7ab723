//! Ends of the machine.

use crate::vm::bench::Bench;
use crate::vm::error::VmError;
use crate::vm::machine::Store::{Disk, Dump, Memory};
use crate::vm::row::Expected::{Every, Nothing};

/// The kernel crashes while a key lives, and a crash kernel keeps all of memory.
pub(crate) fn kernel_crash(bench: &mut Bench) -> Result<(), VmError> {
    let case = "the kernel crashes, kdump writes all of memory";
    let workload = bench.start("crashed", 0)?;
    bench.machine.guest.output(&[
        "/sbin/kexec",
        "--load-panic",
        "/payload/vmlinuz",
        "--initrd=/payload/initrd",
        "--append=console=ttyS0 quiet no_timer_check reset_devices nr_cpus=1 panic=10",
    ])?;
    bench.machine.guest.crash()?;
    bench.machine.await_power_off()?;
    // A dump of a living key holds it: the receipt's fact `host.kdump` warns of this.
    bench.look_at_remains((case, "crashed"), &[&workload.key], &[(Memory, Every), (Dump, Every)])
}

/// The operator shuts the machine down while a key lives.
pub(crate) fn power_off(bench: &mut Bench) -> Result<(), VmError> {
    let case = "the machine is shut down";
    let workload = bench.start_as_unit("powered-off")?;
    let key = [&workload.key];
    bench.look((case, "alive"), &key, &[(Memory, Every)])?;

    bench.machine.guest.output(&["/usr/bin/systemctl", "--no-block", "poweroff"])?;
    bench.machine.await_power_off()?;
    bench.look_at_remains((case, "off"), &key, &[(Memory, Nothing), (Disk, Nothing)])
}
