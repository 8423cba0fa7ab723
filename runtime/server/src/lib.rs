//! Signatures over HTTP, for clients that policy knows.
//!
//! Start at [`Server`]: it listens, knows each client by its TLS certificate, asks [`policy`] and hands
//! what was admitted to the agent socket of the key's worker. The paths are those of [`api::ROUTES`];
//! `openapi.json` describes them.
//!
//! ```text
//! clients ── TLS, client certificates ──► connection ─► api ─► policy ─► link ── agent socket ──► worker
//! ```
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | who is not in the policy gets nothing signed | [`policy::Gate::admit`] is the only way to a [`policy::Admitted`] | `policy.rs` |
//! | what a client sends and how long it takes for it is bounded | [`limits`] | `tests/e2e/serve.rs` |
//! | a request that was admitted before a reload or a shutdown is answered | `connection.rs`, `server.rs` | `tests/e2e/serve.rs` |
//! | the document describes the code | one table of routes, one enum of problems | `openapi.rs` |
//!
//! # What it does not promise
//!
//! The key of its TLS certificate lies in this process's ordinary memory. Whoever takes it can answer
//! in the server's name; that such answers are worthless is for clients to see, who have evidence and
//! the signature to check.
//!
//! # Invariant
//!
//! No byte of a signing key comes here: this is one more client of the workers' sockets. The async
//! runtime of `evanesce serve` is in this crate alone, and no worker has one.

#![forbid(unsafe_code)]

pub mod api;
pub mod config;
mod connection;
mod gather;
mod identity;
pub mod keys;
pub mod limits;
mod link;
mod metrics;
mod openapi;
pub mod policy;
pub mod problem;
mod server;
mod tls;

pub use identity::Identity;
pub use server::{Options, Server, ServerError};
pub use tls::{Tls, TlsError};
