//! The server: what it shares among connections, how it starts, takes new rules and stops.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use axum::Router;
use evanesce_protocol::WorkloadId;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::api::router;
use crate::connection;
use crate::keys::{Key, KeyEnd, KeySetup};
use crate::limits::{CLOSE_TIMEOUT, DRAIN_TIMEOUT, Timeouts};
use crate::link::Link;
use crate::metrics::Metrics;
use crate::policy::{Admitted, Ask, Client, Entered, Gate, Moment, Policy, Refusal};
use crate::problem::Problem;
use crate::tls::Tls;

/// What a server is to do.
pub struct Options {
    /// Where connections are taken.
    pub listeners: Vec<StdListener>,
    /// Connections at a time.
    pub connections: usize,
    /// Threads that serve them.
    pub threads: usize,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// Who may have what.
    pub policy: Policy,
    /// Certificates.
    pub tls: Tls,
    /// The keys, each with a worker that serves its socket.
    pub keys: Vec<KeySetup>,
    /// Told when a worker hangs up, from another thread.
    pub lost: Arc<dyn Fn(&WorkloadId) + Send + Sync>,
}

/// A server that takes requests, until it is stopped.
#[derive(Debug)]
pub struct Server {
    runtime: Arc<Runtime>,
    /// What runs the tasks, where the runtime has no threads of its own; ends with [`Server::ending`].
    driver: Option<JoinHandle<()>>,
    ending: watch::Sender<bool>,
    shared: Arc<Shared>,
    stopping: watch::Sender<bool>,
    /// Closed once the last connection has ended.
    ended: mpsc::Receiver<()>,
    addresses: Vec<SocketAddr>,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    current: RwLock<Arc<Current>>,
    gate: Mutex<Gate>,
    keys: BTreeMap<WorkloadId, Key>,
    pub(crate) metrics: Metrics,
    pub(crate) timeouts: Timeouts,
    begin: Instant,
    is_stopping: AtomicBool,
    beats: AtomicU64,
}

/// The rules that count now.
#[derive(Debug)]
pub(crate) struct Current {
    /// One more with each reload.
    pub(crate) generation: u64,
    pub(crate) policy: Policy,
    pub(crate) tls: Tls,
}

/// Whether there is anything to wait for.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    stopping: bool,
    /// The names of keys that have ended: some clients have one less to use.
    ended: Vec<WorkloadId>,
}

impl Server {
    /// Connects to the workers and starts to take connections.
    ///
    /// # Errors
    ///
    /// [`ServerError`] names the step.
    pub fn start(options: Options) -> Result<Self, ServerError> {
        let Options { listeners, connections, threads, timeouts, policy, tls, keys, lost } =
            options;
        let runtime = Arc::new(runtime_of(threads).map_err(ServerError::Runtime)?);
        let linked = runtime.block_on(async {
            let mut linked = BTreeMap::new();
            for setup in keys {
                let (lost, name) = (Arc::clone(&lost), setup.name.clone());
                let link = Link::connect(&setup.agent_socket, move || lost(&name)).await;
                let link =
                    link.map_err(|source| ServerError::Worker { key: setup.name.clone(), source })?;
                linked.insert(setup.name.clone(), Key::new(setup, link));
            }
            Ok(linked)
        })?;
        let shared = Arc::new(Shared {
            current: RwLock::new(Arc::new(Current { generation: 0, policy, tls })),
            gate: Mutex::default(),
            keys: linked,
            metrics: Metrics::default(),
            timeouts,
            begin: Instant::now(),
            is_stopping: AtomicBool::new(false),
            beats: AtomicU64::new(0),
        });
        let (stopping, watched) = watch::channel(false);
        let (held, ended) = mpsc::channel(1);
        let room = Arc::new(Semaphore::new(connections));
        let routes = router(Arc::clone(&shared));
        let mut addresses = Vec::new();
        let entered = runtime.enter();
        for listener in listeners {
            listener.set_nonblocking(true).map_err(ServerError::Listen)?;
            addresses.push(listener.local_addr().map_err(ServerError::Listen)?);
            let listener = TcpListener::from_std(listener).map_err(ServerError::Listen)?;
            let accepting = Accepting {
                shared: Arc::clone(&shared),
                routes: routes.clone(),
                room: Arc::clone(&room),
                stopping: watched.clone(),
                held: held.clone(),
            };
            tokio::spawn(accepting.accept(listener));
        }
        tokio::spawn(beat(Arc::clone(&shared)));
        drop(entered);
        let (ending, ends) = watch::channel(false);
        let driver = match threads {
            1 => Some(drive(Arc::clone(&runtime), ends).map_err(ServerError::Runtime)?),
            _ => None,
        };
        Ok(Self { runtime, driver, ending, shared, stopping, ended, addresses })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Puts other rules in the place of those that count. Connections stay; each is judged anew by its
    /// next request. What clients have used of rates and budgets stays as well.
    pub fn replace(&self, policy: Policy, tls: Tls) {
        let mut current = self.shared.current.write().unwrap_or_else(PoisonError::into_inner);
        let generation = current.generation + 1;
        *current = Arc::new(Current { generation, policy, tls });
        self.shared.metrics.reloads.add();
    }

    /// Counts rules that could not be used: those that count stay.
    pub fn count_failed_reload(&self) {
        self.shared.metrics.reloads_failed.add();
    }

    /// Says how a key ended, to be told to those who ask for it.
    pub fn set_end(&self, key: &WorkloadId, end: KeyEnd) {
        if let Some(key) = self.shared.keys.get(key) {
            key.set_end(end);
        }
    }

    /// A number that grows as long as requests are being served.
    pub fn beats(&self) -> u64 {
        self.shared.beats.load(Ordering::Relaxed)
    }

    /// Takes no more connections and requests, answers those that are under way, and waits for that;
    /// what still holds on after [`DRAIN_TIMEOUT`] is cut. Returns how many signatures there were.
    pub fn stop(self) -> u64 {
        let Self { runtime, driver, ending, shared, stopping, mut ended, .. } = self;
        shared.is_stopping.store(true, Ordering::Relaxed);
        stopping.send_replace(true);
        runtime.block_on(async {
            // Each connection has its own, shorter time; this is for those that miss it.
            timeout(DRAIN_TIMEOUT + CLOSE_TIMEOUT, ended.recv()).await.unwrap_or(None);
        });
        ending.send_replace(true);
        // A thread that panicked has nothing more to end.
        driver.map_or(Ok(()), JoinHandle::join).unwrap_or(());
        if let Some(runtime) = Arc::into_inner(runtime) {
            runtime.shutdown_timeout(CLOSE_TIMEOUT);
        }
        shared.keys.values().map(Key::signatures).sum()
    }
}

/// One thread takes tasks in the order in which they become ready: a connection comes after all the
/// requests whose answers came in one read, and sends them in one write. Several threads have each other
/// to wake, and look first at what was woken last.
fn runtime_of(threads: usize) -> io::Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.max_blocking_threads(BLOCKING_THREADS_MAX).thread_name(THREAD_NAME).enable_all().build()
}

/// Runs the tasks of a runtime that has no threads of its own, until it is to end.
fn drive(runtime: Arc<Runtime>, mut ends: watch::Receiver<bool>) -> io::Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name(THREAD_NAME.to_owned());
    thread.spawn(move || runtime.block_on(connection::stop(&mut ends)))
}

impl Shared {
    pub(crate) fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on a request that was let in.
    pub(crate) fn admit(
        &self,
        entered: Entered,
        client: &Client,
        name: &WorkloadId,
        ask: Ask<'_>,
    ) -> Result<Admitted, Problem> {
        let key = self.keys.get(name);
        let serves = key.map_or(&[][..], |key| key.setup.grants.as_slice());
        self.gate().admit(entered, client, name, serves, ask).map_err(Problem::Refused)
    }

    /// A key that can sign.
    pub(crate) fn key(&self, name: &WorkloadId) -> Result<&Key, Problem> {
        let key = self.any_key(name)?;
        match key.end() {
            Some(end) => Err(Problem::KeyEnded(end)),
            None => Ok(key),
        }
    }

    /// A key, whatever has become of it.
    pub(crate) fn any_key(&self, name: &WorkloadId) -> Result<&Key, Problem> {
        self.keys.get(name).ok_or(Problem::Refused(Refusal::NoSuchKey))
    }

    pub(crate) fn now(&self) -> Moment {
        self.begin.elapsed()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn readiness(&self) -> Readiness {
        let stopping = self.is_stopping.load(Ordering::Relaxed);
        let ended = self.keys.values().filter(|key| key.end().is_some());
        let ended: Vec<_> = ended.map(|key| key.setup.name.clone()).collect();
        Readiness { ready: !stopping && ended.is_empty(), stopping, ended }
    }

    pub(crate) fn metrics_text(&self) -> String {
        self.metrics.to_text(self.keys.values())
    }
}

/// What takes the connections of one address.
struct Accepting {
    shared: Arc<Shared>,
    routes: Router,
    room: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
    held: mpsc::Sender<()>,
}

impl Accepting {
    async fn accept(mut self, listener: TcpListener) {
        loop {
            let accepted = async {
                // With no room left the next connection waits in the kernel's queue.
                let room = Arc::clone(&self.room).acquire_owned().await;
                (room, listener.accept().await)
            };
            let (room, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = connection::stop(&mut self.stopping) => return,
            };
            let Ok(room) = room else { return };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, mostly: some are given back soon.
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (shared, routes) = (Arc::clone(&self.shared), self.routes.clone());
            let (stopping, held) = (self.stopping.clone(), self.held.clone());
            tokio::spawn(async move {
                connection::serve(stream, shared, routes, stopping).await;
                drop((room, held));
            });
        }
    }
}

/// Shows that tasks are still being run.
async fn beat(shared: Arc<Shared>) {
    loop {
        shared.beats.fetch_add(1, Ordering::Relaxed);
        sleep(BEAT).await;
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No threads.
    #[error("the server's threads could not be started")]
    Runtime(#[source] io::Error),
    /// A worker's socket does not answer.
    #[error("the worker of key {key} could not be reached")]
    Worker {
        /// The key.
        key: WorkloadId,
        /// The cause.
        source: io::Error,
    },
    /// A socket cannot be listened at.
    #[error("connections cannot be taken")]
    Listen(#[source] io::Error),
}

impl ServerError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Runtime(_) => "serve.runtime",
            Self::Worker { .. } => "serve.worker",
            Self::Listen(_) => "serve.listen",
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// Attesters wait in threads of their own.
const BLOCKING_THREADS_MAX: usize = 64;

const THREAD_NAME: &str = "evanesce-serve";

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const BEAT: Duration = Duration::from_millis(250);
