//! The one port out of the machine.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evanesce_protocol::machine::{self, FrameReader, FromMachine, ToMachine};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{Failed, step};

/// The port: messages in and out, never waiting.
#[derive(Debug)]
pub(crate) struct Port {
    file: File,
    frames: FrameReader,
    out: Vec<u8>,
    sent: usize,
    buffer: Vec<u8>,
    /// Whether anything came yet: before that, an end of file says only that nobody is there yet.
    was_heard: bool,
}

/// Whether the launcher is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// It is.
    There,
    /// It is gone.
    Lost,
}

impl Port {
    /// Waits until the port is there, and opens it.
    pub(crate) fn open(ports: &Path, devices: &Path, deadline: Instant) -> Result<Self, Failed> {
        let device = loop {
            match find(ports) {
                Some(name) => break devices.join(name),
                None if Instant::now() > deadline => return Err(Failed::at("port")),
                None => pause(),
            }
        };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(device, flags, Mode::empty()).map_err(step("open the port"))?;
        Ok(Self {
            file: file.into(),
            frames: FrameReader::default(),
            out: Vec::new(),
            sent: 0,
            buffer: vec![0; READ_BYTES],
            was_heard: false,
        })
    }

    /// Reads what is there.
    pub(crate) fn read(&mut self) -> Result<Peer, Failed> {
        match rustix::io::read(&self.file, &mut self.buffer) {
            Ok(0) if self.was_heard => Ok(Peer::Lost),
            Ok(0) => {
                pause();
                Ok(Peer::There)
            }
            Ok(count) => {
                self.was_heard = true;
                self.frames.push(&self.buffer[..count]);
                Ok(Peer::There)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Peer::There),
            Err(errno) => Err(step("read the port")(errno)),
        }
    }

    /// Takes the next message that was read.
    pub(crate) fn next_message(&mut self) -> Result<Option<ToMachine>, Failed> {
        self.frames.next_message().map_err(|_| Failed::at("read a message"))
    }

    /// Queues a message.
    pub(crate) fn say(&mut self, message: &FromMachine) {
        self.out.extend(machine::frame(message));
    }

    /// Sends what is queued, as far as the port takes it.
    pub(crate) fn flush(&mut self) -> Result<(), Failed> {
        while self.sent < self.out.len() {
            match rustix::io::write(&self.file, &self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(step("write to the port")(errno)),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Sends everything, and waits until it is sent, a while.
    pub(crate) fn flush_all(&mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        while self.is_sending() && Instant::now() < deadline && self.flush().is_ok() {
            if self.is_sending() {
                pause();
            }
        }
    }

    /// Says why the machine ends.
    pub(crate) fn say_last(&mut self, failed: &Failed) {
        self.say(&FromMachine::Failed { step: failed.step.to_owned(), errno: failed.errno });
        self.flush_all();
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Whether so much waits to be sent that nothing more is to be made.
    pub(crate) fn is_full(&self) -> bool {
        self.out.len() > OUT_BYTES_MAX
    }

    /// Whether something came from the launcher yet.
    pub(crate) fn was_heard(&self) -> bool {
        self.was_heard
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

/// The device of the port with our name.
fn find(ports: &Path) -> Option<PathBuf> {
    fs::read_dir(ports).ok()?.filter_map(Result::ok).find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim_end() == machine::PORT).then(|| entry.file_name().into())
    })
}

/// Waits a moment for what tells nobody when it is there.
fn pause() {
    let moment = Timespec::try_from(MOMENT).expect("a few milliseconds");
    let nothing: &mut [PollFd<'_>] = &mut [];
    poll(nothing, Some(&moment)).ok();
}

/// What the port is waited for.
pub(crate) fn wanted(port: &Port) -> PollFlags {
    match port.is_sending() {
        true => PollFlags::IN | PollFlags::OUT,
        false => PollFlags::IN,
    }
}

const MOMENT: Duration = Duration::from_millis(5);

/// For a launcher to take what was said last.
const LAST_WORDS: Duration = Duration::from_secs(2);

const READ_BYTES: usize = 32 * 1024;

/// What may wait to be sent before clients have to wait.
const OUT_BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let ports = tempfile::tempdir().unwrap();
        for (device, name) in [("vport0p1", "other\n"), ("vport0p2", "evanesce\n")] {
            fs::create_dir(ports.path().join(device)).unwrap();
            fs::write(ports.path().join(device).join("name"), name).unwrap();
        }

        assert_eq!(find(ports.path()), Some(PathBuf::from("vport0p2")));
        assert_eq!(find(&ports.path().join("vport0p1")), None);
    }

    #[test]
    fn a_machine_without_the_port_does_not_wait_for_ever() {
        let ports = tempfile::tempdir().unwrap();
        let opened = Port::open(ports.path(), ports.path(), Instant::now());

        assert_eq!(opened.unwrap_err(), Failed::at("port"));
    }
}
