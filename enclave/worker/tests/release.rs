//! Workers as they are executed: one seals a key to the release key of another, which takes it for
//! the key that it announced, once, and for nothing else.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test and its helpers, a panic is the failure")]

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use evanesce_custody::{RELEASE_SECRET_BYTES, release_key, seal_to_release};
use evanesce_protocol::channel::Channel;
use evanesce_protocol::control::{Load, LoadSource, Loaded, Refused, SignerOrder, SignerReport};
use evanesce_protocol::custody::Seal;
use evanesce_protocol::evidence::{Nonce, ReleaseKey};
use evanesce_protocol::release::{RELEASE_SEALED_BYTES, ReleaseContext};
use evanesce_protocol::{Digest, KeyOrigin, KeyUse, PublicKey};

/// Keys that are public constants.
const SEED: [u8; 32] = [0x5e; 32];
const OTHER: [u8; 32] = [0x0f; 32];

fn public(seed: &[u8; 32]) -> PublicKey {
    PublicKey::from_bytes(SigningKey::from_bytes(seed).verifying_key().to_bytes())
}

fn context(session: u8) -> ReleaseContext {
    ReleaseContext {
        session: Nonce::from_bytes([session; 32]),
        challenge: Digest::of(b"challenge"),
        request: Digest::of(b"request"),
        public_key: public(&SEED),
    }
}

/// A worker in its cage. Killed when it is dropped.
struct Worker {
    channel: Channel,
    process: Child,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().unwrap_or(());
        self.process.wait().unwrap();
    }
}

impl Worker {
    fn start() -> Self {
        let (channel, theirs) = Channel::pair().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_evanesce-worker"))
            .args(["signer", "allow-locked-pages", "no-terminal"])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut worker = Self { channel, process };
        assert!(matches!(worker.report(), SignerReport::Caged(_)));
        worker
    }

    fn report(&mut self) -> SignerReport {
        self.channel.receive_within::<SignerReport>(Duration::from_secs(60)).unwrap().message
    }

    fn order(&mut self, order: &SignerOrder, files: &[BorrowedFd<'_>]) -> SignerReport {
        self.channel.send(order, files).unwrap();
        self.report()
    }

    fn offer(&mut self, key: PublicKey) -> ReleaseKey {
        match self.order(&SignerOrder::OfferRelease(key), &[]) {
            SignerReport::Offered(release_key) => release_key,
            other => panic!("{other:?}"),
        }
    }

    fn load(&mut self, load: Load, files: &[BorrowedFd<'_>]) -> Result<Loaded, Refused> {
        match self.order(&SignerOrder::Load(load), files) {
            SignerReport::Loaded(loaded) => Ok(loaded),
            SignerReport::Refused(refused) => Err(refused),
            other => panic!("{other:?}"),
        }
    }

    fn receive(
        &mut self,
        context: ReleaseContext,
        sealed: &[u8],
    ) -> Result<(PublicKey, KeyOrigin), Refused> {
        let source = LoadSource::Released { context, sealed: sealed.to_vec() };
        let loaded = self.load(Load { source, key_use: KeyUse::Message, seal: None }, &[])?;
        Ok((loaded.public_key, loaded.origin))
    }
}

/// What another worker would have sealed.
fn sealed(seed: &[u8; 32], to: &ReleaseKey, context: &ReleaseContext) -> Vec<u8> {
    let mut sealed = [0; RELEASE_SEALED_BYTES];
    seal_to_release(seed, to, context, &[0x22; RELEASE_SECRET_BYTES], &mut sealed).unwrap();
    sealed.to_vec()
}

/// The holder's side: a worker that opens the key file and seals the key.
fn seal_by_worker(to: ReleaseKey, context: ReleaseContext) -> Result<Vec<u8>, Refused> {
    let key = SigningKey::from_bytes(&SEED).to_pkcs8_pem(LineEnding::LF).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(key.as_bytes()).unwrap();
    let file = File::open(file.path()).unwrap();
    let load = Load {
        source: LoadSource::File { work_factor_max: 0 },
        key_use: KeyUse::Message,
        seal: Some(Seal::Release { to, context }),
    };
    let loaded = Worker::start().load(load, &[file.as_fd()])?;
    assert_eq!(loaded.public_key, public(&SEED));
    Ok(hex::decode(loaded.sealed.unwrap()).unwrap())
}

fn code<T: std::fmt::Debug>(result: Result<T, Refused>) -> &'static str {
    result.unwrap_err().code()
}

#[test]
fn a_key_goes_from_one_worker_to_another_and_is_sealed_between_them() {
    let mut asker = Worker::start();
    let to = asker.offer(public(&SEED));

    let sealed = seal_by_worker(to, context(1)).unwrap();

    assert_eq!(sealed.len(), RELEASE_SEALED_BYTES);
    assert_eq!(asker.receive(context(1), &sealed), Ok((public(&SEED), KeyOrigin::Released)));
}

#[test]
fn each_worker_makes_a_release_key_of_its_own_and_one_alone() {
    let (mut one, mut other) = (Worker::start(), Worker::start());
    let (first, second) = (one.offer(public(&SEED)), other.offer(public(&SEED)));
    assert_ne!(first, second);

    let again = one.order(&SignerOrder::OfferRelease(public(&SEED)), &[]);

    assert!(matches!(again, SignerReport::Refused(Refused::Order { .. })), "{again:?}");
}

#[test]
fn a_worker_takes_what_was_sealed_to_it_for_the_key_it_announced_and_nothing_else() {
    let offered = || {
        let mut worker = Worker::start();
        let to = worker.offer(public(&SEED));
        (worker, to)
    };
    // Another key than was announced, under a context that says so and under one that does not,
    let (mut worker, to) = offered();
    let other = ReleaseContext { public_key: public(&OTHER), ..context(1) };
    let result = worker.receive(other, &sealed(&OTHER, &to, &other));
    assert_eq!(code(result), "release.other-key");
    let (mut worker, to) = offered();
    let result = worker.receive(context(1), &sealed(&OTHER, &to, &context(1)));
    assert_eq!(code(result), "release.other-key");
    // what was sealed in another session, to another worker, or changed,
    let (mut worker, to) = offered();
    let result = worker.receive(context(1), &sealed(&SEED, &to, &context(2)));
    assert_eq!(code(result), "release.not-opened");
    let (mut worker, _) = offered();
    let elsewhere = release_key(&[0x11; RELEASE_SECRET_BYTES]);
    let result = worker.receive(context(1), &sealed(&SEED, &elsewhere, &context(1)));
    assert_eq!(code(result), "release.not-opened");
    let (mut worker, to) = offered();
    let mut changed = sealed(&SEED, &to, &context(1));
    changed[40] ^= 1;
    assert_eq!(code(worker.receive(context(1), &changed)), "release.not-opened");
    // fewer or more bytes,
    let (mut worker, to) = offered();
    let whole = sealed(&SEED, &to, &context(1));
    assert_eq!(code(worker.receive(context(1), &whole[..79])), "release.not-opened");
    // a key without an offer, and an offer without its key.
    let result = Worker::start().receive(context(1), &whole);
    assert_eq!(code(result), "worker.order");
    let (mut worker, _) = offered();
    let born = Load { source: LoadSource::BornInside, key_use: KeyUse::Message, seal: None };
    assert_eq!(code(worker.load(born, &[])), "worker.order");
}

#[test]
fn a_release_key_opens_once_whether_that_works_or_not() {
    let mut worker = Worker::start();
    let to = worker.offer(public(&SEED));
    let right = sealed(&SEED, &to, &context(1));
    assert_eq!(code(worker.receive(context(2), &right)), "release.not-opened");

    // A worker that refused takes no further order: it waits for its end.
    let source = LoadSource::Released { context: context(1), sealed: right };
    let load = Load { source, key_use: KeyUse::Message, seal: None };
    worker.channel.send(&SignerOrder::Load(load), &[]).unwrap();

    let silence = worker.channel.receive_within::<SignerReport>(Duration::from_millis(300));
    assert!(silence.is_err(), "{silence:?}");
}

#[test]
fn a_holders_worker_seals_the_key_that_is_asked_for_and_no_other() {
    let to = release_key(&[0x11; RELEASE_SECRET_BYTES]);
    let other = ReleaseContext { public_key: public(&OTHER), ..context(1) };

    assert_eq!(code(seal_by_worker(to, other)), "release.other-key");
    let nobody = ReleaseKey::from_bytes([0; 32]);
    assert_eq!(code(seal_by_worker(nobody, context(1))), "key.recipients");
}
