//! One workload, from its start to its receipt.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evanesce_evidence::EvidenceEnvelope;
use evanesce_ledger::attestation::ENVELOPE_IN_ROW_BYTES_MAX;
use evanesce_ledger::receipt::{
    Apart, Cause, Graded, HostFacts, KeyFate, KeyRecord, LedgerSpan, Placement, ReleasedBy,
    Separation, Signatures, Software, Times,
};
use evanesce_ledger::record::{ArtifactRecord, SshSignature};
use evanesce_ledger::row::{
    Caged, Certified, Failed, Loaded, ReceiptRow, Spawn, Started, StatementRow, Wiped,
};
use evanesce_ledger::{
    AppendError, Appended, Attestation, Attested, Envelope, Event, Predicate as _, Receipt,
    SignatureRecord, Timestamp,
};
use evanesce_posture::grade::{Requirement, grade_name, promise_name};
use evanesce_protocol::channel::ReceiveError;
use evanesce_protocol::control::{
    self, Load, LoadSource, Serve, SignerOrder, SignerReport, Strength, WipeCause,
};
use evanesce_protocol::evidence::{Nonce, Subject};
use evanesce_protocol::rotation::Handover;
use evanesce_protocol::{Digest, KeyOrigin, KeyUse, PublicKey, WorkloadId};
use evanesce_release::ReleaseError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::process::{Signal, geteuid};

use crate::agent_socket::{AgentSocketError, RuntimeFiles};
use crate::attester::{self, AttestError, SigningIdentity};
use crate::cage::{CageChecked, Expected};
use crate::certificate::{Certificate, Terms, public_key_line};
use crate::claim::{Claim, ClaimError, ClaimedKey, HeldClaim, ProcessName};
use crate::command::{CommandEnd, CommandLine, ENDING, RunError, SignerVariables};
use crate::events::EventName;
use crate::host;
use crate::journal::Journal;
use crate::key_file::{KeyFile, KeyFileError};
use crate::launcher::Launcher;
use crate::lifecycle::{self, Action, Facts, Lifecycle};
use crate::machine::{Machine, MachineEnd};
use crate::notary::{NotaryError, NotarySession, Session, Starting};
use crate::output_dir::{OutputDir, OutputDirError};
use crate::plan::{KeySource, Plan};
use crate::process::{Gone, HeldProcess, is_readable_within};
use crate::public_file::{PublicFile, PublicFileError};
use crate::record::{self, RecordError};
use crate::release::{self, ChannelError, Receiving};
use crate::rotation::{self, RotateError};
use crate::scrub;
use crate::signals::{Sender, Signals};
use crate::systemd::bus::{self, Connecting};
use crate::systemd::credential::{self, CredentialName};
use crate::systemd::unit::UnitUser;
use crate::systemd::{OwnUnit, SpawnChoice};
use crate::worker::{
    LoadError, START_TIMEOUT, Signer, StartingUnit, UnitTerms, Worker, WorkerError,
};
use crate::worker_image::WorkerImage;

/// A key inside its caged worker, its socket and its certificate.
///
/// End it with [`Workload::end`]. Where it is dropped instead, the worker is killed, and the next
/// [`Launcher::recover`] writes the receipt.
#[must_use = "end it, or its receipt is left to the next command"]
pub struct Workload<'a> {
    launcher: &'a Launcher,
    claim: HeldClaim,
    worker: Worker<Signer>,
    cage: CageChecked,
    life: Lifecycle,
    key: Key,
    journal: Journal,
    files: RuntimeFiles,
    signals: Signals,
    /// Evidence that was collected for its key.
    evidence: Option<Evidence>,
    /// Who released its key.
    released_by: Option<ReleasedBy>,
    /// The workload's `started` row.
    first_row: u64,
    /// What memory will do, for its notary as well.
    strength: Strength,
    /// Where its newest rows are.
    newest: Appended,
    /// Whether it is known which rows are in the ledger.
    is_recording: bool,
    /// Whether a signal that asks to end was handed on to the command.
    is_asked_to_end: bool,
    /// Whether the worker was told to stop, and the command was not yet.
    is_stop_due: bool,
    /// How the worker was started, and where.
    placement: Placement,
    command: Option<CommandEnd>,
    signed_files: Vec<SignedFile>,
    key_file: Option<KeyFile>,
    identity: SigningIdentity,
    /// Once its key was ended: see [`Workload::scrub`].
    scrubbed: Option<Scrubbed>,
    alive: Alive<'a>,
    _output_dir: Option<OutputDir>,
}

/// A key's end, as its receipt dates it, and the host that it ended on.
struct Scrubbed {
    at: Timestamp,
    host: HostFacts,
}

/// One of the workloads that are alive at a launcher.
struct Alive<'a>(&'a Launcher);

impl<'a> Alive<'a> {
    fn of(launcher: &'a Launcher) -> Self {
        launcher.alive.set(launcher.alive.get() + 1);
        Self(launcher)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.alive.set(self.0.alive.get() - 1);
    }
}

/// A file that the key signed, as the client says that had it signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedFile {
    /// The file.
    pub artifact: ArtifactRecord,
    /// The signature.
    pub signature: SshSignature,
    /// How the ledger names what was signed.
    pub request: Digest,
}

/// A statement that is in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The statement.
    pub envelope: Envelope,
    /// Its row.
    pub row: u64,
}

/// The key of a workload, as far as it is public.
struct Key {
    public: PublicKey,
    key_use: KeyUse,
    origin: KeyOrigin,
    certificate: Certificate,
    loaded_at: Timestamp,
}

/// What a workload has before its key is loaded.
struct Parts {
    claim: HeldClaim,
    files: RuntimeFiles,
    listener: UnixListener,
    signals: Signals,
    kill_switch: Option<KillSwitch>,
    output_dir: Option<OutputDir>,
    first_row: u64,
    placement: Placement,
}

/// Two workers on their way: the signer, and the notary that certifies its key.
struct ComingUp {
    worker: Worker<Signer>,
    notary: Starting,
    key_file: Option<KeyFile>,
}

/// A key that is loaded, certified and in the ledger, and that nobody can use yet.
struct LoadedKey {
    worker: Worker<Signer>,
    notary: Session,
    cage: CageChecked,
    key: Key,
    evidence: Option<Evidence>,
    released_by: Option<ReleasedBy>,
    key_file: Option<KeyFile>,
    newest: Appended,
}

/// Evidence that was collected, and how its receipt names it.
struct Evidence {
    envelope: EvidenceEnvelope,
    attestation: Attestation,
}

impl<'a> Workload<'a> {
    pub(crate) fn start(
        launcher: &'a Launcher,
        mut plan: Plan,
        receiving: Option<Receiving<'_>>,
    ) -> Result<Self, StartError> {
        if (plan.key == KeySource::Released) != receiving.is_some() {
            return Err(StartError::NoHolder);
        }
        if plan.machine.is_some() {
            check_machine(&plan)?;
        }
        if let KeySource::File(path) = &plan.key {
            // A rotation that was interrupted is ended first: it decides which key the file holds.
            rotation::settle(launcher, path).map_err(Box::new)?;
        }
        let id = match &plan.workload_id {
            Some(id) => id.clone(),
            None => random_id()?,
        };
        let key_file = match &plan.key {
            KeySource::Ephemeral | KeySource::Credential | KeySource::Released => None,
            KeySource::File(path) => Some(KeyFile::open(path)?),
        };
        let kill_switch = plan.kill_switch.as_deref().map(KillSwitch::watch).transpose()?;
        let output_dir =
            plan.output_dir.as_deref().map(|path| OutputDir::lock(path, &id)).transpose()?;
        let mut signals = Signals::catch().map_err(StartError::Signals)?;

        // Both workers come up while the claim and the first row are written.
        let (worker, notary) = spawn_both(launcher, &plan, &id)?;
        let placement = Placement {
            machine: worker.machine().map(Machine::placement),
            ..placement(worker.unit_name())
        };
        if let Some(unit) = placement.unit.as_deref().filter(|_| !plan.credentials.is_empty()) {
            plan.unlock.credentials = Some(credential::directory(unit));
        }
        let pid = worker.process.pid_u32();
        tracing::info!(event = %EventName::WorkerStarted, workload = %id, pid);
        let claim = HeldClaim::create(
            &launcher.installation.workloads(),
            Claim {
                workload_id: id.clone(),
                launcher_pid: std::process::id(),
                worker: ProcessName::of(pid).map_err(StartError::Observe)?,
                started_at: launcher.clock.now(),
                key: None,
                degraded: plan.degraded_names(),
                placement: Some(placement.clone()),
            },
        )?;
        let (claim, (files, listener)) =
            claim.keep_if(RuntimeFiles::create(&launcher.installation.runtime_dir, &id))?;
        let started = Event::Started(Started {
            launcher_pid: std::process::id(),
            spawn: placement.spawn,
            worker: WorkerImage::digest(),
            signer: WorkerImage::signer_digest(),
            command: plan.command_name.clone(),
        });
        let (claim, started) = claim.keep_if(launcher.append(&id, [started]))?;

        let coming_up = ComingUp { worker, notary, key_file };
        let loading = Loading { launcher, plan: &plan, id: &id, started: started.head };
        let loaded = match coming_up.load(&loading, receiving, &mut signals) {
            Ok(loaded) => loaded,
            Err(error) => {
                // No key was ever within a client's reach: this row ends the workload.
                let failed = Failed { code: error.code().to_owned(), message: with_causes(&error) };
                launcher.append(&id, [Event::Failed(failed)])?;
                drop(files);
                claim.remove()?;
                return Err(error);
            }
        };
        let first_row = started.first;
        let parts = Parts {
            claim,
            files,
            listener,
            signals,
            kill_switch,
            output_dir,
            first_row,
            placement,
        };
        Self::serve(launcher, plan, parts, loaded)
    }

    /// Opens the socket. Where that fails the workload ends with a receipt, since it had a key.
    fn serve(
        launcher: &'a Launcher,
        plan: Plan,
        mut parts: Parts,
        loaded: LoadedKey,
    ) -> Result<Self, StartError> {
        let LoadedKey { worker, notary, cage, key, key_file, evidence, released_by, newest } =
            loaded;
        let identity = SigningIdentity {
            public_key: key.public,
            notary: notary.key().clone(),
            configuration: attester::configuration_of(
                &plan,
                &parts.claim.claim.workload_id,
                key.origin,
            ),
            attester: worker.attester(),
        };
        let claimed = ClaimedKey {
            public_key: key.public,
            backing: cage.backing(),
            cage: cage.statements().to_vec(),
        };
        parts.claim.update(Claim { key: Some(claimed), ..parts.claim.claim.clone() })?;
        let (journal, appending) =
            Journal::create(&parts.claim.journal(), &key.public).map_err(StartError::Journal)?;
        parts.files.write_public_key(key.certificate.line()).map_err(StartError::PublicKeyFile)?;

        let mut workload = Self {
            launcher,
            claim: parts.claim,
            worker,
            cage,
            life: Lifecycle::new(),
            key,
            journal,
            files: parts.files,
            signals: parts.signals,
            evidence,
            released_by,
            first_row: parts.first_row,
            strength: plan.strength(),
            newest,
            is_recording: true,
            is_asked_to_end: false,
            is_stop_due: false,
            placement: parts.placement,
            command: None,
            signed_files: Vec::new(),
            key_file,
            identity,
            scrubbed: None,
            alive: Alive::of(launcher),
            _output_dir: parts.output_dir,
        };
        let terms = workload.terms(&plan, parts.kill_switch.as_ref());
        let mut descriptors = vec![parts.listener.as_fd(), appending.as_fd()];
        descriptors.extend(parts.kill_switch.as_ref().map(|switch| switch.events.as_fd()));
        let served = workload
            .open_socket(terms, &descriptors)
            .and_then(|()| notary.close().map_err(|error| Box::new(error).into()));
        match served {
            Ok(()) => {
                tracing::info!(event = %EventName::Serving, workload = %workload.id());
                Ok(workload)
            }
            Err(error) => match workload.end(EndReason::Failed) {
                Ok(_) => Err(error),
                Err(end) => Err(StartError::End(Box::new(end))),
            },
        }
    }

    fn terms(&self, plan: &Plan, kill_switch: Option<&KillSwitch>) -> Serve {
        Serve {
            grants: plan.grants.clone(),
            certificate: self.key.certificate.blob().to_vec(),
            comment: format!("evanesce {}", self.id()),
            client_uid: geteuid().as_raw(),
            signatures_max: plan.signatures_max,
            ttl_ms: Some(u64::try_from(plan.ttl.as_millis()).unwrap_or(u64::MAX)),
            kill_switch: kill_switch.map(|switch| switch.name.as_bytes().to_vec()),
        }
    }

    fn open_socket(
        &mut self,
        terms: Serve,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), StartError> {
        self.worker.order(&SignerOrder::Serve(terms), descriptors)?;
        match self.worker.answer("opening its socket", START_TIMEOUT)? {
            SignerReport::Serving => Ok(()),
            _ => Err(WorkerError::Unexpected { step: "opening its socket" }.into()),
        }
    }

    /// Runs a command with the signer at its side, to the command's end.
    ///
    /// Signals to this process are passed on to it. A key that ends before its command (budget,
    /// time to live, kill switch) is scrubbed at once; the command goes on.
    ///
    /// # Errors
    ///
    /// [`RunError`] says whether the command was started. Call [`Workload::end`] in any case.
    pub fn run(&mut self, command: &CommandLine) -> Result<CommandEnd, RunError> {
        for arrived in self.signals.pending() {
            if ENDING.contains(&arrived.signal) {
                return Err(RunError::Interrupted { signal: arrived.signal.as_raw() });
            }
        }
        let public_key_line = self.public_key_line();
        let variables = SignerVariables {
            workload_id: self.id().as_str(),
            agent_socket: &self.files.socket(),
            public_key_line: &public_key_line,
            public_key_file: &self.files.public_key(),
        };
        let mut child = command
            .spawn(&variables, self.launcher.core_limit)
            .map_err(|source| RunError::Spawn { path: command.program().to_owned(), source })?;
        let mut unrecorded = None;
        while !self.wait(&child).map_err(RunError::Wait)? {
            for arrived in self.signals.pending() {
                // What the terminal sends it sends to the command as well.
                if arrived.sender == Sender::Process {
                    child.signal(arrived.signal).map_err(RunError::Wait)?;
                    self.is_asked_to_end |= ENDING.contains(&arrived.signal);
                    let signal = arrived.signal.as_raw();
                    tracing::info!(event = %EventName::SignalForwarded, workload = %self.id(), signal);
                }
            }
            let pumped = self.pump();
            if std::mem::take(&mut self.is_stop_due) {
                // The worker was stopped, and the workload with it: as if this process had been.
                child.signal(Signal::TERM).map_err(RunError::Wait)?;
            }
            if let Err(error) = pumped {
                // A signature that cannot be recorded may not be made: the key ends here.
                unrecorded.get_or_insert(error);
                self.act(lifecycle::Event::EndAsked(Cause::Failed));
            }
        }
        let end = child.reap().map_err(RunError::Wait)?.into();
        self.command = Some(end);
        tracing::info!(event = %EventName::CommandEnded, workload = %self.id(), ?end);
        match unrecorded {
            Some(error) => Err(RunError::Record(error)),
            None => Ok(end),
        }
    }

    /// Does what is due and does not wait: signatures go to the ledger, and a worker that ended its
    /// key by itself is scrubbed. [`Workload::run`] and [`Workload::end`] see to it themselves.
    ///
    /// # Errors
    ///
    /// [`RecordError`] where signatures cannot be put in the ledger.
    pub fn pump(&mut self) -> Result<(), RecordError> {
        if self.life.is_serving() {
            self.hear_worker();
        }
        self.record(None)
    }

    /// Ends the key: wiped, overwritten, killed, seen to be gone. [`Workload::end`] does so itself and
    /// adds the receipt; who ends several workloads has all keys gone, and the last event told, before
    /// the first receipt. Once it is done, nothing changes the reason any more.
    pub fn scrub(&mut self, reason: EndReason) {
        if self.scrubbed.is_none() {
            self.scrubbed = Some(self.end_key(reason));
        }
    }

    /// Ends the key: wiped, overwritten, killed, seen to be gone, receipted.
    ///
    /// # Errors
    ///
    /// [`EndError`] where no receipt could be written; the key is gone by then, and the next
    /// [`Launcher::recover`] tries again.
    pub fn end(self, reason: EndReason) -> Result<Ended, EndError> {
        let (ended, notary) = self.end_keeping_notary(reason)?;
        notary.close().map_err(Box::new)?;
        Ok(ended)
    }

    /// As [`Workload::end`], and leaves the notary at work for what is to be signed next. The
    /// notary's worker is killed where the result is dropped.
    ///
    /// # Errors
    ///
    /// As [`Workload::end`].
    pub fn end_keeping_notary(
        mut self,
        reason: EndReason,
    ) -> Result<(Ended, NotarySession), EndError> {
        // The notary comes up while the key ends.
        let notary = self.launcher.notary().spawn(self.strength);
        let scrubbed = match self.scrubbed.take() {
            Some(scrubbed) => scrubbed,
            None => self.end_key(reason),
        };

        let wiped =
            self.life.wiped().map(|(regions, bytes)| Event::Wiped(Wiped { regions, bytes }));
        self.record(wiped.as_ref())?;
        let mut notary = notary.and_then(Starting::ready).map_err(Box::new)?;
        let records = self.sign_records(&mut notary)?;
        let separation = self.separation(notary.separation());
        let receipt = self.receipt(scrubbed, separation);
        let fate = receipt.key.fate;
        if self.launcher.alive.get() <= 1 {
            self.launcher.close_events();
        }
        let id = notary.key().id();
        let envelope = receipt.clone().sign(id, |bytes| notary.sign(bytes)).map_err(Box::new)?;
        let row = Event::Receipt(ReceiptRow { envelope: envelope.clone() });
        let row = self.launcher.append(self.id(), [row])?.last;
        // Whoever is killed after giving the claim up leaves nothing that nobody looks for.
        drop(self.files);
        self.claim.remove()?;
        self.worker.release_unit();
        drop(self.alive);
        let evidence = self.evidence.map(|evidence| evidence.envelope);
        let ended = Ended { receipt, envelope, row, fate, evidence, records };
        Ok((ended, NotarySession::of(notary)))
    }

    /// Has the notary record, at the workload's end, that its key signed a file.
    pub fn record_signature(&mut self, signed: SignedFile) {
        self.signed_files.push(signed);
    }

    /// Puts the records of signed files in the ledger, before the receipt that covers them.
    fn sign_records(&mut self, notary: &mut Session) -> Result<Vec<Recorded>, EndError> {
        let mut recorded = Vec::new();
        let signed_files = std::mem::take(&mut self.signed_files);
        for batch in signed_files.chunks(RECORDS_PER_BATCH) {
            let mut envelopes = Vec::new();
            for signed in batch {
                let record = SignatureRecord {
                    workload: self.id().clone(),
                    artifact: signed.artifact.clone(),
                    public_key: self.key.public,
                    key_use: self.key.key_use,
                    signature: signed.signature.clone(),
                    request: signed.request,
                    ledger: self.launcher.ledger_id(),
                    at: self.launcher.clock.now(),
                };
                let id = notary.key().id();
                let envelope = record.sign(id, |bytes| notary.sign(bytes)).map_err(Box::new)?;
                envelopes.push(envelope);
            }
            let rows = envelopes.iter().cloned();
            let rows = rows.map(|envelope| Event::Statement(StatementRow { envelope }));
            self.newest = self.launcher.append(self.id(), rows)?;
            let numbered = envelopes.into_iter().zip(self.newest.first..);
            recorded.extend(numbered.map(|(envelope, row)| Recorded { envelope, row }));
        }
        Ok(recorded)
    }

    /// Has the key sign a handover: recorded like any other request.
    pub(crate) fn endorse(&mut self, handover: &Handover) -> Result<[u8; 64], WorkerError> {
        self.worker.endorse(handover)
    }

    /// The file that the key was read from.
    pub(crate) fn key_file(&self) -> Option<&KeyFile> {
        self.key_file.as_ref()
    }

    /// The workload's id.
    pub fn id(&self) -> &WorkloadId {
        &self.claim.claim.workload_id
    }

    /// The public half of its key.
    pub const fn public_key(&self) -> &PublicKey {
        &self.key.public
    }

    /// The key's OpenSSH certificate, one line without a newline.
    pub fn certificate_line(&self) -> &str {
        self.key.certificate.line()
    }

    /// The public key itself as one OpenSSH line, without a newline.
    pub fn public_key_line(&self) -> String {
        public_key_line(&self.key.public, &format!("evanesce {}", self.id()))
    }

    /// Where its agent socket is.
    pub fn agent_socket(&self) -> PathBuf {
        self.files.socket()
    }

    /// Where its public key is: the certificate's line, so that `ssh-keygen -Y sign -f` puts the
    /// certificate into the signature.
    pub fn public_key_file(&self) -> PathBuf {
        self.files.public_key()
    }

    /// Whether the key can still sign, as far as was heard of its worker.
    pub fn is_serving(&self) -> bool {
        self.life.is_serving()
    }

    /// The process that holds the key.
    pub fn worker_pid(&self) -> u32 {
        self.worker.process.pid_u32()
    }

    /// Why the key ended, once it did.
    pub fn cause(&self) -> Option<Cause> {
        self.life.cause()
    }

    /// What evidence about its key binds, beside the nonce: to collect more of it while it lives.
    pub fn identity(&self) -> &SigningIdentity {
        &self.identity
    }

    /// Waits for something to do; `true` once the command has ended.
    fn wait(&self, command: &HeldProcess) -> io::Result<bool> {
        let mut watched =
            vec![PollFd::new(command, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        let timeout = Timespec::try_from(RECORD_INTERVAL).expect("a fraction of a second");
        let mut timeout = Some(&timeout);
        if self.life.is_serving() {
            watched.push(PollFd::new(&self.worker, PollFlags::IN));
            watched.push(PollFd::new(&self.worker.process, PollFlags::IN));
        } else {
            timeout = None;
        }
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::INTR) => Ok(!watched[0].revents().is_empty()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes note of what the worker says by itself, or of its end.
    fn hear_worker(&mut self) {
        let event = match self.worker.channel.receive_within::<SignerReport>(Duration::ZERO) {
            Ok(received) => match received.message {
                SignerReport::Wiped(report) => {
                    let cause = report.cause;
                    tracing::info!(event = %EventName::WipedByItself, workload = %self.id(), %cause);
                    self.is_stop_due = cause == WipeCause::Stopped;
                    lifecycle::Event::Wiped(report)
                }
                SignerReport::Refused(refused) => lifecycle::Event::NotWiped(refused.to_string()),
                _ => lifecycle::Event::NotWiped("the worker reported out of turn".to_owned()),
            },
            Err(ReceiveError::TimedOut) => {
                match is_readable_within(self.worker.process.as_fd(), Duration::ZERO) {
                    Ok(false) => return,
                    Ok(true) | Err(_) => lifecycle::Event::WorkerEnded,
                }
            }
            Err(ReceiveError::Closed) => lifecycle::Event::WorkerEnded,
            Err(error) => lifecycle::Event::NotWiped(error.to_string()),
        };
        if matches!(event, lifecycle::Event::WorkerEnded | lifecycle::Event::NotWiped(_)) {
            tracing::warn!(event = %EventName::WorkerLost, workload = %self.id(), seen = ?event);
        }
        self.act(event);
    }

    /// Tells the lifecycle what happened, and does what it says until there is nothing to do.
    fn act(&mut self, event: lifecycle::Event) {
        let mut action = self.life.on(event);
        loop {
            let event = match action {
                Action::Wait | Action::Conclude => return,
                Action::OrderWipe => self.order_wipe(),
                Action::Overwrite if self.worker.machine().is_some() => {
                    lifecycle::Event::GoesWithMachine
                }
                Action::Overwrite => match scrub::overwrite(&mut self.worker.process) {
                    Ok(overwritten) => lifecycle::Event::Overwritten(overwritten),
                    Err(error) => {
                        let reason = with_causes(&error);
                        tracing::warn!(event = %EventName::NotOverwritten, workload = %self.id(), reason);
                        lifecycle::Event::NotOverwritten(reason)
                    }
                },
                Action::Kill => gone(self.worker.kill(END_TIMEOUT)),
                Action::Reap => gone(
                    // Its channel is closed; that it ends by itself is likely, not certain.
                    self.worker.await_end(REAP_TIMEOUT).or_else(|_| self.worker.kill(END_TIMEOUT)),
                ),
            };
            action = self.life.on(event);
        }
    }

    fn order_wipe(&mut self) -> lifecycle::Event {
        // A worker that takes no order may have wiped by itself; what it says decides.
        let sent = self.worker.channel.send(&SignerOrder::Wipe, &[]);
        let timeout = self.worker.wipe_timeout(WIPE_TIMEOUT);
        let reason = match self.worker.channel.receive_within::<SignerReport>(timeout) {
            Ok(received) => match received.message {
                SignerReport::Wiped(report) => return lifecycle::Event::Wiped(report),
                SignerReport::Refused(refused) => refused.to_string(),
                _ => "the worker reported out of turn".to_owned(),
            },
            Err(ReceiveError::Closed) => return lifecycle::Event::WorkerEnded,
            Err(error) => match sent {
                Ok(()) => error.to_string(),
                Err(unsent) => unsent.to_string(),
            },
        };
        tracing::warn!(event = %EventName::NotWiped, workload = %self.id(), reason);
        lifecycle::Event::NotWiped(reason)
    }

    /// See [`Workload::scrub`].
    fn end_key(&mut self, reason: EndReason) -> Scrubbed {
        if self.life.is_serving() {
            self.hear_worker();
        }
        let cause = match reason {
            EndReason::CommandEnded if self.is_asked_to_end => Cause::Operator,
            reason => reason.cause(),
        };
        self.act(lifecycle::Event::EndAsked(cause));
        let scrubbed = Scrubbed { at: self.launcher.clock.now(), host: host::facts() };
        let machine = self.worker.machine().map(Machine::end);
        let fate = self.life.fate(&self.facts(&scrubbed.host, machine.as_ref()));
        tracing::info!(event = %EventName::WorkloadEnded, workload = %self.id(), ?fate);
        scrubbed
    }

    /// Moves requests from the journal to the ledger, with `last` behind them.
    ///
    /// After a failure it is not known which rows are there. Nothing more is appended then: who
    /// reads the ledger anew, [`Launcher::recover`], writes the rest.
    fn record(&mut self, last: Option<&Event>) -> Result<(), RecordError> {
        if !self.is_recording {
            return Err(RecordError::Earlier);
        }
        self.is_recording = false;
        let now = self.launcher.clock.now();
        let id = &self.claim.claim.workload_id;
        let rows = record::rows(&mut self.journal, id, now, last);
        for batch in rows {
            self.newest = self.launcher.ledger.borrow_mut().append(&batch?)?;
        }
        self.is_recording = true;
        Ok(())
    }

    /// The notary is a worker of the launcher's; a worker in a unit has a user of its own.
    fn separation(&self, of_notary: Separation) -> Separation {
        match self.placement.spawn {
            Spawn::Systemd => {
                Separation { notary: Apart::OtherUid, workload: Apart::OtherUid, ..of_notary }
            }
            _ => of_notary,
        }
    }

    fn facts<'f>(&'f self, host: &HostFacts, machine: Option<&'f MachineEnd>) -> Facts<'f> {
        Facts {
            journal: self.journal.commitment(),
            origin: self.key.origin,
            backing: self.cage.backing(),
            init_on_free: host.init_on_free,
            cage: self.cage.statements(),
            machine,
        }
    }

    fn receipt(&mut self, scrubbed: Scrubbed, separation: Separation) -> Receipt {
        let Scrubbed { at: ended, host } = scrubbed;
        let life = std::mem::take(&mut self.life);
        let machine = self.worker.machine().map(Machine::end);
        let facts = self.facts(&host, machine.as_ref());
        let verdict = life.conclude(&facts);
        let journal = facts.journal;
        Receipt {
            workload: self.id().clone(),
            key: KeyRecord {
                public_key: self.key.public,
                key_use: self.key.key_use,
                origin: self.key.origin,
                fate: verdict.fate,
            },
            times: Times {
                started: self.claim.claim.started_at,
                loaded: self.key.loaded_at,
                ended,
                made: self.launcher.clock.now(),
            },
            software: software(),
            cause: verdict.cause,
            attestation: self.evidence.as_ref().map(|evidence| evidence.attestation.clone()),
            released_by: self.released_by,
            command: self.command,
            scrub: verdict.scrub,
            signatures: Signatures {
                count: journal.count(),
                commitment: journal.value(),
                complete: verdict.complete,
            },
            ledger: LedgerSpan {
                id: self.launcher.ledger_id(),
                first: self.first_row,
                last: self.newest.last,
                head: self.newest.head,
            },
            degraded: self.claim.claim.degraded.clone(),
            separation,
            host,
            grades: host::grades(self.cage.statements()),
            placement: Some(self.placement.clone()),
        }
    }
}

/// Starts the signer, as the plan says, and the notary that certifies its key.
fn spawn_both(
    launcher: &Launcher,
    plan: &Plan,
    id: &WorkloadId,
) -> Result<(Worker<Signer>, Starting), StartError> {
    let strength = plan.strength();
    let notary = || launcher.notary().spawn(strength).map_err(Box::new);
    if let Some(machine) = &plan.machine {
        return Ok((Worker::spawn_in_machine(machine, strength)?, notary()?));
    }
    match plan.spawn.resolve(bus::surroundings()) {
        Spawn::Systemd => {
            check_user(&plan.user)?;
            let connecting = Connecting::begin().map_err(WorkerError::from)?;
            let terms = UnitTerms {
                workload: id.clone(),
                user: plan.user.clone(),
                ttl: plan.ttl,
                credentials: plan.credentials.clone(),
            };
            let unit = StartingUnit::begin(connecting, strength, terms)?;
            let notary = notary()?;
            Ok((unit.ready()?, notary))
        }
        _ => Ok((Worker::spawn(&launcher.image, strength, plan.terminal_use())?, notary()?)),
    }
}

/// What a worker in a machine of its own cannot have: a key that was outside of it in the clear, and
/// what only a host has.
fn check_machine(plan: &Plan) -> Result<(), StartError> {
    let cannot = |what| Err(StartError::NotInMachine { what });
    match plan {
        Plan { key: KeySource::File(_) | KeySource::Credential, .. } => cannot("a key from a file"),
        Plan { spawn: SpawnChoice::Systemd, .. } => cannot("a unit of systemd"),
        Plan { require, .. } if !require.is_empty() => cannot("grades of the host"),
        _ => Ok(()),
    }
}

/// A worker that runs as root or as the launcher would have no user of its own.
fn check_user(user: &UnitUser) -> Result<(), StartError> {
    match user {
        UnitUser::Fixed { uid, gid } if *uid == 0 || *gid == 0 || *uid == geteuid().as_raw() => {
            Err(StartError::NoOwnUser { uid: *uid, gid: *gid })
        }
        UnitUser::Fixed { .. } | UnitUser::Dynamic => Ok(()),
    }
}

/// Where a worker of this process is: in `unit`, or with its launcher.
fn placement(unit: Option<String>) -> Placement {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Placement {
        spawn: if unit.is_some() { Spawn::Systemd } else { Spawn::Direct },
        unit,
        launcher_unit: OwnUnit::of_cgroups(&cgroups).map(|unit| unit.name),
        machine: None,
    }
}

/// Holds what this host and the worker's cage promise against what the operator requires.
fn check_grades(plan: &Plan, cage: &CageChecked) -> Result<(), UnmetGrades> {
    if plan.require.is_empty() {
        return Ok(());
    }
    let grades = host::grades(cage.statements());
    let unmet = |requirement: &Requirement| {
        let below = requirement.unmet_by(&grades).into_iter().cloned().collect::<Vec<_>>();
        (!below.is_empty()).then_some((*requirement, below))
    };
    match plan.require.iter().find_map(unmet) {
        None => Ok(()),
        Some((required, below)) => Err(UnmetGrades { required, below }),
    }
}

/// A grade that was required and cannot be had here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmetGrades {
    required: Requirement,
    below: Vec<Graded>,
}

impl fmt::Display for UnmetGrades {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is required, and this host does not give it:", self.required)?;
        for graded in &self.below {
            let (promise, grade) = (promise_name(graded.promise), grade_name(graded.grade));
            let lacking = graded.lacking().collect::<Vec<_>>().join(", ");
            write!(f, " {promise} is {grade} ({lacking})")?;
        }
        Ok(())
    }
}

impl std::error::Error for UnmetGrades {}

/// What a key is loaded for.
#[derive(Clone, Copy)]
struct Loading<'a> {
    launcher: &'a Launcher,
    plan: &'a Plan,
    id: &'a WorkloadId,
    /// The digest of the `started` row.
    started: Digest,
}

impl ComingUp {
    /// Checks the cage, has the key loaded and certified, and puts all that in the ledger.
    fn load(
        self,
        loading: &Loading<'_>,
        receiving: Option<Receiving<'_>>,
        signals: &mut Signals,
    ) -> Result<LoadedKey, StartError> {
        let Loading { launcher, plan, id, started } = *loading;
        let Self { mut worker, notary, mut key_file } = self;
        let expected = Expected {
            signer_module: Some(WorkerImage::signer_digest()),
            strength: plan.strength(),
        };
        let cage = worker.await_cage(&expected)?;
        tracing::info!(event = %EventName::CageChecked, workload = %id);
        check_grades(plan, &cage)?;
        if plan.key == KeySource::Credential {
            key_file = Some(open_credential(plan)?);
        }

        let key_use = plan.grants.key_use();
        let (loaded, loaded_at, released_by, mut notary) = match receiving {
            None => {
                let loaded = load_key(&mut worker, &cage, plan, key_file.as_ref(), signals)?;
                (loaded, launcher.clock.now(), None, notary.ready().map_err(Box::new)?)
            }
            Some(receiving) => {
                // The evidence binds the notary, so it comes first.
                let notary = notary.ready().map_err(Box::new)?;
                let (loaded, received) = release::receive(
                    launcher,
                    (plan, id),
                    &mut worker,
                    notary.key(),
                    receiving,
                    signals,
                )?;
                (loaded, launcher.clock.now(), Some(ReleasedBy::of(&received)), notary)
            }
        };
        let (public, origin) = (loaded.public_key, loaded.origin);
        tracing::info!(event = %EventName::KeyLoaded, workload = %id, key = %public);

        let terms = Terms {
            workload: id.clone(),
            public_key: public,
            valid_after: earlier(loaded_at, CLOCK_SKEW),
            valid_before: later(loaded_at, plan.ttl),
            nonce: random()?,
        };
        let notary_key = notary.key().clone();
        let certificate = Certificate::issue(&terms, &notary_key, |bytes| notary.sign(bytes))
            .map_err(Box::new)?;
        let evidence = match &plan.attest {
            Some(attest) => {
                let subject = Subject::SigningIdentity { public_key: public };
                let nonce = attest.nonce.unwrap_or(Nonce::from_bytes(*started.as_bytes()));
                let configuration = attester::configuration_of(plan, id, origin);
                let attester = worker.attester();
                let notary = &notary_key;
                let envelope =
                    attester::collect(&attester, attest, subject, nonce, notary, &configuration)?;
                tracing::info!(event = %EventName::EvidenceCollected, workload = %id, evidence = %envelope.digest());
                Some(Evidence::new(envelope, launcher.clock.now()))
            }
            None => None,
        };
        let newest = launcher.append(
            id,
            [
                Event::Caged(Caged {
                    worker_pid: worker.process.pid_u32(),
                    checks: cage.claims(),
                    degraded: plan.degraded_names(),
                }),
                Event::Loaded(Loaded { public_key: public, key_use, origin }),
                Event::Certified(Certified {
                    certificate: Digest::of(certificate.blob()),
                    notary: notary_key.id(),
                    valid_before: terms.valid_before,
                }),
            ]
            .into_iter()
            .chain(evidence.as_ref().map(Evidence::to_row)),
        )?;
        tracing::info!(event = %EventName::KeyCertified, workload = %id, notary = %notary_key.id());
        let key = Key { public, key_use, origin, certificate, loaded_at };
        Ok(LoadedKey { worker, notary, cage, key, key_file, evidence, released_by, newest })
    }
}

impl Evidence {
    fn new(envelope: EvidenceEnvelope, collected: Timestamp) -> Self {
        let attestation = Attestation {
            evidence: envelope.digest(),
            provider: envelope.raw.provider.clone(),
            nonce: envelope.binding.nonce,
            collected,
        };
        Self { envelope, attestation }
    }

    /// The row, with the evidence in it where it fits.
    fn to_row(&self) -> Event {
        let text = self.envelope.without_endorsements().to_json();
        let fits = text.len() <= ENVELOPE_IN_ROW_BYTES_MAX;
        let envelope = fits.then(|| serde_json::from_str(&text).expect("it was just written"));
        Event::Attested(Box::new(Attested { attestation: self.attestation.clone(), envelope }))
    }
}

/// Opens the key among the credentials of a unit that runs.
fn open_credential(plan: &Plan) -> Result<KeyFile, StartError> {
    let directory = plan.unlock.credentials.as_deref().ok_or(StartError::NoCredential)?;
    Ok(KeyFile::of_credential(directory.join(CredentialName::Key.as_str()))?)
}

/// Brings the key into a worker whose cage was checked.
fn load_key(
    worker: &mut Worker<Signer>,
    _checked: &CageChecked,
    plan: &Plan,
    key_file: Option<&KeyFile>,
    signals: &mut Signals,
) -> Result<control::Loaded, StartError> {
    let source = match key_file {
        None => LoadSource::BornInside,
        Some(_) => LoadSource::File { work_factor_max: plan.unlock.work_factor_max },
    };
    let load = Load { source, key_use: plan.grants.key_use(), seal: None };
    let loaded = worker.load(load, key_file, &plan.unlock, Some(signals))?;
    if let Some(key) = key_file {
        PublicFile::check(&key.path, &loaded.public_key)?;
    }
    Ok(loaded)
}

impl fmt::Debug for Workload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workload")
            .field("id", self.id())
            .field("public_key", self.public_key())
            .finish_non_exhaustive()
    }
}

/// Why a caller ends a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// Its command ended, or what was to be signed is signed.
    CommandEnded,
    /// The operator wants it.
    Operator,
    /// A step failed.
    Failed,
}

impl EndReason {
    const fn cause(self) -> Cause {
        match self {
            Self::CommandEnded => Cause::CommandEnded,
            Self::Operator => Cause::Operator,
            Self::Failed => Cause::Failed,
        }
    }
}

/// What became of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "look at the fate: it may be unproven"]
pub struct Ended {
    /// The receipt.
    pub receipt: Receipt,
    /// The receipt, signed by the notary.
    pub envelope: Envelope,
    /// Its row in the ledger.
    pub row: u64,
    /// What became of the key, as the receipt says.
    pub fate: KeyFate,
    /// The evidence that was collected for the key.
    pub evidence: Option<EvidenceEnvelope>,
    /// The records of the files that it signed: see [`Workload::record_signature`].
    pub records: Vec<Recorded>,
}

/// A file whose appearance ends the key.
struct KillSwitch {
    events: OwnedFd,
    name: OsString,
}

impl KillSwitch {
    fn watch(path: &Path) -> Result<Self, KillSwitchError> {
        let fail = |source| KillSwitchError::Watch { path: path.to_owned(), source };
        let name = path.file_name().ok_or_else(|| fail(io::ErrorKind::InvalidInput.into()))?;
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let watch = || {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let events = inotify::init(flags)?;
            let wanted = inotify::WatchFlags::CREATE
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::DELETE_SELF
                | inotify::WatchFlags::MOVE_SELF
                | inotify::WatchFlags::ONLYDIR;
            inotify::add_watch(&events, directory, wanted)?;
            Ok(events)
        };
        let events = watch().map_err(|errno: Errno| fail(errno.into()))?;
        // Looked for after watching began: it cannot appear unseen in between.
        match fs::symlink_metadata(path) {
            Ok(_) => Err(KillSwitchError::Set { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { events, name: name.to_owned() })
            }
            Err(error) => Err(fail(error)),
        }
    }
}

/// Why a kill switch cannot be watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KillSwitchError {
    /// Its directory cannot be watched.
    #[error("kill switch {} cannot be watched", path.display())]
    Watch {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is there already.
    #[error("kill switch {} is set already", path.display())]
    Set {
        /// The file.
        path: PathBuf,
    },
}

impl KillSwitchError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Watch { .. } => "kill-switch.watch",
            Self::Set { .. } => "kill-switch.set",
        }
    }
}

/// Why a workload was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes")]
    Entropy(#[source] io::Error),
    /// The key file cannot be handed to the worker.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// A rotation of the key was interrupted, and could not be ended.
    #[error("the key's rotation was interrupted and could not be ended")]
    Rotation(#[from] Box<RotateError>),
    /// The kill switch cannot be watched.
    #[error(transparent)]
    KillSwitch(#[from] KillSwitchError),
    /// The output directory cannot be had.
    #[error(transparent)]
    OutputDir(#[from] OutputDirError),
    /// Signals cannot be caught.
    #[error("signals cannot be caught")]
    Signals(#[source] io::Error),
    /// The id is taken, or cannot be claimed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The worker was gone before it was looked at.
    #[error("the worker could not be observed")]
    Observe(#[source] io::Error),
    /// There is no socket for it.
    #[error(transparent)]
    AgentSocket(#[from] AgentSocketError),
    /// The ledger took no row.
    #[error("the ledger takes no rows")]
    Ledger(#[from] AppendError),
    /// The worker failed, or its cage does not hold.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The key was not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The key is not the one that its public file names.
    #[error(transparent)]
    PublicFile(#[from] PublicFileError),
    /// The notary did not certify the key.
    #[error("the notary did not certify the key")]
    Notary(#[from] Box<NotaryError>),
    /// There is no evidence for the key.
    #[error("no evidence could be collected for the key")]
    Attest(#[from] AttestError),
    /// There is no holder to release the key, or no use for one.
    #[error("a key that is released takes a holder who releases it")]
    NoHolder,
    /// The holder's challenge or answer is refused.
    #[error("the key was not received")]
    Release(#[from] ReleaseError),
    /// The request did not get to the holder, or the answer did not come back.
    #[error("the holder of the key could not be asked")]
    ReleaseChannel(#[source] ChannelError),
    /// There is no journal for the worker.
    #[error("the journal of requests could not be made")]
    Journal(#[source] io::Error),
    /// The public key's file could not be written.
    #[error("the public key could not be written")]
    PublicKeyFile(#[source] io::Error),
    /// A worker in a unit has to have a user of its own.
    #[error("a worker cannot run as user {uid} and group {gid}: it has to have its own")]
    NoOwnUser {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// A machine of the worker's own has no place for this.
    #[error("a worker in a machine of its own cannot have {what}")]
    NotInMachine {
        /// What.
        what: &'static str,
    },
    /// The key is a credential, and systemd did not start the worker.
    #[error("a key among a unit's credentials takes a worker that systemd starts")]
    NoCredential,
    /// This host does not promise what the operator requires.
    #[error(transparent)]
    Grades(#[from] UnmetGrades),
    /// Serving failed, and so did the end of the key.
    #[error("the workload failed to start, and its end failed as well")]
    End(#[source] Box<EndError>),
}

impl StartError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Entropy(_) => "start.entropy",
            Self::KeyFile(error) => error.code(),
            Self::Rotation(error) => error.code(),
            Self::KillSwitch(error) => error.code(),
            Self::OutputDir(error) => error.code(),
            Self::Signals(_) => "start.signals",
            Self::Claim(error) => error.code(),
            Self::Observe(_) => "start.observe",
            Self::AgentSocket(error) => error.code(),
            Self::Ledger(error) => error.code(),
            Self::Worker(error) => error.code(),
            Self::Load(error) => error.code(),
            Self::PublicFile(error) => error.code(),
            Self::Notary(error) => error.code(),
            Self::Attest(error) => error.code(),
            Self::NoHolder => "start.no-holder",
            Self::Release(error) => error.code(),
            Self::ReleaseChannel(_) => "release.channel",
            Self::Journal(_) => "start.journal",
            Self::PublicKeyFile(_) => "start.public-key-file",
            Self::NoOwnUser { .. } => "start.no-own-user",
            Self::NotInMachine { .. } => "start.not-in-machine",
            Self::NoCredential => "start.no-credential",
            Self::Grades(_) => "start.grades",
            Self::End(error) => error.code(),
        }
    }
}

/// Why a workload has no receipt. Its key is gone all the same, and the next
/// [`Launcher::recover`] writes one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndError {
    /// What was signed could not be put in the ledger.
    #[error("the signatures could not be recorded")]
    Record(#[from] RecordError),
    /// The notary did not sign.
    #[error("the notary did not sign the receipt")]
    Notary(#[from] Box<NotaryError>),
    /// The ledger did not take the receipt.
    #[error("the receipt could not be appended to the ledger")]
    Ledger(#[from] AppendError),
    /// The receipt is in the ledger; its claim could not be given up.
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

impl EndError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Record(error) => error.code(),
            Self::Notary(error) => error.code(),
            Self::Ledger(error) => error.code(),
            Self::Claim(error) => error.code(),
        }
    }
}

fn gone(result: io::Result<Gone>) -> lifecycle::Event {
    match result {
        Ok(gone) => lifecycle::Event::Gone(gone),
        Err(error) => lifecycle::Event::NotGone(error.to_string()),
    }
}

/// What ran, as every receipt of this launcher says.
pub(crate) fn software() -> Software {
    Software {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        worker: WorkerImage::digest(),
        signer: WorkerImage::signer_digest(),
    }
}

/// An error and its causes in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| StartError::Entropy(error.into()))?;
    Ok(bytes)
}

fn random_id() -> Result<WorkloadId, StartError> {
    let text = format!("w-{}", hex::encode(random::<8>()?));
    Ok(text.parse().expect("letters, digits and a hyphen"))
}

fn earlier(time: Timestamp, by: Duration) -> Timestamp {
    let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_unix_ms(time.unix_ms().saturating_sub(by))
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_unix_ms(time.unix_ms().saturating_add(by))
}

/// Records of signed files in one batch of the ledger: a row of one has about 2 KiB.
const RECORDS_PER_BATCH: usize = 64;

/// How long a signature may wait for its row.
const RECORD_INTERVAL: Duration = Duration::from_millis(250);

/// For a worker to finish a signature, wipe and read back.
const WIPE_TIMEOUT: Duration = Duration::from_secs(2);

/// For a worker that ends by itself.
const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// For a killed worker to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// By how much a verifier's clock may be behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_switch_that_is_set_already_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stop");

        KillSwitch::watch(&path).map(drop).unwrap();
        fs::write(&path, "").unwrap();

        assert_eq!(KillSwitch::watch(&path).map(drop).unwrap_err().code(), "kill-switch.set");
        let nowhere = directory.path().join("missing/stop");
        assert_eq!(KillSwitch::watch(&nowhere).map(drop).unwrap_err().code(), "kill-switch.watch");
    }

    #[test]
    fn ids_that_are_made_up_differ_and_parse() {
        assert_ne!(random_id().unwrap(), random_id().unwrap());
    }
}
