//! Choices that a seed repeats.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// A sequence of numbers that depends on the seed alone (SplitMix64: Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to 1, which never comes.
    pub(crate) fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.number() >> 32).expect("32 bits")) / 4_294_967_296.0
    }
}

/// A seed that nobody has chosen.
pub(crate) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
