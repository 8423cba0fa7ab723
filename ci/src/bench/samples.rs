//! How long something took, many times.

use std::fmt;
use std::time::Duration;

/// Durations, at least one.
#[derive(Debug)]
pub(crate) struct Samples {
    sorted: Vec<Duration>,
}

impl Samples {
    /// Takes durations in any order.
    ///
    /// # Panics
    ///
    /// Where there are none.
    pub(crate) fn new(mut durations: Vec<Duration>) -> Self {
        assert!(!durations.is_empty(), "something was measured");
        durations.sort_unstable();
        Self { sorted: durations }
    }

    pub(super) fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// The least duration that `percent` of a hundred do not exceed: the nearest rank, from 1 to 100.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.sorted.len() * percent).div_ceil(100);
        self.sorted[rank.max(1) - 1]
    }
}

/// As `p50 31.2 µs, p99 40.1 µs`.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.1?}, p99 {:.1?}", self.median(), self.percentile(99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_sample_at_the_nearest_rank() {
        let ms = Duration::from_millis;
        let samples = Samples::new((1..=200).rev().map(ms).collect());

        assert_eq!(samples.median(), ms(100));
        assert_eq!(samples.percentile(99), ms(198));
        assert_eq!(samples.percentile(100), ms(200));
        assert_eq!(Samples::new(vec![ms(7)]).percentile(99), ms(7));
    }
}
