//! The notary: the key that certifies workloads' keys and signs their receipts.
//!
//! ```text
//! STATE/notary/key.pem       the private key, PKCS#8, 0600; written and read by workers alone
//! STATE/notary/notary.pem    the public key
//! STATE/notary/notary.pub    the same, one line as OpenSSH has it
//! STATE/notary/retired/      public keys of notaries before it, by name
//! ```
//!
//! While it signs, the key is in a worker of its own, caged like any other. A new key becomes the
//! notary in three steps that can be taken up after a crash: key and public key are written under
//! names ending in `.next`, the ledger gets its row, the files get their names.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evanesce_ledger::notary::{NotaryRotation, ParseNotaryKeyError, ParseSignatureError};
use evanesce_ledger::receipt::{Apart, Separation};
use evanesce_ledger::row::NotaryRow;
use evanesce_ledger::{
    AppendError, Envelope, Event, NewRow, NotaryKey, NotaryKeyId, P256Signature, ReadError, Reader,
};
use evanesce_protocol::control::{Backing, NotaryOrder, NotaryReport, Strength, TerminalUse};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use crate::cage::Expected;
use crate::certificate;
use crate::events::EventName;
use crate::installation::{DirectoryError, prepare_private};
use crate::key_file::{self, KeyFileError};
use crate::launcher::Launcher;
use crate::worker::{NotaryRole, START_TIMEOUT, Worker, WorkerError};

/// An installation's notary.
#[derive(Debug)]
pub struct Notary<'a> {
    launcher: &'a Launcher,
    directory: PathBuf,
}

/// A notary as it may be shown to anyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotaryInfo {
    /// The key's name in receipts.
    pub key_id: NotaryKeyId,
    /// The key.
    pub public_key: NotaryKey,
    /// The key as one OpenSSH line, without a newline.
    pub public_key_line: String,
    /// What `allowed_signers` needs to trust every key that this notary certified.
    pub allowed_signers_line: String,
    /// The names of the keys before it, sorted.
    pub retired: Vec<NotaryKeyId>,
}

impl<'a> Notary<'a> {
    pub(crate) fn new(launcher: &'a Launcher) -> Self {
        Self { launcher, directory: launcher.installation.notary() }
    }

    /// The notary's public side; `None` where there is none yet.
    ///
    /// # Errors
    ///
    /// [`NotaryError`] where its files cannot be read.
    pub fn show(&self) -> Result<Option<NotaryInfo>, NotaryError> {
        let _lock = self.lock(FlockOperation::LockShared)?;
        self.public_key()?.map(|key| self.info(key)).transpose()
    }

    /// The notary's public side; the key is made where there is none yet.
    ///
    /// # Errors
    ///
    /// [`NotaryError`] names the step.
    pub fn init(&self) -> Result<NotaryInfo, NotaryError> {
        let session = self.open(NO_TERMS)?;
        let key = session.key.clone();
        session.close()?;
        self.info(key)
    }

    /// Replaces the key by a new one, which the old one vouches for in the ledger.
    ///
    /// # Errors
    ///
    /// [`NotaryError`] names the step. Either the old key or the new one is the notary then.
    pub fn rotate(&self, reason: &str) -> Result<NotaryInfo, NotaryError> {
        let lock = self.lock(FlockOperation::LockExclusive)?;
        self.settle()?;
        let mut old = match self.public_key()? {
            Some(key) => self.spawn_for(key, NO_TERMS)?.ready()?,
            None => return Err(NotaryError::None),
        };
        let new = self.create_next(NO_TERMS)?;
        let rotation = NotaryRotation {
            ledger: self.launcher.ledger_id(),
            retired: old.key.id(),
            successor: new.key.clone(),
            at: self.launcher.clock.now(),
            reason: reason.to_owned(),
        };
        let rotation = rotation.sign(|bytes| old.sign(bytes))?;
        self.append(&new.key, Some(rotation))?;
        self.finish(&new.key)?;
        drop(lock);
        old.close()?;
        let key = new.key.clone();
        new.close()?;
        self.info(key)
    }

    /// Brings the key into a worker, for what is to be signed with it.
    ///
    /// # Errors
    ///
    /// [`NotaryError`] names the step.
    pub fn session(&self) -> Result<NotarySession, NotaryError> {
        self.open(NO_TERMS).map(NotarySession::of)
    }

    /// The notary's key; `None` where there is none yet.
    ///
    /// # Errors
    ///
    /// [`NotaryError`] where its file cannot be read.
    pub fn public_key(&self) -> Result<Option<NotaryKey>, NotaryError> {
        self.read_public_key(PUBLIC)
    }

    /// Brings the key into a worker and waits until it can sign.
    pub(crate) fn open(&self, strength: Strength) -> Result<Session, NotaryError> {
        self.spawn(strength)?.ready()
    }

    /// Starts a worker for the key and does not wait for it. The first use makes the key.
    pub(crate) fn spawn(&self, strength: Strength) -> Result<Starting, NotaryError> {
        let lock = self.lock(FlockOperation::LockShared)?;
        if !self.directory.join(PUBLIC_NEXT).exists()
            && let Some(key) = self.public_key()?
        {
            return self.spawn_for(key, strength);
        }
        drop(lock);
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        self.settle()?;
        // Another launcher may have been faster.
        if let Some(key) = self.public_key()? {
            return self.spawn_for(key, strength);
        }
        let session = self.create_next(strength)?;
        self.append(&session.key, None)?;
        self.finish(&session.key)?;
        Ok(Starting::Ready(session))
    }

    fn spawn_for(&self, key: NotaryKey, strength: Strength) -> Result<Starting, NotaryError> {
        let file = key_file::open(&self.directory.join(PRIVATE))?;
        let worker = Worker::spawn(&self.launcher.image, strength, TerminalUse::Never)?;
        Ok(Starting::Spawned { worker, strength, file, key })
    }

    /// Has a worker make a key under its `.next` names.
    fn create_next(&self, strength: Strength) -> Result<Session, NotaryError> {
        let mut worker = Worker::spawn(&self.launcher.image, strength, TerminalUse::Never)?;
        let path = self.directory.join(PRIVATE_NEXT);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| NotaryError::io(&path, source))?;
        let memory = worker.await_cage(&expected(strength))?.backing();
        worker.order(&NotaryOrder::Create, &[file.as_fd()])?;
        let key = loaded_key(&mut worker)?;
        file.sync_all().map_err(|source| NotaryError::io(&path, source))?;
        self.write(PUBLIC_NEXT, &key.to_pem())?;
        Ok(Session { worker, key, memory })
    }

    /// Appends the row from which on the key is known.
    fn append(&self, key: &NotaryKey, rotation: Option<Envelope>) -> Result<(), NotaryError> {
        let row = NotaryRow { key_id: key.id(), public_key: key.clone(), rotation };
        let row = NewRow::of_ledger(self.launcher.clock.now(), Event::Notary(row));
        self.launcher.ledger.borrow_mut().append(&[row])?;
        tracing::info!(event = %EventName::NotaryKey, key = %key.id());
        Ok(())
    }

    /// Gives the files of a key that is in the ledger their names. Can be repeated.
    fn finish(&self, key: &NotaryKey) -> Result<(), NotaryError> {
        if let Some(old) = self.public_key()?.filter(|old| old != key) {
            let retired = self.directory.join(RETIRED);
            prepare_private(&retired)?;
            self.write(&format!("{RETIRED}/{}.pem", old.id().digest().to_hex()), &old.to_pem())?;
        }
        self.rename_if_there(PRIVATE_NEXT, PRIVATE)?;
        self.write(PUBLIC_LINE, &format!("{}\n", certificate::notary_key_line(key)))?;
        self.rename_if_there(PUBLIC_NEXT, PUBLIC)?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| NotaryError::io(&self.directory, source))
    }

    /// Ends what a launcher that died in the middle had begun: forwards where the ledger has the
    /// new key, else back.
    fn settle(&self) -> Result<(), NotaryError> {
        if let Some(next) = self.read_public_key(PUBLIC_NEXT)?
            && self.is_in_ledger(next.id())?
        {
            return self.finish(&next);
        }
        for name in [PRIVATE_NEXT, PUBLIC_NEXT] {
            let path = self.directory.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(NotaryError::io(&path, error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn is_in_ledger(&self, key: NotaryKeyId) -> Result<bool, NotaryError> {
        for row in Reader::open(&self.launcher.installation.ledger())?.rows() {
            if matches!(row?.event, Event::Notary(row) if row.key_id == key) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn info(&self, public_key: NotaryKey) -> Result<NotaryInfo, NotaryError> {
        let line = certificate::notary_key_line(&public_key);
        let retired = self.directory.join(RETIRED);
        let mut names = Vec::new();
        if retired.exists() {
            let entries =
                fs::read_dir(&retired).map_err(|source| NotaryError::io(&retired, source))?;
            for entry in entries {
                let entry = entry.map_err(|source| NotaryError::io(&retired, source))?;
                let name = entry.file_name();
                let hex = name.to_str().and_then(|name| name.strip_suffix(".pem"));
                let id = hex.and_then(|hex| format!("sha256:{hex}").parse::<NotaryKeyId>().ok());
                names.extend(id);
            }
        }
        names.sort();
        Ok(NotaryInfo {
            key_id: public_key.id(),
            allowed_signers_line: format!("* cert-authority {line}"),
            public_key_line: line,
            public_key,
            retired: names,
        })
    }

    fn read_public_key(&self, name: &str) -> Result<Option<NotaryKey>, NotaryError> {
        let path = self.directory.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => match NotaryKey::from_pem(&text) {
                Ok(key) => Ok(Some(key)),
                Err(source) => Err(NotaryError::PublicKey { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(NotaryError::io(&path, error)),
        }
    }

    /// Writes a file that is whole or not there.
    fn write(&self, name: &str, text: &str) -> Result<(), NotaryError> {
        let path = self.directory.join(name);
        let new = path.with_extension("new");
        let write = || {
            let mut file =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| NotaryError::io(&path, source))
    }

    fn rename_if_there(&self, from: &str, to: &str) -> Result<(), NotaryError> {
        let from = self.directory.join(from);
        match fs::rename(&from, self.directory.join(to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(NotaryError::io(&from, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Held while the files are read (shared) or replaced (exclusive).
    fn lock(&self, operation: FlockOperation) -> Result<File, NotaryError> {
        let path = self.directory.join(LOCK);
        let lock = || -> io::Result<File> {
            let file =
                File::options().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            flock(&file, operation)?;
            Ok(file)
        };
        lock().map_err(|source| NotaryError::io(&path, source))
    }
}

/// A notary's worker that may not be up yet.
pub(crate) enum Starting {
    Spawned { worker: Worker<NotaryRole>, strength: Strength, file: File, key: NotaryKey },
    Ready(Session),
}

impl Starting {
    /// Checks the worker's cage and hands it the key.
    pub(crate) fn ready(self) -> Result<Session, NotaryError> {
        match self {
            Self::Ready(session) => Ok(session),
            Self::Spawned { mut worker, strength, file, key } => {
                let memory = worker.await_cage(&expected(strength))?.backing();
                worker.order(&NotaryOrder::Load, &[file.as_fd()])?;
                let found = loaded_key(&mut worker)?;
                match found == key {
                    true => Ok(Session { worker, key, memory }),
                    false => Err(NotaryError::OtherKey { expected: key.id(), found: found.id() }),
                }
            }
        }
    }
}

fn loaded_key(worker: &mut Worker<NotaryRole>) -> Result<NotaryKey, NotaryError> {
    match worker.answer("loading the notary's key", START_TIMEOUT)? {
        NotaryReport::Loaded { public_key } => {
            NotaryKey::from_sec1(&public_key).map_err(NotaryError::Point)
        }
        _ => Err(WorkerError::Unexpected { step: "loading the notary's key" }.into()),
    }
}

/// A notary's key in its worker. The worker is killed where this is dropped without being closed.
#[derive(Debug)]
pub(crate) struct Session {
    worker: Worker<NotaryRole>,
    key: NotaryKey,
    memory: Backing,
}

impl Session {
    /// How far this key is from workloads, for their receipts: this launcher starts worker, notary
    /// and command as the one user it runs as.
    pub(crate) const fn separation(&self) -> Separation {
        Separation {
            notary: Apart::SameUid,
            workload: Apart::SameUid,
            notary_memory: Some(self.memory),
        }
    }

    /// Signs (ECDSA with P-256 and SHA-256).
    pub(crate) fn sign(&mut self, bytes: &[u8]) -> Result<P256Signature, NotaryError> {
        self.worker.order(&NotaryOrder::Sign { payload: bytes.to_vec() }, &[])?;
        match self.worker.answer("signing", START_TIMEOUT)? {
            NotaryReport::Signed { signature } => {
                let signature = signature
                    .as_slice()
                    .try_into()
                    .map_err(|_| NotaryError::from(WorkerError::Unexpected { step: "signing" }))?;
                let signature =
                    P256Signature::from_fixed(signature).map_err(NotaryError::Signature)?;
                match self.key.verifies(bytes, &signature) {
                    true => Ok(signature),
                    false => Err(NotaryError::DoesNotVerify),
                }
            }
            _ => Err(WorkerError::Unexpected { step: "signing" }.into()),
        }
    }

    /// The key.
    pub(crate) const fn key(&self) -> &NotaryKey {
        &self.key
    }

    /// Has the worker wipe the key, and ends it.
    pub(crate) fn close(mut self) -> Result<(), NotaryError> {
        self.worker.order(&NotaryOrder::Wipe, &[])?;
        match self.worker.receive("wiping the notary's key", WIPE_TIMEOUT)? {
            NotaryReport::Wiped(_) => {}
            _ => return Err(WorkerError::Unexpected { step: "wiping the notary's key" }.into()),
        }
        let _gone = self.worker.process.kill(WIPE_TIMEOUT).map_err(NotaryError::Kill)?;
        Ok(())
    }
}

/// The notary at work, for what the launcher itself has no part in. Close it; its worker is killed
/// where it is dropped instead.
#[derive(Debug)]
#[must_use = "close it: its worker holds the notary's key"]
pub struct NotarySession(Session);

impl NotarySession {
    pub(crate) const fn of(session: Session) -> Self {
        Self(session)
    }

    /// Signs the text of a checkpoint of the local log, with its key.
    ///
    /// # Errors
    ///
    /// [`NotaryError`].
    pub fn sign_log_checkpoint(
        &mut self,
        text: &[u8],
    ) -> Result<(NotaryKey, P256Signature), NotaryError> {
        let signature = self.0.sign(text)?;
        Ok((self.0.key().clone(), signature))
    }

    /// Has the worker wipe the key, and ends it.
    ///
    /// # Errors
    ///
    /// [`NotaryError`]; the worker is gone all the same.
    pub fn close(self) -> Result<(), NotaryError> {
        self.0.close()
    }
}

/// Why the notary did not do what it was to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotaryError {
    /// There is no key to rotate.
    #[error("this installation has no notary yet")]
    None,
    /// One of its files could not be used.
    #[error("the notary's file {} could not be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its directory is open to others.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its public key's file holds none.
    #[error("{} holds no public key of P-256", path.display())]
    PublicKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ParseNotaryKeyError,
    },
    /// Its private key's file cannot be handed to a worker.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// Private and public key do not belong together.
    #[error("the notary's files do not belong together: {expected} expected, {found} found")]
    OtherKey {
        /// The public file's key.
        expected: NotaryKeyId,
        /// The private file's key.
        found: NotaryKeyId,
    },
    /// Its worker failed.
    #[error("the notary's worker failed")]
    Worker(#[from] WorkerError),
    /// Its worker reported no point of P-256.
    #[error("the notary's worker reported no key of P-256")]
    Point(#[source] ParseNotaryKeyError),
    /// Its worker returned no signature.
    #[error("the notary's worker returned no signature")]
    Signature(#[source] ParseSignatureError),
    /// Its worker returned a signature that does not verify.
    #[error("the notary's signature does not verify")]
    DoesNotVerify,
    /// Its worker could not be ended.
    #[error("the notary's worker could not be ended")]
    Kill(#[source] io::Error),
    /// The ledger took no row.
    #[error("the notary's key could not be put in the ledger")]
    Ledger(#[from] AppendError),
    /// The ledger could not be read.
    #[error("the ledger could not be searched for the notary's key")]
    Read(#[from] ReadError),
}

impl NotaryError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::None => "notary.none",
            Self::Io { .. } => "notary.io",
            Self::Directory(error) => error.code(),
            Self::PublicKey { .. } => "notary.public-key",
            Self::KeyFile(error) => error.code(),
            Self::OtherKey { .. } => "notary.other-key",
            Self::Worker(error) => error.code(),
            Self::Point(_) => "notary.point",
            Self::Signature(_) => "notary.signature",
            Self::DoesNotVerify => "notary.does-not-verify",
            Self::Kill(_) => "notary.kill",
            Self::Ledger(error) => error.code(),
            Self::Read(error) => error.code(),
        }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

const PRIVATE: &str = "key.pem";
const PRIVATE_NEXT: &str = "key.pem.next";
const PUBLIC: &str = "notary.pem";
const PUBLIC_NEXT: &str = "notary.pem.next";
const PUBLIC_LINE: &str = "notary.pub";
const RETIRED: &str = "retired";
const LOCK: &str = "lock";

/// What memory will do where no workload's terms say: secret pages where there are any. A receipt
/// says which they were.
pub(crate) const NO_TERMS: Strength = Strength::AllowLockedPages;

const fn expected(strength: Strength) -> Expected {
    Expected { signer_module: None, strength }
}

/// For a worker to wipe, and to be gone after it was killed.
const WIPE_TIMEOUT: Duration = Duration::from_secs(2);
