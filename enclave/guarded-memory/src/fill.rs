//! Bytes from the kernel straight into guarded memory, with no buffer between.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Reads a descriptor from where it stands to its end, straight into `into` (read(2)).
///
/// Gives the number of bytes read. The end has to be seen, so `into` holds at least one byte more
/// than the longest input that is accepted.
///
/// # Errors
///
/// Input that fills `into`, and a failed read(2). What was read until then is in `into`: wipe it.
pub fn fill_to_end(into: &mut [u8], fd: BorrowedFd<'_>) -> Result<usize, FillError> {
    let mut filled = 0;
    loop {
        let room = &mut into[filled..];
        if room.is_empty() {
            return Err(FillError::TooLong { room: filled });
        }
        match rustix::io::read(fd, room) {
            Ok(0) => return Ok(filled),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(source) => return Err(FillError::Read { source }),
        }
    }
}

/// Fills all of `into` from the kernel's generator (getrandom(2)), which blocks until it is seeded.
///
/// # Errors
///
/// A failed getrandom(2): a kernel without it, or a filter that forbids it.
pub fn fill_random(into: &mut [u8]) -> Result<(), FillError> {
    let mut filled = 0;
    while filled < into.len() {
        match getrandom(&mut into[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(source) => return Err(FillError::Random { source }),
        }
    }
    Ok(())
}

/// Why guarded memory could not be filled. No variant holds a byte of what was read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FillError {
    /// The input goes on where the room ends.
    #[error("the input is longer than the {room} bytes there is room for")]
    TooLong {
        /// Bytes there was room for, the one that shows the end included.
        room: usize,
    },
    /// read(2) failed.
    #[error("could not read the descriptor into guarded memory")]
    Read {
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// getrandom(2) failed.
    #[error("could not fill guarded memory with random bytes")]
    Random {
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}

impl FillError {
    /// A stable name for reports and alerts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "fill.too-long",
            Self::Read { .. } => "fill.read",
            Self::Random { .. } => "fill.random",
        }
    }
}
