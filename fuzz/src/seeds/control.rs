//! Messages in both directions.

use evanesce_protocol::control::{
    Backing, CageReport, Load, LoadSource, Loaded, NotaryOrder, NotaryReport, RangeReport, Refused,
    SecretSource, Serve, SignerOrder, SignerReport, Wanted, WipeCause, WipeReport,
};
use evanesce_protocol::custody::Seal;
use evanesce_protocol::evidence::{Nonce, ReleaseKey};
use evanesce_protocol::grant::Grants;
use evanesce_protocol::release::ReleaseContext;
use evanesce_protocol::{Digest, KeyOrigin, KeyUse, PublicKey};
use serde::Serialize;

/// One byte that says which message it is, and the message.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let serve = Serve {
        grants: Grants::default(),
        certificate: vec![1; 400],
        comment: "evanesce w-1".into(),
        client_uid: 1000,
        signatures_max: 1_000_000,
        ttl_ms: Some(600_000),
        kill_switch: Some(b"stop".to_vec()),
    };
    let range = RangeReport {
        name: "signer-memory".into(),
        start: 0x7f00_0000_0000,
        bytes: 131_072,
        backing: Backing::SecretPages,
        smaps: include_str!("../../../runtime/launcher/tests/data/smaps.txt").into(),
    };
    let cage = CageReport {
        dumpable: 0,
        no_new_privs: true,
        memory_deny_write_execute: true,
        core_limit_bytes: (0, 0),
        landlock_abi: 6,
        landlock_refused_open: true,
        descriptors: vec![0, 1, 2, 3],
        ranges: vec![range],
        signer_module: Some(Digest::of(b"signer")),
    };
    let wiped = WipeReport {
        cause: WipeCause::Ordered,
        signatures: 3,
        commitment: Digest::of(b"requests"),
        ranges: vec![("signer-memory".into(), 131_072)],
        registers: "avx2".into(),
    };
    let load = Load {
        source: LoadSource::File { work_factor_max: 18 },
        key_use: KeyUse::Message,
        seal: Some(Seal::Passphrase { log_n: 16 }),
    };
    let context = ReleaseContext {
        session: Nonce::from_bytes([1; 32]),
        challenge: Digest::of(b"challenge"),
        request: Digest::of(b"request"),
        public_key: PublicKey::from_bytes([7; 32]),
    };
    let released = Load {
        source: LoadSource::Released { context, sealed: vec![9; 80] },
        key_use: KeyUse::Message,
        seal: Some(Seal::Release { to: ReleaseKey::from_bytes([6; 32]), context }),
    };
    let loaded = Loaded {
        public_key: PublicKey::from_bytes([7; 32]),
        origin: KeyOrigin::SealedFile,
        sealed: Some("-----BEGIN AGE ENCRYPTED FILE-----\n".into()),
    };
    let refused = Refused::SecretPages { errno: 38 };
    vec![
        message(0, &SignerOrder::Serve(serve.clone())),
        message(0, &SignerOrder::Serve(Serve { ttl_ms: None, kill_switch: None, ..serve })),
        message(0, &SignerOrder::Wipe),
        message(1, &SignerReport::Caged(cage.clone())),
        message(0, &SignerOrder::Inspect),
        message(0, &SignerOrder::Load(load.clone())),
        message(0, &SignerOrder::OfferRelease(PublicKey::from_bytes([7; 32]))),
        message(0, &SignerOrder::Load(released)),
        message(1, &SignerReport::Offered(ReleaseKey::from_bytes([6; 32]))),
        message(0, &SignerOrder::Load(Load { source: LoadSource::BornInside, seal: None, ..load })),
        message(0, &SignerOrder::Secret(SecretSource::Terminal { prompt: "Passphrase".into() })),
        message(1, &SignerReport::Wanted(Wanted::Passphrase)),
        message(1, &SignerReport::Loaded(loaded)),
        message(1, &SignerReport::Endorsed { signature: vec![5; 64] }),
        message(1, &SignerReport::Serving),
        message(1, &SignerReport::Wiped(wiped.clone())),
        message(1, &SignerReport::Refused(refused.clone())),
        message(2, &NotaryOrder::Load),
        message(2, &NotaryOrder::Create),
        message(2, &NotaryOrder::Sign { payload: b"a payload".to_vec() }),
        message(2, &NotaryOrder::Wipe),
        message(3, &NotaryReport::Caged(CageReport { signer_module: None, ..cage })),
        message(3, &NotaryReport::Loaded { public_key: vec![4; 65] }),
        message(3, &NotaryReport::Signed { signature: vec![5; 64] }),
        message(3, &NotaryReport::Wiped(wiped)),
        message(3, &NotaryReport::Refused(refused)),
    ]
}

fn message(kind: u8, message: &impl Serialize) -> Vec<u8> {
    let written = postcard::to_allocvec(message).expect("memory is enough");
    [&[kind], written.as_slice()].concat()
}
