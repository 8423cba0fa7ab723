//! Every way a key's life can end, and what is left of it then.

mod attestation;
mod controls;
mod crash;
mod ends;
mod hygiene;
mod playbooks;
mod release;

use super::bench::Bench;
use super::error::VmError;

/// One case: it runs in a booted guest and adds its rows.
pub(crate) type Case = fn(&mut Bench) -> Result<(), VmError>;

/// A boot of a guest: cases that leave it usable, and one that does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    /// Whether `init_on_free` makes a difference to them.
    pub(crate) both_settings: bool,
    pub(crate) cases: &'static [(&'static str, Case)],
}

/// All of them.
pub(crate) const SESSIONS: &[Session] = &[
    Session {
        both_settings: true,
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
    Session { both_settings: true, cases: &[("power-off", crash::power_off)] },
    Session {
        both_settings: false,
        cases: &[
            ("attestation: nobody to ask", attestation::nobody_to_ask),
            ("attestation: configfs-tsm", attestation::through_configfs),
            ("attestation: /dev/sev-guest", attestation::through_the_device),
            ("release: configfs-tsm", release::through_configfs),
            ("playbook: one workload per process", playbooks::one_workload_per_process),
            ("playbook: swap and cores", playbooks::swap_and_cores),
        ],
    },
];

/// Keys for all cases of one session.
pub(crate) const KEYS: usize = 40;
