//! The ledger's statements in a Merkle log that strangers can check.
//!
//! Start at [`extend()`], which grows the local log from the ledger, and at [`LogReader`] for entries
//! and proofs. `docs/formats/log.md` and `docs/formats/bundle.md` describe the bytes.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | roots and proofs are those of RFC 6962 | [`merkle`] | `merkle.rs`, against another implementation |
//! | the log follows from the ledger, byte for byte | [`extend()`], [`check()`] | `tests/log.rs` |
//! | two checkpoints never contradict each other | entries are rows that are on the disk; one lock | `tests/log.rs` |
//! | a log that was interrupted anywhere is grown again | the checkpoint is written last | `tests/log.rs` |
//!
//! # What it does not promise
//!
//! Whoever can write the ledger and use the notary's key can write another history, and sign it.
//! Checkpoints that are kept elsewhere show it. See `docs/threat-model.md`.
//!
//! # Invariant
//!
//! No environment, clock or terminal is read here, and no private key is held: what has to be
//! signed is given to a closure.

#![forbid(unsafe_code)]

pub mod bundle;
pub mod check;
mod cosign;
mod crypto;
pub mod entry;
mod extend;
mod files;
pub mod merkle;
pub mod note;
pub mod publish;
mod reader;
#[cfg(test)]
mod testing;
pub mod tile;
pub mod trust;
pub mod verify;

pub use bundle::{Bundle, LogEntry};
pub use check::{KeptFinding, LogFinding, Wrong, check};
pub use cosign::{CosignError, Cosigned, ParseWitnessKeyError, WitnessKey, keep_cosignature};
pub use crypto::use_ring;
pub use extend::{ExtendError, Extended, Sources, extend};
pub use files::FileError;
pub use publish::{Outbox, Target};
pub use reader::{LogDirectory, LogError, LogReader};
pub use trust::KnownNotary;
pub use verify::{
    BundleVerdict, BundleVerifier, Given, KnownRotation, KnownRotations, verify_bundle,
};
