//! A workload's claim: the file by which other launchers know that it is alive, or was.
//!
//! ```text
//! STATE/workloads/ID/claim      JSON; locked exclusively by the launcher for its life (flock(2))
//! STATE/workloads/ID/requests   the journal of requests
//! ```
//!
//! The lock dies with its holder, however it dies: a claim that can be locked is of a launcher that
//! is gone, and whoever locks it writes the receipt. The directory appears by a rename with the
//! claim locked inside it, and goes once the receipt is in the ledger.
//!
//! Claims are for a launcher's death, not for the machine's: they are not synced. One that a power
//! failure emptied still says that there was a workload of its name.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use evanesce_ledger::Timestamp;
use evanesce_ledger::receipt::{Placement, ScrubStatement};
use evanesce_protocol::control::Backing;
use evanesce_protocol::{PublicKey, WorkloadId};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::journal;
use crate::launcher::Listed;
use crate::process;
use crate::workload::StartError;

/// What a claim says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The workload.
    pub workload_id: WorkloadId,
    /// The process that supervises it.
    pub launcher_pid: u32,
    /// The process that holds its key.
    pub worker: ProcessName,
    /// When it was started.
    pub started_at: Timestamp,
    /// The key inside, once it is loaded.
    pub key: Option<ClaimedKey>,
    /// Guarantees that were given up, by name.
    pub degraded: Vec<String>,
    /// How the worker was started, and where.
    #[serde(default)]
    pub placement: Option<Placement>,
}

/// What a receipt has to know of a key if its launcher does not live to write one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedKey {
    /// The public half.
    pub public_key: PublicKey,
    /// What memory it is in.
    pub backing: Backing,
    /// What was found of the cage.
    pub cage: Vec<ScrubStatement>,
}

impl Claim {
    /// What is left of a claim that cannot be read: nobody's workload, of a boot that is over.
    fn unreadable(workload_id: WorkloadId) -> Self {
        let worker = ProcessName { pid: 0, start_time: 0, boot_id: String::new() };
        Self {
            workload_id,
            launcher_pid: 0,
            worker,
            started_at: Timestamp::from_unix_ms(0),
            key: None,
            degraded: Vec::new(),
            placement: None,
        }
    }
}

/// Names a process so that no later one is mistaken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessName {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (proc_pid_stat(5)).
    pub start_time: u64,
    /// The kernel's id for the boot.
    pub boot_id: String,
}

impl ProcessName {
    /// Names a process that is alive.
    ///
    /// # Errors
    ///
    /// [`io::Error`] where it is not, or `/proc` cannot be read.
    pub fn of(pid: u32) -> io::Result<Self> {
        let start_time = process::start_time(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { pid, start_time, boot_id: process::boot_id()? })
    }

    /// Whether this very process still exists, dead and not reaped included.
    ///
    /// # Errors
    ///
    /// [`io::Error`] where `/proc` cannot be read.
    pub fn exists(&self) -> io::Result<bool> {
        Ok(process::boot_id()? == self.boot_id
            && process::start_time(self.pid) == Some(self.start_time))
    }
}

/// A claim that this process has locked.
#[derive(Debug)]
pub(crate) struct HeldClaim {
    directory: PathBuf,
    lock: File,
    pub(crate) claim: Claim,
}

impl HeldClaim {
    /// Claims a workload's id.
    pub(crate) fn create(workloads: &Path, claim: Claim) -> Result<Self, ClaimError> {
        let fail = |step| move |source| ClaimError::Io { step, source };
        let new = workloads.join(format!("{NEW_PREFIX}{}", claim.worker.pid));
        let directory = workloads.join(claim.workload_id.as_str());
        // A launcher that died here left it; no living one has a worker of this number.
        remove(&new).map_err(fail("cleared"))?;
        DirBuilder::new().mode(0o700).create(&new).map_err(fail("made"))?;
        let lock = write_locked(&new.join(CLAIM), &claim).map_err(fail("written"))?;
        match fs::rename(&new, &directory) {
            Ok(()) => Ok(Self { directory, lock, claim }),
            Err(source) => {
                remove(&new).map_err(fail("cleared"))?;
                match source.kind() {
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                        Err(ClaimError::InUse { workload: claim.workload_id })
                    }
                    _ => Err(ClaimError::Io { step: "made", source }),
                }
            }
        }
    }

    /// Replaces what the claim says, in one step.
    pub(crate) fn update(&mut self, claim: Claim) -> Result<(), ClaimError> {
        let fail = |step| move |source| ClaimError::Io { step, source };
        let new = self.directory.join(CLAIM_NEW);
        let lock = write_locked(&new, &claim).map_err(fail("written"))?;
        fs::rename(&new, self.directory.join(CLAIM)).map_err(fail("replaced"))?;
        self.lock = lock;
        self.claim = claim;
        Ok(())
    }

    /// Keeps the claim if a step after it succeeded, else gives it up: nothing has happened yet.
    pub(crate) fn keep_if<T, E>(self, step: Result<T, E>) -> Result<(Self, T), StartError>
    where
        StartError: From<E>,
    {
        match step {
            Ok(done) => Ok((self, done)),
            Err(error) => {
                self.remove()?;
                Err(error.into())
            }
        }
    }

    /// Gives the claim up: the workload's receipt is in the ledger.
    pub(crate) fn remove(self) -> Result<(), ClaimError> {
        remove(&self.directory).map_err(|source| ClaimError::Io { step: "removed", source })
    }

    /// Where the journal of requests is.
    pub(crate) fn journal(&self) -> PathBuf {
        self.directory.join(REQUESTS)
    }
}

/// Locks every claim whose launcher is gone.
pub(crate) fn abandoned(workloads: &Path) -> Result<Vec<HeldClaim>, ClaimError> {
    let fail = |source| ClaimError::Io { step: "read", source };
    let mut abandoned = Vec::new();
    for (id, directory) in directories(workloads).map_err(fail)? {
        let Some((lock, claim)) = open(&directory).map_err(fail)? else { continue };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            // Replaced or removed between opening and locking: its launcher lives, or is done.
            Ok(()) if !is_same_file(&lock, &directory.join(CLAIM)) => {}
            Ok(()) => {
                let claim = claim.unwrap_or_else(|| Claim::unreadable(id));
                abandoned.push(HeldClaim { directory, lock, claim });
            }
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(fail(errno.into())),
        }
    }
    Ok(abandoned)
}

/// Removes what launchers left that were killed while they made a claim or gave one up.
pub(crate) fn sweep(workloads: &Path) -> Result<(), ClaimError> {
    let fail = |source| ClaimError::Io { step: "cleared", source };
    for entry in fs::read_dir(workloads).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let (name, path) = (entry.file_name(), entry.path());
        let worker = name.to_str().and_then(|name| name.strip_prefix(NEW_PREFIX)?.parse().ok());
        match worker {
            // A claim in the making is of a worker that is there.
            Some(worker) if process::start_time(worker).is_none() => remove(&path).map_err(fail)?,
            Some(_) => {}
            // Empty once the claim is gone; one that is not stays.
            None => fs::remove_dir(path).unwrap_or(()),
        }
    }
    Ok(())
}

/// The workloads whose launchers live, oldest first.
pub(crate) fn list(workloads: &Path) -> Result<Vec<Listed>, ClaimError> {
    let fail = |source| ClaimError::Io { step: "read", source };
    let mut listed = Vec::new();
    for (_, directory) in directories(workloads).map_err(fail)? {
        let Some((lock, Some(claim))) = open(&directory).map_err(fail)? else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockShared) != Err(Errno::WOULDBLOCK) {
            continue;
        }
        listed.push(Listed {
            workload_id: claim.workload_id,
            worker_pid: claim.worker.pid,
            launcher_pid: claim.launcher_pid,
            public_key: claim.key.map(|key| key.public_key),
            started_at: claim.started_at,
            signatures: journal::count(&directory.join(REQUESTS)),
        });
    }
    listed.sort_by(|a, b| (a.started_at, &a.workload_id).cmp(&(b.started_at, &b.workload_id)));
    Ok(listed)
}

/// The directories of workloads by id, those that are being made left out.
fn directories(workloads: &Path) -> io::Result<BTreeMap<WorkloadId, PathBuf>> {
    let mut directories = BTreeMap::new();
    for entry in fs::read_dir(workloads)? {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            directories.insert(id, entry.path());
        }
    }
    Ok(directories)
}

/// Opens and reads a claim; `None` where there is none (any more).
fn open(directory: &Path) -> io::Result<Option<(File, Option<Claim>)>> {
    let file = match File::open(directory.join(CLAIM)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    (&file).take(CLAIM_BYTES_MAX).read_to_end(&mut text)?;
    Ok(Some((file, serde_json::from_slice(&text).ok())))
}

/// Writes a claim into a new file that is locked before it says anything.
fn write_locked(path: &Path, claim: &Claim) -> io::Result<File> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.write_all(&serde_json::to_vec(claim).map_err(io::Error::other)?)?;
    Ok(file)
}

/// Removes a workload's directory, the claim last: until then it can be taken up again.
fn remove(directory: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    for name in [REQUESTS, CLAIM_NEW, CLAIM] {
        gone(fs::remove_file(directory.join(name)))?;
    }
    gone(fs::remove_dir(directory))
}

/// Whether an open file is the one that a path names.
pub(crate) fn is_same_file(file: &File, path: &Path) -> bool {
    match (rustix::fs::fstat(file), rustix::fs::lstat(path)) {
        (Ok(open), Ok(there)) => (open.st_dev, open.st_ino) == (there.st_dev, there.st_ino),
        _ => false,
    }
}

/// Why a claim could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Another workload of this id is alive, or waits for its receipt.
    #[error("a workload {workload} is alive already")]
    InUse {
        /// The id.
        workload: WorkloadId,
    },
    /// The claim's files could not be used.
    #[error("the claim of a workload could not be {step}")]
    Io {
        /// What was to be done with them.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ClaimError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "claim.in-use",
            Self::Io { .. } => "claim.io",
        }
    }
}

const CLAIM: &str = "claim";
const CLAIM_NEW: &str = "claim.new";
const REQUESTS: &str = "requests";

/// No workload's id starts so.
const NEW_PREFIX: &str = ".new-";

/// A claim has about 3 KiB.
const CLAIM_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_of_claims_in_the_making_or_given_up_is_swept_and_nothing_else() {
        // Given a claim that is held, one that is made for a living worker, one for a worker that
        // is gone, and one whose launcher died between removing file and directory,
        let workloads = tempfile::tempdir().unwrap();
        let path = |name: &str| workloads.path().join(name);
        let held = HeldClaim::create(workloads.path(), claim("held")).unwrap();
        let living = path(&format!("{NEW_PREFIX}{}", std::process::id()));
        let dead = path(&format!("{NEW_PREFIX}999999999"));
        for directory in [&living, &dead, &path("given-up")] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(dead.join(CLAIM), "{").unwrap();

        // When it is swept, then the first two stay.
        sweep(workloads.path()).unwrap();

        let left: Vec<_> =
            fs::read_dir(workloads.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(living.exists() && held.directory.join(CLAIM).exists());
    }

    fn claim(id: &str) -> Claim {
        Claim {
            workload_id: id.parse().unwrap(),
            launcher_pid: std::process::id(),
            worker: ProcessName::of(std::process::id()).unwrap(),
            started_at: Timestamp::from_unix_ms(1_795_313_400_123),
            key: None,
            degraded: vec![],
            placement: None,
        }
    }

    #[test]
    fn an_id_is_claimed_once_and_free_again_when_it_is_given_up() {
        let workloads = tempfile::tempdir().unwrap();
        let held = HeldClaim::create(workloads.path(), claim("a")).unwrap();

        let refused = HeldClaim::create(workloads.path(), claim("a")).unwrap_err();

        assert_eq!(refused.code(), "claim.in-use");
        held.remove().unwrap();
        HeldClaim::create(workloads.path(), claim("a")).unwrap().remove().unwrap();
        assert_eq!(fs::read_dir(workloads.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_held_claim_is_listed_and_not_abandoned_and_a_dropped_one_the_other_way_round() {
        let workloads = tempfile::tempdir().unwrap();
        let mut held = HeldClaim::create(workloads.path(), claim("a")).unwrap();
        let key = ClaimedKey {
            public_key: PublicKey::from_bytes([7; 32]),
            backing: Backing::SecretPages,
            cage: vec![],
        };
        held.update(Claim { key: Some(key.clone()), ..claim("a") }).unwrap();

        let listed = list(workloads.path()).unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].public_key, Some(key.public_key));
        assert_eq!(abandoned(workloads.path()).unwrap().len(), 0);

        drop(held);
        assert_eq!(list(workloads.path()).unwrap(), []);
        let found = abandoned(workloads.path()).unwrap();
        assert_eq!(found[0].claim.key, Some(key));
        assert_eq!(abandoned(workloads.path()).unwrap().len(), 0, "the first finder holds it");
    }

    #[test]
    fn a_claim_that_a_power_failure_emptied_is_taken_up_by_its_name() {
        let workloads = tempfile::tempdir().unwrap();
        drop(HeldClaim::create(workloads.path(), claim("a")).unwrap());
        fs::write(workloads.path().join("a").join(CLAIM), "").unwrap();

        let found = abandoned(workloads.path()).unwrap();

        assert_eq!(found[0].claim.workload_id, "a".parse().unwrap());
        assert!(!found[0].claim.worker.exists().unwrap());
        assert_eq!(list(workloads.path()).unwrap(), []);
    }

    #[test]
    fn a_process_of_another_start_or_boot_is_not_the_one_that_was_named() {
        let this = ProcessName::of(std::process::id()).unwrap();

        assert!(this.exists().unwrap());
        let later = ProcessName { start_time: this.start_time + 1, ..this.clone() };
        assert!(!later.exists().unwrap());
        let other_boot = ProcessName { boot_id: "other".into(), ..this };
        assert!(!other_boot.exists().unwrap());
    }
}
