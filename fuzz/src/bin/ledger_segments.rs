//! libFuzzer's way into the target of the same name.

#![no_main]

use std::sync::LazyLock;

use evanesce_fuzz::{ledger_segments, memory, seeds};
use evanesce_ledger::NotaryKey;
use p256::ecdsa::SigningKey;

/// The notary of the seeds, whose private key is a small number.
static NOTARY: LazyLock<NotaryKey> = LazyLock::new(|| {
    let private = SigningKey::from_slice(&[1; 32]).expect("a number below the order");
    let point = private.verifying_key().to_sec1_point(false);
    NotaryKey::from_sec1(point.as_bytes()).expect("a point of the curve")
});

libfuzzer_sys::fuzz_target!(init: seeds::write_where_asked("ledger-segments"), |input: &[u8]| {
    memory::counted(|| ledger_segments::run(input, &NOTARY));
});
