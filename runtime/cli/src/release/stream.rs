//! One message in each direction over a socket, each with a limit, all before a deadline.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use evanesce_release::frame;

/// A connection, before anything is wrapped around it.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Over a network, or on a loopback address.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

impl Socket {
    fn set_timeouts(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => {
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(timeout))?;
                socket.set_write_timeout(Some(timeout))
            }
            Self::Unix(socket) => {
                socket.set_read_timeout(Some(timeout))?;
                socket.set_write_timeout(Some(timeout))
            }
        }
    }
}

/// A socket on which nothing is waited for after a deadline, or once nobody wants it any more.
pub(crate) struct Timed<'w> {
    socket: Socket,
    deadline: Instant,
    is_wanted: &'w mut (dyn FnMut() -> bool + 'w),
    /// What is left to do is done whoever wants it.
    is_due: bool,
}

impl<'w> Timed<'w> {
    /// Bounds everything that is done on `socket`.
    ///
    /// # Errors
    ///
    /// Where its time-outs cannot be set.
    pub(crate) fn new(
        socket: Socket,
        timeout: Duration,
        is_wanted: &'w mut (dyn FnMut() -> bool + 'w),
    ) -> io::Result<Self> {
        socket.set_timeouts(LOOK)?;
        Ok(Self { socket, deadline: Instant::now() + timeout, is_wanted, is_due: false })
    }

    /// Gives `timeout` from now on, whether anybody wants it or not.
    pub(crate) fn extend(&mut self, timeout: Duration) {
        self.deadline = Instant::now() + timeout;
        self.is_due = true;
    }

    /// Does `step` again until it is done, fails, or is not to be waited for.
    fn bounded<T>(&mut self, mut step: impl FnMut(&mut Socket) -> io::Result<T>) -> io::Result<T> {
        loop {
            if Instant::now() >= self.deadline || !(self.is_due || (self.is_wanted)()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match step(&mut self.socket) {
                Err(error) if is_transient(&error) => {}
                result => return result,
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.bounded(|socket| match socket {
            Socket::Tcp(socket) => socket.read(into),
            Socket::Unix(socket) => socket.read(into),
        })
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bounded(|socket| match socket {
            Socket::Tcp(socket) => socket.write(bytes),
            Socket::Unix(socket) => socket.write(bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Timed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timed").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Sends one message.
pub(crate) fn send(stream: &mut dyn Write, line: &str) -> io::Result<()> {
    stream.write_all(&frame::write(line))?;
    stream.flush()
}

/// Receives one message. What comes behind it is not read.
pub(crate) fn receive(stream: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = [0; frame::HEAD_BYTES];
    stream.read_exact(&mut head)?;
    let length = frame::length(head).ok_or(io::ErrorKind::InvalidData)?;
    let mut line = Vec::new();
    stream.take(length as u64).read_to_end(&mut line)?;
    match line.len() == length {
        true => Ok(line),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// How often is looked whether to go on.
pub(crate) const LOOK: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_received_as_it_was_sent_and_a_cut_one_is_not() {
        let mut sent = Vec::new();
        send(&mut sent, "{\"v\":1}").unwrap();

        assert_eq!(receive(&mut sent.as_slice()).unwrap(), b"{\"v\":1}");
        for end in 0..sent.len() {
            let error = receive(&mut &sent[..end]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {end}");
        }
        let error = receive(&mut [0xff; 8].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_peer_that_says_nothing_is_not_waited_for_beyond_the_deadline() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut always = || true;
        let mut timed =
            Timed::new(Socket::Unix(ours), Duration::from_millis(10), &mut always).unwrap();

        assert_eq!(receive(&mut timed).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn who_is_not_wanted_any_more_is_not_waited_for() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut looks = 0;
        let mut is_wanted = || {
            looks += 1;
            looks < 3
        };
        let mut timed =
            Timed::new(Socket::Unix(ours), Duration::from_secs(60), &mut is_wanted).unwrap();

        assert_eq!(receive(&mut timed).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(looks, 3);
    }
}
