//! Spawn a worker, check its cage, supervise it, scrub it, and write its receipt.
//!
//! Start at [`Launcher`]; a [`Workload`] is one key and, perhaps, one command, from its start to
//! its receipt:
//!
//! ```text
//! Launcher::open ─► recover          what launchers that were killed left behind gets its receipt
//!                ─► start ─► run ─► end
//!                     │       │      └ worker wipes; then from outside: stop, overwrite, read back,
//!                     │       │        kill, see it gone; receipt signed by the notary
//!                     │       └ the command; its signals; signatures moved to the ledger
//!                     └ claim, worker, cage checked, key loaded, certificate, agent socket
//! ```
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | no key byte comes into this process | key files are passed on as descriptors and never read | no code here reads one |
//! | no key is loaded before the cage was checked | [`cage::CageChecked`] is an argument of loading | `cage.rs` |
//! | every workload gets exactly one receipt | [`lifecycle`] is a machine without I/O | `lifecycle.rs`, model test |
//! | a receipt claims what was observed and no more | each claim is a value that only its observer makes | `lifecycle.rs`, `scrub.rs` |
//! | a killed launcher's workload is receipted by the next | [`claim`]: a lock that dies with its holder | `claim.rs`, `recover.rs` |
//!
//! # What it does not promise
//!
//! It runs as the operator, and so does the workload, unless they are told apart by other means: a
//! command of the same user can stop the launcher and change its files. See `docs/threat-model.md`.
//!
//! # Invariant
//!
//! No environment, clock or terminal is read here: the command hands them in. One thread, and one
//! more for each worker in a machine of its own, which carries its messages.

#![forbid(unsafe_code)]

mod agent_socket;
mod attester;
pub mod cage;
pub mod certificate;
pub mod claim;
mod command;
mod custody;
pub mod events;
mod host;
mod installation;
mod journal;
mod key_file;
mod launcher;
pub mod lifecycle;
pub mod machine;
mod notary;
mod output_dir;
mod plan;
mod process;
mod public_file;
mod record;
mod recover;
mod release;
mod report;
mod rotation;
pub mod scrub;
mod secrets;
mod shred;
mod signals;
mod stop;
pub mod systemd;
#[cfg(test)]
mod test_process;
mod trial;
mod worker;
mod worker_image;
mod workload;

pub use agent_socket::AgentSocketError;
pub use attester::{AttestError, SigningIdentity};
pub use command::{CommandEnd, CommandError, CommandLine, RunError};
pub use custody::{Custodian, CustodyError, Described, KeyDescription, NewKey};
pub use installation::{DirectoryError, Installation};
pub use key_file::KeyFileError;
pub use launcher::{CheckpointError, Clock, Launcher, ListError, Listed, OpenError, ResultError};
pub use notary::{Notary, NotaryError, NotaryInfo, NotarySession};
pub use output_dir::OutputDirError;
pub use plan::{AttestPlan, Degraded, KeySource, ParseDegradedError, Plan};
pub use public_file::{Named, PublicFile, PublicFileError};
pub use record::RecordError;
pub use recover::{RecoverError, Recovered};
pub use release::{
    CHALLENGES_OPEN_MAX, ChannelError, HolderError, Receiving, ReleaseChannel, ReleaseOrder,
};
pub use report::{FileReportError, Filed, ReportDraft};
pub use rotation::{RotateError, Rotated, RotationOrder};
pub use secrets::{NewPassphrase, SecretError, Unlock};
pub use shred::{ShredError, Shredded, Target, TargetError};
pub use stop::{StopError, StoppedWorkload};
pub use trial::{TrialError, try_cage};
pub use worker::{LoadError, WorkerError};
pub use worker_image::{ImageError, WorkerImage};
pub use workload::{
    EndError, EndReason, Ended, KillSwitchError, Recorded, SignedFile, StartError, UnmetGrades,
    Workload, with_causes,
};
