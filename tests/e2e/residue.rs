//! A known key, a thousand signatures, and a search of everything that root can read.
//!
//! The scanner knows every form of the key and finds eight bytes of any; what it must not find is
//! held against what it must: the same scan of a process that holds each form on its heap, and of
//! workers that leak on purpose. This process holds all forms itself, and is the only one that is
//! not searched.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use evanesce_residue::{Canary, Forms, ScanReport, Scanner, unwatched};
use evanesce_tests::agent::numbered_request;
use evanesce_tests::process::{is_alive, output, send};
use evanesce_tests::{Installation, Running, peers, wait_until};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::PROGRAM;

#[test]
fn after_a_thousand_signatures_no_form_of_the_key_is_found_in_anything_that_root_can_read() {
    if peers::not_root() || peers::missing(&["gcore"]) {
        return;
    }
    // Given a key that is made for being searched for, and a scan that finds each of its forms
    // where they lie open,
    let search = Search::new();
    search.assert_finds_every_form_in_a_process_and_its_core();

    // When it signs a thousand times through the socket, and at its end,
    let found = search.life_of(PROGRAM);

    // Then there is nothing of it in worker, launcher and workload, in the worker's core file,
    // registers included, and on the disk, and all that could not be read is what cannot be.
    print(&found.alive);
    print(&found.after);
    assert_clean(&found.alive);
    assert_clean(&found.after);
    let unreadable: Vec<_> = found.alive.unreadable.iter().map(|part| &part.what).collect();
    assert!(unreadable.iter().any(|what| what.contains(SECRET)), "{unreadable:#?}");
    for what in unreadable {
        assert!([SECRET, "[vvar", "[vsyscall]"].iter().any(|name| what.contains(name)), "{what}");
    }
    assert!(found.after.unreadable.is_empty(), "{:#?}", found.after.unreadable);
}

#[test]
#[ignore = "builds a worker that leaks for each place; run with `--ignored`, as CI does"]
fn a_worker_that_leaks_to_heap_stack_or_a_vector_register_is_found_by_the_same_scan() {
    if peers::not_root() || peers::missing(&["gcore"]) {
        return;
    }
    // A register is nowhere in memory while its process sleeps, but in its core file.
    for (leak, place) in [
        ("danger-leak-heap", "[heap]"),
        ("danger-leak-stack", "[stack]"),
        ("danger-leak-register", "core."),
    ] {
        let program = build_with(leak);
        let found = Search::new().life_of(program.to_str().unwrap());

        print(&found.alive);
        let is_there = found.alive.hits.iter().any(|hit| hit.place.contains(place));
        assert!(is_there, "{leak} is not found in {place}: {:#?}", found.alive.hits);
    }
}

/// One canary and what finds it.
struct Search {
    canary: Canary,
    forms: Forms,
    scanner: Scanner,
}

/// What was found while a workload lived, and after its end.
struct Found {
    alive: ScanReport,
    after: ScanReport,
}

impl Search {
    fn new() -> Self {
        let canary = Canary::random().unwrap();
        let requests: Vec<_> = (0..SIGNATURES).map(numbered_request).collect();
        let requests: Vec<_> = requests.iter().map(Vec::as_slice).collect();
        let forms = canary.forms(&requests);
        Self { scanner: Scanner::new(&forms), canary, forms }
    }

    /// Lets the key live, sign and end in an installation of `program`.
    fn life_of(&self, program: &str) -> Found {
        let here = Installation::new(program);
        // The key's own file is where the key may be found, so it is elsewhere.
        let vault = tempfile::tempdir().unwrap();
        let key = vault.path().join("canary.pem");
        fs::write(&key, self.canary.to_pkcs8_pem()).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        let count = SIGNATURES.to_string();
        let workload = env!("CARGO_BIN_EXE_signing-workload");
        let key = key.to_str().unwrap();
        let line = ["run", "--key", key, "--workload-id", "canary", "--", workload, &count];
        let mut launcher = here.evanesce(line).start();
        let said = launcher.next_line();
        let workload_pid = said.strip_prefix("signed ").unwrap().parse().unwrap();
        let listed = here.json(&["ps"]);
        assert_eq!(listed[0]["signatures"], SIGNATURES, "{listed:#}");
        let worker_pid = u32::try_from(listed[0]["worker_pid"].as_u64().unwrap()).unwrap();

        let pids = [worker_pid, launcher.pid(), workload_pid];
        // Memory first: a debugger that reads a reservation fills it with pages of zeros.
        let mut alive = self.scan_stopped(&pids);
        alive.merge(self.scan_core(worker_pid));
        alive.merge(self.scan_path(here.root()));

        launcher.finish().expect_status(0);
        assert!(!pids.into_iter().any(is_alive));
        here.run(&["audit", "verify"]).expect_status(0);
        Found { alive, after: self.scan_path(here.root()) }
    }

    /// Memory, command lines and environments of processes that do not move meanwhile, and that
    /// nothing of them is in swap.
    fn scan_stopped(&self, pids: &[u32]) -> ScanReport {
        let mut report = ScanReport::default();
        for pid in pids {
            send(*pid, Signal::STOP);
            wait_until("the process is stopped", || status(*pid, "State").starts_with('T'));
        }
        for pid in pids {
            report.merge(self.scanner.scan_process(*pid, &mut unwatched()).unwrap());
            for file in ["cmdline", "environ"] {
                let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
                let name = format!("{file} of process {pid}");
                report.merge(
                    self.scanner.scan_reader(&name, 0, &bytes[..], &mut unwatched()).unwrap(),
                );
            }
            assert_eq!(status(*pid, "VmSwap"), "0 kB");
        }
        for pid in pids {
            send(*pid, Signal::CONT);
        }
        report
    }

    /// Everything that a debugger gets out of a process, the registers included.
    fn scan_core(&self, pid: u32) -> ScanReport {
        let directory = TempDir::new().unwrap();
        let prefix = directory.path().join("core");
        let mut gcore = Command::new("gcore");
        gcore.args(["-a", "-o"]).arg(&prefix).arg(pid.to_string());
        output(gcore).expect_status(0);
        let core = directory.path().join(format!("core.{pid}"));
        // A core file that holds its registers, not just any file.
        let mut notes = Command::new("readelf");
        notes.arg("-n").arg(&core);
        if !peers::missing(&["readelf"]) {
            let notes = output(notes).expect_status(0).stdout;
            assert!(notes.contains("NT_PRSTATUS") && notes.contains("NT_X86_XSTATE"), "{notes}");
        }
        self.scan_path(&core)
    }

    fn scan_path(&self, path: &Path) -> ScanReport {
        self.scanner.scan_path(path, &mut unwatched()).unwrap()
    }

    /// The positive control: a process that holds each form of the key, and those of the first
    /// signatures, on its heap.
    fn assert_finds_every_form_in_a_process_and_its_core(&self) {
        let mut holder = Running::start(Command::new(env!("CARGO_BIN_EXE_canary-holder")));
        let mut names = BTreeSet::new();
        let mut lines = Vec::new();
        for form in self.forms.iter().filter(|form| is_of_first_signatures(form.name())) {
            names.insert(form.name().to_owned());
            writeln!(lines, "{}", hex::encode(form.bytes())).unwrap();
        }
        writeln!(lines).unwrap();
        holder.write(&lines);
        assert_eq!(holder.next_line(), "holding");

        for report in [self.scan_stopped(&[holder.pid()]), self.scan_core(holder.pid())] {
            let found: BTreeSet<_> = report.hits.iter().map(|hit| hit.form.clone()).collect();
            let missed: Vec<_> = names.difference(&found).collect();
            assert!(missed.is_empty(), "{missed:#?} of {} forms", names.len());
        }
    }
}

/// Whether a form is the key's own, or of one of the first signatures: enough for each kind.
fn is_of_first_signatures(form: &str) -> bool {
    match form.split_once('[') {
        None => true,
        Some((_, rest)) => {
            let index = rest.split(']').next().and_then(|index| index.parse::<usize>().ok());
            index.is_some_and(|index| index < 3)
        }
    }
}

fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.expect("the field is there").trim().to_owned()
}

/// Builds the program with a worker that leaks, beside the builds of everything else.
fn build_with(feature: &str) -> PathBuf {
    let builds = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let target = builds.join("mutants");
    take_over_worker_builds(&builds.join("worker-build"), &target.join("worker-build"));
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "-p", "evanesce-tests", "--bin", PROGRAM_NAME])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("EVANESCE_WORKER_FEATURES", feature)
        .status()
        .unwrap();
    assert!(built.success());
    target.join("debug").join(PROGRAM_NAME)
}

/// Copies what the worker is made of, which is long compiled in `shared`, to where mutants are built.
/// A mutant is never built in `shared` itself: another build would embed it.
fn take_over_worker_builds(shared: &Path, own: &Path) {
    if own.is_symlink() {
        fs::remove_file(own).unwrap();
    }
    let profile = shared.join("worker");
    let Ok(lock) = File::open(profile.join(".cargo-lock")) else { return };
    if own.exists() {
        return;
    }
    // Cargo holds this lock while it builds there.
    lock.lock_shared().unwrap();
    let copied = own.with_extension("copying");
    fs::create_dir_all(&copied).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("--archive").arg(&profile).arg(&copied);
    output(copy).expect_status(0);
    fs::rename(&copied, own).unwrap();
}

#[track_caller]
fn assert_clean(report: &ScanReport) {
    assert!(report.found_nothing(), "{} hits: {:#?}", report.hits_total, report.hits);
}

/// What was looked at: the figures that the documents quote.
#[expect(clippy::print_stderr, reason = "the figures that the documents quote")]
fn print(report: &ScanReport) {
    let ScanReport { bytes_scanned, bytes_absent, bytes_unreadable, .. } = report;
    eprintln!(
        "{bytes_scanned} bytes scanned, {bytes_absent} absent, {bytes_unreadable} unreadable: \
         {} fragments found",
        report.fragments_found
    );
    for source in &report.sources {
        eprintln!("  {}: {} bytes in {} parts", source.name, source.bytes_scanned, source.parts);
    }
    for part in &report.unreadable {
        eprintln!("  not readable: {} ({})", part.what, part.reason);
    }
    for hit in report.hits.iter().take(20) {
        eprintln!("  found: {} bytes of {} in {}", hit.bytes, hit.form, hit.place);
    }
}

const SIGNATURES: usize = 1000;

const PROGRAM_NAME: &str = "evanesce-under-test";

/// How the kernel names mappings of memfd_secret(2).
const SECRET: &str = "secretmem";
