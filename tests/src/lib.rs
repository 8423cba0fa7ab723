//! Installations, workloads and real peers for the end-to-end tests.
//!
//! Start at [`Installation`]: everything of one evanesce in one temporary directory, run with a
//! clean environment, by an unprivileged user where that matters, and under a deadline. The tests
//! themselves are in `tests/e2e`, one file for each thing to be shown.
//!
//! A test that needs what the machine does not have ([`peers`]) says `SKIPPED:` and why; where the
//! environment variable `CI` is set, it fails instead.

#![forbid(unsafe_code)]

pub mod agent;
pub mod https;
mod installation;
pub mod peers;
pub mod process;

pub use installation::{Held, Installation, Invocation, payload};
pub use process::{Outcome, Running, wait_until};
