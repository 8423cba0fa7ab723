//! One signature inside the signer against one by ed25519-dalek in this process.
//!
//!     taskset -c 1 cargo bench -p evanesce-wasm-host --bench sign
//!
//! Both wander with what the other core does: compare the minima of one run. They are in
//! `target/criterion/*/new/sample.json`: the least of `times[i] / iters[i]`.

#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ed25519_dalek::{Signer as _, SigningKey};
use evanesce_guarded_memory::Strength;
use evanesce_protocol::KeyUse;
use evanesce_wasm_host::Signer;

fn sign(criterion: &mut Criterion) {
    let native = SigningKey::from_bytes(&[7; 32]);
    let mut signer = Signer::instantiate(Strength::Strict)
        .expect("this machine gives secret pages")
        .generate(KeyUse::Message)
        .expect("the signer makes a key");
    let message = [0x5a_u8; 256];

    for bytes in [64, 256] {
        let message = &message[..bytes];
        criterion.bench_function(&format!("native-{bytes}"), |bencher| {
            bencher.iter(|| black_box(&native).sign(black_box(message)));
        });
        criterion.bench_function(&format!("signer-{bytes}"), |bencher| {
            bencher.iter(|| signer.sign_message(black_box(message)));
        });
    }
    let wiped = signer.wipe().expect("the signer is wiped");
    assert!(wiped.bytes() > 0);
}

criterion_group!(benches, sign);
criterion_main!(benches);
