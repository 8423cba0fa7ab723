//! Every way a key's life can end, and what is left of it then.

mod controls;
mod crash;
mod ends;
mod hygiene;

use super::bench::Bench;
use super::error::VmError;

/// One case: it runs in a booted guest and adds its rows.
pub(crate) type Case = fn(&mut Bench) -> Result<(), VmError>;

/// A boot of a guest: cases that leave it usable, and one that does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    pub(crate) cases: &'static [(&'static str, Case)],
}

/// All of them. Each session is run once for each setting of `init_on_free`.
pub(crate) const SESSIONS: &[Session] = &[
    Session {
        cases: &[
            ("control: heap", controls::heap),
            ("control: signing alone", controls::signing_alone),
            ("orderly end", ends::orderly),
            ("killed in mid-signature", ends::killed_in_mid_signature),
            ("out of memory", ends::out_of_memory),
            ("launcher killed", ends::launcher_killed),
            ("stopped by systemd", ends::stopped_by_systemd),
            ("core files", hygiene::core_files),
            ("swap", hygiene::swap_pressure),
            ("kernel crash", crash::kernel_crash),
        ],
    },
    Session { cases: &[("power-off", crash::power_off)] },
];

/// Keys for all cases of one session.
pub(crate) const KEYS: usize = 40;
