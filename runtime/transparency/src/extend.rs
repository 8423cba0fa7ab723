//! Growing the local log: whatever the ledger has by now and the log has not.
//!
//! The ledger is the one source. Everything in the log but the checkpoint's signature follows from
//! it, so that a log that was interrupted anywhere is simply grown again from its newest checkpoint.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use evanesce_ledger::{
    Envelope, LedgerId, NotaryKey, NotaryKeyId, P256Signature, RawRow, ReadError, Reader, Timestamp,
};
use evanesce_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::entry;
use crate::files::{self, FileError, Store};
use crate::merkle::{Edge, NodeHash, TILE_WIDTH, partial_widths};
use crate::note::{LedgerEnd, LogCheckpoint, Origin};
use crate::reader::{
    CHECKPOINT, LogDirectory, LogError, LogReader, ROW_BYTES, RowIndex, TileFiles,
};
use crate::tile::{self, TilePath};
use crate::trust::{HandedOver, KnownNotary};

/// Where the log and the ledger it is of are, and whose checkpoints count.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The log.
    pub log: &'a LogDirectory,
    /// The directory of the ledger.
    pub ledger: &'a Path,
    /// The keys that the installation's notary has and had.
    pub keys: &'a [NotaryKey],
}

/// What came of growing the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Extended {
    /// Entries before.
    pub before: u64,
    /// Entries now.
    pub size: u64,
}

/// Makes entries of all statements that the ledger has by now, and signs a checkpoint over them.
///
/// `sign` is given the checkpoint's text, once and last, and only where there are new entries; it
/// returns the notary's key and its signature. One process grows the log at a time; others wait.
///
/// # Errors
///
/// [`ExtendError`]. The log is as it was, and is grown by the next call.
pub fn extend<E: Error + Send + Sync + 'static>(
    sources: Sources<'_>,
    sign: impl FnOnce(&[u8]) -> Result<(NotaryKey, P256Signature), E>,
) -> Result<Extended, ExtendError> {
    let _lock = files::lock(&sources.log.lock()).map_err(LogError::from)?;
    let before = LogReader::open(sources.log, sources.keys)?.map(|log| log.checkpoint().clone());
    // Opened under the lock: it has every row that an earlier checkpoint covers.
    let ledger = Reader::open(sources.ledger).map_err(LogError::from)?;
    let id = ledger.ledger_id().map_err(LogError::from)?;
    if before.as_ref().is_some_and(|before| before.ledger.id != id) {
        return Err(ExtendError::OtherLedger { ledger: id });
    }
    let mut growth = match Growth::resume(sources.log, before.as_ref()) {
        Ok(growth) => growth,
        // Tiles follow from the ledger: what is missing is made again, and held to the checkpoint.
        Err(LogError::Damaged { .. }) => Growth::new(sources.log, before.as_ref()),
        Err(error) => return Err(error.into()),
    };
    growth.follow(&ledger)?;
    let size_before = before.map_or(0, |before| before.size);
    let size = growth.edge.size();
    if size > size_before {
        let first_new = growth.first_row;
        ledger.sync_from(first_new).map_err(LogError::from)?;
        let origin = Origin::of_ledger(id);
        growth.publish(origin, id, sign)?;
    }
    Ok(Extended { before: size_before, size })
}

/// A log that grows.
struct Growth<'a> {
    directory: &'a LogDirectory,
    tiles: Store,
    state: Store,
    /// Entries that the newest checkpoint covers.
    size_before: u64,
    edge: Edge,
    /// The entry bundle that is not full, and how many entries it has.
    bundle: Vec<u8>,
    /// The rows of new entries that are not in the index yet, and where the first goes.
    rows: Vec<u64>,
    rows_written: u64,
    notaries: Notaries,
    /// The last row that was looked at.
    end: Option<(u64, Digest)>,
    /// The row from which on something is new.
    first_row: u64,
    /// What the log has to be like at the size of its checkpoint.
    held_to: Option<LogCheckpoint>,
}

impl<'a> Growth<'a> {
    /// A log without entries, which has to become what its checkpoint says.
    fn new(directory: &'a LogDirectory, held_to: Option<&LogCheckpoint>) -> Self {
        Self {
            directory,
            tiles: Store::new(&directory.tiles()),
            state: Store::new(directory.path()),
            size_before: held_to.map_or(0, |held| held.size),
            edge: Edge::default(),
            bundle: Vec::new(),
            rows: Vec::new(),
            rows_written: 0,
            notaries: Notaries::default(),
            end: None,
            first_row: 1,
            held_to: held_to.cloned(),
        }
    }

    /// The log as its checkpoint has it.
    fn resume(
        directory: &'a LogDirectory,
        checkpoint: Option<&LogCheckpoint>,
    ) -> Result<Self, LogError> {
        let Some(checkpoint) = checkpoint else {
            return Ok(Self::new(directory, None));
        };
        let size = checkpoint.size;
        let mut files = TileFiles::new(&directory.tiles(), size);
        let edge = read_edge(&mut files, size)?;
        let damaged = |what| LogError::damaged(&directory.tiles(), what);
        if edge.root() != checkpoint.root {
            return Err(damaged("its edge is not that of its checkpoint"));
        }
        let mut bundle = Vec::new();
        if !size.is_multiple_of(TILE_WIDTH) {
            let entries = files.entries(size / TILE_WIDTH)?;
            let leaves = entries.iter().map(|entry| NodeHash::of_leaf(entry));
            let (_, _, expected) = edge.partial_tiles().next().expect("a tile is not full");
            if !leaves.eq(expected.iter().copied()) {
                return Err(damaged("its last entries are not those of its tree"));
            }
            for entry in &entries {
                let fits = tile::push_entry(&mut bundle, entry);
                debug_assert!(fits, "it came out of a bundle");
            }
        }
        let rows = RowIndex::open(&directory.rows())?;
        if size > 0 && rows.get(size - 1)? > checkpoint.ledger.rows {
            return Err(damaged("its rows are not those of its checkpoint"));
        }
        let LedgerEnd { rows: last, head, .. } = checkpoint.ledger;
        Ok(Self {
            size_before: size,
            edge,
            bundle,
            rows_written: size,
            notaries: Notaries::read(directory)?,
            end: Some((last, head)),
            first_row: last + 1,
            ..Self::new(directory, None)
        })
    }

    /// Takes the entries of all rows that were not looked at yet.
    fn follow(&mut self, ledger: &Reader) -> Result<(), ExtendError> {
        let mut rows = match self.end {
            None => ledger.raw_rows_from(1),
            Some((last, head)) => {
                let mut rows = ledger.raw_rows_from(last).map_err(LogError::from)?;
                let found = rows.next_row().map_err(LogError::from)?;
                match found {
                    Some(row) if row.seq == last && row.digest == head => Ok(rows),
                    _ => return Err(ExtendError::Diverged { row: last }),
                }
            }
        }
        .map_err(LogError::from)?;
        while let Some(row) = rows.next_row().map_err(LogError::from)? {
            self.take(&row)?;
        }
        match &self.held_to {
            Some(checkpoint) => Err(ExtendError::Diverged { row: checkpoint.ledger.rows }),
            None => Ok(()),
        }
    }

    fn take(&mut self, row: &RawRow<'_>) -> Result<(), ExtendError> {
        self.notaries.take(row);
        if let Some(body) = self.notaries.entry_of(row) {
            self.push(&body, row.seq)?;
        }
        self.end = Some((row.seq, row.digest));
        let is_reached = |held: &&mut LogCheckpoint| held.ledger.rows == row.seq;
        if let Some(held) = self.held_to.as_mut().filter(is_reached) {
            let found = (self.edge.size(), self.edge.root(), row.digest);
            if found != (held.size, held.root, held.ledger.head) {
                return Err(ExtendError::Diverged { row: row.seq });
            }
            self.held_to = None;
        }
        Ok(())
    }

    fn push(&mut self, body: &[u8], row: u64) -> Result<(), ExtendError> {
        let fits = tile::push_entry(&mut self.bundle, body);
        assert!(fits, "an entry is digests, one signature and one key: some hundred bytes");
        let Self { edge, tiles, .. } = self;
        edge.push(NodeHash::of_leaf(body), |full| {
            let path = TilePath::hashes(full.level, full.index, TILE_WIDTH);
            tiles.write(&path.to_path(), &tile::encode_hashes(&full.hashes))
        })
        .map_err(LogError::from)?;
        self.rows.push(row);
        if self.edge.size().is_multiple_of(TILE_WIDTH) {
            let path = TilePath::entries(self.edge.size() / TILE_WIDTH - 1, TILE_WIDTH);
            self.tiles.write(&path.to_path(), &self.bundle).map_err(LogError::from)?;
            self.bundle.clear();
        }
        if self.rows.len() >= ROWS_HELD_MAX {
            self.write_rows()?;
        }
        Ok(())
    }

    /// Brings everything to the disk, and last the checkpoint.
    fn publish<E: Error + Send + Sync + 'static>(
        mut self,
        origin: Origin,
        id: LedgerId,
        sign: impl FnOnce(&[u8]) -> Result<(NotaryKey, P256Signature), E>,
    ) -> Result<(), ExtendError> {
        let size = self.edge.size();
        for (level, index, hashes) in self.edge.partial_tiles() {
            let path = TilePath::hashes(level, index, hashes.len() as u64);
            let bytes = tile::encode_hashes(hashes);
            self.tiles.write(&path.to_path(), &bytes).map_err(LogError::from)?;
        }
        if !size.is_multiple_of(TILE_WIDTH) {
            let path = TilePath::entries(size / TILE_WIDTH, size % TILE_WIDTH);
            self.tiles.write(&path.to_path(), &self.bundle).map_err(LogError::from)?;
        }
        self.write_rows()?;
        sync(&self.directory.rows())?;
        self.notaries.write(&mut self.state, self.directory)?;
        self.tiles.settle().map_err(LogError::from)?;
        self.state.settle().map_err(LogError::from)?;

        let (rows, head) = self.end.expect("an entry is of a row");
        let ledger = LedgerEnd { id, rows, head };
        let checkpoint = LogCheckpoint { origin, size, root: self.edge.root(), ledger };
        let (key, signature) = sign(checkpoint.to_text().as_bytes())
            .map_err(|error| ExtendError::Sign(Box::new(error)))?;
        let note = checkpoint.to_note(&key, &signature);
        self.tiles.write(CHECKPOINT, note.as_bytes()).map_err(LogError::from)?;
        self.tiles.settle().map_err(LogError::from)?;
        remove_partial_tiles(&self.directory.tiles(), self.size_before, size);
        Ok(())
    }

    /// Adds rows to the index. It is on the disk once it was synced.
    fn write_rows(&mut self) -> Result<(), LogError> {
        let path = self.directory.rows();
        let bytes: Vec<u8> = self.rows.iter().flat_map(|row| row.to_be_bytes()).collect();
        let write = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.write_all_at(&bytes, self.rows_written * ROW_BYTES as u64)
        };
        write().map_err(|source| FileError { path: path.clone(), source })?;
        self.rows_written += self.rows.len() as u64;
        self.rows.clear();
        Ok(())
    }
}

/// The keys that the rows introduced: an entry names the key of its envelope.
#[derive(Debug, Default)]
pub(crate) struct Notaries {
    keys: Vec<Introduced>,
    changed: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Introduced {
    row: u64,
    at: Timestamp,
    key: NotaryKey,
    /// The key that it took over from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retires: Option<NotaryKeyId>,
}

impl Notaries {
    pub(crate) fn read(directory: &LogDirectory) -> Result<Self, LogError> {
        let path = directory.notaries();
        let Some(bytes) = files::read(&path, NOTARIES_BYTES_MAX)? else {
            return Err(LogError::damaged(&path, "it is not there"));
        };
        let keys = serde_json::from_slice(&bytes)
            .map_err(|_| LogError::damaged(&path, "it is no list of keys"))?;
        Ok(Self { keys, changed: false })
    }

    fn write(&self, state: &mut Store, directory: &LogDirectory) -> Result<(), LogError> {
        if !self.changed {
            return Ok(());
        }
        let path = directory.notaries();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name of ours");
        let bytes = serde_json::to_vec(&self.keys).expect("plain data");
        Ok(state.write(name, &bytes)?)
    }

    /// Takes note of the key that a row introduces.
    pub(crate) fn take(&mut self, row: &RawRow<'_>) {
        if let Some(key) = row.notary_key()
            && !self.keys.iter().any(|known| known.row == row.seq)
        {
            let retires = row.envelope().map(|rotation| rotation.key_id());
            self.keys.push(Introduced { row: row.seq, at: row.at, key, retires });
            self.changed = true;
        }
    }

    /// The entry of a row, if it has one: of a row with a statement by a key that a row introduced.
    pub(crate) fn entry_of(&self, row: &RawRow<'_>) -> Option<Vec<u8>> {
        let envelope = row.envelope()?;
        Some(entry::body(&envelope, self.find(&envelope, row.seq)?))
    }

    /// Each key, since when it signs, and when and in which row it handed over.
    pub(crate) fn known(&self) -> Vec<(KnownNotary, Option<u64>)> {
        let known = self.keys.iter().map(|introduced| {
            let id = introduced.key.id();
            let mut later = self.keys.iter().filter(|other| other.row > introduced.row);
            let next = later.find(|other| other.retires == Some(id));
            let known = KnownNotary {
                key: introduced.key.clone(),
                since: Some(introduced.at),
                until: next.map(|next| HandedOver { at: next.at, place: None }),
            };
            (known, next.map(|next| next.row))
        });
        known.collect()
    }

    fn find(&self, envelope: &Envelope, row: u64) -> Option<&NotaryKey> {
        let id: NotaryKeyId = envelope.key_id();
        let mut known = self.keys.iter().filter(|known| known.row <= row);
        known.find(|known| known.key.id() == id).map(|known| &known.key)
    }
}

fn read_edge(files: &mut TileFiles, size: u64) -> Result<Edge, LogError> {
    use crate::merkle::Nodes as _;
    let mut levels = Vec::new();
    for (level, width) in partial_widths(size).into_iter().enumerate() {
        levels.push(match width {
            0 => Vec::new(),
            width => {
                let shift = u32::try_from(level + 1).expect("at most 8 levels") * 8;
                let index = size.checked_shr(shift).unwrap_or(0);
                let mut tile = files.tile(level, index, width)?;
                tile.truncate(usize::try_from(width).expect("below 256"));
                tile
            }
        });
    }
    Ok(Edge::of_partial_tiles(size, levels).expect("each has its width"))
}

/// Removes the partial tiles at the edge of a tree of `before` entries that are full in one of
/// `size`: readers then take the full one. What cannot be removed does no harm.
fn remove_partial_tiles(tiles: &Path, before: u64, size: u64) {
    let (mut before, mut now) = (before / TILE_WIDTH, size / TILE_WIDTH);
    for level in 0.. {
        if now == 0 {
            return;
        }
        if before < now {
            let mut paths = vec![TilePath::hashes(level, before, TILE_WIDTH)];
            if level == 0 {
                paths.push(TilePath::entries(before, TILE_WIDTH));
            }
            for path in paths {
                fs::remove_dir_all(tiles.join(path.partial_directory())).unwrap_or(());
            }
        }
        (before, now) = (before / TILE_WIDTH, now / TILE_WIDTH);
    }
}

fn sync(path: &Path) -> Result<(), LogError> {
    let synced = File::open(path).and_then(|file| file.sync_data());
    Ok(synced.map_err(|source| FileError { path: path.to_owned(), source })?)
}

/// Why the log was not grown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendError {
    /// The log or the ledger cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log is of another ledger.
    #[error("the log is not of ledger {ledger}")]
    OtherLedger {
        /// The ledger that is there.
        ledger: LedgerId,
    },
    /// The ledger is not the one that the newest checkpoint was signed over.
    #[error("the ledger does not have row {row} as the log's checkpoint has it")]
    Diverged {
        /// The row.
        row: u64,
    },
    /// The notary did not sign.
    #[error("the notary did not sign the log's checkpoint")]
    Sign(#[source] Box<dyn Error + Send + Sync>),
}

impl ExtendError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Log(error) => error.code(),
            Self::OtherLedger { .. } => "log.other-ledger",
            Self::Diverged { .. } => "log.diverged",
            Self::Sign(_) => "log.sign",
        }
    }
}

impl From<ReadError> for ExtendError {
    fn from(error: ReadError) -> Self {
        Self::Log(error.into())
    }
}

/// Rows of new entries that are held in memory.
const ROWS_HELD_MAX: usize = 4096;

const NOTARIES_BYTES_MAX: u64 = 16 * 1024 * 1024;
