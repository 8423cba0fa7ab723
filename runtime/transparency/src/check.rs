//! The whole log held to the ledger: every entry, every tile, the checkpoint.

use std::path::PathBuf;

use evanesce_ledger::{NotaryKeyId, RawRow, Reader};
use serde::Serialize;

use crate::extend::{Notaries, Sources};
use crate::files;
use crate::merkle::{Edge, NodeHash, TILE_WIDTH};
use crate::note::{LogCheckpoint, tree_head};
use crate::reader::{LogDirectory, LogError, LogReader, RowIndex, TileFiles};
use crate::tile::{self, TilePath};

/// What checking the log found. Says nothing of signatures but the checkpoint's own: those of
/// the statements are for [`evanesce_ledger::verify()`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[must_use = "a finding that nobody looks at proves nothing"]
pub struct LogFinding {
    /// Entries that the checkpoint covers.
    pub entries: u64,
    /// The root that the entries make.
    pub root: NodeHash,
    /// The key that signed the checkpoint.
    pub signed_by: NotaryKeyId,
    /// The last row that the checkpoint covers.
    pub rows: u64,
    /// Rows after that one, whose statements are not in the log yet.
    pub rows_after: u64,
    /// What is wrong, the first of it; absent where everything holds.
    pub wrong: Option<Wrong>,
    /// What a checkpoint shows that was kept elsewhere; absent where none was given.
    pub kept: Option<KeptFinding>,
}

impl LogFinding {
    /// Whether everything holds.
    pub const fn holds(&self) -> bool {
        self.wrong.is_none() && matches!(self.kept, None | Some(KeptFinding::Holds))
    }
}

/// What does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "problem")]
#[non_exhaustive]
pub enum Wrong {
    /// The ledger lacks the row that the checkpoint ends with, or has another in its place.
    Ledger {
        /// The row.
        row: u64,
    },
    /// A file of the log is missing, or is not what the ledger makes of it.
    Tile {
        /// Where it is, below the log's directory.
        path: PathBuf,
    },
    /// The index does not name the row of an entry.
    RowIndex {
        /// The entry; the first is 0.
        entry: u64,
    },
    /// The ledger makes another tree than the checkpoint signs.
    Root {
        /// Entries of the ledger up to the checkpoint's last row.
        entries: u64,
        /// The root they make.
        root: NodeHash,
    },
}

/// What a checkpoint shows that was kept elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum KeptFinding {
    /// The log begins with the tree that it signs.
    Holds,
    /// The log has fewer entries: some were removed.
    EntriesMissing {
        /// How many there were.
        expected: u64,
    },
    /// The log has other entries: it was forked or written anew.
    OtherTree,
    /// It is not a checkpoint of this log by a key that is known here.
    Unreadable,
}

/// Checks the log; `None` where there is none. `kept` is a checkpoint (a signed note) from
/// elsewhere. `progress` is told the number of entries that were checked, now and then. Memory does
/// not grow with the log.
///
/// # Errors
///
/// [`LogError`] where something cannot be read, or the checkpoint is not believed. A log that can
/// be read and is wrong is a finding.
pub fn check(
    sources: Sources<'_>,
    kept: Option<&str>,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<LogFinding>, LogError> {
    let Some(log) = LogReader::open(sources.log, sources.keys)? else {
        return Ok(None);
    };
    let kept = kept.map(|note| Kept::read(note, sources, log.checkpoint()));
    let ledger = Reader::open(sources.ledger)?;
    let mut pass = Pass::new(sources.log, log.checkpoint(), kept);
    let mut rows = ledger.raw_rows_from(1)?;
    while let Some(row) = rows.next_row()? {
        pass.row(&row, progress)?;
    }
    Ok(Some(pass.finish(log.key().id())?))
}

/// One pass over all rows.
struct Pass<'a> {
    checkpoint: &'a LogCheckpoint,
    directory: &'a LogDirectory,
    files: TileFiles,
    /// Which row each entry is of; `None` where the index is missing.
    rows: Option<RowIndex>,
    notaries: Notaries,
    edge: Edge,
    /// The bundle that the entries of the rows make.
    bundle: Vec<u8>,
    is_at_end: bool,
    rows_after: u64,
    wrong: Option<Wrong>,
    kept: Option<Kept>,
}

/// A checkpoint that was kept elsewhere.
struct Kept {
    finding: KeptFinding,
    head: Option<(u64, NodeHash)>,
}

impl Kept {
    fn read(note: &str, sources: Sources<'_>, newest: &LogCheckpoint) -> Self {
        match LogCheckpoint::open(note, sources.keys) {
            Ok((kept, _)) if kept.origin == newest.origin && kept.size <= newest.size => {
                let finding = match kept.size {
                    0 => KeptFinding::Holds,
                    _ => KeptFinding::OtherTree,
                };
                Self { finding, head: tree_head(note) }
            }
            Ok((kept, _)) if kept.origin == newest.origin => {
                let finding = KeptFinding::EntriesMissing { expected: kept.size };
                Self { finding, head: None }
            }
            Ok(_) | Err(_) => Self { finding: KeptFinding::Unreadable, head: None },
        }
    }

    fn look(&mut self, edge: &Edge) {
        if let Some((size, root)) = self.head
            && size == edge.size()
            && root == edge.root()
        {
            self.finding = KeptFinding::Holds;
        }
    }
}

impl<'a> Pass<'a> {
    fn new(directory: &'a LogDirectory, checkpoint: &'a LogCheckpoint, kept: Option<Kept>) -> Self {
        let rows = RowIndex::open(&directory.rows()).ok();
        Self {
            checkpoint,
            directory,
            files: TileFiles::new(&directory.tiles(), checkpoint.size),
            rows,
            notaries: Notaries::default(),
            edge: Edge::default(),
            bundle: Vec::new(),
            is_at_end: false,
            rows_after: 0,
            wrong: None,
            kept,
        }
    }

    fn row(&mut self, row: &RawRow<'_>, progress: &mut dyn FnMut(u64)) -> Result<(), LogError> {
        if self.is_at_end {
            self.rows_after += 1;
            return Ok(());
        }
        self.notaries.take(row);
        if let Some(body) = self.notaries.entry_of(row) {
            self.entry(&body, row.seq)?;
            if self.edge.size().is_multiple_of(TILE_WIDTH) {
                progress(self.edge.size());
            }
        }
        if row.seq == self.checkpoint.ledger.rows {
            self.is_at_end = true;
            if row.digest != self.checkpoint.ledger.head {
                self.wrong(Wrong::Ledger { row: row.seq });
            }
        }
        Ok(())
    }

    fn entry(&mut self, body: &[u8], row: u64) -> Result<(), LogError> {
        let entry = self.edge.size();
        if self.wrong.is_none() && entry < self.checkpoint.size && !self.is_row_of(entry, row) {
            self.wrong(Wrong::RowIndex { entry });
        }
        let mut full = Vec::new();
        let Ok(()) = self.edge.push(NodeHash::of_leaf(body), |tile| {
            full.push(tile);
            Ok::<_, std::convert::Infallible>(())
        });
        if let Some(kept) = &mut self.kept
            && kept.head.is_some_and(|(size, _)| size == self.edge.size())
        {
            kept.look(&self.edge);
        }
        for tile in full {
            let path = TilePath::hashes(tile.level, tile.index, TILE_WIDTH);
            self.compare(path, &tile::encode_hashes(&tile.hashes))?;
        }
        if !tile::push_entry(&mut self.bundle, body) {
            self.wrong(Wrong::Ledger { row });
        }
        if self.edge.size().is_multiple_of(TILE_WIDTH) {
            let bundle = std::mem::take(&mut self.bundle);
            let path = TilePath::entries(self.edge.size() / TILE_WIDTH - 1, TILE_WIDTH);
            self.compare(path, &bundle)?;
        }
        Ok(())
    }

    fn finish(mut self, signed_by: NotaryKeyId) -> Result<LogFinding, LogError> {
        let (entries, root) = (self.edge.size(), self.edge.root());
        if !self.is_at_end {
            self.wrong(Wrong::Ledger { row: self.checkpoint.ledger.rows });
        } else if (entries, root) != (self.checkpoint.size, self.checkpoint.root) {
            self.wrong(Wrong::Root { entries, root });
        } else {
            let partial: Vec<_> = self
                .edge
                .partial_tiles()
                .map(|(level, index, hashes)| {
                    let path = TilePath::hashes(level, index, hashes.len() as u64);
                    (path, tile::encode_hashes(hashes))
                })
                .collect();
            for (path, bytes) in partial {
                self.compare(path, &bytes)?;
            }
            if !entries.is_multiple_of(TILE_WIDTH) {
                let bundle = std::mem::take(&mut self.bundle);
                let path = TilePath::entries(entries / TILE_WIDTH, entries % TILE_WIDTH);
                self.compare(path, &bundle)?;
            }
        }
        Ok(LogFinding {
            entries: self.checkpoint.size,
            root: self.checkpoint.root,
            signed_by,
            rows: self.checkpoint.ledger.rows,
            rows_after: self.rows_after,
            wrong: self.wrong,
            kept: self.kept.map(|kept| kept.finding),
        })
    }

    fn is_row_of(&self, entry: u64, row: u64) -> bool {
        self.rows.as_ref().is_some_and(|rows| rows.get(entry).is_ok_and(|found| found == row))
    }

    /// Compares a file of the log with what the ledger makes of it.
    fn compare(&mut self, path: TilePath, expected: &[u8]) -> Result<(), LogError> {
        if self.wrong.is_some() || self.edge.size() > self.checkpoint.size {
            return Ok(());
        }
        let name = path.to_path();
        let file = self.directory.tiles().join(&name);
        let found = match files::read(&file, expected.len() as u64) {
            Ok(Some(found)) => found,
            // Grown meanwhile: the full tile begins with what the partial one had.
            Ok(None) if !path.is_full() => {
                let mut full = self.files.read_full(path)?.unwrap_or_default();
                full.truncate(expected.len());
                full
            }
            Ok(None) | Err(_) => Vec::new(),
        };
        if found != expected {
            self.wrong(Wrong::Tile { path: PathBuf::from("tiles").join(name) });
        }
        Ok(())
    }

    /// Keeps the first.
    fn wrong(&mut self, wrong: Wrong) {
        self.wrong.get_or_insert(wrong);
    }
}
