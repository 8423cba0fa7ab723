//! What an attester gives up: it has to open files of the kernel's, and needs nothing else.

use std::os::fd::AsFd as _;

use rustix::net::SocketType;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::Control;

/// Gives up core files and being looked at, and takes the control channel: standard input, if it is
/// a socket. An attester that was started by hand has none.
pub(crate) fn enter() -> Option<Control> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).ok()?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).ok()?;
    let channel = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    let kind = rustix::net::sockopt::socket_type(&channel).ok()?;
    (kind == SocketType::SEQPACKET).then(|| Control::new(channel))
}
