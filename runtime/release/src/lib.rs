//! A key goes from the worker that opens it to an attested worker of another machine: the messages,
//! and what has to hold before each step.
//!
//! ```text
//! asker                                     holder
//!                                           Challenge::new       single use, expires
//! Asked::accept          ◄── challenge ──
//! Asked::request         ─── request ──►    Admitted::of         of an open challenge
//!                                           Admitted::approve    appraised by a policy
//! Pending::receive       ◄── answer ────    Approved::answer     signed by the holder's notary
//! ```
//!
//! Each arrow is one line of JSON, by any channel: `docs/formats/release.md` describes the bytes.
//! Each step takes the one before it by value, so that none is done twice or left out.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | a message has one spelling | what was read is written again and compared | `tests/refusals.rs` |
//! | what is of another session, challenge, request, key or holder is refused, and says which | one check each, in [`ReleaseError`] | `tests/refusals.rs` |
//! | nothing is sealed for evidence that a policy did not accept | [`Admitted::approve`] takes a [`Trusted`](evanesce_appraisal::Trusted) of this very binding | the types, `tests/refusals.rs` |
//! | an answer is believed by the pinned notary's signature alone | [`Pending::receive`] | `tests/refusals.rs` |
//! | no bytes make a parser panic or take more memory than a few times their length | limits first | `tests/any_bytes.rs` |
//!
//! # What it does not promise
//!
//! That a challenge is used once: whoever keeps the open ones has to give up each before it is
//! judged. That time is right: the caller brings it.
//!
//! # Invariant
//!
//! No I/O, no clock, no randomness, no private key: what has to be signed is given to a closure, and
//! what is sealed was sealed by a worker.

#![forbid(unsafe_code)]

mod asker;
mod challenge;
mod error;
pub mod frame;
mod holder;
mod messages;
mod text;

pub use asker::{Accepted, Asked, Pending};
pub use challenge::{CHALLENGE_BYTES_MAX, CHALLENGE_LIFETIME_MAX, Challenge};
pub use error::ReleaseError;
pub use holder::{Admitted, Answered, Approved};
pub use messages::{ANSWER_BYTES_MAX, Hello, REQUEST_BYTES_MAX, Refusal, Request};
