//! A worker that closes its cage and gets no key: shows what this machine allows.

use evanesce_ledger::receipt::ScrubStatement;
use evanesce_protocol::control::{Strength, TerminalUse};

use crate::cage::Expected;
use crate::worker::{END_TIMEOUT, Signer, Worker, WorkerError};
use crate::worker_image::{ImageError, WorkerImage};

/// Starts a worker of `image`, has it close its cage, checks the cage as before a key is loaded,
/// and ends it. Needs no installation and leaves nothing behind.
///
/// # Errors
///
/// [`TrialError`] names the wall that is missing.
pub fn try_cage(image: WorkerImage) -> Result<Vec<ScrubStatement>, TrialError> {
    let image = image.seal()?;
    let mut worker = Worker::<Signer>::spawn(&image, Strength::Strict, TerminalUse::Never)?;
    let expected =
        Expected { signer_module: Some(WorkerImage::signer_digest()), strength: Strength::Strict };
    let cage = worker.await_cage(&expected)?;
    worker.process.kill(END_TIMEOUT).map_err(TrialError::Kill)?;
    Ok(cage.statements().to_vec())
}

/// Why a cage could not be closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrialError {
    /// The worker could not be made ready to run.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The worker did not come up, or its cage does not hold.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The worker could not be ended.
    #[error("the worker could not be ended")]
    Kill(#[source] std::io::Error),
}

impl TrialError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Image(error) => error.code(),
            Self::Worker(error) => error.code(),
            Self::Kill(_) => "trial.kill",
        }
    }
}

#[cfg(test)]
mod tests {
    use evanesce_ledger::receipt::Claim;

    use super::*;

    #[test]
    fn a_worker_without_a_key_shows_every_wall_that_doctor_asks_for() {
        let statements = try_cage(WorkerImage::embedded()).unwrap();

        for wall in [Claim::SecretPages, Claim::SeccompFilter, Claim::Landlock] {
            assert!(statements.iter().any(|statement| statement.claim == wall), "{wall:?}");
        }
    }
}
