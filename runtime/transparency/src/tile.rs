//! Where the tiles of a log are, and what is in them: C2SP tlog-tiles v0.1.0.

use std::fmt::Write as _;

use crate::merkle::{NodeHash, TILE_WIDTH};

/// Bytes in one entry: its length has two bytes before it.
pub const ENTRY_BYTES_MAX: usize = u16::MAX as usize;

/// One tile: of hashes, or of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilePath {
    kind: TileKind,
    index: u64,
    width: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TileKind {
    Hashes { level: usize },
    Entries,
}

impl TilePath {
    /// A hash tile with `width` hashes, 1 to 256.
    pub const fn hashes(level: usize, index: u64, width: u64) -> Self {
        Self { kind: TileKind::Hashes { level }, index, width }
    }

    /// An entry bundle with `width` entries, 1 to 256.
    pub const fn entries(index: u64, width: u64) -> Self {
        Self { kind: TileKind::Entries, index, width }
    }

    /// The same tile once it is full.
    pub const fn when_full(self) -> Self {
        Self { width: TILE_WIDTH, ..self }
    }

    /// Whether it is full.
    pub const fn is_full(self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The path below the log's prefix: `tile/0/x001/x234/067.p/8`.
    pub fn to_path(self) -> String {
        let mut path = self.stem();
        if !self.is_full() {
            write!(path, ".p/{}", self.width).expect("a String takes any text");
        }
        path
    }

    /// The directory of the tile's partial versions: `tile/0/x001/x234/067.p`.
    pub fn partial_directory(self) -> String {
        self.stem() + ".p"
    }

    fn stem(self) -> String {
        let mut path = match self.kind {
            TileKind::Hashes { level } => format!("tile/{level}/"),
            TileKind::Entries => "tile/entries/".to_owned(),
        };
        // Three digits an element, an x before all but the last.
        let mut thousands = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            thousands.push(rest % 1000);
            rest /= 1000;
        }
        while let Some(element) = thousands.pop() {
            let more = if thousands.is_empty() { "" } else { "/" };
            let mark = if thousands.is_empty() { "" } else { "x" };
            write!(path, "{mark}{element:03}{more}").expect("a String takes any text");
        }
        path
    }
}

/// The bytes of a hash tile.
pub fn encode_hashes(hashes: &[NodeHash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

/// Reads a hash tile of exactly `width` hashes.
pub fn decode_hashes(bytes: &[u8], width: u64) -> Option<Vec<NodeHash>> {
    let (hashes, rest) = bytes.as_chunks::<{ NodeHash::BYTES }>();
    let fits = rest.is_empty() && hashes.len() as u64 == width;
    fits.then(|| hashes.iter().copied().map(NodeHash::from_bytes).collect())
}

/// Adds an entry to the bytes of an entry bundle; `false`, and nothing added, where it is too long.
#[must_use]
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> bool {
    let Ok(length) = u16::try_from(entry.len()) else {
        return false;
    };
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    true
}

/// The entries of an entry bundle that has exactly `width`.
pub fn decode_entries(bytes: &[u8], width: u64) -> Option<Vec<&[u8]>> {
    let mut rest = bytes;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        rest = after;
        if entries.len() as u64 > width {
            return None;
        }
    }
    (entries.len() as u64 == width).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the specification.
    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(TilePath::hashes(0, 1_234_067, 256).to_path(), "tile/0/x001/x234/067");
        assert_eq!(TilePath::hashes(0, 1_234_067, 8).to_path(), "tile/0/x001/x234/067.p/8");
        assert_eq!(TilePath::entries(0, 1).to_path(), "tile/entries/000.p/1");
        assert_eq!(TilePath::hashes(3, 1000, 256).to_path(), "tile/3/x001/000");
    }

    #[test]
    fn hash_tiles_have_the_paths_of_another_implementation() {
        for (index, width) in [(0, 1), (7, 256), (999, 3), (1000, 256), (1_234_567, 255)] {
            let oracle = tlog_tiles::Tile::new(8, 2, index, u32::try_from(width).unwrap(), false);
            let expected = oracle.path().replacen("tile/8/", "tile/", 1);
            assert_eq!(TilePath::hashes(2, index, width).to_path(), expected);
        }
    }

    #[test]
    fn a_bundle_is_read_back_and_one_that_is_cut_off_anywhere_is_not() {
        let mut bundle = Vec::new();
        for entry in [&b"one"[..], b"", &[7; 300]] {
            assert!(push_entry(&mut bundle, entry));
        }
        assert_eq!(decode_entries(&bundle, 3).unwrap(), [&b"one"[..], b"", &[7; 300]]);
        for end in 0..bundle.len() {
            assert_eq!(decode_entries(&bundle[..end], 3), None, "{end} bytes");
        }
        assert_eq!((decode_entries(&bundle, 2), decode_entries(&bundle, 4)), (None, None));
        assert!(!push_entry(&mut bundle, &[0; ENTRY_BYTES_MAX + 1]));
    }
}
