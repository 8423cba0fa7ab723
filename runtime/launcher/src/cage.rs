//! Whether a worker's cage holds, by what is seen from outside and what the worker reads back.
//!
//! Start at [`check`]: a decision over values. [`Outside::observe`] is the one part that reads
//! `/proc`. While a worker is undumpable its `status` and `limits` can be read by anyone and its
//! `smaps` by nobody else, so the worker sends those of its guarded ranges (the kernel's text, which
//! is parsed and held against each claim here) and the rest is observed.

use std::fmt;
use std::fs::{self, File};
use std::io;

use evanesce_ledger::receipt::{Claim, Observer, ScrubStatement};
use evanesce_protocol::Digest;
use evanesce_protocol::control::{Backing, CageReport, RangeReport, Strength};
use evanesce_protocol::limits::LOCKED_BYTES_MAX;
use evanesce_protocol::smaps::{self, MissingClaim, ParseSmapsError};
use procfs::FromRead as _;
use procfs::process::{LimitValue, Limits, Status};

/// What a worker's cage has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// SHA-256 of the signer inside; `None` for a notary.
    pub signer_module: Option<Digest>,
    /// What memory will do.
    pub strength: Strength,
}

/// A worker seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The text of `/proc/PID/status`.
    pub status: String,
    /// The text of `/proc/PID/limits`.
    pub limits: String,
    /// Whether `/proc/PID/mem` opened.
    pub memory: MemoryAccess,
}

/// What came of opening a worker's `/proc/PID/mem` as an ordinary process of the same user would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryAccess {
    /// The kernel refused: the worker is not dumpable.
    Refused,
    /// It opened.
    Opened,
    /// This process may trace any other (`CAP_SYS_PTRACE`), so opening shows nothing.
    NotTold,
}

impl Outside {
    /// Looks at the process.
    ///
    /// # Errors
    ///
    /// [`io::Error`] where `/proc/PID` cannot be read: the process is gone.
    pub fn observe(pid: u32) -> io::Result<Self> {
        let directory = format!("/proc/{pid}");
        let memory = match File::open(format!("{directory}/mem")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => MemoryAccess::Refused,
            Err(error) => return Err(error),
            Ok(_) if may_trace_all()? => MemoryAccess::NotTold,
            Ok(_) => MemoryAccess::Opened,
        };
        Ok(Self {
            status: fs::read_to_string(format!("{directory}/status"))?,
            limits: fs::read_to_string(format!("{directory}/limits"))?,
            memory,
        })
    }
}

/// Proof that a worker's cage was found to hold; with it, a key may be loaded.
///
/// Only [`check`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CageChecked {
    statements: Vec<ScrubStatement>,
    backing: Backing,
}

impl CageChecked {
    /// What was found to hold, and by whose word.
    pub fn statements(&self) -> &[ScrubStatement] {
        &self.statements
    }

    /// Adds what was found to hold of the unit around the cage.
    #[must_use]
    pub(crate) fn and(mut self, statements: Vec<ScrubStatement>) -> Self {
        self.statements.extend(statements);
        self
    }

    /// The same of a worker in a machine of its own, which `machine` says: what was seen of it was
    /// seen by the machine's first program, and secret pages are so to whoever is inside alone.
    #[must_use]
    pub(crate) fn in_machine(mut self, machine: ScrubStatement) -> Self {
        for statement in &mut self.statements {
            if statement.observer == Observer::ObservedOutside {
                statement.observer = Observer::SelfReported;
                statement.detail.push_str(", by the machine's first program");
            }
        }
        self.statements.insert(0, machine);
        self.backing = Backing::LockedPages;
        self
    }

    /// The claims alone.
    pub fn claims(&self) -> Vec<Claim> {
        self.statements.iter().map(|statement| statement.claim).collect()
    }

    /// The memory that the key's bytes are in: the weakest there is.
    pub const fn backing(&self) -> Backing {
        self.backing
    }
}

/// Holds a worker's report and what was seen from outside against what is expected.
///
/// # Errors
///
/// Every fault, not just the first.
pub fn check(
    report: &CageReport,
    outside: &Outside,
    expected: &Expected,
) -> Result<CageChecked, CageFaults> {
    let mut findings = Findings::default();
    check_status(outside, &mut findings);
    check_limits(outside, report, &mut findings);
    check_dumpable(outside, report, &mut findings);
    check_walls(report, expected, &mut findings);
    let backing = check_ranges(report, expected, &mut findings);
    match findings.faults.is_empty() {
        true => Ok(CageChecked { statements: findings.statements, backing }),
        false => Err(CageFaults(findings.faults)),
    }
}

fn check_status(outside: &Outside, findings: &mut Findings) {
    let Ok(status) = Status::from_read(outside.status.as_bytes()) else {
        return findings.fault(CageFault::Unreadable { file: "status" });
    };
    let seen = Observer::ObservedOutside;
    findings.require(
        status.nonewprivs == Some(1),
        (Claim::NoNewPrivs, seen, "NoNewPrivs: 1".to_owned()),
        CageFault::NoNewPrivs,
    );
    findings.require(
        status.seccomp == Some(SECCOMP_FILTER),
        (Claim::SeccompFilter, seen, "Seccomp: 2".to_owned()),
        CageFault::Seccomp { found: status.seccomp },
    );
    findings.require(
        status.threads == 1,
        (Claim::SingleThread, seen, "Threads: 1".to_owned()),
        CageFault::Threads { found: status.threads },
    );
    let capabilities = status.capeff | status.capprm | status.capinh | status.capamb.unwrap_or(0);
    if capabilities != 0 {
        findings.fault(CageFault::Capabilities { found: capabilities });
    }
    let locked_bytes = status.vmlck.unwrap_or(0).saturating_mul(1024);
    findings.require(
        // Secret pages do not count as locked on every kernel; that locked pages are is asked of each
        // range below.
        locked_bytes <= LOCKED_BYTES_MAX,
        (Claim::LockedBytes, seen, format!("VmLck: {} kB", locked_bytes / 1024)),
        CageFault::LockedBytes { found: locked_bytes },
    );
}

fn check_limits(outside: &Outside, report: &CageReport, findings: &mut Findings) {
    let Ok(limits) = Limits::from_read(outside.limits.as_bytes()) else {
        return findings.fault(CageFault::Unreadable { file: "limits" });
    };
    let core = limits.max_core_file_size;
    let is_zero = |limit| matches!(limit, LimitValue::Value(0));
    findings.require(
        is_zero(core.soft_limit) && is_zero(core.hard_limit) && report.core_limit_bytes == (0, 0),
        (Claim::CoreLimitZero, Observer::ObservedOutside, "Max core file size 0 0".to_owned()),
        CageFault::CoreLimit,
    );
}

fn check_dumpable(outside: &Outside, report: &CageReport, findings: &mut Findings) {
    let (observer, detail) = match outside.memory {
        MemoryAccess::Refused => (Observer::ObservedOutside, "/proc/PID/mem is refused"),
        MemoryAccess::NotTold | MemoryAccess::Opened => {
            (Observer::SelfReported, "PR_GET_DUMPABLE 0")
        }
    };
    findings.require(
        report.dumpable == 0 && outside.memory != MemoryAccess::Opened,
        (Claim::NotDumpable, observer, detail.to_owned()),
        CageFault::Dumpable,
    );
}

/// What only the worker can say of itself.
fn check_walls(report: &CageReport, expected: &Expected, findings: &mut Findings) {
    let said = Observer::SelfReported;
    findings.require(
        report.landlock_abi > 0 && report.landlock_refused_open,
        (Claim::Landlock, said, format!("ABI {}; opening / was refused", report.landlock_abi)),
        CageFault::Landlock { abi: report.landlock_abi },
    );
    // Where the kernel has no PR_SET_MDWE the worker goes without, and the receipt does not claim it.
    if report.memory_deny_write_execute {
        findings.hold(Claim::Mdwe, said, "PR_GET_MDWE: refuse exec gain".to_owned());
    }
    let extra: Vec<_> =
        report.descriptors.iter().copied().filter(|fd| !DESCRIPTORS.contains(fd)).collect();
    findings.require(
        extra.is_empty(),
        (Claim::DescriptorsClosed, said, format!("open: {:?}", report.descriptors)),
        CageFault::Descriptors { extra },
    );
    findings.hold(Claim::NoNetwork, said, "no call that makes a socket is allowed".to_owned());
    if !report.no_new_privs {
        findings.fault(CageFault::NoNewPrivs);
    }
    if report.signer_module != expected.signer_module {
        findings.fault(CageFault::OtherSigner { found: report.signer_module });
    }
}

/// Every guarded range, by the kernel's word on it as the worker passes it on.
fn check_ranges(report: &CageReport, expected: &Expected, findings: &mut Findings) -> Backing {
    if report.ranges.is_empty() {
        findings.fault(CageFault::NoRanges);
    }
    let mut bytes = 0_u64;
    let mut weakest = Backing::SecretPages;
    for range in &report.ranges {
        bytes = bytes.saturating_add(range.bytes);
        if let Err(fault) = check_range(range) {
            findings.fault(fault);
        }
        if range.backing != Backing::SecretPages {
            weakest = Backing::LockedPages;
            if expected.strength == Strength::Strict {
                findings.fault(CageFault::NotSecret { range: range.name.clone() });
            }
        }
    }
    if weakest == Backing::SecretPages {
        let detail = format!("{} ranges, {bytes} bytes, by their smaps", report.ranges.len());
        findings.hold(Claim::SecretPages, Observer::SelfReported, detail);
    }
    weakest
}

fn check_range(range: &RangeReport) -> Result<(), CageFault> {
    let name = || range.name.clone();
    let end =
        range.start.checked_add(range.bytes).ok_or_else(|| CageFault::Size { range: name() })?;
    let entries =
        smaps::parse(&range.smaps).map_err(|source| CageFault::Smaps { range: name(), source })?;
    smaps::check(&entries, range.start..end, range.backing)
        .map_err(|missing| CageFault::Range { range: name(), missing })
}

#[derive(Default)]
struct Findings {
    statements: Vec<ScrubStatement>,
    faults: Vec<CageFault>,
}

impl Findings {
    fn require(&mut self, holds: bool, statement: (Claim, Observer, String), fault: CageFault) {
        let (claim, observer, detail) = statement;
        match holds {
            true => self.hold(claim, observer, detail),
            false => self.fault(fault),
        }
    }

    fn hold(&mut self, claim: Claim, observer: Observer, detail: String) {
        self.statements.push(ScrubStatement { claim, observer, detail });
    }

    fn fault(&mut self, fault: CageFault) {
        self.faults.push(fault);
    }
}

/// Whether this process has `CAP_SYS_PTRACE`.
fn may_trace_all() -> io::Result<bool> {
    let status = fs::read("/proc/self/status")?;
    let status = Status::from_read(status.as_slice()).map_err(io::Error::other)?;
    Ok(status.capeff & (1 << CAP_SYS_PTRACE) != 0)
}

/// Why a cage does not hold: one or more faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CageFaults(Vec<CageFault>);

impl CageFaults {
    /// The faults.
    pub fn as_slice(&self) -> &[CageFault] {
        &self.0
    }
}

impl fmt::Display for CageFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for CageFaults {}

/// One thing that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CageFault {
    /// A file of `/proc/PID` is not as it should be.
    #[error("/proc/PID/{file} cannot be understood")]
    Unreadable {
        /// Its name.
        file: &'static str,
    },
    /// `no_new_privs` is not set.
    #[error("no_new_privs is not set")]
    NoNewPrivs,
    /// No seccomp filter is in force.
    #[error("no seccomp filter is in force (mode {found:?})")]
    Seccomp {
        /// The `Seccomp` field.
        found: Option<u32>,
    },
    /// More than one thread.
    #[error("the worker has {found} threads")]
    Threads {
        /// The `Threads` field.
        found: u64,
    },
    /// Some capability was kept.
    #[error("the worker has capabilities ({found:#x})")]
    Capabilities {
        /// All sets together.
        found: u64,
    },
    /// More is locked than a worker needs.
    #[error("{found} bytes are locked, and at most {LOCKED_BYTES_MAX} are expected")]
    LockedBytes {
        /// `VmLck`.
        found: u64,
    },
    /// `RLIMIT_CORE` is not 0.
    #[error("RLIMIT_CORE is not 0")]
    CoreLimit,
    /// Another process of the user can open the worker's memory.
    #[error("the worker is dumpable")]
    Dumpable,
    /// Landlock is not in force.
    #[error("Landlock is not in force (ABI {abi})")]
    Landlock {
        /// The ABI that the worker names.
        abi: u32,
    },
    /// Descriptors that a worker has no use for.
    #[error("descriptors {extra:?} are open")]
    Descriptors {
        /// Their numbers.
        extra: Vec<i32>,
    },
    /// The signer inside is not the one that this launcher knows.
    #[error("another signer is inside")]
    OtherSigner {
        /// Its digest, as the worker says.
        found: Option<Digest>,
    },
    /// No guarded memory at all.
    #[error("no guarded range was reported")]
    NoRanges,
    /// A range is not of secret pages, and nobody allowed that.
    #[error("range {range} is not of secret pages")]
    NotSecret {
        /// Its name.
        range: String,
    },
    /// A range that wraps around.
    #[error("range {range} has an impossible size")]
    Size {
        /// Its name.
        range: String,
    },
    /// A range's smaps entries cannot be read.
    #[error("the smaps entries of range {range} cannot be understood: {source}")]
    Smaps {
        /// Its name.
        range: String,
        /// What is wrong with them.
        source: ParseSmapsError,
    },
    /// A range is not what it is meant to be.
    #[error("range {range} is not guarded: {}", missing.first().map(ToString::to_string).unwrap_or_default())]
    Range {
        /// Its name.
        range: String,
        /// Every claim that does not hold.
        missing: Vec<MissingClaim>,
    },
}

/// `SECCOMP_MODE_FILTER`.
const SECCOMP_FILTER: u32 = 2;

/// Its number in capabilities(7).
const CAP_SYS_PTRACE: u32 = 19;

/// The control channel, and standard output and error.
const DESCRIPTORS: [i32; 3] = [0, 1, 2];

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.18 prints them for a caged worker; lines without a claim are cut.
    const STATUS: &str = include_str!("../tests/data/status.txt");
    const LIMITS: &str = include_str!("../tests/data/limits.txt");
    const SMAPS: &str = include_str!("../tests/data/smaps.txt");

    fn outside() -> Outside {
        Outside { status: STATUS.into(), limits: LIMITS.into(), memory: MemoryAccess::Refused }
    }

    fn report() -> CageReport {
        CageReport {
            dumpable: 0,
            no_new_privs: true,
            memory_deny_write_execute: true,
            core_limit_bytes: (0, 0),
            landlock_abi: 6,
            landlock_refused_open: true,
            descriptors: vec![0, 1, 2],
            ranges: vec![RangeReport {
                name: "memory".into(),
                start: 0x7f6c_08ea_e000,
                bytes: 0x4000,
                backing: Backing::SecretPages,
                smaps: SMAPS.into(),
            }],
            signer_module: Some(Digest::of(b"signer")),
        }
    }

    fn expected() -> Expected {
        Expected { signer_module: Some(Digest::of(b"signer")), strength: Strength::Strict }
    }

    fn faults(report: &CageReport, outside: &Outside) -> Vec<CageFault> {
        check(report, outside, &expected()).unwrap_err().0
    }

    #[test]
    fn a_cage_that_holds_is_stated_claim_by_claim_with_who_saw_it() {
        let checked = check(&report(), &outside(), &expected()).unwrap();

        assert_eq!(checked.claims().len(), 11);
        let observer = |claim| {
            checked.statements().iter().find(|found| found.claim == claim).unwrap().observer
        };
        assert_eq!(observer(Claim::SeccompFilter), Observer::ObservedOutside);
        assert_eq!(observer(Claim::NotDumpable), Observer::ObservedOutside);
        assert_eq!(observer(Claim::SecretPages), Observer::SelfReported);
    }

    /// On Linux 6.1.192 and 6.12.117.
    #[test]
    fn secret_pages_that_do_not_count_as_locked_are_no_fault() {
        let status = STATUS.replace("VmLck:\t     400 kB", "VmLck:\t       0 kB");
        assert_ne!(status, STATUS);
        check(&report(), &Outside { status, ..outside() }, &expected()).unwrap();
    }

    #[test]
    fn each_wall_that_is_missing_outside_is_named() {
        for (from, to, expected) in [
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", CageFault::NoNewPrivs),
            ("Seccomp:\t2", "Seccomp:\t0", CageFault::Seccomp { found: Some(0) }),
            ("Threads:\t1", "Threads:\t2", CageFault::Threads { found: 2 }),
            (
                "CapEff:\t0000000000000000",
                "CapEff:\t0000000000000001",
                CageFault::Capabilities { found: 1 },
            ),
            (
                "VmLck:\t     400 kB",
                "VmLck:\t    1025 kB",
                CageFault::LockedBytes { found: 1025 * 1024 },
            ),
        ] {
            let status = STATUS.replace(from, to);
            assert_ne!(status, STATUS, "{from:?} is not in the sample");
            assert_eq!(faults(&report(), &Outside { status, ..outside() }), [expected]);
        }
        let limits = LIMITS.replace(
            "Max core file size        0                    0 ",
            "Max core file size        0                    unlimited ",
        );
        assert_ne!(limits, LIMITS);
        assert_eq!(faults(&report(), &Outside { limits, ..outside() }), [CageFault::CoreLimit]);
        let opened = Outside { memory: MemoryAccess::Opened, ..outside() };
        assert_eq!(faults(&report(), &opened), [CageFault::Dumpable]);
    }

    #[test]
    fn each_wall_that_the_worker_reports_missing_is_named() {
        let with = |change: fn(&mut CageReport)| {
            let mut changed = report();
            change(&mut changed);
            faults(&changed, &outside())
        };

        assert_eq!(with(|report| report.dumpable = 1), [CageFault::Dumpable]);
        assert_eq!(with(|report| report.landlock_abi = 0), [CageFault::Landlock { abi: 0 }]);
        assert_eq!(
            with(|report| report.descriptors.push(7)),
            [CageFault::Descriptors { extra: vec![7] }]
        );
        assert_eq!(
            with(|report| report.signer_module = None),
            [CageFault::OtherSigner { found: None }]
        );
        assert_eq!(with(|report| report.ranges.clear()), [CageFault::NoRanges]);
        assert!(matches!(
            with(|report| report.ranges[0].smaps = SMAPS.replace("secretmem", "other")).as_slice(),
            [CageFault::Range { missing, .. }] if matches!(missing[0], MissingClaim::SecretPages { .. })
        ));
    }

    #[test]
    fn locked_pages_will_do_only_where_they_were_allowed_and_are_not_called_secret() {
        let mut locked = report();
        locked.ranges[0].backing = Backing::LockedPages;
        locked.ranges[0].smaps =
            SMAPS.replace("/secretmem (deleted)", "").replace("dc dd", "dc wf dd");

        assert_eq!(faults(&locked, &outside()), [CageFault::NotSecret { range: "memory".into() }]);
        let allowed = Expected { strength: Strength::AllowLockedPages, ..expected() };
        let checked = check(&locked, &outside(), &allowed).unwrap();
        assert_eq!(checked.backing(), Backing::LockedPages);
        assert!(!checked.claims().contains(&Claim::SecretPages));
    }

    #[test]
    fn this_process_is_seen_as_it_is() {
        let outside = Outside::observe(std::process::id()).unwrap();

        let status = Status::from_read(outside.status.as_bytes()).unwrap();
        assert_eq!(status.pid.unsigned_abs(), std::process::id());
        Limits::from_read(outside.limits.as_bytes()).unwrap();
    }
}
