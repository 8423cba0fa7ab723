//! Receipts for workloads whose launcher was killed.
//!
//! Their workers ended by themselves when the control channel closed, and told nobody. What can
//! still be shown is that the process is gone, and what the journal holds; the rest rests on the
//! kernel, and the receipt says so.

use std::io;
use std::time::Duration;

use evanesce_ledger::receipt::{Cause, KeyFate, KeyRecord, ReleasedBy, Signatures, Times};
use evanesce_ledger::row::{Failed, ReceiptRow};
use evanesce_ledger::{
    AppendError, Event, OpenWorkload, Predicate as _, ReadError, Reader, Receipt,
};
use evanesce_protocol::WorkloadId;
use evanesce_protocol::commitment::RequestCommitment;
use evanesce_protocol::control::Backing;

use crate::agent_socket;
use crate::claim::{self, ClaimError, HeldClaim};
use crate::events::EventName;
use crate::host;
use crate::journal::Journal;
use crate::launcher::Launcher;
use crate::lifecycle::{self, Facts, Lifecycle};
use crate::notary::NotaryError;
use crate::plan::Degraded;
use crate::process::{Gone, await_orphan};
use crate::record::{self, RecordError};
use crate::workload::software;

/// A workload that had lost its launcher and has its receipt now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The workload.
    pub workload: WorkloadId,
    /// What became of its key; `None` where it never had one.
    pub fate: Option<KeyFate>,
    /// The ledger's last row of it: its receipt, where it had a key.
    pub row: u64,
}

pub(crate) fn recover(launcher: &Launcher) -> Result<Vec<Recovered>, RecoverError> {
    claim::sweep(&launcher.installation.workloads())?;
    let abandoned = claim::abandoned(&launcher.installation.workloads())?;
    if abandoned.is_empty() {
        return Ok(Vec::new());
    }
    // Read after the claims were locked: from here on nobody else adds rows of these workloads.
    let open = Reader::open(&launcher.installation.ledger())?.open_workloads()?;
    let mut recovered = Vec::new();
    for claim in abandoned {
        let id = claim.claim.workload_id.clone();
        let gone = await_orphan(&claim.claim.worker, LINGER_TIMEOUT);
        agent_socket::remove_leftovers(&launcher.installation.runtime_dir, &id);
        if let Some(life) = open.iter().find(|life| life.workload == id) {
            let end = end(launcher, &claim, life, gone)?;
            tracing::warn!(event = %EventName::Recovered, workload = %id, row = end.row);
            recovered.push(end);
        }
        // Else it died before its first row, or after its last: there is nothing to tell.
        claim.remove()?;
    }
    Ok(recovered)
}

/// Writes the rows that a lost launcher still owed.
fn end(
    launcher: &Launcher,
    claim: &HeldClaim,
    life: &OpenWorkload,
    gone: Result<Gone, io::Error>,
) -> Result<Recovered, RecoverError> {
    let id = &life.workload;
    let lost = Event::Failed(Failed {
        code: "launcher.lost".to_owned(),
        message: format!("launcher {} is gone", claim.claim.launcher_pid),
    });
    let Some((loaded_at, loaded)) = &life.loaded else {
        // Whatever its worker held, nobody could use: this row ends the workload.
        let row = launcher.append(id, [lost])?.last;
        return Ok(Recovered { workload: id.clone(), fate: None, row });
    };

    let recorded = life.requests.unwrap_or_else(|| RequestCommitment::new(&loaded.public_key));
    let (journal, newest) = record_the_rest(launcher, claim, id, recorded, &lost)?;
    let known = claim.claim.key.as_ref();
    let cage = known.map_or(&[][..], |key| key.cage.as_slice());
    let host = host::facts();
    let facts = Facts {
        journal,
        origin: loaded.origin,
        // Not written down: then the weaker is assumed.
        backing: known.map_or(Backing::LockedPages, |key| key.backing),
        init_on_free: host.init_on_free,
        cage,
        // Its memory went with the launcher that had it.
        machine: None,
    };
    let mut orphan = Lifecycle::of_orphan();
    orphan.on(match gone {
        Ok(gone) => lifecycle::Event::Gone(gone),
        Err(error) => lifecycle::Event::NotGone(error.to_string()),
    });
    let verdict = orphan.conclude(&facts);
    let fate = verdict.fate;
    let now = launcher.clock.now();
    let mut span = life.span(launcher.ledger_id());
    (span.last, span.head) = (newest.last, newest.head);
    let strength = Degraded::strength_of(&claim.claim.degraded);
    let mut notary = launcher.notary().open(strength).map_err(Box::new)?;
    let receipt = Receipt {
        workload: id.clone(),
        key: KeyRecord {
            public_key: loaded.public_key,
            key_use: loaded.key_use,
            origin: loaded.origin,
            fate,
        },
        times: Times { started: life.started_at, loaded: *loaded_at, ended: now, made: now },
        software: software(),
        cause: Cause::LauncherLost,
        attestation: life.attested.clone(),
        released_by: life.received.as_ref().map(ReleasedBy::of),
        command: None,
        scrub: verdict.scrub,
        signatures: Signatures {
            count: journal.count(),
            commitment: journal.value(),
            complete: verdict.complete,
        },
        ledger: span,
        degraded: claim.claim.degraded.clone(),
        separation: notary.separation(),
        host,
        grades: host::grades(cage),
        // How its worker was started is in the claim; where its launcher was is not known any more.
        placement: claim.claim.placement.clone(),
    };
    let key = notary.key().id();
    let envelope = receipt.sign(key, |bytes| notary.sign(bytes)).map_err(Box::new)?;
    let row = launcher.append(id, [Event::Receipt(ReceiptRow { envelope })])?.last;
    notary.close().map_err(Box::new)?;
    Ok(Recovered { workload: id.clone(), fate: Some(fate), row })
}

/// Puts what the journal holds and the ledger does not into rows, and `lost` behind them.
fn record_the_rest(
    launcher: &Launcher,
    claim: &HeldClaim,
    id: &WorkloadId,
    recorded: RequestCommitment,
    lost: &Event,
) -> Result<(RequestCommitment, evanesce_ledger::Appended), RecoverError> {
    let mut journal = match Journal::open(&claim.journal(), recorded) {
        Ok(journal) => journal,
        // Killed before it was made: nothing was signed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((recorded, launcher.append(id, [lost.clone()])?));
        }
        Err(error) => return Err(RecordError::Journal(error).into()),
    };
    let mut newest = None;
    for batch in record::rows(&mut journal, id, launcher.clock.now(), Some(lost)) {
        newest = Some(launcher.ledger.borrow_mut().append(&batch?)?);
    }
    Ok((journal.commitment(), newest.expect("the last row is always there")))
}

/// Why a workload whose launcher is gone has no receipt yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// Its claim could not be read or given up.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The ledger could not be read.
    #[error("the ledger could not be searched for workloads without a receipt")]
    Read(#[from] ReadError),
    /// What it signed could not be put in the ledger.
    #[error("its signatures could not be recorded")]
    Record(#[from] RecordError),
    /// The ledger took no row.
    #[error("its rows could not be appended to the ledger")]
    Ledger(#[from] AppendError),
    /// The notary did not sign.
    #[error("the notary did not sign its receipt")]
    Notary(#[from] Box<NotaryError>),
}

impl RecoverError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Claim(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::Record(error) => error.code(),
            Self::Ledger(error) => error.code(),
            Self::Notary(error) => error.code(),
        }
    }
}

/// For a worker without a launcher to end by itself, and again after it was killed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
