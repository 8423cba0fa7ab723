//! Events to a collector of OpenTelemetry: OTLP over HTTP, in protobuf (`serve --otlp`).
//!
//! One thread sends what has gathered, once a second; whoever emits an event waits for nothing. What
//! does not get through is dropped, never tried again, and counted. [`Otlp::close`] sends the rest and
//! ends the thread: each request has an end, so the closing has one.

use std::fmt;
use std::future::{self, Future};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    LogExporter, Protocol, RetryPolicy, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchConfigBuilder, BatchLogProcessor, SdkLoggerProvider};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use ureq::Agent;
use ureq::http::header::{CONNECTION, HeaderValue};
use ureq::http::uri::{Scheme, Uri};

use crate::log::LogError;

/// Where a collector takes OTLP over HTTP: `https://HOST[:PORT][/PATH]`, or `http://` on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector(String);

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address: Uri = text.parse().map_err(|_| CollectorError)?;
        let host = address.host().filter(|host| !host.is_empty()).ok_or(CollectorError)?;
        let is_allowed = match address.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => LOCAL_HOSTS.contains(&host),
            _ => false,
        };
        // Nothing that would be sent as a password or end in a log, and a path that can be added to.
        match is_allowed && !text.contains(['@', '?', '#']) {
            true => Ok(Self(text.trim_end_matches('/').to_owned())),
            false => Err(CollectorError),
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address that is no collector's.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a collector is at https://HOST:PORT, or at http://127.0.0.1:PORT on this machine")]
pub struct CollectorError;

/// The way to a collector, open until it is closed.
#[derive(Debug)]
#[must_use = "events that have gathered are sent when it is closed"]
pub(crate) struct Otlp {
    collector: Collector,
    provider: SdkLoggerProvider,
    sending: Arc<Sending>,
}

/// What the thread that sends shares with the one that closes.
#[derive(Debug, Default)]
struct Sending {
    /// Batches that did not get through.
    failed: AtomicU64,
    /// When the last request has ended, once it is closed.
    until: OnceLock<Instant>,
}

impl Otlp {
    /// Starts the thread that sends. Nothing is sent yet: a collector may come later than this.
    ///
    /// # Errors
    ///
    /// [`LogError::Otlp`] where the variables `OTEL_EXPORTER_OTLP_…` of this process cannot be used.
    pub(crate) fn open(collector: &Collector) -> Result<Self, LogError> {
        let sending = Arc::new(Sending::default());
        let exporter = LogExporter::builder()
            .with_http()
            .with_http_client(Client::new(Arc::clone(&sending)))
            .with_retry_policy(RetryPolicy::disabled())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{collector}/v1/logs"))
            .with_timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| LogError::Otlp(Box::new(error)))?;
        let batches = BatchConfigBuilder::default()
            .with_scheduled_delay(GATHER)
            .with_max_queue_size(EVENTS_MAX)
            .with_max_export_batch_size(BATCH_EVENTS_MAX)
            .build();
        let processor = BatchLogProcessor::builder(exporter).with_batch_config(batches).build();
        let resource = Resource::builder_empty()
            .with_service_name("evanesce")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkLoggerProvider::builder()
            .with_resource(resource)
            .with_log_processor(processor)
            .build();
        Ok(Self { collector: collector.clone(), provider, sending })
    }

    /// Hands events over to be sent: those of evanesce itself, whatever its libraries have to say.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let own = filter_fn(|metadata| metadata.target().starts_with("evanesce"));
        OpenTelemetryTracingBridge::new(&self.provider).with_filter(own)
    }

    /// Sends what is left, and ends the thread. A request that is under way keeps its time, and no
    /// other outlasts [`CLOSE_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// [`LogError::Undelivered`] where a batch did not get through, now or before.
    pub(crate) fn close(self) -> Result<(), LogError> {
        self.sending.until.get_or_init(|| Instant::now() + CLOSE_TIMEOUT);
        let closed = self.provider.shutdown_with_timeout(REQUEST_TIMEOUT + CLOSE_TIMEOUT);
        match (closed, self.sending.failed.load(Ordering::Relaxed)) {
            (Ok(()), 0) => Ok(()),
            (_, batches) => Err(LogError::Undelivered { collector: self.collector, batches }),
        }
    }
}

/// Sends one batch after the other, on the thread of the exporter.
#[derive(Debug)]
struct Client {
    agent: Agent,
    sending: Arc<Sending>,
}

impl Client {
    fn new(sending: Arc<Sending>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("evanesce/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.new_agent(), sending }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut head, body) = request.into_parts();
        // Nothing is open between two batches.
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let timeout = self.timeout().ok_or("the exporter is being closed")?;
        let request = Request::from_parts(head, &body[..]);
        let request = self.agent.configure_request(request).timeout_global(Some(timeout)).build();
        let answer = self.agent.run(request)?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }

    /// How long the next request may take; `None` where it would come too late.
    fn timeout(&self) -> Option<Duration> {
        let Some(until) = self.sending.until.get() else { return Some(REQUEST_TIMEOUT) };
        let left = until.saturating_duration_since(Instant::now()).min(REQUEST_TIMEOUT);
        (!left.is_zero()).then_some(left)
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let answer = self.send(request);
        if !answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
            self.sending.failed.fetch_add(1, Ordering::Relaxed);
        }
        Box::pin(future::ready(answer))
    }
}

/// How long events gather before they are sent.
const GATHER: Duration = Duration::from_secs(1);

/// For one batch, from the first byte to the last of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// For all batches that are left at the end. A collector that does not answer holds up no receipt for
/// longer than this, or than the request that was under way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Events that may wait to be sent; the next ones are dropped.
const EVENTS_MAX: usize = 2048;

const BATCH_EVENTS_MAX: usize = 512;

const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Where events may go in the clear.
const LOCAL_HOSTS: &[&str] = &["127.0.0.1", "localhost", "[::1]"];

#[cfg(test)]
mod tests {
    use std::io::ErrorKind::WouldBlock;
    use std::io::{self, Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::thread::{self, JoinHandle};

    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn events_go_in_the_clear_to_this_machine_alone() {
        for local in ["http://127.0.0.1:4318", "http://[::1]:4318/", "https://collector.example"] {
            assert_eq!(
                local.parse::<Collector>().unwrap().to_string(),
                local.trim_end_matches('/')
            );
        }
        for other in ["http://collector.example:4318", "http://localhost.example", "4318", ""]
            .into_iter()
            .chain(["ftp://127.0.0.1", "https://me:secret@collector.example", "https://a/?b"])
            .chain(["https://", "https://:4318", "https://a/#b", "http://127.0.0.1.example"])
        {
            other.parse::<Collector>().unwrap_err();
        }
    }

    /// So many events on their way to `address`.
    fn emitted(address: SocketAddr, events: usize) -> Otlp {
        let otlp = Otlp::open(&format!("http://{address}").parse().unwrap()).unwrap();
        let subscriber = Registry::default().with(otlp.layer());
        tracing::subscriber::with_default(subscriber, || {
            (0..events).for_each(|_| tracing::info!("an event"));
        });
        otlp
    }

    /// Takes one request, answers with `answer`, and keeps the connection.
    fn collector(answer: &'static str) -> (SocketAddr, JoinHandle<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taking = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(REQUEST_TIMEOUT)).unwrap();
            let mut request = Vec::new();
            while !String::from_utf8_lossy(&request).contains("an event") {
                let mut part = [0; 4096];
                let bytes = stream.read(&mut part).unwrap();
                assert_ne!(bytes, 0);
                request.extend_from_slice(&part[..bytes]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            stream
        });
        (address, taking)
    }

    /// Whether nothing comes after what was sent.
    fn is_hung_up(mut stream: &TcpStream) -> bool {
        stream.set_nonblocking(true).unwrap();
        io::copy(&mut stream, &mut io::sink())
            .map_or_else(|error| error.kind() != WouldBlock, |_| true)
    }

    #[test]
    fn no_connection_is_left_when_the_exporter_is_closed() {
        let (address, taking) = collector("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");

        emitted(address, 1).close().unwrap();

        assert!(is_hung_up(&taking.join().unwrap()));
    }

    #[test]
    fn no_connection_is_left_to_a_collector_that_never_answers_and_the_rest_is_given_up() {
        let (address, taking) = collector("");
        let otlp = emitted(address, 2 * BATCH_EVENTS_MAX + 1);
        let begun = Instant::now();

        let told = otlp.close().unwrap_err();

        assert!(begun.elapsed() < ON_A_BUSY_MACHINE, "{:?}", begun.elapsed());
        assert!(matches!(told, LogError::Undelivered { batches: 2.., .. }), "{told:?}");
        assert!(is_hung_up(&taking.join().unwrap()));
    }

    #[test]
    fn an_answer_that_comes_byte_by_byte_has_an_end() {
        let (address, taking) = collector("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
        let dripping = thread::spawn(move || {
            let mut stream = taking.join().unwrap();
            let (_sender, nothing) = mpsc::channel::<()>();
            while stream.write_all(b" ").is_ok() {
                nothing.recv_timeout(Duration::from_millis(50)).unwrap_err();
            }
        });
        let otlp = emitted(address, 1);
        let begun = Instant::now();

        let told = otlp.close().unwrap_err();

        assert!(begun.elapsed() < ON_A_BUSY_MACHINE, "{:?}", begun.elapsed());
        assert!(matches!(told, LogError::Undelivered { batches: 1, .. }), "{told:?}");
        dripping.join().unwrap();
    }

    /// Three seconds are the rule: the longer of the two limits.
    const ON_A_BUSY_MACHINE: Duration = Duration::from_secs(8);

    #[test]
    fn what_libraries_have_to_say_is_not_sent() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = nobody.local_addr().unwrap();
        let otlp = Otlp::open(&format!("http://{address}").parse().unwrap()).unwrap();
        let subscriber = Registry::default().with(otlp.layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "zbus", "an event");
        });

        otlp.close().unwrap();
    }

    #[test]
    fn a_collector_that_is_not_there_is_told_of() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

        let told = emitted(nobody, 1).close().unwrap_err();

        assert!(matches!(told, LogError::Undelivered { batches: 1, .. }), "{told:?}");
    }
}
