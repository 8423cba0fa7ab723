//! How long a key's life takes around its work: from nothing to the first signature, and from the
//! end of the command to the receipt in the ledger.

#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use evanesce_launcher::{Clock, EndReason, Installation, Launcher, Plan, WorkerImage, Workload};
use evanesce_ledger::Timestamp;
use evanesce_ledger::receipt::KeyFate;
use evanesce_protocol::agent::request;
use evanesce_protocol::sshsig::{HashAlgorithm, SignedData};

struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "a benchmark is an edge, too")]
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

fn sign(workload: &Workload<'_>, key: &[u8]) {
    let data =
        SignedData { namespace: "file", hash: HashAlgorithm::Sha512, message_digest: &[7; 64] };
    let mut agent = UnixStream::connect(workload.agent_socket()).expect("the socket is served");
    agent.write_all(&request::sign(key, &data.to_bytes())).expect("the worker reads");
    let mut answer = [0; 5];
    agent.read_exact(&mut answer).expect("the worker answers");
    assert_eq!(answer[4], 14, "signed");
}

fn lives(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let installation = Installation {
        state_dir: directory.path().join("state"),
        runtime_dir: directory.path().join("run"),
    };
    let open = || {
        Launcher::open(installation.clone(), WorkerImage::embedded(), Box::new(SystemClock))
            .expect("a new installation")
    };
    open().notary().init().expect("a notary");

    let life = || {
        let begin = Instant::now();
        let launcher = open();
        let workload = launcher.start(Plan::default()).expect("a workload");
        let key = ssh_key::Certificate::from_openssh(workload.certificate_line())
            .and_then(|certificate| certificate.to_bytes())
            .expect("a certificate");
        sign(&workload, &key);
        let signed = begin.elapsed();
        let begin = Instant::now();
        let ended = workload.end(EndReason::CommandEnded).expect("a receipt");
        assert_eq!(ended.fate, KeyFate::Destroyed);
        (signed, begin.elapsed())
    };
    let mut group = criterion.benchmark_group("life");
    group.sample_size(50);
    let total = |count: u64, part: fn((Duration, Duration)) -> Duration| -> Duration {
        (0..count).map(|_| part(life())).sum()
    };
    group.bench_function("open to first signature", |bencher| {
        bencher.iter_custom(|count| total(count, |(signed, _)| signed));
    });
    group.bench_function("end to receipt", |bencher| {
        bencher.iter_custom(|count| total(count, |(_, ended)| ended));
    });
    group.finish();
}

criterion_group!(benches, lives);
criterion_main!(benches);
