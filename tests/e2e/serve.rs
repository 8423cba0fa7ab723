//! Remote signing: a server as it is built, clients with real certificates, and what goes wrong.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding as _};
use ed25519_dalek::{Signature, VerifyingKey};
use evanesce_protocol::evidence::provider;
use evanesce_residue::{Canary, Scanner, unwatched};
use evanesce_tests::https::{Answer, Https, Pki};
use evanesce_tests::process::{DEADLINE, is_alive, send};
use evanesce_tests::{Installation, Outcome, Running, peers, wait_until};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message as _;
use rustix::process::Signal;
use rustls::ClientConfig;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::genoa::Machine;
use crate::installation;
use crate::tsm_fs::TsmFs;

/// An installation, a PKI and a server with the keys `files` and `digests`.
struct Served {
    here: Installation,
    pki: Pki,
    server: Running,
    address: SocketAddr,
}

/// `None` where the machine lacks what is needed.
fn served(clients: &str) -> Option<Served> {
    served_with(clients, KEYS, "", &[])
}

fn served_with(clients: &str, keys: &str, top: &str, args: &[&str]) -> Option<Served> {
    if peers::missing(&["openssl"]) {
        return None;
    }
    let here = installation();
    let pki = Pki::new(&here.work_dir().join("pki"));
    for name in ["ci", "other", "stranger"] {
        pki.client(name);
    }
    write_config(&here, &pki, clients, keys, top);
    let line = ["serve", "serve.toml"].iter().chain(args);
    let mut server = here.evanesce(line).start();
    let address = listening(&mut server);
    Some(Served { here, pki, server, address })
}

fn listening(server: &mut Running) -> SocketAddr {
    let line = server.next_line();
    line.strip_prefix("listening ").unwrap_or_else(|| panic!("{line}")).parse().unwrap()
}

fn write_config(here: &Installation, pki: &Pki, clients: &str, keys: &str, top: &str) -> PathBuf {
    let path = |name: &str| pki.path(name).display().to_string();
    let tls = format!(
        "[tls]\ncertificate = {:?}\nkey = {:?}\nclient-ca = {:?}\n",
        path("server.pem"),
        path("server.key"),
        path("ca.pem")
    );
    let listen = "listen = [\"127.0.0.1:0\"]";
    let clients = clients.replace("CI_DIGEST", &pki.digest("ci"));
    here.file("serve.toml", format!("{listen}\n{top}\n{tls}\n{keys}\n{clients}"))
}

impl Served {
    fn connect(&self, client: &str) -> Https {
        Https::connect(self.address, self.pki.config(Some(client))).unwrap()
    }

    /// Ends it in order.
    fn stop(self) -> (Installation, Outcome) {
        self.server.signal(Signal::TERM);
        (self.here, self.server.wait())
    }

    fn workers(&self) -> Vec<u32> {
        let listed = self.here.json(&["ps"]);
        let pids = listed.as_array().unwrap().iter().map(|entry| entry["worker_pid"].as_u64());
        pids.map(|pid| u32::try_from(pid.unwrap()).unwrap()).collect()
    }
}

fn digest_of(contents: &[u8]) -> String {
    format!("sha512:{}", hex::encode(Sha512::digest(contents)))
}

fn sign_file(client: &mut Https, contents: &[u8]) -> Answer {
    let body = json!({"digest": digest_of(contents), "namespace": "file"});
    client.ask("POST", "/v1/keys/files/sign", Some(&body)).unwrap()
}

fn sign_digest(client: &mut Https, contents: &[u8]) -> std::io::Result<Answer> {
    let body = json!({"digest": digest_of(contents), "context": "test"});
    client.ask("POST", "/v1/keys/digests/sign", Some(&body))
}

/// Panics unless it is a signature of `contents` by the key that the answer names.
fn check_digest_signature(answer: &Answer, contents: &[u8]) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    let key = hex::decode(text("public_key").strip_prefix("ed25519:").unwrap()).unwrap();
    let key = VerifyingKey::from_bytes(&key.try_into().unwrap()).unwrap();
    let signature = Base64::decode_vec(&text("signature"));
    let signature = Signature::from_slice(&signature.unwrap()).unwrap();
    let hash = Sha512::new_with_prefix(contents);
    key.verify_prehashed_strict(hash, Some(b"test"), &signature).unwrap();
}

const KEYS: &str = "
[keys.files]
grants = [\"sshsig\"]
[keys.digests]
grants = [\"digest\"]
";

const CLIENTS: &str = "
[clients.ci]
certificate = \"CI_DIGEST\"
keys = [\"files\", \"digests\"]
grants = [\"sshsig:file\", \"digest\"]
rate = 100000
metrics = true
[clients.other]
subject = \"CN=other\"
keys = [\"digests\"]
grants = [\"digest\"]
rate = 5
burst = 5
budget = 3
";

#[test]
fn what_a_server_signs_verifies_like_any_signature_and_its_keys_are_receipted() {
    let Some(served) = served(CLIENTS) else { return };
    let mut client = served.connect("ci");

    // A file's digest becomes a signature file that `verify` takes,
    let answer = sign_file(&mut client, b"the artifact").json();
    assert_eq!((&answer["algorithm"], &answer["namespace"]), (&"sshsig".into(), &"file".into()));
    served.here.file("artifact", "the artifact");
    served.here.file("artifact.sig", answer["signature"].as_str().unwrap());
    served.here.run(&["verify", "artifact"]).expect_status(0);
    // a digest an Ed25519ph signature,
    let answer = sign_digest(&mut client, b"another").unwrap();
    check_digest_signature(&answer, b"another");
    // and the key says of itself what it is.
    let key = client.ask("GET", "/v1/keys/digests", None).unwrap().json();
    assert_eq!((&key["use"], &key["state"]), (&"digest".into(), &"serving".into()));
    assert_eq!((&key["signatures"], &key["public_key"]), (&1.into(), &answer.json()["public_key"]));
    // Each key is in a worker of its own.
    assert_eq!(served.workers().len(), 2);

    let workers = served.workers();
    let (here, outcome) = served.stop();
    outcome.expect_status(0);
    assert!(workers.into_iter().all(|pid| !is_alive(pid)));
    for key in ["files", "digests"] {
        let receipt = here.receipt(key);
        assert_eq!(receipt["key"]["fate"], "destroyed", "{receipt:#}");
        assert_eq!(receipt["cause"], "operator");
        assert_eq!(receipt["signatures"]["count"], 1);
        assert_eq!(receipt["signatures"]["complete"], true);
    }
    here.run(&["audit", "verify"]).expect_status(0);
    here.run(&["verify", "artifact"]).expect_status(0);
}

#[test]
fn who_has_no_certificate_or_one_that_nobody_knows_gets_nothing() {
    let Some(served) = served(CLIENTS) else { return };
    let elsewhere = Pki::new(&served.here.work_dir().join("elsewhere"));
    elsewhere.client("ci");

    // Without a certificate, and with one of another authority, there is no connection.
    let nobody = served.pki.config(None);
    let of_elsewhere = elsewhere.config_believing(&served.pki, Some("ci"));
    for config in [nobody, of_elsewhere] {
        let mut client = Https::connect(served.address, config).unwrap();
        client.ask("GET", "/healthz", None).unwrap_err();
    }
    // A server's certificate is none of a client.
    let mut client = served.connect("server");
    client.ask("GET", "/healthz", None).unwrap_err();
    // Whose certificate is believed, and no client's, sees that there is a server and no more.
    let mut stranger = served.connect("stranger");
    assert_eq!(stranger.ask("GET", "/healthz", None).unwrap().status, 200);
    assert_eq!(stranger.ask("GET", "/readyz", None).unwrap().json()["ready"], true);
    for path in ["/v1/keys/files", "/metrics"] {
        stranger.ask("GET", path, None).unwrap().expect_problem(403, "client.unknown");
    }
    sign_file(&mut stranger, b"x").expect_problem(403, "client.unknown");
    served.stop().1.expect_status(0);
}

#[test]
fn each_refusal_has_its_status_and_its_code() {
    let Some(served) = served(CLIENTS) else { return };
    let mut ci = served.connect("ci");
    let sign = |client: &mut Https, key: &str, body: Value| {
        client.ask("POST", &format!("/v1/keys/{key}/sign"), Some(&body)).unwrap()
    };
    let digest = digest_of(b"x");

    // Keys: another's, none at all, and no name of any.
    let mut other = served.connect("other");
    let file = json!({"digest": digest, "namespace": "file"});
    sign(&mut other, "files", file.clone()).expect_problem(404, "key.none");
    sign(&mut ci, "nowhere", file.clone()).expect_problem(404, "key.none");
    sign(&mut ci, "No%20Name", file.clone()).expect_problem(404, "key.none");
    // Uses: a namespace that is not granted, one of our own, a key of the other use.
    let of = |namespace: &str| json!({"digest": digest, "namespace": namespace});
    sign(&mut ci, "files", of("git")).expect_problem(403, "grant.missing");
    sign(&mut ci, "files", of("evanesce-receipt")).expect_problem(403, "grant.missing");
    sign(&mut ci, "digests", file).expect_problem(403, "grant.missing");
    // Bodies.
    for body in [
        json!({}),
        json!({"digest": "sha512:00"}),
        json!({"digest": digest, "namespace": "file", "context": "both"}),
        json!({"digest": digest, "namespace": "with space"}),
        json!({"digest": digest, "context": "\u{1f511}"}),
        json!({"digest": digest, "unknown": 1}),
        json!({"digest": digest, "context": "evanesce-receipt"}),
        json!([]),
    ] {
        sign(&mut ci, "files", body).expect_problem(400, "request.malformed");
    }
    let long = json!({"digest": digest, "context": "x".repeat(5000)});
    sign(&mut served.connect("ci"), "digests", long).expect_problem(413, "request.too-long");
    let mut client = served.connect("ci");
    client
        .send(b"POST /v1/keys/files/sign HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        .unwrap();
    client.answer().unwrap().expect_problem(415, "request.not-json");
    // Paths and methods.
    ci.ask("GET", "/nowhere", None).unwrap().expect_problem(404, "request.no-such-path");
    let refused = ci.ask("DELETE", "/v1/keys/files", None).unwrap();
    assert_eq!(
        refused.expect_problem(405, "request.other-method").header("allow"),
        Some("GET, HEAD")
    );
    let refused = ci.ask("GET", "/v1/keys/files/sign", None).unwrap();
    assert_eq!(refused.expect_problem(405, "request.other-method").header("allow"), Some("POST"));
    // Evidence that is not collected, and not granted.
    let nonce = json!({"nonce": "5a".repeat(32)});
    let evidence = ci.ask("POST", "/v1/keys/files/evidence", Some(&nonce)).unwrap();
    evidence.expect_problem(403, "grant.missing");
    other.ask("GET", "/metrics", None).unwrap().expect_problem(403, "grant.missing");
    // All of that was counted, and nothing was signed.
    let metrics = String::from_utf8(ci.ask("GET", "/metrics", None).unwrap().body).unwrap();
    let refusals =
        "evanesce_answers_total{route=\"sign\",status=\"404\",code=\"key.none\",client=\"ci\"} 2";
    assert!(metrics.contains(refusals), "{metrics}");
    assert!(metrics.contains("evanesce_signatures_total{key=\"files\"} 0"), "{metrics}");

    let (here, outcome) = served.stop();
    outcome.expect_status(0);
    assert_eq!(here.receipt("files")["signatures"]["count"], 0);
}

#[test]
fn rate_and_budget_end_where_the_policy_says() {
    let Some(served) = served(CLIENTS) else { return };
    let mut client = served.connect("other");

    // Three signatures are in the budget, five requests in the burst.
    for index in 0..3_u8 {
        check_digest_signature(&sign_digest(&mut client, &[index]).unwrap(), &[index]);
    }
    sign_digest(&mut client, b"4").unwrap().expect_problem(403, "budget.spent");
    let mut limited = None;
    for _ in 0..10 {
        let answer = sign_digest(&mut client, b"5").unwrap();
        match answer.status {
            403 => {}
            _ => limited = Some(answer),
        }
    }
    let limited = limited.expect("ten requests are more than five at once");
    limited.expect_problem(429, "rate.exceeded");
    assert_eq!(limited.header("retry-after"), Some("1"));
    // Another client is none the worse.
    let mut ci = served.connect("ci");
    check_digest_signature(&sign_digest(&mut ci, b"6").unwrap(), b"6");

    let (here, outcome) = served.stop();
    outcome.expect_status(0);
    assert_eq!(here.receipt("digests")["signatures"]["count"], 4);
}

#[test]
fn a_worker_that_dies_is_receipted_at_once_and_its_key_says_so_while_others_sign() {
    let Some(served) = served(CLIENTS) else { return };
    let mut client = served.connect("ci");
    sign_file(&mut client, b"x");
    let listed = served.here.json(&["ps"]);
    let of_files = listed.as_array().unwrap().iter().find(|entry| entry["workload_id"] == "files");
    let worker = u32::try_from(of_files.unwrap()["worker_pid"].as_u64().unwrap()).unwrap();

    send(worker, Signal::KILL);

    // Its receipt is there while the server goes on,
    let mut described = Value::Null;
    wait_until("the key's end is told", || {
        described = client.ask("GET", "/v1/keys/files", None).unwrap().json();
        described["end"]["receipt_row"].is_u64()
    });
    assert_eq!(described["state"], "ended");
    assert_eq!(described["end"]["reason"], "its worker died");
    assert_eq!(served.here.receipt("files")["cause"], "worker-lost");
    // its key answers with the reason,
    let refused = sign_file(&mut client, b"y");
    let detail = refused.expect_problem(503, "key.ended").json()["detail"].clone();
    assert_eq!(detail, "the key has ended: its worker died");
    let ready = client.ask("GET", "/readyz", None).unwrap();
    assert_eq!((ready.status, &ready.json()["ended"]), (503, &json!(["files"])));
    // and the other signs.
    check_digest_signature(&sign_digest(&mut client, b"z").unwrap(), b"z");

    let (here, outcome) = served.stop();
    outcome.expect_status(0);
    assert_eq!(receipts(&here), 2);
    here.run(&["audit", "verify"]).expect_status(0);
}

#[test]
fn a_key_whose_budget_is_spent_says_so() {
    let keys = "[keys.digests]\ngrants = [\"digest\"]\nsignatures-max = 2\n";
    let clients =
        "[clients.other]\nsubject = \"CN=other\"\nkeys = [\"digests\"]\ngrants = [\"digest\"]\n";
    let Some(served) = served_with(clients, keys, "", &[]) else { return };
    let mut client = served.connect("other");
    for index in 0..2_u8 {
        check_digest_signature(&sign_digest(&mut client, &[index]).unwrap(), &[index]);
    }

    let mut detail = String::new();
    wait_until("the key's end is told", || {
        let answer = sign_digest(&mut client, b"3").unwrap();
        detail = answer.json()["detail"].to_string();
        answer.status == 503 && detail.contains("budget of signatures is spent")
    });

    let (here, outcome) = served.stop();
    outcome.expect_status(0);
    let receipt = here.receipt("digests");
    assert_eq!(
        (&receipt["cause"], &receipt["signatures"]["count"]),
        (&"signatures-spent".into(), &2.into())
    );
}

/// Clients that ask without end, and what they got.
struct Crowd {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    /// Each on a connection of its own, which it keeps. An answer that is not a valid signature ends
    /// the test; what happens where the connection ends is for `is_end_expected` to say.
    fn start(served: &Served, clients: usize, is_end_expected: bool) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let config: Arc<ClientConfig> = served.pki.config(Some("ci"));
        let address = served.address;
        let threads = (0..clients).map(|number| {
            let (stop, answered, config) =
                (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&config));
            thread::spawn(move || {
                let mut client = Https::connect(address, config).unwrap();
                for round in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let contents = format!("{number} {round}").into_bytes();
                    match sign_digest(&mut client, &contents) {
                        Ok(answer) => check_digest_signature(&answer, &contents),
                        Err(_) if is_end_expected => return,
                        Err(error) => panic!("a request was dropped: {error}"),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let threads = threads.collect();
        Self { stop, answered, threads }
    }

    fn wait_for(&self, answers: u64) {
        let wanted = self.answered.load(Ordering::Relaxed) + answers;
        wait_until("clients are answered", || self.answered.load(Ordering::Relaxed) >= wanted);
    }

    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

fn receipts(here: &Installation) -> usize {
    let rows = here.evanesce(["audit", "show", "--json"]).output().expect_status(0).stdout;
    let rows = rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
    rows.filter(|row| row.to_string().contains("\"receipt\"")).count()
}

#[test]
fn sigterm_in_the_middle_answers_what_was_admitted_and_receipts_each_key_once() {
    let Some(served) = served(CLIENTS) else { return };
    let workers = served.workers();
    let crowd = Crowd::start(&served, 8, true);
    crowd.wait_for(200);

    let address = served.address;
    let (here, outcome) = served.stop();

    // Each answer was a valid signature, each signature is in the ledger, and nothing is left.
    let answered = crowd.finish();
    outcome.expect_status(0);
    assert!(workers.into_iter().all(|pid| !is_alive(pid)));
    let receipt = here.receipt("digests");
    let signed = receipt["signatures"]["count"].as_u64().unwrap();
    assert!(signed >= answered && signed - answered <= 8, "{signed} signed, {answered} answered");
    assert_eq!(receipt["signatures"]["complete"], true);
    assert_eq!(receipts(&here), 2);
    TcpStream::connect(address).unwrap_err();
    here.run(&["audit", "verify"]).expect_status(0);
}

#[test]
fn a_reload_drops_no_request_and_takes_hold_of_connections_that_are_open() {
    let Some(served) = served(CLIENTS) else { return };
    let mut other = served.connect("other");
    check_digest_signature(&sign_digest(&mut other, b"1").unwrap(), b"1");
    let crowd = Crowd::start(&served, 4, false);
    crowd.wait_for(50);
    let reload = || served.server.signal(Signal::HUP);
    let counted = |what: &str, count: u64| {
        let mut client = served.connect("ci");
        wait_until("the reload is counted", || {
            let metrics = client.ask("GET", "/metrics", None).unwrap().body;
            String::from_utf8(metrics)
                .unwrap()
                .contains(&format!("evanesce_{what}_total {count}\n"))
        });
    };

    // A policy without `other` ends its connection's rights, not the connection.
    let (ci, _) = CLIENTS.split_once("[clients.other]").unwrap();
    write_config(&served.here, &served.pki, ci, KEYS, "");
    reload();
    counted("reloads", 1);
    sign_digest(&mut other, b"2").unwrap().expect_problem(403, "client.unknown");
    // A file that cannot be used, and one that would need a restart, change nothing.
    served.here.file("serve.toml", "listen = [");
    reload();
    counted("reloads_failed", 1);
    write_config(&served.here, &served.pki, ci, "[keys.files]\n[keys.more]\n", "");
    reload();
    counted("reloads_failed", 2);
    crowd.wait_for(50);
    // With `other` back it is what it was, its budget included.
    write_config(&served.here, &served.pki, CLIENTS, KEYS, "");
    reload();
    counted("reloads", 2);
    check_digest_signature(&sign_digest(&mut other, b"3").unwrap(), b"3");
    check_digest_signature(&sign_digest(&mut other, b"4").unwrap(), b"4");
    sign_digest(&mut other, b"5").unwrap().expect_problem(403, "budget.spent");
    // Another authority: the old one's clients are distrusted, on open connections as well.
    crowd.wait_for(50);
    crowd.finish();
    let elsewhere = Pki::new(&served.here.work_dir().join("elsewhere"));
    elsewhere.client("ci");
    fs::copy(elsewhere.path("ca.pem"), served.pki.path("ca.pem")).unwrap();
    reload();
    wait_until("the old authority is forgotten", || match sign_digest(&mut other, b"6") {
        Ok(answer) => answer.status == 403 && answer.json()["code"] == "client.unknown",
        Err(_) => true,
    });

    let (_, outcome) = served.stop();
    let said = outcome.expect_status(0).stderr;
    for part in ["[serve-config.parse]", "[serve-config.no-such-key]"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn who_is_slow_or_says_nothing_is_cut_and_others_do_not_wait() {
    let top = "[timeouts]\nhandshake = \"300ms\"\nidle = \"300ms\"\nbody = \"200ms\"\n";
    let Some(served) = served_with(CLIENTS, KEYS, top, &[]) else { return };
    let begin = Instant::now();

    // No handshake,
    let mut mute = TcpStream::connect(served.address).unwrap();
    mute.set_read_timeout(Some(DEADLINE)).unwrap();
    // half a handshake,
    let mut half = TcpStream::connect(served.address).unwrap();
    half.set_read_timeout(Some(DEADLINE)).unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    // half a head,
    let mut head = served.connect("ci");
    head.send(b"GET /healthz HTTP/1.1\r\nhost:").unwrap();
    // no request after the first,
    let mut idle = served.connect("ci");
    assert_eq!(idle.ask("GET", "/healthz", None).unwrap().status, 200);
    // and a body that does not come,
    let mut body = served.connect("ci");
    body.send(b"POST /v1/keys/files/sign HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{").unwrap();

    // while somebody else is answered as always.
    let mut client = served.connect("other");
    check_digest_signature(&sign_digest(&mut client, b"x").unwrap(), b"x");
    body.answer().unwrap().expect_problem(408, "request.too-slow");
    assert!(matches!(mute.read(&mut [0; 16]), Ok(0) | Err(_)));
    while !matches!(half.read(&mut [0; 16]), Ok(0) | Err(_)) {}
    assert!(head.is_hung_up() && idle.is_hung_up() && body.is_hung_up());
    assert!(begin.elapsed() < DEADLINE / 2, "{:?}", begin.elapsed());
    // A head without end is not read to its end.
    let mut long = served.connect("ci");
    let header = format!("x: {}\r\n", "x".repeat(1000));
    let sent = long.send(format!("GET /healthz HTTP/1.1\r\n{}", header.repeat(40)).as_bytes());
    let refused = sent.and_then(|()| long.answer());
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status == 431));
    served.stop().1.expect_status(0);
}

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    let Some(served) = served_with(CLIENTS, KEYS, "connections = 3\n", &[]) else { return };
    let mut held: Vec<_> = (0..3).map(|_| served.connect("ci")).collect();
    for client in &mut held {
        assert_eq!(client.ask("GET", "/healthz", None).unwrap().status, 200);
    }

    let mut next = served.connect("ci");
    let waiting = thread::spawn(move || next.ask("GET", "/healthz", None).unwrap().status);
    assert_eq!(held[0].ask("GET", "/healthz", None).unwrap().status, 200);
    assert!(!waiting.is_finished());
    held.pop();

    assert_eq!(waiting.join().unwrap(), 200);
    drop(held);
    served.stop().1.expect_status(0);
}

/// As systemd does it: the socket is descriptor 3, and each step is told.
#[test]
fn a_socket_that_is_handed_over_is_served_and_systemd_is_told_of_each_step() {
    if peers::missing(&["openssl", "python3"]) {
        return;
    }
    let here = installation();
    let pki = Pki::new(&here.work_dir().join("pki"));
    pki.client("ci");
    let (ci, _) = CLIENTS.split_once("[clients.other]").unwrap();
    write_config(&here, &pki, ci, KEYS, "");
    let told = here.root().join("notify.sock");
    let manager = UnixDatagram::bind(&told).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let program = here.program_file().to_str().unwrap().to_owned();
    let line = ["python3", "-c", HAND_OVER, &program, "serve", "serve.toml"];
    let handed_over = here.program(line[0], &line[1..]).env("NOTIFY_SOCKET", &told);
    let mut server = handed_over.start();
    let handed: SocketAddr = server.next_line().parse().unwrap();
    let told = || {
        let mut message = [0; 1024];
        let bytes = manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..bytes]).into_owned()
    };
    let until = |part: &str| {
        let mut heard = String::new();
        while !heard.contains(part) {
            heard = told();
        }
        heard
    };

    assert_eq!(listening(&mut server), handed);
    until("READY=1");
    until("WATCHDOG=1");
    let mut client = Https::connect(handed, pki.config(Some("ci"))).unwrap();
    check_digest_signature(&sign_digest(&mut client, b"x").unwrap(), b"x");
    server.signal(Signal::HUP);
    assert!(until("RELOADING=1").contains("MONOTONIC_USEC="));
    until("READY=1");
    server.signal(Signal::TERM);
    until("STOPPING=1");
    server.wait().expect_status(0);
}

/// Makes a listening socket, says where, and becomes the program with the socket as descriptor 3.
const HAND_OVER: &str = "
import os, socket, sys
s = socket.create_server(('127.0.0.1', 0))
print('%s:%d' % s.getsockname(), flush=True)
if s.fileno() != 3:
    os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn a_file_or_certificate_that_cannot_be_used_is_refused_before_there_is_a_key() {
    if peers::missing(&["openssl"]) {
        return;
    }
    let here = installation();
    let pki = Pki::new(&here.work_dir().join("pki"));
    pki.client("ci");
    let refused = |code: &str, status: i32| {
        here.run(&["serve", "serve.toml"]).expect_refusal(status, code);
    };

    refused("input.read", 2);
    write_config(&here, &pki, CLIENTS, "[keys.files]\n", "");
    refused("serve-config.no-such-key", 2);
    write_config(&here, &pki, CLIENTS, KEYS, "");
    here.run(&["serve", "--check", "serve.toml"]).expect_status(0);
    fs::copy(pki.path("ci.key"), pki.path("server.key")).unwrap();
    refused("serve-tls.server", 2);
    fs::remove_file(pki.path("ca.pem")).unwrap();
    refused("serve-tls.read", 2);
    assert!(!here.state_dir().exists(), "{:?}", here.files());
}

/// The whole way of `sign --remote`, but for the silicon.
#[test]
fn a_client_appraises_the_server_before_it_asks_and_checks_before_it_believes() {
    let machine = Machine::new();
    let firmware = Machine::new();
    let certificates = machine.certificate_table();
    let Some(tsm) = TsmFs::mount(
        provider::SNP,
        Some(certificates),
        Box::new(move |data| firmware.report(data)),
    ) else {
        return;
    };
    let root = tsm.root.path().to_str().unwrap();
    let keys = KEYS.replace("[keys.digests]", "evidence = true\n[keys.digests]");
    let clients = CLIENTS.replacen("metrics = true", "evidence = true", 1);
    let served = served_with(&clients, &keys, "", &["--tsm-root", root]);
    let Some(served) = served else { return };
    // Given a policy for the server's machine, from evidence with a nonce of the client's,
    let elsewhere = installation();
    let mut client = served.connect("ci");
    let nonce = "5a".repeat(32);
    let body = json!({"nonce": nonce});
    let evidence = client.ask("POST", "/v1/keys/files/evidence", Some(&body)).unwrap();
    assert_eq!(evidence.status, 200, "{evidence:?}");
    assert_eq!(evidence.json()["binding"]["nonce"], nonce);
    let none = client.ask("POST", "/v1/keys/digests/evidence", Some(&body)).unwrap();
    none.expect_problem(404, "evidence.none");
    elsewhere.file("evidence.json", &evidence.body);
    elsewhere.file("roots.pem", &machine.roots);
    let kept = elsewhere.state_dir().join("collateral/snp/Genoa");
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("crl.der"), &machine.crl).unwrap();
    let init = ["attest", "policy", "init", "--from-evidence", "evidence.json"];
    let policy = elsewhere.evanesce(init).output().expect_status(0).stdout;
    let policy = policy.replace("\"production\"", "\"development\"");
    let policy = policy.replace("age_hours_max = 720", "age_hours_max = 1000000");
    elsewhere.file("policy.toml", &policy);
    elsewhere.file("artifact", "the artifact");

    // When a file is signed by it,
    let url = format!("https://localhost:{}/v1/keys/files", served.address.port());
    let path = |name: &str| served.pki.path(name).display().to_string();
    let (cert, key, ca) = (path("ci.pem"), path("ci.key"), path("ca.pem"));
    let sign = |url: &str, policy: &str, more: &[&str]| {
        let line = [
            "sign",
            "--remote",
            url,
            "--policy",
            policy,
            "--client-cert",
            &cert,
            "--client-key",
            &key,
            "--ca",
            &ca,
            "--unsafe-trust-root",
            "roots.pem",
            "artifact",
        ];
        elsewhere.evanesce(line.iter().chain(more)).output()
    };
    let said = sign(&url, "policy.toml", &[]).expect_status(0).stdout;
    assert!(said.contains("attested  in a "), "{said}");

    // Then signature and evidence are all that somebody needs to trust it.
    let verify =
        ["verify", "artifact", "--policy", "policy.toml", "--unsafe-trust-root", "roots.pem"];
    elsewhere.evanesce(verify).output().expect_status(0);
    // No key was made here, and no installation.
    assert!(!elsewhere.state_dir().join("ledger").exists());
    sign(&url, "policy.toml", &[]).expect_status(2);
    // Another machine's policy is not met, and then nothing is asked to be signed.
    let signed = || client_signatures(&served);
    let before = signed();
    let measurement = policy.lines().find(|line| line.contains("measurement")).unwrap();
    let hex: String = measurement.chars().filter(char::is_ascii_hexdigit).collect();
    let digits = hex.get(hex.len() - 96..).expect("48 bytes");
    elsewhere.file("strange.toml", policy.replace(digits, &"0".repeat(96)));
    let refused = sign(&url, "strange.toml", &["--force"]);
    assert!(refused.stderr.contains("[remote.not-attested]"), "{refused:?}");
    assert_eq!(signed(), before);
    // A server that refuses is heard.
    let nowhere = url.replace("/files", "/nowhere");
    let refused = sign(&nowhere, "policy.toml", &["--force"]);
    assert!(refused.stderr.contains("404, key.none"), "{refused:?}");
    assert!(refused.stderr.contains("[remote.refused]"), "{refused:?}");

    let (here, outcome) = served.stop();
    outcome.expect_status(0);
    assert_eq!(here.receipt("files")["signatures"]["count"], 1);
}

fn client_signatures(served: &Served) -> u64 {
    let mut client = served.connect("ci");
    let key = client.ask("GET", "/v1/keys/files", None).unwrap().json();
    key["signatures"].as_u64().unwrap()
}

/// A wait that must not be cut short by accident: the tests above assert ends, this one patience.
#[test]
fn a_client_that_keeps_asking_is_not_cut() {
    let top = "[timeouts]\nidle = \"200ms\"\n";
    let Some(served) = served_with(CLIENTS, KEYS, top, &[]) else { return };
    let mut client = served.connect("ci");
    let until = Instant::now() + Duration::from_millis(600);
    while Instant::now() < until {
        check_digest_signature(&sign_digest(&mut client, b"x").unwrap(), b"x");
    }
    served.stop().1.expect_status(0);
}

/// A collector of OpenTelemetry, on this machine.
struct Collector {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    exports: Arc<Mutex<Vec<Export>>>,
}

/// One request to it.
struct Export {
    head: String,
    body: Vec<u8>,
    /// Before the first byte of the answer.
    answered: OffsetDateTime,
}

#[derive(Clone, Copy)]
enum Manner {
    /// Takes everything, but not at once.
    Takes,
    /// Asks to be left alone for half a minute.
    Refuses,
    /// Never answers.
    Hangs,
}

impl Collector {
    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, exports) = (Arc::<AtomicU64>::default(), Arc::default());
        let (counted, kept) = (Arc::clone(&connections), Arc::clone(&exports));
        thread::spawn(move || {
            for stream in listener.incoming() {
                counted.fetch_add(1, Ordering::Relaxed);
                let kept = Arc::clone(&kept);
                thread::spawn(move || Self::answer(&stream.unwrap(), manner, &kept));
            }
        });
        Self { address, connections, exports }
    }

    fn answer(mut stream: &TcpStream, manner: Manner, exports: &Mutex<Vec<Export>>) {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let status = match manner {
            Manner::Hangs => None,
            Manner::Takes => Some("200 OK"),
            Manner::Refuses => Some("503 Service Unavailable\r\nretry-after: 30"),
        };
        if status.is_some() {
            // A receipt that did not wait for the answer would be older than it.
            let (_sender, nothing) = mpsc::channel::<()>();
            assert_eq!(nothing.recv_timeout(SLOWNESS), Err(RecvTimeoutError::Timeout));
        }
        exports.lock().unwrap().push(Export { head, body, answered: OffsetDateTime::now_utc() });
        if let Some(status) = status {
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
        }
        // Whoever sent it hangs up.
        assert_eq!(reader.read(&mut [0]).unwrap_or(0), 0);
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

const SLOWNESS: Duration = Duration::from_millis(400);

/// When each receipt's row was written.
fn receipt_times(here: &Installation) -> Vec<OffsetDateTime> {
    let rows = here.evanesce(["audit", "show", "--json"]).output().expect_status(0).stdout;
    let rows = rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
    rows.filter(|row| row["event"] == "receipt")
        .map(|row| OffsetDateTime::parse(row["at"].as_str().unwrap(), &Rfc3339).unwrap())
        .collect()
}

#[test]
fn events_go_to_a_collector_before_the_receipts_and_tell_no_key_and_no_request() {
    let collector = Collector::start(Manner::Takes);
    let canary = Canary::random().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("canary.pem");
    fs::write(&key, canary.to_pkcs8_pem()).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let keys = KEYS.replace("[keys.digests]", &format!("[keys.digests]\nfile = {key:?}"));
    let url = collector.url();
    let args = ["--otlp", &url, "--log", "trace"];
    let Some(served) = served_with(CLIENTS, &keys, "", &args) else { return };
    let mut client = served.connect("ci");
    let asked = json!({"digest": digest_of(b"the artifact"), "context": "the context"});
    let answer = client.ask("POST", "/v1/keys/digests/sign", Some(&asked)).unwrap();
    let signature = answer.json()["signature"].as_str().unwrap().to_owned();

    let (here, outcome) = served.stop();

    outcome.expect_status(0);
    let exports = collector.exports.lock().unwrap();
    // They are OTLP, and tell each key's life by name,
    let mut told = Vec::new();
    for export in exports.iter() {
        assert!(export.head.starts_with("post /v1/logs http/1.1\r\n"), "{}", export.head);
        assert!(export.head.contains("content-type: application/x-protobuf"), "{}", export.head);
        let request = ExportLogsServiceRequest::decode(&export.body[..]).unwrap();
        for resource in request.resource_logs {
            let attributes = format!("{:?}", resource.resource.unwrap().attributes);
            assert!(attributes.contains("service.name"), "{attributes}");
            let records = resource.scope_logs.into_iter().flat_map(|scope| scope.log_records);
            told.extend(records.map(|record| format!("{:?}", record.attributes)));
        }
    }
    for event in ["worker.started", "key.loaded", "workload.ended"] {
        for workload in ["files", "digests"] {
            let is_told = told.iter().any(|told| told.contains(event) && told.contains(workload));
            assert!(is_told, "{event} of {workload}: {told:#?}");
        }
    }
    // the last is answered once every key has ended and before the first receipt is written,
    let last = exports.iter().map(|export| export.answered).max().unwrap();
    let written = receipt_times(&here);
    assert_eq!(written.len(), 2);
    assert!(written.iter().all(|at| *at + MILLISECOND > last), "{written:?} {last}");
    for key in ["files", "digests"] {
        let ended = here.receipt(key)["times"]["ended"].as_str().unwrap().to_owned();
        assert!(OffsetDateTime::parse(&ended, &Rfc3339).unwrap() <= last, "{ended} {last}");
    }
    // each came over a connection of its own, which its sender has closed,
    assert_eq!(collector.connections.load(Ordering::Relaxed), exports.len() as u64);
    // and what was asked, what came of it and the key are in none.
    let sent: Vec<u8> = exports.iter().flat_map(|export| export.body.iter().copied()).collect();
    let contains = |part: &[u8]| sent.windows(part.len()).any(|window| window == part);
    let digest = Sha512::digest(b"the artifact");
    let parts = [&digest[..], hex::encode(digest).as_bytes(), b"the context", signature.as_bytes()]
        .map(<[u8]>::to_vec);
    assert!(contains(b"key.loaded"), "the search finds what is there");
    assert!(!parts.iter().any(|part| contains(part)), "{told:#?}");
    let scanner = Scanner::new(&canary.forms(&[]));
    let scanned = scanner.scan_reader("exports", 0, &sent[..], &mut unwatched()).unwrap();
    assert!(scanned.found_nothing(), "{:#?}", scanned.hits);
}

/// What rows leave out of the time.
const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn a_collector_that_hangs_refuses_or_is_not_there_costs_seconds_and_no_receipt() {
    let hangs = Collector::start(Manner::Hangs);
    let refuses = Collector::start(Manner::Refuses);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for url in [hangs.url(), refuses.url(), format!("http://{nobody}")] {
        let served = served_with(CLIENTS, KEYS, "", &["--otlp", &url]);
        let Some(served) = served else { return };
        let mut client = served.connect("ci");
        // Signing does not wait, not even where a request to the collector is under way.
        let is_asked = |asked: &Collector| asked.connections.load(Ordering::Relaxed) > 0;
        wait_until("a batch", || url != hangs.url() || is_asked(&hangs));
        let begun = Instant::now();
        check_digest_signature(&sign_digest(&mut client, b"x").unwrap(), b"x");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

        let begun = Instant::now();
        let (here, outcome) = served.stop();

        // Three seconds are the rule and the rest is for a busy machine; a collector's wish to be left
        // alone for thirty does not count.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let said = outcome.expect_status(0).stderr;
        assert!(said.contains(&url) && said.contains("[log.otlp]"), "{said}");
        assert_eq!(receipts(&here), 2);
        for key in ["files", "digests"] {
            assert_eq!(here.receipt(key)["key"]["fate"], "destroyed");
        }
        here.run(&["audit", "verify"]).expect_status(0);
    }
    assert!(!hangs.exports.lock().unwrap().is_empty());
    assert!(!refuses.exports.lock().unwrap().is_empty());
}

#[test]
fn without_the_option_no_collector_is_asked_whatever_the_environment_says() {
    if peers::missing(&["openssl"]) {
        return;
    }
    let collector = Collector::start(Manner::Takes);
    let here = installation();
    let pki = Pki::new(&here.work_dir().join("pki"));
    pki.client("ci");
    let (ci, _) = CLIENTS.split_once("[clients.other]").unwrap();
    write_config(&here, &pki, ci, KEYS, "");
    let serve = here.evanesce(["serve", "serve.toml", "--log", "trace"]);
    let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let mut server = serve.env(endpoint, collector.url()).start();
    listening(&mut server);

    server.signal(Signal::TERM);

    server.wait().expect_status(0);
    assert_eq!(receipts(&here), 2);
    assert_eq!(collector.connections.load(Ordering::Relaxed), 0);
    // An address that is no collector's is refused before there is a key.
    let strange = here.run(&["serve", "serve.toml", "--otlp", "http://collector.example"]);
    assert!(strange.expect_status(2).stderr.contains("https://HOST:PORT"));
}
