//! A worker as a transient service of systemd, and what there is of systemd around this process.
//!
//! Start at [`unit::UnitPlan`]: it says what is asked of systemd, as data. [`readback`] decides
//! whether what came of it is what was asked for. [`bus`] is the one part that talks to systemd, and
//! [`worker_file`] the one that puts the worker where systemd can execute it.
//!
//! ```text
//! UnitPlan ──settings──► systemd ──starts──► worker
//!    │                      │ properties       │ /proc/PID
//!    └──────────────► readback::check ◄────────┘
//!                           │ faults: the key is not loaded
//! ```

pub(crate) mod bus;
mod choice;
pub mod credential;
pub mod placement;
pub mod readback;
pub mod unit;
pub(crate) mod worker_file;

pub use bus::SystemdError;
pub use choice::{ParseSpawnError, SpawnChoice};
pub use placement::OwnUnit;
