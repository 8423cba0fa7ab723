//! What is done with one generated input of each kind, and what must then hold.
//!
//! | target | input | what must hold |
//! |---|---|---|
//! | [`agent_frames`] | what a client of the agent socket sends | a request that is read is written back to the same bytes; no statement of our own is admitted under any grants |
//! | [`control_messages`] | a packet on the control channel | a message that is read is read again from what it is written to |
//! | [`key_files`] | a key file | every format is read or refused |
//! | [`ledger_segments`] | the segments of a ledger | readers and the audit come to an end, and agree where a row is bad |
//! | [`evidence`] | a part of what an appraisal reads, signed afterwards where its maker would | what has a failed check is not trusted, and the other way round; a policy that is read is read again from what it is written to |
//! | [`machine`] | what a worker's machine and its launcher say over the port, or a firmware | a message that is read is read again from what it is written to; a firmware that is accepted is measured |
//!
//! Of all: no panic, no hang, and no memory that is kept ([`memory`]).

#![forbid(unsafe_code)]

pub mod agent_frames;
pub mod control_messages;
pub mod evidence;
pub mod key_files;
pub mod ledger_segments;
pub mod machine;
pub mod memory;
mod planted;
pub mod seeds;
