//! `evanesce-worker ROLE STRENGTH TERMINAL`: the process that is the cage.
//!
//! Started by a launcher alone, with its end of the control channel as standard input. Ends with
//! status 0 after an orderly end, 2 where it was started by hand, and by SIGABRT or SIGSYS where
//! something was broken.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use evanesce_guarded_memory::ScopedAllocator;
use evanesce_protocol::control::{Role, Strength, TerminalUse};

/// While a key passes through the loading path, the heap is guarded memory too.
#[global_allocator]
static ALLOCATOR: ScopedAllocator = ScopedAllocator;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [role, strength, terminal] = arguments.as_slice() else {
        return ExitCode::from(MISUSE);
    };
    let role = Role::of_argument(role.as_encoded_bytes());
    let strength = Strength::of_argument(strength.as_encoded_bytes());
    let terminal = TerminalUse::of_argument(terminal.as_encoded_bytes());
    match (role, strength, terminal) {
        (Some(role), Some(strength), Some(terminal)) => {
            evanesce_worker::run(role, strength, terminal);
            ExitCode::SUCCESS
        }
        _ => ExitCode::from(MISUSE),
    }
}

const MISUSE: u8 = 2;
