//! One client of the agent socket: bytes in, bytes out, never waiting.

use std::os::fd::OwnedFd;

use evanesce_protocol::agent::{FrameTooLong, Frames};
use rustix::io::Errno;

/// A connection whose peer was checked.
///
/// A client is read only while nothing waits to be sent to it, so one that does not read its
/// answers costs one frame of memory and no time.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    frames: Frames,
    out: Vec<u8>,
    sent: usize,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, frames: Frames::default(), out: Vec::new(), sent: 0 }
    }

    /// Reads what is there.
    ///
    /// # Errors
    ///
    /// [`Gone`] at the end of the stream.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<(), Gone> {
        match rustix::io::read(&self.socket, &mut *buffer) {
            Ok(0) => Err(Gone),
            Ok(count) => {
                self.frames.push(&buffer[..count]);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(_) => Err(Gone),
        }
    }

    /// Answers one whole frame, if there is one: `answer` appends to what will be sent.
    ///
    /// # Errors
    ///
    /// [`Gone`] where the client sends what cannot be a frame.
    pub(crate) fn answer_one<R>(
        &mut self,
        answer: impl FnOnce(&[u8], &mut Vec<u8>) -> R,
    ) -> Result<Option<R>, Gone> {
        match self.frames.next_frame() {
            Ok(Some(frame)) => Ok(Some(answer(frame, &mut self.out))),
            Ok(None) => Ok(None),
            Err(FrameTooLong { .. }) => Err(Gone),
        }
    }

    /// Sends what waits to be sent, as far as the client takes it.
    ///
    /// # Errors
    ///
    /// [`Gone`] where the client takes no more.
    pub(crate) fn flush(&mut self) -> Result<(), Gone> {
        while self.is_sending() {
            match rustix::io::write(&self.socket, &self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Gone),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Whether an answer waits for the client.
    pub(crate) fn is_sending(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Whether a frame can be answered without reading or sending anything before.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_sending() && self.frames.is_ready()
    }

    /// Where it is.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }
}

/// The client is gone, or has to go.
#[derive(Debug)]
pub(crate) struct Gone;
