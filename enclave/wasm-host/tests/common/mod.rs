//! Signers with known keys.
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]
#![allow(dead_code, reason = "each test file uses its own part of this module")]

use evanesce_guarded_memory::{PageBytes, Region, Strength};
use evanesce_protocol::KeyUse;
use evanesce_wasm_host::{Fresh, Loaded, Signer};

pub(crate) fn fresh() -> Signer<Fresh> {
    Signer::instantiate(Strength::Strict).unwrap()
}

/// A signer with the key of this seed, which comes from guarded memory as it has to.
pub(crate) fn loaded(seed: [u8; 32], bound_to: KeyUse) -> Signer<Loaded> {
    let bytes = PageBytes::holding(32).unwrap();
    let mut region = Region::map("test-seed", bytes, Strength::Strict).unwrap();
    region.with_mut(|bytes| bytes[..32].copy_from_slice(&seed));
    region.with(|bytes| fresh().load(bytes.first_chunk().unwrap(), bound_to)).unwrap()
}
