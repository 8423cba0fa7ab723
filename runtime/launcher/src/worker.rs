//! A worker process and the launcher's end of its control channel.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use evanesce_protocol::channel::{Channel, ReceiveError, SendError};
use evanesce_protocol::control::{
    CageReport, Load, Loaded, NotaryOrder, NotaryReport, Refused, Role, SignerOrder, SignerReport,
    Strength, TerminalUse,
};
use evanesce_protocol::custody::KeyFileInfo;
use evanesce_protocol::evidence::ReleaseKey;
use evanesce_protocol::rotation::Handover;
use evanesce_protocol::{PublicKey, WorkloadId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::attester::Attester;
use crate::cage::{self, CageChecked, CageFaults, Expected};
use crate::command::ENDING;
use crate::key_file::KeyFile;
use crate::machine::{self, Machine, MachineError, MachinePlan};
use crate::process::{EndStatus, Gone, HeldProcess};
use crate::secrets::{OpenSecret, SecretError, Unlock};
use crate::signals::Signals;
use crate::systemd::SystemdError;
use crate::systemd::bus::{Connecting, Unit};
use crate::systemd::credential::Credential;
use crate::systemd::unit::{UnitPlan, UnitUser};
use crate::systemd::worker_file;
use crate::worker_image::SealedImage;

/// The orders and reports of one role.
pub(crate) trait Conversation {
    /// The role.
    const ROLE: Role;
    /// What the launcher says.
    type Order: Serialize;
    /// What the worker says.
    type Report: DeserializeOwned;

    /// Takes out of a report what every role can report.
    fn common(report: Self::Report) -> Report<Self::Report>;
}

/// A report, with what every role can report told apart.
pub(crate) enum Report<R> {
    /// See [`SignerReport::Caged`].
    Caged(CageReport),
    /// See [`SignerReport::Wiped`].
    Wiped,
    /// See [`SignerReport::Refused`].
    Refused(Refused),
    /// What only this role reports.
    Own(R),
}

/// The conversation with a signer.
#[derive(Debug)]
pub(crate) enum Signer {}

impl Conversation for Signer {
    const ROLE: Role = Role::Signer;
    type Order = SignerOrder;
    type Report = SignerReport;

    fn common(report: SignerReport) -> Report<SignerReport> {
        match report {
            SignerReport::Caged(report) => Report::Caged(report),
            SignerReport::Wiped(_) => Report::Wiped,
            SignerReport::Refused(refused) => Report::Refused(refused),
            own @ (SignerReport::Inspected(_)
            | SignerReport::Offered(_)
            | SignerReport::Wanted(_)
            | SignerReport::Loaded(_)
            | SignerReport::Serving
            | SignerReport::Endorsed { .. }) => Report::Own(own),
        }
    }
}

/// The conversation with a notary.
#[derive(Debug)]
pub(crate) enum NotaryRole {}

impl Conversation for NotaryRole {
    const ROLE: Role = Role::Notary;
    type Order = NotaryOrder;
    type Report = NotaryReport;

    fn common(report: NotaryReport) -> Report<NotaryReport> {
        match report {
            NotaryReport::Caged(report) => Report::Caged(report),
            NotaryReport::Wiped(_) => Report::Wiped,
            NotaryReport::Refused(refused) => Report::Refused(refused),
            own @ (NotaryReport::Loaded { .. } | NotaryReport::Signed { .. }) => Report::Own(own),
        }
    }
}

/// A worker that runs, of one role. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Worker<C> {
    pub(crate) process: HeldProcess,
    pub(crate) channel: Channel,
    /// Its unit, where systemd started it.
    unit: Option<Unit>,
    /// Its machine, where it has one for itself: the process is the machine's then.
    machine: Option<Machine>,
    role: std::marker::PhantomData<C>,
}

/// A worker that systemd was asked to start.
pub(crate) struct StartingUnit<C> {
    unit: Unit,
    channel: Channel,
    role: std::marker::PhantomData<C>,
}

/// What a worker that systemd starts depends on.
pub(crate) struct UnitTerms {
    pub(crate) workload: WorkloadId,
    pub(crate) user: UnitUser,
    pub(crate) ttl: Duration,
    pub(crate) credentials: Vec<Credential>,
}

impl<C: Conversation> StartingUnit<C> {
    /// Asks systemd to start a worker and does not wait for it.
    pub(crate) fn begin(
        connecting: Connecting,
        strength: Strength,
        terms: UnitTerms,
    ) -> Result<Self, WorkerError> {
        let worker = worker_file::provide().map_err(SystemdError::from)?;
        let (channel, theirs) = Channel::pair().map_err(WorkerError::Spawn)?;
        let UnitTerms { workload, user, ttl, credentials } = terms;
        // systemd has each of its processes lead a session: a terminal can be handed to it.
        let terminal = TerminalUse::Never;
        let arguments = [C::ROLE.argument(), strength.argument(), terminal.argument()];
        let arguments = arguments.map(str::to_owned).to_vec();
        let plan = UnitPlan { workload, worker, arguments, user, ttl, credentials };
        let unit = Unit::start(connecting, plan, theirs)?;
        Ok(Self { unit, channel, role: std::marker::PhantomData })
    }

    /// Waits until systemd has started it.
    pub(crate) fn ready(self) -> Result<Worker<C>, WorkerError> {
        let process = self.unit.process(self.channel.as_fd())?;
        Ok(Worker {
            process,
            channel: self.channel,
            unit: Some(self.unit),
            machine: None,
            role: self.role,
        })
    }
}

impl<C: Conversation> Worker<C> {
    /// Starts a worker and does not wait for it: two can start side by side.
    pub(crate) fn spawn(
        image: &SealedImage,
        strength: Strength,
        terminal: TerminalUse,
    ) -> Result<Self, WorkerError> {
        let (channel, theirs) = Channel::pair().map_err(WorkerError::Spawn)?;
        let mut command = Command::new(image.path());
        command
            .arg0("evanesce-worker")
            .args([C::ROLE.argument(), strength.argument(), terminal.argument()].map(OsStr::new))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // The place of a broken invariant, the one thing a worker ever writes there.
            .stderr(Stdio::inherit());
        // Signals of the terminal are for the command, not for the worker. One that may be handed
        // the terminal makes a session of its own, and could not if it led a process group.
        if terminal == TerminalUse::Never {
            command.process_group(0);
        }
        let process = HeldProcess::spawn_shielded(&mut command).map_err(WorkerError::Spawn)?;
        Ok(Self { process, channel, unit: None, machine: None, role: std::marker::PhantomData })
    }

    /// Waits for the cage to be closed, and checks it, its unit's settings included.
    pub(crate) fn await_cage(&mut self, expected: &Expected) -> Result<CageChecked, WorkerError> {
        let timeout = self.machine.as_ref().map_or(START_TIMEOUT, |_| machine::BOOT_TIMEOUT);
        match C::common(self.receive("closing its cage", timeout)?) {
            Report::Caged(report) => {
                let outside = match &self.machine {
                    Some(machine) => machine.outside(),
                    None => cage::Outside::observe(self.process.pid_u32()),
                };
                let outside = outside.map_err(|source| WorkerError::Observe { source })?;
                let cage = cage::check(&report, &outside, expected)?;
                match (&self.unit, &self.machine) {
                    (_, Some(machine)) => Ok(cage.in_machine(machine.statement())),
                    (Some(unit), None) => Ok(cage.and(unit.check(self.process.pid_u32())?)),
                    (None, None) => Ok(cage),
                }
            }
            Report::Refused(refused) => Err(self.refused(refused)),
            Report::Wiped | Report::Own(_) => {
                Err(WorkerError::Unexpected { step: "closing its cage" })
            }
        }
    }

    /// Kills the worker and waits until it is gone.
    pub(crate) fn kill(&mut self, timeout: Duration) -> io::Result<Gone> {
        self.process.kill(timeout).map(|gone| self.tell_end(gone))
    }

    /// Waits until the worker is gone.
    pub(crate) fn await_end(&mut self, timeout: Duration) -> io::Result<Gone> {
        self.process.await_end(timeout).map(|gone| self.tell_end(gone))
    }

    /// How long it may take to wipe.
    pub(crate) fn wipe_timeout(&self, without_machine: Duration) -> Duration {
        self.machine.as_ref().map_or(without_machine, |_| machine::WIPE_TIMEOUT)
    }

    /// The machine that it has for itself.
    pub(crate) fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref()
    }

    /// Who vouches for its key.
    pub(crate) fn attester(&self) -> Attester {
        self.machine
            .as_ref()
            .map_or(Attester::Here, |machine| Attester::OfMachine(machine.attester()))
    }

    /// The unit that it runs in, where systemd started it.
    pub(crate) fn unit_name(&self) -> Option<String> {
        self.unit.as_ref().map(Unit::name)
    }

    /// Has systemd forget the unit of a worker that is gone.
    pub(crate) fn release_unit(&mut self) {
        if let Some(unit) = self.unit.take() {
            unit.release();
        }
    }

    fn tell_end(&mut self, gone: Gone) -> Gone {
        // Whatever ended it: nothing maps its memory any more.
        if let Some(machine) = &mut self.machine {
            machine.clear();
        }
        match (&self.unit, gone.status()) {
            (Some(unit), None) => unit.see_end(gone),
            _ => gone,
        }
    }

    /// Sends an order.
    pub(crate) fn order(
        &mut self,
        order: &C::Order,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), WorkerError> {
        match self.channel.send(order, descriptors) {
            Ok(()) => Ok(()),
            Err(SendError::Send(source)) => {
                Err(self.end_in_mid_sentence(WorkerError::Send(SendError::Send(source))))
            }
            Err(error) => Err(WorkerError::Send(error)),
        }
    }

    /// Waits for the next report, whatever it is.
    pub(crate) fn receive(
        &mut self,
        step: &'static str,
        timeout: Duration,
    ) -> Result<C::Report, WorkerError> {
        match self.channel.receive_within::<C::Report>(timeout) {
            Ok(received) => Ok(received.message),
            Err(ReceiveError::TimedOut) => Err(WorkerError::Silent { step }),
            Err(ReceiveError::Closed) => {
                Err(self.end_in_mid_sentence(WorkerError::Receive(ReceiveError::Closed)))
            }
            Err(error) => Err(WorkerError::Receive(error)),
        }
    }

    /// Waits for a report of this role alone; a refusal or the worker's end is an error.
    pub(crate) fn answer(
        &mut self,
        step: &'static str,
        timeout: Duration,
    ) -> Result<C::Report, WorkerError> {
        match C::common(self.receive(step, timeout)?) {
            Report::Own(own) => Ok(own),
            Report::Refused(refused) => Err(self.refused(refused)),
            Report::Caged(_) | Report::Wiped => Err(WorkerError::Unexpected { step }),
        }
    }

    fn refused(&self, refused: Refused) -> WorkerError {
        WorkerError::Refused(refused)
    }

    /// A lost channel means that the worker died: says how, where that can be seen.
    fn end_in_mid_sentence(&mut self, otherwise: WorkerError) -> WorkerError {
        match self.await_end(END_TIMEOUT) {
            Ok(gone) => gone.status().map_or(otherwise, |status| match &self.machine {
                Some(machine) => WorkerError::MachineEnded { status, said: machine.last_words() },
                None => WorkerError::Died { status },
            }),
            Err(_) => otherwise,
        }
    }
}

impl Worker<Signer> {
    /// Starts a machine with a worker in it, and does not wait for it.
    pub(crate) fn spawn_in_machine(
        plan: &MachinePlan,
        strength: Strength,
    ) -> Result<Self, WorkerError> {
        let (machine, process, channel) = Machine::start(plan, strength)?;
        let machine = Some(machine);
        Ok(Self { process, channel, unit: None, machine, role: std::marker::PhantomData })
    }

    /// Has a key loaded, and brings the worker the secrets that it asks for on the way. `signals`
    /// are looked at meanwhile, since a person may take long: one that asks to end ends this.
    pub(crate) fn load(
        &mut self,
        load: Load,
        key_file: Option<&KeyFile>,
        unlock: &Unlock,
        mut signals: Option<&mut Signals>,
    ) -> Result<Loaded, LoadError> {
        let descriptors: Vec<_> = key_file.iter().map(|key| key.file.as_fd()).collect();
        let name = key_file.map_or(Path::new("the new key"), |key| key.path.as_path());
        self.order(&SignerOrder::Load(load), &descriptors)?;
        let mut timeout = START_TIMEOUT;
        // Dropped when the key is loaded or refused, which has the terminal show again what is typed.
        let mut _open: Option<OpenSecret> = None;
        loop {
            self.await_report(signals.as_deref_mut(), timeout)?;
            match self.answer("loading the key", END_TIMEOUT)? {
                SignerReport::Loaded(loaded) => return Ok(loaded),
                SignerReport::Wanted(wanted) => {
                    let secret = unlock.open(wanted, name)?;
                    self.order(
                        &SignerOrder::Secret(secret.source.clone()),
                        &[secret.file.as_fd()],
                    )?;
                    timeout = UNLOCK_TIMEOUT;
                    _open = Some(secret);
                }
                _ => return Err(WorkerError::Unexpected { step: "loading the key" }.into()),
            }
        }
    }

    /// Waits until there is a report to be read, or a signal that asks to end.
    fn await_report(
        &self,
        mut signals: Option<&mut Signals>,
        timeout: Duration,
    ) -> Result<(), LoadError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("some minutes");
            let mut watched = vec![PollFd::new(&self.channel, PollFlags::IN)];
            watched.extend(signals.iter().map(|signals| PollFd::new(*signals, PollFlags::IN)));
            match poll(&mut watched, Some(&left)) {
                Ok(0) => return Err(WorkerError::Silent { step: "loading the key" }.into()),
                Ok(_) if !watched[0].revents().is_empty() => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(LoadError::Wait(errno.into())),
            }
            drop(watched);
            for arrived in signals.iter_mut().flat_map(|signals| signals.pending()) {
                if ENDING.contains(&arrived.signal) {
                    return Err(LoadError::Interrupted { signal: arrived.signal.as_raw() });
                }
            }
        }
    }

    /// Asks what a key file is.
    pub(crate) fn inspect(
        &mut self,
        file: BorrowedFd<'_>,
    ) -> Result<Result<KeyFileInfo, Refused>, WorkerError> {
        self.order(&SignerOrder::Inspect, &[file])?;
        match self.answer("looking at a key file", START_TIMEOUT)? {
            SignerReport::Inspected(found) => Ok(found),
            _ => Err(WorkerError::Unexpected { step: "looking at a key file" }),
        }
    }

    /// Has a release key made, that the private half of `key` may be sealed to.
    pub(crate) fn offer_release(&mut self, key: PublicKey) -> Result<ReleaseKey, WorkerError> {
        self.order(&SignerOrder::OfferRelease(key), &[])?;
        match self.answer("making a release key", START_TIMEOUT)? {
            SignerReport::Offered(release_key) => Ok(release_key),
            _ => Err(WorkerError::Unexpected { step: "making a release key" }),
        }
    }

    /// Has the key sign a handover.
    pub(crate) fn endorse(&mut self, handover: &Handover) -> Result<[u8; 64], WorkerError> {
        let unexpected = || WorkerError::Unexpected { step: "signing the rotation" };
        self.order(&SignerOrder::Endorse(handover.clone()), &[])?;
        match self.answer("signing the rotation", START_TIMEOUT)? {
            SignerReport::Endorsed { signature } => signature.try_into().map_err(|_| unexpected()),
            _ => Err(unexpected()),
        }
    }

    /// Ends a worker that has no key.
    pub(crate) fn discard(mut self) -> Result<(), WorkerError> {
        self.kill(END_TIMEOUT).map_err(WorkerError::Kill)?;
        Ok(())
    }

    /// Has the worker wipe its key, and ends it.
    pub(crate) fn close(mut self) -> Result<(), WorkerError> {
        self.order(&SignerOrder::Wipe, &[])?;
        match self.receive("wiping the key", END_TIMEOUT)? {
            SignerReport::Wiped(_) => {}
            _ => return Err(WorkerError::Unexpected { step: "wiping the key" }),
        }
        self.kill(END_TIMEOUT).map_err(WorkerError::Kill)?;
        Ok(())
    }
}

impl<C> AsFd for Worker<C> {
    /// The control channel.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Why a key was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The worker failed, or refused the key.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// What opens the key file could not be brought to the worker.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A signal came that asks to end.
    #[error("signal {signal} came before the key was loaded")]
    Interrupted {
        /// Its number.
        signal: i32,
    },
    /// Waiting failed.
    #[error("the worker could not be waited for")]
    Wait(#[source] io::Error),
}

impl LoadError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Worker(error) => error.code(),
            Self::Secret(error) => error.code(),
            Self::Interrupted { .. } => "load.interrupted",
            Self::Wait(_) => "load.wait",
        }
    }
}

/// Why a worker could not be had, or was lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// It could not be started.
    #[error("the worker could not be started")]
    Spawn(#[source] io::Error),
    /// systemd did not start it as it was asked to.
    #[error("systemd did not start the worker as it has to be")]
    Systemd(#[from] SystemdError),
    /// Its cage could not be looked at from outside.
    #[error("the worker's cage could not be observed")]
    Observe {
        /// What `/proc` said.
        source: io::Error,
    },
    /// Its cage does not hold.
    #[error("the worker's cage does not hold")]
    Cage(#[from] CageFaults),
    /// It said why it cannot go on.
    #[error(transparent)]
    Refused(Refused),
    /// It ended without a word.
    #[error("the worker {status}")]
    Died {
        /// How.
        status: EndStatus,
    },
    /// It cannot have a machine.
    #[error("the worker's machine could not be started")]
    Machine(#[from] MachineError),
    /// Its machine ended.
    #[error("the worker's machine {status}; the last that it said is: {said}")]
    MachineEnded {
        /// How.
        status: EndStatus,
        /// The last line of QEMU or of its console.
        said: String,
    },
    /// It did not answer in time.
    #[error("the worker did not answer in time while {step}")]
    Silent {
        /// What it was doing.
        step: &'static str,
    },
    /// It reported something that does not belong there.
    #[error("the worker reported out of turn while {step}")]
    Unexpected {
        /// What it was to do.
        step: &'static str,
    },
    /// It could not be ended.
    #[error("the worker could not be ended")]
    Kill(#[source] io::Error),
    /// An order could not be sent.
    #[error("the worker takes no orders")]
    Send(#[source] SendError),
    /// A report could not be received.
    #[error("the worker's report cannot be read")]
    Receive(#[source] ReceiveError),
}

impl WorkerError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Spawn(_) => "worker.spawn",
            Self::Systemd(error) => error.code(),
            Self::Observe { .. } => "worker.observe",
            Self::Cage(_) => "worker.cage-check",
            Self::Refused(refused) => refused.code(),
            Self::Died { .. } => "worker.died",
            Self::Machine(error) => error.code(),
            Self::MachineEnded { .. } => "machine.ended",
            Self::Silent { .. } => "worker.silent",
            Self::Unexpected { .. } => "worker.unexpected",
            Self::Kill(_) => "worker.kill",
            Self::Send(_) => "worker.send",
            Self::Receive(_) => "worker.receive",
        }
    }
}

/// Generous: the same steps take fifteen times as long in an emulated machine.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(20);

/// For a person to type a passphrase, and for the work that it then takes.
const UNLOCK_TIMEOUT: Duration = Duration::from_secs(400);

/// For a worker that has closed its channel to end.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(2);
