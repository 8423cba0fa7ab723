//! `evanesce-worker ROLE STRENGTH`: the process that is the cage.
//!
//! Started by a launcher alone, with its end of the control channel as standard input. Ends with
//! status 0 after an orderly end, 2 where it was started by hand, and by SIGABRT or SIGSYS where
//! something was broken.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use evanesce_guarded_memory::ScopedAllocator;
use evanesce_protocol::control::{Role, Strength};

/// While a key passes through the loading path, the heap is guarded memory too.
#[global_allocator]
static ALLOCATOR: ScopedAllocator = ScopedAllocator;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [role, strength] = arguments.as_slice() else {
        return ExitCode::from(MISUSE);
    };
    let role = Role::of_argument(role.as_encoded_bytes());
    let strength = Strength::of_argument(strength.as_encoded_bytes());
    match (role, strength) {
        (Some(role), Some(strength)) => {
            evanesce_worker::run(role, strength);
            ExitCode::SUCCESS
        }
        _ => ExitCode::from(MISUSE),
    }
}

const MISUSE: u8 = 2;
