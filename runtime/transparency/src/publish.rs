//! Publishing: every entry of the local log to the logs that were configured.
//!
//! Start at [`Outbox`]. Servers are named by Sigstore's own files, a SigningConfig and a TrustedRoot
//! for each target; nothing is known of any server here. What a server answers counts only once it
//! was verified with the target's trusted root.

mod http;
mod outbox;
mod rekor;
mod rekor_v1;
mod rekor_v2;
mod target;
mod tsa;

pub use http::{ANSWER_BYTES_MAX, Http, HttpError, REQUEST_TIMEOUT};
pub use outbox::{
    ATTEMPTS_MAX, Failure, Outbox, OutboxError, OutboxStatus, Pause, Published, PublishedEntry,
    Stopped, Waiting,
};
pub use rekor::{Item, Rekor, SubmitError};
pub use rekor_v1::RekorV1;
pub use rekor_v2::RekorV2;
pub use target::{
    ParseTargetNameError, SIGNING_CONFIG_BYTES_MAX, Target, TargetError, TargetFiles, TargetName,
};
