//! The first program of a worker's machine: starts the worker and carries its words out.
//!
//! Start at [`live`]. A machine of a worker has a kernel, this program, the worker and the attester;
//! no disk, no network, no shell. This program mounts what they need, loads the modules that came
//! with it, finds the one port there is, starts the worker when it is told to, and from then on
//! carries messages: [`evanesce_protocol::machine`]
//! over the port, [`evanesce_protocol::control`] to the worker, which is the same program that runs
//! without a machine, behind the same cage.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | it never holds a byte of a key | no message has room for one; the worker is not dumpable and another user's | [`evanesce_protocol::control`] |
//! | evidence is about the key that the worker in here has, and the terms that it serves on | what is bound is held against the worker's own reports and its orders | `record.rs` |
//! | no answer leaves before its journal entry | the journal is emptied after an answer was read and before it is sent | `relay.rs` |
//! | a machine without a launcher ends | a closed port closes the worker's channel, at which the worker wipes; then the machine is switched off | `cargo xtask enclave` |
//!
//! # Invariant
//!
//! One thread, no async runtime. What a launcher sends is parsed into types first; what is no
//! message ends the machine.

#![forbid(unsafe_code)]

mod attester;
mod modules;
mod port;
mod record;
mod relay;

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use rustix::io::Errno;

use crate::port::Port;

/// Lives the machine's whole life. When it returns the machine is to be switched off.
pub fn live() {
    if let Err(failed) = mount_file_systems().and_then(|()| modules::load()) {
        return complain(&failed);
    }
    let mut port = match Port::open(Path::new(PORTS), Path::new(DEVICES), Instant::now() + APPEAR) {
        Ok(port) => port,
        Err(failed) => return complain(&failed),
    };
    if let Err(failed) = relay::serve(&mut port) {
        complain(&failed);
        port.say_last(&failed);
    }
}

/// Why a machine cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The step.
    pub(crate) step: &'static str,
    /// The error number, or 0 where there is none.
    pub(crate) errno: i32,
}

impl Failed {
    /// A step that failed without an error number.
    pub(crate) const fn at(step: &'static str) -> Self {
        Self { step, errno: 0 }
    }
}

/// What a step's error is, where that step fails.
pub(crate) fn step(step: &'static str) -> impl Fn(Errno) -> Failed {
    move |errno| Failed { step, errno: errno.raw_os_error() }
}

/// The same of the standard library's errors.
pub(crate) fn step_io(step: &'static str) -> impl Fn(io::Error) -> Failed {
    move |error| Failed { step, errno: error.raw_os_error().unwrap_or(0) }
}

fn mount_file_systems() -> Result<(), Failed> {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        mount_one(kind, target)?;
    }
    fs::create_dir_all(relay::RUN).map_err(step_io("mkdir"))
}

pub(crate) fn mount_one(kind: &str, target: &str) -> Result<(), Failed> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    match mount(Some(kind), target, Some(kind), flags, None::<&str>) {
        // Kernels that mount it by themselves.
        Ok(()) | Err(nix::errno::Errno::EBUSY) => Ok(()),
        Err(errno) => Err(Failed { step: "mount", errno: errno as i32 }),
    }
}

/// Says it on the console: there may be no port.
fn complain(failed: &Failed) {
    let line = format!("evanesce-init: {} failed ({})\n", failed.step, failed.errno);
    // Nobody is left to be told that nobody can be told.
    fs::write("/dev/console", line).ok();
}

const PORTS: &str = "/sys/class/virtio-ports";
const DEVICES: &str = "/dev";

/// For the kernel to find the port.
const APPEAR: Duration = Duration::from_secs(30);
