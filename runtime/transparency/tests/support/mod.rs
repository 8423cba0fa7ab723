//! A log server on loopback, good or bad, and what a client needs to trust it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use base64ct::{Base64, Encoding as _};
use evanesce_ledger::row::StatementRow;
use evanesce_ledger::{Event, LedgerId, NewRow, Predicate as _, SignatureRecord};
use evanesce_transparency::merkle::{Edge, FullTile, NodeHash, Nodes, Tree};
use evanesce_transparency::publish::TargetFiles;
use evanesce_transparency::tile::{TilePath, encode_hashes, push_entry};
use serde_json::{Value, json};

use crate::ledgers::{TestNotary, at};

/// How a server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Good,
    /// Takes the entry, and breaks the connection before it answers.
    LosesAnswers,
    /// Never answers.
    Slow,
    /// Answers 500.
    Broken,
    /// Answers text.
    Garbage,
    /// Answers with a good proof of another log.
    AnotherLog,
    /// Answers with the proof of another entry.
    AnotherEntry,
    /// Refuses every entry.
    Refusing,
}

/// A Rekor v2 server whose whole state is in memory.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) state: Arc<Mutex<State>>,
}

pub(crate) struct State {
    pub(crate) manner: Manner,
    pub(crate) entries: Vec<Vec<u8>>,
    key: TestNotary,
    other: TestNotary,
}

const ORIGIN: &str = "rekor.test";

impl Server {
    pub(crate) fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (key, other) = (TestNotary::new(40), TestNotary::new(41));
        let state = State { manner, entries: Vec::new(), key, other };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream.unwrap(), &shared));
            }
        });
        Self { url, state }
    }

    pub(crate) fn behave(&self, manner: Manner) {
        self.state.lock().unwrap().manner = manner;
    }

    pub(crate) fn entries(&self) -> Vec<Vec<u8>> {
        self.state.lock().unwrap().entries.clone()
    }

    /// The SigningConfig and TrustedRoot of this server.
    pub(crate) fn target(&self) -> TargetFiles {
        target(&self.url, &TestNotary::new(40))
    }
}

pub(crate) fn target(url: &str, key: &TestNotary) -> TargetFiles {
    let config = json!({
        "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
        "rekorTlogUrls": [{
            "url": url,
            "majorApiVersion": 2,
            "validFor": {"start": "2020-01-01T00:00:00Z"},
            "operator": "test",
        }],
        "rekorTlogConfig": {"selector": "ANY"},
    });
    let root = json!({
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": [{
            "baseUrl": format!("https://{ORIGIN}"),
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": Base64::encode_string(key.key.spki()),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": {"start": "2020-01-01T00:00:00Z"},
            },
            "logId": {"keyId": Base64::encode_string(key.key.id().digest().as_bytes())},
        }],
    });
    TargetFiles::new(config.to_string(), root.to_string()).unwrap()
}

fn serve(stream: TcpStream, shared: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) < 3 {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let manner = shared.lock().unwrap().manner;
    let answer = match (manner, method.as_str()) {
        (Manner::Slow, _) => {
            // Until the client gives up.
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap_or(0);
            return;
        }
        (Manner::Broken, _) => Answer::new(500, b"out of order".to_vec()),
        (Manner::Garbage, _) => Answer::new(201, b"<html>hello</html>".to_vec()),
        (Manner::Refusing, "POST") => Answer::new(400, b"no such algorithm".to_vec()),
        (manner, "POST") => {
            let answer = shared.lock().unwrap().add(&body, manner);
            if manner == Manner::LosesAnswers {
                return;
            }
            answer
        }
        (_, _) => shared.lock().unwrap().read(&path),
    };
    let index = answer.index.map(|index| format!("x-log-index: {index}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} X\r\ncontent-length: {}\r\n{index}connection: close\r\n\r\n",
        answer.status,
        answer.body.len()
    );
    let mut stream = stream;
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&answer.body)).unwrap_or(());
}

struct Answer {
    status: u16,
    index: Option<usize>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, index: None, body }
    }
}

impl State {
    fn add(&mut self, request: &[u8], manner: Manner) -> Answer {
        let request: Value = serde_json::from_slice(request).unwrap();
        let asked = &request["hashedRekordRequestV002"];
        let body = json!({
            "apiVersion": "0.0.2",
            "kind": "hashedrekord",
            "spec": {"hashedRekordV002": {
                "data": {"algorithm": "SHA2_256", "digest": asked["digest"]},
                "signature": {
                    "content": asked["signature"]["content"],
                    "verifier": asked["signature"]["verifier"],
                },
            }},
        });
        let body = serde_json::to_vec(&body).unwrap();
        if let Some(index) = self.entries.iter().position(|entry| *entry == body) {
            return Answer { status: 409, index: Some(index), body: b"already there".to_vec() };
        }
        self.entries.push(body);
        let index = match manner {
            Manner::AnotherEntry if self.entries.len() > 1 => 0,
            _ => self.entries.len() - 1,
        };
        Answer::new(201, serde_json::to_vec(&self.entry(index, manner)).unwrap())
    }

    fn entry(&self, index: usize, manner: Manner) -> Value {
        let mut tiles = Tiles::of(&self.entries);
        let size = self.entries.len() as u64;
        let path = Tree::new(&mut tiles, size).inclusion(index as u64).unwrap();
        let key = if manner == Manner::AnotherLog { &self.other } else { &self.key };
        json!({
            "logIndex": index.to_string(),
            "logId": {"keyId": Base64::encode_string(key.key.id().digest().as_bytes())},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "integratedTime": "0",
            "inclusionProof": {
                "logIndex": index.to_string(),
                "rootHash": tiles.edge.root().to_base64(),
                "treeSize": size.to_string(),
                "hashes": path.into_iter().map(NodeHash::to_base64).collect::<Vec<_>>(),
                "checkpoint": {"envelope": self.checkpoint(key)},
            },
            "canonicalizedBody": Base64::encode_string(&self.entries[index]),
        })
    }

    fn checkpoint(&self, key: &TestNotary) -> String {
        let tiles = Tiles::of(&self.entries);
        let text = format!("{ORIGIN}\n{}\n{}\n", self.entries.len(), tiles.edge.root().to_base64());
        let signature = key.sign(text.as_bytes()).unwrap().to_der();
        let line = [&key.key.id().digest().as_bytes()[..4], &signature].concat();
        format!("{text}\n\u{2014} {ORIGIN} {}\n", Base64::encode_string(&line))
    }

    /// The read side: C2SP tlog-tiles below `/api/v2/`.
    fn read(&self, path: &str) -> Answer {
        let path = path.strip_prefix("/api/v2/").unwrap_or_default();
        if path == "checkpoint" {
            return Answer::new(200, self.checkpoint(&self.key).into_bytes());
        }
        let tiles = Tiles::of(&self.entries);
        let mut found = Vec::new();
        for (level, index, hashes) in tiles.edge.partial_tiles() {
            let path = TilePath::hashes(level, index, hashes.len() as u64).to_path();
            found.push((path, encode_hashes(hashes)));
        }
        for tile in &tiles.full {
            let path = TilePath::hashes(tile.level, tile.index, 256).to_path();
            found.push((path, encode_hashes(&tile.hashes)));
        }
        for (index, chunk) in self.entries.chunks(256).enumerate() {
            let mut bundle = Vec::new();
            for entry in chunk {
                assert!(push_entry(&mut bundle, entry));
            }
            found.push((TilePath::entries(index as u64, chunk.len() as u64).to_path(), bundle));
        }
        match found.into_iter().find(|(name, _)| name == path) {
            Some((_, bytes)) => Answer::new(200, bytes),
            None => Answer::new(404, b"not found".to_vec()),
        }
    }
}

struct Tiles {
    edge: Edge,
    full: Vec<FullTile>,
}

impl Tiles {
    fn of(entries: &[Vec<u8>]) -> Self {
        let (mut edge, mut full) = (Edge::default(), Vec::new());
        for entry in entries {
            let Ok(()) = edge.push(NodeHash::of_leaf(entry), |tile| {
                full.push(tile);
                Ok::<_, std::convert::Infallible>(())
            });
        }
        Self { edge, full }
    }
}

impl Nodes for Tiles {
    type Error = std::convert::Infallible;

    fn tile(&mut self, level: usize, index: u64, _: u64) -> Result<Vec<NodeHash>, Self::Error> {
        let full = self.full.iter().find(|tile| (tile.level, tile.index) == (level, index));
        Ok(match full {
            Some(tile) => tile.hashes.clone(),
            None => {
                let mut partial = self.edge.partial_tiles();
                partial.find(|(l, i, _)| (*l, *i) == (level, index)).unwrap().2.to_vec()
            }
        })
    }
}

/// A row with the record of a signature; `number` tells it from others.
pub(crate) fn record_row(notary: &TestNotary, number: u64) -> NewRow {
    let record: SignatureRecord = serde_json::from_value(serde_json::json!({
        "workload": format!("w-{number}"),
        "artifact": {"name": "a", "sha256": format!("sha256:{:064x}", number), "sha512": "5".repeat(128)},
        "public_key": format!("ed25519:{}", "7".repeat(64)),
        "use": "message",
        "signature": {"namespace": "file", "value": "AAAA"},
        "request": format!("sha256:{}", "1".repeat(64)),
        "ledger": LedgerId::from_bytes([1; 32]),
        "at": at(1),
    }))
    .unwrap();
    let Ok(envelope) = record.sign(notary.key.id(), |bytes| notary.sign(bytes));
    NewRow::of_ledger(at(1), Event::Statement(StatementRow { envelope }))
}
