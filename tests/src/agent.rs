//! A client of the agent socket that also says what no client should.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use evanesce_protocol::agent::{Frames, Response, SIGNATURE_BYTES, request};
use evanesce_protocol::sshsig::{HashAlgorithm, SignedData};
use sha2::{Digest as _, Sha512};

use crate::process::DEADLINE;

/// One connection.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
    frames: Frames,
}

impl Agent {
    /// Connects to a socket.
    ///
    /// # Errors
    ///
    /// Those of connect(2).
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { stream, frames: Frames::default() })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// Those of write(2).
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends one frame and returns the body of the answer; `None` where the agent hangs up.
    ///
    /// # Errors
    ///
    /// Those of read(2) and write(2).
    pub fn ask(&mut self, frame: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.send(frame)?;
        self.answer()
    }

    /// The body of the next answer; `None` where the agent hangs up.
    ///
    /// # Errors
    ///
    /// Those of read(2).
    pub fn answer(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.frames.next_frame().map_err(io::Error::other)? {
                return Ok(Some(frame.to_vec()));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(bytes) => self.frames.push(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The key blobs that the agent offers.
    ///
    /// # Errors
    ///
    /// Where the agent does not answer with any.
    pub fn keys(&mut self) -> io::Result<Vec<Vec<u8>>> {
        match self.response(&request::identities())? {
            Response::Identities(keys) => Ok(keys.into_iter().map(|(key, _)| key).collect()),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    /// Has a message signed; `None` where the agent refuses.
    ///
    /// # Errors
    ///
    /// Where the agent does not answer.
    pub fn sign(
        &mut self,
        key: &[u8],
        message: &[u8],
    ) -> io::Result<Option<[u8; SIGNATURE_BYTES]>> {
        match self.response(&request::sign(key, message))? {
            Response::Signature(signature) => Ok(Some(signature)),
            Response::Failure => Ok(None),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    fn response(&mut self, frame: &[u8]) -> io::Result<Response> {
        let answer = self.ask(frame)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Response::parse(&answer).map_err(io::Error::other)
    }
}

/// What an agent is asked to sign for the file with these contents: never the file itself.
pub fn request_for_file(namespace: &str, contents: &[u8]) -> Vec<u8> {
    let digest = Sha512::digest(contents);
    let hash = HashAlgorithm::Sha512;
    SignedData { namespace, hash, message_digest: &digest }.to_bytes()
}

/// What `signing-workload` has signed as number `index`.
pub fn numbered_request(index: usize) -> Vec<u8> {
    request_for_file("file", format!("file number {index}").as_bytes())
}
