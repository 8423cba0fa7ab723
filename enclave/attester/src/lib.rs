//! Has the machine vouch for 64 bytes.
//!
//! Start at [`run`]: an attester is a process that takes one order over its control channel, asks
//! the kernel for a report or quote, reports it, and ends. It never holds a key byte of anybody's,
//! and it is not the worker: a worker opens no file, and this has to open some.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | evidence is about the 64 bytes that were asked for, or there is none | [`collect`] looks for them in what came back | `configfs.rs` |
//! | nothing stands in for a machine without being asked | configfs-tsm, then `/dev/sev-guest`, then a refusal; software evidence only in builds for tests | `collect.rs` |
//! | two at once do not get each other's report | a directory of its own for each request, and the kernel's count of writes | `configfs.rs` |
//! | no answer of the kernel makes it grow | a limit for each attribute | `configfs.rs` |
//!
//! # What it does not promise
//!
//! That evidence is true: it is a claim until somebody has appraised it.

#![forbid(unsafe_code)]

mod cage;
mod collect;
mod configfs;
mod sev_guest;
#[cfg(feature = "danger-insecure-software")]
mod software;

use evanesce_protocol::channel::Channel;
use evanesce_protocol::evidence::{AttesterOrder, AttesterReport, CollectError};

pub use collect::collect;
pub use configfs::{ConfigFs, TSM_ROOT, TsmDirectory};

/// Takes one order, and reports what came of it. Returns where the launcher is gone, too.
pub fn run() {
    let Some(mut channel) = cage::enter() else { return };
    let Ok(order) = channel.receive::<AttesterOrder>() else { return };
    let AttesterOrder::Collect { report_data, tsm_root, source } = order.message;
    let collected = match report_data.try_into() {
        Ok(report_data) => collect(&report_data, tsm_root.as_deref(), source),
        Err(_) => Err(CollectError::Order),
    };
    let report = match collected {
        Ok(raw) => AttesterReport::Collected(raw),
        Err(error) => AttesterReport::Refused(error),
    };
    // A launcher that is gone has no use for it.
    channel.send(&report, &[]).ok();
}

/// The channel's type, for the cage.
pub(crate) type Control = Channel;
