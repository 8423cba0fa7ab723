//! What a scrub proved, and who saw it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use evanesce_protocol::smaps::Backing;
use evanesce_protocol::{Digest, KeyOrigin, KeyUse, PublicKey, WorkloadId};

use crate::attestation::Attestation;
use crate::checkpoint::LedgerId;
use crate::notary::NotaryKeyId;
use crate::release::Received;
use crate::row::Spawn;
use crate::statement::{Predicate, Subject};
use crate::timestamp::Timestamp;

/// The end of one workload's key, as the notary signs it.
///
/// The statement's subject is the workload's public key: named by the workload's id, with the
/// SHA-256 of the 32 bytes of the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "append the receipt to the ledger; a scrub that nobody recorded cannot be shown"]
pub struct Receipt {
    /// The workload.
    pub workload: WorkloadId,
    /// Its key and what became of it.
    pub key: KeyRecord,
    /// When.
    pub times: Times,
    /// What ran.
    pub software: Software,
    /// Why the workload ended.
    pub cause: Cause,
    /// The evidence that was collected for its key (`--attest`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Attestation>,
    /// Who released the key to this machine; absent where it came from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_by: Option<ReleasedBy>,
    /// How its command ended; absent where none was started or its end was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandEnd>,
    /// How the key's memory was cleared.
    pub scrub: Scrub,
    /// What the key signed.
    pub signatures: Signatures,
    /// The workload's rows in the ledger.
    pub ledger: LedgerSpan,
    /// Guarantees that the operator gave up by name (`--allow-degraded`), sorted.
    pub degraded: Vec<String>,
    /// How far apart those are that had to trust each other.
    pub separation: Separation,
    /// What the host itself promises.
    pub host: HostFacts,
    /// What that comes to for the key; empty in receipts older than the field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grades: Vec<Graded>,
    /// How the worker was started, and where; absent from receipts older than the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
}

impl Predicate for Receipt {
    const TYPE: &str = "https://evanesce.dev/receipt/v1";

    fn subject(&self) -> Subject {
        Subject::new(self.workload.as_str(), self.key.public_key.digest())
    }
}

/// A key and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The public half.
    pub public_key: PublicKey,
    /// What it was bound to sign.
    #[serde(rename = "use")]
    pub key_use: KeyUse,
    /// Where it came from.
    pub origin: KeyOrigin,
    /// What became of it.
    pub fate: KeyFate,
}

/// Who released a key, as the `received` row of its workload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasedBy {
    /// The holder's notary.
    pub holder: NotaryKeyId,
    /// The holder's ledger.
    pub ledger: LedgerId,
    /// SHA-256 of the transcript, which is in both ledgers.
    pub transcript: Digest,
}

impl ReleasedBy {
    /// What the receipt of a key that was received so says of it.
    pub const fn of(received: &Received) -> Self {
        let Received { holder, ledger, transcript, .. } = received;
        Self { holder: *holder, ledger: *ledger, transcript: *transcript }
    }
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyFate {
    /// It was born inside, and its only copy is gone.
    Destroyed,
    /// This copy is gone; the key also was in a file, or is with whoever released it, of which
    /// nothing is said.
    ThisCopyDestroyed,
    /// A part of the scrub could not be shown: see [`Scrub::unproven`].
    Unproven,
}

impl KeyFate {
    /// What the scrub of a key from `origin` may be said to have done, where every step that its
    /// method needs was shown.
    pub const fn shown(origin: KeyOrigin) -> Self {
        match origin.ends_with_worker() {
            true => Self::Destroyed,
            false => Self::ThisCopyDestroyed,
        }
    }

    /// Whether a key from `origin` can have had this end.
    pub const fn fits(self, origin: KeyOrigin) -> bool {
        match self {
            Self::Destroyed => origin.ends_with_worker(),
            Self::ThisCopyDestroyed | Self::Unproven => true,
        }
    }
}

/// When the steps of a workload's life were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// The worker was started.
    pub started: Timestamp,
    /// The key was loaded or born.
    pub loaded: Timestamp,
    /// The worker was seen to be gone.
    pub ended: Timestamp,
    /// The receipt was made.
    pub made: Timestamp,
}

/// What ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Software {
    /// The version of evanesce.
    pub version: String,
    /// SHA-256 of the worker's file as it was executed.
    pub worker: Digest,
    /// SHA-256 of `signer.wasm`.
    pub signer: Digest,
}

/// Why a workload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// Its command ended, or the one signature that was asked for was made.
    CommandEnded,
    /// Its budget of signatures was spent.
    SignaturesSpent,
    /// Its time to live was over.
    TimeToLive,
    /// The kill-switch file appeared.
    KillSwitch,
    /// The operator ended it: `stop`, or a signal to the launcher.
    Operator,
    /// The launcher died; the worker ended by itself.
    LauncherLost,
    /// The worker died before it was asked to end.
    WorkerLost,
    /// The command could not be started, or a step before it failed.
    Failed,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandEnd {
    /// It returned this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
}

/// How the key's memory was cleared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// Who cleared it.
    pub method: ScrubMethod,
    /// What was shown, and by whom.
    pub statements: Vec<ScrubStatement>,
    /// What was tried and could not be shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unproven: Vec<Unproven>,
    /// Guarded regions that the worker wiped and read back.
    pub regions: u64,
    /// Bytes in them.
    pub bytes_wiped: u64,
    /// Bytes of ordinary private memory that the launcher overwrote and read back.
    pub bytes_overwritten: u64,
    /// Pages left out because they were not resident.
    pub pages_absent: u64,
    /// What a kill between the safe points did or could have done; absent from receipts older than
    /// the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<ForcedEnd>,
}

/// What an end at another point than between two signatures left, or could have left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForcedEnd {
    /// Whether the worker's end was one.
    pub happened: Forced,
    /// Whether the kernel clears pages as it frees them (`init_on_free=1`).
    pub kernel_clears: Known,
    /// What it left or could have left, in one line.
    pub leaves: String,
}

/// Whether a worker was ended otherwise than between two signatures with its registers cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Forced {
    /// It was not: it wiped itself first.
    No,
    /// It did not wipe in time, and the launcher killed it.
    DeadlinePassed,
    /// A signal from elsewhere ended it.
    BySignal,
    /// It was gone when somebody looked.
    Unseen,
}

/// Who cleared the key's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScrubMethod {
    /// The worker wiped and read back, then the launcher overwrote what was left from outside.
    WorkerWipedThenOverwritten,
    /// The worker was dead already: the kernel cleared its pages.
    Kernel,
    /// The worker's machine was ended, then all of its memory overwritten from outside.
    MachineOverwritten,
}

/// One thing that was shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatement {
    /// What.
    pub claim: Claim,
    /// By whose word.
    pub observer: Observer,
    /// What was seen, in a few words: `Max core file size 0 0`.
    pub detail: String,
}

/// One thing that was tried and could not be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unproven {
    /// What.
    pub claim: Claim,
    /// Why not.
    pub reason: String,
}

/// By whose word a statement holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observer {
    /// The launcher saw it from outside the worker.
    ObservedOutside,
    /// The worker says so.
    SelfReported,
    /// It follows from what the kernel promises.
    RestsOnKernel,
    /// It follows from what the hardware promises.
    RestsOnPlatform,
}

/// What can be shown of a cage or a scrub. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Claim {
    /// Cage: `RLIMIT_CORE` is 0, soft and hard.
    CoreLimitZero,
    /// Cage: `no_new_privs` is set.
    NoNewPrivs,
    /// Cage: a seccomp filter is in force.
    SeccompFilter,
    /// Cage: the process is not dumpable.
    NotDumpable,
    /// Cage: Landlock denies every path and port.
    Landlock,
    /// Cage: no page becomes executable that was written (`PR_SET_MDWE`).
    Mdwe,
    /// Cage: the signer's memory and stack are `memfd_secret` pages.
    SecretPages,
    /// Cage: guarded pages are locked, left out of core files and of children.
    LockedBytes,
    /// Cage: no descriptors but those that are needed.
    DescriptorsClosed,
    /// Cage: no network.
    NoNetwork,
    /// Cage: one thread.
    SingleThread,
    /// Unit: systemd reports every setting as it was asked for.
    UnitSettings,
    /// Unit: a user and group that nothing else of the workload has.
    OwnUser,
    /// Unit: mount, network, IPC and host name namespaces of its own.
    OwnNamespaces,
    /// Unit: its control group may not swap, or there is no swap.
    NotSwapped,
    /// Machine: the worker ran in a machine of its own, started from this image.
    OwnMachine,
    /// Scrub: every guarded region was wiped and read back.
    RegionsWipedAndReadBack,
    /// Scrub: registers hold a public pattern or zero.
    RegistersCleared,
    /// Scrub: the worker was stopped before it was overwritten.
    Stopped,
    /// Scrub: every resident writable private page was overwritten and read back.
    PrivatePagesOverwrittenAndReadBack,
    /// Scrub: it was killed through a pidfd.
    KilledByPidfd,
    /// Scrub: the process is gone, by its pidfd.
    ProcessGone,
    /// Scrub: secret pages are cleared by the kernel when they are freed.
    SecretPagesClearedOnFree,
    /// Scrub: other pages are cleared by the kernel when they are freed (`init_on_free=1`).
    PagesClearedOnFree,
    /// Scrub: all memory of the worker's machine was overwritten and read back, after it was gone.
    MachineMemoryOverwritten,
    /// Scrub: the platform destroyed the key that it encrypted the machine's memory with.
    MemoryKeyDestroyed,
}

/// What a key signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signatures {
    /// How many requests the `signed` rows of the ledger have.
    pub count: u64,
    /// The commitment to their digests, in order: see [`evanesce_protocol::commitment`].
    pub commitment: Digest,
    /// Whether the worker's own last count and commitment say the same; where it could not be
    /// asked, there may have been signatures that no row has.
    pub complete: bool,
}

/// The workload's rows in the ledger. With these the receipt's signature covers the chain, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerSpan {
    /// The ledger.
    pub id: LedgerId,
    /// The workload's `started` row.
    pub first: u64,
    /// The workload's last row before the one that holds the receipt.
    pub last: u64,
    /// The digest of that last row.
    pub head: Digest,
}

/// How far apart those are that had to trust each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Separation {
    /// The notary's key and the workload's worker.
    pub notary: Apart,
    /// The workload's command and its worker.
    pub workload: Apart,
    /// What held the notary's key while it signed; absent from receipts older than the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notary_memory: Option<Backing>,
}

/// How far two processes are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Apart {
    /// Same machine, same user.
    SameUid,
    /// Same machine, other user.
    OtherUid,
    /// Other machine.
    OtherMachine,
}

/// How a worker was started, and in which units of systemd it and its launcher were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// By whom.
    pub spawn: Spawn,
    /// The worker's own unit, where systemd started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The unit that an operator started the launcher in: `systemd-run`, a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher_unit: Option<String>,
    /// The machine that it had for itself (`--enclave`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachinePlacement>,
}

/// A machine that a worker had for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachinePlacement {
    /// Of what kind: `vm`, `snp`, `tdx`.
    pub enclave: String,
    /// SHA-256 of its image's list, `image.json`.
    pub image: Digest,
}

/// One promise, how far it can be kept, and what that was derived from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graded {
    /// The promise.
    pub promise: Promise,
    /// How far it is kept.
    pub grade: Grade,
    /// Each check that it depends on: its name, whether it holds, and what was found.
    pub evidence: Vec<String>,
}

impl Graded {
    /// The lines of the evidence that speak against a better grade.
    pub fn lacking(&self) -> impl Iterator<Item = &str> {
        let holds = |line: &str| {
            line.split_once(' ').is_some_and(|(_, verdict)| verdict.starts_with("holds: "))
        };
        self.evidence.iter().map(String::as_str).filter(move |line| !holds(line))
    }
}

/// What a key can be promised. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Promise {
    /// After its end, the machine's memory holds nothing of it.
    AfterExit,
    /// While it lives, nothing else on the machine can read it.
    During,
    /// Nothing of it reaches a disk: swap, core files, crash dumps, hibernation.
    AgainstSwap,
    /// The hypervisor cannot read it.
    AgainstHypervisor,
}

/// How far a promise is kept: each grade holds more than the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Grade {
    /// Not at all, or nobody knows.
    Open,
    /// In the ordinary course of things: the worker does its part.
    Guarded,
    /// Whatever happens: the kernel or the platform does its part as well.
    Provable,
}

/// What the host promises by itself. Grades a receipt, and stops nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// Whether the kernel clears pages as it frees them (`init_on_free=1`).
    pub init_on_free: Known,
    /// Where memory may be swapped to.
    pub swap: Swap,
    /// What the kernel does with core files; `None` where it could not be read.
    pub core_pattern: Option<String>,
    /// Whether a crash kernel is loaded.
    pub kdump: Known,
    /// Whether the host can hibernate.
    pub hibernation: Known,
    /// More, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub other: BTreeMap<String, String>,
}

/// The answer to a question that may have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// It is so.
    Yes,
    /// It is not so.
    No,
    /// It could not be found out.
    Unknown,
}

/// Where memory may be swapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Swap {
    /// Nowhere.
    None,
    /// Encrypted devices only.
    Encrypted,
    /// At least one device that is not known to be encrypted.
    Plain,
    /// It could not be found out.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_key_that_was_born_inside_may_be_called_destroyed() {
        assert_eq!(KeyFate::shown(KeyOrigin::BornInside), KeyFate::Destroyed);
        for origin in [KeyOrigin::PlaintextFile, KeyOrigin::SealedFile] {
            assert_eq!(KeyFate::shown(origin), KeyFate::ThisCopyDestroyed);
            assert!(!KeyFate::Destroyed.fits(origin));
        }
    }
}
