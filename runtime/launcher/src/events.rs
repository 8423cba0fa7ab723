//! The names of everything that is logged: stable, so that alerts may be built on them.

use std::fmt;

/// What a log event tells of. Each is logged with the field `event` and this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventName {
    /// A worker was started.
    WorkerStarted,
    /// A worker's cage was found to hold.
    CageChecked,
    /// A key was loaded or born.
    KeyLoaded,
    /// The notary certified a key.
    KeyCertified,
    /// Evidence of the machine was collected.
    EvidenceCollected,
    /// The agent socket is being served.
    Serving,
    /// A signal was passed on to the command.
    SignalForwarded,
    /// The command ended.
    CommandEnded,
    /// A worker wiped its key of its own accord.
    WipedByItself,
    /// A worker ended without being asked.
    WorkerLost,
    /// A worker did not wipe when it was asked to.
    NotWiped,
    /// A worker could not be overwritten from outside.
    NotOverwritten,
    /// A workload's key has ended, and its receipt is yet to be written: the last event, see
    /// [`crate::Launcher::before_receipt`].
    WorkloadEnded,
    /// A workload whose launcher was lost got its receipt.
    Recovered,
    /// A notary key was made or rotated.
    NotaryKey,
    /// A signing key handed over to the next.
    KeyRotated,
    /// A challenge to release a key was issued.
    ReleaseChallenged,
    /// A key was sealed to a worker of another machine.
    KeyReleased,
    /// A key was received from another machine.
    KeyReceived,
}

impl EventName {
    /// The name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorkerStarted => "worker.started",
            Self::CageChecked => "worker.cage-checked",
            Self::KeyLoaded => "key.loaded",
            Self::KeyCertified => "key.certified",
            Self::EvidenceCollected => "evidence.collected",
            Self::Serving => "agent.serving",
            Self::SignalForwarded => "command.signal-forwarded",
            Self::CommandEnded => "command.ended",
            Self::WipedByItself => "worker.wiped-by-itself",
            Self::WorkerLost => "worker.lost",
            Self::NotWiped => "worker.not-wiped",
            Self::NotOverwritten => "worker.not-overwritten",
            Self::WorkloadEnded => "workload.ended",
            Self::Recovered => "receipt.recovered",
            Self::NotaryKey => "notary.key",
            Self::KeyRotated => "key.rotated",
            Self::ReleaseChallenged => "release.challenged",
            Self::KeyReleased => "key.released",
            Self::KeyReceived => "key.received",
        }
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
