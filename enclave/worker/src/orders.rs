//! Waiting for the launcher's next order, with nothing left in a register.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use evanesce_guarded_memory::registers::quiesce_and_poll;
use evanesce_protocol::channel::{Channel, Received};
use evanesce_protocol::control::Refused;
use serde::de::DeserializeOwned;

/// Waits for the next order; `None` when the launcher is gone or talks nonsense, which is the same
/// to a worker.
pub(crate) fn next_order<M: DeserializeOwned>(channel: &mut Channel) -> Option<Received<M>> {
    wait(channel).ok()?;
    channel.receive().ok()
}

/// Waits until the launcher ends this process, or is gone itself: after the wipe there is nothing
/// left to give an order for.
///
/// An order to wipe may have been on its way when the worker wiped by itself. It is taken and not
/// obeyed again: left unread, it would have the launcher read a reset instead of the last report.
pub(crate) fn await_end<M: DeserializeOwned>(channel: &mut Channel) {
    while next_order::<M>(channel).is_some() {}
}

/// Takes exactly the descriptors that an order has to bring.
///
/// # Errors
///
/// [`Refused::Order`] with the order's name.
pub(crate) fn descriptors<const N: usize>(
    order: &str,
    found: Vec<OwnedFd>,
) -> Result<[OwnedFd; N], Refused> {
    <[OwnedFd; N]>::try_from(found).map_err(|_| Refused::Order { order: order.to_owned() })
}

fn wait(channel: &Channel) -> io::Result<usize> {
    loop {
        let mut descriptors =
            [libc::pollfd { fd: channel.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        match quiesce_and_poll(&mut descriptors, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
