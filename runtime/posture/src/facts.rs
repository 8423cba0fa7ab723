//! The same answers as values: what a receipt states of the host.

use crate::checks::{CORE_PATTERN, SwapUse, hibernation, init_on_free, kdump, text};
use crate::finding::{Answer, Verdict};
use crate::host::Files;

/// What a host is. `None` is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether the kernel clears pages as it frees them.
    pub init_on_free: Option<bool>,
    /// Where memory may be swapped to.
    pub swap: SwapUse,
    /// `kernel.core_pattern` (core(5)).
    pub core_pattern: Option<String>,
    /// Whether a crash kernel is loaded.
    pub kdump: Option<bool>,
    /// Whether the host can sleep to disk.
    pub hibernation: Option<bool>,
}

impl Facts {
    /// Asks a host.
    pub fn of(host: &dyn Files) -> Self {
        let holds = |answer: Answer| match answer.verdict {
            Verdict::Holds => Some(true),
            Verdict::DoesNotHold => Some(false),
            Verdict::Unknown => None,
        };
        let core_pattern = text(host, CORE_PATTERN).ok();
        Self {
            init_on_free: holds(init_on_free(host)),
            swap: SwapUse::of_host(host),
            core_pattern: core_pattern.map(|pattern| pattern.trim_end().to_owned()),
            // These two promise that there is none.
            kdump: holds(kdump(host)).map(|holds| !holds),
            hibernation: holds(hibernation(host)).map(|holds| !holds),
        }
    }
}
