//! The guest: an Ed25519 signer without imports, and what a host needs to run it.
//!
//! Built for `wasm32-unknown-unknown` this is the module `signer.wasm`; built for a host it is that
//! module's bytes, their digest, and the [`abi`] that both sides share. A host never links the
//! signing code. `SPEC.md` is the interface in prose; `cargo xtask signer` rebuilds the module.
//!
//! # What the module promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | after each call, no seed, hash, nonce or limb in linear memory but the key's own static | the input is overwritten, then the whole shadow stack | `tests/module/residue.rs` |
//! | after a wipe, linear memory is that of a fresh instance, but for one byte | the statics are overwritten | `tests/module/residue.rs` |
//! | one key in a life, for one use | [`abi::Status`] | `tests/module/interface.rs` |
//! | signatures are those of RFC 8032 | `ed25519-dalek` | `tests/module/vectors.rs` |
//! | nothing is imported, memory never grows | no import section, minimum = maximum | `tests/module/interface.rs` |
//!
//! # What it does not promise
//!
//! The host's own stack and registers hold the guest's locals: clearing those is for the host, as
//! is all of linear memory when the guest traps. Constant time is the compiler's to break.

#![cfg_attr(target_arch = "wasm32", no_std)]
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]
#![cfg_attr(target_arch = "wasm32", expect(unsafe_code, reason = "exports and statics: shim.rs"))]

pub mod abi;

// The tests of a host build check and lint the signing code too.
#[cfg(any(target_arch = "wasm32", test))]
mod guest;
#[cfg(target_arch = "wasm32")]
mod shim;
#[cfg(any(target_arch = "wasm32", test))]
mod signer;

/// The built module, as committed.
#[cfg(not(target_arch = "wasm32"))]
pub const SIGNER_WASM: &[u8] = include_bytes!("../signer.wasm");

/// The SHA-256 of [`SIGNER_WASM`], as committed beside it: `sha256sum --check signer.sha256`.
#[cfg(not(target_arch = "wasm32"))]
pub const SIGNER_WASM_SHA256: [u8; 32] = first_digest(include_bytes!("../signer.sha256"));

/// Reads the 64 hexadecimal digits that a line of `sha256sum` starts with.
#[cfg(not(target_arch = "wasm32"))]
const fn first_digest(line: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    let mut at = 0;
    while at < digest.len() {
        digest[at] = nibble(line[2 * at]) << 4 | nibble(line[2 * at + 1]);
        at += 1;
    }
    digest
}

#[cfg(not(target_arch = "wasm32"))]
const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => panic!("signer.sha256 does not start with a lower-case hexadecimal digest"),
    }
}

/// There is nothing to unwind to and nobody to tell: a trap, after which the host wipes.
#[cfg(target_arch = "wasm32")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
