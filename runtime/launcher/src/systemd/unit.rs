//! What is asked of systemd for one worker, as data.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use evanesce_protocol::WorkloadId;
use evanesce_protocol::limits::LOCKED_BYTES_MAX;

use super::credential::{Credential, CredentialEncryption};

/// Everything that one worker's unit depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitPlan {
    /// The workload it is for, which names it.
    pub workload: WorkloadId,
    /// The worker's file, which systemd executes.
    pub worker: PathBuf,
    /// The worker's arguments.
    pub arguments: Vec<String>,
    /// Who the worker runs as.
    pub user: UnitUser,
    /// How long the key lives at most.
    pub ttl: Duration,
    /// Files that systemd keeps for it in `$CREDENTIALS_DIRECTORY`.
    pub credentials: Vec<Credential>,
}

/// Who a worker runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitUser {
    /// A user that systemd makes for this worker alone (`DynamicUser=`).
    Dynamic,
    /// A user and group that exist.
    Fixed {
        /// Not 0.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// One property of a unit, by the name that systemd's D-Bus interface has for it
/// (org.freedesktop.systemd1(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The property.
    pub name: &'static str,
    /// Its value.
    pub value: Value,
    /// Whether what systemd reports of it has to be the same.
    pub expected_back: ReadBack,
}

/// What systemd has to report of a setting once the unit runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// The value itself.
    Same,
    /// A list that systemd adds to (what it calls `@default`): its kind is the same, it holds every
    /// name, and none of [`CALLS_KEPT_OUT`].
    AddedTo,
    /// Another way of looking at it: see [`super::readback`].
    Elsewhere,
}

/// A value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `b`.
    Flag(bool),
    /// `s`.
    Text(String),
    /// `t`: bytes, microseconds, bits.
    Number(u64),
    /// `u`.
    Mode(u32),
    /// `as`.
    Texts(Vec<String>),
    /// `(bas)`: the names are all that is allowed.
    Allowed(Vec<String>),
    /// `a(sasb)`: one command, its name included in the arguments.
    Command(Vec<String>),
    /// `(aiai)`: these signals are an end in order, too.
    EndingSignals(Vec<i32>),
    /// `a(ss)`.
    Pairs(Vec<(String, String)>),
    /// `a(iayu)`: every address of both families.
    EveryAddress,
}

impl UnitPlan {
    /// The unit's name.
    pub fn name(&self) -> String {
        unit_name(&self.workload)
    }

    /// The properties, but for the descriptors, which have no text.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = vec![
            elsewhere("Description", text(format!("evanesce: key of workload {}", self.workload))),
            same("Type", text("exec")),
            elsewhere("ExecStart", Value::Command(self.command())),
            same("CollectMode", text("inactive-or-failed")),
            // The launcher kills it in the end, and that is no failure.
            elsewhere("SuccessExitStatus", Value::EndingSignals(vec![9])),
            same("StandardOutput", text("null")),
            same("StandardError", text("journal")),
            same("RuntimeMaxUSec", Value::Number(microseconds(self.ttl + RUNTIME_MARGIN))),
            same("TimeoutStopUSec", Value::Number(microseconds(STOP_TIMEOUT))),
        ];
        settings.extend(self.user_settings());
        settings.extend(limits());
        settings.extend(walls());
        for (name, encryption) in [
            ("LoadCredential", CredentialEncryption::None),
            ("LoadCredentialEncrypted", CredentialEncryption::SystemdCreds),
        ] {
            let of_kind = self.credentials.iter().filter(|c| c.encryption == encryption);
            let pairs: Vec<_> =
                of_kind.map(|c| (c.name.to_string(), c.source.display().to_string())).collect();
            if !pairs.is_empty() {
                settings.push(same(name, Value::Pairs(pairs)));
            }
        }
        settings
    }

    /// The same as a unit file, for people and for `systemd-analyze security`.
    pub fn unit_file(&self) -> String {
        let mut file = String::from("[Unit]\n");
        let (unit, service): (Vec<_>, Vec<_>) = self
            .settings()
            .into_iter()
            .partition(|setting| ["Description", "CollectMode"].contains(&setting.name));
        for setting in unit {
            write_line(&mut file, &setting);
        }
        file.push_str("\n[Service]\nStandardInput=null\n");
        for setting in service {
            write_line(&mut file, &setting);
        }
        file
    }

    fn command(&self) -> Vec<String> {
        let mut command = vec![self.worker.display().to_string()];
        command.extend(self.arguments.iter().cloned());
        command
    }

    fn user_settings(&self) -> Vec<Setting> {
        match &self.user {
            UnitUser::Dynamic => vec![same("DynamicUser", Value::Flag(true))],
            UnitUser::Fixed { uid, gid } => {
                vec![same("User", text(uid.to_string())), same("Group", text(gid.to_string()))]
            }
        }
    }
}

/// The name of the unit that holds a workload's key.
pub fn unit_name(workload: &WorkloadId) -> String {
    format!("evanesce-{workload}.service")
}

fn limits() -> Vec<Setting> {
    vec![
        same("LimitCORE", Value::Number(0)),
        same("LimitMEMLOCK", Value::Number(LOCK_LIMIT_BYTES)),
        same("LimitNOFILE", Value::Number(DESCRIPTORS_MAX)),
        same("MemorySwapMax", Value::Number(0)),
    ]
}

fn walls() -> Vec<Setting> {
    let mut walls: Vec<_> = FLAGS.iter().map(|name| same(name, Value::Flag(true))).collect();
    walls.extend([
        same("ProtectSystem", text("strict")),
        same("ProtectProc", text("invisible")),
        same("ProcSubset", text("pid")),
        same("KeyringMode", text("private")),
        same("DevicePolicy", text("closed")),
        same("UMask", Value::Mode(0o077)),
        same("CapabilityBoundingSet", Value::Number(0)),
        same("AmbientCapabilities", Value::Number(0)),
        same("RestrictNamespaces", Value::Number(0)),
        same("RestrictAddressFamilies", Value::Allowed(vec!["AF_UNIX".into()])),
        same("SystemCallArchitectures", Value::Texts(vec!["native".into()])),
        Setting {
            name: "SystemCallFilter",
            value: Value::Allowed(CALLS.iter().map(|&call| call.to_owned()).collect()),
            expected_back: ReadBack::AddedTo,
        },
        elsewhere("IPAddressDeny", Value::EveryAddress),
    ]);
    walls
}

fn same(name: &'static str, value: Value) -> Setting {
    Setting { name, value, expected_back: ReadBack::Same }
}

fn elsewhere(name: &'static str, value: Value) -> Setting {
    Setting { name, value, expected_back: ReadBack::Elsewhere }
}

fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A setting as unit files have it (systemd.exec(5), systemd.service(5)).
fn write_line(file: &mut String, setting: &Setting) {
    let name = setting.name;
    // D-Bus has microseconds where files have units.
    let name = name.strip_suffix("USec").map_or(name.to_owned(), |name| format!("{name}Sec"));
    let value = match &setting.value {
        Value::Flag(flag) => (if *flag { "yes" } else { "no" }).to_owned(),
        Value::Text(text) => text.clone(),
        Value::Number(0) if name.ends_with("Capabilities") || name.ends_with("Set") => {
            String::new()
        }
        Value::Number(0) if name == "RestrictNamespaces" => "yes".to_owned(),
        Value::Number(number) if setting.name.ends_with("USec") => format!("{number}us"),
        Value::Number(number) => number.to_string(),
        Value::Mode(mode) => format!("{mode:04o}"),
        Value::Texts(texts) | Value::Allowed(texts) | Value::Command(texts) => texts.join(" "),
        Value::EndingSignals(signals) => {
            signals.iter().map(|signal| signal_name(*signal)).collect::<Vec<_>>().join(" ")
        }
        Value::Pairs(pairs) => {
            for (left, right) in pairs {
                writeln!(file, "{name}={left}:{right}").expect("a String takes everything");
            }
            return;
        }
        Value::EveryAddress => "any".to_owned(),
    };
    writeln!(file, "{name}={value}").expect("a String takes everything");
}

fn signal_name(signal: i32) -> String {
    match signal {
        9 => "SIGKILL".to_owned(),
        other => other.to_string(),
    }
}

/// Walls that are up or not. Those that hide paths and devices (PrivateDevices=, ProtectHome=,
/// ProtectKernelTunables= and their like) are left out: the worker's Landlock refuses every path, and
/// their mounts double the time that systemd takes to start it.
pub(crate) const FLAGS: &[&str] = &[
    "NoNewPrivileges",
    "PrivateTmp",
    "PrivateNetwork",
    "PrivateIPC",
    "ProtectClock",
    "ProtectHostname",
    "MemoryDenyWriteExecute",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "LockPersonality",
    "RemoveIPC",
];

/// What a worker calls until its own filter, which is much narrower, is in force: the C library's
/// start, the walls and the guarded memory; all that the worker's own filter allows; and what systemd
/// itself calls between its filter and the worker, where it logs for debugging. Calls by name, not
/// systemd's groups: it compiles its filter anew for each start, and several hundred calls take it
/// 10 ms.
pub(crate) const CALLS: &[&str] = &[
    "accept4",
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "close",
    "close_range",
    "connect",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "execve",
    "exit",
    "exit_group",
    "fcntl",
    "fstat",
    "ftruncate",
    "futex",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getrandom",
    "getsockopt",
    "gettid",
    "getuid",
    "ioctl",
    "kill",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "lseek",
    "madvise",
    "memfd_secret",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "newfstatat",
    "openat",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "recvmsg",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "seccomp",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setsockopt",
    "sigaltstack",
    "signalfd4",
    "socket",
    "tgkill",
    "timer_create",
    "timer_delete",
    "timer_settime",
    "timerfd_create",
    "timerfd_settime",
    "uname",
    "write",
    "writev",
];

/// Calls that no worker's unit may have, whatever systemd's groups are.
pub(crate) const CALLS_KEPT_OUT: &[&str] = &[
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "bpf",
    "mount",
    "kexec_load",
    "init_module",
    "swapon",
    "reboot",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "keyctl",
];

/// What a worker may lock by its own accounts, twice.
pub(crate) const LOCK_LIMIT_BYTES: u64 = 2 * LOCKED_BYTES_MAX;

/// What a worker limits itself to.
const DESCRIPTORS_MAX: u64 = 64;

/// The worker's own clock ends the key; systemd's is for a worker that does not look at it.
const RUNTIME_MARGIN: Duration = Duration::from_secs(30);

/// From SIGTERM, at which the worker wipes, to SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::credential::CredentialName;

    fn plan() -> UnitPlan {
        UnitPlan {
            workload: "release-1".parse().unwrap(),
            worker: "/usr/lib/evanesce/evanesce-worker".into(),
            arguments: vec!["signer".into(), "strict".into(), "no-terminal".into()],
            user: UnitUser::Dynamic,
            ttl: Duration::from_secs(600),
            credentials: Vec::new(),
        }
    }

    fn value(plan: &UnitPlan, name: &str) -> Option<Value> {
        plan.settings().into_iter().find(|setting| setting.name == name).map(|s| s.value)
    }

    #[test]
    fn every_wall_that_is_promised_is_asked_for() {
        let plan = plan();

        for (name, wanted) in [
            ("LimitCORE", Value::Number(0)),
            ("LimitMEMLOCK", Value::Number(2 * 1024 * 1024)),
            ("MemorySwapMax", Value::Number(0)),
            ("NoNewPrivileges", Value::Flag(true)),
            ("ProtectSystem", text("strict")),
            ("PrivateNetwork", Value::Flag(true)),
            ("RestrictAddressFamilies", Value::Allowed(vec!["AF_UNIX".into()])),
            ("MemoryDenyWriteExecute", Value::Flag(true)),
            ("CapabilityBoundingSet", Value::Number(0)),
            ("KeyringMode", text("private")),
            ("ProtectProc", text("invisible")),
            ("CollectMode", text("inactive-or-failed")),
            ("RuntimeMaxUSec", Value::Number(630_000_000)),
        ] {
            assert_eq!(value(&plan, name), Some(wanted), "{name}");
        }
        let Some(Value::Allowed(calls)) = value(&plan, "SystemCallFilter") else { panic!() };
        assert!(calls.contains(&"memfd_secret".to_owned()));
        assert!(CALLS_KEPT_OUT.iter().all(|call| !CALLS.contains(call)));
    }

    #[test]
    fn a_worker_has_a_user_of_its_own_or_the_one_that_was_named() {
        let dynamic = plan();
        let fixed = UnitPlan { user: UnitUser::Fixed { uid: 1200, gid: 1300 }, ..plan() };

        assert_eq!(value(&dynamic, "DynamicUser"), Some(Value::Flag(true)));
        assert_eq!(value(&dynamic, "User"), None);
        assert_eq!(value(&fixed, "User"), Some(text("1200")));
        assert_eq!(value(&fixed, "Group"), Some(text("1300")));
        assert_eq!(value(&fixed, "DynamicUser"), None);
    }

    #[test]
    fn credentials_go_under_the_setting_of_their_kind() {
        let credential =
            |name, encryption| Credential { name, source: "/etc/evanesce/key".into(), encryption };
        let plan = UnitPlan {
            credentials: vec![
                credential(CredentialName::Passphrase, CredentialEncryption::SystemdCreds),
                credential(CredentialName::Key, CredentialEncryption::None),
            ],
            ..plan()
        };
        let pair = |name: &str| Value::Pairs(vec![(name.into(), "/etc/evanesce/key".into())]);

        assert_eq!(value(&plan, "LoadCredential"), Some(pair("evanesce.key")));
        assert_eq!(value(&plan, "LoadCredentialEncrypted"), Some(pair("evanesce.passphrase")));
        let line = "\nLoadCredentialEncrypted=evanesce.passphrase:/etc/evanesce/key\n";
        assert!(plan.unit_file().contains(line));
    }

    #[test]
    fn no_property_is_set_twice() {
        let settings = plan().settings();
        let mut names: Vec<_> = settings.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        names.dedup();

        assert_eq!(names.len(), settings.len());
    }

    /// The shipped file is for reading and for `systemd-analyze`; the launcher asks systemd for the
    /// same by D-Bus.
    #[test]
    fn the_shipped_unit_file_is_what_the_launcher_asks_for() {
        let shipped = include_str!("../../../../packaging/systemd/evanesce-worker.service");
        let (comment, file) = shipped.split_once("\n\n").unwrap();

        assert!(comment.lines().all(|line| line.starts_with('#')), "{comment}");
        assert_eq!(file, plan().unit_file());
    }
}
