//! Writes of a connection, gathered.
//!
//! HTTP/2 flushes behind each answer that has more than a few hundred bytes, which makes each a TLS
//! record and a system call of its own. Here a flush is only noted; what was written goes out in one
//! piece when the connection has nothing more to do for now, or when there is enough of it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose writes wait for its [`Outlet`].
#[derive(Debug)]
pub(crate) struct Gathered<S>(Arc<Mutex<Inner<S>>>);

/// Where gathered writes go out. Whoever drives the connection polls it after the connection.
#[derive(Debug)]
pub(crate) struct Outlet<S>(Arc<Mutex<Inner<S>>>);

/// Takes the writes of a stream apart from the stream.
pub(crate) fn gathered<S>(stream: S) -> (Gathered<S>, Outlet<S>) {
    let inner = Arc::new(Mutex::new(Inner { stream, out: Vec::new(), sent: 0 }));
    (Gathered(Arc::clone(&inner)), Outlet(inner))
}

#[derive(Debug)]
struct Inner<S> {
    stream: S,
    /// What was written, and not taken by the stream so far.
    out: Vec<u8>,
    /// How much of it the stream has taken.
    sent: usize,
}

impl<S: AsyncWrite + Unpin> Outlet<S> {
    /// Sends what was gathered. `Pending` where the peer takes no more for now.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).poll_send(cx)
    }
}

impl<S> Gathered<S> {
    /// Held for one call; both halves are in one task.
    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.sent < self.out.len() {
            let stream = Pin::new(&mut self.stream);
            match ready!(stream.poll_write(cx, &self.out[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.sent += bytes,
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.sent = 0;
        self.out.clear();
        // A thousand connections that once had much to say keep little.
        self.out.shrink_to(KEPT_BYTES_MAX);
        Poll::Ready(Ok(()))
    }

    /// Makes room for more to be gathered.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.out.len() < GATHERED_BYTES_MAX {
            true => Poll::Ready(Ok(())),
            false => self.poll_send(cx),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        ready!(inner.poll_room(cx))?;
        inner.out.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        ready!(inner.poll_room(cx))?;
        let before = inner.out.len();
        slices.iter().for_each(|slice| inner.out.extend_from_slice(slice));
        Poll::Ready(Ok(inner.out.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Leaves it to the [`Outlet`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

/// From here on no more is gathered before it was sent. One write more fits beyond it, which HTTP
/// bounds by the size of a frame or of a buffer.
const GATHERED_BYTES_MAX: usize = 16 * 1024;

const KEPT_BYTES_MAX: usize = 2 * 1024;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn on_runtime(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
    }

    #[test]
    fn what_was_flushed_many_times_goes_out_at_once_when_it_is_sent() {
        on_runtime(async {
            let (ours, mut theirs) = duplex(1024);
            let (mut stream, outlet) = gathered(ours);
            for part in ["one ", "two ", "three"] {
                stream.write_all(part.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
            let mut buffer = [0; 64];
            let nothing_came = poll_fn(|cx| {
                let mut buffer = ReadBuf::new(&mut buffer);
                Poll::Ready(Pin::new(&mut theirs).poll_read(cx, &mut buffer).is_pending())
            });
            assert!(nothing_came.await);

            poll_fn(|cx| outlet.poll_send(cx)).await.unwrap();
            let bytes = theirs.read(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..bytes], b"one two three");
        });
    }

    #[test]
    fn a_peer_that_does_not_read_makes_the_writer_wait_and_loses_nothing() {
        on_runtime(async {
            let (ours, mut theirs) = duplex(1000);
            let (mut stream, outlet) = gathered(ours);
            let whole: Vec<_> = (0..100_000_u32).map(|number| number.to_le_bytes()[0]).collect();
            let mut written = 0;
            let waits = |stream: &mut Gathered<_>, written: &mut usize, whole: &[u8]| {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let rest = &whole[*written..whole.len().min(*written + 3000)];
                match Pin::new(stream).poll_write(&mut cx, rest) {
                    Poll::Ready(bytes) => *written += bytes.unwrap(),
                    Poll::Pending => return true,
                }
                false
            };
            while !waits(&mut stream, &mut written, &whole) {}
            assert!(written < GATHERED_BYTES_MAX + 3000, "{written} bytes were gathered");

            let (mut found, mut buffer) = (Vec::new(), [0; 700]);
            while found.len() < whole.len() {
                if written < whole.len() {
                    waits(&mut stream, &mut written, &whole);
                }
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let is_sent = outlet.poll_send(&mut cx).is_ready();
                assert!(is_sent || found.len() < whole.len());
                let bytes = theirs.read(&mut buffer).await.unwrap();
                found.extend_from_slice(&buffer[..bytes]);
            }
            assert_eq!(found, whole);
        });
    }

    #[test]
    fn what_was_gathered_is_sent_before_a_stream_is_shut_down() {
        on_runtime(async {
            let (ours, mut theirs) = duplex(1024);
            let (mut stream, _outlet) = gathered(ours);
            stream.write_all(b"the last word").await.unwrap();
            stream.shutdown().await.unwrap();

            let mut found = Vec::new();
            theirs.read_to_end(&mut found).await.unwrap();
            assert_eq!(found, b"the last word");
        });
    }
}
