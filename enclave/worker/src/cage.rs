//! The walls of the cage, in the order they are raised.
//!
//! [`Open::enter`] gives up what can be given up before the guarded memory is mapped;
//! [`Open::close`] gives up the rest, the means to map it included. Each step that does not take
//! effect ends the worker before it was given anything.

use std::fs::File;
use std::io;

use evanesce_guarded_memory::{PAGE_BYTES, registry};
use evanesce_protocol::Digest;
use evanesce_protocol::control::{CageReport, RangeReport, Refused, TerminalUse};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, LandlockStatus, Ruleset,
    RulesetAttr as _, RulesetStatus, Scope,
};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior,
    setrlimit, setsid,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, no_new_privs, set_capabilities, set_name, set_no_new_privs,
};

use crate::seccomp;
use crate::sys;

/// A cage that still lets the worker map memory.
#[derive(Debug)]
pub struct Open {
    smaps: File,
}

impl Open {
    /// Raises the walls that may stand before guarded memory is mapped.
    ///
    /// # Errors
    ///
    /// [`Refused::Cage`] names the wall.
    pub fn enter(terminal: TerminalUse) -> Result<Self, Refused> {
        // First of all, although the launcher's way of starting the worker has seen to it already:
        // no other process of this user may look in.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(wall("PR_SET_DUMPABLE"))?;
        sys::block_signals().map_err(wall_io("sigprocmask"))?;
        if terminal == TerminalUse::Possible {
            // A session of its own: no terminal's signals, no job control where a passphrase is typed.
            setsid().map_err(wall("setsid"))?;
        }
        sys::close_from(FIRST_DESCRIPTOR).map_err(wall_io("close_range"))?;
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        setrlimit(Resource::Core, none).map_err(wall("RLIMIT_CORE"))?;
        let descriptors = Rlimit { current: Some(DESCRIPTORS_MAX), maximum: Some(DESCRIPTORS_MAX) };
        setrlimit(Resource::Nofile, descriptors).map_err(wall("RLIMIT_NOFILE"))?;
        set_no_new_privs(true).map_err(wall("PR_SET_NO_NEW_PRIVS"))?;
        drop_capabilities().map_err(wall("capset"))?;
        match sys::deny_write_execute() {
            Ok(()) => {}
            // Before Linux 6.3: the filter allows no executable mapping either.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(wall_io("PR_SET_MDWE")(error)),
        }
        set_name(PROCESS_NAME).map_err(wall("PR_SET_NAME"))?;
        let smaps = File::open("/proc/self/smaps").map_err(wall_io("open /proc/self/smaps"))?;
        Ok(Self { smaps })
    }

    /// Raises the last walls: no file, no new descriptor by name, no system call but the listed.
    ///
    /// # Errors
    ///
    /// [`Refused::Cage`] names the wall.
    pub fn close(self) -> Result<Closed, Refused> {
        let landlock_abi = restrict_files()?;
        let refused_open =
            File::open("/").is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
        seccomp::apply().map_err(|error| match error {
            seccomp::ApplyError::Compile(_) => {
                Refused::Cage { step: "seccomp filter".into(), errno: 0 }
            }
            seccomp::ApplyError::Install(error) => wall_io("seccomp")(error),
        })?;
        Ok(Closed { smaps: self.smaps, landlock_abi, refused_open })
    }
}

/// A closed cage: the proof that a key may be loaded.
#[derive(Debug)]
pub struct Closed {
    smaps: File,
    landlock_abi: u32,
    refused_open: bool,
}

impl Closed {
    /// Reads back what the cage is. Called once: it reads the descriptor of `smaps` to its end.
    ///
    /// # Errors
    ///
    /// [`Refused::Cage`] where something cannot be read back.
    pub fn report(self, signer_module: Option<Digest>) -> Result<CageReport, Refused> {
        let text = read_to_end(&self.smaps).map_err(wall("read smaps"))?;
        drop(self.smaps);
        let core = getrlimit(Resource::Core);
        let unlimited = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        Ok(CageReport {
            dumpable: match dumpable_behavior().map_err(wall("PR_GET_DUMPABLE"))? {
                DumpableBehavior::NotDumpable => 0,
                _ => 1,
            },
            no_new_privs: no_new_privs().map_err(wall("PR_GET_NO_NEW_PRIVS"))?,
            memory_deny_write_execute: sys::denies_write_execute(),
            core_limit_bytes: (unlimited(core.current), unlimited(core.maximum)),
            landlock_abi: self.landlock_abi,
            landlock_refused_open: self.refused_open,
            descriptors: open_descriptors(),
            ranges: ranges(&text),
            signer_module,
        })
    }
}

/// Empties every capability set, for the case that the operator is root.
fn drop_capabilities() -> Result<(), Errno> {
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Landlock down to nothing: no file, no TCP, no signal or abstract socket outside.
fn restrict_files() -> Result<u32, Refused> {
    let failed = |_| Refused::Cage { step: "Landlock".into(), errno: 0 };
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST_ABI))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST_ABI)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST_ABI)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(failed)?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => {
            Err(Refused::Cage { step: "Landlock".into(), errno: libc::EOPNOTSUPP })
        }
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            Ok(u32::try_from(effective_abi as i32).unwrap_or(0))
        }
        (_, LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) => {
            Err(Refused::Cage { step: "Landlock".into(), errno: libc::ENOSYS })
        }
    }
}

/// Which descriptors are open, by asking for each number there may be.
fn open_descriptors() -> Vec<i32> {
    (0..i32::try_from(DESCRIPTORS_MAX).expect("a small number"))
        .filter(|fd| sys::is_open(*fd))
        .collect()
}

/// What `smaps` says of each guarded range and its two guard pages.
fn ranges(smaps: &str) -> Vec<RangeReport> {
    let mut reports = Vec::new();
    registry::for_each(|range| {
        // What is not locked is not mapped yet.
        let Some(backing) = range.backing else { return };
        let page = PAGE_BYTES as u64;
        let (start, bytes) = (range.start as u64, range.bytes as u64);
        reports.push(RangeReport {
            name: range.name.to_owned(),
            start,
            bytes,
            backing,
            smaps: entries_within(smaps, start - page, start + bytes + page),
        });
    });
    reports
}

/// Reads a file with read(2) alone: the standard library would also ask for its size, which the
/// filter does not allow.
fn read_to_end(file: &File) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        match rustix::io::read(file, &mut chunk) {
            Ok(0) => return String::from_utf8(bytes).map_err(|_| Errno::ILSEQ),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The lines of those entries that touch the addresses from `first` up to `end`.
fn entries_within(smaps: &str, first: u64, end: u64) -> String {
    let mut kept = String::new();
    let mut keeping = false;
    for line in smaps.lines() {
        if let Some((from, to)) = entry_range(line) {
            keeping = from < end && first < to;
        }
        if keeping {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The addresses of an entry's first line, `7f…-7f… rw-p …`; `None` for its other lines.
fn entry_range(line: &str) -> Option<(u64, u64)> {
    let (from, to) = line.split_once(' ')?.0.split_once('-')?;
    Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
}

fn wall(step: &'static str) -> impl Fn(Errno) -> Refused {
    move |errno| Refused::Cage { step: step.into(), errno: errno.raw_os_error() }
}

fn wall_io(step: &'static str) -> impl Fn(io::Error) -> Refused {
    move |error| Refused::Cage { step: step.into(), errno: error.raw_os_error().unwrap_or(0) }
}

/// The newest Landlock ABI that the rules are written for.
const NEWEST_ABI: ABI = ABI::V6;

/// Standard input is the control channel, the other two are the launcher's to choose.
const FIRST_DESCRIPTOR: i32 = 3;

/// Descriptors a worker may have open: connections, and a handful of its own.
const DESCRIPTORS_MAX: u64 = 64;

const PROCESS_NAME: &std::ffi::CStr = c"evanesce-worker";

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-2000 ---p 00000000 00:00 0 \n\
Rss:                   0 kB\n\
2000-4000 rw-s 00000000 00:0f 1                    /secretmem (deleted)\n\
Rss:                   8 kB\n\
VmFlags: rd wr sh mr mw me ms dc lo dd \n\
4000-5000 ---p 00000000 00:00 0 \n\
Rss:                   0 kB\n\
9000-a000 rw-p 00000000 00:00 0 [heap]\n\
Rss:                   4 kB\n";

    #[test]
    fn the_entries_of_a_range_and_its_neighbours_are_kept_and_no_others() {
        let kept = entries_within(SMAPS, 0x1000, 0x5000);

        assert!(kept.starts_with("1000-2000 ---p"), "{kept}");
        assert!(kept.contains("VmFlags: rd wr sh"), "{kept}");
        assert!(kept.contains("4000-5000 ---p"), "{kept}");
        assert!(!kept.contains("[heap]"), "{kept}");
    }
}
