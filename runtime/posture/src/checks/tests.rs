use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::facts::Facts;
use crate::finding::Verdict::{self, DoesNotHold, Holds, Unknown};

/// A host made of texts. What it has no text for is not there.
struct TextHost {
    files: BTreeMap<String, Vec<u8>>,
    trial: CageTrial,
}

impl TextHost {
    fn new(files: &[(&str, &str)]) -> Self {
        let bytes = |text: &&str| text.as_bytes().to_vec();
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), bytes(text))).collect();
        Self { files, trial: CageTrial::Holds(Vec::new()) }
    }
}

impl Files for TextHost {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        match self.files.get(path).map(Vec::as_slice) {
            Some(DENIED) => Err(io::ErrorKind::PermissionDenied.into()),
            Some(bytes) => Ok(bytes.to_vec()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let below = format!("{path}/");
        let names = self.files.keys().filter_map(|file| file.strip_prefix(&below));
        let names: BTreeSet<_> = names.filter_map(|rest| rest.split('/').next()).collect();
        match names.is_empty() {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(names.into_iter().map(str::to_owned).collect()),
        }
    }
}

impl Host for TextHost {
    fn try_cage(&self) -> &CageTrial {
        &self.trial
    }
}

/// The content of a file that may not be read.
const DENIED: &[u8] = b"(denied)";

const SWAP_TITLES: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

/// One row: a check, the files of a host, the verdict, and words that the finding has.
type Case = (&'static str, &'static [(&'static str, &'static str)], Verdict, &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("worker.lock-limit", &[(LIMITS, "Max locked memory         8388608              8388608              bytes\n")], Holds, "8192 KiB"),
    ("worker.lock-limit", &[(LIMITS, "Max locked memory         unlimited            unlimited            bytes\n")], Holds, "unlimited"),
    ("worker.lock-limit", &[(LIMITS, "Max locked memory         65536                65536                bytes\n")], DoesNotHold, "64 KiB, 1024"),
    ("worker.lock-limit", &[(LIMITS, "Max locked memory         many                 65536                bytes\n")], Unknown, "not readable"),
    ("worker.lock-limit", &[], Unknown, "not readable"),

    ("host.init-on-free", &[(COMMAND_LINE, "quiet init_on_free=1\n")], Holds, "is on"),
    ("host.init-on-free", &[(COMMAND_LINE, "init_on_free=1 init_on_free=0")], DoesNotHold, "is off"),
    ("host.init-on-free", &[(COMMAND_LINE, "quiet"), ("/proc/sys/kernel/osrelease", "6.1\n"), ("/boot/config-6.1", "CONFIG_INIT_ON_FREE_DEFAULT_ON=y\n")], Holds, "by default"),
    ("host.init-on-free", &[(COMMAND_LINE, "quiet"), ("/proc/sys/kernel/osrelease", "6.1\n"), ("/boot/config-6.1", "# CONFIG_INIT_ON_FREE_DEFAULT_ON is not set\n")], DoesNotHold, "/boot/config-6.1"),
    ("host.init-on-free", &[(COMMAND_LINE, "init_on_free=perhaps")], Unknown, "silent"),

    ("host.swap", &[(SWAPS, SWAP_TITLES)], Holds, "none"),
    ("host.swap", &[(SWAPS, "T\n/dev/dm-0 partition 8 0 -2\n"), ("/sys/block/dm-0/dm/uuid", "CRYPT-PLAIN-swap\n")], Holds, "dm-crypt"),
    ("host.swap", &[(SWAPS, "T\n/dev/mapper/swap partition 8 0 -2\n"), ("/sys/block/dm-3/dm/name", "root\n"), ("/sys/block/dm-4/dm/name", "swap\n"), ("/sys/block/dm-4/dm/uuid", "CRYPT-PLAIN-swap\n")], Holds, "dm-crypt"),
    ("host.swap", &[(SWAPS, "T\n/dev/dm-1 partition 8 0 -2\n"), ("/sys/block/dm-1/dm/uuid", "LVM-x\n"), ("/sys/block/dm-1/slaves/dm-0/dev", ""), ("/sys/block/dm-0/dm/uuid", "CRYPT-LUKS2-x\n")], Holds, "dm-crypt"),
    ("host.swap", &[(SWAPS, "T\n/dev/dm-1 partition 8 0 -2\n"), ("/sys/block/dm-1/dm/uuid", "LVM-x\n"), ("/sys/block/dm-1/slaves/sda2/dev", "")], DoesNotHold, "not known"),
    ("host.swap", &[(SWAPS, "T\n/dev/sda2 partition 8 0 -2\n")], DoesNotHold, "/dev/sda2"),
    ("host.swap", &[(SWAPS, "T\n/swapfile file 8 0 -2\n")], Unknown, "/swapfile: a file"),
    ("host.swap", &[(SWAPS, "T\n/dev/zram0 partition 8 0 100\n"), ("/sys/block/zram0/backing_dev", "none\n")], Holds, "no disk"),
    ("host.swap", &[(SWAPS, "T\n/dev/zram0 partition 8 0 100\n"), ("/sys/block/zram0/backing_dev", "/dev/sda3\n")], DoesNotHold, "zram0"),
    ("host.swap", &[(SWAPS, "T\n/dev/zram0 partition 8 0 100\n/dev/sda2 partition 8 0 -2\n")], DoesNotHold, "sda2"),
    ("host.swap", &[], Unknown, "not readable"),

    ("host.core-pattern", &[(CORE_PATTERN, "|/bin/false\n")], Holds, "thrown away"),
    ("host.core-pattern", &[(CORE_PATTERN, "\n")], Holds, "thrown away"),
    ("host.core-pattern", &[(CORE_PATTERN, "|/usr/lib/systemd/systemd-coredump %P\n"), (LIMITS, "Max core file size        0                    0                    bytes\n")], DoesNotHold, "systemd-coredump"),
    ("host.core-pattern", &[(CORE_PATTERN, "core\n"), (LIMITS, "Max core file size        0                    0                    bytes\n")], Holds, "hard limit"),
    ("host.core-pattern", &[(CORE_PATTERN, "core\n"), (LIMITS, "Max core file size        0                    unlimited            bytes\n")], DoesNotHold, "`core`"),
    ("host.core-pattern", &[], Unknown, "not readable"),

    ("host.kdump", &[(KDUMP, "0\n")], Holds, "no crash kernel"),
    ("host.kdump", &[(KDUMP, "1\n")], DoesNotHold, "is loaded"),
    ("host.kdump", &[("/sys/kernel/mm/x", "")], Holds, "has no kdump"),
    ("host.kdump", &[], Unknown, "not readable"),

    ("host.hibernation", &[(POWER_STATES, "freeze mem disk\n"), (POWER_DISK, "[platform] shutdown reboot\n")], DoesNotHold, "sleep to disk"),
    ("host.hibernation", &[(POWER_STATES, "freeze mem disk\n"), (POWER_DISK, "[disabled]\n")], Holds, "disabled"),
    ("host.hibernation", &[(POWER_STATES, "freeze mem\n")], Holds, "cannot"),
    ("host.hibernation", &[], Unknown, "not readable"),

    ("host.lockdown", &[(LOCKDOWN, "none integrity [confidentiality]\n")], Holds, "confidentiality"),
    ("host.lockdown", &[(LOCKDOWN, "none [integrity] confidentiality\n")], DoesNotHold, "integrity"),
    ("host.lockdown", &[(LOCKDOWN, "(denied)")], Unknown, "permission denied"),
    ("host.lockdown", &[("/proc/sys/kernel/osrelease", "6.1\n"), ("/boot/config-6.1", "CONFIG_X=y\n")], DoesNotHold, "no lockdown"),
    ("host.lockdown", &[("/proc/sys/kernel/osrelease", "6.1\n"), ("/boot/config-6.1", "CONFIG_SECURITY_LOCKDOWN_LSM=y\n")], Unknown, "not readable"),

    ("host.ptrace", &[(PTRACE, "1\n")], Holds, "scope 1"),
    ("host.ptrace", &[(PTRACE, "0\n")], DoesNotHold, "scope 0"),
    ("host.ptrace", &[("/proc/sys/kernel/osrelease", "6.1\n")], DoesNotHold, "no Yama"),
    ("host.ptrace", &[], Unknown, "not mounted"),

    ("platform.confidential", &[("/dev/sev-guest", "")], Holds, "SEV-SNP"),
    ("platform.confidential", &[("/dev/tdx_guest", "")], Holds, "TDX"),
    ("platform.confidential", &[(CPU, "processor : 0\nflags : fpu tdx_guest\n")], Unknown, "no device"),
    ("platform.confidential", &[(CPU, "flags : fpu sev\n"), ("/dev/null", "")], DoesNotHold, "neither"),
];

#[test]
fn each_check_finds_on_each_host_what_the_table_says() {
    for (name, files, verdict, words) in CASES {
        let host = TextHost::new(files);

        let [finding] = &examine(&host, &[name])[..] else { panic!("{name} is one check") };

        let said = format!("{}: {}", finding.source, finding.found);
        assert_eq!(finding.verdict, *verdict, "{name}, {files:?}: {said}");
        assert!(said.contains(words), "{name}, {files:?}: {said}");
    }
}

/// A check without a case, or with one for a single verdict, would not show that it decides.
#[test]
fn each_check_of_files_has_cases_for_every_verdict() {
    for check in CHECKS
        .iter()
        .filter(|check| !check.name.starts_with("worker.") || check.name == "worker.lock-limit")
    {
        let verdicts = CASES.iter().filter(|case| case.0 == check.name).map(|case| case.2);
        let verdicts: Vec<_> = verdicts.collect();

        for wanted in [Holds, DoesNotHold, Unknown] {
            assert!(verdicts.contains(&wanted), "{} has no case that is {wanted}", check.name);
        }
    }
}

#[test]
fn of_a_cage_that_holds_each_wall_is_what_was_seen_of_it() {
    let mut host = TextHost::new(&[]);
    let claims = [("secret-pages", "5 ranges"), ("seccomp-filter", "Seccomp: 2")];
    let claims = claims.map(|(claim, detail)| (claim.to_owned(), detail.to_owned()));
    host.trial = CageTrial::Holds(claims.to_vec());

    let found =
        |name| (examine(&host, &[name])[0].verdict, examine(&host, &[name])[0].found.clone());

    assert_eq!(found("worker.cage"), (Holds, "secret-pages, seccomp-filter".to_owned()));
    assert_eq!(found("worker.secret-pages"), (Holds, "5 ranges".to_owned()));
    assert_eq!(found("worker.seccomp"), (Holds, "Seccomp: 2".to_owned()));
    assert_eq!(found("worker.landlock").0, DoesNotHold);
}

/// A worker stops at its first missing wall: the others were not tried.
#[test]
fn of_a_cage_that_was_not_closed_only_the_wall_that_was_named_is_said_not_to_hold() {
    let mut host = TextHost::new(&[]);
    host.trial =
        CageTrial::Refused { code: "worker.secret-pages".into(), message: "no pages".into() };

    let verdict = |name| examine(&host, &[name])[0].verdict;

    assert_eq!(verdict("worker.cage"), DoesNotHold);
    assert_eq!(verdict("worker.secret-pages"), DoesNotHold);
    assert_eq!((verdict("worker.seccomp"), verdict("worker.landlock")), (Unknown, Unknown));
}

#[test]
fn the_kernels_own_configuration_comes_before_the_file_beside_it() {
    let mut host = TextHost::new(&[
        ("/proc/sys/kernel/osrelease", "6.1\n"),
        ("/boot/config-6.1", "# CONFIG_INIT_ON_FREE_DEFAULT_ON is not set\n"),
    ]);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(b"CONFIG_INIT_ON_FREE_DEFAULT_ON=y\n").unwrap();
    host.files.insert("/proc/config.gz".into(), gzip.finish().unwrap());

    let finding = &examine(&host, &["host.init-on-free"])[0];

    assert_eq!((finding.verdict, finding.source.as_str()), (Holds, "/proc/config.gz"));
}

#[test]
fn names_are_unique_and_prefixes_choose() {
    let names: BTreeSet<_> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), CHECKS.len());

    let host = TextHost::new(&[]);
    assert_eq!(examine(&host, &[] as &[&str]).len(), CHECKS.len());
    let chosen = examine(&host, &["host.k", "platform."]);
    let chosen: Vec<_> = chosen.iter().map(|finding| finding.name).collect();
    assert_eq!(chosen, ["host.kdump", "platform.confidential"]);
    assert!(examine(&host, &["nothing"]).is_empty());
}

#[test]
fn receipts_state_what_the_checks_find() {
    let facts = |files: &[(&str, &str)]| Facts::of(&TextHost::new(files));

    let nothing = facts(&[]);
    assert_eq!((nothing.init_on_free, nothing.swap), (None, SwapUse::Unknown));
    assert_eq!((nothing.kdump, nothing.hibernation, nothing.core_pattern), (None, None, None));

    let host = facts(&[
        (COMMAND_LINE, "quiet init_on_free=1"),
        (SWAPS, SWAP_TITLES),
        (CORE_PATTERN, "core\n"),
        (KDUMP, "0\n"),
        (POWER_STATES, "freeze mem disk\n"),
    ]);
    assert_eq!((host.init_on_free, host.swap), (Some(true), SwapUse::None));
    assert_eq!((host.kdump, host.hibernation), (Some(false), Some(true)));
    assert_eq!(host.core_pattern.as_deref(), Some("core"));

    let swap =
        |line: &str| facts(&[(SWAPS, &format!("{SWAP_TITLES}{line} partition 1 0 -2\n"))]).swap;
    assert_eq!((swap("/dev/sda2"), swap("/swapfile")), (SwapUse::Plain, SwapUse::Unknown));
}
