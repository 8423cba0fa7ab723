//! Judging a bundle, beside `sigstore-verify` alone over the same bundle in the same run.
//!
//! What this crate adds: which notary, which log, what the statement says, and the Ed25519 signature
//! inside a signature record.

#![expect(missing_docs, reason = "the macros of criterion make undocumented functions")]
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use evanesce_ledger::{NotaryKey, Outcome};
use evanesce_protocol::Digest;
use evanesce_transparency::KnownRotations;
use evanesce_transparency::trust::parse_trusted_root;
use evanesce_transparency::{BundleVerifier, Given, KnownNotary};
use sha2::{Digest as _, Sha512};
use sigstore_types::{ArtifactDigest, Bundle, DerPublicKey, Sha256Hash};
use sigstore_verify::{PublicKeyVerificationPolicy, Verifier};

fn verify(criterion: &mut Criterion) {
    let root = parse_trusted_root(include_str!("../tests/samples/trusted_root.json")).unwrap();
    let key = NotaryKey::from_pem(include_str!("../tests/samples/notary.pem")).unwrap();
    let notaries = [KnownNotary::of_key(key.clone())];
    let ours = BundleVerifier::new(root.clone(), &notaries).unwrap();
    let theirs = Verifier::new(&root).unwrap();
    let policy = PublicKeyVerificationPolicy::new(DerPublicKey::from_bytes(key.spki()));
    let samples: [(&str, &str, &[u8]); 2] = [
        (
            "signature",
            include_str!("../tests/samples/signature.sigstore.json"),
            include_bytes!("../tests/samples/signature.artifact"),
        ),
        (
            "receipt",
            include_str!("../tests/samples/receipt.sigstore.json"),
            include_bytes!("../tests/samples/receipt.artifact"),
        ),
    ];
    for (name, bundle, artifact) in samples {
        let sha512 = Sha512::digest(artifact).into();
        let sha256 = Digest::of(artifact);
        let given =
            Given { sha256, sha512: &sha512, receipt: None, rotations: &KnownRotations::default() };
        let mut group = criterion.benchmark_group(name);
        group.bench_function("evanesce", |bencher| {
            bencher.iter(|| {
                let verdict = ours.verify(black_box(bundle.as_bytes()), &given);
                assert_eq!(verdict.outcome, Outcome::Trusted, "{}", verdict.reason);
            });
        });
        group.bench_function("sigstore-verify", |bencher| {
            bencher.iter(|| {
                let parsed = Bundle::from_json(black_box(bundle)).unwrap();
                let digest = ArtifactDigest::sha256(Sha256Hash::new(*sha256.as_bytes()));
                theirs.verify(digest, &parsed, &policy).unwrap();
            });
        });
        group.finish();
    }
}

criterion_group!(benches, verify);
criterion_main!(benches);
