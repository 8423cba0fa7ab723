//! Workloads and controls.

use std::error::Error;
use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use base64ct::{Base64, Encoding as _};
use ed25519_dalek::{Signer as _, SigningKey};
use evanesce_guest::{masked, messages};
use evanesce_protocol::agent::{Frames, Response, request};

/// Signs through the agent; the key file is wiped as soon as the worker has read it.
pub(crate) fn sign(key: &Path, count: usize) -> Result<(), Box<dyn Error>> {
    masked::wipe(key)?;
    let socket = std::env::var_os("SSH_AUTH_SOCK").ok_or("there is no agent")?;
    let mut agent = Agent::connect(Path::new(&socket))?;
    if count == 0 {
        agent.sign(messages::MESSAGES)?;
        say("signing")?;
        // Until the agent is gone.
        return loop {
            if agent.sign(messages::MESSAGES).is_err() {
                break await_end();
            }
        };
    }
    agent.sign(count)?;
    say("signed")?;
    await_end()
}

/// Holds the key file's text in every page of a stretch of its heap.
pub(crate) fn hold(masked: &Path, pages: usize) -> Result<(), Box<dyn Error>> {
    let text = masked::danger_unmask_here(masked)?;
    let mut heap = vec![0; pages * PAGE_BYTES];
    for page in heap.chunks_mut(PAGE_BYTES) {
        page[PAGE_BYTES / 2..][..text.len()].copy_from_slice(&text);
    }
    say("holding")?;
    await_end()?;
    black_box(heap);
    Ok(())
}

/// Signs as programs do that take no care: the key and everything it becomes in ordinary memory.
pub(crate) fn sign_alone(masked: &Path) -> Result<(), Box<dyn Error>> {
    let text = String::from_utf8(masked::danger_unmask_here(masked)?)?;
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let der = Base64::decode_vec(&body).map_err(|_| "the key file is no PEM")?;
    let seed = der.last_chunk().ok_or("the key file is too short")?;
    let key = SigningKey::from_bytes(seed);
    say("signing")?;
    for index in 0.. {
        black_box(key.sign(&messages::message(index)));
    }
    Ok(())
}

/// Touches every page of so many MiB.
pub(crate) fn hog(mib: usize) -> Result<(), Box<dyn Error>> {
    let mut heap = vec![0_u8; mib << 20];
    for (index, page) in heap.chunks_mut(PAGE_BYTES).enumerate() {
        page[..8].copy_from_slice(&index.to_ne_bytes());
    }
    say("hogging")?;
    await_end()?;
    black_box(heap);
    Ok(())
}

fn say(what: &str) -> io::Result<()> {
    println!("{what} {}", std::process::id());
    io::stdout().flush()
}

fn await_end() -> Result<(), Box<dyn Error>> {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// An agent with several requests under way, so that its worker never waits for one.
struct Agent {
    stream: UnixStream,
    frames: Frames,
    key: Vec<u8>,
}

impl Agent {
    fn connect(socket: &Path) -> Result<Self, Box<dyn Error>> {
        let stream = UnixStream::connect(socket)?;
        let mut agent = Self { stream, frames: Frames::default(), key: Vec::new() };
        agent.stream.write_all(&request::identities())?;
        match agent.answer()? {
            Response::Identities(keys) => {
                // The key itself where its certificate is offered as well.
                let keys = keys.into_iter().map(|(key, _)| key);
                agent.key = keys.min_by_key(Vec::len).ok_or("the agent has no key")?;
                Ok(agent)
            }
            _ => Err("the agent does not list its keys".into()),
        }
    }

    fn sign(&mut self, count: usize) -> Result<(), Box<dyn Error>> {
        for sent in 0..count + OUTSTANDING {
            if sent < count {
                self.stream.write_all(&request::sign(&self.key, &messages::message(sent)))?;
            }
            if sent >= OUTSTANDING && !matches!(self.answer()?, Response::Signature(_)) {
                return Err("the agent refused to sign".into());
            }
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<Response, Box<dyn Error>> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                return Ok(Response::parse(frame)?);
            }
            match self.stream.read(&mut buffer)? {
                0 => return Err("the agent is gone".into()),
                bytes => self.frames.push(&buffer[..bytes]),
            }
        }
    }
}

const OUTSTANDING: usize = 8;

const PAGE_BYTES: usize = 4096;
