//! Receipts and rows in one append-only chain.
//!
//! Start at [`Ledger`] to append, at [`Reader`] to look something up, at [`verify()`] to audit, and
//! at [`Receipt`] for what the notary signs at the end of a key. `docs/formats/ledger.md` and
//! `docs/formats/receipt.md` describe the bytes.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | a row that [`Ledger::append`] returned survives a crash | `fdatasync` before it returns | `tests/append.rs` |
//! | a full or read-only disk loses no row and leaves no half of one | the write is undone, or closed by the next writer | `tests/append.rs` |
//! | any number of writers make one chain | `flock` around read-tail-and-write | `tests/append.rs` |
//! | a changed, swapped or deleted row is named | SHA-256 over the bytes of each line | `tests/verify.rs` |
//! | deleted newest rows are noticed against a checkpoint, and called unknown without one | [`Verdict::completeness`] | `tests/verify.rs` |
//! | memory does not grow with the number of rows | one row at a time, a named limit on open workloads | `benches/verify.rs` |
//!
//! # What it does not promise
//!
//! Whoever can write the files can write them anew, up to the newest row that a receipt or a
//! checkpoint signs: [`Verdict::signed_through`] says which that is.
//!
//! # Invariant
//!
//! This crate reads no clock, no randomness and no environment, and holds no private key: what has
//! to be signed is given to a closure.

#![forbid(unsafe_code)]

mod append;
pub mod attestation;
mod base64;
pub mod checkpoint;
pub mod dsse;
mod export;
mod life;
pub mod notary;
mod raw;
mod read;
pub mod receipt;
pub mod record;
pub mod release;
pub mod report;
pub mod rotation;
pub mod row;
mod segment;
pub mod shred;
pub mod statement;
mod timestamp;
mod verify;

pub use append::{
    AppendError, Appended, BATCH_BYTES_MAX, Ledger, SEGMENT_BYTES_MAX_DEFAULT, Setup, Writer,
};
pub use attestation::{Attestation, AttestationResult, Attested};
pub use checkpoint::{Checkpoint, LedgerId};
pub use dsse::Envelope;
pub use export::{ExportError, Exported};
pub use life::{OPEN_WORKLOADS_MAX, OpenWorkload};
pub use notary::{NotaryKey, NotaryKeyId, NotaryKeys, P256Signature};
pub use raw::{RawRow, RawRows};
pub use read::{FoundReceipt, ReadError, Reader, Rows, SignedMatch};
pub use receipt::Receipt;
pub use record::SignatureRecord;
pub use release::{KeyRelease, Received, Released};
pub use report::FiledReport;
pub use row::{Event, NewRow, Row};
pub use shred::ShredReceipt;
pub use statement::{Predicate, Statement};
pub use timestamp::{ParseTimestampError, Timestamp};
pub use verify::{
    BadRow, CheckpointFinding, Completeness, NotChecked, Outcome, Problem, SignatureCounts,
    StillOpen, Verdict, VerifyOptions, Warning, verify,
};
