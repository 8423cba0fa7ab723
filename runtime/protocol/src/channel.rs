//! One end of the control channel: whole messages and descriptors over a Unix socket.
//!
//! The socket is `SOCK_SEQPACKET`, so a message arrives whole or not at all, and a lost peer is an
//! end of file. A thin shell: what the messages mean is in [`crate::control`].

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::{CONTROL_BYTES_MAX, CONTROL_DESCRIPTORS_MAX};

/// One end of a control channel.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Channel {
    /// Makes both ends; each is closed on exec.
    ///
    /// # Errors
    ///
    /// [`io::Error`] of `socketpair(2)`.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::new(ours), theirs))
    }

    /// Takes an end that was inherited.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, buffer: vec![0; CONTROL_BYTES_MAX] }
    }

    /// Sends a message and the descriptors that belong to it.
    ///
    /// # Errors
    ///
    /// [`SendError`] where the message is too long or the peer is gone.
    ///
    /// # Panics
    ///
    /// Where there are more than [`CONTROL_DESCRIPTORS_MAX`] descriptors.
    pub fn send<M: Serialize>(
        &self,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), SendError> {
        assert!(descriptors.len() <= CONTROL_DESCRIPTORS_MAX, "no message has that many");
        let bytes = postcard::to_allocvec(message).expect("a message serialises into memory");
        if bytes.len() > CONTROL_BYTES_MAX {
            return Err(SendError::TooLong { found: bytes.len() });
        }
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CONTROL_DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        retry_interrupted(|| {
            sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)
        })
        .map_err(|errno| SendError::Send(errno.into()))?;
        Ok(())
    }

    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::Closed`] where the peer is gone; the others where it sent what no peer of
    /// ours sends.
    pub fn receive<M: DeserializeOwned>(&mut self) -> Result<Received<M>, ReceiveError> {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CONTROL_DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut receive = || {
            retry_interrupted(|| {
                recvmsg(
                    &self.socket,
                    &mut [IoSliceMut::new(&mut self.buffer)],
                    &mut ancillary,
                    RecvFlags::CMSG_CLOEXEC,
                )
            })
        };
        // A peer that ends with something of ours unread leaves a reset, which comes once and before
        // what it sent last.
        let received = match receive() {
            Err(Errno::CONNRESET) => receive(),
            received => received,
        };
        let received = received.map_err(|errno| match errno {
            Errno::CONNRESET => ReceiveError::Closed,
            other => ReceiveError::Receive(other.into()),
        })?;
        let descriptors = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ReceiveError::TooLong);
        }
        if received.bytes == 0 {
            return Err(ReceiveError::Closed);
        }
        let (message, rest) = postcard::take_from_bytes(&self.buffer[..received.bytes])
            .map_err(ReceiveError::Malformed)?;
        match rest.len() {
            0 => Ok(Received { message, descriptors }),
            _ => Err(ReceiveError::TooLong),
        }
    }

    /// Waits for the next message, but no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`], and [`ReceiveError::TimedOut`].
    pub fn receive_within<M: DeserializeOwned>(
        &mut self,
        timeout: Duration,
    ) -> Result<Received<M>, ReceiveError> {
        let timeout = Timespec::try_from(timeout).expect("a timeout is below 292 billion years");
        let mut descriptors = [PollFd::new(&self.socket, PollFlags::IN)];
        match retry_interrupted(|| poll(&mut descriptors, Some(&timeout))) {
            Ok(0) => Err(ReceiveError::TimedOut),
            Ok(_) => self.receive(),
            Err(errno) => Err(ReceiveError::Receive(errno.into())),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A message with the descriptors that came along, in the order they were sent.
#[derive(Debug)]
pub struct Received<M> {
    /// The message.
    pub message: M,
    /// The descriptors, closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a message could not be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Longer than [`CONTROL_BYTES_MAX`].
    #[error("a control message has at most {CONTROL_BYTES_MAX} bytes, this one has {found}")]
    TooLong {
        /// Bytes in the message.
        found: usize,
    },
    /// The peer is gone, or the kernel refused.
    #[error("the control channel takes no more messages")]
    Send(#[source] io::Error),
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The peer is gone.
    #[error("the control channel was closed")]
    Closed,
    /// Nothing came in time.
    #[error("nothing came over the control channel in time")]
    TimedOut,
    /// Longer than a message may be, in bytes or descriptors.
    #[error("a control message is longer than its format")]
    TooLong,
    /// Not a message of this protocol.
    #[error("a control message is malformed")]
    Malformed(#[source] postcard::Error),
    /// The kernel refused.
    #[error("the control channel cannot be read")]
    Receive(#[source] io::Error),
}

fn retry_interrupted<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;
    use crate::control::{NotaryOrder, SignerOrder};

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (launcher, theirs) = Channel::pair().unwrap();
        let mut worker = Channel::new(theirs);
        let mut file =
            File::from(rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::empty()).unwrap());
        file.write_all(b"content").unwrap();
        file.rewind().unwrap();

        launcher.send(&SignerOrder::Wipe, &[file.as_fd()]).unwrap();
        let received = worker.receive_within::<SignerOrder>(SOON).unwrap();

        assert_eq!(received.message, SignerOrder::Wipe);
        let mut text = String::new();
        let [descriptor] = <[OwnedFd; 1]>::try_from(received.descriptors).unwrap();
        File::from(descriptor).read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
    }

    #[test]
    fn a_lost_peer_is_told_from_silence() {
        let (launcher, theirs) = Channel::pair().unwrap();
        let mut worker = Channel::new(theirs);

        let silence = worker.receive_within::<SignerOrder>(Duration::from_millis(1));
        drop(launcher);
        let lost = worker.receive_within::<SignerOrder>(SOON);

        assert!(matches!(silence, Err(ReceiveError::TimedOut)), "{silence:?}");
        assert!(matches!(lost, Err(ReceiveError::Closed)), "{lost:?}");
    }

    #[test]
    fn a_message_that_is_too_long_is_not_sent() {
        let (launcher, _worker) = Channel::pair().unwrap();
        let order = NotaryOrder::Sign { payload: vec![0; CONTROL_BYTES_MAX] };

        let sent = launcher.send(&order, &[]);

        assert!(matches!(sent, Err(SendError::TooLong { .. })), "{sent:?}");
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        let (mut launcher, theirs) = Channel::pair().unwrap();
        rustix::io::write(&theirs, &[0xff; 40]).unwrap();

        let received = launcher.receive_within::<SignerOrder>(SOON);

        assert!(matches!(received, Err(ReceiveError::Malformed(_))), "{received:?}");
    }

    #[test]
    fn the_last_word_of_a_peer_is_heard_although_it_left_an_order_unread() {
        // Given a peer that was sent an order,
        let (mut ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::new(theirs);
        ours.send(&"order", &[]).unwrap();

        // When it reports and ends without reading it,
        theirs.send(&"last word", &[]).unwrap();
        drop(theirs);

        // Then the report is heard before its end.
        assert_eq!(ours.receive::<String>().unwrap().message, "last word");
        assert!(matches!(ours.receive::<String>(), Err(ReceiveError::Closed)));
    }
}
