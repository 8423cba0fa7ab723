//! Whether a unit is what was asked for: by what systemd reports, and by what `/proc` shows.
//!
//! systemd clamps limits to its own and leaves out what the kernel or a container does not give it,
//! and says neither. So every setting is read back, and what the kernel shows of the process counts
//! more than what systemd says of the unit.

use std::collections::BTreeMap;
use std::fmt;

use evanesce_ledger::receipt::{Claim, Observer, ScrubStatement};
use procfs::FromRead as _;
use procfs::process::Status;

use super::placement;
use super::unit::{CALLS_KEPT_OUT, ReadBack, UnitPlan, UnitUser, Value};

/// A unit's process as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What systemd reports, by property.
    pub properties: BTreeMap<String, Value>,
    /// `/proc/PID/status`.
    pub status: String,
    /// `/proc/PID/limits`.
    pub limits: String,
    /// `/proc/PID/cgroup`.
    pub cgroups: String,
    /// `/proc/PID/mountinfo`.
    pub mounts: String,
    /// Whether its namespaces are others than this process's, by name: `mnt`, `net`, `ipc`, `uts`.
    pub namespaces: BTreeMap<String, Apartness>,
    /// How many seccomp filters each process of this machine or container has at least.
    pub filters_of_all: u32,
    /// What its control group lets it swap.
    pub swap: SwapLimit,
}

/// Whether a namespace is a process's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apartness {
    /// Another one than this process's.
    Apart,
    /// The same.
    Shared,
}

/// What a control group may swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwapLimit {
    /// This many bytes (`memory.swap.max`).
    Bytes(u64),
    /// No limit is in force, and this host has nowhere to swap to.
    NoSwapHere,
    /// No limit is in force.
    Unlimited,
}

/// Holds what was seen of a unit against what was asked for, and says what the receipt may state.
///
/// # Errors
///
/// Every fault, not just the first.
pub fn check(plan: &UnitPlan, seen: &Seen) -> Result<Vec<ScrubStatement>, UnitFaults> {
    let mut findings = Findings::default();
    check_properties(plan, seen, &mut findings);
    check_user(plan, seen, &mut findings);
    check_limits(seen, &mut findings);
    check_privileges(seen, &mut findings);
    check_namespaces(seen, &mut findings);
    check_swap(seen, &mut findings);
    let unit = plan.name();
    if !placement::is_in_unit(&seen.cgroups, &unit) {
        findings.fault(format!("the worker is not in the control group of {unit}"));
    }
    match findings.faults.is_empty() {
        true => Ok(findings.statements),
        false => Err(UnitFaults(findings.faults)),
    }
}

fn check_properties(plan: &UnitPlan, seen: &Seen, findings: &mut Findings) {
    let mut count = 0;
    for setting in plan.settings() {
        let found = seen.properties.get(setting.name);
        let holds = match (setting.expected_back, found) {
            (ReadBack::Elsewhere, _) => continue,
            (_, None) => false,
            (ReadBack::Same, Some(found)) => is_same(&setting.value, found),
            (ReadBack::AddedTo, Some(found)) => is_added_to(&setting.value, found),
        };
        match holds {
            true => count += 1,
            false => findings.fault(match found {
                None => format!("systemd does not know {}", setting.name),
                Some(found) => {
                    format!("{} is {}, not {}", setting.name, Short(found), Short(&setting.value))
                }
            }),
        }
    }
    let detail = format!("{count} properties of {} read back", plan.name());
    findings.hold(Claim::UnitSettings, Observer::ObservedOutside, detail);
}

/// Whether a value is the one that was asked for. systemd keeps pairs in no order.
fn is_same(asked: &Value, found: &Value) -> bool {
    match (asked, found) {
        (Value::Pairs(asked), Value::Pairs(found)) => {
            asked.len() == found.len() && asked.iter().all(|pair| found.contains(pair))
        }
        _ => asked == found,
    }
}

/// Whether a list of system calls is what systemd makes of ours.
fn is_added_to(asked: &Value, found: &Value) -> bool {
    let (Value::Allowed(asked), Value::Allowed(found)) = (asked, found) else { return false };
    let all_there = asked.iter().all(|name| found.contains(name));
    all_there && !found.iter().any(|name| CALLS_KEPT_OUT.contains(&name.as_str()))
}

fn check_user(plan: &UnitPlan, seen: &Seen, findings: &mut Findings) {
    let Ok(status) = Status::from_read(seen.status.as_bytes()) else {
        return findings.fault("/proc/PID/status cannot be understood".to_owned());
    };
    let uids = [status.ruid, status.euid, status.suid, status.fuid];
    let gids = [status.rgid, status.egid, status.sgid, status.fgid];
    let (uid, gid) = (status.euid, status.egid);
    let is_one = uids.iter().all(|&each| each == uid) && gids.iter().all(|&each| each == gid);
    let is_right = match plan.user {
        UnitUser::Dynamic => uid != 0 && gid != 0,
        UnitUser::Fixed { uid: wanted, gid: group } => (uid, gid) == (wanted, group),
    };
    if !is_one || !is_right || uid == 0 {
        findings.fault(format!("the worker runs as user {uid} and group {gid}"));
    }
    let others: Vec<_> = status.groups.iter().filter(|&&group| group != gid).collect();
    if !others.is_empty() {
        findings.fault(format!("the worker is in the groups {others:?} as well"));
    }
    let detail = format!("user {uid}, group {gid}");
    findings.hold(Claim::OwnUser, Observer::ObservedOutside, detail);
}

fn check_limits(seen: &Seen, findings: &mut Findings) {
    let limits = |name| limit(&seen.limits, name);
    let (Some(locked), Some(core)) = (limits("Max locked memory"), limits("Max core file size"))
    else {
        return findings.fault("/proc/PID/limits cannot be understood".to_owned());
    };
    let wanted = super::unit::LOCK_LIMIT_BYTES;
    for limit in locked {
        match limit {
            Limit::Of(bytes) if bytes == wanted => {}
            Limit::Of(bytes) => findings.fault(format!(
                "LimitMEMLOCK was clamped: {} KiB are in force, not {}",
                bytes / 1024,
                wanted / 1024
            )),
            Limit::None => findings.fault("LimitMEMLOCK is not in force: unlimited".to_owned()),
        }
    }
    if core != [Limit::Of(0); 2] {
        findings.fault("LimitCORE is not in force".to_owned());
    }
}

/// A limit of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// In the limit's unit.
    Of(u64),
    None,
}

/// The soft and the hard limit of this name in `/proc/PID/limits` (proc_pid_limits(5)). `procfs`
/// panics at a text that is none.
fn limit(limits: &str, name: &str) -> Option<[Limit; 2]> {
    let mut words = field(limits, name)?.split_whitespace().map(|word| match word {
        "unlimited" => Some(Limit::None),
        word => word.parse().ok().map(Limit::Of),
    });
    Some([words.next()??, words.next()??])
}

fn check_privileges(seen: &Seen, findings: &mut Findings) {
    let Ok(status) = Status::from_read(seen.status.as_bytes()) else { return };
    if status.nonewprivs != Some(1) {
        findings.fault("NoNewPrivileges is not in force".to_owned());
    }
    if status.capbnd != Some(0) || status.capamb.is_some_and(|ambient| ambient != 0) {
        findings.fault(format!(
            "CapabilityBoundingSet is not in force: {:#x}",
            status.capbnd.unwrap_or(u64::MAX)
        ));
    }
    // One more than systemd's own is the worker's, which is in force by now.
    let filters = field(&seen.status, "Seccomp_filters:").and_then(|text| text.parse::<u32>().ok());
    let wanted = seen.filters_of_all + 1 + FILTERS_OF_SETTINGS;
    match filters {
        Some(found) if found >= wanted => {}
        // Linux before 5.9 does not say; that one is in force is looked at elsewhere.
        None => {}
        Some(found) => findings.fault(format!(
            "systemd left system call filters out: {found} are in force, and {wanted} are expected"
        )),
    }
}

fn check_namespaces(seen: &Seen, findings: &mut Findings) {
    for (name, setting) in [
        ("mnt", "ProtectSystem"),
        ("net", "PrivateNetwork"),
        ("ipc", "PrivateIPC"),
        ("uts", "ProtectHostname"),
    ] {
        if seen.namespaces.get(name) != Some(&Apartness::Apart) {
            findings.fault(format!("{setting} is not in force: the namespace {name} is shared"));
        }
    }
    match mount_options(&seen.mounts, "/") {
        Some((options, _)) if options.split(',').any(|option| option == "ro") => {}
        _ => findings.fault("ProtectSystem is not in force: / can be written".to_owned()),
    }
    match mount_options(&seen.mounts, "/proc") {
        Some((_, options)) if hides_processes(options) => {}
        _ => findings.fault("ProtectProc is not in force: /proc shows other processes".to_owned()),
    }
    let detail = "mnt, net, ipc, uts; / is read-only".to_owned();
    findings.hold(Claim::OwnNamespaces, Observer::ObservedOutside, detail);
}

fn hides_processes(super_options: &str) -> bool {
    super_options.split(',').any(|option| ["hidepid=invisible", "hidepid=2"].contains(&option))
}

fn check_swap(seen: &Seen, findings: &mut Findings) {
    match seen.swap {
        SwapLimit::Bytes(0) => {
            let detail = "memory.swap.max 0".to_owned();
            findings.hold(Claim::NotSwapped, Observer::ObservedOutside, detail);
        }
        SwapLimit::NoSwapHere => {
            let detail = "no limit is in force, and /proc/swaps is empty".to_owned();
            findings.hold(Claim::NotSwapped, Observer::ObservedOutside, detail);
        }
        SwapLimit::Bytes(bytes) => {
            findings.fault(format!("MemorySwapMax is not in force: {bytes} bytes"));
        }
        SwapLimit::Unlimited => findings.fault(
            "MemorySwapMax is not in force: the control group has no memory controller".to_owned(),
        ),
    }
}

/// The options of the topmost mount at `point`, and those of its file system
/// (proc_pid_mountinfo(5)).
fn mount_options<'a>(mounts: &'a str, point: &str) -> Option<(&'a str, &'a str)> {
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(4);
            (fields.next()? == point).then_some(())?;
            Some((fields.next()?, file_system.rsplit(' ').next()?))
        })
        .next_back()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[derive(Default)]
struct Findings {
    statements: Vec<ScrubStatement>,
    faults: Vec<String>,
}

impl Findings {
    fn hold(&mut self, claim: Claim, observer: Observer, detail: String) {
        self.statements.push(ScrubStatement { claim, observer, detail });
    }

    fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }
}

/// A value in an error: long lists are cut.
struct Short<'a>(&'a Value);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Text(text) => write!(f, "{text:?}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Mode(mode) => write!(f, "{mode:o}"),
            Value::Texts(names) | Value::Allowed(names) | Value::Command(names) => {
                write!(f, "a list of {}", names.len())
            }
            Value::EndingSignals(_) | Value::Pairs(_) | Value::EveryAddress => {
                f.write_str("a list")
            }
        }
    }
}

/// Why a unit is not what was asked for: one or more faults, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFaults(Vec<String>);

impl UnitFaults {
    /// The faults.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for UnitFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for UnitFaults {}

/// How many of the settings are a seccomp filter each, at least: SystemCallFilter,
/// RestrictAddressFamilies, RestrictNamespaces, LockPersonality, RestrictRealtime,
/// RestrictSUIDSGID, ProtectClock.
const FILTERS_OF_SETTINGS: u32 = 7;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::systemd::unit::CALLS;

    fn plan() -> UnitPlan {
        UnitPlan {
            workload: "w".parse().unwrap(),
            worker: "/usr/lib/evanesce/evanesce-worker".into(),
            arguments: vec!["signer".into(), "strict".into(), "no-terminal".into()],
            user: UnitUser::Fixed { uid: 1200, gid: 1300 },
            ttl: Duration::from_secs(60),
            credentials: Vec::new(),
        }
    }

    const STATUS: &str = include_str!("../../tests/data/status.txt");
    const LIMITS: &str = include_str!("../../tests/data/limits.txt");

    fn line(text: &str, start: &str, new: &str) -> String {
        let mut found = false;
        let mut lines: Vec<_> = text
            .lines()
            .map(|line| match line.starts_with(start) {
                true => {
                    found = true;
                    new.to_owned()
                }
                false => line.to_owned(),
            })
            .collect();
        if !found {
            lines.push(new.to_owned());
        }
        lines.join("\n") + "\n"
    }

    /// What a unit looks like whose every setting is in force.
    fn seen() -> Seen {
        let mut status = STATUS.to_owned();
        for (start, new) in [
            ("Uid:", "Uid:\t1200\t1200\t1200\t1200"),
            ("Gid:", "Gid:\t1300\t1300\t1300\t1300"),
            ("Groups:", "Groups:\t1300 "),
            ("CapBnd:", "CapBnd:\t0000000000000000"),
            ("CapAmb:", "CapAmb:\t0000000000000000"),
            ("NoNewPrivs:", "NoNewPrivs:\t1"),
            ("Seccomp_filters:", "Seccomp_filters:\t25"),
        ] {
            status = line(&status, start, new);
        }
        let mut properties: BTreeMap<_, _> = plan()
            .settings()
            .into_iter()
            .map(|setting| (setting.name.to_owned(), setting.value))
            .collect();
        // systemd adds some of its own.
        let calls = CALLS.iter().chain(&["clock_gettime"]).map(|&call| call.to_owned()).collect();
        properties.insert("SystemCallFilter".into(), Value::Allowed(calls));
        let limit = "Max locked memory         2097152              2097152              bytes";
        Seen {
            properties,
            status,
            limits: line(LIMITS, "Max locked memory", limit),
            cgroups: "0::/system.slice/evanesce-w.service\n".into(),
            mounts: "30 29 8:1 / / ro,relatime - ext4 /dev/sda1 rw\n\
                     31 30 0:5 / /proc rw,nosuid - proc proc rw\n\
                     32 30 0:6 / /proc rw,nosuid - proc proc rw,hidepid=invisible,subset=pid\n"
                .into(),
            namespaces: ["mnt", "net", "ipc", "uts"]
                .map(|name| (name.to_owned(), Apartness::Apart))
                .into(),
            filters_of_all: 0,
            swap: SwapLimit::Bytes(0),
        }
    }

    fn fault_of(change: impl FnOnce(&mut Seen)) -> String {
        let mut seen = seen();
        change(&mut seen);
        match check(&plan(), &seen) {
            Ok(_) => "none".to_owned(),
            Err(faults) => faults.to_string(),
        }
    }

    #[test]
    fn a_unit_whose_every_setting_is_in_force_is_stated_as_seen_from_outside() {
        let statements = check(&plan(), &seen()).unwrap();

        let claims: Vec<_> = statements.iter().map(|statement| statement.claim).collect();
        let all = [Claim::UnitSettings, Claim::OwnUser, Claim::OwnNamespaces, Claim::NotSwapped];
        assert_eq!(claims, all);
        assert!(statements.iter().all(|s| s.observer == Observer::ObservedOutside));
    }

    #[test]
    fn each_setting_that_systemd_reports_otherwise_or_not_at_all_is_named() {
        for setting in plan().settings() {
            if setting.expected_back == ReadBack::Elsewhere {
                continue;
            }
            let gone = fault_of(|seen| {
                seen.properties.remove(setting.name);
            });
            let other = fault_of(|seen| {
                seen.properties.insert(setting.name.to_owned(), Value::Text("other".into()));
            });
            assert!(gone.contains(setting.name), "{gone}");
            assert!(other.contains(setting.name), "{other}");
        }
    }

    #[test]
    fn credentials_are_the_same_in_any_order_and_no_others() {
        let pair = |name: &str| (name.to_owned(), "/etc/key".to_owned());
        let asked = Value::Pairs(vec![pair("a"), pair("b")]);

        assert!(is_same(&asked, &Value::Pairs(vec![pair("b"), pair("a")])));
        for other in [vec![pair("a")], vec![pair("a"), pair("c")], vec![]] {
            assert!(!is_same(&asked, &Value::Pairs(other)));
        }
    }

    #[test]
    fn a_filter_without_a_call_of_ours_or_with_one_that_is_kept_out_is_named() {
        for calls in [vec!["read"], vec!["memfd_secret", "seccomp", "madvise", "ptrace"]] {
            let calls = calls.into_iter().map(str::to_owned).collect();
            let fault = fault_of(|seen| {
                seen.properties.insert("SystemCallFilter".into(), Value::Allowed(calls));
            });
            assert!(fault.contains("SystemCallFilter"), "{fault}");
        }
    }

    #[test]
    fn what_the_kernel_shows_counts_more_than_what_systemd_says() {
        let memlock = |bytes: &str| {
            let text = format!("Max locked memory         {bytes} {bytes} bytes");
            move |seen: &mut Seen| seen.limits = line(&seen.limits, "Max locked memory", &text)
        };
        let status = |start: &'static str, new: &'static str| {
            move |seen: &mut Seen| seen.status = line(&seen.status, start, new)
        };
        assert!(fault_of(memlock("65536")).contains("clamped: 64 KiB are in force, not 2048"));
        assert!(fault_of(memlock("unlimited")).contains("LimitMEMLOCK is not in force"));
        for (fault, word) in [
            (fault_of(status("Uid:", "Uid:\t0\t0\t0\t0")), "runs as user 0"),
            (fault_of(status("Uid:", "Uid:\t1200\t0\t1200\t1200")), "runs as user"),
            (fault_of(status("Gid:", "Gid:\t0\t0\t0\t0")), "group 0"),
            (fault_of(status("Groups:", "Groups:\t1300 27 ")), "groups"),
            (fault_of(status("CapBnd:", "CapBnd:\t000001ffffffffff")), "CapabilityBoundingSet"),
            (fault_of(status("NoNewPrivs:", "NoNewPrivs:\t0")), "NoNewPrivileges"),
            (fault_of(status("Seccomp_filters:", "Seccomp_filters:\t1")), "filters out"),
        ] {
            assert!(fault.contains(word), "{word}: {fault}");
        }
        let core = "Max core file size        0                    unlimited            bytes";
        let fault = fault_of(|seen| seen.limits = line(&seen.limits, "Max core file", core));
        assert!(fault.contains("LimitCORE"), "{fault}");
    }

    #[test]
    fn namespaces_mounts_control_group_and_swap_are_looked_at() {
        for name in ["mnt", "net", "ipc", "uts"] {
            let fault = fault_of(|seen| {
                seen.namespaces.insert(name.to_owned(), Apartness::Shared);
            });
            assert!(fault.contains(&format!("namespace {name} is shared")), "{fault}");
        }
        for (fault, word) in [
            (
                fault_of(|seen| seen.mounts = seen.mounts.replace(" ro,", " rw,")),
                "/ can be written",
            ),
            (fault_of(|seen| seen.mounts = seen.mounts.replace("hidepid", "x")), "ProtectProc"),
            (fault_of(|seen| seen.mounts.clear()), "ProtectSystem"),
            (fault_of(|seen| seen.cgroups = "0::/other.service\n".into()), "control group"),
            (fault_of(|seen| seen.swap = SwapLimit::Unlimited), "MemorySwapMax"),
            (fault_of(|seen| seen.swap = SwapLimit::Bytes(4096)), "MemorySwapMax"),
            (fault_of(|seen| seen.swap = SwapLimit::NoSwapHere), "none"),
            (fault_of(|seen| seen.filters_of_all = 20), "filters out"),
            (fault_of(|seen| seen.status.clear()), "/proc/PID/status"),
            (fault_of(|seen| seen.limits = "?".into()), "/proc/PID/limits"),
        ] {
            assert!(fault.contains(word), "{word}: {fault}");
        }
    }
}
