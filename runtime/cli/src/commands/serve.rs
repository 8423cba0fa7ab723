//! `serve`: sign digests for clients on the network, each key in a worker of its own.
//!
//! This thread supervises the workers and takes the signals; the connections are served by the threads
//! of [`evanesce_server`], which reach the workers through their agent sockets like any client.

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use evanesce_launcher::{
    AttestPlan, EndReason, Ended, KeySource, Launcher, NotarySession, Plan, Workload, with_causes,
};
use evanesce_ledger::Receipt;
use evanesce_ledger::receipt::{Cause, KeyFate};
use evanesce_protocol::WorkloadId;
use evanesce_server::config::{Config, ConfigError, KeyConfig};
use evanesce_server::keys::{Collect, KeyEnd, KeySetup};
use evanesce_server::limits::{CONFIG_BYTES_MAX, DRAIN_TIMEOUT};
use evanesce_server::{Options, Server, Tls};
use listenfd::ListenFd;
use rustix::process::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use ssh_key::Certificate;

use crate::commands::attest::collect::SourceArgs;
use crate::commands::key::secrets::UnlockArgs;
use crate::commands::run::UnprovenError;
use crate::context::Context;
use crate::errors::{Coded, CommandError, ErrorRecord};
use crate::exit::Exit;
use crate::files;
use crate::local_log;
use crate::otlp::Collector;
use crate::receipt_text;
use crate::ui::{self, Format, Report};

/// Sign digests for clients on the network, each key in a worker of its own
///
/// FILE says where connections are taken, which keys there are and which client may use which, how
/// often. Clients show a certificate (TLS 1.3); they send digests and get signatures and, with a nonce
/// of theirs, evidence. docs/remote-signing.md describes FILE, openapi.json the API.
///
/// SIGHUP takes policy and certificates from FILE again; connections and requests stay. SIGTERM and
/// SIGINT answer what is under way, destroy the keys and print their receipts. Sockets that systemd
/// hands over take the place of `listen`, and systemd is told of each step.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce serve /etc/evanesce/serve.toml
  evanesce serve --check /etc/evanesce/serve.toml      read FILE and what it names, and serve nothing
  evanesce serve --otlp http://127.0.0.1:4318 /etc/evanesce/serve.toml
  systemctl reload evanesce-serve                      take other clients or certificates
  curl --cacert ca.pem --cert ci.pem --key ci.key https://signer.example:8443/v1/keys/release")]
pub struct ServeArgs {
    /// The configuration of the server
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Read FILE and the certificates that it names, say whether they can be used, and end
    #[arg(long)]
    check: bool,

    /// Send events to the OpenTelemetry collector at URL, as OTLP over HTTP in protobuf
    ///
    /// `/v1/logs` is added to URL: https, or http on this machine. Events of --log's level are sent once
    /// a second, those of `info` where that is off; never keys, digests or signatures. Nothing waits for
    /// the collector but the receipts at the end, 3 s at most: the keys are gone by then.
    /// OTEL_EXPORTER_OTLP_HEADERS adds headers.
    #[arg(long, value_name = "URL")]
    otlp: Option<Collector>,

    #[command(flatten)]
    unlock: UnlockArgs,

    #[command(flatten)]
    source: SourceArgs,
}

/// Serves until a signal ends it.
///
/// # Errors
///
/// Where nothing could be served. What went wrong later is in the report.
pub fn run(args: &ServeArgs, context: &Context<'_>) -> Result<ServeReport, CommandError> {
    let (tell, events) = mpsc::channel();
    if !args.check {
        forward_signals(tell.clone())?;
    }
    let config = read_config(&args.file)?;
    let tls = Tls::load(&config.tls)?;
    if args.check {
        context.ui().say(&format!(
            "{} can be served: keys {}",
            args.file.display(),
            names(config.keys.keys())
        ));
        return Ok(ServeReport::default());
    }
    let listeners = listeners(&config)?;
    args.source.warn(context);
    if let Some(collector) = &args.otlp {
        context.send_events(collector)?;
    }
    let launcher = context.launcher()?;
    let mut workloads = Vec::new();
    let started = start_keys(args, context, &launcher, &config, &mut workloads)
        .and_then(|keys| start_server(&config, tls, listeners, keys, tell));
    let mut service = Service { args, context, config, workloads, report: ServeReport::default() };
    match started {
        Ok(server) => service.serve(server, &events),
        Err(error) => service.report.fail(error),
    }
    service.end_all(&launcher);
    Ok(service.report)
}

/// What this thread waits for.
enum Event {
    Signal(i32),
    /// A worker hung up.
    Lost,
}

/// What is served, and what has come of it so far.
struct Service<'a> {
    args: &'a ServeArgs,
    context: &'a Context<'a>,
    config: Config,
    workloads: Vec<Workload<'a>>,
    report: ServeReport,
}

impl Service<'_> {
    /// Supervises until a signal, or a ledger that takes no rows, ends it.
    fn serve(&mut self, server: Server, events: &Receiver<Event>) {
        let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
        if self.context.ui().format() == Format::Text {
            self.context.ui().answer(&format!("listening {}", addresses.join(" ")));
        }
        tell_systemd(&[NotifyState::Ready, NotifyState::Status(&self.status())]);
        let mut watch = Watch::new(&server);
        loop {
            match events.recv_timeout(PUMP_INTERVAL) {
                Ok(Event::Signal(SIGHUP)) => self.reload(&server),
                Ok(Event::Signal(_)) => break,
                Ok(Event::Lost) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !self.pump(&server) {
                break;
            }
            if watch.is_alive(&server) {
                tell_systemd(&[NotifyState::Watchdog]);
            }
        }
        let timeout = u32::try_from(DRAIN_TIMEOUT.as_micros()).unwrap_or(u32::MAX);
        let longer = NotifyState::ExtendTimeoutUsec(timeout);
        tell_systemd(&[NotifyState::Stopping, longer]);
        self.context.ui().say("evanesce: stopping; what is under way is answered first");
        self.report.signatures = server.stop();
    }

    /// Moves signatures to the ledger, and receipts keys that have ended. `false` where that fails:
    /// what cannot be recorded may not be signed.
    fn pump(&mut self, server: &Server) -> bool {
        let mut is_well = true;
        let mut index = 0;
        while index < self.workloads.len() {
            let pumped = self.workloads[index].pump();
            if pumped.is_ok() && self.workloads[index].is_serving() {
                index += 1;
                continue;
            }
            let workload = self.workloads.remove(index);
            let (id, cause) = (workload.id().clone(), workload.cause());
            let reason = match pumped {
                Ok(()) => EndReason::Operator,
                Err(_) => EndReason::Failed,
            };
            is_well &= pumped.is_ok();
            let ended = workload.end(reason);
            let why = reason_text(cause);
            self.context.ui().say(&format!("evanesce: key {id} has ended: {why}"));
            let end = match &ended {
                Ok(ended) => KeyEnd {
                    reason: why.to_owned(),
                    fate: fate_text(ended.fate),
                    receipt_row: Some(ended.row),
                },
                Err(_) => KeyEnd { reason: why.to_owned(), fate: None, receipt_row: None },
            };
            server.set_end(&id, end);
            is_well &= ended.is_ok();
            self.report.add(ended.map_err(Into::into));
            tell_systemd(&[NotifyState::Status(&self.status())]);
        }
        is_well
    }

    /// Takes policy and certificates from the file again. One that cannot be used changes nothing.
    fn reload(&mut self, server: &Server) {
        let begun = NotifyState::monotonic_usec_now();
        if let Ok(now) = begun {
            tell_systemd(&[NotifyState::Reloading, now]);
        }
        let said = match self.read_again() {
            Ok((config, tls)) => {
                server.replace(config.policy.clone(), tls);
                self.config = config;
                "evanesce: policy and certificates were replaced".to_owned()
            }
            Err(error) => {
                server.count_failed_reload();
                let code = error.code();
                let clauses = error.clauses().join(": ");
                format!("evanesce: the old policy and certificates stay: {clauses} [{code}]")
            }
        };
        self.context.ui().say(&said);
        tell_systemd(&[NotifyState::Ready, NotifyState::Status(&said)]);
    }

    fn read_again(&self) -> Result<(Config, Tls), CommandError> {
        let config = read_config(&self.args.file)?;
        let tls = Tls::load(&config.tls)?;
        let is_same = |what: &'static str, same: bool| match same {
            true => Ok(()),
            false => Err(ServeError::NeedsRestart { what }),
        };
        is_same("keys", config.keys == self.config.keys)?;
        is_same("listen", config.listen == self.config.listen)?;
        is_same("connections", config.connections == self.config.connections)?;
        is_same("threads", config.threads == self.config.threads)?;
        is_same("timeouts", config.timeouts == self.config.timeouts)?;
        Ok((config, tls))
    }

    /// Ends every key that is left, and grows the log by their receipts.
    fn end_all(&mut self, launcher: &Launcher) {
        let reason = match self.report.error {
            None => EndReason::Operator,
            Some(_) => EndReason::Failed,
        };
        // No key waits for whoever takes events, and no event for a receipt: the keys go first, then
        // what carries events out of this process, then the receipts are written.
        self.workloads.iter_mut().for_each(|workload| workload.scrub(reason));
        launcher.close_events();
        let mut last: Option<NotarySession> = None;
        for workload in std::mem::take(&mut self.workloads) {
            match workload.end_keeping_notary(reason) {
                Ok((ended, notary)) => {
                    if let Some(notary) = last.replace(notary) {
                        self.report.check(notary.close());
                    }
                    self.report.add(Ok(ended));
                }
                Err(error) => self.report.add(Err(error.into())),
            }
        }
        match last {
            Some(notary) => local_log::grow_with(self.context, notary),
            None => local_log::grow(self.context, launcher),
        }
    }

    fn status(&self) -> String {
        let keys = names(self.workloads.iter().map(Workload::id));
        format!("serving keys {keys}")
    }
}

/// Tells systemd, where it wants to be told. A service manager that does not listen is no reason to
/// stop.
fn tell_systemd(states: &[NotifyState<'_>]) {
    sd_notify::notify(states).unwrap_or(());
}

/// Sees that connections are being served.
struct Watch {
    beats: u64,
    since: Instant,
}

impl Watch {
    fn new(server: &Server) -> Self {
        Self { beats: server.beats(), since: Instant::now() }
    }

    /// Whether a task was run not long ago.
    fn is_alive(&mut self, server: &Server) -> bool {
        let beats = server.beats();
        if beats != self.beats {
            *self = Self { beats, since: Instant::now() };
        }
        self.since.elapsed() < STUCK_AFTER
    }
}

/// Hands signals to the thread that waits for events.
fn forward_signals(tell: Sender<Event>) -> Result<(), ServeError> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(ServeError::Signals)?;
    thread::Builder::new()
        .name("evanesce-signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if tell.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })
        .map_err(ServeError::Signals)?;
    Ok(())
}

fn read_config(path: &Path) -> Result<Config, CommandError> {
    let bytes = files::read_small(path, CONFIG_BYTES_MAX)?;
    let failed = |source| ServeConfigError { path: path.to_owned(), source };
    let text = str::from_utf8(&bytes).map_err(|_| ServeError::NotText { path: path.to_owned() })?;
    Ok(Config::parse(text).map_err(failed)?)
}

/// The sockets that systemd hands over, else those that the file names. Neither comes to a worker: they
/// are closed where another program is executed.
fn listeners(config: &Config) -> Result<Vec<TcpListener>, ServeError> {
    let mut handed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..handed.len() {
        let listener = handed.take_tcp_listener(index).map_err(ServeError::Handed)?;
        listeners.extend(listener);
    }
    if !listeners.is_empty() {
        return Ok(listeners);
    }
    if config.listen.is_empty() {
        return Err(ServeError::NoAddress);
    }
    let bind =
        |address| TcpListener::bind(address).map_err(|source| ServeError::Bind { address, source });
    config.listen.iter().copied().map(bind).collect()
}

/// Starts a workload for each key. Those that were started are in `workloads`, whatever comes of it.
fn start_keys<'a>(
    args: &ServeArgs,
    context: &Context<'_>,
    launcher: &'a Launcher,
    config: &Config,
    workloads: &mut Vec<Workload<'a>>,
) -> Result<Vec<KeySetup>, CommandError> {
    let mut keys = Vec::new();
    for (name, key) in &config.keys {
        let workload = launcher.start(plan(args, context, name, key))?;
        let line = workload.certificate_line().to_owned();
        let certificate = Certificate::from_openssh(&line)
            .and_then(|certificate| certificate.to_bytes())
            .map_err(ServeError::Certificate)?;
        let collect = key.evidence.then(|| collect(&workload, args.source.plan(None)));
        keys.push(KeySetup {
            name: name.clone(),
            grants: key.grants.clone(),
            public_key: *workload.public_key(),
            certificate_line: line.trim_end().to_owned(),
            certificate,
            agent_socket: workload.agent_socket(),
            collect,
        });
        workloads.push(workload);
    }
    Ok(keys)
}

fn plan(args: &ServeArgs, context: &Context<'_>, name: &WorkloadId, key: &KeyConfig) -> Plan {
    let settings = context.settings();
    Plan {
        workload_id: Some(name.clone()),
        key: key.file.clone().map_or(KeySource::Ephemeral, KeySource::File),
        unlock: args.unlock.unlock(context),
        grants: key.grants.clone(),
        ttl: key.ttl,
        signatures_max: key.signatures_max,
        degraded: settings.allow_degraded.value.clone(),
        require: settings.require.value.clone(),
        command_name: Some("evanesce serve".into()),
        ..Plan::default()
    }
}

fn collect(workload: &Workload<'_>, plan: AttestPlan) -> Collect {
    let identity = workload.identity().clone();
    Arc::new(move |nonce| {
        let envelope = identity.collect(&plan, nonce).map_err(|error| with_causes(&error))?;
        Ok(envelope.to_json())
    })
}

fn start_server(
    config: &Config,
    tls: Tls,
    listeners: Vec<TcpListener>,
    keys: Vec<KeySetup>,
    tell: Sender<Event>,
) -> Result<Server, CommandError> {
    // After the workers were started: they have limits of their own.
    raise_descriptors(config)?;
    let options = Options {
        listeners,
        connections: config.connections,
        threads: config.threads,
        timeouts: config.timeouts,
        policy: config.policy.clone(),
        tls,
        keys,
        // Nobody has to be told once nobody waits any more.
        lost: Arc::new(move |_| tell.send(Event::Lost).unwrap_or(())),
    };
    Ok(Server::start(options)?)
}

/// Lets this process have a descriptor for each connection.
fn raise_descriptors(config: &Config) -> Result<(), ServeError> {
    let wanted = (config.connections + DESCRIPTORS_BESIDE) as u64;
    let mut limit = getrlimit(Resource::Nofile);
    let too_few = limit.current.is_some_and(|current| current < wanted);
    if too_few {
        if let Some(found) = limit.maximum.filter(|maximum| *maximum < wanted) {
            return Err(ServeError::Descriptors { wanted, found });
        }
        limit.current = Some(wanted);
        setrlimit(Resource::Nofile, limit)
            .map_err(|_| ServeError::Descriptors { wanted, found: 0 })?;
    }
    Ok(())
}

fn names<'a>(ids: impl Iterator<Item = &'a WorkloadId>) -> String {
    let names: Vec<_> = ids.map(WorkloadId::as_str).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

const fn reason_text(cause: Option<Cause>) -> &'static str {
    match cause {
        Some(Cause::SignaturesSpent) => "its budget of signatures is spent",
        Some(Cause::TimeToLive) => "its time to live is over",
        Some(Cause::WorkerLost) => "its worker died",
        Some(Cause::Operator) => "the operator ended it",
        _ => "a step failed",
    }
}

/// As receipts spell it.
fn fate_text(fate: KeyFate) -> Option<String> {
    let value = serde_json::to_value(fate).ok()?;
    value.as_str().map(str::to_owned)
}

/// What was signed, and what became of the keys.
#[derive(Debug, Default, Serialize)]
pub struct ServeReport {
    signatures: u64,
    keys: Vec<EndedKey>,
    error: Option<ErrorRecord>,
}

/// One key's end.
#[derive(Debug, Serialize)]
struct EndedKey {
    workload_id: WorkloadId,
    receipt: Receipt,
    receipt_row: u64,
}

impl ServeReport {
    fn add(&mut self, ended: Result<Ended, CommandError>) {
        match ended {
            Ok(ended) => {
                let id = ended.receipt.workload.clone();
                if ended.fate == KeyFate::Unproven {
                    self.fail(UnprovenError { id: id.clone() }.into());
                }
                let (receipt, receipt_row) = (ended.receipt, ended.row);
                self.keys.push(EndedKey { workload_id: id, receipt, receipt_row });
            }
            Err(error) => self.fail(error),
        }
    }

    fn check<E: Coded>(&mut self, result: Result<(), E>) {
        if let Err(error) = result {
            self.fail(error.into());
        }
    }

    /// The first error is the one that is told.
    fn fail(&mut self, error: CommandError) {
        self.error.get_or_insert(error.to_record());
    }
}

impl Report for ServeReport {
    fn exit(&self) -> Exit {
        match self.error {
            Some(_) => Exit::Failure,
            None => Exit::Success,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        self.keys.iter().try_for_each(|key| receipt_text::write(&key.receipt, key.receipt_row, out))
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        self.error.as_ref().map_or(Ok(()), |error| ui::write_error(error, err))
    }
}

/// A file that configures no server.
#[derive(Debug, thiserror::Error)]
#[error("{} configures no server", path.display())]
struct ServeConfigError {
    path: PathBuf,
    #[source]
    source: ConfigError,
}

impl Coded for ServeConfigError {
    fn code(&self) -> &'static str {
        self.source.code()
    }
}

/// Why nothing is served, or nothing else.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Signals cannot be caught.
    #[error("signals cannot be caught")]
    Signals(#[source] io::Error),
    /// The configuration is not even text.
    #[error("{} is not a text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// What systemd handed over is no socket that takes connections.
    #[error("a descriptor that was handed over is no listening TCP socket")]
    Handed(#[source] io::Error),
    /// Neither systemd nor the file names an address.
    #[error("the configuration names no address to listen at, and none was handed over")]
    NoAddress,
    /// An address is taken, or not of this machine.
    #[error("{address} cannot be listened at")]
    Bind {
        /// The address.
        address: std::net::SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// More connections than this process may have descriptors.
    #[error("so many connections need {wanted} descriptors, and {found} may be open")]
    Descriptors {
        /// Needed.
        wanted: u64,
        /// Allowed.
        found: u64,
    },
    /// A key's certificate cannot be read back.
    #[error("a key's certificate is not one")]
    Certificate(#[source] ssh_key::Error),
    /// A reload that would have to start or stop something.
    #[error("`{what}` cannot be changed while the server runs")]
    NeedsRestart {
        /// The field.
        what: &'static str,
    },
}

impl Coded for ServeError {
    fn code(&self) -> &'static str {
        match self {
            Self::Signals(_) => "start.signals",
            Self::NotText { .. } => "serve-config.not-text",
            Self::Handed(_) => "serve.handed",
            Self::NoAddress => "serve.no-address",
            Self::Bind { .. } => "serve.bind",
            Self::Descriptors { .. } => "serve.descriptors",
            Self::Certificate(_) => "sign.certificate",
            Self::NeedsRestart { .. } => "serve.needs-restart",
        }
    }
}

/// How long a signature may wait for its row.
const PUMP_INTERVAL: Duration = Duration::from_millis(250);

/// A server that has run no task for so long is not alive.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// For workers, the ledger and the rest.
const DESCRIPTORS_BESIDE: usize = 512;
