//! Whether the memory of processes grows.

use std::fmt;
use std::fs;

use super::ServeError;

/// The anonymous memory of processes, looked at again and again.
///
/// Of files, the program's own among them, pages come in as they are first used, which says nothing.
#[derive(Debug, Default)]
pub(super) struct Memory {
    kib: Vec<u64>,
}

impl Memory {
    /// Looks once.
    pub(super) fn look(&mut self, processes: &[u32]) -> Result<(), ServeError> {
        let mut kib = 0;
        for process in processes {
            kib += anonymous_kib(*process)?;
        }
        self.kib.push(kib);
        Ok(())
    }

    /// Sees that it is flat: the most of the last third is hardly above the most of the first.
    pub(super) fn judge(&self) -> Result<(), ServeError> {
        let (before, after) = self.before_and_after();
        match after > before + before / GROWTH_DIVISOR + SLACK_KIB {
            true => Err(ServeError::Left(format!("memory grew: {self}"))),
            false => Ok(()),
        }
    }

    fn before_and_after(&self) -> (u64, u64) {
        let third = self.kib.len().div_ceil(3);
        let most = |kib: &[u64]| kib.iter().copied().max().unwrap_or(0);
        (most(&self.kib[..third]), most(&self.kib[self.kib.len() - third..]))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = self.before_and_after();
        let looks = self.kib.len();
        write!(
            f,
            "memory of server and workers in {looks} looks: at most {before} KiB in the first third, \
             {after} KiB in the last"
        )
    }
}

fn anonymous_kib(process: u32) -> Result<u64, ServeError> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.ok_or_else(|| ServeError::Left("the memory of a process cannot be read".to_owned()))
}

const GROWTH_DIVISOR: u64 = 50;

const SLACK_KIB: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_swings_is_flat_and_memory_that_creeps_is_not() {
        let swings = Memory { kib: (0..300).map(|look| 40_000 + look % 7 * 100).collect() };
        let creeps = Memory { kib: (0..300).map(|look| 40_000 + look * 10).collect() };

        assert!(swings.judge().is_ok());
        let found = creeps.judge().unwrap_err().to_string();
        assert!(
            found.contains("at most 40990 KiB in the first third, 42990 KiB in the last"),
            "{found}"
        );
    }
}
