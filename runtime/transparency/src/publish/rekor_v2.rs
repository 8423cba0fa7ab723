//! The client of Rekor v2: entries of kind `hashedrekord` 0.0.2 over the digest of what the
//! envelope's signature is over.

use serde::Serialize;

use evanesce_protocol::Digest;

use crate::bundle::{
    Base64Bytes, Checkpoint, Decimal, InclusionProof, KindVersion, LogEntry, LogId,
};
use crate::merkle::{NodeHash, Nodes, TILE_WIDTH, Tree};
use crate::note::{HINT_BYTES, Note, tree_head};
use crate::publish::http::Http;
use crate::publish::rekor::{Item, JSON, Rekor, SubmitError, join, parse};
use crate::tile::{self, TilePath};

/// A Rekor v2 server, and the ids of the logs that may be behind it.
#[derive(Clone, Debug)]
pub struct RekorV2 {
    url: String,
    log_ids: Vec<Vec<u8>>,
}

impl RekorV2 {
    /// The server at `url`. `log_ids` are the ids of the trusted root: of an entry that the server
    /// has already, it names no log.
    pub fn new(url: impl Into<String>, log_ids: Vec<Vec<u8>>) -> Self {
        Self { url: url.into(), log_ids }
    }

    /// The entry that the server has already, with a proof from its tiles.
    fn find(&self, http: &Http, index: u64) -> Result<LogEntry, SubmitError> {
        let garbage = |what: &str| SubmitError::garbage(&self.url, what);
        let note = self.read(http, "checkpoint")?.ok_or_else(|| garbage("it has no checkpoint"))?;
        let note = String::from_utf8(note).map_err(|_| garbage("a checkpoint that is no text"))?;
        let (size, root) = tree_head(&note).ok_or_else(|| garbage("a malformed checkpoint"))?;
        if index >= size {
            // Its next checkpoint has it.
            let text = format!("entry {index} is not in its tree of {size} yet");
            return Err(SubmitError::Unavailable { url: self.url.clone(), status: 409, text });
        }
        let mut tiles = HttpTiles { rekor: self, http, size };
        let body = tiles.entry(index)?;
        let hashes = Tree::new(&mut tiles, size).inclusion(index)?;
        Ok(LogEntry {
            log_index: Decimal(index),
            log_id: LogId { key_id: Base64Bytes(self.log_of(&note)?) },
            kind_version: KindVersion { kind: KIND.to_owned(), version: KIND_VERSION.to_owned() },
            integrated_time: Decimal(0),
            inclusion_promise: None,
            inclusion_proof: InclusionProof {
                log_index: Decimal(index),
                root_hash: root.into(),
                tree_size: Decimal(size),
                hashes: hashes.into_iter().map(Into::into).collect(),
                checkpoint: Checkpoint { envelope: note },
            },
            canonicalized_body: Base64Bytes(body),
        })
    }

    /// The known log that says that it signed the note.
    fn log_of(&self, note: &str) -> Result<Vec<u8>, SubmitError> {
        let signatures = Note::parse(note).map(|note| note.signatures).unwrap_or_default();
        let signed = |id: &&Vec<u8>| {
            signatures.iter().any(|line| id.get(..HINT_BYTES) == Some(line.hint.as_slice()))
        };
        self.log_ids.iter().find(signed).cloned().ok_or_else(|| SubmitError::NotVerified {
            url: self.url.clone(),
            reason: "its checkpoint is by no log of the trusted root".into(),
        })
    }

    fn read(&self, http: &Http, path: &str) -> Result<Option<Vec<u8>>, SubmitError> {
        let url = join(&self.url, &format!("{PREFIX}/{path}"));
        let answer = http.get(&url, "*/*")?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 => Ok(None),
            _ => Err(SubmitError::of_status(&url, &answer)),
        }
    }
}

impl Rekor for RekorV2 {
    fn submit(&self, http: &Http, item: Item<'_>) -> Result<LogEntry, SubmitError> {
        let url = join(&self.url, &format!("{PREFIX}/log/entries"));
        let request = serde_json::to_vec(&Request::of(item)).expect("plain data");
        let answer = http.post(&url, (JSON, JSON), &request)?;
        match (answer.status, &answer.log_index) {
            (200 | 201, _) => parse(&url, &answer.body),
            (409, Some(index)) => {
                let index = index.parse();
                let index =
                    index.map_err(|_| SubmitError::garbage(&url, "an index that is no number"))?;
                self.find(http, index)
            }
            (409, None) => {
                let what = "it has the entry, and does not say where";
                Err(SubmitError::garbage(&url, what))
            }
            _ => Err(SubmitError::of_status(&url, &answer)),
        }
    }

    fn url(&self) -> &str {
        &self.url
    }
}

/// The tiles of a log, read over HTTP.
struct HttpTiles<'a> {
    rekor: &'a RekorV2,
    http: &'a Http,
    size: u64,
}

impl HttpTiles<'_> {
    fn entry(&mut self, index: u64) -> Result<Vec<u8>, SubmitError> {
        let (bundle, within) = (index / TILE_WIDTH, index % TILE_WIDTH);
        let width = (self.size - bundle * TILE_WIDTH).min(TILE_WIDTH);
        let (bytes, width) = self.read(TilePath::entries(bundle, width), width)?;
        let entries = tile::decode_entries(&bytes, width);
        let entries = entries
            .ok_or_else(|| SubmitError::garbage(&self.rekor.url, "a malformed entry bundle"))?;
        let within = usize::try_from(within).expect("below 256");
        Ok(entries[within].to_vec())
    }

    /// Reads a tile of this width, or where it is gone the full one.
    fn read(&self, path: TilePath, width: u64) -> Result<(Vec<u8>, u64), SubmitError> {
        if let Some(bytes) = self.rekor.read(self.http, &path.to_path())? {
            return Ok((bytes, width));
        }
        let full = self.rekor.read(self.http, &path.when_full().to_path())?;
        let missing = || SubmitError::garbage(&self.rekor.url, "a tile of its tree is missing");
        Ok((full.ok_or_else(missing)?, TILE_WIDTH))
    }
}

impl Nodes for HttpTiles<'_> {
    type Error = SubmitError;

    fn tile(&mut self, level: usize, index: u64, width: u64) -> Result<Vec<NodeHash>, SubmitError> {
        let (bytes, width) = self.read(TilePath::hashes(level, index, width), width)?;
        let hashes = tile::decode_hashes(&bytes, width);
        hashes.ok_or_else(|| SubmitError::garbage(&self.rekor.url, "a malformed tile"))
    }
}

#[derive(Serialize)]
struct Request {
    #[serde(rename = "hashedRekordRequestV002")]
    request: HashedRekord,
}

#[derive(Serialize)]
struct HashedRekord {
    digest: Base64Bytes,
    signature: Signature,
}

#[derive(Serialize)]
struct Signature {
    content: Base64Bytes,
    verifier: KeyVerifier,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyVerifier {
    public_key: RawKey,
    key_details: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RawKey {
    raw_bytes: Base64Bytes,
}

impl Request {
    fn of(item: Item<'_>) -> Self {
        let digest = Digest::of(&item.envelope.to_be_signed());
        Self {
            request: HashedRekord {
                digest: Base64Bytes(digest.as_bytes().to_vec()),
                signature: Signature {
                    content: Base64Bytes(item.envelope.signature().to_der()),
                    verifier: KeyVerifier {
                        public_key: RawKey { raw_bytes: Base64Bytes(item.key.spki().to_vec()) },
                        key_details: "PKIX_ECDSA_P256_SHA_256",
                    },
                },
            },
        }
    }
}

const PREFIX: &str = "api/v2";
const KIND: &str = "hashedrekord";
const KIND_VERSION: &str = "0.0.2";
