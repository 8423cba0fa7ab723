//! The signer: a digest-pinned Wasm module in guarded memory, on a guarded stack.
//!
//! Start at [`Signer`], whose phases are the life of a key. The build script compiles `signer.wasm`
//! ahead of time; the machine code becomes part of this program's text.
//!
//! # What this crate promises
//!
//! | claim | kept by | shown by |
//! |---|---|---|
//! | only the pinned module runs | its digest at build time, its machine code's digest at start | `signer.rs` |
//! | no page is ever written and executed | the code lies in the program's text; nothing is published | `tests/mdwe.rs` |
//! | no compiler in the process | Wasmtime's runtime alone | `cargo tree -e normal -p evanesce-wasm-host` names no `cranelift-codegen` |
//! | linear memory, call stack and signal stack are guarded | `memory.rs`, `guest.rs`, `signal_stack.rs` | `tests/guarded.rs` |
//! | the stack is zero after each call | it is wiped to the depth that a call can reach | `signer.rs` |
//! | a wiped signer cannot sign | [`Signer::wipe`] takes it | the example at [`Signer`] |
//! | guest code that does not return ends the process, wiped | `watch.rs` | `signer.rs` |
//! | signatures are those of RFC 8032 | the guest | `tests/vectors.rs` |
//!
//! # What lies where
//!
//! Wasmtime's own data about an instance (its context, its tables, the saved stack limits) is on the
//! ordinary heap. It has no key byte in it: the module keeps its one global, the shadow stack's
//! pointer, there, and passes only lengths and status numbers across its exports. What guest code
//! computes with is in linear memory, in its frames on the guarded stack, and in registers. A frame
//! of Wasmtime that saves a register during a call is on the guarded stack as well, and the frame of
//! a signal on the guarded signal stack.
//!
//! # What it does not promise
//!
//! Registers after a call: the caller clears them before it waits
//! ([`evanesce_guarded_memory::registers`]). Until then the program must not enter code that saves
//! registers it knows nothing about, such as lazy symbol binding: it is linked with all symbols
//! bound at start, as Rust does by default. Constant time is as good as what Cranelift leaves of it.
//!
//! # Invariant
//!
//! Key bytes enter linear memory and do not leave it: what comes out is a public key, a signature or
//! a status. The invariants of `unsafe` code are numbered in the docs of the types that carry them.

#![expect(unsafe_code, reason = "listed in enclave/SAFETY.md; runs machine code in raw memory")]

mod artefact;
mod cpu;
mod error;
mod guest;
mod memory;
mod settings;
mod signal_stack;
mod signer;
mod watch;

pub use error::{BrokenGuest, InstantiateError, LoadError, SignError, WipeFailed};
pub use signer::{Fresh, Loaded, Signer, SignerFacts, WipedSigner};
