//! Every limit of the server, by name, in one place. `docs/remote-signing.md` lists them.

use std::time::Duration;

/// Bytes in the body of a request. The longest that is expected, a digest with a context, has 500.
pub const BODY_BYTES_MAX: usize = 4 * 1024;

/// Bytes in the head of a request.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Headers of a request.
pub const HEADERS_MAX: usize = 64;

/// Connections at a time, where the configuration names no number; the next one waits to be accepted.
pub const CONNECTIONS_DEFAULT: usize = 1_024;

/// The most that a configuration may name.
pub const CONNECTIONS_MAX: usize = 65_536;

/// Requests under way on one HTTP/2 connection.
pub const STREAMS_MAX: u32 = 64;

/// Requests under way at one worker.
pub const OUTSTANDING_MAX: usize = 256;

/// Requests that wait for one worker; the next one is answered 503.
pub const QUEUE_MAX: usize = 1_024;

/// Clients of one policy.
pub const CLIENTS_MAX: usize = 1_024;

/// Keys of one server.
pub const KEYS_MAX: usize = 64;

/// Addresses that are listened at.
pub const ADDRESSES_MAX: usize = 16;

/// Bytes in a configuration file.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Bytes in a file of certificates, keys or revocation lists.
pub const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// How long a client may take for what; a configuration may say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the TLS handshake, from the moment a connection is accepted.
    pub handshake: Duration,
    /// For the head of a request, and for a connection on which nothing is asked.
    pub idle: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// For the answer to a request, its body included.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            body: Duration::from_secs(5),
            request: Duration::from_secs(10),
        }
    }
}

/// The most that a configuration may name for any of them.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// For the answer to a request for evidence: a quote of a confidential machine may take half a minute.
pub const EVIDENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// For a connection that was told to close.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// For the requests under way when the server is to stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Threads that serve connections.
pub const THREADS_MAX: usize = 64;
