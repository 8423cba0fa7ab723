//! Key files that are made, looked at and sealed anew. Workers do it; no byte of a key or of what
//! opens it comes into this process.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use evanesce_protocol::control::{Load, LoadSource, Loaded, Refused, Strength, TerminalUse};
use evanesce_protocol::custody::{KeyFileFormat, KeyFileInfo, Seal};
use evanesce_protocol::{KeyUse, PublicKey};
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::cage::Expected;
use crate::key_file::{self, KeyFile, KeyFileError};
use crate::launcher::{OpenError, harden_this_process};
use crate::public_file::{
    Named, PublicFile, PublicFileError, next_to, replace, sync_directory, write_whole,
};
use crate::secrets::Unlock;
use crate::worker::{LoadError, Signer, Worker, WorkerError};
use crate::worker_image::{SealedImage, WorkerImage};

/// Makes, shows and reseals key files, by workers that it starts. Needs no installation.
#[derive(Debug)]
pub struct Custodian {
    image: SealedImage,
    strength: Strength,
}

/// A key that was made or sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Its sealed file.
    pub file: PathBuf,
    /// Its public half, which `FILE.pub` names.
    pub public_key: PublicKey,
    /// Its generation.
    pub generation: u64,
}

/// What a key file is, as far as that can be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDescription {
    /// The file.
    pub file: PathBuf,
    /// What it says of itself.
    pub info: KeyFileInfo,
    /// The key inside, where the file is in the clear or names it.
    pub public_key: Option<PublicKey>,
    /// The keys that `FILE.pub` names: one, or two where a rotation was interrupted.
    pub named: Vec<Named>,
}

/// A file that was looked at.
#[derive(Debug)]
pub struct Described {
    /// The file.
    pub file: PathBuf,
    /// What it is, or what is wrong with it.
    pub found: Result<KeyDescription, CustodyError>,
}

impl Custodian {
    /// Makes the worker ready to run. From here on this process is not dumpable.
    ///
    /// # Errors
    ///
    /// [`OpenError`] names the step.
    pub fn open(image: WorkerImage, strength: Strength) -> Result<Self, OpenError> {
        harden_this_process().map_err(OpenError::Harden)?;
        Ok(Self { image: image.seal()?, strength })
    }

    /// Has a key born inside a worker, and writes its sealed file, which must not be there yet.
    ///
    /// # Errors
    ///
    /// [`CustodyError`]; there is no key then.
    pub fn create(&self, path: &Path, seal: Seal, unlock: &Unlock) -> Result<NewKey, CustodyError> {
        let _directory = key_file::open_directory(path)?;
        if fs::symlink_metadata(path).is_ok() {
            return Err(CustodyError::Exists { path: path.to_owned() });
        }
        let load =
            Load { source: LoadSource::BornInside, key_use: KeyUse::Message, seal: Some(seal) };
        let loaded = self.with_worker(|worker| worker.load(load, None, unlock, None))?;
        let text = sealed_text(&loaded)?;
        let named = Named { key: loaded.public_key, generation: Some(1), pending: None };
        PublicFile::of(path).write(&[named])?;
        let write = || {
            let new = next_to(path, ".new");
            write_whole(&new, text.as_bytes(), 0o600)?;
            let named = renameat_with(CWD, &new, CWD, path, RenameFlags::NOREPLACE);
            if named.is_err() {
                fs::remove_file(&new)?;
            }
            named?;
            sync_directory(path)
        };
        match write() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(CustodyError::Exists { path: path.to_owned() });
            }
            Err(source) => return Err(CustodyError::Write { path: path.to_owned(), source }),
        }
        Ok(NewKey { file: path.to_owned(), public_key: loaded.public_key, generation: 1 })
    }

    /// Seals the key of a file anew and replaces the file, in one step. One in the clear is sealed;
    /// what the disk keeps of it is not touched.
    ///
    /// # Errors
    ///
    /// [`CustodyError`]; the file is as it was then.
    pub fn reseal(
        &self,
        path: &Path,
        seal: Seal,
        unlock: &Unlock,
    ) -> Result<(NewKey, KeyFileFormat), CustodyError> {
        let key = lock(path)?;
        let source = LoadSource::File { work_factor_max: unlock.work_factor_max };
        let load = Load { source, key_use: KeyUse::Message, seal: Some(seal) };
        let (info, loaded) = self.with_worker(|worker| {
            let info = worker.inspect(key.file.as_fd())?.map_err(WorkerError::Refused)?;
            rewind(&key)?;
            Ok::<_, CustodyError>((info, worker.load(load, Some(&key), unlock, None)?))
        })?;
        PublicFile::check(path, &loaded.public_key)?;
        let text = sealed_text(&loaded)?;
        let public = PublicFile::of(path);
        let named = public.read()?.unwrap_or_default();
        let generation = named.iter().find(|named| named.key == loaded.public_key);
        let generation = generation.and_then(|named| named.generation).unwrap_or(1);
        if named.is_empty() {
            public.write(&[Named {
                key: loaded.public_key,
                generation: Some(generation),
                pending: None,
            }])?;
        }
        replace(path, text.as_bytes(), 0o600)
            .map_err(|source| CustodyError::Write { path: path.to_owned(), source })?;
        let public_key = loaded.public_key;
        Ok((NewKey { file: path.to_owned(), public_key, generation }, info.format))
    }

    /// Says what each of these files is, in their order. Of a file in the clear, the worker that
    /// looks at it derives the public half.
    ///
    /// # Errors
    ///
    /// [`CustodyError`] where there is no worker; what is wrong with a file is beside it.
    pub fn describe(&self, paths: &[PathBuf]) -> Result<Vec<Described>, CustodyError> {
        let mut worker = self.spawn()?;
        let mut described = Vec::new();
        for path in paths {
            let found = self.describe_one(&mut worker, path);
            described.push(Described { file: path.clone(), found });
        }
        worker.discard()?;
        Ok(described)
    }

    fn describe_one(
        &self,
        worker: &mut Worker<Signer>,
        path: &Path,
    ) -> Result<KeyDescription, CustodyError> {
        // What is no key is told from what is one and open to others.
        let looked_at = key_file::open_to_look(path)?;
        let info = worker.inspect(looked_at.as_fd())?.map_err(WorkerError::Refused)?;
        let key = KeyFile::open(path)?;
        let mut public_key = info.public_key;
        if info.lock.is_none() && public_key.is_none() {
            // A key takes a worker of its own to be derived from its seed.
            let source = LoadSource::File { work_factor_max: 0 };
            let load = Load { source, key_use: KeyUse::Message, seal: None };
            let unlock = Unlock::default();
            let loaded = self.with_worker(|worker| worker.load(load, Some(&key), &unlock, None))?;
            public_key = Some(loaded.public_key);
        }
        if let Some(found) = &public_key {
            PublicFile::check(path, found)?;
        }
        let named = PublicFile::of(path).read()?.unwrap_or_default();
        Ok(KeyDescription { file: path.to_owned(), info, public_key, named })
    }

    /// Runs `work` with a worker whose cage was checked, and ends it, wiped where it had a key.
    fn with_worker<R, E: From<WorkerError>>(
        &self,
        work: impl FnOnce(&mut Worker<Signer>) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut worker = self.spawn()?;
        // Where it fails the worker has wiped what there was; dropping it kills it.
        let done = work(&mut worker)?;
        worker.close()?;
        Ok(done)
    }

    fn spawn(&self) -> Result<Worker<Signer>, WorkerError> {
        let mut worker =
            Worker::<Signer>::spawn(&self.image, self.strength, TerminalUse::Possible)?;
        let signer_module = Some(WorkerImage::signer_digest());
        worker.await_cage(&Expected { signer_module, strength: self.strength })?;
        Ok(worker)
    }
}

/// Opens a key file that nobody else is replacing, and keeps others from it while it is open.
pub(crate) fn lock(path: &Path) -> Result<KeyFile, CustodyError> {
    let key = KeyFile::open(path)?;
    let busy = || CustodyError::Busy { path: path.to_owned() };
    flock(&key.file, FlockOperation::NonBlockingLockExclusive).map_err(|_| busy())?;
    // Replaced between opening and locking: this is no longer the key of that name.
    let again = KeyFile::open(path)?;
    match key.is_same(&again) {
        true => Ok(key),
        false => Err(busy()),
    }
}

/// Has a worker read a file from its start again.
pub(crate) fn rewind(key: &KeyFile) -> Result<(), CustodyError> {
    rustix::fs::seek(&key.file, rustix::fs::SeekFrom::Start(0))
        .map(drop)
        .map_err(|errno| CustodyError::Rewind { path: key.path.clone(), source: errno.into() })
}

/// The sealed file that a worker was ordered to make.
pub(crate) fn sealed_text(loaded: &Loaded) -> Result<&str, WorkerError> {
    loaded.sealed.as_deref().ok_or(WorkerError::Unexpected { step: "sealing the key" })
}

/// Why a key file was not made, shown or sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CustodyError {
    /// There is a file of this name already.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else is replacing it.
    #[error("{} is being replaced by another command", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be handed to a worker.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// It could not be read again.
    #[error("{} could not be read again", path.display())]
    Rewind {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its public file could not be used, or names another key.
    #[error(transparent)]
    PublicFile(#[from] PublicFileError),
    /// The worker failed, or refused the key.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The key was not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It could not be written.
    #[error("{} could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl CustodyError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "custody.exists",
            Self::Busy { .. } => "custody.busy",
            Self::KeyFile(error) => error.code(),
            Self::Rewind { .. } => "custody.rewind",
            Self::PublicFile(error) => error.code(),
            Self::Worker(error) => error.code(),
            Self::Load(error) => error.code(),
            Self::Write { .. } => "custody.write",
        }
    }

    /// Whether a file is no key file at all, rather than one that is broken or not to be read.
    pub const fn is_of_another_kind(&self) -> bool {
        use evanesce_protocol::control::KeyFormatError as Format;
        matches!(
            self,
            Self::Worker(WorkerError::Refused(Refused::KeyFormat(
                Format::NotPem | Format::Label { .. } | Format::Empty | Format::TooLong { .. }
            ))) | Self::KeyFile(
                KeyFileError::NotAFile { .. }
                    | KeyFileError::Empty { .. }
                    | KeyFileError::TooLong { .. }
            )
        )
    }
}
