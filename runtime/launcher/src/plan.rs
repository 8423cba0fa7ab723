//! What a workload is to be.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use evanesce_posture::grade::Requirement;
use evanesce_protocol::WorkloadId;
use evanesce_protocol::control::{Strength, TerminalUse};
use evanesce_protocol::evidence::{EvidenceSource, Nonce};
use evanesce_protocol::grant::Grants;
use evanesce_protocol::limits::SIGNATURES_MAX_DEFAULT;

use crate::machine::MachinePlan;
use crate::secrets::Unlock;
use crate::systemd::SpawnChoice;
use crate::systemd::credential::Credential;
use crate::systemd::unit::UnitUser;

/// Everything that [`crate::Launcher::start`] has to know of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its id; `None` has one made up.
    pub workload_id: Option<WorkloadId>,
    /// Where its key comes from.
    pub key: KeySource,
    /// What opens its key file, where that is not in the clear.
    pub unlock: Unlock,
    /// What clients of its socket may have signed.
    pub grants: Grants,
    /// How long the key lives at most.
    pub ttl: Duration,
    /// How many signatures the key makes at most.
    pub signatures_max: u64,
    /// A file whose appearance has the key wiped. It must not exist yet; its directory must.
    pub kill_switch: Option<PathBuf>,
    /// A directory that no other workload may have at the same time.
    pub output_dir: Option<PathBuf>,
    /// Guarantees that the operator gives up.
    pub degraded: Vec<Degraded>,
    /// Evidence of the machine that is to be collected for the key.
    pub attest: Option<AttestPlan>,
    /// Grades below which no key is loaded.
    pub require: Vec<Requirement>,
    /// Who starts the worker.
    pub spawn: SpawnChoice,
    /// Who the worker runs as, where systemd starts it.
    pub user: UnitUser,
    /// Files that systemd keeps for the worker, where it starts it.
    pub credentials: Vec<Credential>,
    /// The machine that the worker is to have for itself.
    pub machine: Option<MachinePlan>,
    /// The name of the command, without its arguments, for the ledger.
    pub command_name: Option<String>,
}

/// How evidence is to be collected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttestPlan {
    /// What is to make it fresh. `None` takes the digest of the workload's `started` row, which ties
    /// the evidence to its place in the ledger.
    pub nonce: Option<Nonce>,
    /// What may give evidence.
    pub source: EvidenceSource,
    /// Where the kernel's reports are made, instead of where Linux has them: for tests.
    pub tsm_root: Option<PathBuf>,
}

impl Plan {
    /// How long a key lives where the operator says nothing.
    pub const TTL_DEFAULT: Duration = Duration::from_secs(600);

    /// The names of what is given up, sorted.
    pub(crate) fn degraded_names(&self) -> Vec<String> {
        let names: BTreeSet<_> = self.degraded.iter().map(ToString::to_string).collect();
        names.into_iter().collect()
    }

    pub(crate) fn strength(&self) -> Strength {
        Degraded::strength_of(&self.degraded_names())
    }

    /// Whether the worker may have to ask a person.
    pub(crate) fn terminal_use(&self) -> TerminalUse {
        match (&self.key, self.unlock.passphrase_fd) {
            (KeySource::Ephemeral | KeySource::Credential | KeySource::Released, _)
            | (KeySource::File(_), Some(_)) => TerminalUse::Never,
            (KeySource::File(_), None) => TerminalUse::Possible,
        }
    }
}

impl Default for Plan {
    /// An ephemeral key that signs SSHSIG for ten minutes, with nothing given up.
    fn default() -> Self {
        Self {
            workload_id: None,
            key: KeySource::Ephemeral,
            unlock: Unlock::default(),
            grants: Grants::default(),
            ttl: Self::TTL_DEFAULT,
            signatures_max: SIGNATURES_MAX_DEFAULT,
            kill_switch: None,
            output_dir: None,
            degraded: Vec::new(),
            attest: None,
            require: Vec::new(),
            spawn: SpawnChoice::Direct,
            user: UnitUser::Dynamic,
            credentials: Vec::new(),
            machine: None,
            command_name: None,
        }
    }
}

/// Where a workload's key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// Born inside the signer.
    Ephemeral,
    /// A key file of any format (`evanesce-custody` has the list), which the launcher opens and the worker reads.
    File(PathBuf),
    /// The credential `evanesce.key` of the worker's unit, likewise.
    Credential,
    /// Released by a holder on another machine: [`crate::Launcher::start_released`].
    Released,
}

/// A guarantee that can be given up by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Degraded {
    /// `secret-pages`: locked memory will do where there is no `memfd_secret(2)`.
    SecretPages,
}

impl Degraded {
    /// Its name on the command line and in receipts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SecretPages => "secret-pages",
        }
    }

    /// What memory will do where guarantees of these names were given up.
    pub(crate) fn strength_of(names: &[String]) -> Strength {
        match names.iter().any(|name| name == Self::SecretPages.name()) {
            true => Strength::AllowLockedPages,
            false => Strength::Strict,
        }
    }
}

impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Degraded {
    type Err = ParseDegradedError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::SecretPages].into_iter().find(|known| known.name() == text).ok_or(ParseDegradedError)
    }
}

/// A text that names no guarantee that can be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no guarantee of this name can be given up; there is `secret-pages`")]
pub struct ParseDegradedError;
