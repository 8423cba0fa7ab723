//! What the host itself promises, as a receipt states it: `evanesce-posture` asks, nobody judges.

use std::collections::BTreeMap;

use evanesce_ledger::receipt::{HostFacts, Known, Swap};
use evanesce_posture::{Facts, LocalFiles, SwapUse};

/// Reads the facts that a receipt states; what cannot be read is unknown.
pub(crate) fn facts() -> HostFacts {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let Facts { init_on_free, swap, core_pattern, kdump, hibernation } = Facts::of(&LocalFiles);
    HostFacts {
        kernel,
        init_on_free: known(init_on_free),
        swap: match swap {
            SwapUse::None => Swap::None,
            SwapUse::Encrypted => Swap::Encrypted,
            SwapUse::Plain => Swap::Plain,
            SwapUse::Unknown => Swap::Unknown,
        },
        core_pattern,
        kdump: known(kdump),
        hibernation: known(hibernation),
        other: BTreeMap::new(),
    }
}

const fn known(fact: Option<bool>) -> Known {
    match fact {
        Some(true) => Known::Yes,
        Some(false) => Known::No,
        None => Known::Unknown,
    }
}
