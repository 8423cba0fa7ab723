//! The command's edge to time: everything below it is handed a clock or a timestamp.

use std::time::SystemTime;

use evanesce_ledger::Timestamp;

/// The time now.
pub fn now() -> Timestamp {
    system_time().into()
}

#[expect(clippy::disallowed_methods, reason = "the command's edge is where the clock is read")]
fn system_time() -> SystemTime {
    SystemTime::now()
}
