//! The search itself: which positions of a buffer may lie in a form, and in which.
//!
//! Looking up every position of the data would be slow, so positions are visited with a stride of
//! four, and the index holds *words* of five bytes: a fragment of eight bytes has four of them, one
//! of which starts at a multiple of four wherever the fragment lies in the data. For each position
//! visited, a filter that fits the second-level cache says "no" or "perhaps"; a second one looks at
//! the few that are left; a table then says which forms have that word, and the bytes around decide.

use std::collections::{BTreeSet, HashSet};

use crate::forms::{Form, Forms};

/// Bytes that a run can extend to either side of a word in it; a multiple of [`STEP`].
pub(crate) const REACH: usize = Form::BYTES_MAX;

/// Positions are multiples of this, counted from the start of a stream.
pub(crate) const STEP: usize = 4;

/// Bytes that are read beyond the last position.
pub(crate) const PADDING: usize = size_of::<u64>();

/// The words of all fragments, ready to be looked up.
#[derive(Debug)]
pub(crate) struct Index {
    forms: Vec<Form>,
    filter: Filter,
    /// Looks at what the first one lets through, with another hash: the table is far away.
    second_filter: Filter,
    table: Table,
    /// No indexed word is zero, so that a block of zeros holds none.
    skips_zeros: bool,
}

/// A run of bytes of one form in a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Which form.
    pub(crate) form: usize,
    /// Where the run starts in it.
    pub(crate) form_offset: usize,
    /// Where the run starts in the buffer.
    pub(crate) start: usize,
    pub(crate) bytes: usize,
    pub(crate) fragments: usize,
}

impl Index {
    pub(crate) fn of(forms: &Forms) -> Self {
        let forms: Vec<Form> = forms.iter().cloned().collect();
        let mut words = Vec::new();
        for (form_index, form) in forms.iter().enumerate() {
            let form_index =
                u32::try_from(form_index).expect("fewer than 2^32 forms fit in memory");
            words.extend(indexed_words(form).into_iter().map(|offset| Word {
                hash: hash(load(&form.bytes()[offset..offset + WORD_BYTES])),
                form: form_index,
                offset: u8::try_from(offset).expect("a form has at most 80 bytes"),
            }));
        }
        let skips_zeros = words.iter().all(|word| word.hash != 0);
        Self {
            filter: Filter::of(words.iter().map(|word| word.hash)),
            second_filter: Filter::of(words.iter().map(|word| rehash(word.hash))),
            table: Table::of(words),
            forms,
            skips_zeros,
        }
    }

    pub(crate) fn form(&self, index: usize) -> &Form {
        &self.forms[index]
    }

    /// Reports the runs around positions `from..to` of `buffer`, of which the first `filled` bytes
    /// are data. A run is reported once for each indexed word of it that was visited.
    ///
    /// `from` and `to` are multiples of [`STEP`], and `buffer` goes on for [`PADDING`] after `to`.
    pub(crate) fn search(
        &self,
        buffer: &[u8],
        filled: usize,
        (from, to): (usize, usize),
        found: &mut dyn FnMut(Run),
    ) {
        let mut likely = vec![0; POSITIONS_PER_STRETCH];
        for stretch in (from..to).step_by(STRETCH_BYTES) {
            let stretch_end = (stretch + STRETCH_BYTES).min(to);
            // Three passes over one stretch, so that none waits for what another reads from afar.
            let mut suspects = [0; BLOCKS_PER_STRETCH];
            let blocks = (stretch..stretch_end).step_by(BLOCK_BYTES);
            for (suspects, block) in suspects.iter_mut().zip(blocks) {
                let block_end = (block + BLOCK_BYTES).min(to);
                *suspects = self.suspects(&buffer[block..block_end - STEP + PADDING]);
            }
            let mut likely_count = 0;
            for (index, mut suspects) in suspects.into_iter().enumerate() {
                while suspects != 0 {
                    let step = index * 64 + suspects.trailing_zeros() as usize;
                    suspects &= suspects - 1;
                    let position = stretch + step * STEP;
                    likely[likely_count] = position;
                    let hash = hash(load(&buffer[position..position + PADDING]));
                    likely_count += self.second_filter.may_hold(rehash(hash));
                }
            }
            for position in &likely[..likely_count] {
                self.verify(buffer, filled, *position, found);
            }
        }
    }

    /// One bit for each position of at most 64: whether a form may have the word there.
    ///
    /// Nothing branches on the data, as the processor could not foretell it.
    fn suspects(&self, block: &[u8]) -> u64 {
        // Much of memory and of images is zero.
        if self.skips_zeros && is_zero(block) {
            return 0;
        }
        let mut suspects = 0;
        let mut positions = 0;
        for bytes in block.windows(PADDING).step_by(STEP) {
            let suspect = self.filter.may_hold(hash(load(bytes))) as u64;
            suspects = suspects >> 1 | suspect << (u64::BITS - 1);
            positions += 1;
        }
        // The first position is the lowest bit, also where there are fewer than 64.
        suspects >> (u64::BITS - positions)
    }

    fn verify(&self, buffer: &[u8], filled: usize, position: usize, found: &mut dyn FnMut(Run)) {
        let hash = hash(load(&buffer[position..position + PADDING]));
        let Some(after) = buffer[..filled].get(position..) else {
            return;
        };
        let before = &buffer[..position];
        for word in self.table.words(hash) {
            let form_index = usize::try_from(word.form).expect("an index fits in memory");
            let form = &self.forms[form_index];
            let (form_before, form_after) = form.bytes().split_at(usize::from(word.offset));

            let bytes_before = equal_bytes(before.iter().rev(), form_before.iter().rev());
            let bytes = bytes_before + equal_bytes(after.iter(), form_after.iter());
            let form_offset = form_before.len() - bytes_before;
            let fragments_end = (form_offset + bytes + 1).saturating_sub(form.fragment().bytes());
            let fragments =
                (form_offset..fragments_end).filter(|&offset| form.is_searched(offset)).count();
            if fragments > 0 {
                let start = position - bytes_before;
                found(Run { form: form_index, form_offset, start, bytes, fragments });
            }
        }
    }
}

/// How many bytes are equal before the first that is not.
fn equal_bytes<'a>(
    left: impl Iterator<Item = &'a u8>,
    right: impl Iterator<Item = &'a u8>,
) -> usize {
    left.zip(right).take_while(|(left, right)| left == right).count()
}

/// Where the words start that have to be indexed: for each fragment, wherever it lies in the data,
/// one that is visited then. Of several (in fragments of sixteen bytes) the one with the most
/// different bytes, as runs of zeros or of one digit are everywhere.
fn indexed_words(form: &Form) -> BTreeSet<usize> {
    let variety = |offset: &usize| {
        let word = &form.bytes()[*offset..offset + WORD_BYTES];
        word.iter().collect::<HashSet<_>>().len()
    };
    (0..form.bytes().len())
        .filter(|&offset| form.is_searched(offset))
        .flat_map(|offset| {
            let words_end = offset + form.fragment().bytes() - WORD_BYTES + 1;
            (offset..offset + STEP).map(move |first| (first..words_end).step_by(STEP))
        })
        .map(|visited| visited.max_by_key(variety).expect("a fragment has STEP words or more"))
        .collect()
}

/// A word of a form.
#[derive(Clone, Copy, Debug)]
struct Word {
    hash: u64,
    form: u32,
    offset: u8,
}

/// A Bloom filter in blocks of 64 bits: a word sets the three bits of one of [`PATTERNS`] in one
/// block, so that one look at the block tells.
#[derive(Debug)]
struct Filter {
    blocks: Vec<u64>,
}

impl Filter {
    fn of(hashes: impl ExactSizeIterator<Item = u64>) -> Self {
        let count = (hashes.len() * FILTER_BITS_PER_WORD / 64).next_power_of_two().max(64);
        let mut filter = Self { blocks: vec![0; count] };
        for hash in hashes {
            let block = filter.block(hash);
            filter.blocks[block] |= pattern(hash);
        }
        filter
    }

    /// 1 for "perhaps", 0 for "no".
    #[inline(always)]
    fn may_hold(&self, hash: u64) -> usize {
        let pattern = pattern(hash);
        // Shifts by a constant alone: others cost three instructions where a processor before
        // x86-64-v3 has to be served.
        usize::from(self.blocks[self.block(hash)] & pattern == pattern)
    }

    #[inline(always)]
    fn block(&self, hash: u64) -> usize {
        low_bits(hash >> BLOCK_SHIFT) & (self.blocks.len() - 1)
    }
}

/// The bits of a block that a word sets.
#[inline(always)]
fn pattern(hash: u64) -> u64 {
    PATTERNS[low_bits(hash >> PATTERN_SHIFT) & (PATTERNS.len() - 1)]
}

#[inline(always)]
fn low_bits(number: u64) -> usize {
    usize::try_from(number & u64::from(u32::MAX)).expect("32 bits are an index into memory")
}

/// Three different bits each, drawn by a small generator (Marsaglia's xorshift64). 4 KiB: they stay
/// in the first-level cache.
static PATTERNS: [u64; 512] = {
    let mut patterns = [0; 512];
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut index = 0;
    while index < patterns.len() {
        while u64::count_ones(patterns[index]) < 3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            patterns[index] |= 1 << (state >> 58);
        }
        index += 1;
    }
    patterns
};

/// All words, sorted by hash, with a directory by the hash's highest bits.
#[derive(Debug)]
struct Table {
    words: Vec<Word>,
    directory: Vec<u32>,
    shift: u32,
}

impl Table {
    fn of(mut words: Vec<Word>) -> Self {
        words.sort_by_key(|word| (word.hash, word.form, word.offset));
        let buckets = words.len().next_power_of_two().max(2);
        let shift = u64::BITS - buckets.ilog2();
        let directory = (0..=buckets)
            .map(|bucket| {
                let start = words.partition_point(|word| slot(word.hash, shift) < bucket);
                u32::try_from(start).expect("fewer than 2^32 words fit in memory")
            })
            .collect();
        Self { words, directory, shift }
    }

    fn words(&self, hash: u64) -> impl Iterator<Item = &Word> {
        let bucket = slot(hash, self.shift);
        let bound = |bucket: usize| {
            usize::try_from(self.directory[bucket]).expect("an index fits in memory")
        };
        self.words[bound(bucket)..bound(bucket + 1)].iter().filter(move |word| word.hash == hash)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<PADDING>();
    words.iter().all(|word| u64::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// The first bytes, eight or fewer, as a number whose lower bytes are a word.
#[inline(always)]
fn load(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    }
}

/// Mixes the lower five bytes, one to one, into the upper five; the highest bits are the best.
#[inline(always)]
const fn hash(loaded: u64) -> u64 {
    // 2^64 divided by the golden ratio, made odd (Fibonacci hashing).
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    loaded.wrapping_mul(FACTOR << (64 - 8 * WORD_BYTES))
}

/// Another hash of the same word.
const fn rehash(hash: u64) -> u64 {
    // The constant of MurmurHash3's finalizer.
    (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

#[inline(always)]
fn slot(hash: u64, shift: u32) -> usize {
    usize::try_from(hash >> shift).expect("a slot is an index into memory")
}

/// The longest words of which a fragment of eight bytes has one at each alignment.
const WORD_BYTES: usize = 8 - STEP + 1;

/// One bit for each position in a `u64`.
const BLOCK_BYTES: usize = 64 * STEP;

/// What is searched at once: small enough for the first-level cache.
const BLOCKS_PER_STRETCH: usize = 64;
const STRETCH_BYTES: usize = BLOCKS_PER_STRETCH * BLOCK_BYTES;
const POSITIONS_PER_STRETCH: usize = BLOCKS_PER_STRETCH * 64;

/// The 21 highest bits of a hash choose the block, as far as there are so many, and the nine below
/// them the pattern: a field that both have would make neighbours in a block look alike.
const BLOCK_SHIFT: u32 = u64::BITS - 21;
const PATTERN_SHIFT: u32 = BLOCK_SHIFT - PATTERNS.len().ilog2();

/// Fewer make a filter say "perhaps" too often, more push it out of the second-level cache, which
/// costs more: with 1,000 signatures eight bits are 512 KiB.
const FILTER_BITS_PER_WORD: usize = 8;

const _: () = assert!(REACH.is_multiple_of(STEP));
