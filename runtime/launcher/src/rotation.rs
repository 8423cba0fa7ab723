//! One signing key hands over to the next, in a sealed file.
//!
//! ```text
//! 1  old key opened in its worker, a workload like any other; new key born in a fresh one
//! 2  FILE.pub names both; FILE.next, the new key sealed, is on the disk
//! 3  both keys and the notary sign the statement; its row is in the ledger   ← from here on it is done
//! 4  both workers wipe; the old key has its receipt
//! 5  FILE.next becomes FILE; FILE.pub names the new key alone
//! ```
//!
//! Whatever interrupts this, `FILE` holds a key that works, and [`settle`] ends it: backwards where
//! the row is not in the ledger, forwards where it is. The sealed file comes before the row, since
//! a row without it would hand over to a key that nobody has.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use evanesce_ledger::rotation::{
    HandoverSignatures, HistoryEntry, KeyRotation, KeySignature, history,
};
use evanesce_ledger::row::KeyRotatedRow;
use evanesce_ledger::{
    AppendError, Event, LedgerId, NewRow, NotaryKeys, Predicate as _, ReadError, Reader,
};
use evanesce_protocol::control::{Load, LoadSource, Strength, TerminalUse};
use evanesce_protocol::custody::Seal;
use evanesce_protocol::rotation::REASON_BYTES_MAX;
use evanesce_protocol::{Digest, KeyUse, PublicKey};

use crate::cage::Expected;
use crate::custody::{self, CustodyError};
use crate::events::EventName;
use crate::key_file::KeyFile;
use crate::launcher::Launcher;
use crate::notary::NotaryError;
use crate::plan::{Degraded, KeySource, Plan};
use crate::public_file::{
    Named, PublicFile, PublicFileError, next_to, sync_directory, write_whole,
};
use crate::secrets::Unlock;
use crate::worker::{LoadError, Signer, Worker, WorkerError};
use crate::worker_image::WorkerImage;
use crate::workload::{EndError, EndReason, Ended, StartError, Workload};

/// What is to be rotated, and how.
#[derive(Clone, Debug)]
pub struct RotationOrder<'a> {
    /// The sealed file.
    pub file: &'a Path,
    /// To whom the new key is sealed.
    pub seal: Seal,
    /// What opens the old key, and where a new passphrase comes from.
    pub unlock: Unlock,
    /// Why, in the operator's words.
    pub reason: String,
    /// Guarantees that the operator gives up.
    pub degraded: Vec<Degraded>,
}

/// A rotation that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "look at the fate of the old key: it may be unproven"]
pub struct Rotated {
    /// The key that signs no longer.
    pub retired: PublicKey,
    /// The key that is in the file now.
    pub successor: PublicKey,
    /// Its generation.
    pub generation: u64,
    /// The statement's row in the ledger.
    pub row: u64,
    /// The end of the old key; `None` where an earlier, interrupted command rotated it, whose receipt
    /// is in the ledger.
    pub ended: Option<Ended>,
}

pub(crate) fn rotate(
    launcher: &Launcher,
    order: &RotationOrder<'_>,
) -> Result<Rotated, RotateError> {
    let key = custody::lock(order.file)?;
    if let Some(finished) = settle_locked(launcher, order.file)? {
        // An interrupted command wanted what this one wants: its rotation is done now.
        return Ok(finished);
    }
    let next = NextKey::prepare(launcher, order, &key)?;
    let plan = Plan {
        key: KeySource::File(order.file.to_owned()),
        unlock: order.unlock.clone(),
        degraded: order.degraded.clone(),
        command_name: Some("evanesce key rotate".into()),
        ..Plan::default()
    };
    let mut old = launcher.start(plan).map_err(Box::new)?;
    let committed = commit(launcher, order, &mut old, next);
    let ended = old.end(match committed {
        Ok(_) => EndReason::Operator,
        Err(_) => EndReason::Failed,
    });
    let row = finish(launcher, order, committed)?;
    Ok(Rotated { ended: Some(ended.map_err(Box::new)?), ..row })
}

/// Hands the key of a workload over, which then ends; see [`Launcher::end_rotated`].
pub(crate) fn end_rotated(
    launcher: &Launcher,
    mut workload: Workload<'_>,
    reason: EndReason,
    order: &RotationOrder<'_>,
) -> Result<(Ended, Result<Rotated, RotateError>), EndError> {
    let prepare = || {
        let key = custody::lock(order.file)?;
        match workload.key_file() {
            Some(loaded) if loaded.is_same(&key) => {}
            _ => return Err(RotateError::Replaced { path: order.file.to_owned() }),
        }
        if !workload.is_serving() {
            return Err(RotateError::Ended { path: order.file.to_owned() });
        }
        let next = NextKey::prepare(launcher, order, &key)?;
        Ok((key, next))
    };
    match prepare() {
        Err(error) => Ok((workload.end(reason)?, Err(error))),
        Ok((locked, next)) => {
            let committed = commit(launcher, order, &mut workload, next);
            let ended = workload.end(reason);
            let rotated = finish(launcher, order, committed);
            drop(locked);
            Ok((ended?, rotated))
        }
    }
}

/// Puts the files in place: the new key's where it was handed over to, else the old one's as it was.
fn finish(
    launcher: &Launcher,
    order: &RotationOrder<'_>,
    committed: Result<u64, RotateError>,
) -> Result<Rotated, RotateError> {
    let settled = settle_locked(launcher, order.file);
    let row = committed?;
    let finished = settled?.ok_or(RotateError::Vanished { path: next_to(order.file, NEXT) })?;
    tracing::info!(event = %EventName::KeyRotated, key = %finished.successor, row);
    Ok(finished)
}

/// Steps 1 to 3, with the old key at work; gives the statement's row. What the new key's worker had
/// is gone afterwards.
fn commit(
    launcher: &Launcher,
    order: &RotationOrder<'_>,
    old: &mut Workload<'_>,
    mut next: NextKey,
) -> Result<u64, RotateError> {
    let public = PublicFile::of(order.file);
    let retired = *old.public_key();
    let (known, previous) = generation(launcher, &public, &retired)?;
    let (successor, sealed) = next.make(order)?;

    let old_name = Named { key: retired, generation: Some(known), pending: None };
    let new_name =
        Named { key: successor, generation: Some(known + 1), pending: Some(launcher.ledger_id()) };
    public.write(&[old_name, new_name])?;
    let file = next_to(order.file, NEXT);
    write_whole(&file, sealed.as_bytes(), 0o600)
        .and_then(|()| sync_directory(&file))
        .map_err(|source| RotateError::Write { path: file, source })?;

    let unsigned = KeySignature::from_bytes([0; 64]);
    let mut rotation = KeyRotation {
        ledger: launcher.ledger_id(),
        generation: known + 1,
        retired,
        successor,
        at: launcher.clock.now(),
        previous,
        reason: order.reason.clone(),
        signatures: HandoverSignatures { retired: unsigned, successor: unsigned },
    };
    let handover = rotation.handover();
    rotation.signatures = HandoverSignatures {
        retired: KeySignature::from_bytes(old.endorse(&handover)?),
        successor: KeySignature::from_bytes(next.worker.endorse(&handover)?),
    };
    if let Some(key) = rotation.missing_signature() {
        return Err(RotateError::DoesNotVerify { key });
    }
    next.worker.close()?;
    let mut notary = launcher.notary().open(strength(order)).map_err(Box::new)?;
    let notary_key = notary.key().id();
    let envelope = rotation.sign(notary_key, |bytes| notary.sign(bytes)).map_err(Box::new)?;
    let row = Event::KeyRotated(KeyRotatedRow { envelope });
    let row = NewRow::of_ledger(launcher.clock.now(), row);
    let row = launcher.ledger.borrow_mut().append(&[row])?.last;
    // From here on it is done, whatever becomes of this process.
    notary.close().map_err(Box::new)?;
    Ok(row)
}

/// The worker in which the new key is born.
struct NextKey {
    worker: Worker<Signer>,
}

impl NextKey {
    /// Starts the worker, and has it look at the old key's file first.
    fn prepare(
        launcher: &Launcher,
        order: &RotationOrder<'_>,
        key: &KeyFile,
    ) -> Result<Self, RotateError> {
        if order.reason.len() > REASON_BYTES_MAX {
            return Err(RotateError::Reason { found: order.reason.len() });
        }
        let next = next_to(order.file, NEXT);
        if next.exists() {
            // What an interrupted rotation left is gone by now: this is somebody else's.
            return Err(RotateError::Unknown { path: next });
        }
        let mut prepared = Self::spawn(launcher, order)?;
        prepared.check_sealed(key)?;
        Ok(prepared)
    }

    fn spawn(launcher: &Launcher, order: &RotationOrder<'_>) -> Result<Self, WorkerError> {
        let strength = strength(order);
        let mut worker = Worker::<Signer>::spawn(&launcher.image, strength, TerminalUse::Possible)?;
        let signer_module = Some(WorkerImage::signer_digest());
        worker.await_cage(&Expected { signer_module, strength })?;
        Ok(Self { worker })
    }

    /// Refuses to rotate a file in the clear: its old key would stay on the disk.
    fn check_sealed(&mut self, key: &KeyFile) -> Result<(), RotateError> {
        let info = self.worker.inspect(key.file.as_fd())?.map_err(WorkerError::Refused)?;
        match info.lock {
            Some(_) => Ok(()),
            None => Err(RotateError::Plaintext { path: key.path.clone() }),
        }
    }

    /// Has the key made, and gives its public half and its sealed file.
    fn make(&mut self, order: &RotationOrder<'_>) -> Result<(PublicKey, String), RotateError> {
        let load = Load {
            source: LoadSource::BornInside,
            key_use: KeyUse::Message,
            seal: Some(order.seal.clone()),
        };
        let loaded = self.worker.load(load, None, &order.unlock, None)?;
        Ok((loaded.public_key, custody::sealed_text(&loaded)?.to_owned()))
    }
}

/// The memory that workers may fall back to.
fn strength(order: &RotationOrder<'_>) -> Strength {
    match order.degraded.contains(&Degraded::SecretPages) {
        true => Strength::AllowLockedPages,
        false => Strength::Strict,
    }
}

/// The generation of a key and the digest of the statement that made it: what the ledger says, and
/// where it says nothing, what the public file does.
fn generation(
    launcher: &Launcher,
    public: &PublicFile,
    key: &PublicKey,
) -> Result<(u64, Option<Digest>), RotateError> {
    let reader = Reader::open(&launcher.installation.ledger())?;
    let made = history(&reader, NotaryKeys::default(), key)?;
    if let Some(entry) = made.iter().rev().find(|entry| entry.rotation.successor == *key) {
        return Ok((entry.rotation.generation, Some(entry.statement)));
    }
    let named = public.read()?.unwrap_or_default();
    let named = named.iter().find(|named| named.key == *key);
    Ok((named.and_then(|named| named.generation).unwrap_or(1).max(1), None))
}

/// Ends a rotation of this file that was interrupted, unless a command is at it.
pub(crate) fn settle(launcher: &Launcher, file: &Path) -> Result<(), RotateError> {
    if !is_pending(file)? {
        return Ok(());
    }
    match custody::lock(file) {
        Ok(_locked) => settle_locked(launcher, file).map(drop),
        // Until that command is done, the old key is the one in the file.
        Err(CustodyError::Busy { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a rotation of this file was begun and not ended.
fn is_pending(file: &Path) -> Result<bool, RotateError> {
    // FILE.pub is written first and last: without it, FILE.next is no part of a rotation.
    let named = PublicFile::of(file).read()?.unwrap_or_default();
    Ok(named.iter().any(|named| named.pending.is_some()))
}

/// Ends an interrupted rotation; `Some` where the key was handed over.
fn settle_locked(launcher: &Launcher, file: &Path) -> Result<Option<Rotated>, RotateError> {
    let public = PublicFile::of(file);
    let named = public.read()?.unwrap_or_default();
    let Some(successor) = named.iter().find(|named| named.pending.is_some()) else {
        return Ok(None);
    };
    if successor.pending != Some(launcher.ledger_id()) {
        return Err(RotateError::OtherLedger {
            path: file.to_owned(),
            ledger: successor.pending.expect("it was found by this"),
        });
    }
    let next = next_to(file, NEXT);
    let write = |source| RotateError::Write { path: next.clone(), source };
    let statement = statement_of(launcher, &successor.key)?;
    match &statement {
        Some(_) if next.exists() => {
            fs::rename(&next, file).and_then(|()| sync_directory(file)).map_err(write)?;
        }
        // Renamed already.
        Some(_) => {}
        None => match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(write(error)),
            Ok(()) | Err(_) => {}
        },
    }
    let kept = |named: &&Named| (named.key == successor.key) == statement.is_some();
    let kept: Vec<_> =
        named.iter().filter(kept).map(|named| Named { pending: None, ..*named }).collect();
    public.write(&kept)?;
    Ok(statement.map(|(row, rotation)| Rotated {
        retired: rotation.retired,
        successor: rotation.successor,
        generation: rotation.generation,
        row,
        ended: None,
    }))
}

/// The statement that hands over to this key, and its row.
fn statement_of(
    launcher: &Launcher,
    successor: &PublicKey,
) -> Result<Option<(u64, KeyRotation)>, RotateError> {
    let reader = Reader::open(&launcher.installation.ledger())?;
    let made = history(&reader, NotaryKeys::default(), successor)?;
    let is_it = |entry: &HistoryEntry| {
        entry.rotation.successor == *successor && entry.rotation.missing_signature().is_none()
    };
    let made = made.into_iter().rev().find(is_it);
    Ok(made.map(|entry| (entry.row, entry.rotation)))
}

/// Why a key was not rotated, or its rotation is not ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// The reason is too long.
    #[error("the reason has {found} bytes, and at most {REASON_BYTES_MAX} are taken")]
    Reason {
        /// Its bytes.
        found: usize,
    },
    /// The key is in the clear.
    #[error("{} holds its key in the clear", path.display())]
    Plaintext {
        /// The file.
        path: PathBuf,
    },
    /// The key file cannot be used.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// Its public file cannot be used.
    #[error(transparent)]
    PublicFile(#[from] PublicFileError),
    /// The old key was not loaded.
    #[error(transparent)]
    Start(#[from] Box<StartError>),
    /// The new key was not made.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A worker failed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A key returned a signature that does not verify.
    #[error("{key} did not sign the rotation")]
    DoesNotVerify {
        /// The key.
        key: PublicKey,
    },
    /// The notary did not sign.
    #[error("the notary did not sign the rotation")]
    Notary(#[from] Box<NotaryError>),
    /// The ledger took no row.
    #[error("the rotation could not be put in the ledger")]
    Ledger(#[from] AppendError),
    /// The ledger could not be read.
    #[error("the ledger could not be searched for rotations")]
    Read(#[from] ReadError),
    /// A file could not be written, renamed or removed.
    #[error("{} could not be put in place", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The key was handed over; the old one has no receipt yet.
    #[error("the key was handed over, and the end of the old one failed")]
    End(#[from] Box<EndError>),
    /// There is a `FILE.next` that no rotation explains.
    #[error("{} is there, and no rotation is begun", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// The file is another one than the workload's key was read from.
    #[error("{} was replaced while its key was at work", path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// The workload's key had ended before it could hand over.
    #[error("the key of {} ended before it could hand over", path.display())]
    Ended {
        /// The file.
        path: PathBuf,
    },
    /// The rotation that was interrupted is of another installation.
    #[error("a rotation of {} was interrupted, and ledger {ledger} knows whether it is done", path.display())]
    OtherLedger {
        /// The key file.
        path: PathBuf,
        /// The ledger.
        ledger: LedgerId,
    },
    /// Somebody removed the new key's file.
    #[error("{} is gone", path.display())]
    Vanished {
        /// The file.
        path: PathBuf,
    },
}

impl RotateError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Reason { .. } => "rotate.reason",
            Self::Plaintext { .. } => "rotate.plaintext",
            Self::Custody(error) => error.code(),
            Self::PublicFile(error) => error.code(),
            Self::Start(error) => error.code(),
            Self::Load(error) => error.code(),
            Self::Worker(error) => error.code(),
            Self::DoesNotVerify { .. } => "rotate.does-not-verify",
            Self::Notary(error) => error.code(),
            Self::Ledger(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::Write { .. } => "rotate.write",
            Self::End(error) => error.code(),
            Self::Unknown { .. } => "rotate.unknown",
            Self::Replaced { .. } => "rotate.replaced",
            Self::Ended { .. } => "rotate.ended",
            Self::OtherLedger { .. } => "rotate.other-ledger",
            Self::Vanished { .. } => "rotate.vanished",
        }
    }
}

/// Where the new key is until it is certain that it is the one.
const NEXT: &str = ".next";
