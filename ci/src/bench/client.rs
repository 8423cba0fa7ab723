//! A client of an agent, the same for every agent that is compared.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use evanesce_protocol::agent::{DIGEST_BYTES, Frames, Response, request};
use evanesce_protocol::sshsig::{HashAlgorithm, SignedData};

/// One connection to an agent, and a key that it offers.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    frames: Frames,
    buffer: [u8; 1024],
    key: Vec<u8>,
    requests_count: Arc<AtomicU64>,
    /// Gone with the client, which ends the watch over it.
    _lives: Sender<()>,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let requests_count = Arc::<AtomicU64>::default();
        let (lives, client) = mpsc::channel();
        end_when_stuck(stream.try_clone()?, Arc::clone(&requests_count), client);
        let (frames, buffer) = (Frames::default(), [0; 1024]);
        let mut client =
            Self { stream, frames, buffer, key: vec![], requests_count, _lives: lives };
        client.stream.write_all(&request::identities())?;
        let Response::Identities(keys) = client.answer()? else {
            return Err(io::Error::other("the agent does not list its keys"));
        };
        // The key itself where its certificate is offered as well: requests are of one size then.
        let keys = keys.into_iter().map(|(key, _comment)| key);
        client.key = keys.min_by_key(Vec::len).ok_or(io::ErrorKind::NotFound)?;
        Ok(client)
    }

    /// Has one request signed, and says how long that took.
    pub(super) fn sign(&mut self) -> io::Result<Duration> {
        let request = self.next_request();
        let begin = Instant::now();
        self.stream.write_all(&request)?;
        let answer = self.answer()?;
        let took = begin.elapsed();
        signed(&answer)?;
        Ok(took)
    }

    /// Has `count` requests signed with up to `outstanding` under way, and says how long that took.
    pub(crate) fn sign_many(&mut self, count: u32, outstanding: usize) -> io::Result<Duration> {
        let requests: Vec<_> = (0..count).map(|_| self.next_request()).collect();
        let begin = Instant::now();
        let (first, rest) = requests.split_at(outstanding.min(requests.len()));
        self.stream.write_all(&first.concat())?;
        for request in rest {
            signed(&self.answer()?)?;
            self.stream.write_all(request)?;
        }
        for _ in first {
            signed(&self.answer()?)?;
        }
        Ok(begin.elapsed())
    }

    /// A request to sign what `ssh-keygen -Y sign -n file` would ask for, for a file of its own.
    fn next_request(&mut self) -> Vec<u8> {
        let number = self.requests_count.fetch_add(1, Ordering::Relaxed);
        let mut digest = [0; DIGEST_BYTES];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        let hash = HashAlgorithm::Sha512;
        let data = SignedData { namespace: "file", hash, message_digest: &digest };
        request::sign(&self.key, &data.to_bytes())
    }

    fn answer(&mut self) -> io::Result<Response> {
        loop {
            if let Some(frame) = self.frames.next_frame().map_err(io::Error::other)? {
                return Response::parse(frame).map_err(io::Error::other);
            }
            match self.stream.read(&mut self.buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => self.frames.push(&self.buffer[..bytes]),
            }
        }
    }
}

/// Ends a stream once no request was made for [`PATIENCE`], while the client has the other end of the
/// channel.
///
/// A deadline on the socket itself would have the kernel start and stop a timer for each wait, and
/// that time would count as the agent's.
fn end_when_stuck(stream: UnixStream, requests_count: Arc<AtomicU64>, client: Receiver<()>) {
    thread::spawn(move || {
        let mut seen = None;
        while client.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            let now = Some(requests_count.load(Ordering::Relaxed));
            if now == seen {
                // Should it be gone already, there is nobody to be woken.
                stream.shutdown(Shutdown::Both).unwrap_or(());
                return;
            }
            seen = now;
        }
    });
}

fn signed(answer: &Response) -> io::Result<()> {
    match answer {
        Response::Signature(_) => Ok(()),
        _ => Err(io::Error::other("the agent refused to sign")),
    }
}

/// For an answer. No round takes that long.
const PATIENCE: Duration = Duration::from_secs(10);
