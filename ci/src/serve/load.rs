//! A siege: a thousand connections, slow and half-open clients, floods, and SIGTERM in the middle.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::ServeError;
use super::client::{Client, check, connect, message_of, tls};
use super::memory::Memory;
use super::server::{CLIENT, FLOOD, Server};

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    connections: u32,
    lasted: Duration,
    signatures: u64,
    limited: u64,
    cut: u64,
    memory: Memory,
    searched_bytes: u64,
}

/// What the besiegers count, and whether they still may.
#[derive(Debug, Default)]
struct Siege {
    signatures: AtomicU64,
    limited: AtomicU64,
    cut: AtomicU64,
    /// From here on connections may end.
    is_ending: AtomicBool,
}

pub(super) fn besiege(
    mut server: Server,
    connections: u32,
    lasts: Duration,
) -> Result<Outcome, ServeError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let siege = Arc::<Siege>::default();
    let (steady, flood) = (tls(&server, CLIENT)?, tls(&server, FLOOD)?);
    let address = server.address;
    let (memory, searched) = runtime.block_on(async {
        let mut tasks = Vec::new();
        for number in 0..u64::from(connections) {
            let (siege, steady) = (Arc::clone(&siege), Arc::clone(&steady));
            tasks.push(tokio::spawn(ask_now_and_then(siege, address, steady, number)));
        }
        for number in 0..FLOODS {
            let (siege, flood) = (Arc::clone(&siege), Arc::clone(&flood));
            tasks.push(tokio::spawn(ask_without_end(siege, address, flood, number)));
        }
        for _ in 0..SLOW {
            tasks.push(tokio::spawn(say_nothing(Arc::clone(&siege), address)));
            let (siege, steady) = (Arc::clone(&siege), Arc::clone(&steady));
            tasks.push(tokio::spawn(drip(siege, address, steady)));
        }
        // What is flat is what comes after everybody has connected.
        let begin = Instant::now();
        let (mut memory, mut looked) = (Memory::default(), begin);
        while begin.elapsed() < lasts {
            if let Some(index) = tasks.iter().position(JoinHandle::is_finished) {
                return Err(failure_of(tasks.swap_remove(index)).await);
            }
            if begin.elapsed() > lasts / 4 && looked.elapsed() > LOOK_EACH {
                looked = Instant::now();
                memory.look(&server.processes())?;
            }
            sleep(Duration::from_millis(100)).await;
        }
        // The first signature of each connection is one whose nonce is searched for.
        let messages: Vec<_> = (0..u64::from(connections).min(NONCES_MAX))
            .map(|number| message_of(asked_by(number, 0)))
            .collect();
        let mut searched = server.search_processes(&messages)?;
        siege.is_ending.store(true, Ordering::SeqCst);
        server.terminate()?;
        for task in tasks {
            let ended = timeout(END_TIMEOUT, task).await;
            let ended = ended.map_err(|_| ServeError::Left("a connection is left".to_owned()))?;
            ended.map_err(|error| ServeError::Answer(error.to_string()))??;
        }
        server.finish()?;
        searched += server.search_files(&messages)?;
        Ok((memory, searched))
    })?;
    let signatures = siege.signatures.load(Ordering::SeqCst);
    let recorded = server.recorded()?;
    if recorded < signatures {
        let found = format!("{signatures} signatures were answered, {recorded} recorded");
        return Err(ServeError::Left(found));
    }
    let outcome = Outcome {
        connections,
        lasted: lasts,
        signatures,
        limited: siege.limited.load(Ordering::SeqCst),
        cut: siege.cut.load(Ordering::SeqCst),
        memory,
        searched_bytes: searched,
    };
    outcome.judged()
}

impl Outcome {
    fn judged(self) -> Result<Self, ServeError> {
        self.memory.judge()?;
        if self.limited == 0 || self.cut == 0 {
            return Err(ServeError::Left("no flood was limited, or nobody was cut".to_owned()));
        }
        Ok(self)
    }
}

impl Siege {
    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst)
    }

    fn was_cut(&self, cut: bool) -> Result<(), ServeError> {
        self.cut.fetch_add(1, Ordering::SeqCst);
        match cut {
            true => Ok(()),
            false => Err(ServeError::Left("a slow client was not cut".to_owned())),
        }
    }

    /// What ends a connection is no failure once the server ends.
    fn unless_ending(&self, error: impl Into<ServeError>) -> Result<(), ServeError> {
        match self.is_ending() {
            true => Ok(()),
            false => Err(error.into()),
        }
    }
}

/// One of a thousand: keeps its connection, asks each second, and checks each answer.
async fn ask_now_and_then(
    siege: Arc<Siege>,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    number: u64,
) -> Result<(), ServeError> {
    // A hundred handshakes a second: faster, and those that wait for the others take too long.
    sleep(Duration::from_millis(number % 1000 * 10)).await;
    let stream = match connect(address, tls).await {
        Ok(stream) => stream,
        Err(error) => return siege.unless_ending(error),
    };
    let mut client = match Client::over(stream).await {
        Ok(client) => client,
        Err(error) => return siege.unless_ending(error),
    };
    for round in 0_u64.. {
        let asked = asked_by(number, round);
        match client.sign(asked).await {
            Ok((200, body)) => {
                check(asked, &body)?;
                siege.signatures.fetch_add(1, Ordering::SeqCst);
            }
            // While it ends, keys may have ended before a connection.
            Ok((503, _)) if siege.is_ending() => return Ok(()),
            Ok((status, body)) => {
                let body = String::from_utf8_lossy(&body).into_owned();
                return Err(ServeError::Answer(format!("status {status}: {body}")));
            }
            Err(error) => return siege.unless_ending(error),
        }
        if siege.is_ending() {
            return Ok(());
        }
        sleep(Duration::from_millis(500 + number % 1000)).await;
    }
    Ok(())
}

/// Asks as fast as it can, far above its rate.
async fn ask_without_end(
    siege: Arc<Siege>,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    number: u64,
) -> Result<(), ServeError> {
    let mut client = match connect(address, tls).await {
        Ok(stream) => Client::over(stream).await?,
        Err(error) => return siege.unless_ending(error),
    };
    for round in 0_u64.. {
        let asked = u64::MAX - ((number << 40) | round);
        match client.sign(asked).await {
            Ok((200, body)) => check(asked, &body)?,
            Ok((429, _)) => {
                siege.limited.fetch_add(1, Ordering::SeqCst);
                // As fast as it can would leave the clients no core.
                sleep(FLOOD_PAUSE).await;
            }
            Ok((503, _)) if siege.is_ending() => return Ok(()),
            Ok((status, _)) => return Err(ServeError::Answer(format!("status {status}"))),
            Err(error) => return siege.unless_ending(error),
        }
    }
    Ok(())
}

/// Connects, says nothing, waits to be cut, and comes again.
async fn say_nothing(siege: Arc<Siege>, address: SocketAddr) -> Result<(), ServeError> {
    while !siege.is_ending() {
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        let cut = timeout(CUT_TIMEOUT, stream.read(&mut [0; 16])).await;
        siege.was_cut(cut.is_ok())?;
    }
    Ok(())
}

/// Sends a request byte by byte, waits to be cut, and comes again.
async fn drip(
    siege: Arc<Siege>,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
) -> Result<(), ServeError> {
    let mut tls = ClientConfig::clone(&tls);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = Arc::new(tls);
    while !siege.is_ending() {
        let Ok(mut stream) = connect(address, Arc::clone(&tls)).await else { continue };
        let dripping = async {
            for byte in b"POST /v1/keys/files/sign HTTP/1.1\r\nhost: localhost\r\nx: y\r\n" {
                if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
                sleep(DRIP_PAUSE).await;
            }
            // Cut or not, the next byte to come is the end.
            stream.read(&mut [0; 16]).await.map(drop).unwrap_or(());
        };
        let cut = timeout(CUT_TIMEOUT, dripping).await;
        siege.was_cut(cut.is_ok())?;
    }
    Ok(())
}

async fn failure_of(task: JoinHandle<Result<(), ServeError>>) -> ServeError {
    match task.await {
        Ok(Ok(())) => ServeError::Left("a client ended before the siege".to_owned()),
        Ok(Err(error)) => error,
        Err(error) => ServeError::Answer(error.to_string()),
    }
}

/// The number of one request of a connection: each is asked once.
const fn asked_by(connection: u64, round: u64) -> u64 {
    (connection << 32) | round
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, lasted, signatures, limited, cut, memory, searched_bytes } = self;
        write!(
            f,
            "siege: {connections} connections for {} s, SIGTERM in the middle: {signatures} \
             signatures, all valid; {limited} requests limited, {cut} slow clients cut; {memory}; \
             {:.1} MB of memory and files searched, nothing of the key found; no worker left, one \
             receipt a key",
            lasted.as_secs(),
            *searched_bytes as f64 / 1e6,
        )
    }
}

const FLOODS: u64 = 4;

const FLOOD_PAUSE: Duration = Duration::from_millis(2);

/// Of each kind.
const SLOW: usize = 20;

const DRIP_PAUSE: Duration = Duration::from_millis(250);

/// Five seconds is what the server's configuration gives an idle connection.
const CUT_TIMEOUT: Duration = Duration::from_secs(30);

const END_TIMEOUT: Duration = Duration::from_secs(40);

const LOOK_EACH: Duration = Duration::from_secs(1);

const NONCES_MAX: u64 = 1000;
