//! Messages as files in a directory: for a medium that is carried, or a share.
//!
//! ```text
//! challenge.json    the holder's
//! request.json      the asker's
//! answer.json       the holder's
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use evanesce_ledger::Timestamp;
use evanesce_release::{ANSWER_BYTES_MAX, CHALLENGE_BYTES_MAX};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::stream::LOOK;
use crate::clock;
use crate::errors::{Coded, CommandError};
use crate::files;
use crate::new_file::{self, Existing};

/// A directory with one release.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Takes the directory, if nothing but a challenge is in it yet.
    pub(crate) fn open(path: &Path) -> Result<Self, CommandError> {
        let is_there = |name| path.join(name).symlink_metadata().is_ok();
        match [REQUEST, ANSWER].into_iter().any(is_there) {
            true => Err(UsedError { path: path.to_owned() }.into()),
            false => Ok(Self { path: path.to_owned() }),
        }
    }

    /// The holder's challenge.
    pub(crate) fn challenge(&self) -> Result<Vec<u8>, CommandError> {
        read_line(&self.path.join(CHALLENGE), CHALLENGE_BYTES_MAX)
    }

    /// Writes the request and waits for the answer.
    pub(crate) fn exchange(
        &self,
        request: &str,
        expires: Timestamp,
        is_wanted: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<u8>, DirectoryError> {
        let answer = self.path.join(ANSWER);
        let watch = watch(&self.path).map_err(|errno| DirectoryError::Watch {
            path: self.path.clone(),
            source: errno.into(),
        })?;
        new_file::write(
            &self.path.join(REQUEST),
            format!("{request}\n").as_bytes(),
            Existing::Keep,
        )
        .map_err(DirectoryError::Write)?;
        let look = Timespec::try_from(LOOK).expect("a fraction of a second");
        loop {
            // Without its newline somebody is still copying it.
            match read_whole(&answer) {
                Ok(Some(line)) => return Ok(line),
                Ok(None) => {}
                Err(source) => return Err(DirectoryError::Read { path: answer, source }),
            }
            if clock::now() >= expires || !is_wanted() {
                return Err(DirectoryError::NoAnswer { path: answer });
            }
            match poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&look)) {
                Ok(_) | Err(Errno::INTR) => drain(&watch),
                Err(errno) => {
                    let source = errno.into();
                    return Err(DirectoryError::Watch { path: self.path.clone(), source });
                }
            }
        }
    }
}

/// Reads a message's file: one line and its newline.
pub(crate) fn read_line(path: &Path, bytes_max: usize) -> Result<Vec<u8>, CommandError> {
    let mut line = files::read_small(path, bytes_max as u64 + 1)?;
    // A message that was cut off is refused by whoever reads it.
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(line)
}

fn read_whole(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        // Longer than any: whoever reads the message refuses it.
        Ok(facts) if facts.len() > ANSWER_BYTES_MAX as u64 + 1 => {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(_) => {}
    }
    let mut line = fs::read(path)?;
    match line.pop() {
        Some(b'\n') => Ok(Some(line)),
        _ => Ok(None),
    }
}

fn watch(directory: &Path) -> Result<std::os::fd::OwnedFd, Errno> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let wanted = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::CLOSE_WRITE
        | inotify::WatchFlags::ONLYDIR;
    inotify::add_watch(&watch, directory, wanted)?;
    Ok(watch)
}

/// Forgets what was told: what is there is looked at anew.
fn drain(watch: &std::os::fd::OwnedFd) {
    let mut events = [0; 4096];
    while rustix::io::read(watch, &mut events).is_ok_and(|bytes| bytes > 0) {}
}

/// A directory in which a release was begun before.
#[derive(Debug, thiserror::Error)]
#[error("{} has a request or an answer already", path.display())]
struct UsedError {
    path: PathBuf,
}

impl Coded for UsedError {
    fn code(&self) -> &'static str {
        "release.directory-used"
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DirectoryError {
    /// The directory cannot be watched.
    #[error("{} cannot be watched", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The request could not be written.
    #[error("the request could not be written")]
    Write(#[source] new_file::NewFileError),
    /// The answer could not be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The challenge is over.
    #[error("{} did not come in time", path.display())]
    NoAnswer {
        /// The file.
        path: PathBuf,
    },
}

impl Coded for DirectoryError {
    fn code(&self) -> &'static str {
        "release.channel"
    }
}

const CHALLENGE: &str = "challenge.json";
const REQUEST: &str = "request.json";
const ANSWER: &str = "answer.json";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn later() -> Timestamp {
        let ms = u64::try_from(Duration::from_secs(60).as_millis()).unwrap();
        Timestamp::from_unix_ms(clock::now().unix_ms() + ms)
    }

    #[test]
    fn an_answer_counts_once_its_last_byte_is_there() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();
        let mut looks = 0;
        let mut is_wanted = || {
            looks += 1;
            let text = if looks == 1 { "{\"half\"" } else { "{\"whole\":1}\n" };
            fs::write(place.path().join(ANSWER), text).unwrap();
            true
        };

        let answer = directory.exchange("{}", later(), &mut is_wanted).unwrap();

        assert_eq!(answer, b"{\"whole\":1}");
        assert_eq!(fs::read(place.path().join(REQUEST)).unwrap(), b"{}\n");
        assert_eq!(Directory::open(place.path()).unwrap_err().code(), "release.directory-used");
    }

    #[test]
    fn nobody_waits_longer_than_the_challenge_counts() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();

        let refused = directory.exchange("{}", clock::now(), &mut || true).unwrap_err();

        assert!(matches!(refused, DirectoryError::NoAnswer { .. }), "{refused}");
    }
}
