//! The signer's service: the agent socket, its grants, and everything that can end it.
//!
//! One loop, one thread. Each turn waits with clean registers, then looks at the launcher, the
//! clock and the kill switch before it looks at clients, so that an order is never later than one
//! signature. A turn answers at most one request of each client.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use evanesce_protocol::PublicKey;
use evanesce_protocol::agent::{Request, response};
use evanesce_protocol::channel::{Channel, Received};
use evanesce_protocol::commitment::{self, RequestCommitment};
use evanesce_protocol::control::{Refused, Serve, SignerOrder, SignerReport, WipeCause};
use evanesce_protocol::limits::AGENT_CONNECTIONS_MAX;
use evanesce_protocol::rotation::Handover;
use evanesce_wasm_host::{Loaded, Signer};
use rustix::event::epoll::{self, EventFlags};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt::socket_peercred};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use ssh_encoding::Encode as _;

use crate::connection::{Connection, Gone};
use crate::journal::Journal;
use crate::mutant::quiesce_and_wait;
use crate::signer;
use crate::sys;

/// What ended the service.
#[derive(Debug)]
pub(crate) enum End {
    /// The key has to be wiped and the launcher told.
    Wipe(WipeCause),
    /// The launcher is gone: wipe, nobody is left to tell.
    LauncherLost,
    /// The service cannot go on.
    Refused(Refused),
}

/// The descriptors that come with the order to serve.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// The listening agent socket.
    pub(crate) listener: OwnedFd,
    /// The journal, opened for appending.
    pub(crate) journal: OwnedFd,
    /// An inotify descriptor on the kill switch's directory.
    pub(crate) kill_switch: Option<OwnedFd>,
}

/// A signer that could not be served, and why.
#[derive(Debug)]
pub(crate) struct Unserved {
    /// To be wiped.
    pub(crate) signer: Signer<Loaded>,
    /// To be told.
    pub(crate) refused: Refused,
}

/// A loaded signer behind its agent socket.
#[derive(Debug)]
pub(crate) struct Service {
    signer: Signer<Loaded>,
    terms: Serve,
    /// The public key as SSH encodes it, with which clients name it.
    plain_key: Vec<u8>,
    listener: OwnedFd,
    journal: Journal,
    kill_switch: Option<OwnedFd>,
    /// Never armed where there is no time to live.
    timer: OwnedFd,
    /// Readable once SIGTERM has come: `systemctl stop`, `kill`.
    termination: OwnedFd,
    /// Everything that is waited for.
    watched: Watched,
    connections: Vec<Connection>,
    commitment: RequestCommitment,
}

impl Service {
    /// Binds a loaded signer to its terms.
    ///
    /// # Errors
    ///
    /// [`Refused::Order`] where the terms do not fit the key, or the kill switch and its descriptor
    /// do not come together; [`Refused::Cage`] where the time to live cannot be started.
    pub(crate) fn new(
        signer: Signer<Loaded>,
        terms: Serve,
        descriptors: Descriptors,
    ) -> Result<Self, Box<Unserved>> {
        let complete = terms.kill_switch.is_some() == descriptors.kill_switch.is_some();
        if !complete || terms.grants.key_use() != signer.bound_to() {
            let refused = Refused::Order { order: "serve".into() };
            return Err(Box::new(Unserved { signer, refused }));
        }
        let Ok(timer) = life_timer(terms.ttl_ms) else {
            let refused = Refused::Cage { step: "time to live".into(), errno: 0 };
            return Err(Box::new(Unserved { signer, refused }));
        };
        let Ok(termination) = sys::termination() else {
            let refused = Refused::Cage { step: "signalfd".into(), errno: 0 };
            return Err(Box::new(Unserved { signer, refused }));
        };
        let always = [
            Some(&timer),
            Some(&termination),
            Some(&descriptors.listener),
            descriptors.kill_switch.as_ref(),
        ];
        let Ok(watched) = Watched::new(always.into_iter().flatten()) else {
            let refused = Refused::Cage { step: "waiting".into(), errno: 0 };
            return Err(Box::new(Unserved { signer, refused }));
        };
        let public_key = signer.public_key();
        Ok(Self {
            plain_key: ssh_public_key(&public_key),
            commitment: RequestCommitment::new(&public_key),
            signer,
            terms,
            listener: descriptors.listener,
            journal: Journal::new(descriptors.journal),
            kill_switch: descriptors.kill_switch,
            timer,
            termination,
            watched,
            connections: Vec::new(),
        })
    }

    /// Serves until something ends it, and gives the signer back to be wiped.
    pub(crate) fn run(mut self, channel: &mut Channel) -> (Signer<Loaded>, RequestCommitment, End) {
        let mut turn = Turn::default();
        let end = match self.watched.add(&*channel) {
            Ok(()) => loop {
                if let Some(end) = self.turn(channel, &mut turn) {
                    break end;
                }
            },
            Err(errno) => {
                let errno = errno.raw_os_error();
                End::Refused(Refused::Cage { step: "waiting".into(), errno })
            }
        };
        self.abandon(end)
    }

    /// Gives the signer back without serving any further.
    pub(crate) fn abandon(self, end: End) -> (Signer<Loaded>, RequestCommitment, End) {
        (self.signer, self.commitment, end)
    }

    /// One turn of the loop; `Some` when it was the last.
    fn turn(&mut self, channel: &mut Channel, turn: &mut Turn) -> Option<End> {
        let timeout = self.connections.iter().any(Connection::is_ready).then_some(NOW);
        let came = match self.watched.wait(&mut turn.events, timeout) {
            Ok(came) => came,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => return None,
            Err(error) => panic!("epoll_pwait on our own descriptors failed: {error}"),
        };
        let has_event = |fd: &dyn AsRawFd| came.iter().any(|event| event.u64 == name_of(fd));
        if has_event(&channel.as_fd()) {
            return match channel.receive::<SignerOrder>() {
                Ok(Received { message: SignerOrder::Wipe, .. }) => {
                    Some(End::Wipe(WipeCause::Ordered))
                }
                Ok(Received { message: SignerOrder::Endorse(handover), .. }) => {
                    self.endorse(channel, &handover)
                }
                Ok(_) => Some(End::Refused(Refused::Order { order: "while serving".into() })),
                Err(_) => Some(End::LauncherLost),
            };
        }
        if has_event(&self.termination) {
            return Some(End::Wipe(WipeCause::Stopped));
        }
        if has_event(&self.timer) {
            return Some(End::Wipe(WipeCause::TimeToLive));
        }
        if self.kill_switch.as_ref().is_some_and(|fd| has_event(fd)) && self.kill_switch_is_set() {
            return Some(End::Wipe(WipeCause::KillSwitch));
        }
        let end = self.answer_clients(came, &mut turn.buffer);
        if has_event(&self.listener) {
            self.accept();
        }
        end
    }

    /// Signs a handover for the launcher: recorded and counted, as what clients have signed is.
    fn endorse(&mut self, channel: &Channel, handover: &Handover) -> Option<End> {
        let request = commitment::request_of_message(&handover.signed_bytes());
        if !handover.may_be_signed_by(&self.signer.public_key()) {
            return Some(End::Refused(Refused::Order { order: "endorse".into() }));
        }
        if let Err(refused) = self.journal.append(&request) {
            return Some(End::Refused(refused));
        }
        let signature = match signer::endorse(&mut self.signer, handover) {
            Ok(signature) => signature,
            Err(refused) => return Some(End::Refused(refused)),
        };
        if channel.send(&SignerReport::Endorsed { signature }, &[]).is_err() {
            return Some(End::LauncherLost);
        }
        self.count(&request)
    }

    /// Reads, answers and sends, for each client what it is ready for.
    fn answer_clients(&mut self, came: &[libc::epoll_event], buffer: &mut [u8]) -> Option<End> {
        let mut end = None;
        let mut clients = std::mem::take(&mut self.connections);
        let clients_count = clients.len();
        clients.retain_mut(|client| {
            let has_event = came.iter().any(|event| event.u64 == name_of(client.socket()));
            if end.is_some() || !(has_event || client.is_ready()) {
                return true;
            }
            let was_sending = client.is_sending();
            let served = self.serve(client, has_event, buffer).and_then(|ended| {
                if client.is_sending() != was_sending {
                    self.watched.turn_round(client)?;
                }
                Ok(ended)
            });
            match served {
                Ok(ended) => {
                    end = ended;
                    true
                }
                Err(Gone) => false,
            }
        });
        self.connections = clients;
        // A socket that is closed leaves the set by itself.
        if clients_count == AGENT_CONNECTIONS_MAX && self.connections.len() < clients_count {
            self.watched.resume(&self.listener);
        }
        end
    }

    fn serve(
        &mut self,
        client: &mut Connection,
        has_event: bool,
        buffer: &mut [u8],
    ) -> Result<Option<End>, Gone> {
        if has_event {
            match client.is_sending() {
                true => client.flush()?,
                false => client.read(buffer)?,
            }
        }
        if !client.is_ready() {
            return Ok(None);
        }
        let end = client.answer_one(|frame, out| self.answer(frame, out))?.flatten();
        client.flush()?;
        Ok(end)
    }

    /// Answers one request. What cannot be answered is a failure, as the protocol has it: it gives
    /// no reasons.
    fn answer(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Option<End> {
        match Request::parse(frame) {
            Ok(Request::Identities) => {
                let comment = self.terms.comment.as_str();
                let identities =
                    [(self.terms.certificate.as_slice(), comment), (&self.plain_key, comment)];
                response::identities(out, &identities);
                None
            }
            Ok(Request::Query) => {
                response::extensions(out);
                None
            }
            Ok(Request::Sign { key, message }) => self.sign(key, message, out),
            Ok(Request::SignDigest { key, context, digest }) => {
                self.sign_digest(key, context, digest, out)
            }
            Ok(Request::UnknownExtension | Request::Unsupported) | Err(_) => {
                response::failure(out);
                None
            }
        }
    }

    fn sign(&mut self, key: &[u8], message: &[u8], out: &mut Vec<u8>) -> Option<End> {
        let admitted = match self.terms.grants.admit(key, message) {
            Ok(admitted) if self.is_ours(key) => admitted,
            _ => {
                response::failure(out);
                return None;
            }
        };
        let request = commitment::request_of_message(admitted.message());
        if let Err(refused) = self.journal.append(&request) {
            response::failure(out);
            return Some(End::Refused(refused));
        }
        let signature = self.signer.sign_message(admitted.message()).expect("an admitted message");
        response::signature(out, &signature);
        self.count(&request)
    }

    fn sign_digest(
        &mut self,
        key: &[u8],
        context: &[u8],
        digest: &[u8; 64],
        out: &mut Vec<u8>,
    ) -> Option<End> {
        let request = commitment::request_of_digest(context, digest);
        let (Ok(_), Ok(request), true) =
            (self.terms.grants.admit_digest(context), request, self.is_ours(key))
        else {
            response::extension_failure(out);
            return None;
        };
        if let Err(refused) = self.journal.append(&request) {
            response::extension_failure(out);
            return Some(End::Refused(refused));
        }
        let signature = self.signer.sign_digest(digest, context).expect("an admitted digest");
        response::digest_signature(out, &signature);
        self.count(&request)
    }

    /// Counts a signature; `Some` when it was the last that the budget has.
    fn count(&mut self, request: &evanesce_protocol::Digest) -> Option<End> {
        self.commitment.extend(request);
        (self.commitment.count() >= self.terms.signatures_max)
            .then_some(End::Wipe(WipeCause::BudgetSpent))
    }

    /// Whether a client's key blob names this key, plain or as its certificate.
    fn is_ours(&self, key: &[u8]) -> bool {
        key == self.terms.certificate || key == self.plain_key
    }

    /// Takes one client, if it is a process of the right user.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = accept_with(&self.listener, flags) else {
            return;
        };
        let of_user =
            socket_peercred(&socket).is_ok_and(|peer| peer.uid.as_raw() == self.terms.client_uid);
        if of_user && self.watched.add(&socket).is_ok() {
            self.connections.push(Connection::new(socket));
            if self.connections.len() == AGENT_CONNECTIONS_MAX {
                self.watched.pause(&self.listener);
            }
        }
    }

    /// Whether the watched name appeared, or can no longer be watched for.
    fn kill_switch_is_set(&self) -> bool {
        let (Some(descriptor), Some(name)) = (&self.kill_switch, &self.terms.kill_switch) else {
            return false;
        };
        let mut space = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(descriptor.as_fd(), &mut space);
        loop {
            match events.next() {
                Ok(event) => {
                    let appeared = event.file_name().is_some_and(|found| found.to_bytes() == name);
                    let is_arrival = event.events().intersects(ARRIVALS);
                    if event.events().intersects(UNWATCHED) || (is_arrival && appeared) {
                        return true;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => return true,
            }
        }
    }
}

/// What one turn of the loop works with, kept to be used again.
struct Turn {
    events: [libc::epoll_event; EVENTS_MAX],
    buffer: Vec<u8>,
}

impl Default for Turn {
    fn default() -> Self {
        let none = libc::epoll_event { events: 0, u64: 0 };
        Self { events: [none; EVENTS_MAX], buffer: vec![0; READ_BYTES] }
    }
}

/// The descriptors that are waited for, each by its number.
#[derive(Debug)]
struct Watched {
    epoll: OwnedFd,
}

impl Watched {
    fn new<'d>(always: impl Iterator<Item = &'d OwnedFd>) -> Result<Self, Errno> {
        let watched = Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? };
        for descriptor in always {
            watched.add(descriptor)?;
        }
        Ok(watched)
    }

    /// Waits for it to become readable, from now on.
    fn add(&self, descriptor: impl AsFd) -> Result<(), Errno> {
        let descriptor = descriptor.as_fd();
        let name = epoll::EventData::new_u64(name_of(&descriptor));
        epoll::add(&self.epoll, descriptor, name, EventFlags::IN)
    }

    /// Waits for the client to take bytes while there are any for it, else for it to send some.
    fn turn_round(&self, client: &Connection) -> Result<(), Gone> {
        let wanted = if client.is_sending() { EventFlags::OUT } else { EventFlags::IN };
        self.change(client.socket(), wanted).map_err(|_| Gone)
    }

    /// Leaves those who want to connect in the queue.
    fn pause(&self, listener: &OwnedFd) {
        self.change(listener, EventFlags::empty()).expect("the listener is in the set");
    }

    fn resume(&self, listener: &OwnedFd) {
        self.change(listener, EventFlags::IN).expect("the listener is in the set");
    }

    fn change(&self, descriptor: &OwnedFd, wanted: EventFlags) -> Result<(), Errno> {
        let name = epoll::EventData::new_u64(name_of(descriptor));
        epoll::modify(&self.epoll, descriptor, name, wanted)
    }

    fn wait<'e>(
        &self,
        events: &'e mut [libc::epoll_event],
        timeout: Option<Duration>,
    ) -> io::Result<&'e [libc::epoll_event]> {
        quiesce_and_wait(self.epoll.as_fd(), events, timeout)
    }
}

/// What a descriptor is called in [`Watched`]: its number, which nothing else has while it is open.
fn name_of(descriptor: &dyn AsRawFd) -> u64 {
    u64::from(descriptor.as_raw_fd().cast_unsigned())
}

/// A timer of `CLOCK_BOOTTIME`, which goes on while the machine sleeps, armed for the time to live.
fn life_timer(ttl_ms: Option<u64>) -> Result<OwnedFd, Errno> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
    if let Some(ttl_ms) = ttl_ms {
        let seconds = i64::try_from(ttl_ms / 1000).unwrap_or(i64::MAX);
        let nanoseconds = i64::try_from(ttl_ms % 1000 * 1_000_000).expect("below a second");
        // A timer set to zero is disarmed: the shortest life is a nanosecond.
        let life = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.max(i64::from(ttl_ms == 0)) };
        let setting =
            Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: life };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
    }
    Ok(timer)
}

/// An Ed25519 public key as SSH encodes it (RFC 8709, section 4).
fn ssh_public_key(key: &PublicKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in [b"ssh-ed25519".as_slice(), key.as_bytes()] {
        field.encode(&mut bytes).expect("a Vec takes any field below 4 GiB");
    }
    bytes
}

/// Every client, and what is waited for besides: launcher, SIGTERM, time, kill switch and listener.
const EVENTS_MAX: usize = AGENT_CONNECTIONS_MAX + 5;

const NOW: Duration = Duration::ZERO;

/// Bytes read from a client at a time: an SSHSIG request has about 600.
const READ_BYTES: usize = 16 * 1024;

/// How a file appears in a directory.
const ARRIVALS: inotify::ReadFlags = inotify::ReadFlags::CREATE.union(inotify::ReadFlags::MOVED_TO);

/// What means that a file may appear unseen.
const UNWATCHED: inotify::ReadFlags = inotify::ReadFlags::DELETE_SELF
    .union(inotify::ReadFlags::MOVE_SELF)
    .union(inotify::ReadFlags::IGNORED)
    .union(inotify::ReadFlags::UNMOUNT)
    .union(inotify::ReadFlags::QUEUE_OVERFLOW);
