//! The flags that `run` and `sign` share: which key, for how long, and what is given up.

use std::path::PathBuf;
use std::time::Duration;

use evanesce_launcher::machine::MachinePlan;
use evanesce_launcher::machine::parts::{Accelerator, Enclave};
use evanesce_launcher::systemd::SpawnChoice;
use evanesce_launcher::systemd::credential::{Credential, CredentialName};
use evanesce_launcher::systemd::unit::UnitUser;
use evanesce_launcher::{Degraded, KeySource, Launcher, Plan, Workload};
use evanesce_posture::grade::Requirement;
use evanesce_protocol::WorkloadId;
use evanesce_protocol::evidence::Nonce;

use crate::commands::attest::collect::SourceArgs;
use crate::commands::attest::input::parse_nonce;
use crate::commands::key::secrets::UnlockArgs;
use crate::commands::key_from::KeyFromArgs;
use crate::configuration::{Layer, Sourced};
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::files::parse_duration;

/// Which key, for how long, and what is given up.
#[derive(Clone, Debug, clap::Args)]
pub struct KeyArgs {
    /// Read the key from FILE instead of making one: PKCS#8 PEM, OpenSSH or age
    ///
    /// Recognised by its content, in the clear or sealed. The worker reads it; evanesce itself never
    /// does. The file has to be for its owner alone.
    #[arg(long, value_name = "FILE", conflicts_with = "ephemeral")]
    pub key: Option<PathBuf>,

    /// What opens it.
    #[command(flatten)]
    pub unlock: UnlockArgs,

    /// Who releases it.
    #[command(flatten)]
    pub key_from: KeyFromArgs,

    /// Make a key inside the signer that never leaves it (the default)
    #[arg(long)]
    pub ephemeral: bool,

    /// Name the workload ID: a-z, 0-9, '-', '_' and '.'
    #[arg(long, value_name = "ID")]
    pub workload_id: Option<WorkloadId>,

    /// For how long, and what is given up.
    #[command(flatten)]
    pub limits: LimitArgs,

    /// Have the machine vouch for the key; the evidence goes to the ledger, its digest to the receipt
    ///
    /// Needs root inside a SEV-SNP or TDX machine, and refuses elsewhere. With --enclave it is the
    /// worker's own machine that vouches.
    #[arg(long)]
    pub attest: bool,

    /// Bind the nonce of whoever asks for evidence, 64 hexadecimal digits
    ///
    /// Without one, the digest of the workload's `started` row ties the evidence to the ledger.
    #[arg(long, value_name = "HEX", requires = "attest", value_parser = parse_nonce)]
    pub attest_nonce: Option<Nonce>,

    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// For how long a key lives, and what is given up.
#[derive(Clone, Debug, clap::Args)]
pub struct LimitArgs {
    /// Destroy the key after TIME: 90s, 10m (the default), 1h 30m
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub ttl: Option<Duration>,

    /// Give up a guarantee by name: secret-pages (can be repeated)
    ///
    /// Without one, evanesce refuses to hold a key where the guarantee cannot be kept. The receipt
    /// says what was given up.
    #[arg(long, value_name = "NAME")]
    pub allow_degraded: Vec<Degraded>,

    /// Take no key unless this host promises GRADE: provable, guarded, PROMISE=GRADE (can be repeated)
    ///
    /// `provable` alone asks that nothing of the key is left in memory after any end, and that none
    /// of it reaches a disk. `evanesce doctor` prints this host's grades, and what each lacks.
    #[arg(long, value_name = "GRADE")]
    pub require: Vec<Requirement>,
}

/// Who starts the worker, and who it runs as.
#[derive(Clone, Debug, clap::Args)]
pub struct SpawnArgs {
    /// Have the worker started by WHOM: direct, systemd, auto
    ///
    /// `systemd` makes it a service of its own, evanesce-ID.service, with a user, namespaces and
    /// limits of its own; each is read back before the key is loaded. Needs root. `auto` does so
    /// where systemd can be asked.
    #[arg(long, value_name = "WHOM", default_value_t = SpawnChoice::Direct, hide_default_value = true)]
    pub spawn: SpawnChoice,

    /// Have systemd run the worker as user UID, not one that it makes for it
    #[arg(long, value_name = "UID", requires = "gid")]
    pub uid: Option<u32>,

    /// The group that goes with --uid
    #[arg(long, value_name = "GID", requires = "uid")]
    pub gid: Option<u32>,

    /// Have systemd read NAME from FILE: evanesce.key, evanesce.passphrase, evanesce.identity (can be repeated)
    ///
    /// As `LoadCredential=` of a unit. `evanesce.key` takes the place of --key.
    #[arg(long, value_name = "NAME:FILE")]
    pub load_credential: Vec<Credential>,

    /// The same of a file that `systemd-creds encrypt --name=NAME` made (can be repeated)
    ///
    /// As `LoadCredentialEncrypted=` of a unit: it opens on this machine alone, or with its TPM alone.
    #[arg(long, value_name = "NAME:FILE")]
    pub load_credential_encrypted: Vec<Credential>,
}

/// A machine of its own for the worker.
#[derive(Clone, Debug, clap::Args)]
pub struct MachineArgs {
    /// Give the worker a machine of its own: vm, snp, tdx
    ///
    /// QEMU starts it from the image, and it ends with the key. `vm` keeps the worker apart from
    /// everything that runs on this host; `snp` and `tdx` also have its memory encrypted. The key is
    /// born inside, or released to it with --key-from.
    #[arg(
        long,
        value_name = "KIND",
        requires = "enclave_image",
        conflicts_with_all = ["key", "load_credential", "load_credential_encrypted"]
    )]
    pub enclave: Option<Enclave>,

    /// Start the machine from DIR, which `evanesce image build` made
    #[arg(long, value_name = "DIR", requires = "enclave")]
    pub enclave_image: Option<PathBuf>,

    /// Start a machine of snp or tdx with the firmware FILE, an OVMF built for it
    #[arg(long, value_name = "FILE", requires = "enclave")]
    pub enclave_firmware: Option<PathBuf>,

    /// Have the machine executed by WHOM: kvm, or tcg, which is slow and works everywhere
    #[arg(
        long,
        value_name = "WHOM",
        requires = "enclave",
        default_value_t = Accelerator::Kvm,
        hide_default_value = true
    )]
    pub enclave_accelerator: Accelerator,
}

impl MachineArgs {
    /// The machine that these name.
    pub fn plan(&self) -> Option<MachinePlan> {
        Some(MachinePlan {
            enclave: self.enclave?,
            image: self.enclave_image.clone()?,
            accelerator: self.enclave_accelerator,
            firmware: self.enclave_firmware.clone(),
            qemu: MachinePlan::QEMU.into(),
        })
    }
}

impl SpawnArgs {
    /// Adds these to a plan.
    ///
    /// # Errors
    ///
    /// Where a user or a credential is named for a worker that the launcher itself starts, or a
    /// secret twice.
    pub fn add_to(&self, plan: Plan) -> Result<Plan, SpawnError> {
        let credentials = self.credentials();
        let names: Vec<_> = credentials.iter().map(|credential| credential.name).collect();
        let is_named_twice = |name| names.iter().filter(|&&other| other == name).count() > 1;
        if let Some(&name) = names.iter().find(|&&name| is_named_twice(name)) {
            return Err(SpawnError::Twice { name });
        }
        let key = match (names.contains(&CredentialName::Key), plan.key) {
            (true, KeySource::Ephemeral) => KeySource::Credential,
            (true, _) => return Err(SpawnError::Twice { name: CredentialName::Key }),
            (false, key) => key,
        };
        let user = match (self.uid, self.gid) {
            (Some(uid), Some(gid)) => UnitUser::Fixed { uid, gid },
            _ => UnitUser::Dynamic,
        };
        let spawn = match (&user, self.spawn) {
            (UnitUser::Fixed { .. }, SpawnChoice::Direct) => return Err(SpawnError::User),
            (_, SpawnChoice::Direct) if !credentials.is_empty() => {
                return Err(SpawnError::Credential);
            }
            (UnitUser::Dynamic, spawn) if credentials.is_empty() => spawn,
            // Whoever names a user or a credential does not want to do without.
            (_, _) => SpawnChoice::Systemd,
        };
        Ok(Plan { spawn, user, credentials, key, ..plan })
    }

    fn credentials(&self) -> Vec<Credential> {
        let encrypted = self.load_credential_encrypted.iter().cloned().map(Credential::encrypted);
        self.load_credential.iter().cloned().chain(encrypted).collect()
    }
}

/// What does not go together.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum SpawnError {
    /// A user for a worker that is not started by systemd.
    #[error("--uid and --gid are for workers that systemd starts")]
    User,
    /// A credential for one.
    #[error("credentials are for workers that systemd starts")]
    Credential,
    /// Two of one kind.
    #[error("{name} is named twice")]
    Twice {
        /// What.
        name: CredentialName,
    },
}

impl Coded for SpawnError {
    fn code(&self) -> &'static str {
        match self {
            Self::User => "run.spawn-user",
            Self::Credential => "run.spawn-credential",
            Self::Twice { .. } => "run.credential-twice",
        }
    }
}

impl LimitArgs {
    /// The settings that these flags name.
    pub fn layer(&self) -> Layer {
        Layer {
            ttl: self.ttl.map(|ttl| Sourced::flag("--ttl", ttl)),
            allow_degraded: flag_of_list("--allow-degraded", &self.allow_degraded),
            require: flag_of_list("--require", &self.require),
            ..Layer::default()
        }
    }
}

/// A flag that can be repeated, and so replaces a list.
pub(crate) fn flag_of_list<T: Clone>(flag: &'static str, list: &[T]) -> Option<Sourced<Vec<T>>> {
    (!list.is_empty()).then(|| Sourced::flag(flag, list.to_vec()))
}

impl KeyArgs {
    /// Starts the workload of a plan, whose key may be released by somebody else.
    ///
    /// # Errors
    ///
    /// As [`KeyFromArgs::start`].
    pub fn start<'l>(
        &self,
        context: &Context<'_>,
        launcher: &'l Launcher,
        plan: Plan,
    ) -> Result<Workload<'l>, CommandError> {
        self.key_from.start(context, launcher, plan, self.source.plan(None))
    }

    /// A plan with these and the settings and, for the rest, the defaults.
    pub fn plan(&self, context: &Context<'_>) -> Plan {
        let settings = context.settings();
        Plan {
            unlock: self.unlock.unlock(context),
            workload_id: self.workload_id.clone(),
            key: match &self.key {
                Some(path) => KeySource::File(path.clone()),
                None if self.key_from.is_named() => KeySource::Released,
                None => KeySource::Ephemeral,
            },
            attest: self.attest.then(|| self.source.plan(self.attest_nonce)),
            ttl: settings.ttl.value,
            degraded: settings.allow_degraded.value.clone(),
            require: settings.require.value.clone(),
            ..Plan::default()
        }
    }
}
