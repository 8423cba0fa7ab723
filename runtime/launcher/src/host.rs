//! What the host itself promises: read, not judged.

use std::collections::BTreeMap;
use std::fs;

use evanesce_ledger::receipt::{HostFacts, Known, Swap};

/// Reads the facts that a receipt states; what cannot be read is unknown.
pub(crate) fn facts() -> HostFacts {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let config = fs::read_to_string(format!("/boot/config-{kernel}")).ok();
    let read = |path| fs::read_to_string(path).ok();
    HostFacts {
        init_on_free: init_on_free(read("/proc/cmdline").as_deref(), config.as_deref()),
        swap: swap(read("/proc/swaps").as_deref()),
        core_pattern: read("/proc/sys/kernel/core_pattern").map(|text| text.trim_end().to_owned()),
        kdump: match read("/sys/kernel/kexec_crash_loaded").as_deref().map(str::trim_end) {
            Some("0") => Known::No,
            Some("1") => Known::Yes,
            _ => Known::Unknown,
        },
        hibernation: match read("/sys/power/state") {
            Some(states) => known(states.split_whitespace().any(|state| state == "disk")),
            None => Known::Unknown,
        },
        other: BTreeMap::new(),
        kernel,
    }
}

/// The command line decides, else the kernel's configuration.
fn init_on_free(command_line: Option<&str>, config: Option<&str>) -> Known {
    let option = command_line
        .into_iter()
        .flat_map(str::split_whitespace)
        .filter_map(|option| option.strip_prefix("init_on_free="))
        .next_back();
    match option {
        Some("1" | "y" | "Y" | "on") => return Known::Yes,
        Some("0" | "n" | "N" | "off") => return Known::No,
        Some(_) | None => {}
    }
    let mut lines = config.unwrap_or_default().lines();
    match lines.find(|line| line.contains("CONFIG_INIT_ON_FREE_DEFAULT_ON")) {
        Some(line) => known(line.ends_with("=y")),
        None => Known::Unknown,
    }
}

/// Which swap there is, by `/proc/swaps` and the device mapper's names.
fn swap(swaps: Option<&str>) -> Swap {
    let Some(swaps) = swaps else { return Swap::Unknown };
    let devices: Vec<_> = swaps.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    let is_encrypted = |device: &&str| {
        let name = fs::canonicalize(device).ok();
        let name = name.as_deref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
        name.and_then(|name| fs::read_to_string(format!("/sys/block/{name}/dm/uuid")).ok())
            .is_some_and(|uuid| uuid.starts_with("CRYPT-"))
    };
    match devices.is_empty() {
        true => Swap::None,
        false if devices.iter().all(is_encrypted) => Swap::Encrypted,
        false => Swap::Plain,
    }
}

const fn known(is_so: bool) -> Known {
    match is_so {
        true => Known::Yes,
        false => Known::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_overrules_the_configuration_and_neither_means_unknown() {
        let off = Some("# CONFIG_INIT_ON_FREE_DEFAULT_ON is not set\n");
        let on = Some("CONFIG_INIT_ON_FREE_DEFAULT_ON=y\n");

        assert_eq!(init_on_free(Some("quiet init_on_free=1"), off), Known::Yes);
        assert_eq!(init_on_free(Some("init_on_free=1 init_on_free=0"), on), Known::No);
        assert_eq!(init_on_free(Some("quiet"), on), Known::Yes);
        assert_eq!(init_on_free(Some("quiet"), off), Known::No);
        assert_eq!(init_on_free(Some("quiet"), None), Known::Unknown);
    }

    #[test]
    fn swap_is_none_only_where_no_device_is_listed() {
        let header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

        assert_eq!(swap(Some(header)), Swap::None);
        assert_eq!(swap(Some(&format!("{header}/swapfile file 1 0 -2\n"))), Swap::Plain);
        assert_eq!(swap(None), Swap::Unknown);
    }
}
