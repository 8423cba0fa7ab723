//! A key goes to another machine, or comes from one: both sides' shells around `evanesce-release`.
//!
//! ```text
//! STATE/releases/SESSION     an open challenge; its file goes before the request to it is judged
//! ```
//!
//! What passes through here is public or sealed: a worker of the holder's opens the key and seals
//! it, and the worker that asked opens that.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evanesce_evidence::EvidenceEnvelope;
use evanesce_ledger::shred::LedgerHead;
use evanesce_ledger::{AppendError, Event, NotaryKey, Received, Timestamp};
use evanesce_protocol::control::{Load, LoadSource, Loaded, Strength, TerminalUse};
use evanesce_protocol::custody::Seal;
use evanesce_protocol::evidence::{Nonce, Subject};
use evanesce_protocol::release::RELEASE_SEALED_BYTES;
use evanesce_protocol::{KeyOrigin, KeyUse, PublicKey, WorkloadId};
use evanesce_release::{
    Admitted, Answered, Approved, Asked, CHALLENGE_BYTES_MAX, Challenge, ReleaseError, Request,
};

use crate::attester;
use crate::cage::Expected;
use crate::custody::sealed_text;
use crate::events::EventName;
use crate::installation::{DirectoryError, prepare_private};
use crate::key_file::{KeyFile, KeyFileError};
use crate::launcher::Launcher;
use crate::notary::NotaryError;
use crate::plan::{AttestPlan, Degraded, Plan};
use crate::public_file::{PublicFile, PublicFileError, replace, sync_directory};
use crate::rotation::{self, RotateError};
use crate::secrets::Unlock;
use crate::signals::Signals;
use crate::worker::{LoadError, Signer, Worker, WorkerError};
use crate::worker_image::WorkerImage;
use crate::workload::StartError;

/// Challenges that may be open at one time: who asks for one is not known by then.
pub const CHALLENGES_OPEN_MAX: usize = 256;

/// Which key is released, and how its file is opened.
#[derive(Clone, Debug)]
pub struct ReleaseOrder<'a> {
    /// The key file.
    pub file: &'a Path,
    /// What opens it. Each release opens it anew.
    pub unlock: Unlock,
    /// Guarantees that the operator gives up.
    pub degraded: Vec<Degraded>,
    /// Its public half, as [`Launcher::released_key`] found it, for a file that no `FILE.pub` is
    /// beside: not to open the key for each challenge.
    pub public_key: Option<PublicKey>,
}

impl ReleaseOrder<'_> {
    fn strength(&self) -> Strength {
        let names: Vec<_> = self.degraded.iter().map(ToString::to_string).collect();
        Degraded::strength_of(&names)
    }
}

impl Launcher {
    /// Opens a session: a challenge to release the key of `order`, good for one request within
    /// `lifetime`.
    ///
    /// # Errors
    ///
    /// [`HolderError`] names the step.
    pub fn challenge(
        &self,
        order: &ReleaseOrder<'_>,
        lifetime: Duration,
    ) -> Result<Challenge, HolderError> {
        rotation::settle(self, order.file).map_err(Box::new)?;
        let public_key = self.released_key(order)?;
        let holder = match self.notary().public_key().map_err(Box::new)? {
            Some(key) => key,
            None => self.notary().init().map_err(Box::new)?.public_key,
        };
        let mut session = [0; Nonce::BYTES];
        getrandom::fill(&mut session).map_err(|error| HolderError::Entropy(error.into()))?;
        let session = Nonce::from_bytes(session);
        let now = self.clock.now();
        let challenge = Challenge::new(session, public_key, holder.id(), now, lifetime)?;
        self.open_challenges()?.add(&challenge, now)?;
        tracing::info!(event = %EventName::ReleaseChallenged, %session, key = %public_key);
        Ok(challenge)
    }

    /// Takes a request to an open challenge, which is used from here on, whatever comes of it.
    ///
    /// # Errors
    ///
    /// [`HolderError`]; [`ReleaseError`] says what is wrong with the request.
    pub fn admit(&self, line: &[u8]) -> Result<Admitted, HolderError> {
        let request = Request::from_text(line)?;
        let challenge = self.open_challenges()?.take(request.session())?;
        Ok(Admitted::of(request, challenge, self.clock.now())?)
    }

    /// Has a worker open the key and seal it, the notary sign that, and the ledger take it. The
    /// answer is the asker's to have afterwards.
    ///
    /// # Errors
    ///
    /// [`HolderError`] names the step. Nobody has a sealed key then.
    pub fn release(
        &self,
        approved: Approved,
        order: &ReleaseOrder<'_>,
    ) -> Result<Answered, HolderError> {
        rotation::settle(self, order.file).map_err(Box::new)?;
        let seal = Seal::Release { to: approved.release_key(), context: approved.context() };
        let loaded = self.load_once(order, Some(seal))?;
        let mut sealed = [0; RELEASE_SEALED_BYTES];
        hex::decode_to_slice(sealed_text(&loaded)?, &mut sealed)
            .map_err(|_| WorkerError::Unexpected { step: "sealing the key" })?;
        let now = self.clock.now();
        // A person may have taken long to type a passphrase.
        approved.check_time(now)?;
        let mut notary = self.notary().open(order.strength()).map_err(Box::new)?;
        let key = notary.key().id();
        let mut ledger = self.ledger.borrow_mut();
        let id = ledger.id();
        // Locked until the row is in: the release names the row before it.
        let mut writer = ledger.lock()?;
        let mut answered = None;
        writer.append_after(now, |last, head| {
            let ledger = LedgerHead { id, last, head };
            let made = approved
                .answer(sealed, (ledger, now), key, |bytes| notary.sign(bytes))
                .map_err(Box::new)?;
            let row = made.row.clone();
            answered = Some(made);
            Ok::<_, HolderError>(Event::Released(row))
        })?;
        drop(writer);
        notary.close().map_err(Box::new)?;
        let answered = answered.expect("the row that was appended holds it");
        let (session, key) = (answered.release.session, answered.release.public_key);
        tracing::info!(event = %EventName::KeyReleased, %session, %key);
        Ok(answered)
    }

    /// The public half of the key that is released: as `FILE.pub` names it, else as the order does,
    /// else as a worker derives it.
    ///
    /// # Errors
    ///
    /// [`HolderError`] where the file cannot be used.
    pub fn released_key(&self, order: &ReleaseOrder<'_>) -> Result<PublicKey, HolderError> {
        let named = PublicFile::of(order.file).read()?.unwrap_or_default();
        match (named.as_slice(), order.public_key) {
            ([one], _) => Ok(one.key),
            (_, Some(known)) => Ok(known),
            (_, None) => Ok(self.load_once(order, None)?.public_key),
        }
    }

    /// Loads the key into a worker of its own, which ends with it.
    fn load_once(
        &self,
        order: &ReleaseOrder<'_>,
        seal: Option<Seal>,
    ) -> Result<Loaded, HolderError> {
        let key = KeyFile::open(order.file)?;
        let strength = order.strength();
        let mut worker = Worker::<Signer>::spawn(&self.image, strength, TerminalUse::Possible)?;
        let signer_module = Some(WorkerImage::signer_digest());
        worker.await_cage(&Expected { signer_module, strength })?;
        let source = LoadSource::File { work_factor_max: order.unlock.work_factor_max };
        let load = Load { source, key_use: KeyUse::Message, seal };
        let loaded = worker.load(load, Some(&key), &order.unlock, None)?;
        worker.close()?;
        PublicFile::check(order.file, &loaded.public_key)?;
        Ok(loaded)
    }

    fn open_challenges(&self) -> Result<OpenChallenges, HolderError> {
        let directory = self.installation.releases();
        prepare_private(&directory)?;
        Ok(OpenChallenges { directory })
    }
}

/// The challenges that may still be answered, one file each.
struct OpenChallenges {
    directory: PathBuf,
}

impl OpenChallenges {
    /// Keeps a challenge, and lets go of those that are over.
    fn add(&self, challenge: &Challenge, now: Timestamp) -> Result<(), HolderError> {
        let fail = |source| HolderError::Store { path: self.directory.clone(), source };
        let mut open = 0;
        for entry in fs::read_dir(&self.directory).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let is_over = match Self::read(&path) {
                Ok(Some(challenge)) => challenge.check_time(now).is_err(),
                // What a writer left that died, or is writing at this moment.
                Ok(None) => false,
                // Nobody can answer to what cannot be read.
                Err(_) => true,
            };
            match is_over {
                true => remove_if_there(&path).map(drop).map_err(fail)?,
                false => open += 1,
            }
        }
        if open >= CHALLENGES_OPEN_MAX {
            return Err(HolderError::TooManyOpen);
        }
        let path = self.path(challenge.session());
        replace(&path, challenge.to_text().as_bytes(), 0o600)
            .map_err(|source| HolderError::Store { path, source })
    }

    /// Gives a challenge up, for the one caller that gets it.
    fn take(&self, session: Nonce) -> Result<Challenge, HolderError> {
        let path = self.path(session);
        let fail = |source| HolderError::Store { path: path.clone(), source };
        let found = match Self::read(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fail(error)),
        };
        // Of several that read it, one removes it; and no power failure brings it back.
        let is_ours = remove_if_there(&path).map_err(fail)?;
        sync_directory(&path).map_err(fail)?;
        match found.filter(|challenge| is_ours && challenge.session() == session) {
            Some(challenge) => Ok(challenge),
            None => Err(ReleaseError::NotOpen { session }.into()),
        }
    }

    fn path(&self, session: Nonce) -> PathBuf {
        self.directory.join(session.to_string())
    }

    /// The challenge in a file; `None` for a file that is none of them.
    fn read(path: &Path) -> io::Result<Option<Challenge>> {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_none_or(|name| name.parse::<Nonce>().is_err()) {
            return Ok(None);
        }
        if fs::symlink_metadata(path)?.len() > CHALLENGE_BYTES_MAX as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let line = fs::read(path)?;
        Challenge::from_text(&line).map(Some).map_err(|error| io::Error::other(error.to_string()))
    }
}

/// Removes a file; `false` where somebody else did.
fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// How a key is received for a workload.
#[derive(Debug)]
pub struct Receiving<'c> {
    /// The challenge that was accepted.
    pub asked: Asked,
    /// How evidence for it is collected. The nonce is the challenge's.
    pub attest: AttestPlan,
    /// How the request gets to the holder, and the answer back.
    pub channel: &'c mut dyn ReleaseChannel,
}

/// The way to a holder and back.
pub trait ReleaseChannel: std::fmt::Debug {
    /// Adds endorsements that are at hand to evidence that was collected.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    fn endorse(&mut self, evidence: &mut EvidenceEnvelope) -> Result<(), ChannelError>;

    /// Hands over the request and waits for what comes back, at most until `expires`. Calls
    /// `is_wanted` several times a second, and gives up where it says no.
    ///
    /// # Errors
    ///
    /// Where there was no way, or nothing came in time.
    fn exchange(
        &mut self,
        request: &str,
        expires: Timestamp,
        is_wanted: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<u8>, ChannelError>;
}

/// Why a request or its answer did not get through, in the words of the channel.
pub type ChannelError = Box<dyn Error + Send + Sync>;

/// Has the key of a workload released to its worker. The cage was checked, nothing is loaded yet.
pub(crate) fn receive(
    launcher: &Launcher,
    (plan, id): (&Plan, &WorkloadId),
    worker: &mut Worker<Signer>,
    notary: &NotaryKey,
    receiving: Receiving<'_>,
    signals: &mut Signals,
) -> Result<(Loaded, Received), StartError> {
    let Receiving { asked, attest, channel } = receiving;
    let public_key = asked.public_key();
    let release_key = worker.offer_release(public_key)?;
    let subject = Subject::KeyRelease { public_key, release_key };
    let configuration = attester::configuration_of(plan, id, KeyOrigin::Released);
    let attester = worker.attester();
    let nonce = asked.nonce();
    let mut evidence =
        attester::collect(&attester, &attest, subject, nonce, notary, &configuration)?;
    tracing::info!(event = %EventName::EvidenceCollected, workload = %id, evidence = %evidence.digest());
    channel.endorse(&mut evidence).map_err(StartError::ReleaseChannel)?;
    let pending = asked.request(evidence)?;
    let mut interrupted = None;
    let answer = channel.exchange(pending.to_text(), pending.expires(), &mut || {
        interrupted = interrupted.or(signals.ending());
        interrupted.is_none()
    });
    if let Some(signal) = interrupted {
        return Err(LoadError::Interrupted { signal }.into());
    }
    let answer = answer.map_err(StartError::ReleaseChannel)?;
    let accepted = pending.receive(&answer, launcher.clock.now())?;
    // Whatever the worker makes of it: this is what came.
    launcher.append(id, [Event::Received(accepted.received.clone())])?;
    let source =
        LoadSource::Released { context: accepted.context, sealed: accepted.sealed.to_vec() };
    let load = Load { source, key_use: plan.grants.key_use(), seal: None };
    let loaded = worker.load(load, None, &plan.unlock, Some(signals))?;
    tracing::info!(event = %EventName::KeyReceived, workload = %id, key = %public_key);
    Ok((loaded, accepted.received))
}

/// Why a holder issued no challenge, or did not answer a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HolderError {
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes")]
    Entropy(#[source] io::Error),
    /// The request is refused.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The directory of challenges cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A challenge could not be kept or given up.
    #[error("the open challenge {} could not be used", path.display())]
    Store {
        /// Its file, or their directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There are too many that nobody has answered.
    #[error("{CHALLENGES_OPEN_MAX} challenges are open already")]
    TooManyOpen,
    /// A rotation of the key was interrupted, and could not be ended.
    #[error("the key's rotation was interrupted and could not be ended")]
    Rotation(#[from] Box<RotateError>),
    /// The key file cannot be handed to a worker.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The key is not the one that its public file names.
    #[error(transparent)]
    PublicFile(#[from] PublicFileError),
    /// The worker failed, or refused the key.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The key was not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The notary did not sign.
    #[error("the notary did not sign the release")]
    Notary(#[from] Box<NotaryError>),
    /// The ledger took no row.
    #[error("the release could not be put in the ledger")]
    Ledger(#[from] AppendError),
}

impl HolderError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Entropy(_) => "start.entropy",
            Self::Release(error) => error.code(),
            Self::Directory(error) => error.code(),
            Self::Store { .. } => "release.store",
            Self::TooManyOpen => "release.too-many-open",
            Self::Rotation(error) => error.code(),
            Self::KeyFile(error) => error.code(),
            Self::PublicFile(error) => error.code(),
            Self::Worker(error) => error.code(),
            Self::Load(error) => error.code(),
            Self::Notary(error) => error.code(),
            Self::Ledger(error) => error.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(number: u8, issued_ms: u64) -> Challenge {
        let session = Nonce::from_bytes([number; 32]);
        let key = PublicKey::from_bytes([2; 32]);
        let holder = format!("sha256:{}", "03".repeat(32)).parse().unwrap();
        let issued = Timestamp::from_unix_ms(issued_ms);
        Challenge::new(session, key, holder, issued, Duration::from_secs(60)).unwrap()
    }

    fn store() -> (tempfile::TempDir, OpenChallenges) {
        let directory = tempfile::tempdir().unwrap();
        let open = OpenChallenges { directory: directory.path().to_owned() };
        (directory, open)
    }

    fn code<T: std::fmt::Debug>(result: Result<T, HolderError>) -> &'static str {
        result.unwrap_err().code()
    }

    #[test]
    fn a_challenge_is_given_up_once_and_never_again() {
        let (_directory, open) = store();
        let (one, other) = (challenge(1, 1000), challenge(2, 1000));
        open.add(&one, Timestamp::from_unix_ms(1000)).unwrap();
        open.add(&other, Timestamp::from_unix_ms(1000)).unwrap();

        assert_eq!(open.take(one.session()).unwrap(), one);
        assert_eq!(code(open.take(one.session())), "release.not-open");
        assert_eq!(code(open.take(Nonce::from_bytes([9; 32]))), "release.not-open");
        assert_eq!(open.take(other.session()).unwrap(), other);
    }

    #[test]
    fn challenges_that_are_over_make_room_and_open_ones_are_limited() {
        let (directory, open) = store();
        let now = Timestamp::from_unix_ms(1000);
        for number in 0..=255 {
            open.add(&challenge(number, 1000), now).unwrap();
        }

        let another = challenge(7, 1_000_000);
        assert_eq!(code(open.add(&another, now)), "release.too-many-open");
        open.add(&another, Timestamp::from_unix_ms(1_000_000)).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_challenge_under_anothers_name_is_none() {
        let (directory, open) = store();
        let one = challenge(1, 1000);
        fs::write(directory.path().join("22".repeat(32)), one.to_text()).unwrap();

        assert_eq!(code(open.take(Nonce::from_bytes([0x22; 32]))), "release.not-open");
    }
}
