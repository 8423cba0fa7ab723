//! Where passphrases and identities come from: found and opened here, read by a worker alone.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use evanesce_protocol::control::{SecretSource, Wanted};
use evanesce_protocol::limits::WORK_FACTOR_OPEN_MAX;
use rustix::fs::{Mode, OFlags};
use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use crate::key_file::{self, KeyFileError};

/// What opens a key file that is not in the clear, and how much that may cost.
///
/// What was named comes first, then a systemd credential (systemd.exec(5)) of the documented name,
/// then the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlock {
    /// A descriptor of this process from which the passphrase is read.
    pub passphrase_fd: Option<u32>,
    /// A file of age identities.
    pub identity: Option<PathBuf>,
    /// Where a new passphrase comes from, where one is set.
    pub new_passphrase: NewPassphrase,
    /// The directory of credentials that systemd gave.
    pub credentials: Option<PathBuf>,
    /// The highest work factor of scrypt that is done.
    pub work_factor_max: u8,
}

impl Default for Unlock {
    fn default() -> Self {
        Self {
            passphrase_fd: None,
            identity: None,
            new_passphrase: NewPassphrase::default(),
            credentials: None,
            work_factor_max: WORK_FACTOR_OPEN_MAX,
        }
    }
}

/// Where a new passphrase comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewPassphrase {
    /// The terminal, or a systemd credential.
    #[default]
    Asked,
    /// A descriptor of this process.
    Fd(u32),
}

/// A secret's descriptor, on its way to a worker.
#[derive(Debug)]
pub(crate) struct OpenSecret {
    pub(crate) source: SecretSource,
    pub(crate) file: OwnedFd,
    /// Puts the terminal back should the worker not live to do it.
    _terminal: Option<Terminal>,
}

impl OpenSecret {
    fn stream(file: impl Into<OwnedFd>) -> Self {
        Self { source: SecretSource::Stream, file: file.into(), _terminal: None }
    }
}

impl Unlock {
    /// Opens what the worker wants, for the key file of this name.
    pub(crate) fn open(&self, wanted: Wanted, name: &Path) -> Result<OpenSecret, SecretError> {
        let (credential, prompt) = match wanted {
            Wanted::Passphrase => ("evanesce.passphrase", "Passphrase for"),
            Wanted::NewPassphrase => ("evanesce.new-passphrase", "New passphrase for"),
            Wanted::Identity => ("evanesce.identity", ""),
        };
        match (wanted, &self.identity, self.passphrase_fd, self.new_passphrase) {
            (Wanted::Identity, Some(path), ..) => {
                return Ok(OpenSecret::stream(
                    key_file::open(path).map_err(SecretError::Identity)?,
                ));
            }
            (Wanted::Passphrase, _, Some(number), _)
            | (Wanted::NewPassphrase, _, _, NewPassphrase::Fd(number)) => {
                return Ok(OpenSecret::stream(inherited(number)?));
            }
            _ => {}
        }
        if let Some(file) = self.credential(credential)? {
            return Ok(OpenSecret::stream(file));
        }
        if wanted == Wanted::Identity {
            return Err(SecretError::NoIdentity { key: name.to_owned() });
        }
        let (terminal, file) = Terminal::open(name)?;
        // What a file is called is shown as text, whatever bytes it has.
        let prompt = format!("{prompt} {}", name.display().to_string().escape_debug());
        Ok(OpenSecret {
            source: SecretSource::Terminal { prompt },
            file,
            _terminal: Some(terminal),
        })
    }

    /// A credential, where there is one. systemd alone can write to its directory, and keeps others
    /// out of it.
    fn credential(&self, name: &str) -> Result<Option<OwnedFd>, SecretError> {
        let Some(directory) = &self.credentials else { return Ok(None) };
        let path = directory.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(SecretError::Credential { path, source: errno.into() }),
        }
    }
}

/// Opens a descriptor that this process inherited anew, so that it can be handed on.
///
/// Works for pipes, files and terminals, not for sockets. Descriptors that this process opened by
/// itself are closed on exec, and are nobody's to name.
fn inherited(number: u32) -> Result<File, SecretError> {
    let fail = |source| SecretError::Descriptor { number, source };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).map_err(fail)?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok());
    match flags {
        Some(flags) if flags & OFlags::CLOEXEC.bits() == 0 => {
            File::open(format!("/proc/self/fd/{number}")).map_err(fail)
        }
        _ => Err(fail(io::ErrorKind::NotFound.into())),
    }
}

/// The terminal of this process's session.
#[derive(Debug)]
struct Terminal {
    terminal: OwnedFd,
    before: Termios,
}

impl Terminal {
    fn open(name: &Path) -> Result<(Self, OwnedFd), SecretError> {
        let none = |source: io::Error| SecretError::NoPassphrase { key: name.to_owned(), source };
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open("/dev/tty", flags, Mode::empty())
            .map_err(|errno| none(errno.into()))?;
        // In the background the answer would be somebody else's: what is typed is for the foreground.
        if tcgetpgrp(&terminal).map_err(|errno| none(errno.into()))? != getpgrp() {
            return Err(none(io::Error::other("this process is in the background")));
        }
        let before = tcgetattr(&terminal).map_err(|errno| none(errno.into()))?;
        let for_worker = terminal.try_clone().map_err(none)?;
        Ok((Self { terminal, before }, for_worker))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let is_changed =
            tcgetattr(&self.terminal).is_ok_and(|now| now.local_modes != self.before.local_modes);
        if is_changed {
            tcsetattr(&self.terminal, OptionalActions::Now, &self.before).ok();
        }
    }
}

/// Why a secret could not be brought to the worker that wants it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// No passphrase was named, and there is nobody to ask.
    #[error("{} is under a passphrase, and there is no terminal to ask at", key.display())]
    NoPassphrase {
        /// The key file.
        key: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No identity was named.
    #[error("{} is sealed to recipients, and no identity was named", key.display())]
    NoIdentity {
        /// The key file.
        key: PathBuf,
    },
    /// The identity file is not to be used.
    #[error("the identity file cannot be used")]
    Identity(#[source] KeyFileError),
    /// The descriptor is not open, or a socket.
    #[error("descriptor {number} cannot be read")]
    Descriptor {
        /// Its number.
        number: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The credential is there and cannot be opened.
    #[error("credential {} cannot be opened", path.display())]
    Credential {
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl SecretError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoPassphrase { .. } => "passphrase.none",
            Self::NoIdentity { .. } => "identity.none",
            Self::Identity(error) => error.code(),
            Self::Descriptor { .. } => "secret.descriptor",
            Self::Credential { .. } => "secret.credential",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn read(secret: OpenSecret) -> String {
        let mut text = String::new();
        File::from(secret.file).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_credential_is_taken_where_nothing_was_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("evanesce.identity"), "AGE-…").unwrap();
        let unlock = Unlock { credentials: Some(directory.path().to_owned()), ..Unlock::default() };

        let identity = unlock.open(Wanted::Identity, Path::new("key.age")).unwrap();

        assert_eq!(identity.source, SecretSource::Stream);
        assert_eq!(read(identity), "AGE-…");
    }

    #[test]
    fn without_an_identity_the_key_is_named_that_needs_one() {
        let refused = Unlock::default().open(Wanted::Identity, Path::new("key.age")).unwrap_err();

        assert_eq!(refused.code(), "identity.none");
        assert!(refused.to_string().starts_with("key.age "), "{refused}");
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_refused_by_its_number() {
        use std::os::fd::AsRawFd as _;

        // One of this process's own, which a shell did not hand to it, is as good as none.
        let own = tempfile::tempfile().unwrap();
        for number in [9999, own.as_raw_fd().unsigned_abs()] {
            let unlock = Unlock { passphrase_fd: Some(number), ..Unlock::default() };

            let refused = unlock.open(Wanted::Passphrase, Path::new("key.pem")).unwrap_err();

            assert_eq!(refused.code(), "secret.descriptor", "{number}");
        }
    }
}
