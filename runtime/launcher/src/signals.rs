//! Signals to the launcher, as descriptors that can be polled.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;

use crate::command::ENDING;

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) signal: Signal,
    pub(crate) sender: Sender,
}

/// Who sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The terminal, which sent it to the command as well: both are in its foreground group.
    Terminal,
    /// A process, to this one alone as far as can be told.
    Process,
}

/// Catches those signals that are meant for the command, from its making until it is dropped.
pub(crate) struct Signals {
    delivery: SignalDelivery<UnixStream, WithRawSiginfo>,
}

impl Signals {
    pub(crate) fn catch() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        for end in [&read, &write] {
            end.set_nonblocking(true)?;
        }
        let signals = FORWARDED.map(Signal::as_raw);
        let delivery = SignalDelivery::with_pipe(read, write, WithRawSiginfo, signals)?;
        Ok(Self { delivery })
    }

    /// The signals since the last call.
    pub(crate) fn pending(&mut self) -> Vec<Arrived> {
        self.delivery
            .pending()
            .filter_map(|info| {
                let signal = Signal::from_named_raw(info.si_signo)?;
                let sender = match info.si_code == SI_KERNEL {
                    true => Sender::Terminal,
                    false => Sender::Process,
                };
                Some(Arrived { signal, sender })
            })
            .collect()
    }
}

impl Signals {
    /// Whether a signal came since the last look that asks to end: its number.
    pub(crate) fn ending(&mut self) -> Option<i32> {
        let asks = |arrived: &Arrived| ENDING.contains(&arrived.signal);
        self.pending().into_iter().find(asks).map(|arrived| arrived.signal.as_raw())
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.delivery.handle().close();
    }
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}

const FORWARDED: [Signal; 6] =
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// `SI_KERNEL` (sigaction(2)): sent by the kernel, as for a key pressed at the terminal.
const SI_KERNEL: i32 = 0x80;
