//! Evidence as it travels: an envelope with what it binds, and what there is to check it by.
//!
//! Start at [`EvidenceEnvelope`]. `docs/formats/evidence.md` describes the text.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | an envelope that was read is whole: its configuration is the one that is bound | [`EvidenceEnvelope::from_json`] compares the digest | `envelope.rs` |
//! | what is written is read back the same | one serialiser, unknown members refused | `envelope.rs` |
//! | no bytes make a parser panic or take more memory than a few times their length | limits first | `envelope.rs`, `cert_table.rs` |
//!
//! # What it does not promise
//!
//! That any of it is true. Evidence is a claim until `evanesce-appraisal` has checked it, and
//! endorsements are only ever checked against roots that come from elsewhere.
//!
//! # Invariant
//!
//! No I/O, no clock, no environment.

#![forbid(unsafe_code)]

mod cert_table;
mod envelope;

pub use cert_table::vek_of_auxblob;
pub use envelope::{
    ENVELOPE_BYTES_MAX, Endorsements, EnvelopeError, EvidenceEnvelope, Kind, SnpEndorsements,
    TdxEndorsements, configuration_text,
};
