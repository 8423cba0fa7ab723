//! What the shredding of a process proved: the outside part of a scrub, for a process that is not
//! a worker and was never in a cage.

use serde::{Deserialize, Serialize};

use evanesce_protocol::Digest;

use crate::checkpoint::LedgerId;
use crate::receipt::{HostFacts, ScrubStatement, Separation, Unproven};
use crate::statement::{Predicate, Subject};
use crate::timestamp::Timestamp;

/// The end of one process, as the notary signs it.
///
/// Nothing is said of a key: what the process held, and what it had written elsewhere before, is
/// not known. The statement's subject is the process; see [`ShreddedProcess::digest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "append the receipt to the ledger; a scrub that nobody recorded cannot be shown"]
pub struct ShredReceipt {
    /// The ledger that the receipt is for, and how it ended before.
    pub ledger: LedgerHead,
    /// The process.
    pub process: ShreddedProcess,
    /// What became of its memory.
    pub fate: ShredFate,
    /// When the steps were.
    pub times: ShredTimes,
    /// The version of evanesce.
    pub version: String,
    /// What was shown, and by whom.
    pub statements: Vec<ScrubStatement>,
    /// What was tried and could not be shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unproven: Vec<Unproven>,
    /// Bytes of private memory that were overwritten and read back.
    pub bytes_overwritten: u64,
    /// Pages that nothing was ever written to.
    pub pages_absent: u64,
    /// Pages that hold what their file holds: the process never wrote to them.
    pub pages_unmodified: u64,
    /// Pages whose content, or a copy of it, may be left.
    pub left: LeftPages,
    /// How far the notary and the process are apart.
    pub separation: Separation,
    /// What the host itself promises.
    pub host: HostFacts,
}

impl Predicate for ShredReceipt {
    const TYPE: &str = "https://evanesce.dev/shred-receipt/v1";

    fn subject(&self) -> Subject {
        Subject::new(format!("process {}", self.process.pid), self.process.digest())
    }
}

impl ShredReceipt {
    /// Whether the fate is the one that the counts allow.
    pub fn is_consistent(&self) -> bool {
        self.fate == ShredFate::of(&self.left, &self.unproven)
    }
}

/// A ledger as it is before a row. With these the receipt's signature covers the chain, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerHead {
    /// The ledger.
    pub id: LedgerId,
    /// The row just before the one that holds the receipt.
    pub last: u64,
    /// The digest of that row.
    pub head: Digest,
}

/// A process, named so that no other one is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShreddedProcess {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (proc_pid_stat(5)).
    pub start_time: u64,
    /// The kernel's id for the boot.
    pub boot_id: String,
    /// Its name (proc_pid_comm(5)), without arguments, which may hold secrets.
    pub name: String,
    /// The user it ran as.
    pub uid: u32,
}

impl ShreddedProcess {
    /// SHA-256 of `evanesce process v1`, a zero byte, and boot id, process id and start time in
    /// decimal with a space between.
    pub fn digest(&self) -> Digest {
        let Self { boot_id, pid, start_time, .. } = self;
        Digest::of(format!("evanesce process v1\0{boot_id} {pid} {start_time}").as_bytes())
    }
}

/// What became of a process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShredFate {
    /// Every page that it alone had was overwritten and read back, and there were no others.
    Overwritten,
    /// Something is left, or a step could not be shown.
    Incomplete,
}

impl ShredFate {
    /// What may be said where this much is left.
    pub fn of(left: &LeftPages, unproven: &[Unproven]) -> Self {
        match left.count() == 0 && unproven.is_empty() {
            true => Self::Overwritten,
            false => Self::Incomplete,
        }
    }
}

/// When the steps were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShredTimes {
    /// The process was stopped.
    pub stopped: Timestamp,
    /// It was seen to be gone.
    pub ended: Timestamp,
}

/// Pages whose content, or a copy of it, may be left, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftPages {
    /// They were in swap: overwritten in memory, and the disk keeps what it has.
    pub swapped: u64,
    /// Of shared memory that the process could write: other processes may have it.
    pub shared: u64,
    /// Of files that the process could write through shared mappings: the file has them.
    pub file_backed: u64,
    /// Shared with a parent or a child since a fork: this process's copy is overwritten, theirs
    /// is not.
    pub copy_on_write: u64,
    /// The kernel refused to write them.
    pub unwritable: u64,
}

impl LeftPages {
    /// All of them together.
    pub const fn count(&self) -> u64 {
        let Self { swapped, shared, file_backed, copy_on_write, unwritable } = *self;
        swapped
            .saturating_add(shared)
            .saturating_add(file_backed)
            .saturating_add(copy_on_write)
            .saturating_add(unwritable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::Claim;

    #[test]
    fn one_page_or_one_unproven_step_makes_it_incomplete() {
        let fate = |left: LeftPages| ShredFate::of(&left, &[]);
        let none = LeftPages::default();

        assert_eq!(fate(none), ShredFate::Overwritten);
        for left in [
            LeftPages { swapped: 1, ..none },
            LeftPages { shared: 1, ..none },
            LeftPages { file_backed: 1, ..none },
            LeftPages { copy_on_write: 1, ..none },
            LeftPages { unwritable: 1, ..none },
        ] {
            assert_eq!(fate(left), ShredFate::Incomplete, "{left:?}");
        }
        let unproven = Unproven { claim: Claim::ProcessGone, reason: "it lingers".into() };
        assert_eq!(ShredFate::of(&none, &[unproven]), ShredFate::Incomplete);
    }
}
