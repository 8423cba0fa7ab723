//! Compiles the pinned signer ahead of time, so that the worker carries machine code and no
//! compiler.
//!
//! In: `SIGNER_WASM` and its committed digest. Out, in `OUT_DIR`: `signer.cwasm`, the artefact, and
//! `signer.rs`, the digests of module and artefact. The artefact depends on the module, on
//! `src/settings.rs`, on [`CPU_FLAGS`] and on the version of Wasmtime, and not on the machine that
//! builds it.

#![expect(
    unsafe_code,
    reason = "listed in enclave/SAFETY.md; Cranelift's CPU flags are unsafe to set"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "Cargo speaks to build scripts through the environment"
)]

use std::path::Path;
use std::{env, fs};

use evanesce_signer::{SIGNER_WASM, SIGNER_WASM_SHA256};
use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, OptLevel};

#[path = "src/settings.rs"]
mod settings;

/// x86-64-v2, as Cranelift names its parts. The worker's `cpu.rs` looks for the same.
///
/// x86-64-v3 makes a signature 1 to 3 % faster, and would shut machines out.
const CPU_FLAGS: [&str; 6] =
    ["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt", "has_cmpxchg16b"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/settings.rs");

    let found: [u8; 32] = Sha256::digest(SIGNER_WASM).into();
    assert_eq!(found, SIGNER_WASM_SHA256, "signer.wasm is not the module that signer.sha256 pins");

    let out = env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR for build scripts");
    write_artefact(Path::new(&out), "signer", SIGNER_WASM);
    write_artefact(Path::new(&out), "runaway", RUNAWAY_WASM);
}

/// Writes `NAME.cwasm` and, for `include!`, `NAME.rs`: a tuple of the digests of module and
/// artefact.
fn write_artefact(out: &Path, name: &str, wasm: &[u8]) {
    let artefact = engine().precompile_module(wasm).expect("the pinned module compiles");
    let digests: [[u8; 32]; 2] = [Sha256::digest(wasm).into(), Sha256::digest(&artefact).into()];
    fs::write(out.join(name).with_extension("rs"), format!("{digests:?}"))
        .expect("OUT_DIR can be written");
    fs::write(out.join(name).with_extension("cwasm"), artefact).expect("OUT_DIR can be written");
}

fn engine() -> Engine {
    let mut config = settings::settings().expect("the target is one that Cranelift has");
    config.cranelift_opt_level(OptLevel::Speed);
    for flag in CPU_FLAGS {
        // SAFETY: the worker refuses to load the artefact on a CPU that lacks one of these.
        unsafe { config.cranelift_flag_enable(flag) };
    }
    Engine::new(&config).expect("the settings fit together")
}

/// For the tests: the signer's interface, where to sign is to run for ever.
///
/// ```wat
/// (module
///   (memory (export "memory") 2 2)
///   (func (export "evanesce_abi") (result i32) i32.const 1)
///   (func (export "evanesce_input") (export "evanesce_wipe") (result i32) i32.const 0)
///   (func (export "evanesce_output") (result i32) i32.const 65536)
///   (func (export "evanesce_load") (export "evanesce_generate") (param i32) (result i32)
///     i32.const 0)
///   (func (export "evanesce_sign_message") (export "evanesce_sign_digest")
///     (param i32) (result i32) (loop (br 0)) unreachable))
/// ```
const RUNAWAY_WASM: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x0a\x02\x60\0\x01\x7f\x60\x01\x7f\x01\x7f\
    \x03\x06\x05\0\0\0\x01\x01\
    \x05\x04\x01\x01\x02\x02\
    \x07\x9f\x01\x09\
        \x06memory\x02\0\
        \x0cevanesce_abi\0\0\
        \x0eevanesce_input\0\x01\
        \x0devanesce_wipe\0\x01\
        \x0fevanesce_output\0\x02\
        \x0devanesce_load\0\x03\
        \x11evanesce_generate\0\x03\
        \x15evanesce_sign_message\0\x04\
        \x14evanesce_sign_digest\0\x04\
    \x0a\x20\x05\
        \x04\0\x41\x01\x0b\
        \x04\0\x41\0\x0b\
        \x06\0\x41\x80\x80\x04\x0b\
        \x04\0\x41\0\x0b\
        \x08\0\x03\x40\x0c\0\x0b\0\x0b";
