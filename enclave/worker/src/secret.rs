//! A passphrase or identities on their way into guarded memory: read here, by nobody else.
//!
//! The launcher hands over a descriptor, a terminal's or one that is read to its end, and reads no
//! byte of it. While the worker waits its registers hold the public pattern, as always.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use evanesce_guarded_memory::registers::quiesce_and_poll;
use evanesce_protocol::channel::{Channel, Received};
use evanesce_protocol::control::{Refused, SecretSource, SignerOrder, SignerReport, Wanted};
use evanesce_protocol::limits::{IDENTITY_FILE_BYTES_MAX, PASSPHRASE_BYTES_MAX};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::orders::{descriptors, next_order};

/// Asks the launcher for a secret and reads it into `place`. Gives its length, or `None` where the
/// launcher is gone or has no more use for the key.
///
/// # Errors
///
/// [`Refused`] where nothing came in time, or what came is no such secret.
pub(crate) fn ask(
    channel: &mut Channel,
    wanted: Wanted,
    place: &mut [u8],
) -> Result<Option<usize>, Refused> {
    if channel.send(&SignerReport::Wanted(wanted), &[]).is_err() {
        return Ok(None);
    }
    let (source, files) = match next_order(channel) {
        Some(Received { message: SignerOrder::Secret(source), descriptors }) => {
            (source, descriptors)
        }
        Some(Received { message: SignerOrder::Wipe, .. }) | None => return Ok(None),
        Some(_) => return Err(Refused::Order { order: "instead of a secret".into() }),
    };
    let [file] = descriptors::<1>("secret", files)?;
    let reader = Reader { channel, file, wanted };
    match source {
        SecretSource::Stream => reader.stream(place),
        SecretSource::Terminal { prompt } => reader.terminal(&prompt, place),
    }
}

struct Reader<'c> {
    channel: &'c Channel,
    file: OwnedFd,
    wanted: Wanted,
}

impl Reader<'_> {
    /// A passphrase is the first line, identities are all of it.
    fn stream(&self, place: &mut [u8]) -> Result<Option<usize>, Refused> {
        match self.wanted {
            Wanted::Identity => {
                let room = &mut place[..=IDENTITY_FILE_BYTES_MAX];
                let filled = self.fill(room, STREAM_TIMEOUT, |_| false)?;
                match filled {
                    Some(filled) if filled > IDENTITY_FILE_BYTES_MAX => {
                        Err(Refused::IdentityLength { limit_bytes: limit(IDENTITY_FILE_BYTES_MAX) })
                    }
                    filled => Ok(filled),
                }
            }
            Wanted::Passphrase | Wanted::NewPassphrase => self.line(place, STREAM_TIMEOUT),
        }
    }

    /// Asks at a terminal that shows nothing meanwhile; a new passphrase twice.
    fn terminal(&self, prompt: &str, place: &mut [u8]) -> Result<Option<usize>, Refused> {
        let _silent = Silent::make(&self.file).map_err(|errno| self.unreadable(errno))?;
        self.say(prompt)?;
        let (first, second) = place.split_at_mut(2 * PASSPHRASE_BYTES_MAX);
        let Some(bytes) = self.line(first, TERMINAL_TIMEOUT)? else { return Ok(None) };
        if self.wanted == Wanted::NewPassphrase {
            self.say("The same again")?;
            let Some(again) = self.line(second, TERMINAL_TIMEOUT)? else { return Ok(None) };
            if first[..bytes] != second[..again] {
                return Err(Refused::PassphrasesDiffer);
            }
        }
        Ok(Some(bytes))
    }

    /// Reads one line, its end left out.
    fn line(&self, place: &mut [u8], timeout: Duration) -> Result<Option<usize>, Refused> {
        let room = &mut place[..PASSPHRASE_BYTES_MAX + 2];
        let Some(filled) = self.fill(room, timeout, |bytes| bytes.contains(&b'\n'))? else {
            return Ok(None);
        };
        let read = &room[..filled];
        let line = read.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let bytes = line.strip_suffix(b"\r").unwrap_or(line).len();
        match bytes {
            1..=PASSPHRASE_BYTES_MAX => Ok(Some(bytes)),
            _ => Err(Refused::PassphraseLength { limit_bytes: limit(PASSPHRASE_BYTES_MAX) }),
        }
    }

    /// Reads until `is_enough`, the end, or no more room.
    fn fill(
        &self,
        room: &mut [u8],
        timeout: Duration,
        is_enough: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<usize>, Refused> {
        let mut filled = 0;
        while filled < room.len() && !is_enough(&room[..filled]) {
            if !self.is_ready(timeout)? {
                return Ok(None);
            }
            match rustix::io::read(&self.file, &mut room[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(self.unreadable(errno)),
            }
        }
        Ok(Some(filled))
    }

    /// Waits for something to read; `false` where the launcher is gone or wants to end this.
    fn is_ready(&self, timeout: Duration) -> Result<bool, Refused> {
        let watch = |fd: BorrowedFd<'_>| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        loop {
            let mut watched = [watch(self.channel.as_fd()), watch(self.file.as_fd())];
            match quiesce_and_poll(&mut watched, Some(timeout)) {
                Ok(0) => {
                    let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
                    return Err(Refused::SecretTimeout { what: self.what().into(), seconds });
                }
                Ok(_) => return Ok(watched[0].revents == 0),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable_io(&error)),
            }
        }
    }

    fn say(&self, prompt: &str) -> Result<(), Refused> {
        let text = format!("{prompt}: ");
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(&self.file, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.unreadable(errno)),
            }
        }
        Ok(())
    }

    const fn what(&self) -> &'static str {
        match self.wanted {
            Wanted::Passphrase => "passphrase",
            Wanted::NewPassphrase => "new passphrase",
            Wanted::Identity => "identity",
        }
    }

    fn unreadable(&self, errno: Errno) -> Refused {
        Refused::SecretRead { what: self.what().into(), errno: errno.raw_os_error() }
    }

    fn unreadable_io(&self, error: &std::io::Error) -> Refused {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Refused::SecretRead { what: self.what().into(), errno }
    }
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Silent<'t> {
    terminal: &'t OwnedFd,
    before: Termios,
}

impl<'t> Silent<'t> {
    fn make(terminal: &'t OwnedFd) -> Result<Self, Errno> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHONL);
        // What was typed before it was asked for is no answer.
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // The launcher puts it back as well, where this process does not live to do it.
        tcsetattr(self.terminal, OptionalActions::Now, &self.before).ok();
    }
}

/// A limit as a refusal tells it.
fn limit(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("some KiB")
}

/// For whoever writes to a pipe.
const STREAM_TIMEOUT: Duration = Duration::from_secs(60);

/// For a person.
const TERMINAL_TIMEOUT: Duration = Duration::from_secs(300);
