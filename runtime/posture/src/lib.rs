//! What a host can and cannot promise to keys, asked of the host itself.
//!
//! Start at [`examine`]: it puts every check of [`CHECKS`] to a [`Host`] and returns what was
//! found. A check reads and decides; it changes nothing and needs no privilege.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | what cannot be read is unknown, and never taken to hold | [`Verdict`] has three values | the table in `checks.rs` |
//! | a check depends on the host's answers alone | they come through the [`Host`] trait | the same table, on a host of texts |
//! | a grade is never better than the checks it is derived from | [`grade`] counts what is unknown or was not asked as missing | `grade.rs`, every check and every promise |
//! | the walls of a cage are tried, not guessed from versions | [`Host::try_cage`] closes a real one | `runtime/launcher/src/trial.rs` |
//!
//! # What it does not promise
//!
//! A host can lie to those who run on it. Only evidence that its hardware signed says more.

#![forbid(unsafe_code)]

mod checks;
mod facts;
mod finding;
pub mod grade;
mod host;
mod kernel_config;

pub use checks::{CHECKS, Check, LOCKED_BYTES_NEEDED, SwapUse, examine};
pub use facts::Facts;
pub use finding::{Answer, Finding, Need, Verdict};
pub use host::{CageTrial, Files, Host, LocalFiles};
