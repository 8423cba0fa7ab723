//! Merkle trees as RFC 6962, section 2.1, has them: hashes, the growing edge, proofs.
//!
//! No I/O: hashes of whole subtrees come from a [`Nodes`], which may be files, a server's tiles or a
//! test's vector.

use std::fmt;

use base64ct::{Base64, Encoding as _};
use sha2::{Digest as _, Sha256};

/// Entries of a hash tile, and of an entry bundle, that is full (C2SP tlog-tiles).
pub const TILE_WIDTH: u64 = 1 << TILE_HEIGHT;

/// Levels of the tree that one hash tile covers.
pub const TILE_HEIGHT: u32 = 8;

/// Levels of hash tiles that a tree of 2^64 entries has.
pub const TILE_LEVELS_MAX: usize = 8;

/// A node of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeHash([u8; Self::BYTES]);

impl NodeHash {
    /// Bytes in a hash.
    pub const BYTES: usize = 32;

    /// The root of a tree without entries: SHA-256 of nothing.
    pub fn of_empty_tree() -> Self {
        Self(Sha256::digest([]).into())
    }

    /// The hash of an entry: SHA-256 of a zero byte and the entry.
    pub fn of_leaf(entry: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update([0]);
        hash.update(entry);
        Self(hash.finalize().into())
    }

    /// The hash of a node: SHA-256 of the byte 1 and the two hashes below it.
    pub fn of_children(left: Self, right: Self) -> Self {
        let mut hash = Sha256::new();
        hash.update([1]);
        hash.update(left.0);
        hash.update(right.0);
        Self(hash.finalize().into())
    }

    /// A hash that was computed elsewhere.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads base64.
    pub fn from_base64(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        let decoded = Base64::decode(text, &mut bytes).ok()?;
        (decoded.len() == Self::BYTES).then_some(Self(bytes))
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The bytes in base64, as notes and bundles have them.
    pub fn to_base64(self) -> String {
        Base64::encode_string(&self.0)
    }
}

impl fmt::Display for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for NodeHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64())
    }
}

/// The right edge of a tree: what has to be known of it to append to it.
///
/// Level by level, the hashes that the last hash tile has which is not full; each stands for
/// 256^level entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    levels: Vec<Vec<NodeHash>>,
    size: u64,
}

/// A hash tile that became full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullTile {
    /// Its level: 0 holds the hashes of entries.
    pub level: usize,
    /// Which of its level.
    pub index: u64,
    /// Its 256 hashes.
    pub hashes: Vec<NodeHash>,
}

impl Edge {
    /// Takes the hashes of the last tiles of a tree of `size` entries, lowest level first; `None`
    /// where they are not as many as such a tree has.
    pub fn of_partial_tiles(size: u64, levels: Vec<Vec<NodeHash>>) -> Option<Self> {
        let edge = Self { levels, size };
        let widths = partial_widths(size);
        let fits = edge.levels.len() == widths.len()
            && edge.levels.iter().zip(&widths).all(|(hashes, width)| hashes.len() as u64 == *width);
        fits.then_some(edge)
    }

    /// Appends the hash of an entry; `full` is given every tile that it fills.
    ///
    /// # Errors
    ///
    /// Those of `full`, after which the edge is of no use any more.
    pub fn push<E>(
        &mut self,
        leaf: NodeHash,
        mut full: impl FnMut(FullTile) -> Result<(), E>,
    ) -> Result<(), E> {
        self.size += 1;
        let mut hash = leaf;
        let mut index = self.size - 1;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(hash);
            index /= TILE_WIDTH;
            if (self.levels[level].len() as u64) < TILE_WIDTH {
                break;
            }
            let hashes = std::mem::take(&mut self.levels[level]);
            hash = root_of(&hashes, None).expect("a full tile is not empty");
            full(FullTile { level, index, hashes })?;
        }
        Ok(())
    }

    /// How many entries the tree has.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root.
    pub fn root(&self) -> NodeHash {
        let root = self.levels.iter().fold(None, |right, hashes| root_of(hashes, right));
        root.unwrap_or_else(NodeHash::of_empty_tree)
    }

    /// The tiles at the edge that are neither empty nor full: level, index and hashes.
    pub fn partial_tiles(&self) -> impl Iterator<Item = (usize, u64, &[NodeHash])> {
        let levels = self.levels.iter().enumerate().filter(|(_, hashes)| !hashes.is_empty());
        levels.map(|(level, hashes)| (level, self.size >> shift(level + 1), hashes.as_slice()))
    }
}

/// How many hashes the last tile of each level has in a tree of `size` entries, 0 where that tile
/// is full.
pub fn partial_widths(size: u64) -> Vec<u64> {
    let levels = (0..TILE_LEVELS_MAX).map(|level| size >> shift(level));
    levels.take_while(|hashes| *hashes > 0).map(|hashes| hashes % TILE_WIDTH).collect()
}

fn shift(level: usize) -> u32 {
    u32::try_from(level).map_or(u32::MAX, |level| level * TILE_HEIGHT).min(u64::BITS - 1)
}

/// The root over subtrees of one size, and over what is `right` of them.
fn root_of(hashes: &[NodeHash], right: Option<NodeHash>) -> Option<NodeHash> {
    let mut root = right;
    let mut rest = hashes;
    // From the right: the smallest whole subtree first.
    while !rest.is_empty() {
        let whole = 1 << rest.len().trailing_zeros();
        let (before, last) = rest.split_at(rest.len() - whole);
        let subtree = perfect_root(last);
        root = Some(root.map_or(subtree, |root| NodeHash::of_children(subtree, root)));
        rest = before;
    }
    root
}

/// The root over hashes whose number is a power of two.
fn perfect_root(hashes: &[NodeHash]) -> NodeHash {
    let mut level = hashes.to_vec();
    while level.len() > 1 {
        level = level.chunks_exact(2).map(|pair| NodeHash::of_children(pair[0], pair[1])).collect();
    }
    level[0]
}

/// Where hashes come from: the hash tiles of a tree of at least the size that is asked about.
pub trait Nodes {
    /// Why a tile cannot be had.
    type Error;

    /// The hashes of a tile of which a tree of `size` entries has at least `width`, which is never
    /// 0: level, index, and at least that many hashes.
    ///
    /// # Errors
    ///
    /// Where it cannot be had.
    fn tile(&mut self, level: usize, index: u64, width: u64) -> Result<Vec<NodeHash>, Self::Error>;
}

/// A tree of a known size, whose hashes are read from tiles.
#[derive(Debug)]
pub struct Tree<'a, N> {
    nodes: &'a mut N,
    size: u64,
}

impl<'a, N: Nodes> Tree<'a, N> {
    /// The first `size` entries of the tree behind `nodes`.
    pub const fn new(nodes: &'a mut N, size: u64) -> Self {
        Self { nodes, size }
    }

    /// The root.
    ///
    /// # Errors
    ///
    /// Those of the tiles.
    pub fn root(&mut self) -> Result<NodeHash, N::Error> {
        match self.size {
            0 => Ok(NodeHash::of_empty_tree()),
            size => self.range(0, size),
        }
    }

    /// The hashes that lead from entry `index` to the root: RFC 6962, section 2.1.1.
    ///
    /// # Panics
    ///
    /// Where the tree has no such entry.
    ///
    /// # Errors
    ///
    /// Those of the tiles.
    pub fn inclusion(&mut self, index: u64) -> Result<Vec<NodeHash>, N::Error> {
        assert!(index < self.size, "the tree has no entry {index}");
        let (mut start, mut size) = (0, self.size);
        let mut path = Vec::new();
        while size > 1 {
            let left = largest_power_below(size);
            match index - start < left {
                true => {
                    path.push(self.range(start + left, size - left)?);
                    size = left;
                }
                false => {
                    path.push(self.range(start, left)?);
                    (start, size) = (start + left, size - left);
                }
            }
        }
        path.reverse();
        Ok(path)
    }

    /// The hashes that show that the first `old` entries are still there: RFC 6962, section 2.1.2.
    /// Empty where `old` is 0 or the whole tree.
    ///
    /// # Panics
    ///
    /// Where the tree is smaller than `old`.
    ///
    /// # Errors
    ///
    /// Those of the tiles.
    pub fn consistency(&mut self, old: u64) -> Result<Vec<NodeHash>, N::Error> {
        assert!(old <= self.size, "the tree has fewer than {old} entries");
        if old == 0 || old == self.size {
            return Ok(Vec::new());
        }
        let (mut start, mut size, mut old) = (0, self.size, old);
        let mut path = Vec::new();
        let mut is_whole = true;
        while old != size {
            let left = largest_power_below(size);
            match old <= left {
                true => {
                    path.push(self.range(start + left, size - left)?);
                    size = left;
                }
                false => {
                    path.push(self.range(start, left)?);
                    (start, size, old, is_whole) = (start + left, size - left, old - left, false);
                }
            }
        }
        if !is_whole {
            path.push(self.range(start, size)?);
        }
        path.reverse();
        Ok(path)
    }

    /// The hash over `size` entries from `start` on, as they are joined in a tree: `start` is a
    /// multiple of a power of two that is not below `size`.
    fn range(&mut self, start: u64, size: u64) -> Result<NodeHash, N::Error> {
        if size.is_power_of_two() {
            return self.whole(start, size.trailing_zeros());
        }
        let left = largest_power_below(size);
        let (a, b) = (self.range(start, left)?, self.range(start + left, size - left)?);
        Ok(NodeHash::of_children(a, b))
    }

    /// The hash of the whole subtree of 2^height entries from `start` on.
    fn whole(&mut self, start: u64, height: u32) -> Result<NodeHash, N::Error> {
        let (level, within) = (height / TILE_HEIGHT, height % TILE_HEIGHT);
        let level = level as usize;
        let first = start >> shift(level);
        let (index, offset) = (first / TILE_WIDTH, first % TILE_WIDTH);
        let width = offset + (1 << within);
        let has = (self.size >> shift(level)) - index * TILE_WIDTH;
        let tile = self.nodes.tile(level, index, has.min(TILE_WIDTH).max(width))?;
        let hashes = usize::try_from(offset).ok().zip(usize::try_from(width).ok());
        let (from, to) = hashes.expect("a tile has at most 256 hashes");
        Ok(perfect_root(&tile[from..to]))
    }
}

fn largest_power_below(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

/// Whether `path` leads from the entry with hash `leaf` at `index` to `root` in a tree of `size`
/// entries.
pub fn is_included(
    leaf: NodeHash,
    index: u64,
    size: u64,
    path: &[NodeHash],
    root: NodeHash,
) -> bool {
    let [leaf, root] = [leaf, root].map(sigstore_hash);
    let path: Vec<_> = path.iter().copied().map(sigstore_hash).collect();
    crate::crypto::use_ring();
    sigstore_merkle::verify_inclusion_proof(&leaf, index, size, &path, &root).is_ok()
}

/// Whether `path` shows that the tree of `new` entries with root `new_root` begins with the tree
/// of `old` entries with root `old_root`.
pub fn is_consistent(
    (old, old_root): (u64, NodeHash),
    (new, new_root): (u64, NodeHash),
    path: &[NodeHash],
) -> bool {
    if old == 0 {
        // Every tree begins with the empty one; RFC 6962 has no proof of that.
        return path.is_empty() && old_root == NodeHash::of_empty_tree();
    }
    let [old_root, new_root] = [old_root, new_root].map(sigstore_hash);
    let path: Vec<_> = path.iter().copied().map(sigstore_hash).collect();
    crate::crypto::use_ring();
    sigstore_merkle::verify_consistency_proof(old, new, &path, &old_root, &new_root).is_ok()
}

const fn sigstore_hash(hash: NodeHash) -> sigstore_types::Sha256Hash {
    sigstore_types::Sha256Hash::new(hash.0)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;
    use tlog_tiles::{Error as TlogError, HashReader};

    use super::*;

    /// A tree in memory, built the way the log builds its own.
    #[derive(Default)]
    struct Grown {
        edge: Edge,
        full: Vec<FullTile>,
    }

    impl Grown {
        fn of(size: u64) -> Self {
            let mut grown = Self::default();
            for number in 0..size {
                let leaf = NodeHash::of_leaf(&number.to_be_bytes());
                let Ok(()) = grown.edge.push(leaf, |tile| {
                    grown.full.push(tile);
                    Ok::<_, Infallible>(())
                });
            }
            grown
        }
    }

    impl Nodes for Grown {
        type Error = Infallible;

        fn tile(
            &mut self,
            level: usize,
            index: u64,
            width: u64,
        ) -> Result<Vec<NodeHash>, Infallible> {
            let full = self.full.iter().find(|tile| (tile.level, tile.index) == (level, index));
            let hashes = match full {
                Some(tile) => tile.hashes.clone(),
                None => {
                    let mut partial = self.edge.partial_tiles();
                    let found = partial.find(|(l, i, _)| (*l, *i) == (level, index));
                    found.unwrap().2.to_vec()
                }
            };
            assert!(hashes.len() as u64 >= width);
            Ok(hashes)
        }
    }

    /// The oracle: Go's `sumdb/tlog`, ported by others.
    #[derive(Default)]
    struct Oracle(Vec<tlog_tiles::Hash>);

    impl HashReader for Oracle {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, TlogError> {
            Ok(indexes.iter().map(|index| self.0[usize::try_from(*index).unwrap()]).collect())
        }
    }

    impl Oracle {
        fn of(size: u64) -> Self {
            let mut oracle = Self::default();
            for number in 0..size {
                let new =
                    tlog_tiles::stored_hashes(number, &number.to_be_bytes(), &oracle).unwrap();
                oracle.0.extend(new);
            }
            oracle
        }
    }

    fn hashes(found: Vec<tlog_tiles::Hash>) -> Vec<NodeHash> {
        found.into_iter().map(|hash| NodeHash(hash.0)).collect()
    }

    #[test]
    fn root_and_edge_are_those_of_another_implementation_at_every_size() {
        let oracle = Oracle::of(600);
        for size in 1..=600 {
            let mut grown = Grown::of(size);
            let expected = NodeHash(tlog_tiles::tree_hash(size, &oracle).unwrap().0);
            assert_eq!(grown.edge.root(), expected, "size {size}");
            assert_eq!(Tree::new(&mut grown, size).root().unwrap(), expected, "size {size}");
        }
    }

    #[test]
    fn an_edge_is_taken_up_again_from_its_partial_tiles() {
        for size in [0, 1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537] {
            let edge = Grown::of(size).edge;
            let mut levels: Vec<Vec<NodeHash>> = vec![Vec::new(); partial_widths(size).len()];
            for (level, _, hashes) in edge.partial_tiles() {
                levels[level] = hashes.to_vec();
            }
            let again = Edge::of_partial_tiles(size, levels).unwrap();
            assert_eq!((again.root(), again.size()), (edge.root(), size));
        }
        assert_eq!(Edge::of_partial_tiles(3, vec![]), None);
    }

    #[test]
    fn an_empty_tree_has_the_root_of_nothing() {
        assert_eq!(Edge::default().root(), NodeHash::of_empty_tree());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn inclusion_proofs_are_those_of_another_implementation(
            (size, index) in (1_u64..1200).prop_flat_map(|size| (Just(size), 0..size))
        ) {
            let (mut grown, oracle) = (Grown::of(size), Oracle::of(size));
            let path = Tree::new(&mut grown, size).inclusion(index).unwrap();
            let expected = tlog_tiles::prove_record(size, index, &oracle).unwrap();
            prop_assert_eq!(&path, &hashes(expected));

            let leaf = NodeHash::of_leaf(&index.to_be_bytes());
            let root = grown.edge.root();
            prop_assert!(is_included(leaf, index, size, &path, root));
            let other = NodeHash::of_leaf(b"other");
            prop_assert!(!is_included(other, index, size, &path, root));
        }

        #[test]
        fn consistency_proofs_are_those_of_another_implementation(
            (new, old) in (1_u64..1200).prop_flat_map(|new| (Just(new), 1..=new))
        ) {
            let (mut grown, oracle) = (Grown::of(new), Oracle::of(new));
            let path = Tree::new(&mut grown, new).consistency(old).unwrap();
            if old < new {
                let expected = tlog_tiles::prove_tree(new, old, &oracle).unwrap();
                prop_assert_eq!(&path, &hashes(expected));
            }
            let (old_root, new_root) = (Grown::of(old).edge.root(), grown.edge.root());
            prop_assert!(is_consistent((old, old_root), (new, new_root), &path));
            if old < new {
                prop_assert!(!is_consistent((old, new_root), (new, new_root), &path));
            }
        }

        /// What a proof from the tiles of a later, larger tree says of a smaller one.
        #[test]
        fn proofs_in_an_earlier_tree_are_made_from_the_tiles_of_a_later_one(
            (new, old, index) in (2_u64..1200)
                .prop_flat_map(|new| (Just(new), 1..=new))
                .prop_flat_map(|(new, old)| (Just(new), Just(old), 0..old))
        ) {
            let mut grown = Grown::of(new);
            let path = Tree::new(&mut grown, old).inclusion(index).unwrap();
            let leaf = NodeHash::of_leaf(&index.to_be_bytes());
            prop_assert!(is_included(leaf, index, old, &path, Grown::of(old).edge.root()));
        }
    }
}
