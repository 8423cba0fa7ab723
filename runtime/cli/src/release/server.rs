//! A holder that listens: one message in and one out on each connection.
//!
//! Connections are read and written by threads of their own, each with a deadline; what is asked is
//! answered by one thread, one after the other. Whoever is slow holds up nobody else.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustls::{ServerConfig, StreamOwned};

use super::address::Address;
use super::stream::{self, LOOK, Socket, Timed};
use super::tls;
use crate::errors::Coded;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: ListeningSocket,
    tls: Option<Arc<ServerConfig>>,
    address: Address,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(TcpListener),
    Unix { socket: UnixListener, _file: Unlink },
}

/// Removes a socket's file when it is dropped.
#[derive(Debug)]
struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        // The next one that listens there removes it otherwise.
        std::fs::remove_file(&self.0).unwrap_or(());
    }
}

impl Listener {
    /// Listens at `address`; `tls` for one with TLS.
    pub(crate) fn open(
        address: &Address,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Self, ListenError> {
        Self::try_open(address, tls)
            .map_err(|source| ListenError { address: address.clone(), source })
    }

    fn try_open(address: &Address, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let (socket, address) = match address {
            Address::Unix(path) => (listen_at(path)?, address.clone()),
            Address::Loopback(wanted) => {
                let socket = TcpListener::bind(wanted)?;
                let address = Address::Loopback(socket.local_addr()?);
                (ListeningSocket::Tcp(socket), address)
            }
            Address::Tls { host, port } => {
                let socket = TcpListener::bind((host.as_str(), *port))?;
                let port = socket.local_addr()?.port();
                (ListeningSocket::Tcp(socket), Address::Tls { host: host.clone(), port })
            }
        };
        match &socket {
            ListeningSocket::Tcp(socket) => socket.set_nonblocking(true)?,
            ListeningSocket::Unix { socket, .. } => socket.set_nonblocking(true)?,
        }
        Ok(Self { socket, tls, address })
    }

    /// Where it listens, with the port that the kernel chose.
    pub(crate) const fn address(&self) -> &Address {
        &self.address
    }

    /// Answers until `stop` is set: `work` is given each message, and returns what is sent back.
    /// Messages that were read by then are answered.
    pub(crate) fn serve(&self, stop: &AtomicBool, mut work: impl FnMut(&[u8]) -> String) {
        let (asked, questions) = mpsc::sync_channel::<Question>(0);
        let live = AtomicUsize::new(0);
        thread::scope(|scope| {
            let live = &live;
            scope.spawn(move || {
                // Dropped with this thread: then nothing more is asked.
                let asked = asked;
                while !stop.load(Ordering::Relaxed) {
                    let Some(socket) = self.accept() else { continue };
                    if live.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                        live.fetch_sub(1, Ordering::Relaxed);
                        continue;
                    }
                    let asked = asked.clone();
                    scope.spawn(move || {
                        // Whoever does not speak the protocol in time gets no answer.
                        self.converse(socket, stop, &asked).unwrap_or(());
                        live.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            });
            loop {
                match questions.recv_timeout(LOOK) {
                    Ok(Question { line, reply }) => {
                        // Nobody waits for it where the connection was lost.
                        reply.send(work(&line)).unwrap_or(());
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        });
    }

    /// The next connection, if one comes soon.
    fn accept(&self) -> Option<Socket> {
        let look = Timespec::try_from(LOOK).expect("a fraction of a second");
        let mut watched = [PollFd::new(self, PollFlags::IN)];
        if poll(&mut watched, Some(&look)).ok()? == 0 {
            return None;
        }
        match &self.socket {
            ListeningSocket::Tcp(socket) => {
                let (socket, _) = socket.accept().ok()?;
                socket.set_nonblocking(false).ok()?;
                Some(Socket::Tcp(socket))
            }
            ListeningSocket::Unix { socket, .. } => {
                let (socket, _) = socket.accept().ok()?;
                socket.set_nonblocking(false).ok()?;
                Some(Socket::Unix(socket))
            }
        }
    }

    fn converse(
        &self,
        socket: Socket,
        stop: &AtomicBool,
        asked: &SyncSender<Question>,
    ) -> io::Result<()> {
        // What is half sent when the holder ends is not waited for; an answer is sent to its end.
        let mut is_wanted = || !stop.load(Ordering::Relaxed);
        let timed = Timed::new(socket, MESSAGE_TIMEOUT, &mut is_wanted)?;
        match &self.tls {
            Some(config) => {
                let mut secured = StreamOwned::new(tls::accept(config)?, timed);
                answer(&mut secured, asked, |secured| secured.sock.extend(MESSAGE_TIMEOUT))
            }
            None => {
                let mut timed = timed;
                answer(&mut timed, asked, |timed| timed.extend(MESSAGE_TIMEOUT))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => socket.as_fd(),
            ListeningSocket::Unix { socket, .. } => socket.as_fd(),
        }
    }
}

/// Reads one message, has it answered, and sends the answer with as much time again.
fn answer<S: Read + Write>(
    stream: &mut S,
    asked: &SyncSender<Question>,
    again: impl FnOnce(&mut S),
) -> io::Result<()> {
    let line = stream::receive(stream)?;
    let (reply, answer) = mpsc::sync_channel(1);
    let gone = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    asked.send(Question { line, reply }).map_err(gone)?;
    let answer = answer.recv().map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))?;
    again(stream);
    stream::send(stream, &answer)
}

/// A message, and where its answer goes.
struct Question {
    line: Vec<u8>,
    reply: SyncSender<String>,
}

/// Listens at a path, for this user alone. What a holder left there that died is removed.
fn listen_at(path: &Path) -> io::Result<ListeningSocket> {
    let is_dead = std::fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err();
    if is_dead {
        std::fs::remove_file(path)?;
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    Ok(ListeningSocket::Unix { socket: bound?, _file: Unlink(path.to_owned()) })
}

/// The address cannot be listened at.
#[derive(Debug, thiserror::Error)]
#[error("{address} cannot be listened at")]
pub(crate) struct ListenError {
    address: Address,
    #[source]
    source: io::Error,
}

impl Coded for ListenError {
    fn code(&self) -> &'static str {
        "release.listen"
    }
}

/// Connections at one time; the next ones are closed.
const CONNECTIONS_MAX: usize = 32;

/// For one message to arrive, TLS included, and again for its answer to be taken.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
