//! Asking a holder that listens.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use evanesce_release::Hello;
use rustls::{ClientConfig, StreamOwned};

use super::address::Address;
use super::stream::{self, Socket, Timed};
use super::tls;
use crate::errors::Coded;

/// A holder, and how it is reached.
#[derive(Debug)]
pub(crate) struct Client {
    address: Address,
    tls: Option<Arc<ClientConfig>>,
}

impl Client {
    /// Takes the address; `tls` for one with TLS.
    pub(crate) const fn new(address: Address, tls: Option<Arc<ClientConfig>>) -> Self {
        Self { address, tls }
    }

    /// Asks for a challenge.
    pub(crate) fn hello(&self) -> Result<Vec<u8>, ClientError> {
        self.exchange(&Hello {}.to_text(), HELLO_TIMEOUT, &mut || true)
    }

    /// Sends one message and waits for one, at most for `timeout`, while `is_wanted` says so.
    pub(crate) fn exchange(
        &self,
        line: &str,
        timeout: Duration,
        is_wanted: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<u8>, ClientError> {
        self.try_exchange(line, timeout, is_wanted)
            .map_err(|source| ClientError { address: self.address.clone(), source })
    }

    fn try_exchange(
        &self,
        line: &str,
        timeout: Duration,
        is_wanted: &mut dyn FnMut() -> bool,
    ) -> io::Result<Vec<u8>> {
        let socket = self.connect()?;
        let mut timed = Timed::new(socket, timeout, is_wanted)?;
        match (&self.address, &self.tls) {
            (Address::Tls { host, .. }, Some(config)) => {
                let mut secured = StreamOwned::new(tls::connect(config, host)?, timed);
                stream::send(&mut secured, line)?;
                stream::receive(&mut secured)
            }
            (Address::Tls { .. }, None) => Err(io::Error::other("TLS was not set up")),
            _ => {
                stream::send(&mut timed, line)?;
                stream::receive(&mut timed)
            }
        }
    }

    fn connect(&self) -> io::Result<Socket> {
        match &self.address {
            Address::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
            Address::Loopback(address) => connect_to(&[*address]),
            Address::Tls { host, port } => {
                let found: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
                connect_to(&found)
            }
        }
    }
}

/// The first of the addresses that answers.
fn connect_to(addresses: &[SocketAddr]) -> io::Result<Socket> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses.iter().take(ADDRESSES_MAX) {
        match TcpStream::connect_timeout(address, CONNECT_TIMEOUT) {
            Ok(socket) => return Ok(Socket::Tcp(socket)),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// There was no answer.
#[derive(Debug, thiserror::Error)]
#[error("{address} did not answer")]
pub(crate) struct ClientError {
    address: Address,
    #[source]
    source: io::Error,
}

impl Coded for ClientError {
    fn code(&self) -> &'static str {
        "release.channel"
    }
}

/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 4;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For a holder whose worker may have to open the key to know its public half.
const HELLO_TIMEOUT: Duration = Duration::from_secs(60);
