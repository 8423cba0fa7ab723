//! Reading a local log: entries, proofs, and which row an entry is of.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use evanesce_ledger::NotaryKey;

use crate::cosign;
use crate::extend::Notaries;
use crate::files::{self, FileError};
use crate::merkle::{self, NodeHash, Nodes, TILE_WIDTH, Tree};
use crate::note::{LogCheckpoint, NOTE_BYTES_MAX, NoteError};
use crate::tile::{self, ENTRY_BYTES_MAX, TilePath};
use crate::trust::{KnownNotary, Place};

/// The files of a local log, below the directory of an installation's log.
#[derive(Clone, Debug)]
pub struct LogDirectory(PathBuf);

impl LogDirectory {
    /// The log in `directory`, which need not exist.
    pub fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// What may be served to others: a C2SP tlog-tiles directory.
    pub fn tiles(&self) -> PathBuf {
        self.0.join("tiles")
    }

    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.tiles().join(CHECKPOINT)
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(crate) fn rows(&self) -> PathBuf {
        self.0.join("rows")
    }

    pub(crate) fn notaries(&self) -> PathBuf {
        self.0.join("notaries.json")
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// A local log as its newest checkpoint has it. Needs no lock: what a checkpoint covers stays.
#[derive(Debug)]
pub struct LogReader {
    directory: LogDirectory,
    checkpoint: LogCheckpoint,
    note: String,
    key: NotaryKey,
    tiles: TileFiles,
}

impl LogReader {
    /// Opens the log; `None` where it has no checkpoint yet. The checkpoint has to be signed by one
    /// of `keys`.
    ///
    /// # Errors
    ///
    /// [`LogError`].
    pub fn open(directory: &LogDirectory, keys: &[NotaryKey]) -> Result<Option<Self>, LogError> {
        let path = directory.checkpoint();
        let Some(bytes) = files::read(&path, NOTE_BYTES_MAX as u64)? else {
            return Ok(None);
        };
        let note = String::from_utf8(bytes).map_err(|_| NoteError::Parse { what: "not UTF-8" });
        let opened = note.and_then(|note| {
            let (checkpoint, key) = LogCheckpoint::open(&note, keys)?;
            Ok((note, checkpoint, key))
        });
        let (note, checkpoint, key) =
            opened.map_err(|source| LogError::Checkpoint { path, source })?;
        let mut note = note;
        for line in cosign::read(directory, checkpoint.size)? {
            note.push_str(&line);
            note.push('\n');
        }
        let tiles = TileFiles::new(&directory.tiles(), checkpoint.size);
        Ok(Some(Self { directory: directory.clone(), checkpoint, note, key, tiles }))
    }

    /// The checkpoint.
    pub const fn checkpoint(&self) -> &LogCheckpoint {
        &self.checkpoint
    }

    /// The checkpoint as it is signed, with the lines of witnesses that were kept.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The key that signed it.
    pub const fn key(&self) -> &NotaryKey {
        &self.key
    }

    /// The notary keys that the log's ledger introduced, oldest first.
    ///
    /// # Errors
    ///
    /// [`LogError`].
    pub fn notaries(&self) -> Result<Vec<KnownNotary>, LogError> {
        let known = Notaries::read(&self.directory)?.known().into_iter();
        known
            .map(|(mut notary, row)| {
                if let (Some(until), Some(row)) = (&mut notary.until, row) {
                    until.place = self.place_of(row)?;
                }
                Ok(notary)
            })
            .collect()
    }

    /// The keys that any checkpoint of this log can be signed with.
    pub(crate) fn known_keys(&self) -> Result<Vec<NotaryKey>, LogError> {
        Ok(self.notaries()?.into_iter().map(|notary| notary.key).collect())
    }

    /// The bytes of an entry.
    ///
    /// # Errors
    ///
    /// [`LogError`].
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, LogError> {
        self.has(index)?;
        let (bundle, within) = (index / TILE_WIDTH, index % TILE_WIDTH);
        let entries = self.tiles.entries(bundle)?;
        let within = usize::try_from(within).expect("below 256");
        Ok(entries[within].clone())
    }

    /// The hashes that lead from an entry to the checkpoint's root; they were checked.
    ///
    /// # Errors
    ///
    /// [`LogError`]; [`LogError::Damaged`] where they do not lead there.
    pub fn inclusion(&mut self, index: u64) -> Result<Vec<NodeHash>, LogError> {
        self.has(index)?;
        let (size, root) = (self.checkpoint.size, self.checkpoint.root);
        let path = Tree::new(&mut self.tiles, size).inclusion(index)?;
        let leaf = NodeHash::of_leaf(&self.entry(index)?);
        match merkle::is_included(leaf, index, size, &path, root) {
            true => Ok(path),
            false => Err(LogError::damaged(&self.directory.tiles(), "no way to the root")),
        }
    }

    /// The root of the tree of the first `size` entries.
    ///
    /// # Errors
    ///
    /// [`LogError`].
    pub fn root_at(&mut self, size: u64) -> Result<NodeHash, LogError> {
        match size <= self.checkpoint.size {
            true => Tree::new(&mut self.tiles, size).root(),
            false => Err(LogError::NoEntry { index: size, size: self.checkpoint.size }),
        }
    }

    /// The hashes that show that the checkpoint's tree begins with its first `old` entries; they
    /// were checked.
    ///
    /// # Errors
    ///
    /// [`LogError`]; [`LogError::Damaged`] where they do not show it.
    pub fn consistency(&mut self, old: u64) -> Result<Vec<NodeHash>, LogError> {
        let old_root = self.root_at(old)?;
        let (size, root) = (self.checkpoint.size, self.checkpoint.root);
        let path = Tree::new(&mut self.tiles, size).consistency(old)?;
        match merkle::is_consistent((old, old_root), (size, root), &path) {
            true => Ok(path),
            false => Err(LogError::damaged(&self.directory.tiles(), "no way to the root")),
        }
    }

    /// The row that an entry is of.
    ///
    /// # Errors
    ///
    /// [`LogError`].
    pub fn row_of(&self, index: u64) -> Result<u64, LogError> {
        self.has(index)?;
        RowIndex::open(&self.directory.rows())?.get(index)
    }

    /// The entry of a row; `None` where the row has none, or none yet.
    ///
    /// # Errors
    ///
    /// [`LogError`].
    pub fn index_of(&self, row: u64) -> Result<Option<u64>, LogError> {
        let rows = RowIndex::open(&self.directory.rows())?;
        let (mut low, mut high) = (0, self.checkpoint.size);
        while low < high {
            let middle = low + (high - low) / 2;
            match rows.get(middle)?.cmp(&row) {
                std::cmp::Ordering::Equal => return Ok(Some(middle)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Where the entry of a row is; `None` where it has none, or none yet.
    ///
    /// # Errors
    ///
    /// [`LogError`].
    pub fn place_of(&self, row: u64) -> Result<Option<Place>, LogError> {
        let origin = self.checkpoint.origin.to_string();
        Ok(self.index_of(row)?.map(|index| Place { origin, index }))
    }

    fn has(&self, index: u64) -> Result<(), LogError> {
        let size = self.checkpoint.size;
        match index < size {
            true => Ok(()),
            false => Err(LogError::NoEntry { index, size }),
        }
    }
}

/// The tiles of a tree of a known size, from files.
#[derive(Debug)]
pub(crate) struct TileFiles {
    root: PathBuf,
    size: u64,
    read: HashMap<(usize, u64), Vec<NodeHash>>,
}

impl TileFiles {
    pub(crate) fn new(root: &Path, size: u64) -> Self {
        Self { root: root.to_owned(), size, read: HashMap::new() }
    }

    /// The entries of a bundle, as many as the tree has.
    pub(crate) fn entries(&self, index: u64) -> Result<Vec<Vec<u8>>, LogError> {
        let width = (self.size - index * TILE_WIDTH).min(TILE_WIDTH);
        let path = TilePath::entries(index, width);
        let decode = |bytes: &[u8], width| {
            let entries = tile::decode_entries(bytes, width)?;
            Some(entries.into_iter().map(<[u8]>::to_vec).collect())
        };
        self.tile_file(path, ENTRIES_BYTES_MAX, width, decode)
    }

    /// The bytes of the full tile; `None` where there is none.
    pub(crate) fn read_full(&self, path: TilePath) -> Result<Option<Vec<u8>>, LogError> {
        let file = self.root.join(path.when_full().to_path());
        Ok(files::read(&file, ENTRIES_BYTES_MAX)?)
    }

    /// Reads the tile of this width, or where it is not there the full one.
    fn tile_file<T>(
        &self,
        path: TilePath,
        bytes_max: u64,
        width: u64,
        decode: impl Fn(&[u8], u64) -> Option<Vec<T>>,
    ) -> Result<Vec<T>, LogError> {
        let candidates = [(path, width), (path.when_full(), TILE_WIDTH)];
        for (candidate, width) in candidates {
            let file = self.root.join(candidate.to_path());
            if let Some(bytes) = files::read(&file, bytes_max)? {
                return decode(&bytes, width)
                    .ok_or_else(|| LogError::damaged(&file, "not as long as it has to be"));
            }
        }
        Err(LogError::damaged(&self.root.join(path.to_path()), "it is not there"))
    }
}

impl Nodes for TileFiles {
    type Error = LogError;

    fn tile(&mut self, level: usize, index: u64, width: u64) -> Result<Vec<NodeHash>, LogError> {
        if let Some(tile) = self.read.get(&(level, index)) {
            return Ok(tile.clone());
        }
        // The tree that is asked about may be an earlier one: the files are of the newest.
        let shift = u32::try_from(level).expect("at most 8 levels") * merkle::TILE_HEIGHT;
        let has = ((self.size >> shift) - index * TILE_WIDTH).min(TILE_WIDTH).max(width);
        let path = TilePath::hashes(level, index, has);
        let tile = self.tile_file(path, HASHES_BYTES_MAX, has, tile::decode_hashes)?;
        if self.read.len() >= TILES_KEPT_MAX {
            self.read.clear();
        }
        self.read.insert((level, index), tile.clone());
        Ok(tile)
    }
}

/// Which row each entry is of: eight bytes an entry, most significant first.
#[derive(Debug)]
pub(crate) struct RowIndex {
    path: PathBuf,
    file: File,
}

impl RowIndex {
    pub(crate) fn open(path: &Path) -> Result<Self, LogError> {
        match File::open(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LogError::damaged(path, "it is not there"))
            }
            Err(source) => Err(FileError { path: path.to_owned(), source }.into()),
        }
    }

    pub(crate) fn get(&self, index: u64) -> Result<u64, LogError> {
        let mut bytes = [0; ROW_BYTES];
        match self.file.read_exact_at(&mut bytes, index * ROW_BYTES as u64) {
            Ok(()) => Ok(u64::from_be_bytes(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(LogError::damaged(&self.path, "it is too short"))
            }
            Err(source) => Err(FileError { path: self.path.clone(), source }.into()),
        }
    }
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A file or directory could not be used.
    #[error("the log cannot be used")]
    File(#[from] FileError),
    /// The checkpoint is not believed.
    #[error("the checkpoint in {} is not believed", path.display())]
    Checkpoint {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: NoteError,
    },
    /// A file does not hold what belongs there.
    #[error("the log is damaged at {}: {what}", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// There is no such entry.
    #[error("the log has {size} entries, and entry {index} was asked for")]
    NoEntry {
        /// The one that was asked for; the first is 0.
        index: u64,
        /// Entries there are.
        size: u64,
    },
    /// The ledger could not be read.
    #[error("the ledger could not be read")]
    Ledger(#[from] evanesce_ledger::ReadError),
}

impl LogError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::File(_) => "log.file",
            Self::Checkpoint { .. } => "log.checkpoint",
            Self::Damaged { .. } => "log.damaged",
            Self::NoEntry { .. } => "log.no-entry",
            Self::Ledger(error) => error.code(),
        }
    }

    pub(crate) fn damaged(path: &Path, what: &'static str) -> Self {
        Self::Damaged { path: path.to_owned(), what }
    }
}

pub(crate) const CHECKPOINT: &str = "checkpoint";

/// Bytes of a row's number.
pub(crate) const ROW_BYTES: usize = size_of::<u64>();

const HASHES_BYTES_MAX: u64 = TILE_WIDTH * NodeHash::BYTES as u64;

const ENTRIES_BYTES_MAX: u64 = TILE_WIDTH * (ENTRY_BYTES_MAX as u64 + 2);

/// Hash tiles that are kept in memory: 4 MiB.
const TILES_KEPT_MAX: usize = 512;
