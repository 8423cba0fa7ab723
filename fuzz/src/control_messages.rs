//! A packet on the control channel: the first byte says which message is expected.

use std::cell::RefCell;
use std::fmt::Debug;
use std::os::fd::OwnedFd;

use evanesce_protocol::channel::Channel;
use evanesce_protocol::control::{NotaryOrder, NotaryReport, SignerOrder, SignerReport};
use evanesce_protocol::limits::CONTROL_BYTES_MAX;
use evanesce_protocol::smaps;
use rustix::net::{SendFlags, send};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::planted;

thread_local! {
    static ENDS: RefCell<(Channel, OwnedFd)> =
        RefCell::new(Channel::pair().expect("a socket pair"));
}

/// Sends the packet over a real channel, and reads it as the side it is meant for.
///
/// # Panics
///
/// Where something does not hold that must.
pub fn run(input: &[u8]) {
    let Some((kind, packet)) = input.split_first() else { return };
    if packet.is_empty() || packet.len() > CONTROL_BYTES_MAX {
        return;
    }
    match kind % 4 {
        0 => {
            if let Some(SignerOrder::Serve(serve)) = received(packet) {
                planted::bug_if(serve.certificate.iter().any(u8::is_ascii_digit));
            }
        }
        1 => {
            if let Some(SignerReport::Caged(report)) = received(packet) {
                for range in &report.ranges {
                    drop(smaps::parse(&range.smaps));
                }
            }
        }
        2 => drop(received::<NotaryOrder>(packet)),
        _ => drop(received::<NotaryReport>(packet)),
    }
}

fn received<M>(packet: &[u8]) -> Option<M>
where
    M: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let received = ENDS.with_borrow_mut(|(channel, peer)| {
        let sent = send(&*peer, packet, SendFlags::NOSIGNAL).expect("the other end is open");
        assert_eq!(sent, packet.len());
        channel.receive::<M>()
    });
    let message = received.ok()?.message;
    let written = postcard::to_allocvec(&message).expect("memory is enough");
    let again: M = postcard::from_bytes(&written).expect("what was written is read");
    assert_eq!(again, message);
    Some(message)
}
