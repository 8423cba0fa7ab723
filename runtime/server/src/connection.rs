//! One connection: its handshake, its client, its requests, and its end in good time.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONNECTION;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use crate::api::{deadline_of, route_of};
use crate::gather::{Outlet, gathered};
use crate::identity::Identity;
use crate::limits::{CLOSE_TIMEOUT, DRAIN_TIMEOUT, HEAD_BYTES_MAX, HEADERS_MAX, STREAMS_MAX};
use crate::metrics::Answer;
use crate::policy::Client;
use crate::problem::{Code, Problem};
use crate::server::{Current, Shared};
use crate::tls::H2;

/// Whoever is at the other end.
#[derive(Debug)]
pub(crate) struct Peer {
    chain: Vec<CertificateDer<'static>>,
    identity: Identity,
    /// What was found by the policy of a generation.
    standing: Mutex<(u64, Standing)>,
    /// Requests under way.
    under_way: AtomicUsize,
    /// When something was last asked or answered, in milliseconds since the server started.
    last_ms: AtomicU64,
}

/// What a peer is by the policy and the roots that count now.
#[derive(Clone, Debug)]
enum Standing {
    Client(Arc<Client>),
    /// Its certificate is believed, and no client has it.
    Stranger,
    /// Its certificate is no longer believed.
    Distrusted,
}

impl Peer {
    /// Whoever sent a request.
    pub(crate) fn of(request: &Request) -> Arc<Self> {
        let peer = request.extensions().get::<Arc<Self>>();
        Arc::clone(peer.expect("each connection adds it to its requests"))
    }

    /// A peer whose certificates were verified by the rules in `current`.
    fn new(chain: Vec<CertificateDer<'static>>, current: &Current, shared: &Shared) -> Self {
        let own = chain.first().map_or(&[][..], |own| own);
        let identity = Identity::of_certificate(own);
        let standing = Standing::of_believed(current, &identity);
        Self {
            standing: Mutex::new((current.generation, standing)),
            identity,
            chain,
            under_way: AtomicUsize::new(0),
            last_ms: AtomicU64::new(shared.now_ms()),
        }
    }

    /// The client that it is by the policy that counts now.
    pub(crate) fn client(&self, shared: &Shared) -> Result<Arc<Client>, Problem> {
        match self.standing(shared) {
            Standing::Client(client) => Ok(client),
            Standing::Stranger | Standing::Distrusted => Err(Problem::UnknownClient),
        }
    }

    /// Looked up anew where policy or roots were replaced since.
    fn standing(&self, shared: &Shared) -> Standing {
        let current = shared.current();
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if standing.0 != current.generation {
            let found = match current.tls.believes(&self.chain) {
                true => Standing::of_believed(&current, &self.identity),
                false => Standing::Distrusted,
            };
            *standing = (current.generation, found);
        }
        standing.1.clone()
    }

    fn idle_since_ms(&self) -> Option<u64> {
        match self.under_way.load(Ordering::Acquire) {
            0 => Some(self.last_ms.load(Ordering::Acquire)),
            _ => None,
        }
    }
}

impl Standing {
    fn of_believed(current: &Current, identity: &Identity) -> Self {
        match current.policy.client(identity) {
            Some(client) => Self::Client(Arc::clone(client)),
            None => Self::Stranger,
        }
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    stream: TcpStream,
    shared: Arc<Shared>,
    router: Router,
    stopping: watch::Receiver<bool>,
) {
    let _held = shared.metrics.connections.hold();
    // Answers are small and wanted at once; where this cannot be had they are merely later.
    stream.set_nodelay(true).unwrap_or(());
    let current = shared.current();
    let acceptor = TlsAcceptor::from(Arc::clone(&current.tls.server));
    let mut stop_wanted = stopping.clone();
    let handshake = timeout(shared.timeouts.handshake, acceptor.accept(stream));
    let stream = tokio::select! {
        done = handshake => match done {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) | Err(_) => return shared.metrics.handshakes_failed.add(),
        },
        // Nobody has asked for anything here yet.
        () = stop(&mut stop_wanted) => return,
    };
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
    let is_h2 = session.alpn_protocol() == Some(H2);
    let peer = Arc::new(Peer::new(chain, &current, &shared));
    drop(current);
    let service = {
        let (peer, shared) = (Arc::clone(&peer), Arc::clone(&shared));
        service_fn(move |request: hyper::Request<Incoming>| {
            let (peer, shared, router) = (Arc::clone(&peer), Arc::clone(&shared), router.clone());
            async move { Ok::<_, Infallible>(answer(request, peer, &shared, router).await) }
        })
    };
    let (stream, outlet) = gathered(stream);
    let stream = TokioIo::new(stream);
    let is_cut = if is_h2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX_H2)
            .max_send_buf_size(SEND_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        drive(builder.serve_connection(stream, service), outlet, &peer, &shared, stopping).await
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(shared.timeouts.idle)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        drive(builder.serve_connection(stream, service), outlet, &peer, &shared, stopping).await
    };
    if is_cut {
        shared.metrics.connections_cut.add();
    }
}

/// Answers one request, in time, and counts it.
async fn answer(
    request: hyper::Request<Incoming>,
    peer: Arc<Peer>,
    shared: &Shared,
    mut router: Router,
) -> Response {
    let _under_way = UnderWay::of(&peer, shared);
    let begin = shared.now();
    let route = route_of(request.uri());
    let standing = peer.standing(shared);
    let mut response = match &standing {
        Standing::Distrusted => {
            // It may come again with a certificate that is believed.
            let mut response = Problem::UnknownClient.into_response();
            if request.version() < hyper::Version::HTTP_2 {
                let close = axum::http::HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            response
        }
        Standing::Client(_) | Standing::Stranger => {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Arc::clone(&peer));
            match timeout(deadline_of(route, &shared.timeouts), router.call(request)).await {
                Ok(Ok(response)) => response,
                Err(_) => Problem::TimedOut.into_response(),
            }
        }
    };
    let code = response.extensions_mut().remove::<Code>().map_or("ok", |code| code.0);
    let client = match standing {
        Standing::Client(client) => client.name.to_string(),
        Standing::Stranger | Standing::Distrusted => String::new(),
    };
    let answer = Answer { route, status: response.status().as_u16(), code, client };
    shared.metrics.answered(answer, shared.now().saturating_sub(begin));
    debug_assert!(response.status() != StatusCode::INTERNAL_SERVER_ERROR, "{code}");
    response
}

/// A request that is being answered, until it is dropped.
struct UnderWay<'a>(&'a Peer, &'a Shared);

impl<'a> UnderWay<'a> {
    fn of(peer: &'a Peer, shared: &'a Shared) -> Self {
        peer.under_way.fetch_add(1, Ordering::AcqRel);
        Self(peer, shared)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.last_ms.store(self.1.now_ms(), Ordering::Release);
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Lets a connection do its work until it ends, until nothing was asked for too long, or until the
/// server stops; then what is under way is answered, and what still holds on is cut. Says whether it
/// was cut.
async fn drive<C: GracefulConnection, S: AsyncWrite + Unpin>(
    connection: C,
    outlet: Outlet<S>,
    peer: &Peer,
    shared: &Shared,
    mut stopping: watch::Receiver<bool>,
) -> bool {
    let mut connection = pin!(connection);
    loop {
        let look_again = match peer.idle_since_ms() {
            Some(since) => {
                let idle = Duration::from_millis(shared.now_ms().saturating_sub(since));
                match shared.timeouts.idle.checked_sub(idle).filter(|left| !left.is_zero()) {
                    Some(left) => left,
                    None => return close(connection, &outlet, CLOSE_TIMEOUT).await,
                }
            }
            None => shared.timeouts.idle,
        };
        tokio::select! {
            () = work(connection.as_mut(), &outlet) => return false,
            () = sleep_until(Instant::now() + look_again) => {}
            () = stop(&mut stopping) => return close(connection, &outlet, DRAIN_TIMEOUT).await,
        }
    }
}

/// Waits until the server is to stop.
pub(crate) async fn stop(stopping: &mut watch::Receiver<bool>) {
    // Where nobody can say so any more, it has stopped.
    stopping.wait_for(|stopping| *stopping).await.map(drop).unwrap_or(());
}

/// Takes no more requests, and gives those that are under way so long.
async fn close<C: GracefulConnection, S: AsyncWrite + Unpin>(
    mut connection: Pin<&mut C>,
    outlet: &Outlet<S>,
    within: Duration,
) -> bool {
    connection.as_mut().graceful_shutdown();
    timeout(within, work(connection, outlet)).await.is_err()
}

/// Lets a connection read, answer and write until it ends; each time that it has nothing more to do
/// for now, what it has written is sent.
async fn work<C: GracefulConnection, S: AsyncWrite + Unpin>(
    mut connection: Pin<&mut C>,
    outlet: &Outlet<S>,
) {
    poll_fn(|cx| {
        let has_ended = connection.as_mut().poll(cx).is_ready();
        match outlet.poll_send(cx) {
            // A peer that takes nothing any more is gone.
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(())) | Poll::Pending if has_ended => Poll::Ready(()),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

const HEAD_BYTES_MAX_H2: u32 = 16 * 1024;

/// Of answers that a client does not read, in each stream.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// Room for one body, and a few frames more.
const STREAM_WINDOW_BYTES: u32 = 16 * 1024;

const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
