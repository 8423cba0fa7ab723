//! What a launcher and the first program of a worker's machine say to each other.
//!
//! A worker in a machine of its own speaks its protocol, [`crate::control`], with the machine's
//! first program, which hands each packet on over the one port there is. What cannot travel over a
//! port, descriptors, is made anew inside: a listening socket whose clients are carried over one
//! by one, a journal whose entries are carried out, a watched directory in which the kill switch
//! appears when it does outside. Evidence is collected inside as well, and bound there.
//!
//! A message is its length, four bytes with the least significant first, and as many bytes of
//! postcard. None has room for a private key: a key is born inside of the machine or it is not
//! there.
//!
//! What a client sends is carried in one [`ToMachine::Data`] at a time: the next waits for
//! [`FromMachine::Taken`]. So neither side keeps more than one piece for each client.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::control::{SignerOrder, SignerReport};
use crate::evidence::{AttesterReport, EvidenceSource, Nonce, NotaryPoint, ReleaseKey};
use crate::ids::{Digest, PublicKey};
use crate::limits::MACHINE_FRAME_BYTES_MAX;

/// The name of the port, as `/sys/class/virtio-ports/*/name` has it inside.
pub const PORT: &str = "evanesce";

/// What the launcher says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMachine {
    /// Start the signer's worker: the first message, once.
    Start {
        /// The worker's second argument, [`crate::control::Strength::argument`].
        strength: String,
    },
    /// An order to the worker. Its descriptors are made anew inside.
    Order(Box<SignerOrder>),
    /// Have the platform vouch for the worker's key. One at a time.
    Vouch(Box<Vouch>),
    /// The kill switch appeared.
    KillSwitch,
    /// A client connected. Its number is not that of another one that is connected.
    Connected {
        /// Its number.
        client: u32,
    },
    /// A client sent this.
    Data {
        /// Its number.
        client: u32,
        /// At most [`crate::limits::MACHINE_DATA_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// A client is gone.
    Gone {
        /// Its number.
        client: u32,
    },
}

/// What a machine is asked to vouch for.
///
/// It is bound as [`Binding`] says, by the machine's first program: what that knows itself (the
/// worker, the signer) is not asked for, and what does not fit what it has seen of its worker is
/// refused. So a launcher, and whoever controls it, cannot have evidence made of any other key.
///
/// [`Binding`]: crate::evidence::Binding
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouch {
    /// The worker's key, or the one that is to be released to it.
    pub public_key: PublicKey,
    /// For a release: the release key that the worker offered for it.
    pub release_key: Option<ReleaseKey>,
    /// What makes the evidence fresh.
    pub nonce: Nonce,
    /// The notary that stands beside the worker, outside of the machine.
    pub notary: NotaryPoint,
    /// The text of the runtime configuration
    /// ([`crate::evidence::RuntimeConfiguration`]).
    pub configuration: String,
    /// What may give evidence.
    pub source: EvidenceSource,
}

/// What the machine's first program says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromMachine {
    /// What it sees of the worker: sent before the worker's first report.
    Seen {
        /// The text of the worker's `/proc/PID/status`.
        status: String,
        /// The text of its `/proc/PID/limits`.
        limits: String,
    },
    /// A report of the worker.
    Report(Box<SignerReport>),
    /// What came of [`ToMachine::Vouch`].
    Vouched(Box<AttesterReport>),
    /// The worker put this request into its journal. Sent before the answer that it belongs to.
    Requested {
        /// The request.
        request: Digest,
    },
    /// What a client sent was handed to the worker; the next may be sent.
    Taken {
        /// Its number.
        client: u32,
    },
    /// The worker answers a client.
    Data {
        /// Its number.
        client: u32,
        /// At most [`crate::limits::MACHINE_DATA_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// The worker dropped a client.
    Gone {
        /// Its number.
        client: u32,
    },
    /// The worker ended; the machine ends next.
    Ended {
        /// How: `exit status: 0`.
        status: String,
    },
    /// The machine cannot go on, and ends.
    Failed {
        /// The step.
        step: String,
        /// The error number, or 0 where there is none.
        errno: i32,
    },
}

/// A message with its length before it.
///
/// # Panics
///
/// Where it is longer than any message may be.
pub fn frame<M: Serialize>(message: &M) -> Vec<u8> {
    let body = postcard::to_allocvec(message).expect("a message serialises into memory");
    assert!(body.len() <= MACHINE_FRAME_BYTES_MAX, "no message is that long");
    let length = u32::try_from(body.len()).expect("it was compared with the limit");
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// Puts messages together from what a port gives.
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
}

impl FrameReader {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole message; `None` where there is none yet.
    ///
    /// # Errors
    ///
    /// [`FrameError`] where what is there is no message: nothing that comes after it can be one.
    pub fn next_message<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        let Some((length, rest)) = self.bytes.split_first_chunk() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > MACHINE_FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { found: length });
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let (message, left) = postcard::take_from_bytes(body).map_err(FrameError::Malformed)?;
        if !left.is_empty() {
            return Err(FrameError::Trailing { found: left.len() });
        }
        self.bytes.drain(..LENGTH_BYTES + length);
        Ok(Some(message))
    }
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than [`MACHINE_FRAME_BYTES_MAX`].
    #[error(
        "a message of the machine has at most {MACHINE_FRAME_BYTES_MAX} bytes, this one {found}"
    )]
    TooLong {
        /// Bytes that it claims to have.
        found: usize,
    },
    /// Not a message of this protocol.
    #[error("a message of the machine is malformed")]
    Malformed(#[source] postcard::Error),
    /// A message with something behind it.
    #[error("a message of the machine has {found} bytes too many")]
    Trailing {
        /// How many.
        found: usize,
    },
}

const LENGTH_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let messages = [
            ToMachine::Start { strength: "strict".into() },
            ToMachine::Connected { client: 7 },
            ToMachine::Data { client: 7, bytes: vec![1; 300] },
            ToMachine::Gone { client: 7 },
        ];
        let bytes: Vec<u8> = messages.iter().flat_map(frame).collect();
        for piece in [1, 3, 5, 64, bytes.len()] {
            let mut reader = FrameReader::default();
            let mut out = Vec::new();
            for bytes in bytes.chunks(piece) {
                reader.push(bytes);
                while let Some(message) = reader.next_message::<ToMachine>().unwrap() {
                    out.push(message);
                }
            }
            assert_eq!(out, messages);
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_kept_for_it() {
        let mut reader = FrameReader::default();
        reader.push(&u32::MAX.to_le_bytes());

        let refused = reader.next_message::<FromMachine>();

        assert!(matches!(refused, Err(FrameError::TooLong { .. })), "{refused:?}");
    }

    #[test]
    fn bytes_behind_a_message_are_refused() {
        let mut bytes = frame(&FromMachine::Taken { client: 1 });
        bytes.push(0);
        bytes[0] += 1;
        let mut reader = FrameReader::default();
        reader.push(&bytes);

        let refused = reader.next_message::<FromMachine>();

        assert!(matches!(refused, Err(FrameError::Trailing { found: 1 })), "{refused:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = FrameReader::default();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_message::<FromMachine>() {}
        }
    }
}
