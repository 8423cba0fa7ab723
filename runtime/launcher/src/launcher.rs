//! One installation, opened.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;

use evanesce_evidence::EvidenceEnvelope;
use evanesce_ledger::checkpoint::{Checkpoint, LedgerId};
use evanesce_ledger::row::CheckpointRow;
use evanesce_ledger::{
    AppendError, Appended, AttestationResult, Envelope, Event, Ledger, NewRow, Predicate as _,
    Setup, Timestamp,
};
use evanesce_protocol::evidence::{Nonce, Subject};
use evanesce_protocol::{PublicKey, WorkloadId};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use serde::Serialize;

use crate::attester::{self, AttestError, Attester};
use crate::claim::{self, ClaimError};
use crate::installation::{DirectoryError, Installation};
use crate::notary::{NO_TERMS, Notary, NotaryError};
use crate::plan::{AttestPlan, Plan};
use crate::recover::{self, RecoverError, Recovered};
use crate::release::Receiving;
use crate::rotation::{self, RotateError, Rotated, RotationOrder};
use crate::worker_image::{ImageError, SealedImage, WorkerImage};
use crate::workload::{EndError, EndReason, Ended, StartError, Workload};

/// Tells the time of day: rows, receipts and certificates are dated by it.
pub trait Clock {
    /// The time, UTC.
    fn now(&self) -> Timestamp;
}

/// One installation, opened: its ledger, its notary, its workloads.
///
/// From its first moment this process is not dumpable and writes no core file.
pub struct Launcher {
    pub(crate) installation: Installation,
    pub(crate) image: SealedImage,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) ledger: RefCell<Ledger>,
    /// What the operator allowed: for the commands that are run.
    pub(crate) core_limit: Rlimit,
    /// Workloads that were started here and have not ended.
    pub(crate) alive: Cell<usize>,
    /// See [`Launcher::before_receipt`].
    close_events: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl Launcher {
    /// Opens an installation; one that is not there yet is made.
    ///
    /// Call [`Launcher::recover`] next.
    ///
    /// # Errors
    ///
    /// [`OpenError`] names the step.
    pub fn open(
        installation: Installation,
        image: WorkerImage,
        clock: Box<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let core_limit = harden_this_process().map_err(OpenError::Harden)?;
        installation.prepare()?;
        let image = image.seal()?;
        let mut id = [0; 32];
        getrandom::fill(&mut id).map_err(|error| OpenError::Entropy(error.into()))?;
        let setup = Setup::new(LedgerId::from_bytes(id), clock.now());
        let ledger = Ledger::open(&installation.ledger(), setup)?;
        Ok(Self {
            installation,
            image,
            clock,
            ledger: RefCell::new(ledger),
            core_limit,
            alive: Cell::new(0),
            close_events: RefCell::default(),
        })
    }

    /// Sets what closes the export of events: called once, after the last event of the last workload
    /// that is alive here and before its receipt is written, so that nothing that carries events out
    /// of this process outlives the keys by more than that.
    pub fn before_receipt(&mut self, close: impl FnOnce() + 'static) {
        self.close_events = RefCell::new(Some(Box::new(close)));
    }

    /// Closes the export of events now: whoever ends several workloads does so once
    /// [`Workload::scrub`] has ended each of their keys.
    pub fn close_events(&self) {
        if let Some(close) = self.close_events.take() {
            close();
        }
    }

    /// Ends what launchers that were killed left behind: each such workload gets its receipt.
    ///
    /// # Errors
    ///
    /// [`RecoverError`]; what was recovered until then stays recovered, and the rest is tried again
    /// by the next call.
    pub fn recover(&self) -> Result<Vec<Recovered>, RecoverError> {
        recover::recover(self)
    }

    /// Starts a workload: its key is inside its caged worker, certified, and its socket is served.
    ///
    /// # Errors
    ///
    /// [`StartError`] names the step. Nothing is left behind, and the ledger has a row that says
    /// why.
    pub fn start(&self, plan: Plan) -> Result<Workload<'_>, StartError> {
        Workload::start(self, plan, None)
    }

    /// As [`Self::start`], with a key that a holder on another machine releases to the worker. The
    /// plan's key is [`KeySource::Released`](crate::KeySource::Released).
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_released(
        &self,
        plan: Plan,
        receiving: Receiving<'_>,
    ) -> Result<Workload<'_>, StartError> {
        Workload::start(self, plan, Some(receiving))
    }

    /// Replaces the key in a sealed file by a new one, which the old one hands over to.
    ///
    /// # Errors
    ///
    /// [`RotateError`] names the step. The file holds the old key or the new one, and both are
    /// there until it is certain which.
    pub fn rotate_key(&self, order: &RotationOrder<'_>) -> Result<Rotated, RotateError> {
        rotation::rotate(self, order)
    }

    /// Ends a workload whose key came from a sealed file, and has the key hand over to a new one
    /// before.
    ///
    /// # Errors
    ///
    /// [`EndError`] where the workload has no receipt. Where the rotation failed, its error is beside
    /// the end, and the file holds the key that it held.
    pub fn end_rotated(
        &self,
        workload: Workload<'_>,
        reason: EndReason,
        order: &RotationOrder<'_>,
    ) -> Result<(Ended, Result<Rotated, RotateError>), EndError> {
        rotation::end_rotated(self, workload, reason, order)
    }

    /// The workloads that are alive, of this and of all other launchers, oldest first.
    ///
    /// # Errors
    ///
    /// [`ListError`] where the directory of claims cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, ListError> {
        claim::list(&self.installation.workloads()).map_err(ListError)
    }

    /// The installation's notary.
    pub fn notary(&self) -> Notary<'_> {
        Notary::new(self)
    }

    /// Signs a note of how long the ledger is and how it ends, and appends it to the ledger.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] names the step.
    pub fn checkpoint(&self) -> Result<Envelope, CheckpointError> {
        let mut notary = self.notary().open(NO_TERMS).map_err(Box::new)?;
        let mut ledger = self.ledger.borrow_mut();
        let id = ledger.id();
        let mut writer = ledger.lock()?;
        let key = notary.key().id();
        let at = self.clock.now();
        let mut signed = None;
        writer.append_after(at, |rows, head| {
            let checkpoint = Checkpoint { ledger: id, rows, head, at };
            let envelope = checkpoint.sign(key, |bytes| notary.sign(bytes)).map_err(Box::new)?;
            signed = Some(envelope.clone());
            Ok::<_, CheckpointError>(Event::Checkpoint(CheckpointRow { envelope }))
        })?;
        drop(writer);
        notary.close().map_err(Box::new)?;
        Ok(signed.expect("the row that was appended holds it"))
    }

    /// Collects evidence that speaks for this installation: its notary, worker and signer, and no
    /// workload's key. Without a nonce it takes random bytes.
    ///
    /// # Errors
    ///
    /// [`AttestError`] names the step.
    pub fn collect(&self, plan: &AttestPlan) -> Result<EvidenceEnvelope, AttestError> {
        let notary = match self.notary().public_key().map_err(Box::new)? {
            Some(key) => key,
            None => self.notary().init().map_err(Box::new)?.public_key,
        };
        let nonce = match plan.nonce {
            Some(nonce) => nonce,
            None => {
                let mut bytes = [0; Nonce::BYTES];
                getrandom::fill(&mut bytes).map_err(|error| AttestError::Entropy(error.into()))?;
                Nonce::from_bytes(bytes)
            }
        };
        let configuration = attester::configuration_of_installation();
        let subject = Subject::Installation {};
        attester::collect(&Attester::Here, plan, subject, nonce, &notary, &configuration)
    }

    /// Has the notary sign what came of an appraisal, as whose word relying parties take it.
    ///
    /// # Errors
    ///
    /// [`ResultError`] where the notary does not sign.
    pub fn sign_result(&self, result: AttestationResult) -> Result<Envelope, ResultError> {
        let mut notary = self.notary().open(NO_TERMS).map_err(Box::new)?;
        let key = notary.key().id();
        let envelope = result.sign(key, |bytes| notary.sign(bytes)).map_err(Box::new)?;
        notary.close().map_err(Box::new)?;
        Ok(envelope)
    }

    /// The id of the installation's ledger.
    pub fn ledger_id(&self) -> LedgerId {
        self.ledger.borrow().id()
    }

    /// Where everything is.
    pub const fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Appends rows of one workload's life, all at this moment.
    pub(crate) fn append(
        &self,
        workload: &WorkloadId,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Appended, AppendError> {
        let now = self.clock.now();
        let rows: Vec<_> = events
            .into_iter()
            .map(|event| NewRow::of_workload(now, workload.clone(), event))
            .collect();
        self.ledger.borrow_mut().append(&rows)
    }
}

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launcher").field("installation", &self.installation).finish_non_exhaustive()
    }
}

/// A workload that is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its id.
    pub workload_id: WorkloadId,
    /// The process that holds its key.
    pub worker_pid: u32,
    /// The process that supervises it.
    pub launcher_pid: u32,
    /// Its key; `None` until it is loaded.
    pub public_key: Option<PublicKey>,
    /// When it was started.
    pub started_at: Timestamp,
    /// Signatures made so far.
    pub signatures: u64,
}

/// No core files, and no other process of this user reads this one's memory: it never holds a key
/// byte, but it decides what is one. Returns the limit that was in force.
pub(crate) fn harden_this_process() -> io::Result<Rlimit> {
    let limit = rustix::process::getrlimit(Resource::Core);
    // The hard limit stays, so that commands can be given theirs back.
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), ..limit })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(limit)
}

/// Why an installation could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// This process could not be made undumpable.
    #[error("this process could not be kept from core files")]
    Harden(#[source] io::Error),
    /// A directory is missing, or open to others.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The worker could not be made ready to run.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes")]
    Entropy(#[source] io::Error),
    /// The ledger could not be opened.
    #[error("the ledger could not be opened")]
    Ledger(#[from] AppendError),
}

impl OpenError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Harden(_) => "open.harden",
            Self::Directory(error) => error.code(),
            Self::Image(error) => error.code(),
            Self::Entropy(_) => "open.entropy",
            Self::Ledger(error) => error.code(),
        }
    }
}

/// Why the workloads could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("the workloads could not be listed")]
pub struct ListError(#[source] ClaimError);

impl ListError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        self.0.code()
    }
}

/// Why a result of an appraisal was not signed.
#[derive(Debug, thiserror::Error)]
#[error("the notary did not sign the result")]
pub struct ResultError(#[from] Box<NotaryError>);

impl ResultError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        self.0.code()
    }
}

/// Why no checkpoint was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The notary did not sign.
    #[error("the notary did not sign the checkpoint")]
    Notary(#[from] Box<NotaryError>),
    /// The ledger took no row.
    #[error("the checkpoint could not be appended to the ledger")]
    Ledger(#[from] AppendError),
}

impl CheckpointError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Notary(error) => error.code(),
            Self::Ledger(error) => error.code(),
        }
    }
}
