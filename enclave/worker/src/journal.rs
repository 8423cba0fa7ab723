//! The journal of requests: what was signed, in order, written before the signature is given out.

use std::os::fd::OwnedFd;

use evanesce_protocol::Digest;
use evanesce_protocol::control::Refused;
use rustix::io::Errno;

/// An append-only file of request digests, 32 bytes each, that outlives this process.
///
/// The launcher moves its content into the ledger. Should both processes be killed, the file still
/// holds every request whose signature may have been given out.
#[derive(Debug)]
pub(crate) struct Journal {
    file: OwnedFd,
}

impl Journal {
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self { file }
    }

    /// Appends one digest.
    ///
    /// # Errors
    ///
    /// [`Refused::Journal`] where it was not written whole; the request must not be signed then.
    pub(crate) fn append(&mut self, request: &Digest) -> Result<(), Refused> {
        loop {
            match rustix::io::write(&self.file, request.as_bytes()) {
                Ok(Digest::BYTES) => return Ok(()),
                Ok(_) => {
                    return Err(Refused::Journal { errno: Errno::NOSPC.raw_os_error() });
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(Refused::Journal { errno: errno.raw_os_error() });
                }
            }
        }
    }
}
