//! The ssh-agent protocol (RFC 9987), as far as a signer has business with it, and our extension.
//!
//! Of the protocol's requests a worker answers three: list the identities, sign, and extensions.
//! Everything else (adding, removing, locking keys) is answered with a failure, as is anything
//! malformed. [`Frames`] cuts a byte stream into frames; [`Request::parse`] reads one; the
//! functions of [`response`] write the answers. The client's side is in [`request`].
//!
//! # The extension `sign-digest@evanesce.dev`
//!
//! OpenSSH's agent protocol has no way to sign a digest that the client made. This extension adds
//! one, for keys bound to [`crate::KeyUse::Digest`]: Ed25519ph with SHA-512 (RFC 8032, section 5.1).
//!
//! ```text
//! byte      27  SSH_AGENTC_EXTENSION
//! string    "sign-digest@evanesce.dev"
//! string    key blob
//! string    context, 0 to 255 bytes
//! string    digest, 64 bytes
//! ```
//!
//! The answer is `SSH_AGENT_EXTENSION_RESPONSE` (29), the extension's name again, and the 64 bytes
//! of the signature as a string, or `SSH_AGENT_EXTENSION_FAILURE` (28). The full description is in
//! `docs/formats/agent-extension.md`.

use std::ops::Range;

use ssh_encoding::{Decode as _, Encode as _, Error};

use crate::limits::{AGENT_FRAME_BYTES_MAX, CONTEXT_BYTES_MAX};
use crate::wire::{finish, take_string, take_text};

/// The name of our extension.
pub const SIGN_DIGEST: &str = "sign-digest@evanesce.dev";

/// The name of the extension that lists extensions (RFC 9987).
pub const QUERY: &str = "query";

/// The SSH name of the signature algorithm.
pub const ED25519: &str = "ssh-ed25519";

/// Bytes in a SHA-512 digest.
pub const DIGEST_BYTES: usize = 64;

/// Bytes in an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `SSH_AGENTC_REQUEST_IDENTITIES`.
    Identities,
    /// `SSH_AGENTC_SIGN_REQUEST`. Its flags ask for RSA variants and mean nothing here.
    Sign {
        /// The key to sign with, as SSH encodes it.
        key: &'a [u8],
        /// The message.
        message: &'a [u8],
    },
    /// The extension `query`.
    Query,
    /// The extension [`SIGN_DIGEST`].
    SignDigest {
        /// The key to sign with, as SSH encodes it.
        key: &'a [u8],
        /// The context, at most 255 bytes.
        context: &'a [u8],
        /// The SHA-512 digest of the message.
        digest: &'a [u8; DIGEST_BYTES],
    },
    /// An extension that is not known here.
    UnknownExtension,
    /// Any other request.
    Unsupported,
}

impl<'a> Request<'a> {
    /// Reads a frame without its length bytes.
    ///
    /// # Errors
    ///
    /// [`ParseRequestError`] where a field is cut off, of the wrong size, or bytes are left over.
    pub fn parse(frame: &'a [u8]) -> Result<Self, ParseRequestError> {
        let mut rest = frame;
        match u8::decode(&mut rest)? {
            SSH_AGENTC_REQUEST_IDENTITIES => {
                finish(rest)?;
                Ok(Self::Identities)
            }
            SSH_AGENTC_SIGN_REQUEST => {
                let key = take_string(&mut rest)?;
                let message = take_string(&mut rest)?;
                let _flags = u32::decode(&mut rest)?;
                finish(rest)?;
                Ok(Self::Sign { key, message })
            }
            SSH_AGENTC_EXTENSION => match take_text(&mut rest)? {
                QUERY => Ok(Self::Query),
                SIGN_DIGEST => {
                    let key = take_string(&mut rest)?;
                    let context = take_string(&mut rest)?;
                    let digest = take_string(&mut rest)?;
                    finish(rest)?;
                    if context.len() > CONTEXT_BYTES_MAX {
                        return Err(ParseRequestError::Context { found: context.len() });
                    }
                    let digest = digest
                        .try_into()
                        .map_err(|_| ParseRequestError::Digest { found: digest.len() })?;
                    Ok(Self::SignDigest { key, context, digest })
                }
                _ => Ok(Self::UnknownExtension),
            },
            _ => Ok(Self::Unsupported),
        }
    }
}

/// Why a frame is not a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseRequestError {
    /// The context is longer than Ed25519ph takes.
    #[error("a context has at most {CONTEXT_BYTES_MAX} bytes, this one has {found}")]
    Context {
        /// Bytes in the context.
        found: usize,
    },
    /// The digest is not one of SHA-512.
    #[error("a SHA-512 digest has {DIGEST_BYTES} bytes, this one has {found}")]
    Digest {
        /// Bytes in the digest.
        found: usize,
    },
    /// A field is cut off, or bytes are left over.
    #[error("the agent request is malformed")]
    Malformed(#[source] Error),
}

impl From<Error> for ParseRequestError {
    fn from(error: Error) -> Self {
        Self::Malformed(error)
    }
}

/// Cuts the bytes of one connection into frames.
///
/// Holds at most one frame and what was read behind it: a client cannot make it grow by sending.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Where the next frame starts; all before it was taken.
    start: usize,
}

impl Frames {
    /// Adds bytes that were read from the connection.
    pub fn push(&mut self, read: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(read);
    }

    /// Takes the next whole frame, without its length bytes; `None` until more is read.
    ///
    /// # Errors
    ///
    /// [`FrameTooLong`] where the length bytes announce more than [`AGENT_FRAME_BYTES_MAX`]: the
    /// connection is beyond repair.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameTooLong> {
        let Some(frame) = self.whole_frame()? else {
            return Ok(None);
        };
        self.start = frame.end;
        Ok(Some(&self.bytes[frame]))
    }

    /// Whether [`Self::next_frame`] has more to say without another read.
    pub fn is_ready(&self) -> bool {
        !matches!(self.whole_frame(), Ok(None))
    }

    /// Where the next frame is, without its length bytes, if all of it is there.
    fn whole_frame(&self) -> Result<Option<Range<usize>>, FrameTooLong> {
        let Some((length, rest)) = self.bytes[self.start..].split_first_chunk() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes(*length);
        let bytes = usize::try_from(announced)
            .ok()
            .filter(|bytes| *bytes <= AGENT_FRAME_BYTES_MAX)
            .ok_or(FrameTooLong { announced })?;
        let start = self.start + length.len();
        Ok((bytes <= rest.len()).then_some(start..start + bytes))
    }
}

/// A frame longer than any that this protocol has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an agent frame has at most {AGENT_FRAME_BYTES_MAX} bytes, this one announces {announced}")]
pub struct FrameTooLong {
    /// The length that the frame announces.
    pub announced: u32,
}

/// The worker's answers: each writes one frame, length bytes included, to the end of `out`.
pub mod response {
    use super::*;

    /// `SSH_AGENT_FAILURE`.
    pub fn failure(out: &mut Vec<u8>) {
        frame(out, |out| out.push(SSH_AGENT_FAILURE));
    }

    /// `SSH_AGENT_EXTENSION_FAILURE`: the extension is known, its request was refused.
    pub fn extension_failure(out: &mut Vec<u8>) {
        frame(out, |out| out.push(SSH_AGENT_EXTENSION_FAILURE));
    }

    /// `SSH_AGENT_IDENTITIES_ANSWER` over (key blob, comment) pairs.
    pub fn identities(out: &mut Vec<u8>, identities: &[(&[u8], &str)]) {
        frame(out, |out| {
            out.push(SSH_AGENT_IDENTITIES_ANSWER);
            put_len(out, identities.len());
            for (key, comment) in identities {
                put_string(out, key);
                put_string(out, comment.as_bytes());
            }
        });
    }

    /// `SSH_AGENT_SIGN_RESPONSE` with an `ssh-ed25519` signature.
    pub fn signature(out: &mut Vec<u8>, signature: &[u8; SIGNATURE_BYTES]) {
        frame(out, |out| {
            out.push(SSH_AGENT_SIGN_RESPONSE);
            put_len(out, 4 + ED25519.len() + 4 + SIGNATURE_BYTES);
            put_string(out, ED25519.as_bytes());
            put_string(out, signature);
        });
    }

    /// `SSH_AGENT_EXTENSION_RESPONSE` to [`QUERY`]: the names of the extensions.
    pub fn extensions(out: &mut Vec<u8>) {
        frame(out, |out| {
            out.push(SSH_AGENT_EXTENSION_RESPONSE);
            for name in [QUERY, QUERY, SIGN_DIGEST] {
                put_string(out, name.as_bytes());
            }
        });
    }

    /// `SSH_AGENT_EXTENSION_RESPONSE` to [`SIGN_DIGEST`].
    pub fn digest_signature(out: &mut Vec<u8>, signature: &[u8; SIGNATURE_BYTES]) {
        frame(out, |out| {
            out.push(SSH_AGENT_EXTENSION_RESPONSE);
            put_string(out, SIGN_DIGEST.as_bytes());
            put_string(out, signature);
        });
    }
}

/// A client's requests: each makes one frame, length bytes included.
pub mod request {
    use super::*;

    /// `SSH_AGENTC_REQUEST_IDENTITIES`.
    pub fn identities() -> Vec<u8> {
        framed(|out| out.push(SSH_AGENTC_REQUEST_IDENTITIES))
    }

    /// `SSH_AGENTC_SIGN_REQUEST`.
    pub fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
        framed(|out| {
            out.push(SSH_AGENTC_SIGN_REQUEST);
            put_string(out, key);
            put_string(out, message);
            out.extend([0; 4]);
        })
    }

    /// The extension [`SIGN_DIGEST`].
    pub fn sign_digest(key: &[u8], context: &[u8], digest: &[u8; DIGEST_BYTES]) -> Vec<u8> {
        framed(|out| {
            out.push(SSH_AGENTC_EXTENSION);
            for field in [SIGN_DIGEST.as_bytes(), key, context, digest] {
                put_string(out, field);
            }
        })
    }

    fn framed(body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        frame(&mut out, body);
        out
    }
}

/// What an agent answered, as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A failure of any kind: the protocol gives no reason.
    Failure,
    /// The identities: key blob and comment.
    Identities(Vec<(Vec<u8>, String)>),
    /// A signature over a message, or over a digest.
    Signature([u8; SIGNATURE_BYTES]),
}

impl Response {
    /// Reads a frame without its length bytes.
    ///
    /// # Errors
    ///
    /// [`ssh_encoding::Error`] for anything that evanesce's agent does not answer.
    pub fn parse(frame: &[u8]) -> Result<Self, Error> {
        let mut rest = frame;
        match u8::decode(&mut rest)? {
            SSH_AGENT_FAILURE | SSH_AGENT_EXTENSION_FAILURE => Ok(Self::Failure),
            SSH_AGENT_IDENTITIES_ANSWER => {
                let count = u32::decode(&mut rest)?;
                let mut identities = Vec::new();
                for _ in 0..count {
                    let key = take_string(&mut rest)?.to_vec();
                    identities.push((key, take_text(&mut rest)?.to_owned()));
                }
                finish(rest)?;
                Ok(Self::Identities(identities))
            }
            SSH_AGENT_SIGN_RESPONSE => {
                let mut blob = take_string(&mut rest)?;
                finish(rest)?;
                if take_text(&mut blob)? != ED25519 {
                    return Err(Error::CharacterEncoding);
                }
                let signature = take_string(&mut blob)?.try_into().map_err(|_| Error::Length)?;
                finish(blob)?;
                Ok(Self::Signature(signature))
            }
            SSH_AGENT_EXTENSION_RESPONSE => {
                if take_text(&mut rest)? != SIGN_DIGEST {
                    return Err(Error::CharacterEncoding);
                }
                let signature = take_string(&mut rest)?.try_into().map_err(|_| Error::Length)?;
                finish(rest)?;
                Ok(Self::Signature(signature))
            }
            _ => Err(Error::Length),
        }
    }
}

/// Appends one frame: four length bytes and what `body` writes.
fn frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    body(out);
    let bytes = u32::try_from(out.len() - start - 4).expect("a frame is far below 4 GiB");
    out[start..start + 4].copy_from_slice(&bytes.to_be_bytes());
}

fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    string.encode(out).expect("a Vec takes any field below 4 GiB");
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    len.encode(out).expect("a Vec takes four bytes");
}

// RFC 9987, section 6: message numbers.
const SSH_AGENT_FAILURE: u8 = 5;
const SSH_AGENTC_REQUEST_IDENTITIES: u8 = 11;
const SSH_AGENT_IDENTITIES_ANSWER: u8 = 12;
const SSH_AGENTC_SIGN_REQUEST: u8 = 13;
const SSH_AGENT_SIGN_RESPONSE: u8 = 14;
const SSH_AGENTC_EXTENSION: u8 = 27;
const SSH_AGENT_EXTENSION_FAILURE: u8 = 28;
const SSH_AGENT_EXTENSION_RESPONSE: u8 = 29;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(frame: &[u8]) -> &[u8] {
        &frame[4..]
    }

    #[test]
    fn what_a_client_writes_the_worker_reads() {
        let sign = request::sign(b"key", b"message");
        let digest = request::sign_digest(b"key", b"context", &[9; 64]);

        assert_eq!(Request::parse(body(&request::identities())), Ok(Request::Identities));
        assert_eq!(
            Request::parse(body(&sign)),
            Ok(Request::Sign { key: b"key", message: b"message" })
        );
        assert_eq!(
            Request::parse(body(&digest)),
            Ok(Request::SignDigest { key: b"key", context: b"context", digest: &[9; 64] })
        );
    }

    #[test]
    fn what_the_worker_writes_a_client_reads() {
        let mut out = Vec::new();
        response::signature(&mut out, &[4; 64]);
        assert_eq!(Response::parse(body(&out)), Ok(Response::Signature([4; 64])));

        out.clear();
        response::digest_signature(&mut out, &[5; 64]);
        assert_eq!(Response::parse(body(&out)), Ok(Response::Signature([5; 64])));

        out.clear();
        response::identities(&mut out, &[(b"blob", "comment")]);
        assert_eq!(
            Response::parse(body(&out)),
            Ok(Response::Identities(vec![(b"blob".to_vec(), "comment".into())]))
        );

        out.clear();
        response::failure(&mut out);
        assert_eq!(Response::parse(body(&out)), Ok(Response::Failure));
    }

    #[test]
    fn a_request_cut_at_any_byte_is_refused() {
        for frame in [request::sign(b"key", b"m"), request::sign_digest(b"key", b"c", &[9; 64])] {
            let whole = body(&frame);
            for end in 0..whole.len() {
                assert!(Request::parse(&whole[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn requests_that_change_an_agent_are_unsupported() {
        for number in [17, 18, 19, 20, 21, 22, 23, 25, 26] {
            assert_eq!(Request::parse(&[number, 0, 0]), Ok(Request::Unsupported), "{number}");
        }
    }

    #[test]
    fn a_context_or_digest_of_the_wrong_size_is_refused_by_name() {
        let long = request::sign_digest(b"key", &[0; 256], &[9; 64]);
        assert_eq!(Request::parse(body(&long)), Err(ParseRequestError::Context { found: 256 }));
        let mut short = vec![SSH_AGENTC_EXTENSION];
        for field in [SIGN_DIGEST.as_bytes(), b"key", b"", &[9; 32]] {
            put_string(&mut short, field);
        }
        assert_eq!(Request::parse(&short), Err(ParseRequestError::Digest { found: 32 }));
    }

    #[test]
    fn a_frame_that_announces_too_much_is_refused_before_it_is_awaited() {
        let mut frames = Frames::default();
        frames.push(&u32::MAX.to_be_bytes());

        assert_eq!(frames.next_frame(), Err(FrameTooLong { announced: u32::MAX }));
    }

    proptest! {
        #[test]
        fn frames_come_out_whole_however_the_stream_is_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            cuts in prop::collection::vec(1usize..64, 1..400),
        ) {
            let mut stream = Vec::new();
            for bytes in &bodies {
                frame(&mut stream, |out| out.extend_from_slice(bytes));
            }
            let mut frames = Frames::default();
            let mut found = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                let (read, more) = rest.split_at((*cut).min(rest.len()));
                frames.push(read);
                while let Some(next) = frames.next_frame().unwrap() {
                    found.push(next.to_vec());
                }
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, bodies);
            prop_assert!(!frames.is_ready());
        }

        #[test]
        fn no_frame_makes_the_parser_panic(frame in prop::collection::vec(any::<u8>(), 0..200)) {
            let _parsed = Request::parse(&frame);
            let _parsed = Response::parse(&frame);
        }
    }
}
