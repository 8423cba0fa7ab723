//! A known key, a thousand signatures, and a search of everything that root can read.
//!
//! The scanner knows every form of the key and finds eight bytes of any; what it must not find is
//! held against what it must: the same scan of a process that holds each form on its heap, and of
//! workers that leak on purpose. This process holds all forms itself, and is the only one that is
//! not searched.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64ct::{Base64, Encoding as _};
use bech32::Bech32;
use bech32::primitives::decode::CheckedHrpstring;
use evanesce_residue::{Canary, Forms, ScanReport, Scanner, unwatched};
use evanesce_tests::agent::numbered_request;
use evanesce_tests::process::{is_alive, output, send};
use evanesce_tests::{Installation, Running, peers, wait_until};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::PROGRAM;
use crate::release::pair::{Confidential, Pair, socket};

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
    let found = search.life_of(PROGRAM, &Format::Pkcs8);

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

/// What opens a key is as good as the key.
#[test]
fn after_a_key_of_any_format_was_opened_neither_it_nor_what_opened_it_is_found() {
    if peers::not_root() || peers::missing(&["gcore", "openssl", "ssh-keygen", "age", "age-keygen"])
    {
        return;
    }
    let search = Search::of_signatures(20);
    search.assert_finds_every_form_in_a_process_and_its_core();

    for format in Format::ALL {
        let found = search.life_of(PROGRAM, &format);

        print_as(&format!("{format:?}, alive"), &found.alive);
        assert_clean(&found.alive);
        assert_clean(&found.after);
    }
}

/// The holder's side is searched while it listens, the asker's as any workload is.
#[test]
fn after_a_key_was_released_nothing_of_it_is_found_on_either_side() {
    if peers::not_root() || peers::missing(&["gcore"]) {
        return;
    }
    let search = Search::of_signatures(20);
    search.assert_finds_every_form_in_a_process_and_its_core();
    let vault = tempfile::tempdir().unwrap();
    let key = vault.path().join("canary.pem");
    fs::write(&key, search.canary.to_pkcs8_pem()).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let Some(pair) = Pair::of_key(Confidential::snp(), "", Some(key)) else { return };
    let (path, address) = socket(pair.holder.root());
    let holder = pair.listen(&address, &[]);
    wait_until("the holder listens", || path.exists());

    // When a workload signs with a key that was released to its worker,
    let (count, tsm) = (search.signatures.to_string(), pair.tsm());
    let line = ["run", "--workload-id", "canary", "--key-from", &address, "--holder", "holder.pem"];
    let rest = ["--tsm-root", tsm, "--", env!("CARGO_BIN_EXE_signing-workload"), &count];
    let mut launcher = pair.asker.evanesce(line.iter().chain(&rest)).start();
    let said = launcher.next_line();
    let workload_pid = said.strip_prefix("signed ").unwrap().parse().unwrap();
    let listed = pair.asker.json(&["ps"]);
    let worker_pid = u32::try_from(listed[0]["worker_pid"].as_u64().unwrap()).unwrap();

    // Then nothing of it is in its worker, launcher and workload, in the holder, or on a disk.
    let pids = [worker_pid, launcher.pid(), workload_pid, holder.pid()];
    let mut alive = search.scan_stopped(&pids);
    alive.merge(search.scan_core(worker_pid));
    alive.merge(search.scan_path(pair.asker.root()));
    alive.merge(search.scan_path(pair.holder.root()));
    print_as("released, alive", &alive);
    assert_clean(&alive);
    launcher.finish().expect_status(0);
    holder.signal(Signal::TERM);
    holder.wait().expect_status(0);
    for here in [&pair.asker, &pair.holder] {
        assert_clean(&search.scan_path(here.root()));
    }
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
        let search = Search::of_signatures(20);
        let found = search.life_of(program.to_str().unwrap(), &Format::EncryptedOpenssh);

        print(&found.alive);
        let is_there = found.alive.hits.iter().any(|hit| hit.place.contains(place));
        assert!(is_there, "{leak} is not found in {place}: {:#?}", found.alive.hits);
        if leak == "danger-leak-heap" {
            let of_secret = found.alive.hits.iter().any(|hit| hit.form == "passphrase");
            assert!(of_secret, "the passphrase is not found: {:#?}", found.alive.hits);
        }
    }
}

/// How a canary's key is at rest.
#[derive(Clone, Copy, Debug)]
enum Format {
    Pkcs8,
    Pbkdf2,
    Scrypt,
    Openssh,
    EncryptedOpenssh,
    AgeIdentity,
    AgePassphrase,
}

impl Format {
    const ALL: [Self; 7] = [
        Self::Pkcs8,
        Self::Pbkdf2,
        Self::Scrypt,
        Self::Openssh,
        Self::EncryptedOpenssh,
        Self::AgeIdentity,
        Self::AgePassphrase,
    ];
}

/// One canary and what finds it, and what opens its files.
struct Search {
    canary: Canary,
    signatures: usize,
    passphrase: String,
    /// `AGE-SECRET-KEY-1…` and its recipient.
    identity: String,
    recipient: String,
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
        Self::of_signatures(SIGNATURES)
    }

    fn of_signatures(signatures: usize) -> Self {
        let canary = Canary::random().unwrap();
        let requests: Vec<_> = (0..signatures).map(numbered_request).collect();
        let requests: Vec<_> = requests.iter().map(Vec::as_slice).collect();
        let passphrase = Base64::encode_string(&Canary::random().unwrap().seed()[..]);
        let (identity, recipient) = match peers::missing(&["age-keygen"]) {
            true => (String::new(), String::new()),
            false => age_identity(),
        };
        // The beginning of an identity is the same for all, and in every program that reads one.
        let own = identity.strip_prefix("AGE-SECRET-KEY-1").unwrap_or_default();
        let forms = canary
            .forms(&requests)
            .with_secret("passphrase", passphrase.as_bytes(), false)
            .with_secret("identity", own.as_bytes(), true)
            .with_secret("identity.scalar", &scalar_of(&identity), false);
        let scanner = Scanner::new(&forms);
        Self { scanner, canary, signatures, passphrase, identity, recipient, forms }
    }

    /// Writes the key into the vault, and gives the flags that open it from there.
    fn key_file(&self, format: Format, vault: &Path, program: &str) -> Vec<String> {
        let write = |name: &str, text: &str| {
            let path = vault.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            path
        };
        let run = |line: &str| {
            let mut shell = Command::new("bash");
            shell.args(["-c", &format!("umask 077; {line}")]).current_dir(vault);
            output(shell).expect_status(0);
        };
        write("canary.pem", &self.canary.to_pkcs8_pem());
        write("canary.key", &openssh(&self.canary));
        write("evanesce.passphrase", &self.passphrase);
        write("identity.txt", &self.identity);
        let passphrase = &self.passphrase;
        let name = match format {
            Format::Pkcs8 => "canary.pem",
            Format::Openssh => "canary.key",
            Format::Pbkdf2 | Format::Scrypt => {
                let how = match format {
                    Format::Scrypt => "-scrypt",
                    _ => "-v2 aes-256-cbc",
                };
                run(&format!(
                    "openssl pkcs8 -topk8 {how} -in canary.pem -out encrypted.pem \
                     -passout file:evanesce.passphrase"
                ));
                "encrypted.pem"
            }
            Format::EncryptedOpenssh => {
                run(&format!("ssh-keygen -q -p -P '' -N '{passphrase}' -f canary.key"));
                "canary.key"
            }
            Format::AgeIdentity => {
                run(&format!("age -a -r {} -o sealed.age canary.pem", self.recipient));
                "sealed.age"
            }
            Format::AgePassphrase => {
                run(&format!(
                    "'{program}' key reseal canary.pem --new-passphrase-fd 3 \
                     3< evanesce.passphrase"
                ));
                "canary.pem"
            }
        };
        let key = ["--key".to_owned(), vault.join(name).display().to_string()];
        let identity = ["--identity".to_owned(), vault.join("identity.txt").display().to_string()];
        match format {
            Format::AgeIdentity => [key, identity].concat(),
            _ => key.to_vec(),
        }
    }

    /// Lets the key live, sign and end in an installation of `program`.
    fn life_of(&self, program: &str, format: &Format) -> Found {
        let here = Installation::new(program);
        // The key's own file is where the key may be found, so it is elsewhere.
        let vault = tempfile::tempdir().unwrap();
        let key = self.key_file(*format, vault.path(), program);
        let count = self.signatures.to_string();
        let workload = env!("CARGO_BIN_EXE_signing-workload");
        let line = ["--workload-id", "canary", "--", workload, &count].map(str::to_owned);
        let line = [vec!["run".to_owned()], key, line.to_vec()].concat();
        let run = here.evanesce(line).env("CREDENTIALS_DIRECTORY", vault.path());
        let mut launcher = run.start();
        let said = launcher.next_line();
        let workload_pid = said.strip_prefix("signed ").unwrap().parse().unwrap();
        let listed = here.json(&["ps"]);
        assert_eq!(listed[0]["signatures"], self.signatures, "{listed:#}");
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

/// A key as OpenSSH writes it in the clear (`PROTOCOL.key`).
fn openssh(canary: &Canary) -> String {
    let string = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], bytes].concat()
    };
    let (seed, public) = (&canary.seed()[..], &canary.public_key()[..]);
    let named = [string(b"ssh-ed25519"), string(public)].concat();
    let check = vec![0x5a, 0xfe, 0x5a, 0xfe, 0x5a, 0xfe, 0x5a, 0xfe];
    let pair = string(&[seed, public].concat());
    let mut private = [check, named.clone(), pair, string(b"canary")].concat();
    private.extend((1..=7).take((8 - private.len() % 8) % 8));
    let none = string(b"none");
    let magic = b"openssh-key-v1\0".to_vec();
    let head = [magic, none.clone(), none, string(b""), vec![0, 0, 0, 1]].concat();
    let text = Base64::encode_string(&[head, string(&named), string(&private)].concat());
    let lines: Vec<_> =
        text.as_bytes().chunks(70).map(|line| str::from_utf8(line).unwrap()).collect();
    let (label, body) = ("OPENSSH PRIVATE KEY", lines.join("\n"));
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// A new identity of age, and its recipient.
fn age_identity() -> (String, String) {
    let made = output(Command::new("age-keygen")).expect_status(0).stdout;
    let line = |start: &str| {
        let line = made.lines().find_map(|line| line.strip_prefix(start));
        line.expect("age-keygen prints both").to_owned()
    };
    (format!("AGE-SECRET-KEY-1{}", line("AGE-SECRET-KEY-1")), line("# public key: "))
}

/// The bytes of an identity (Bech32, BIP 173).
fn scalar_of(identity: &str) -> Vec<u8> {
    let decoded = CheckedHrpstring::new::<Bech32>(identity);
    decoded.map(|identity| identity.byte_iter().collect()).unwrap_or_default()
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

/// Builds the program with a worker that leaks, in a directory of its own: another build would
/// embed that worker.
fn build_with(feature: &str) -> PathBuf {
    let builds = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let target = builds.join("mutants");
    take_over(&builds.join("worker-build/worker"), &target.join("worker-build/worker"));
    take_over(&builds.join("debug"), &target.join("debug"));
    // With the features of everything's tests, as this test's own libraries were compiled. A test of
    // this package has its programs built.
    let built = Command::new(env!("CARGO"))
        .args(["test", "--no-run", "--quiet", "--locked", "--workspace", "--test", "kills"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .env("EVANESCE_WORKER_FEATURES", feature)
        .status()
        .unwrap();
    assert!(built.success());
    target.join("debug").join(PROGRAM_NAME)
}

/// Gives `own` the libraries that cargo has compiled for `shared`, a profile's directory, so that
/// what does not differ in a mutant is not compiled again. Cargo replaces libraries and never writes
/// into one; what it does write into is copied.
fn take_over(shared: &Path, own: &Path) {
    let Ok(lock) = File::open(shared.join(".cargo-lock")) else { return };
    if own.exists() {
        return;
    }
    // Cargo holds this lock while it builds there.
    lock.lock_shared().unwrap();
    // Whole or not there: what an interrupted run left is made anew.
    let new = own.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new).unwrap();
    }
    fs::create_dir_all(new.join("deps")).unwrap();
    for folder in [".fingerprint", "build"] {
        let mut copy = Command::new("cp");
        copy.arg("--archive").arg(shared.join(folder)).arg(&new);
        output(copy).expect_status(0);
    }
    for library in fs::read_dir(shared.join("deps")).unwrap() {
        let library = library.unwrap();
        let path = library.path();
        let kind = path.extension().and_then(OsStr::to_str);
        if kind.is_some_and(|kind| ["rlib", "rmeta", "so"].contains(&kind)) {
            fs::hard_link(&path, new.join("deps").join(library.file_name())).unwrap();
        }
    }
    fs::rename(&new, own).unwrap();
}

#[track_caller]
fn assert_clean(report: &ScanReport) {
    assert!(report.found_nothing(), "{} hits: {:#?}", report.hits_total, report.hits);
}

/// What was looked at: the figures that the documents quote.
fn print(report: &ScanReport) {
    print_as("all", report);
}

#[expect(clippy::print_stderr, reason = "the figures that the documents quote")]
fn print_as(what: &str, report: &ScanReport) {
    let ScanReport { bytes_scanned, bytes_absent, bytes_unreadable, .. } = report;
    eprintln!(
        "{what}: {bytes_scanned} bytes scanned, {bytes_absent} absent, {bytes_unreadable} unreadable: \
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
