//! The client's end of a worker's agent socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use evanesce_protocol::agent::{DIGEST_BYTES, Frames, Response, SIGNATURE_BYTES, request};

use crate::errors::Coded;

/// One connection to an agent, with one request outstanding at a time.
#[derive(Debug)]
pub struct AgentClient {
    stream: UnixStream,
    frames: Frames,
}

impl AgentClient {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    ///
    /// [`AgentError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, AgentError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| AgentError::Connect { path: path.to_owned(), source })?;
        Ok(Self { stream, frames: Frames::default() })
    }

    /// Has `message` signed in the name of `key`, a key blob that the agent offers.
    ///
    /// # Errors
    ///
    /// [`AgentError`] where the connection fails or the agent refuses.
    pub fn sign(
        &mut self,
        key: &[u8],
        message: &[u8],
    ) -> Result<[u8; SIGNATURE_BYTES], AgentError> {
        self.signature(&request::sign(key, message))
    }

    /// Has a SHA-512 digest signed (Ed25519ph), with at most 255 bytes of context.
    ///
    /// # Errors
    ///
    /// [`AgentError`] where the connection fails or the agent refuses.
    pub fn sign_digest(
        &mut self,
        key: &[u8],
        context: &[u8],
        digest: &[u8; DIGEST_BYTES],
    ) -> Result<[u8; SIGNATURE_BYTES], AgentError> {
        self.signature(&request::sign_digest(key, context, digest))
    }

    /// Sends a request and returns the answer to it.
    ///
    /// # Errors
    ///
    /// [`AgentError`] where the connection fails.
    pub fn ask(&mut self, request: &[u8]) -> Result<Response, AgentError> {
        self.exchange(request)
    }

    fn signature(&mut self, request: &[u8]) -> Result<[u8; SIGNATURE_BYTES], AgentError> {
        match self.exchange(request)? {
            Response::Signature(signature) => Ok(signature),
            Response::Failure => Err(AgentError::Refused),
            Response::Identities(_) => Err(AgentError::Unexpected),
        }
    }

    fn exchange(&mut self, request: &[u8]) -> Result<Response, AgentError> {
        self.stream.write_all(request).map_err(AgentError::Io)?;
        let mut read = [0; 4096];
        loop {
            if let Some(frame) = self.frames.next_frame().map_err(|_| AgentError::Unexpected)? {
                return Response::parse(frame).map_err(|_| AgentError::Unexpected);
            }
            match self.stream.read(&mut read) {
                Ok(0) => return Err(AgentError::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => self.frames.push(&read[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(AgentError::Io(error)),
            }
        }
    }
}

/// Why an agent gave no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Nothing answers at the socket.
    #[error("the agent socket {} could not be reached", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the agent broke")]
    Io(#[source] io::Error),
    /// The agent said no; its protocol gives no reason.
    #[error("the agent refused to sign")]
    Refused,
    /// The agent answered with something else.
    #[error("the agent's answer is not one to this request")]
    Unexpected,
}

impl Coded for AgentError {
    fn code(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "agent.connect",
            Self::Io(_) => "agent.io",
            Self::Refused => "agent.refused",
            Self::Unexpected => "agent.unexpected",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use evanesce_protocol::agent::response;

    use super::*;

    fn answered_by(frame: Vec<u8>) -> Result<[u8; SIGNATURE_BYTES], AgentError> {
        let (client, mut agent) = UnixStream::pair().unwrap();
        let answering = thread::spawn(move || {
            let mut length = [0; 4];
            agent.read_exact(&mut length).unwrap();
            let mut body = vec![0; u32::from_be_bytes(length) as usize];
            agent.read_exact(&mut body).unwrap();
            for byte in frame {
                agent.write_all(&[byte]).unwrap();
            }
        });
        let mut client = AgentClient { stream: client, frames: Frames::default() };
        let answer = client.sign(b"key", b"message");
        answering.join().unwrap();
        answer
    }

    #[test]
    fn an_answer_that_comes_byte_by_byte_is_read_whole() {
        let mut frame = Vec::new();
        response::signature(&mut frame, &[7; 64]);

        assert_eq!(answered_by(frame).unwrap(), [7; 64]);
    }

    #[test]
    fn a_failure_and_a_cut_connection_are_told_apart() {
        let mut failure = Vec::new();
        response::failure(&mut failure);

        assert_eq!(answered_by(failure).unwrap_err().code(), "agent.refused");
        assert_eq!(answered_by(vec![0, 0]).unwrap_err().code(), "agent.io");
    }
}
