//! What launcher, worker and agent clients say to each other.
//!
//! Start at [`control`] for the launcher's side of a worker, at [`agent`] for what a client of the
//! socket may ask, and at [`grant`] for what it then gets. Both sides of each boundary use this
//! crate, so a message has one definition, one limit and one parser.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | no input makes a parser panic, loop or allocate beyond its frame | every length is checked against [`limits`] before it is believed | unit tests of each module |
//! | a client gets what was granted and nothing else | [`grant::Grants::admit`] is the only way to a [`grant::Admitted`] | `grant.rs` |
//! | our own statements are never signed for a client | reserved namespaces and prefixes are refused before grants are read | `grant.rs` |
//!
//! # Invariant
//!
//! No message defined here has room for a private key: keys travel as descriptors. Decisions are
//! pure; [`channel`] is the one module that does I/O.

#![forbid(unsafe_code)]

pub mod agent;
pub mod channel;
pub mod commitment;
pub mod control;
pub mod custody;
pub mod evidence;
pub mod grant;
pub mod ids;
pub mod limits;
pub mod machine;
pub mod release;
pub mod rotation;
pub mod smaps;
pub mod sshsig;
pub mod wire;

pub use ids::{Digest, KeyOrigin, KeyUse, PublicKey, WorkloadId};
