//! Between the port and the worker: orders in, reports, journal entries and answers out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, PipeReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use evanesce_protocol::Digest;
use evanesce_protocol::channel::{Channel, ReceiveError};
use evanesce_protocol::control::{Role, Serve, SignerOrder, SignerReport, Strength, TerminalUse};
use evanesce_protocol::evidence::{AttesterReport, CollectError};
use evanesce_protocol::limits::{AGENT_CONNECTIONS_MAX, MACHINE_DATA_BYTES_MAX};
use evanesce_protocol::machine::{FromMachine, ToMachine, Vouch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl, inotify};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::attester::Attester;
use crate::port::{Peer, Port, wanted};
use crate::record::Record;
use crate::{Failed, step, step_io};

/// Starts the worker when it is told to, and serves it to its end or the launcher's.
pub(crate) fn serve(port: &mut Port) -> Result<(), Failed> {
    let Some(strength) = await_start(port, Instant::now() + START)? else { return Ok(()) };
    let mut inside = Inside::start(strength)?;
    let ended = inside.relay(port);
    // Whatever ended it: a worker whose channel is closed wipes and ends.
    let status = inside.end();
    if let Relayed::WorkerEnded = ended? {
        port.say(&FromMachine::Ended { status });
        port.flush_all();
    }
    Ok(())
}

/// Waits for the first message. `None` where the launcher is gone.
fn await_start(port: &mut Port, deadline: Instant) -> Result<Option<Strength>, Failed> {
    loop {
        if let Some(message) = port.next_message()? {
            let ToMachine::Start { strength } = message else {
                return Err(Failed::at("first message"));
            };
            let strength = Strength::of_argument(strength.as_bytes());
            return strength.map(Some).ok_or(Failed::at("first message"));
        }
        if Instant::now() > deadline {
            return Err(Failed::at("wait for the first message"));
        }
        if port.was_heard() {
            wait(&mut [PollFd::new(port.file(), PollFlags::IN)], Some(MOMENT))?;
        }
        if port.read()? == Peer::Lost {
            return Ok(None);
        }
    }
}

/// Why a relay ended.
enum Relayed {
    /// The worker closed its channel.
    WorkerEnded,
    /// The launcher closed the port.
    LauncherLost,
}

/// What a worker has in its machine.
struct Inside {
    worker: Child,
    /// `None` once it is closed, at which the worker ends.
    channel: Option<Channel>,
    /// Until the worker has it, and the end that is read here.
    journal: Journal,
    switch: Option<PathBuf>,
    clients: BTreeMap<u32, Client>,
    was_seen: bool,
    record: Record,
    /// While there is one at work.
    attester: Option<Attester>,
}

/// A journal in a pipe: what the worker writes is carried out before the answer that it belongs to.
struct Journal {
    reading: PipeReader,
    partial: Vec<u8>,
}

/// A client of the agent, as far as it reaches in here.
struct Client {
    stream: UnixStream,
    /// What it sent, and the worker has not taken yet.
    pending: Vec<u8>,
}

impl Inside {
    fn start(strength: Strength) -> Result<Self, Failed> {
        let (channel, theirs) = Channel::pair().map_err(step_io("socketpair"))?;
        let arguments =
            [Role::Signer.argument(), strength.argument(), TerminalUse::Never.argument()];
        let worker = Command::new(WORKER)
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .uid(WORKER_ID)
            .gid(WORKER_ID)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(step_io("start the worker"))?;
        let (reading, _) = io::pipe().map_err(step_io("pipe"))?;
        let program = fs::read(WORKER).map_err(step_io("read the worker"))?;
        Ok(Self {
            worker,
            channel: Some(channel),
            journal: Journal { reading, partial: Vec::new() },
            switch: None,
            clients: BTreeMap::new(),
            was_seen: false,
            record: Record::of(Digest::of(&program), strength),
            attester: None,
        })
    }

    fn relay(&mut self, port: &mut Port) -> Result<Relayed, Failed> {
        loop {
            port.flush()?;
            let ready = self.wait(port)?;
            for client in ready.clients {
                self.hear_client(client, port)?;
            }
            if ready.worker && self.hear_worker(port)? == Peer::Lost {
                return Ok(Relayed::WorkerEnded);
            }
            if let Some(attester) = self.attester.take_if(|_| ready.attester) {
                port.say(&FromMachine::Vouched(Box::new(attester.finish())));
            }
            if ready.port && port.read()? == Peer::Lost {
                return Ok(Relayed::LauncherLost);
            }
            while let Some(message) = port.next_message()? {
                self.obey(message, port)?;
            }
        }
    }

    /// Waits until something can be read, or written that waits to be.
    fn wait(&self, port: &Port) -> Result<Ready, Failed> {
        let channel = self.channel.as_ref().expect("it is closed when the relay is over");
        let mut watched =
            vec![PollFd::new(port.file(), wanted(port)), PollFd::new(channel, PollFlags::IN)];
        for client in self.clients.values() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !port.is_full());
            flags.set(PollFlags::OUT, !client.pending.is_empty());
            watched.push(PollFd::new(&client.stream, flags));
        }
        let clients_end = watched.len();
        let attester = self.attester.iter();
        watched.extend(attester.map(|one| PollFd::new(one.channel(), PollFlags::IN)));
        wait(&mut watched, None)?;
        let is_ready = |watched: &PollFd<'_>| !watched.revents().is_empty();
        Ok(Ready {
            port: is_ready(&watched[0]),
            worker: is_ready(&watched[1]),
            clients: self
                .clients
                .keys()
                .zip(&watched[2..clients_end])
                .filter(|(_, watched)| is_ready(watched))
                .map(|(client, _)| *client)
                .collect(),
            attester: watched.get(clients_end).is_some_and(is_ready),
        })
    }

    /// Hands a report on.
    fn hear_worker(&mut self, port: &mut Port) -> Result<Peer, Failed> {
        let channel = self.channel.as_mut().expect("it is closed when the relay is over");
        let report = match channel.receive::<SignerReport>() {
            Ok(received) => received.message,
            Err(ReceiveError::Closed) => {
                self.journal.carry_out(port)?;
                return Ok(Peer::Lost);
            }
            Err(_) => return Err(Failed::at("read a report")),
        };
        if !self.was_seen {
            self.was_seen = true;
            let of_worker = |file| fs::read_to_string(format!("/proc/{}/{file}", self.worker.id()));
            let status = of_worker("status").map_err(step_io("read /proc"))?;
            let limits = of_worker("limits").map_err(step_io("read /proc"))?;
            port.say(&FromMachine::Seen { status, limits });
        }
        self.record.report(&report);
        self.journal.carry_out(port)?;
        port.say(&FromMachine::Report(Box::new(report)));
        Ok(Peer::There)
    }

    /// Hands the worker what a client sent, and the client what the worker answers.
    fn hear_client(&mut self, number: u32, port: &mut Port) -> Result<(), Failed> {
        let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
        let had_pending = !client.pending.is_empty();
        let mut is_there = client.flush();
        if is_there && had_pending && client.pending.is_empty() {
            port.say(&FromMachine::Taken { client: number });
        }
        let mut buffer = [0; MACHINE_DATA_BYTES_MAX];
        match rustix::io::read(&client.stream, &mut buffer) {
            Ok(0) => is_there = false,
            Ok(count) => {
                // What the worker put into its journal before it answered is there by now.
                self.journal.carry_out(port)?;
                port.say(&FromMachine::Data { client: number, bytes: buffer[..count].to_vec() });
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => is_there = false,
        }
        if !is_there {
            self.clients.remove(&number);
            port.say(&FromMachine::Gone { client: number });
        }
        Ok(())
    }

    /// Does what the launcher says.
    fn obey(&mut self, message: ToMachine, port: &mut Port) -> Result<(), Failed> {
        match message {
            ToMachine::Order(order) => self.order(*order),
            ToMachine::Vouch(vouch) => {
                if let Err(error) = self.vouch(&vouch) {
                    let refused = AttesterReport::Refused(error);
                    port.say(&FromMachine::Vouched(Box::new(refused)));
                }
                Ok(())
            }
            ToMachine::KillSwitch => match &self.switch {
                Some(path) => File::create(path).map(drop).map_err(step_io("kill switch")),
                None => Err(Failed::at("kill switch")),
            },
            ToMachine::Connected { client } => self.connect(client, port),
            ToMachine::Data { client: number, bytes } => {
                if let Some(client) = self.clients.get_mut(&number) {
                    if !client.pending.is_empty() || bytes.len() > MACHINE_DATA_BYTES_MAX {
                        return Err(Failed::at("more than a client may send"));
                    }
                    client.pending = bytes;
                    if client.flush() && client.pending.is_empty() {
                        port.say(&FromMachine::Taken { client: number });
                    }
                }
                Ok(())
            }
            ToMachine::Gone { client } => {
                self.clients.remove(&client);
                Ok(())
            }
            ToMachine::Start { .. } => Err(Failed::at("started twice")),
        }
    }

    /// Starts an attester for what is so, and for nothing else.
    fn vouch(&mut self, vouch: &Vouch) -> Result<(), CollectError> {
        let binding = self.record.bind(vouch)?;
        if self.attester.is_some() {
            let (step, reason) = ("asking the attester".to_owned(), "it is at work".to_owned());
            return Err(CollectError::Io { step, reason });
        }
        self.attester = Some(Attester::start(&binding, vouch.source)?);
        Ok(())
    }

    /// Gives an order to the worker, with descriptors of this machine where it needs some.
    fn order(&mut self, order: SignerOrder) -> Result<(), Failed> {
        self.record.order(&order)?;
        let channel = self.channel.as_ref().expect("it is closed when the relay is over");
        let send = |order: &SignerOrder, files: &[_]| {
            // A worker that takes no order has ended or is about to, which its channel tells.
            channel.send(order, files).ok();
        };
        match order {
            SignerOrder::Serve(terms) => {
                let (reading, writing) = io::pipe().map_err(step_io("pipe"))?;
                fcntl_setfl(&reading, OFlags::NONBLOCK).map_err(step("fcntl"))?;
                self.journal.reading = reading;
                let listener = UnixListener::bind(AGENT).map_err(step_io("bind"))?;
                listener.set_nonblocking(true).map_err(step_io("fcntl"))?;
                let switch = terms.kill_switch.as_deref().map(watch).transpose()?;
                // Inside, every client is this program: who a client is was checked outside.
                let terms = Serve { client_uid: geteuid().as_raw(), ..terms };
                let mut files = vec![listener.as_fd(), writing.as_fd()];
                files.extend(switch.iter().map(|(watching, _)| watching.as_fd()));
                send(&SignerOrder::Serve(terms), &files);
                drop(files);
                self.switch = switch.map(|(_, path)| path);
            }
            SignerOrder::OfferRelease(_)
            | SignerOrder::Load(_)
            | SignerOrder::Endorse(_)
            | SignerOrder::Wipe => send(&order, &[]),
            // They take descriptors that there are none of in here.
            SignerOrder::Inspect | SignerOrder::Secret(_) => {
                return Err(Failed::at("order that needs a descriptor"));
            }
        }
        Ok(())
    }

    fn connect(&mut self, number: u32, port: &mut Port) -> Result<(), Failed> {
        if self.clients.len() >= AGENT_CONNECTIONS_MAX || self.clients.contains_key(&number) {
            return Err(Failed::at("more clients than there may be"));
        }
        let connected = UnixStream::connect(AGENT)
            .and_then(|stream| stream.set_nonblocking(true).map(|()| stream));
        match connected {
            Ok(stream) => {
                self.clients.insert(number, Client { stream, pending: Vec::new() });
            }
            // The worker has closed its socket: it is about to end.
            Err(_) => port.say(&FromMachine::Gone { client: number }),
        }
        Ok(())
    }

    /// Closes the worker's channel and waits for its end, a while. Says how it ended.
    fn end(&mut self) -> String {
        self.channel = None;
        self.clients.clear();
        let deadline = Instant::now() + WORKER_END;
        loop {
            match self.worker.try_wait() {
                Ok(Some(status)) => return status.to_string(),
                Ok(None) if Instant::now() < deadline => {
                    wait(&mut [], Some(MOMENT)).ok();
                }
                // The machine ends next, and its processes with it.
                Ok(None) => return "still running".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    }
}

impl Journal {
    /// Sends every entry that is there.
    fn carry_out(&mut self, port: &mut Port) -> Result<(), Failed> {
        let mut buffer = [0; 64 * Digest::BYTES];
        loop {
            match rustix::io::read(&self.reading, &mut buffer) {
                Ok(0) => break,
                Ok(count) => self.partial.extend_from_slice(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(step("read the journal")(errno)),
            }
        }
        let (entries, rest) = self.partial.as_chunks();
        for entry in entries {
            port.say(&FromMachine::Requested { request: Digest::from_bytes(*entry) });
        }
        self.partial = rest.to_vec();
        Ok(())
    }
}

impl Client {
    /// Hands on what waits, as far as the worker takes it; `false` where the client was dropped.
    fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.stream, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// Who has something to say.
struct Ready {
    port: bool,
    worker: bool,
    clients: Vec<u32>,
    attester: bool,
}

/// Makes a folder, watches it, and says where the kill switch will appear.
fn watch(name: &[u8]) -> Result<(OwnedFd, PathBuf), Failed> {
    let name = str::from_utf8(name).map_err(|_| Failed::at("name of the kill switch"))?;
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(Failed::at("name of the kill switch"));
    }
    let folder = Path::new(SWITCH);
    fs::create_dir_all(folder).map_err(step_io("mkdir"))?;
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let events = inotify::init(flags).map_err(step("inotify"))?;
    let wanted = inotify::WatchFlags::CREATE | inotify::WatchFlags::ONLYDIR;
    inotify::add_watch(&events, folder, wanted).map_err(step("inotify"))?;
    Ok((events, folder.join(name)))
}

/// Waits until one of these is ready, or a while.
fn wait(watched: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<(), Failed> {
    let timeout = timeout.map(|time| Timespec::try_from(time).expect("a fraction of a second"));
    match poll(watched, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(step("poll")(errno)),
    }
}

/// Where everything lies that is made in the machine.
pub(crate) const RUN: &str = "/run";

const AGENT: &str = "/run/agent.sock";
const SWITCH: &str = "/run/switch";
const WORKER: &str = "/worker";

/// Not root: the worker has a user of its own in here.
const WORKER_ID: u32 = 1;

/// For the launcher to say the first word.
const START: Duration = Duration::from_secs(30);

/// For a worker to wipe and end.
const WORKER_END: Duration = Duration::from_secs(10);

const MOMENT: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use evanesce_protocol::control::{Load, LoadSource};
    use evanesce_protocol::{KeyOrigin, KeyUse};

    use super::*;
    use crate::record::tests::{offering, vouch};

    #[test]
    fn an_order_with_other_terms_than_were_vouched_for_does_not_reach_the_worker() {
        // Given a worker, and a machine that has vouched for a key that signs messages,
        let (channel, theirs) = Channel::pair().unwrap();
        let mut worker = Channel::new(theirs);
        let mut record = offering();
        record.bind(&vouch(KeyOrigin::Released, |_| {})).unwrap();
        let mut inside = Inside {
            worker: Command::new("true").spawn().unwrap(),
            channel: Some(channel),
            journal: Journal { reading: io::pipe().unwrap().0, partial: Vec::new() },
            switch: None,
            clients: BTreeMap::new(),
            was_seen: false,
            record,
            attester: None,
        };
        let load = |key_use| {
            SignerOrder::Load(Load { source: LoadSource::BornInside, key_use, seal: None })
        };

        // When it is to sign digests, the order goes nowhere; the next one is the first that arrives.
        inside.order(load(KeyUse::Digest)).unwrap_err();
        inside.order(load(KeyUse::Message)).unwrap();

        assert_eq!(worker.receive::<SignerOrder>().unwrap().message, load(KeyUse::Message));
        inside.worker.wait().unwrap();
    }
}
