//! The process that is the cage: one workload, one key, one life.
//!
//! Start at [`run`]. A worker cages itself before it is given anything ([`cage`]), loads one key
//! into guarded memory, serves its agent socket ([`service`]) or signs for the launcher
//! ([`notary`]), and wipes everything at its end, whoever asks for it.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | a key is loaded only behind closed walls | [`cage::Closed`] is needed to answer `Load` | `cage.rs`, the launcher's own check |
//! | no system call but the listed ones | [`seccomp::RULES`] | `tests/seccomp.rs`, both ways |
//! | no signature without a record | the journal is written before the answer | `service.rs`, end-to-end tests |
//! | a broken invariant leaves no key | the panic hook wipes every guarded range, then aborts | end-to-end tests |
//! | a passphrase and an identity are read here alone, and gone before the key is used | `secret.rs`, `vault.rs` | `tests/e2e/custody.rs` |
//! | the worker does not outlive its launcher | end of file on the control channel ends it | end-to-end tests |
//!
//! # Invariant
//!
//! Single-threaded, no async runtime, no network, no file system after the walls are up. All
//! signals but those of a fault are blocked: nothing interrupts a signature and leaves its
//! registers in a signal frame.

#![deny(unsafe_code)]

pub mod cage;
mod connection;
mod journal;
mod memory;
mod mutant;
mod notary;
mod orders;
mod panics;
mod room;
pub mod seccomp;
mod secret;
mod service;
mod signer;
mod sys;
mod vault;

use evanesce_protocol::channel::Channel;
use evanesce_protocol::control::{Role, Strength, TerminalUse};

/// Lives a worker's whole life. Returns when the launcher is gone or has no more use for it.
///
/// What went wrong was reported over the control channel; without one there is nobody to tell.
pub fn run(role: Role, strength: Strength, terminal: TerminalUse) {
    panics::install();
    let Some(channel) = control_channel() else {
        return;
    };
    match role {
        Role::Signer => signer::live(channel, strength, terminal),
        Role::Notary => notary::live(channel, strength, terminal),
    }
}

/// Standard input, if it is a socket: a worker started by hand has none.
fn control_channel() -> Option<Channel> {
    let descriptor = sys::take_control();
    rustix::net::sockopt::socket_type(&descriptor)
        .is_ok_and(|kind| kind == rustix::net::SocketType::SEQPACKET)
        .then(|| Channel::new(descriptor))
}
