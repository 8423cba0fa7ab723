//! Certificates, CRLs and collateral: fetched from the vendors, kept on disk.
//!
//! Start at [`Cache`] for what is kept, at [`fetch`] for what is asked for. Verification reads the
//! cache and never fetches: [`fetch`] is called by `evanesce attest collateral fetch` alone.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | no vendor is asked more often than it wants | a gap between requests, `Retry-After`, a bound on tries | `fetch.rs` |
//! | nothing but HTTPS leaves the machine | [`Url`] takes plain HTTP for loopback addresses alone | `http.rs` |
//! | no answer makes it grow | a limit for each body and header | `http.rs` |
//! | what is kept is whole | written beside, synced, renamed | `cache.rs` |
//!
//! # What it does not promise
//!
//! That what was fetched is the vendor's: an appraisal checks that against pinned roots, whoever
//! handed it over.

#![forbid(unsafe_code)]

mod cache;
mod fetch;
mod http;

pub use cache::{Cache, CacheError};
pub use fetch::{Bases, FetchError, Fetched, Pause, fetch};
pub use http::{Answer, Http, HttpError, Network, Url, UrlError};
