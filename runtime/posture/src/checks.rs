//! The checks, as data: what each asks, what it means, and how to change it.

use std::io;

use crate::finding::{Answer, Finding, Need};
use crate::host::{CageTrial, Files, Host};
use crate::kernel_config::KernelConfig;

/// One check.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its stable name: what it depends on, a dot, what it asks.
    pub name: &'static str,
    /// What depends on it.
    pub need: Need,
    /// What it means for a key.
    pub means: &'static str,
    /// How to change it.
    pub change: &'static str,
    probe: fn(&dyn Host) -> Answer,
}

impl Check {
    /// Puts the check to a host.
    pub fn put_to(&self, host: &dyn Host) -> Finding {
        let Answer { verdict, found, source } = (self.probe)(host);
        let Self { name, need, means, change, .. } = *self;
        Finding { name, need, verdict, found, source, means, change }
    }
}

/// Puts those checks to a host whose name begins with one of `prefixes`, or all where there is
/// none, in the order of [`CHECKS`].
pub fn examine(host: &dyn Host, prefixes: &[impl AsRef<str>]) -> Vec<Finding> {
    let wanted = |check: &&Check| {
        prefixes.is_empty() || prefixes.iter().any(|prefix| check.name.starts_with(prefix.as_ref()))
    };
    CHECKS.iter().filter(wanted).map(|check| check.put_to(host)).collect()
}

/// All checks.
pub const CHECKS: &[Check] = &[
    Check {
        name: "worker.cage",
        need: Need::Strict,
        means: "a worker was started here without a key, and every wall of its cage was read back",
        change: "what was found names the wall; docs/errors.md has what to do for each code",
        probe: cage,
    },
    Check {
        name: "worker.secret-pages",
        need: Need::Strict,
        means: "memory that no other process, no core file and no swap can hold, root's debugger included",
        change: "run Linux 5.14 or later with CONFIG_SECRETMEM; before 6.5 boot with secretmem.enable=1; in a container allow memfd_secret(2) in its seccomp profile",
        probe: |host| wall(host, "secret-pages", "worker.secret-pages"),
    },
    Check {
        name: "worker.lock-limit",
        need: Need::Strict,
        means: "a worker locks its guarded memory, which counts against RLIMIT_MEMLOCK",
        change: "ulimit -l 8192; LimitMEMLOCK=8M in a unit; memlock in /etc/security/limits.conf",
        probe: |host| lock_limit(host),
    },
    Check {
        name: "worker.seccomp",
        need: Need::Strict,
        means: "the kernel kills a worker that makes any call but those it needs",
        change: "run a kernel with CONFIG_SECCOMP_FILTER",
        probe: |host| wall(host, "seccomp-filter", "worker.cage"),
    },
    Check {
        name: "worker.landlock",
        need: Need::Strict,
        means: "a worker can open no file and reach no port, whatever runs in it",
        change: "run Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and landlock in the list that lsm= boots",
        probe: |host| wall(host, "landlock", "worker.cage"),
    },
    Check {
        name: "host.init-on-free",
        need: Need::Graded,
        means: "the kernel clears pages as it frees them: also stack copies of a worker that is killed in the middle of a signature",
        change: "boot with init_on_free=1",
        probe: |host| init_on_free(host),
    },
    Check {
        name: "host.swap",
        need: Need::Graded,
        means: "ordinary memory never reaches a disk in the clear; secret pages are never swapped anyway",
        change: "swapoff -a and remove swap from /etc/fstab, or swap to dm-crypt with a random key (crypttab: swap, /dev/urandom)",
        probe: |host| swap(host),
    },
    Check {
        name: "host.core-pattern",
        need: Need::Graded,
        means: "a process that crashes leaves no copy of its memory; workers leave none anyway, the commands that they sign for may",
        change: "sysctl -w kernel.core_pattern='|/bin/false', or a hard limit of 0 for core files (ulimit -Hc 0)",
        probe: |host| core_pattern(host),
    },
    Check {
        name: "host.kdump",
        need: Need::Graded,
        means: "a crash of the kernel does not write its memory, secret pages included, to a disk",
        change: "disable the kdump service and boot without crashkernel=",
        probe: |host| kdump(host),
    },
    Check {
        name: "host.hibernation",
        need: Need::Graded,
        means: "the host cannot write all of its memory to a disk to sleep; secret pages refuse it only while they exist",
        change: "boot with nohibernate, or systemctl mask hibernate.target hybrid-sleep.target",
        probe: |host| hibernation(host),
    },
    Check {
        name: "host.lockdown",
        need: Need::Graded,
        means: "root cannot read the kernel's memory through the kernel",
        change: "boot with lockdown=confidentiality (CONFIG_SECURITY_LOCKDOWN_LSM); secure boot makes it stick",
        probe: |host| lockdown(host),
    },
    Check {
        name: "host.ptrace",
        need: Need::Graded,
        means: "a process cannot read the memory of others of its user; workers refuse it anyway, the commands that they sign for do not",
        change: "sysctl -w kernel.yama.ptrace_scope=1 or more (CONFIG_SECURITY_YAMA)",
        probe: |host| ptrace(host),
    },
    Check {
        name: "platform.confidential",
        need: Need::Extra,
        means: "the memory of this machine is encrypted against its hypervisor, and evidence of that can be had (AMD SEV-SNP, Intel TDX)",
        change: "run in a confidential machine",
        probe: |host| confidential(host),
    },
];

/// Bytes that a worker and the notary beside it may lock: 1 MiB at most, in each of the two.
pub const LOCKED_BYTES_NEEDED: u64 = 1024 * 1024;

fn cage(host: &dyn Host) -> Answer {
    match host.try_cage() {
        CageTrial::Holds(claims) => {
            let names: Vec<_> = claims.iter().map(|(claim, _)| claim.as_str()).collect();
            Answer::holds(TRIAL, names.join(", "))
        }
        CageTrial::Refused { code, message } => Answer::fails(TRIAL, format!("{message} [{code}]")),
    }
}

/// One wall of the cage that was tried: refused where the worker said so by `code`, not reached
/// where it stopped at another.
fn wall(host: &dyn Host, claim: &str, code: &str) -> Answer {
    match host.try_cage() {
        CageTrial::Holds(claims) => match claims.iter().find(|(name, _)| name == claim) {
            Some((_, detail)) => Answer::holds(TRIAL, detail.as_str()),
            None => Answer::fails(TRIAL, "the worker goes without"),
        },
        CageTrial::Refused { code: found, message } if found == code && code != "worker.cage" => {
            Answer::fails(TRIAL, message.as_str())
        }
        CageTrial::Refused { code, .. } => {
            Answer::unknown(TRIAL, format!("the worker did not get there [{code}]"))
        }
    }
}

/// proc_pid_limits(5): the name, then soft, hard and unit in columns.
fn lock_limit(host: &dyn Files) -> Answer {
    let Some((soft, _)) = limit(host, "Max locked memory") else {
        return Answer::unknown(LIMITS, "not readable");
    };
    let found = match soft {
        None => "unlimited".to_owned(),
        Some(bytes) => format!("{} KiB, {} are needed", bytes / 1024, LOCKED_BYTES_NEEDED / 1024),
    };
    match soft.is_none_or(|bytes| bytes >= LOCKED_BYTES_NEEDED) {
        true => Answer::holds(LIMITS, found),
        false => Answer::fails(LIMITS, found),
    }
}

/// The command line decides, else how the kernel was configured.
pub(crate) fn init_on_free(host: &dyn Files) -> Answer {
    let line = text(host, COMMAND_LINE).unwrap_or_default();
    let mut option = line.split_whitespace().filter_map(|word| word.strip_prefix("init_on_free="));
    match option.next_back() {
        Some("1" | "y" | "Y" | "on") => return Answer::holds(COMMAND_LINE, "init_on_free is on"),
        Some("0" | "n" | "N" | "off") => return Answer::fails(COMMAND_LINE, "init_on_free is off"),
        Some(_) | None => {}
    }
    match KernelConfig::of(host) {
        Some(config) if config.has("CONFIG_INIT_ON_FREE_DEFAULT_ON") => {
            Answer::holds(config.source, "on by default")
        }
        Some(config) => {
            Answer::fails(config.source, "off by default, and the command line is silent")
        }
        None => {
            Answer::unknown(COMMAND_LINE, "silent, and the kernel's configuration is not there")
        }
    }
}

fn swap(host: &dyn Files) -> Answer {
    let Some(devices) = swap_devices(host) else { return Answer::unknown(SWAPS, "not readable") };
    let words: Vec<_> =
        devices.iter().map(|(device, kind)| format!("{device}: {}", kind.words())).collect();
    let words = words.join("; ");
    match SwapUse::of(&devices) {
        SwapUse::None if devices.is_empty() => Answer::holds(SWAPS, "there is none"),
        SwapUse::None | SwapUse::Encrypted => Answer::holds(SWAPS, words),
        SwapUse::Plain => Answer::fails(SWAPS, words),
        SwapUse::Unknown => Answer::unknown(SWAPS, words),
    }
}

/// Where memory may be swapped to, all devices together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapUse {
    /// Nowhere, or to memory.
    None,
    /// To disks, each through dm-crypt.
    Encrypted,
    /// To a disk that is not known to be encrypted.
    Plain,
    /// To a file, whose disk may or may not be encrypted; or it cannot be read.
    Unknown,
}

impl SwapUse {
    pub(crate) fn of_host(host: &dyn Files) -> Self {
        swap_devices(host).map_or(Self::Unknown, |devices| Self::of(&devices))
    }

    fn of(devices: &[(String, SwapKind)]) -> Self {
        let any = |wanted| devices.iter().any(|(_, kind)| *kind == wanted);
        match (any(SwapKind::Plain), any(SwapKind::File), any(SwapKind::Encrypted)) {
            (true, _, _) => Self::Plain,
            (false, true, _) => Self::Unknown,
            (false, false, true) => Self::Encrypted,
            (false, false, false) => Self::None,
        }
    }
}

/// proc_swaps(5): a line of titles, then one device or file a line. `None` where it cannot be read.
fn swap_devices(host: &dyn Files) -> Option<Vec<(String, SwapKind)>> {
    let swaps = text(host, SWAPS).ok()?;
    let devices = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    Some(devices.map(|device| (device.to_owned(), SwapKind::of(host, device))).collect())
}

/// Where swapped memory goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SwapKind {
    Encrypted,
    InMemory,
    File,
    Plain,
}

impl SwapKind {
    fn of(host: &dyn Files, device: &str) -> Self {
        let Some(name) = device.strip_prefix("/dev/") else { return Self::File };
        if name.starts_with("zram") {
            let backing = text(host, &format!("/sys/block/{name}/backing_dev"));
            return match backing.as_deref().map(str::trim_end) {
                Ok("none") | Err(_) => Self::InMemory,
                Ok(_) => Self::Plain,
            };
        }
        match is_encrypted(host, &kernel_name(host, name), STACK_DEPTH_MAX) {
            true => Self::Encrypted,
            false => Self::Plain,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted by dm-crypt",
            Self::InMemory => "compressed memory, no disk",
            Self::File => "a file, whose disk may or may not be encrypted",
            Self::Plain => "not known to be encrypted",
        }
    }
}

/// The kernel's own name of a block device: `dm-0` for `mapper/swap`. Where udev runs, /proc/swaps
/// has it already.
fn kernel_name(host: &dyn Files, name: &str) -> String {
    let Some(mapped) = name.strip_prefix("mapper/") else { return name.to_owned() };
    let devices = host.list("/sys/block").unwrap_or_default();
    let is_it = |device: &String| {
        text(host, &format!("/sys/block/{device}/dm/name"))
            .is_ok_and(|name| name.trim_end() == mapped)
    };
    devices.into_iter().find(is_it).unwrap_or_else(|| name.to_owned())
}

/// Whether a block device is dm-crypt's, or everything below it is.
fn is_encrypted(host: &dyn Files, name: &str, depth: u32) -> bool {
    let uuid = text(host, &format!("/sys/block/{name}/dm/uuid"));
    if uuid.is_ok_and(|uuid| uuid.starts_with("CRYPT-")) {
        return true;
    }
    let below = host.list(&format!("/sys/block/{name}/slaves")).unwrap_or_default();
    depth > 0 && !below.is_empty() && below.iter().all(|name| is_encrypted(host, name, depth - 1))
}

/// core(5): a pattern that starts with `|` names a program, which gets every core whatever the
/// limit is.
fn core_pattern(host: &dyn Files) -> Answer {
    let Ok(pattern) = text(host, CORE_PATTERN) else {
        return Answer::unknown(CORE_PATTERN, "not readable");
    };
    let pattern = pattern.trim();
    if pattern.is_empty() || DISCARDING.contains(&pattern) {
        return Answer::holds(CORE_PATTERN, format!("`{pattern}`: cores are thrown away"));
    }
    if pattern.starts_with('|') {
        return Answer::fails(CORE_PATTERN, format!("`{pattern}` gets the cores"));
    }
    match limit(host, "Max core file size") {
        Some((_, Some(0))) => Answer::holds(LIMITS, "the hard limit of core files is 0"),
        _ => Answer::fails(CORE_PATTERN, format!("cores may be written to files `{pattern}`")),
    }
}

pub(crate) fn kdump(host: &dyn Files) -> Answer {
    match text(host, KDUMP) {
        Ok(loaded) => match loaded.trim_end() {
            "0" => Answer::holds(KDUMP, "no crash kernel is loaded"),
            "1" => Answer::fails(KDUMP, "a crash kernel is loaded"),
            other => Answer::unknown(KDUMP, format!("`{other}`")),
        },
        Err(error) => absent(host, KDUMP, "/sys/kernel", &error, "this kernel has no kdump"),
    }
}

pub(crate) fn hibernation(host: &dyn Files) -> Answer {
    match text(host, POWER_STATES) {
        Ok(states) if states.split_whitespace().any(|state| state == "disk") => {
            match text(host, POWER_DISK).as_deref().map(str::trim_end) {
                Ok("[disabled]") => Answer::holds(POWER_DISK, "disabled"),
                _ => Answer::fails(POWER_STATES, "the host can sleep to disk"),
            }
        }
        Ok(_) => Answer::holds(POWER_STATES, "the host cannot sleep to disk"),
        Err(error) => absent(host, POWER_STATES, "/sys/power", &error, "not among its states"),
    }
}

/// kernel_lockdown(7): the level in force is the one in brackets.
fn lockdown(host: &dyn Files) -> Answer {
    let levels = match text(host, LOCKDOWN) {
        Ok(levels) => levels,
        Err(error) => {
            return match KernelConfig::of(host) {
                Some(config) if !config.has("CONFIG_SECURITY_LOCKDOWN_LSM") => {
                    Answer::fails(config.source, "this kernel has no lockdown")
                }
                _ => Answer::unknown(LOCKDOWN, format!("not readable ({})", error.kind())),
            };
        }
    };
    let level = levels.split(['[', ']']).nth(1).unwrap_or("none");
    match level {
        "confidentiality" => Answer::holds(LOCKDOWN, level),
        _ => Answer::fails(LOCKDOWN, format!("the level is {level}")),
    }
}

/// Yama(7): 0 is the classic permission, 1 descendants only, 2 root only, 3 nobody.
fn ptrace(host: &dyn Files) -> Answer {
    match text(host, PTRACE) {
        Ok(scope) => match scope.trim_end() {
            scope @ ("1" | "2" | "3") => Answer::holds(PTRACE, format!("scope {scope}")),
            scope => Answer::fails(PTRACE, format!("scope {scope}")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match host.list("/proc/sys/kernel").is_ok_and(|names| !names.is_empty()) {
                true => Answer::fails(PTRACE, "this kernel has no Yama"),
                false => Answer::unknown(PTRACE, "/proc/sys is not mounted"),
            }
        }
        Err(error) => Answer::unknown(PTRACE, format!("not readable ({})", error.kind())),
    }
}

fn confidential(host: &dyn Files) -> Answer {
    let devices = host.list("/dev").unwrap_or_default();
    for (device, name) in [("sev-guest", "AMD SEV-SNP"), ("tdx_guest", "Intel TDX")] {
        if devices.iter().any(|found| found == device) {
            return Answer::holds(format!("/dev/{device}"), name);
        }
    }
    let cpu = text(host, CPU).unwrap_or_default();
    let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    match flags.split_whitespace().find(|flag| matches!(*flag, "sev_snp" | "tdx_guest")) {
        // The processor says so, and without the device there is no evidence to show.
        Some(flag) => Answer::unknown(CPU, format!("{flag}, and no device to ask for evidence")),
        None => Answer::fails("/dev", "neither sev-guest nor tdx_guest"),
    }
}

/// A file that is not there says that the kernel lacks a thing only where the files beside it are.
fn absent(host: &dyn Files, path: &str, beside: &str, error: &io::Error, means: &str) -> Answer {
    let is_mounted = || host.list(beside).is_ok_and(|names| !names.is_empty());
    match error.kind() == io::ErrorKind::NotFound && is_mounted() {
        true => Answer::holds(path, means),
        false => Answer::unknown(path, format!("not readable ({})", error.kind())),
    }
}

/// A limit of this process, soft and hard; `None` inside is unlimited.
fn limit(host: &dyn Files, name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let limits = text(host, LIMITS).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut values = line.split_whitespace().map(|value| match value {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    });
    Some((values.next()??, values.next()??))
}

pub(crate) fn text(host: &dyn Files, path: &str) -> io::Result<String> {
    host.read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

const TRIAL: &str = "a worker's cage, closed without a key";
const LIMITS: &str = "/proc/self/limits";
const COMMAND_LINE: &str = "/proc/cmdline";
const SWAPS: &str = "/proc/swaps";
pub(crate) const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";
const KDUMP: &str = "/sys/kernel/kexec_crash_loaded";
const POWER_STATES: &str = "/sys/power/state";
const POWER_DISK: &str = "/sys/power/disk";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const PTRACE: &str = "/proc/sys/kernel/yama/ptrace_scope";
const CPU: &str = "/proc/cpuinfo";

/// Programs that take a core and keep nothing.
const DISCARDING: [&str; 4] = ["|/bin/false", "|/bin/true", "|/usr/bin/false", "|/usr/bin/true"];

/// Devices on devices: partition, RAID, LVM, dm-crypt and one more.
const STACK_DEPTH_MAX: u32 = 5;

#[cfg(test)]
mod tests;
