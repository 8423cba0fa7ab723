//! Whole lives of workloads, with the real worker, from their start to their receipt.

#![expect(clippy::unwrap_used, reason = "a test stops where a step fails")]

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use evanesce_launcher::{
    Clock, CommandEnd, CommandLine, EndReason, Ended, Installation, KeySource, Launcher, Plan,
    Recovered, WorkerImage, Workload,
};
use evanesce_ledger::receipt::{Cause, Claim, KeyFate, ScrubMethod};
use evanesce_ledger::{Completeness, Event, Outcome, Reader, Timestamp, VerifyOptions};
use evanesce_protocol::agent::request;
use evanesce_protocol::grant::Grants;
use evanesce_protocol::sshsig::{HashAlgorithm, SignedData};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

/// How long anything here is waited for.
const SOON: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "a test is an edge, too")]
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// An installation in a directory that is gone after the test.
struct Host {
    directory: TempDir,
}

impl Host {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn installation(&self) -> Installation {
        Installation { state_dir: self.path("state"), runtime_dir: self.path("run") }
    }

    fn launcher(&self) -> Launcher {
        Launcher::open(self.installation(), WorkerImage::embedded(), Box::new(SystemClock)).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Audits the ledger with the installation's own notary.
    fn verdict(&self) -> evanesce_ledger::Verdict {
        let notary = self.launcher().notary().public_key().unwrap();
        let keys: Vec<_> = notary.into_iter().collect();
        let options = VerifyOptions {
            notary_keys: &keys,
            checkpoint: None,
            signature_threads: std::num::NonZero::<usize>::MIN,
        };
        evanesce_ledger::verify(&self.path("state/ledger"), &options).unwrap()
    }

    fn assert_nothing_is_left(&self) {
        for directory in ["state/workloads", "run"] {
            let left: Vec<_> = fs::read_dir(self.path(directory)).unwrap().collect();
            assert!(left.is_empty(), "{directory}: {left:?}");
        }
        let verdict = self.verdict();
        assert_eq!(
            (&verdict.first_bad_row, verdict.open_workloads_count),
            (&None, 0),
            "{verdict:?}"
        );
        assert_eq!(verdict.signatures.trusted > 0, verdict.outcome == Outcome::Trusted);
    }
}

fn shell(script: &str) -> CommandLine {
    let words: Vec<OsString> = ["sh", "-c", script].map(OsString::from).to_vec();
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    CommandLine::resolve(&words, vec![("PATH".into(), path.into())]).unwrap()
}

/// Has the agent sign in the namespace `file`; `None` where it refuses or is gone.
fn sign(workload: &Workload<'_>) -> Option<Vec<u8>> {
    let certificate = ssh_key::Certificate::from_openssh(workload.certificate_line()).unwrap();
    let data =
        SignedData { namespace: "file", hash: HashAlgorithm::Sha512, message_digest: &[7; 64] };
    let mut agent = UnixStream::connect(workload.agent_socket()).ok()?;
    agent.write_all(&request::sign(&certificate.to_bytes().unwrap(), &data.to_bytes())).ok()?;
    let mut length = [0; 4];
    agent.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    agent.read_exact(&mut answer).ok()?;
    (answer[0] == 14).then_some(answer)
}

fn claims(ended: &Ended) -> Vec<Claim> {
    ended.receipt.scrub.statements.iter().map(|statement| statement.claim).collect()
}

/// Turns the launcher's loop until the worker has ended its key by itself.
fn await_self_wipe(workload: &mut Workload<'_>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while workload.is_serving() {
        assert!(Instant::now() < deadline, "the worker goes on serving");
        workload.pump().unwrap();
        std::thread::yield_now();
    }
}

/// Recovers once nobody has the claim any more: a process that another test starts has a copy of
/// its lock until it executes its program.
fn recover(host: &Host) -> Vec<Recovered> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let recovered = host.launcher().recover().unwrap();
        if !recovered.is_empty() {
            return recovered;
        }
        assert!(Instant::now() < deadline, "nothing is recovered");
        std::thread::yield_now();
    }
}

#[test]
fn a_key_that_signed_is_wiped_overwritten_killed_and_receipted() {
    // Given a workload with a key that was born inside,
    let host = Host::new();
    let launcher = host.launcher();
    let workload = launcher.start(Plan::default()).unwrap();
    assert_eq!(launcher.list().unwrap().len(), 1);

    // When it signs once and ends,
    sign(&workload).unwrap();
    let ended = workload.end(EndReason::CommandEnded).unwrap();

    // Then the receipt says destroyed, what was done for it, and what it signed.
    assert_eq!(ended.fate, KeyFate::Destroyed);
    let receipt = &ended.receipt;
    assert_eq!(receipt.cause, Cause::CommandEnded);
    assert_eq!(receipt.scrub.method, ScrubMethod::WorkerWipedThenOverwritten);
    assert_eq!(receipt.scrub.unproven, []);
    assert!(receipt.scrub.bytes_wiped > 0 && receipt.scrub.bytes_overwritten > 0, "{receipt:?}");
    assert_eq!((receipt.signatures.count, receipt.signatures.complete), (1, true));
    for claim in
        [Claim::SeccompFilter, Claim::SecretPages, Claim::KilledByPidfd, Claim::ProcessGone]
    {
        assert!(claims(&ended).contains(&claim), "{claim:?}");
    }
    assert_eq!(launcher.list().unwrap(), []);
    host.assert_nothing_is_left();
    assert_eq!(host.verdict().completeness, Completeness::Unknown);
}

#[test]
fn ssh_keygen_signs_through_a_workload_and_verifies_by_the_notarys_line_alone() {
    let host = Host::new();
    let launcher = host.launcher();
    fs::write(host.path("artifact"), "content").unwrap();
    let artifact = host.path("artifact");
    let script = format!(
        "ssh-keygen -Y sign -f \"$EVANESCE_PUBLIC_KEY_FILE\" -n file {}",
        artifact.display()
    );

    let mut workload = launcher.start(Plan::default()).unwrap();
    let id = workload.id().to_string();
    assert_eq!(workload.run(&shell(&script)).unwrap(), CommandEnd::Exited(0));
    let listing = Command::new("ssh-keygen").arg("-Lf").arg(workload.public_key_file()).output();
    let listing = String::from_utf8(listing.unwrap().stdout).unwrap();
    let ended = workload.end(EndReason::CommandEnded).unwrap();

    assert_eq!(ended.receipt.signatures.count, 1);
    assert!(listing.contains(&format!("Key ID: \"{id}\"")), "{listing}");
    assert!(listing.contains("Extensions: (none)"), "{listing}");
    let notary = launcher.notary().show().unwrap().unwrap();
    fs::write(host.path("allowed_signers"), notary.allowed_signers_line).unwrap();
    for identity in ["evanesce", &id] {
        let verified = Command::new("ssh-keygen")
            .args(["-Y", "verify", "-n", "file", "-I", identity, "-f"])
            .arg(host.path("allowed_signers"))
            .arg("-s")
            .arg(host.path("artifact.sig"))
            .stdin(fs::File::open(&artifact).unwrap())
            .output()
            .unwrap();
        assert!(verified.status.success(), "{verified:?}");
    }
}

#[test]
fn a_commands_own_status_signal_and_variables_come_through() {
    let host = Host::new();
    let launcher = host.launcher();

    for (script, expected) in [
        ("exit 7", CommandEnd::Exited(7)),
        ("kill -TERM $$", CommandEnd::Signalled(15)),
        (
            "test \"$EVANESCE_WORKLOAD_ID\" = named && test -S \"$SSH_AUTH_SOCK\"",
            CommandEnd::Exited(0),
        ),
        ("ssh-add -L | grep -q \"$EVANESCE_PUBLIC_KEY\"", CommandEnd::Exited(0)),
        ("test \"$(git config gpg.format)\" = ssh", CommandEnd::Exited(0)),
    ] {
        let plan = Plan { workload_id: Some("named".parse().unwrap()), ..Plan::default() };
        let mut workload = launcher.start(plan).unwrap();
        assert_eq!(workload.run(&shell(script)).unwrap(), expected, "{script}");
        let ended = workload.end(EndReason::CommandEnded).unwrap();
        assert_eq!(ended.receipt.command, Some(expected));
    }
    host.assert_nothing_is_left();
}

#[test]
fn a_worker_that_is_killed_leaves_a_receipt_that_rests_on_the_kernel() {
    let host = Host::new();
    let launcher = host.launcher();
    let workload = launcher.start(Plan::default()).unwrap();
    sign(&workload).unwrap();

    let pid = Pid::from_raw(i32::try_from(workload.worker_pid()).unwrap()).unwrap();
    let worker = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    // Asked to end before it is dead, it would be lost on the way to an end of another cause.
    poll(&mut [PollFd::new(&worker, PollFlags::IN)], Some(&SOON)).unwrap();
    let ended = workload.end(EndReason::CommandEnded).unwrap();

    let receipt = &ended.receipt;
    assert_eq!((receipt.cause, ended.fate), (Cause::WorkerLost, KeyFate::Destroyed));
    assert_eq!(receipt.scrub.method, ScrubMethod::Kernel);
    assert_eq!((receipt.signatures.count, receipt.signatures.complete), (1, false));
    assert!(!claims(&ended).contains(&Claim::RegionsWipedAndReadBack));
    assert!(!claims(&ended).contains(&Claim::KilledByPidfd));
    host.assert_nothing_is_left();
}

#[test]
fn a_key_ends_by_itself_when_its_budget_its_time_or_its_kill_switch_says_so() {
    let host = Host::new();
    let launcher = host.launcher();
    let switch = host.path("stop");
    for (plan, cause) in [
        (Plan { signatures_max: 1, ..Plan::default() }, Cause::SignaturesSpent),
        (Plan { ttl: Duration::from_millis(1), ..Plan::default() }, Cause::TimeToLive),
        (Plan { kill_switch: Some(switch.clone()), ..Plan::default() }, Cause::KillSwitch),
    ] {
        let mut workload = launcher.start(plan).unwrap();
        if cause == Cause::SignaturesSpent {
            sign(&workload).unwrap();
        }
        fs::write(&switch, "").unwrap();

        await_self_wipe(&mut workload);
        let ended = workload.end(EndReason::CommandEnded).unwrap();

        assert_eq!((ended.receipt.cause, ended.fate), (cause, KeyFate::Destroyed));
        assert_eq!(ended.receipt.scrub.method, ScrubMethod::WorkerWipedThenOverwritten);
        fs::remove_file(&switch).unwrap();
    }
    host.assert_nothing_is_left();
}

/// Between the two is the moment to close what carries events out of this process.
#[test]
fn keys_that_are_scrubbed_together_are_all_gone_before_the_first_receipt() {
    // Given two workloads,
    let host = Host::new();
    let launcher = host.launcher();
    let mut workloads = [(); 2].map(|()| launcher.start(Plan::default()).unwrap());
    sign(&workloads[0]).unwrap();

    // When the keys of both are ended,
    workloads.iter_mut().for_each(|workload| workload.scrub(EndReason::Operator));

    // Then no worker is left, and there is no receipt yet;
    for workload in &workloads {
        assert!(!fs::exists(format!("/proc/{}", workload.worker_pid())).unwrap());
        assert_eq!(sign(workload), None);
    }
    assert_eq!(host.verdict().open_workloads_count, 2);
    // and the receipts tell that end, whatever is asked later.
    for (workload, signatures) in workloads.into_iter().zip([1, 0]) {
        let ended = workload.end(EndReason::Failed).unwrap();
        assert_eq!((ended.receipt.cause, ended.fate), (Cause::Operator, KeyFate::Destroyed));
        assert_eq!(ended.receipt.scrub.method, ScrubMethod::WorkerWipedThenOverwritten);
        assert_eq!(ended.receipt.signatures.count, signatures);
        assert!(ended.receipt.signatures.complete);
    }
    host.assert_nothing_is_left();
}

#[test]
fn a_workload_whose_launcher_is_lost_gets_its_one_receipt_from_the_next() {
    // Given a workload that signed and whose launcher let go of it,
    let host = Host::new();
    let launcher = host.launcher();
    let workload = launcher.start(Plan::default()).unwrap();
    let id = workload.id().clone();
    sign(&workload).unwrap();
    drop(workload);

    // When another launcher recovers, and another after it,
    let recovered = recover(&host);
    let again = host.launcher().recover().unwrap();

    // Then the first wrote a receipt with the signature in it, and the second found nothing to do.
    assert_eq!(recovered.len(), 1);
    assert_eq!((&recovered[0].workload, recovered[0].fate), (&id, Some(KeyFate::Destroyed)));
    assert_eq!(again, []);
    host.assert_nothing_is_left();
    let rows = Reader::open(&host.path("state/ledger")).unwrap();
    let signed: Vec<_> = rows
        .rows()
        .filter_map(|row| match row.unwrap().event {
            Event::Signed(signed) => Some(signed.requests.len()),
            _ => None,
        })
        .collect();
    assert_eq!(signed, [1]);
}

#[test]
fn a_key_file_that_is_no_key_is_refused_by_the_worker_and_nothing_is_left() {
    let host = Host::new();
    let launcher = host.launcher();
    let key = host.path("key.pem");
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let plan = Plan { key: KeySource::File(key), ..Plan::default() };
    let refused = launcher.start(plan).unwrap_err();

    assert!(refused.code().starts_with("key."), "{}: {refused}", refused.code());
    host.assert_nothing_is_left();
}

#[test]
fn a_key_from_a_file_signs_and_only_this_copy_is_called_destroyed() {
    let host = Host::new();
    let launcher = host.launcher();
    let key = host.path("key.pem");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-out"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let plan = Plan { key: KeySource::File(key.clone()), ..Plan::default() };
    let workload = launcher.start(plan).unwrap();
    let public = Command::new("openssl")
        .args(["pkey", "-pubout", "-outform", "DER", "-in"])
        .arg(&key)
        .output();
    let public = public.unwrap().stdout;
    assert_eq!(public[public.len() - 32..], *workload.public_key().as_bytes());
    let ended = workload.end(EndReason::CommandEnded).unwrap();

    assert_eq!(ended.fate, KeyFate::ThisCopyDestroyed);
}

#[test]
fn an_id_is_used_by_one_workload_at_a_time() {
    let host = Host::new();
    let launcher = host.launcher();
    let plan = || Plan { workload_id: Some("one".parse().unwrap()), ..Plan::default() };
    let first = launcher.start(plan()).unwrap();

    let refused = launcher.start(plan()).unwrap_err();

    assert_eq!(refused.code(), "claim.in-use");
    sign(&first).unwrap();
    let _ended = first.end(EndReason::CommandEnded).unwrap();
    host.assert_nothing_is_left();
}

#[test]
fn what_was_not_granted_is_not_signed() {
    let host = Host::new();
    let launcher = host.launcher();
    let grants = Grants::new(vec!["sshsig:git".parse().unwrap()]).unwrap();

    let workload = launcher.start(Plan { grants, ..Plan::default() }).unwrap();

    assert_eq!(sign(&workload), None);
    assert_eq!(workload.end(EndReason::CommandEnded).unwrap().receipt.signatures.count, 0);
}

#[test]
fn launchers_that_start_at_once_make_one_notary() {
    let host = Host::new();
    let ids: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| host.launcher().notary().init().unwrap().key_id))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });

    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let mode = fs::metadata(host.path("state/notary/key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_rotated_notary_is_vouched_for_by_the_one_before_it() {
    let host = Host::new();
    let launcher = host.launcher();
    let first = launcher.notary().init().unwrap();

    let second = launcher.notary().rotate("yearly").unwrap();

    assert_ne!(first.key_id, second.key_id);
    assert_eq!(second.retired, [first.key_id]);
    let keys = [first.public_key];
    let options = VerifyOptions {
        notary_keys: &keys,
        checkpoint: Some(&launcher.checkpoint().unwrap()),
        signature_threads: std::num::NonZero::<usize>::MIN,
    };
    let verdict = evanesce_ledger::verify(&host.path("state/ledger"), &options).unwrap();
    assert_eq!(verdict.outcome, Outcome::Trusted, "{verdict:?}");
}

#[test]
fn a_socket_path_that_is_too_long_is_refused_and_nothing_is_left() {
    let host = Host::new();
    let deep = host.path(&"d".repeat(100));
    let installation = Installation { runtime_dir: deep, ..host.installation() };
    let launcher =
        Launcher::open(installation, WorkerImage::embedded(), Box::new(SystemClock)).unwrap();

    let refused = launcher.start(Plan::default()).unwrap_err();

    assert_eq!(refused.code(), "agent-socket.too-long");
    assert_eq!(fs::read_dir(host.path("state/workloads")).unwrap().count(), 0);
}

#[test]
fn a_worker_runs_behind_every_wall_that_can_be_seen_from_outside() {
    let host = Host::new();
    let launcher = host.launcher();
    let workload = launcher.start(Plan::default()).unwrap();

    let status = fs::read_to_string(format!("/proc/{}/status", workload.worker_pid())).unwrap();

    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Threads:\t1"] {
        assert!(status.contains(line), "{line} is missing from {status}");
    }
    let _ended = workload.end(EndReason::CommandEnded).unwrap();
}
