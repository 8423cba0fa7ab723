//! The connection to one worker: requests of many clients go out as they come, answers come back in
//! the same order.
//!
//! The agent protocol has no numbers, so the order is all that tells which answer is whose. Two tasks
//! keep it: one writes a request and notes who waits for it, the other reads an answer and hands it to
//! whoever has waited longest. Where the worker hangs up both end, and so does everybody's waiting.

use std::io;
use std::path::Path;

use evanesce_protocol::agent::{Frames, Response, SIGNATURE_BYTES};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::limits::{OUTSTANDING_MAX, QUEUE_MAX};

/// The way to one worker.
#[derive(Debug)]
pub(crate) struct Link {
    jobs: mpsc::Sender<Job>,
}

/// Why a worker gave no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkError {
    /// Too many requests wait already.
    Full,
    /// The worker said no.
    Refused,
    /// The worker hung up, or said what is no answer.
    Broken,
}

/// One request, and who waits for its answer.
struct Job {
    frame: Vec<u8>,
    waiting: oneshot::Sender<Response>,
}

impl Link {
    /// Connects to a worker's socket. `lost` is called once, when the connection ends.
    pub(crate) async fn connect(
        socket: &Path,
        lost: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (reader, writer) = UnixStream::connect(socket).await?.into_split();
        Ok(Self::over(reader, writer, lost))
    }

    fn over(
        reader: OwnedReadHalf,
        writer: OwnedWriteHalf,
        lost: impl FnOnce() + Send + 'static,
    ) -> Self {
        let (jobs, coming) = mpsc::channel(QUEUE_MAX);
        let (asked, answers) = mpsc::channel(OUTSTANDING_MAX);
        let writing = tokio::spawn(write(writer, coming, asked));
        tokio::spawn(async move {
            read(reader, answers).await;
            // With the reader everybody who waits is told; nothing more is to be taken.
            writing.abort();
            lost();
        });
        Self { jobs }
    }

    /// Sends one request and waits for its answer. Whoever stops waiting loses the answer, not the
    /// order.
    pub(crate) async fn sign(&self, frame: Vec<u8>) -> Result<[u8; SIGNATURE_BYTES], LinkError> {
        let (waiting, answer) = oneshot::channel();
        self.jobs.try_send(Job { frame, waiting }).map_err(|error| match error {
            TrySendError::Full(_) => LinkError::Full,
            TrySendError::Closed(_) => LinkError::Broken,
        })?;
        match answer.await {
            Ok(Response::Signature(signature)) => Ok(signature),
            Ok(Response::Failure) => Err(LinkError::Refused),
            Ok(Response::Identities(_)) | Err(_) => Err(LinkError::Broken),
        }
    }

    /// Whether the worker has hung up.
    pub(crate) fn is_broken(&self) -> bool {
        self.jobs.is_closed()
    }
}

/// Writes what comes, as much at once as there is.
async fn write(
    mut writer: OwnedWriteHalf,
    mut coming: mpsc::Receiver<Job>,
    asked: mpsc::Sender<oneshot::Sender<Response>>,
) {
    let (mut batch, mut bytes) = (Vec::new(), Vec::new());
    while coming.recv_many(&mut batch, BATCH_MAX).await > 0 {
        bytes.clear();
        for job in batch.drain(..) {
            bytes.extend_from_slice(&job.frame);
            // Waits while as many are under way as the worker may have.
            match asked.try_send(job.waiting) {
                Ok(()) => {}
                Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(waiting)) => {
                    // What was noted so far has to be sent before there can be room.
                    let whole = bytes.len() - job.frame.len();
                    if writer.write_all(&bytes[..whole]).await.is_err()
                        || asked.send(waiting).await.is_err()
                    {
                        return;
                    }
                    bytes.drain(..whole);
                }
            }
        }
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Hands each answer to whoever has waited longest, until the worker hangs up or makes no sense.
async fn read(mut reader: OwnedReadHalf, mut answers: mpsc::Receiver<oneshot::Sender<Response>>) {
    let (mut frames, mut buffer) = (Frames::default(), vec![0; READ_BYTES]);
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(bytes) => frames.push(&buffer[..bytes]),
        }
        loop {
            match frames.next_frame() {
                Ok(Some(frame)) => {
                    let Ok(answer) = Response::parse(frame) else { return };
                    // An answer that nobody asked for makes no sense.
                    let Ok(waiting) = answers.try_recv() else { return };
                    // Whoever is no longer interested has gone.
                    waiting.send(answer).map_err(drop).unwrap_or(());
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Requests in one write.
const BATCH_MAX: usize = 64;

const READ_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use evanesce_protocol::agent::{Request, request, response};

    use super::*;

    /// A worker that answers each digest with itself, and hangs up after `answers` of them.
    async fn echo(mut socket: UnixStream, answers: usize) {
        let (mut frames, mut buffer, mut done) = (Frames::default(), [0; 4096], 0);
        while done < answers {
            let Ok(bytes @ 1..) = socket.read(&mut buffer).await else { return };
            frames.push(&buffer[..bytes]);
            let mut out = Vec::new();
            while let Ok(Some(frame)) = frames.next_frame() {
                match Request::parse(frame) {
                    Ok(Request::SignDigest { digest, .. }) => {
                        response::digest_signature(&mut out, digest);
                    }
                    _ => response::failure(&mut out),
                }
                done += 1;
            }
            socket.write_all(&out).await.unwrap();
        }
    }

    fn on_runtime(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let mut runtime = runtime;
        runtime.worker_threads(2).enable_all().build().unwrap().block_on(test);
    }

    fn link_to(answers: usize, lost: impl FnOnce() + Send + 'static) -> Link {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(echo(theirs, answers));
        let (reader, writer) = ours.into_split();
        Link::over(reader, writer, lost)
    }

    #[test]
    fn each_of_many_gets_its_own_answer() {
        on_runtime(async {
            let link = Arc::new(link_to(usize::MAX, || {}));
            let tasks: Vec<_> = (0..900_u64)
                .map(|number| {
                    let link = Arc::clone(&link);
                    tokio::spawn(async move {
                        let mut digest = [0; 64];
                        digest[..8].copy_from_slice(&number.to_be_bytes());
                        let frame = request::sign_digest(b"key", b"", &digest);
                        assert_eq!(link.sign(frame).await, Ok(digest));
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    }

    /// A client that hangs up must not shift the answers of the others.
    #[test]
    fn who_stops_waiting_takes_nobody_elses_answer() {
        on_runtime(async {
            let link = link_to(usize::MAX, || {});
            for number in 0..100_u8 {
                let frame = request::sign_digest(b"key", b"", &[number; 64]);
                let asked = link.sign(frame);
                if number % 3 == 0 {
                    tokio::select! { biased; _ = asked => {}, () = tokio::task::yield_now() => {} }
                } else {
                    assert_eq!(asked.await, Ok([number; 64]));
                }
            }
        });
    }

    #[test]
    fn a_worker_that_hangs_up_is_told_of_once_and_everybody_stops_waiting() {
        on_runtime(async {
            let told = Arc::new(AtomicBool::new(false));
            let tell = Arc::clone(&told);
            let (lost, is_lost) = oneshot::channel();
            let link = link_to(1, move || {
                assert!(!tell.swap(true, Ordering::SeqCst));
                lost.send(()).unwrap();
            });
            let frame = || request::sign_digest(b"key", b"", &[1; 64]);

            assert_eq!(link.sign(frame()).await, Ok([1; 64]));
            is_lost.await.unwrap();
            assert_eq!(link.sign(frame()).await, Err(LinkError::Broken));
            assert!(link.is_broken() && told.load(Ordering::SeqCst));
        });
    }

    #[test]
    fn a_refusal_is_not_taken_for_a_broken_link() {
        on_runtime(async {
            let link = link_to(usize::MAX, || {});
            let refused = link.sign(request::sign(b"key", b"message")).await;
            assert_eq!(refused, Err(LinkError::Refused));
        });
    }
}
