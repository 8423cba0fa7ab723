//! Many workloads at once: what they take of the machine's memory.

use std::fs;
use std::io;

use super::BenchError;
use super::figure::{Figure, Target, Unit};
use super::installation::{Held, Installation};

/// The proportional set size of all launchers and workers together, and the most that one worker
/// has locked. A page that several share counts once in the sum.
pub(super) fn figures(
    installation: &Installation,
    workloads: u32,
) -> Result<Vec<Figure>, BenchError> {
    let what = [
        format!("{workloads} workloads at once, PSS of all launchers and workers"),
        "the same, locked memory, the most of one worker".to_owned(),
    ];
    if !rustix::process::geteuid().is_root() {
        let figure = |what: &String| {
            Figure::not_measured(what, Unit::Mebibytes, "only root can look into these processes")
        };
        return Ok(what.iter().map(figure).collect());
    }

    let held: Vec<Held> = (0..workloads).map(|_| installation.hold()).collect::<Result<_, _>>()?;
    let mut pss_kib = 0;
    let mut locked_kib = 0;
    for workload in installation.workloads()? {
        let pid =
            |name: &str| workload[name].as_u64().ok_or(BenchError::Output { of: "evanesce ps" });
        let (launcher, worker) = (pid("launcher_pid")?, pid("worker_pid")?);
        for pid in [launcher, worker] {
            pss_kib += kib(pid, "smaps_rollup", "Pss:")?;
        }
        locked_kib = locked_kib.max(kib(worker, "status", "VmLck:")?);
    }
    for workload in held {
        workload.finish()?;
    }
    Ok(vec![
        Figure::mib(&what[0], pss_kib).with_target(Target::AtMost(1024.0)),
        Figure::mib(&what[1], locked_kib).with_target(Target::AtMost(1.0)),
    ])
}

/// A field of a file of `/proc/PID`, in KiB (proc_pid_smaps(5), proc_pid_status(5)).
fn kib(pid: u64, file: &str, name: &str) -> Result<u32, BenchError> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).map_err(BenchError::Memory)?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or_else(|| BenchError::Memory(io::Error::other(format!("no {name} in {path}"))))
}
