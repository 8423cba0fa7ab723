//! `evanesce-init`: the first program of a worker's machine, and but for the worker the only one.

#![forbid(unsafe_code)]

use rustix::system::{RebootCommand, reboot};

fn main() {
    evanesce_init::live();
    // With this the machine is gone. Where the kernel refuses, the end of its first program makes
    // it panic, and that ends the machine as well.
    reboot(RebootCommand::PowerOff).ok();
}
