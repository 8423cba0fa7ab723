//! Between a worker's channel and the port of its machine, in a thread of its own.
//!
//! Orders go in as they are. The descriptors that come with `Serve` stay here: clients are accepted
//! here and carried over one by one, journal entries come out and are written here before the
//! answer that they belong to is given out, and the kill switch is watched for here. What does not
//! fit ends the thread, which closes the port: the machine ends then, and its worker with it.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::PoisonError;
use std::thread;

use evanesce_protocol::Digest;
use evanesce_protocol::channel::Channel;
use evanesce_protocol::control::{
    Load, LoadSource, Refused, Serve, SignerOrder, SignerReport, Strength,
};
use evanesce_protocol::limits::{AGENT_CONNECTIONS_MAX, MACHINE_DATA_BYTES_MAX};
use evanesce_protocol::machine::{FrameReader, FromMachine, ToMachine, Vouch, frame};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt::socket_peercred};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::Seen;

/// What the thread is between.
pub(super) struct Ends {
    /// The machine's port.
    pub(super) port: UnixStream,
    /// The worker's end of the launcher's channel.
    pub(super) worker: Channel,
    /// The attester's end of the channel that asks for evidence.
    pub(super) attester: Channel,
}

/// Starts the thread. It ends with the port or the worker's channel.
pub(super) fn begin(ends: Ends, strength: Strength, seen: Seen) -> io::Result<()> {
    let Ends { port, worker: channel, attester } = ends;
    port.set_nonblocking(true)?;
    let mut relay = Relay {
        port,
        channel,
        attester: Some(attester),
        seen,
        frames: FrameReader::default(),
        out: frame(&ToMachine::Start { strength: strength.argument().to_owned() }),
        service: None,
        clients: BTreeMap::new(),
        next_client: 0,
    };
    // Nobody waits for it: it ends with the machine, which is killed by its pidfd.
    thread::Builder::new()
        .name("machine".to_owned())
        .spawn(move || while relay.turn().is_ok() {})?;
    Ok(())
}

/// Everything is over: the port and the channel are to be closed.
struct Over;

/// No error is told: the launcher sees that the channel is closed, and looks at the machine.
impl<E: std::error::Error> From<E> for Over {
    fn from(_: E) -> Self {
        Self
    }
}

struct Relay {
    port: UnixStream,
    /// The worker's end of the launcher's channel.
    channel: Channel,
    /// `None` once nobody can ask any more.
    attester: Option<Channel>,
    seen: Seen,
    frames: FrameReader,
    /// What the port has not taken yet.
    out: Vec<u8>,
    service: Option<Service>,
    clients: BTreeMap<u32, Client>,
    next_client: u32,
}

/// What came with the order to serve.
struct Service {
    terms: Serve,
    listener: OwnedFd,
    journal: OwnedFd,
    switch: Option<OwnedFd>,
    /// Runs out when the machine's own clock must have let the key's time be over long ago.
    timer: OwnedFd,
}

struct Client {
    socket: OwnedFd,
    /// An answer that it has not taken yet.
    out: Vec<u8>,
    /// Whether the machine has something of it that the worker has not taken yet.
    is_sent: bool,
}

impl Relay {
    fn turn(&mut self) -> Result<(), Over> {
        let ready = self.wait()?;
        if ready.time_is_over {
            return Err(Over);
        }
        if ready.port_out {
            self.flush()?;
        }
        if ready.port_in {
            self.hear_machine()?;
        }
        if ready.channel {
            self.hear_launcher()?;
        }
        if ready.attester {
            self.hear_asker();
        }
        if ready.switch && self.kill_switch_is_set() {
            self.service.iter_mut().for_each(|service| service.switch = None);
            self.say(&ToMachine::KillSwitch);
        }
        for client in ready.clients {
            self.hear_client(client);
        }
        if ready.listener {
            self.accept();
        }
        self.flush()
    }

    fn wait(&self) -> Result<Ready, Over> {
        let mut port = PollFlags::IN;
        port.set(PollFlags::OUT, !self.out.is_empty());
        let mut watched =
            vec![PollFd::new(&self.port, port), PollFd::new(&self.channel, PollFlags::IN)];
        for client in self.clients.values() {
            let mut flags = PollFlags::empty();
            // One that does not read its answers is not listened to.
            flags.set(PollFlags::IN, !client.is_sent && client.out.is_empty());
            flags.set(PollFlags::OUT, !client.out.is_empty());
            watched.push(PollFd::new(&client.socket, flags));
        }
        let clients_end = watched.len();
        let attester = self.attester.as_ref().map(|channel| {
            watched.push(PollFd::new(channel, PollFlags::IN));
            watched.len() - 1
        });
        let service_start = watched.len();
        let (mut listener, mut switch) = (None, None);
        if let Some(service) = &self.service {
            watched.push(PollFd::new(&service.timer, PollFlags::IN));
            if self.clients.len() < AGENT_CONNECTIONS_MAX {
                listener = Some(watched.len());
                watched.push(PollFd::new(&service.listener, PollFlags::IN));
            }
            if let Some(events) = &service.switch {
                switch = Some(watched.len());
                watched.push(PollFd::new(events, PollFlags::IN));
            }
        }
        loop {
            match poll(&mut watched, None) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(_) => return Err(Over),
            }
        }
        let is_ready = |index: usize| !watched[index].revents().is_empty();
        Ok(Ready {
            port_in: watched[0]
                .revents()
                .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            port_out: watched[0].revents().contains(PollFlags::OUT),
            channel: is_ready(1),
            clients: self
                .clients
                .keys()
                .zip(&watched[2..clients_end])
                .filter(|(_, watched)| !watched.revents().is_empty())
                .map(|(client, _)| *client)
                .collect(),
            attester: attester.is_some_and(is_ready),
            time_is_over: self.service.is_some() && is_ready(service_start),
            listener: listener.is_some_and(is_ready),
            switch: switch.is_some_and(is_ready),
        })
    }

    /// Hands an order on.
    fn hear_launcher(&mut self) -> Result<(), Over> {
        let received = self.channel.receive::<SignerOrder>()?;
        let mut files = received.descriptors.into_iter();
        match &received.message {
            SignerOrder::Serve(terms) => {
                let (Some(listener), Some(journal)) = (files.next(), files.next()) else {
                    return Err(Over);
                };
                let switch = files.next();
                if switch.is_some() != terms.kill_switch.is_some() {
                    return Err(Over);
                }
                let timer = life_timer(terms.ttl_ms)?;
                let terms = terms.clone();
                self.service = Some(Service { terms, listener, journal, switch, timer });
            }
            SignerOrder::Load(Load {
                source: LoadSource::BornInside | LoadSource::Released { .. },
                seal: None,
                ..
            })
            | SignerOrder::OfferRelease(_)
            | SignerOrder::Endorse(_)
            | SignerOrder::Wipe => {}
            // What a key file, a secret or a sealed key has to do with stays outside of machines.
            SignerOrder::Load(_) | SignerOrder::Inspect | SignerOrder::Secret(_) => {
                let refused = Refused::Order { order: "not for a machine".to_owned() };
                self.channel.send(&SignerReport::Refused(refused), &[])?;
                return Ok(());
            }
        }
        if files.next().is_some() {
            return Err(Over);
        }
        self.say(&ToMachine::Order(Box::new(received.message)));
        Ok(())
    }

    /// Hands on what the machine is to vouch for.
    fn hear_asker(&mut self) {
        let Some(channel) = &mut self.attester else { return };
        match channel.receive::<Vouch>() {
            Ok(received) => self.say(&ToMachine::Vouch(Box::new(received.message))),
            Err(_) => self.attester = None,
        }
    }

    /// Does what the machine says.
    fn hear_machine(&mut self) -> Result<(), Over> {
        let mut buffer = [0; READ_BYTES];
        match rustix::io::read(&self.port, &mut buffer) {
            Ok(0) => return Err(Over),
            Ok(count) => self.frames.push(&buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(_) => return Err(Over),
        }
        while let Some(message) = self.frames.next_message::<FromMachine>()? {
            match message {
                FromMachine::Seen { status, limits } => {
                    let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                    *seen = Some((status, limits));
                }
                FromMachine::Report(report) => self.channel.send(&*report, &[])?,
                FromMachine::Vouched(report) => {
                    if let Some(channel) = &self.attester {
                        // Whoever asked may have given up.
                        channel.send(&*report, &[]).ok();
                    }
                }
                FromMachine::Requested { request } => self.record(&request)?,
                FromMachine::Taken { client } => {
                    self.clients.entry(client).and_modify(|client| client.is_sent = false);
                }
                FromMachine::Data { client: number, bytes } => {
                    if let Some(client) = self.clients.get_mut(&number) {
                        client.out.extend(bytes);
                        if client.out.len() > OUT_BYTES_MAX || client.flush().is_err() {
                            self.drop_client(number);
                        }
                    }
                }
                FromMachine::Gone { client } => drop(self.clients.remove(&client)),
                FromMachine::Ended { .. } => return Err(Over),
                FromMachine::Failed { step, errno } => {
                    let refused = Refused::Machine { step, errno };
                    self.channel.send(&SignerReport::Refused(refused), &[])?;
                    return Err(Over);
                }
            }
        }
        Ok(())
    }

    /// Appends to the journal: before the answer that it belongs to, which comes after it.
    fn record(&mut self, request: &Digest) -> Result<(), Over> {
        let service = self.service.as_ref().ok_or(Over)?;
        loop {
            match rustix::io::write(&service.journal, request.as_bytes()) {
                Ok(Digest::BYTES) => return Ok(()),
                Err(Errno::INTR) => {}
                // A request that cannot be recorded may not be answered.
                Ok(_) | Err(_) => return Err(Over),
            }
        }
    }

    /// Hands on what a client sends, one piece at a time, and gives it what waits for it.
    fn hear_client(&mut self, number: u32) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        if client.flush().is_err() {
            return self.drop_client(number);
        }
        if client.is_sent || !client.out.is_empty() {
            return;
        }
        let mut buffer = [0; MACHINE_DATA_BYTES_MAX];
        match rustix::io::read(&client.socket, &mut buffer) {
            Ok(0) => self.drop_client(number),
            Ok(count) => {
                client.is_sent = true;
                self.say(&ToMachine::Data { client: number, bytes: buffer[..count].to_vec() });
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.drop_client(number),
        }
    }

    fn drop_client(&mut self, number: u32) {
        self.clients.remove(&number);
        self.say(&ToMachine::Gone { client: number });
    }

    fn accept(&mut self) {
        let Some(service) = &self.service else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = accept_with(&service.listener, flags) else { return };
        let client_uid = service.terms.client_uid;
        if !socket_peercred(&socket).is_ok_and(|peer| peer.uid.as_raw() == client_uid) {
            return;
        }
        let number = self.next_client;
        self.next_client = number.wrapping_add(1);
        let client = Client { socket, out: Vec::new(), is_sent: false };
        if self.clients.insert(number, client).is_none() {
            self.say(&ToMachine::Connected { client: number });
        }
    }

    /// Whether the watched name appeared, or can no longer be watched for.
    fn kill_switch_is_set(&self) -> bool {
        let Some(service) = &self.service else { return false };
        let (Some(events), Some(name)) = (&service.switch, &service.terms.kill_switch) else {
            return false;
        };
        let mut space = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(events.as_fd(), &mut space);
        loop {
            match events.next() {
                Ok(event) => {
                    let appeared = event.file_name().is_some_and(|found| found.to_bytes() == name);
                    if appeared || event.events().intersects(UNWATCHED) {
                        return true;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => return false,
                Err(_) => return true,
            }
        }
    }

    fn say(&mut self, message: &ToMachine) {
        self.out.extend(frame(message));
    }

    fn flush(&mut self) -> Result<(), Over> {
        write_out(&self.port, &mut self.out).map_err(|_| Over)
    }
}

impl Client {
    fn flush(&mut self) -> Result<(), Errno> {
        write_out(&self.socket, &mut self.out)
    }
}

/// Writes as much as is taken.
fn write_out(to: impl std::os::fd::AsFd, out: &mut Vec<u8>) -> Result<(), Errno> {
    let mut sent = 0;
    let result = loop {
        if sent == out.len() {
            break Ok(());
        }
        match rustix::net::send(to.as_fd(), &out[sent..], rustix::net::SendFlags::NOSIGNAL) {
            Ok(count) => sent += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break Ok(()),
            Err(errno) => break Err(errno),
        }
    };
    out.drain(..sent);
    result
}

/// Who has something to say.
struct Ready {
    port_in: bool,
    port_out: bool,
    channel: bool,
    clients: Vec<u32>,
    attester: bool,
    time_is_over: bool,
    listener: bool,
    switch: bool,
}

/// The machine's clock is not this one: a machine that does not end in time is ended.
fn life_timer(ttl_ms: Option<u64>) -> Result<OwnedFd, Over> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
    if let Some(ttl_ms) = ttl_ms {
        let seconds = i64::try_from(ttl_ms / 1000).unwrap_or(i64::MAX);
        let life = Timespec { tv_sec: seconds.saturating_add(OVERTIME_SECONDS), tv_nsec: 0 };
        let setting =
            Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: life };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
    }
    Ok(timer)
}

/// How long a machine may have a key for longer than the key's time to live, by the host's clock.
const OVERTIME_SECONDS: i64 = 5;

const READ_BYTES: usize = 64 * 1024;

/// Answers that a client may leave unread: it is not listened to meanwhile.
const OUT_BYTES_MAX: usize = 256 * 1024;

/// What means that a file may appear unseen.
const UNWATCHED: inotify::ReadFlags = inotify::ReadFlags::DELETE_SELF
    .union(inotify::ReadFlags::MOVE_SELF)
    .union(inotify::ReadFlags::IGNORED)
    .union(inotify::ReadFlags::UNMOUNT)
    .union(inotify::ReadFlags::QUEUE_OVERFLOW);

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::time::Duration;

    use evanesce_protocol::custody::Seal;
    use evanesce_protocol::evidence::{AttesterReport, CollectError, EvidenceSource};
    use evanesce_protocol::evidence::{Nonce, NotaryPoint};
    use evanesce_protocol::grant::Grants;
    use evanesce_protocol::{KeyUse, PublicKey};

    use super::*;

    /// A relay, and all that is around it.
    struct Around {
        launcher: Channel,
        asker: Channel,
        machine: UnixStream,
        frames: FrameReader,
    }

    impl Around {
        /// After the first message.
        fn new() -> Self {
            let (port, machine) = UnixStream::pair().unwrap();
            let (launcher, worker) = Channel::pair().unwrap();
            let (asker, attester) = Channel::pair().unwrap();
            let [worker, attester] = [worker, attester].map(Channel::new);
            begin(Ends { port, worker, attester }, Strength::Strict, Seen::default()).unwrap();
            machine.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut around = Self { launcher, asker, machine, frames: FrameReader::default() };
            assert!(matches!(around.next(), Some(ToMachine::Start { .. })));
            around
        }

        /// What the machine is told next; `None` where the port is closed.
        fn next(&mut self) -> Option<ToMachine> {
            loop {
                if let Some(message) = self.frames.next_message().unwrap() {
                    return Some(message);
                }
                let mut buffer = [0; 4096];
                match self.machine.read(&mut buffer).unwrap() {
                    0 => return None,
                    count => self.frames.push(&buffer[..count]),
                }
            }
        }

        fn say(&mut self, message: &FromMachine) {
            self.machine.write_all(&frame(message)).unwrap();
        }

        /// Has a socket served, with a journal that is a pipe.
        fn serve(&mut self, journal: &OwnedFd) -> (tempfile::TempDir, PathBuf) {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("agent");
            let listener = UnixListener::bind(&socket).unwrap();
            let terms = Serve {
                grants: Grants::default(),
                certificate: Vec::new(),
                comment: String::new(),
                client_uid: rustix::process::geteuid().as_raw(),
                signatures_max: 9,
                ttl_ms: None,
                kill_switch: None,
            };
            let files = [listener.as_fd(), journal.as_fd()];
            self.launcher.send(&SignerOrder::Serve(terms), &files).unwrap();
            assert!(matches!(self.next(), Some(ToMachine::Order(_))));
            (folder, socket)
        }

        /// A client that is connected, and its number.
        fn connect(&mut self, socket: &PathBuf) -> (UnixStream, u32) {
            let stream = UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let Some(ToMachine::Connected { client }) = self.next() else { panic!("no client") };
            (stream, client)
        }
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn what_brings_a_key_from_outside_is_refused_here_whatever_the_plan_was() {
        let mut around = Around::new();
        let load =
            |source, seal| SignerOrder::Load(Load { source, key_use: KeyUse::Message, seal });
        let seal = Seal::Recipients(Vec::new());

        for order in [
            SignerOrder::Inspect,
            load(LoadSource::File { work_factor_max: 18 }, None),
            load(LoadSource::BornInside, Some(seal)),
        ] {
            around.launcher.send(&order, &[]).unwrap();
            let said = around.launcher.receive_within::<SignerReport>(PATIENCE).unwrap().message;
            assert!(matches!(said, SignerReport::Refused(Refused::Order { .. })), "{said:?}");
        }

        // What is not refused gets there, and it is the first that does.
        let key = PublicKey::from_bytes([7; 32]);
        around.launcher.send(&SignerOrder::OfferRelease(key), &[]).unwrap();
        let order = Box::new(SignerOrder::OfferRelease(key));
        assert_eq!(around.next(), Some(ToMachine::Order(order)));
    }

    #[test]
    fn a_request_is_in_the_journal_when_its_answer_is_given_out() {
        let mut around = Around::new();
        let (mut journal, writing) = io::pipe().unwrap();
        let (_folder, socket) = around.serve(&writing.into());
        let (mut client, number) = around.connect(&socket);
        let request = Digest::of(b"request");

        around.say(&FromMachine::Requested { request });
        around.say(&FromMachine::Data { client: number, bytes: b"answer".to_vec() });

        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        // It is there by now: a pipe that is read without waiting.
        rustix::io::ioctl_fionbio(&journal, true).unwrap();
        let mut entry = [0; Digest::BYTES];
        journal.read_exact(&mut entry).unwrap();
        assert_eq!(&entry, request.as_bytes());
    }

    #[test]
    fn an_answer_whose_request_cannot_be_recorded_is_given_to_nobody() {
        let mut around = Around::new();
        let (journal, writing) = io::pipe().unwrap();
        let (_folder, socket) = around.serve(&writing.into());
        let (mut client, number) = around.connect(&socket);
        drop(journal);

        around.say(&FromMachine::Requested { request: Digest::of(b"request") });
        // The port may be closed by now.
        let answer = FromMachine::Data { client: number, bytes: b"answer".to_vec() };
        around.machine.write_all(&frame(&answer)).ok();

        assert_eq!(client.read(&mut [0; 6]).unwrap(), 0);
        assert_eq!(around.next(), None, "the port is closed: the machine ends");
    }

    #[test]
    fn evidence_is_asked_for_inside_and_told_to_whoever_asked() {
        let mut around = Around::new();
        let vouch = Vouch {
            public_key: PublicKey::from_bytes([7; 32]),
            release_key: None,
            nonce: Nonce::from_bytes([1; 32]),
            notary: NotaryPoint::from_bytes([5; 65]),
            configuration: String::new(),
            source: EvidenceSource::Machine,
        };

        around.asker.send(&vouch, &[]).unwrap();
        assert_eq!(around.next(), Some(ToMachine::Vouch(Box::new(vouch))));
        let refused = AttesterReport::Refused(CollectError::Order);
        around.say(&FromMachine::Vouched(Box::new(refused.clone())));

        let told = around.asker.receive_within::<AttesterReport>(PATIENCE).unwrap().message;
        assert_eq!(told, refused);
    }
}
