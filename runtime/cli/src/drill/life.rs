//! The steps of a drill: a canary lives, signs, is looked for, crashes and ends on this host.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use evanesce_ledger::receipt::Receipt;
use evanesce_ledger::{Reader, Statement, Timestamp};
use evanesce_protocol::{PublicKey, WorkloadId};
use evanesce_residue::{Canary, Forms, ScanError, ScanReport, Scanner};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::drill::child::{self, Running, Stopped};
use crate::drill::numbered;
use crate::drill::places;
use crate::drill::report::{
    CanaryLine, DrillReport, HostLine, Stage, StageOutcome, Verdict, searched,
};
use crate::errors::Coded;
use crate::progress::ProgressBar;
use crate::receipt_text::{counted, fate, name_of};
use crate::ui::Ui;

/// What a drill is given.
#[derive(Debug)]
pub struct Setting {
    /// The program to drill, `evanesce` itself.
    pub program: PathBuf,
    /// Where programs are looked for (`PATH`).
    pub search_path: OsString,
    /// How often the canary signs before it is looked for.
    pub signatures: u64,
    /// Where progress is shown.
    pub ui: Ui,
    /// The clock.
    pub now: fn() -> Timestamp,
}

/// Holds a drill in directories of its own, which are removed.
///
/// # Errors
///
/// [`DrillError`] where a step that the others need failed. What does not hold is a report.
pub fn hold(setting: Setting) -> Result<DrillReport, DrillError> {
    let mut drill = Drill::prepare(setting)?;
    drill.controls()?;
    let workload = drill.run()?;
    drill.alive(&workload);
    drill.swap(&workload)?;
    drill.crash()?;
    drill.scrub(workload)?;
    drill.after();
    drill.ledger()?;
    Ok(drill.conclude())
}

struct Drill {
    setting: Setting,
    root: TempDir,
    canary: Canary,
    forms: Forms,
    scanner: Scanner,
    began: Timestamp,
    stages: Vec<Stage>,
    not_looked_at: Vec<String>,
}

/// A workload of the canary that waits to be looked at.
struct Workload {
    launcher: Running,
    worker_pid: u32,
    command_pid: u32,
}

impl Workload {
    fn pids(&self) -> [u32; 3] {
        [self.worker_pid, self.launcher.pid(), self.command_pid]
    }
}

/// What a stage saw.
struct Seen {
    outcome: StageOutcome,
    seen: Vec<String>,
    search: Option<ScanReport>,
}

impl Seen {
    fn of(outcome: StageOutcome, seen: impl Into<String>) -> Self {
        Self { outcome, seen: vec![seen.into()], search: None }
    }

    /// A search that may find nothing.
    fn nothing_in(search: ScanReport) -> Self {
        let unread = places::unread(&search);
        let outcome = StageOutcome::of_search(&search, &unread);
        let seen = [vec![searched(&search)], unread].concat();
        Self { outcome, seen, search: Some(search) }
    }

    /// A search that has to find every one of these forms.
    fn all_of(names: &BTreeSet<String>, search: ScanReport) -> Self {
        let found: BTreeSet<_> = search.hits.iter().map(|hit| hit.form.clone()).collect();
        let missed: Vec<_> = names.difference(&found).cloned().collect();
        let total = names.len();
        match missed.is_empty() {
            true => Self::of(StageOutcome::Holds, format!("all {total} forms were found")),
            false => Self::of(
                StageOutcome::DoesNotHold,
                format!("of {total} forms these were missed: {}", missed.join(", ")),
            ),
        }
    }
}

impl Drill {
    fn prepare(setting: Setting) -> Result<Self, DrillError> {
        let began = (setting.now)();
        let root = tempfile::Builder::new()
            .prefix("evanesce-drill-")
            .tempdir()
            .map_err(DrillError::Directory)?;
        let canary = Canary::random().map_err(|error| DrillError::Directory(error.into()))?;
        let requests = numbered::requests(setting.signatures);
        let requests: Vec<_> = requests.iter().map(Vec::as_slice).collect();
        let forms = canary.forms(&requests);
        let scanner = Scanner::new(&forms);
        let drill = Self {
            setting,
            root,
            canary,
            forms,
            scanner,
            began,
            stages: Vec::new(),
            not_looked_at: Vec::new(),
        };
        for directory in ["work", "vault", "cores"] {
            fs::create_dir(drill.path(directory)).map_err(DrillError::Directory)?;
        }
        let key = drill.path(KEY);
        fs::write(&key, drill.canary.to_file())
            .and_then(|()| fs::set_permissions(&key, Permissions::from_mode(0o600)))
            .map_err(DrillError::Directory)?;
        Ok(drill)
    }

    /// The search finds what lies open: nothing that it does not find later means anything else.
    fn controls(&mut self) -> Result<(), DrillError> {
        let mut holder = self.holder()?;
        let mut lines = String::new();
        let mut names = BTreeSet::new();
        for form in self.forms.iter().filter(|form| is_of_first_signatures(form.name())) {
            writeln!(lines, "{}", hex::encode(form.bytes())).expect("a text takes all");
            names.insert(form.name().to_owned());
        }
        holder
            .write(format!("{lines}\n").as_bytes())
            .and_then(|()| holder.next_line())
            .map_err(|source| DrillError::Process { step: "holding the control", source })?;

        let pid = holder.pid();
        self.stage("control-memory", "a process that holds every form: its memory", |drill| {
            let _stopped = Stopped::all(&[pid])?;
            Ok(Seen::all_of(&names, drill.scan_process(pid)?))
        });
        self.stage("control-core", "the same process: its core file", |drill| {
            match drill.core_of(pid)? {
                Core::Written(core) => Ok(Seen::all_of(&names, drill.scan_path(&core)?)),
                Core::Refused(why) | Core::NoDebugger(why) => {
                    Ok(Seen::of(StageOutcome::NotLookedAt, why))
                }
            }
        });
        Ok(())
    }

    fn run(&mut self) -> Result<Workload, DrillError> {
        let began = ((self.setting.now)(), Instant::now());
        let workload = self.start("drill", &[])?;
        let signed = counted(self.setting.signatures, "signature");
        let [worker, launcher, command] = workload.pids();
        let seen = format!("{signed}; worker {worker}, launcher {launcher}, command {command}");
        let seen = Seen::of(StageOutcome::Holds, seen);
        self.push("run", "the canary is loaded and signs through its agent", began, Ok(seen));
        Ok(workload)
    }

    fn alive(&mut self, workload: &Workload) {
        let (pids, worker) = (workload.pids(), workload.worker_pid);
        let what = "the key lives: memory of worker, launcher and command";
        self.stage("alive-memory", what, |drill| {
            let _stopped = Stopped::all(&pids)?;
            let mut report = ScanReport::default();
            for pid in pids {
                report.merge(drill.scan_process(pid)?);
                for file in ["cmdline", "environ"] {
                    report.merge(drill.scan_path(Path::new(&format!("/proc/{pid}/{file}")))?);
                }
            }
            Ok(Seen::nothing_in(report))
        });
        let what = "the key lives: a core file of the worker, by a debugger";
        self.stage("alive-core", what, |drill| match drill.core_of(worker)? {
            Core::Written(core) => Ok(Seen::nothing_in(drill.scan_path(&core)?)),
            Core::Refused(why) => Ok(Seen::of(StageOutcome::Holds, why)),
            Core::NoDebugger(why) => Ok(Seen::of(StageOutcome::NotLookedAt, why)),
        });
        let what = "the key lives: state, sockets and working directory on the disk";
        self.stage("alive-disk", what, |drill| Ok(Seen::nothing_in(drill.scan_own()?)));
    }

    /// Pushes the processes out of memory, and a control with them.
    fn swap(&mut self, workload: &Workload) -> Result<(), DrillError> {
        let pids = workload.pids();
        let what = "the key lives: swap, with everything pushed out of memory";
        let swaps = match places::swaps() {
            Ok(swaps) => swaps,
            Err(error) => {
                self.stage("swap", what, |_| Err(error));
                return Ok(());
            }
        };
        if swaps.is_empty() {
            self.stage("swap", what, |_| {
                Ok(Seen::of(StageOutcome::Holds, "this host has no swap: /proc/swaps lists none"))
            });
            return Ok(());
        }
        let control = Canary::random().map_err(|error| DrillError::Directory(error.into()))?;
        let control_scanner = Scanner::new(&control.forms(&[]));
        let mut holder = self.holder()?;
        let lines = format!("{}\n", hex::encode(control.seed())).repeat(CONTROL_COPIES);
        holder
            .write(format!("{lines}\n").as_bytes())
            .and_then(|()| holder.next_line())
            .map_err(|source| DrillError::Process { step: "holding the control", source })?;
        let holder_pid = holder.pid();
        self.stage("swap", what, |drill| {
            if let Err(error) = Pressure::on(&[&pids[..], &[holder_pid]].concat()) {
                let why = format!("nothing could be pushed out of memory: {error}");
                return Ok(Seen::of(StageOutcome::NotLookedAt, why));
            }
            let swapped = child::status(holder_pid, "VmSwap")?;
            let mut control_found = ScanReport::default();
            let mut report = ScanReport::default();
            for swap in &swaps {
                control_found.merge(drill.scan_swap(&control_scanner, swap)?);
                report.merge(drill.scan_swap(&drill.scanner, swap)?);
            }
            let mut seen = Seen::nothing_in(report);
            seen.seen.push(format!("{swapped} of the control were swapped"));
            if control_found.hits_total == 0 {
                // Compressed or encrypted on its way: then a search of the device says nothing.
                seen.seen.push("the control was not found there: the search sees nothing".into());
                if seen.outcome == StageOutcome::Holds {
                    seen.outcome = StageOutcome::NotLookedAt;
                }
            }
            Ok(seen)
        });
        Ok(())
    }

    /// Kills a worker in the middle of its signatures.
    fn crash(&mut self) -> Result<(), DrillError> {
        let mut workload = self.start("crash", &["--endless"])?;
        let pids = workload.pids();
        let what = "a worker is killed while it signs: what its end leaves on the disk";
        self.stage("crash", what, |drill| {
            child::send(workload.worker_pid, Signal::KILL)?;
            workload.launcher.finish()?;
            let mut seen = Seen::nothing_in(drill.scan_own()?);
            if pids.into_iter().any(child::is_alive) {
                seen.outcome = StageOutcome::DoesNotHold;
                seen.seen.push("a process is still alive".into());
            }
            seen.seen.push(drill.receipt_line("crash")?);
            Ok(seen)
        });
        self.not_looked_at.push(
            "physical memory after a kill in the middle of a signature: this process holds all \
             forms itself. A virtual machine whose memory is read from outside shows it"
                .to_owned(),
        );
        Ok(())
    }

    /// Ends the first workload in order.
    fn scrub(&mut self, mut workload: Workload) -> Result<(), DrillError> {
        let pids = workload.pids();
        self.stage("scrub", "the key ends in order: processes gone, receipt written", |drill| {
            let status = workload.launcher.finish()?;
            let receipt = drill.receipt_line("drill")?;
            let gone = !pids.into_iter().any(child::is_alive);
            let holds = status.success() && gone && receipt.contains(SHOWN);
            let outcome = match holds {
                true => StageOutcome::Holds,
                false => StageOutcome::DoesNotHold,
            };
            let processes = if gone { "no process is left" } else { "a process is still alive" };
            Ok(Seen { seen: vec![receipt, processes.to_owned()], ..Seen::of(outcome, "") })
        });
        Ok(())
    }

    fn after(&mut self) {
        let what = "after the end: state, sockets and working directory on the disk";
        self.stage("after-disk", what, |drill| Ok(Seen::nothing_in(drill.scan_own()?)));
        let swaps = places::swaps().unwrap_or_default();
        if !swaps.is_empty() {
            self.stage("after-swap", "after the end: swap", |drill| {
                let mut report = ScanReport::default();
                for swap in &swaps {
                    report.merge(drill.scan_swap(&drill.scanner, swap)?);
                }
                Ok(Seen::nothing_in(report))
            });
        }
        self.stage("after-cores", "after the end: core files, by the host's pattern", |drill| {
            let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
            let mut report = ScanReport::default();
            for core in core_files(pattern.trim()) {
                report.merge(drill.scan_path(&core)?);
            }
            match report.sources.is_empty() {
                true => {
                    let seen = format!("`{}`, and there is no core file", pattern.trim());
                    Ok(Seen::of(StageOutcome::Holds, seen))
                }
                false => Ok(Seen::nothing_in(report)),
            }
        });
    }

    fn ledger(&mut self) -> Result<(), DrillError> {
        let outcome = self.evanesce(["audit", "verify"])?;
        let last = String::from_utf8_lossy(&outcome.stdout);
        let first = last.lines().next().unwrap_or("no answer").to_owned();
        self.stage("ledger", "the drill's own ledger and receipts verify", |_| {
            Ok(Seen::of(
                match outcome.status.success() {
                    true => StageOutcome::Holds,
                    false => StageOutcome::DoesNotHold,
                },
                first,
            ))
        });
        Ok(())
    }

    fn conclude(mut self) -> DrillReport {
        for stage in &self.stages {
            if stage.outcome == StageOutcome::NotLookedAt {
                self.not_looked_at.push(format!("{}: {}", stage.name, stage.seen.join("; ")));
            }
        }
        let name = rustix::system::uname();
        DrillReport {
            verdict: Verdict::of(&self.stages),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: HostLine {
                name: name.nodename().to_string_lossy().into_owned(),
                kernel: name.release().to_string_lossy().into_owned(),
                uid: rustix::process::geteuid().as_raw(),
            },
            canary: CanaryLine {
                public_key: PublicKey::from_bytes(self.canary.public_key()).to_string(),
                signatures: self.setting.signatures,
                forms: u64::try_from(self.forms.iter().count()).unwrap_or(u64::MAX),
                fragments: u64::try_from(self.forms.fragments()).unwrap_or(u64::MAX),
            },
            began: self.began,
            ended: (self.setting.now)(),
            stages: self.stages,
            not_looked_at: self.not_looked_at,
        }
    }

    /// Does a step. An error makes it one that was not looked at.
    fn stage(
        &mut self,
        name: &'static str,
        what: &'static str,
        step: impl FnOnce(&mut Self) -> io::Result<Seen>,
    ) {
        let began = ((self.setting.now)(), Instant::now());
        let seen = step(self);
        self.push(name, what, began, seen);
    }

    fn push(
        &mut self,
        name: &'static str,
        what: &'static str,
        (began, clock): (Timestamp, Instant),
        seen: io::Result<Seen>,
    ) {
        let Seen { outcome, seen, search } =
            seen.unwrap_or_else(|error| Seen::of(StageOutcome::NotLookedAt, error.to_string()));
        let took_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.setting.ui.say(&format!("{:13} {name}", outcome.words()));
        self.stages.push(Stage { name, what, outcome, seen, began, took_ms, search });
    }

    /// Starts a workload of the canary and waits until it has signed.
    fn start(&self, id: &str, more: &[&str]) -> Result<Workload, DrillError> {
        let failed = |source| DrillError::Process { step: "running a workload", source };
        let (key, program) = (self.path(KEY), &self.setting.program);
        let count = self.setting.signatures.to_string();
        let mut args: Vec<&OsStr> =
            ["run", "--quiet", "--workload-id", id, "--key"].map(OsStr::new).into();
        args.extend([key.as_os_str(), "--".as_ref(), program.as_os_str()]);
        args.extend(["drill", "sign", "--count", &count].map(OsStr::new));
        args.extend(more.iter().map(OsStr::new));
        let launcher =
            Running::start(program, args, &self.variables(), &self.path("work")).map_err(failed)?;
        let line = launcher.next_line().map_err(failed)?;
        let command_pid = line.strip_prefix("signed ").and_then(|pid| pid.parse().ok());
        let listed = self.evanesce(["ps", "--json"])?;
        let listed: serde_json::Value =
            serde_json::from_slice(&listed.stdout).unwrap_or(serde_json::Value::Null);
        let of_id = |entry: &&serde_json::Value| entry["workload_id"] == id;
        let worker_pid = listed
            .as_array()
            .and_then(|entries| entries.iter().find(of_id)?["worker_pid"].as_u64())
            .and_then(|pid| u32::try_from(pid).ok());
        match (command_pid, worker_pid) {
            (Some(command_pid), Some(worker_pid)) => {
                Ok(Workload { launcher, worker_pid, command_pid })
            }
            _ => Err(failed(io::Error::other("it is not listed"))),
        }
    }

    fn holder(&self) -> Result<Running, DrillError> {
        let program = &self.setting.program;
        Running::start(program, ["drill", "hold"], &self.variables(), &self.path("work"))
            .map_err(|source| DrillError::Process { step: "starting the control", source })
    }

    /// Runs `evanesce` to its end, in the drill's installation.
    fn evanesce<const N: usize>(
        &self,
        args: [&str; N],
    ) -> Result<std::process::Output, DrillError> {
        let mut command = Command::new(&self.setting.program);
        command.args(args).env_clear().envs(self.variables()).current_dir(self.path("work"));
        child::output(command)
            .map_err(|source| DrillError::Process { step: "asking evanesce", source })
    }

    fn variables(&self) -> Vec<(OsString, OsString)> {
        vec![
            ("PATH".into(), self.setting.search_path.clone()),
            ("HOME".into(), self.path("work").into()),
            ("EVANESCE_STATE_DIR".into(), self.path("state").into()),
            ("RUNTIME_DIRECTORY".into(), self.path("run").into()),
        ]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// One line on a workload's end, by its receipt.
    fn receipt_line(&self, workload: &str) -> io::Result<String> {
        let id: WorkloadId = workload.parse().map_err(io::Error::other)?;
        let found = Reader::open(&self.path("state/ledger"))
            .and_then(|reader| reader.receipt_of(&id))
            .map_err(io::Error::other)?
            .ok_or_else(|| io::Error::other("there is no receipt"))?;
        let statement =
            Statement::<Receipt>::parse_unverified(&found.envelope).map_err(io::Error::other)?;
        let receipt = statement.into_predicate();
        let unproven: Vec<_> =
            receipt.scrub.unproven.iter().map(|unproven| name_of(unproven.claim)).collect();
        let unproven = match unproven.is_empty() {
            true => String::new(),
            false => format!("; unproven: {}", unproven.join(", ")),
        };
        let method = name_of(receipt.scrub.method);
        Ok(format!("receipt of {workload}: {}, by {method}{unproven}", fate(receipt.key.fate)))
    }

    /// State, sockets and working directory: everything of the drill but the canary's own file.
    fn scan_own(&self) -> io::Result<ScanReport> {
        let mut report = ScanReport::default();
        for directory in ["work", "state", "run"] {
            let path = self.path(directory);
            if path.exists() {
                report.merge(self.scan_path(&path)?);
            }
        }
        Ok(report)
    }

    fn scan_process(&self, pid: u32) -> io::Result<ScanReport> {
        let mut bar = ProgressBar::new(self.setting.ui, format!("process {pid}"));
        self.scanner.scan_process(pid, &mut |progress| bar.show(progress)).map_err(cause)
    }

    fn scan_path(&self, path: &Path) -> io::Result<ScanReport> {
        self.scan_with(&self.scanner, path)
    }

    fn scan_swap(&self, scanner: &Scanner, path: &Path) -> io::Result<ScanReport> {
        // The kernel swaps past the page cache, which may have what was there before.
        let file = fs::File::open(path)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        self.scan_with(scanner, path)
    }

    fn scan_with(&self, scanner: &Scanner, path: &Path) -> io::Result<ScanReport> {
        let mut bar = ProgressBar::new(self.setting.ui, path.display().to_string());
        scanner.scan_path(path, &mut |progress| bar.show(progress)).map_err(cause)
    }

    /// Has a debugger write a core file of a process, as an attacker with root would.
    fn core_of(&self, pid: u32) -> io::Result<Core> {
        let prefix = self.path("cores").join("core");
        let mut gcore = Command::new("gcore");
        gcore.arg("-a").arg("-o").arg(&prefix).arg(pid.to_string());
        gcore.env_clear().envs(self.variables()).current_dir(self.path("work"));
        let outcome = match child::output(gcore) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Core::NoDebugger("gcore is not installed (package gdb)".to_owned()));
            }
            other => other?,
        };
        let core = self.path("cores").join(format!("core.{pid}"));
        if outcome.status.success() && core.exists() {
            return Ok(Core::Written(core));
        }
        let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
        let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("without a word");
        Ok(Core::Refused(format!("gcore got no core file: {said}")))
    }
}

/// What came of asking for a core file.
enum Core {
    Written(PathBuf),
    Refused(String),
    NoDebugger(String),
}

/// A control group in which memory is reclaimed; removed when it is dropped.
struct Pressure {
    group: PathBuf,
    pids: Vec<u32>,
}

impl Pressure {
    /// Moves processes into a control group of their own and has the kernel push out all it can
    /// (`memory.reclaim`, Linux 5.19, control groups version 2). They are moved back.
    fn on(pids: &[u32]) -> io::Result<()> {
        let group = Path::new(CGROUPS).join(format!("evanesce-drill-{}", std::process::id()));
        fs::create_dir(&group)?;
        let pressure = Self { group, pids: pids.to_vec() };
        for pid in pids {
            fs::write(pressure.group.join("cgroup.procs"), pid.to_string())?;
        }
        match fs::write(pressure.group.join("memory.reclaim"), RECLAIM) {
            // Less than was asked for could be pushed out: what is locked stays.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        for pid in &self.pids {
            fs::write(Path::new(CGROUPS).join("cgroup.procs"), pid.to_string()).unwrap_or(());
        }
        fs::remove_dir(&self.group).unwrap_or(());
    }
}

/// Files that a crash may have left, where the host's pattern says (core(5)).
fn core_files(pattern: &str) -> Vec<PathBuf> {
    let directory = match (pattern.starts_with('|'), pattern.contains("systemd-coredump")) {
        (true, true) => PathBuf::from("/var/lib/systemd/coredump"),
        (true, false) => return Vec::new(),
        // A worker's working directory is the root of the file system.
        (false, _) => Path::new("/").join(Path::new(pattern).parent().unwrap_or(Path::new(""))),
    };
    let fixed = match pattern.starts_with('|') {
        true => "core",
        false => {
            let name = pattern.rsplit('/').next().unwrap_or(pattern);
            name.split('%').next().unwrap_or(name)
        }
    };
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(fixed))
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .take(CORES_MAX)
        .collect()
}

/// Whether a form is the key's own, or of one of the first signatures: enough for each kind.
fn is_of_first_signatures(form: &str) -> bool {
    let Some((_, rest)) = form.split_once('[') else { return true };
    let index = rest.split(']').next().and_then(|index| index.parse::<u64>().ok());
    index.is_some_and(|index| index < 3)
}

/// What the kernel said, which is what a reader needs; the path is in the stage.
fn cause(error: ScanError) -> io::Error {
    match error {
        ScanError::Open { path, source } => {
            io::Error::new(source.kind(), format!("{}: {source}", path.display()))
        }
        other => io::Error::other(other),
    }
}

/// Why a drill could not be held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrillError {
    /// Nothing could be prepared.
    #[error("the drill's directory could not be prepared")]
    Directory(#[source] io::Error),
    /// A process that everything else needs did not do its part.
    #[error("{step} failed")]
    Process {
        /// What it was to do.
        step: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Coded for DrillError {
    fn code(&self) -> &'static str {
        match self {
            Self::Directory(_) => "drill.directory",
            Self::Process { .. } => "drill.process",
        }
    }
}

/// The canary's file, in a directory that is not searched.
const KEY: &str = "vault/canary.pem";

/// In a line on a receipt that shows the end of a key from a file.
const SHOWN: &str = "this copy destroyed";

/// Where control groups of version 2 are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// As much as there is.
const RECLAIM: &str = "64G";

/// A single page may be used again at once; many are not.
const CONTROL_COPIES: usize = 20_000;

/// Core files that are searched.
const CORES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_the_key_and_of_three_signatures_are_the_control() {
        for name in ["seed", "scalar.radix-16", "nonce[0].hash", "product[2].scalar"] {
            assert!(is_of_first_signatures(name), "{name}");
        }
        for name in ["nonce[3].hash", "product[10].scalar"] {
            assert!(!is_of_first_signatures(name), "{name}");
        }
    }

    #[test]
    fn a_control_that_misses_one_form_does_not_hold() {
        let names = ["seed", "scalar"].map(str::to_owned).into();

        let seen = Seen::all_of(&names, ScanReport::default());

        assert_eq!(seen.outcome, StageOutcome::DoesNotHold);
        assert!(seen.seen[0].contains("scalar, seed"), "{:?}", seen.seen);
    }
}
