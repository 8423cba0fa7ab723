//! Tests of the committed module itself, run in Wasmtime: not of the source it was built from.

#![expect(clippy::unwrap_used, reason = "what cannot be had here has failed the test")]

mod guest;
mod interface;
mod residue;
mod vectors;
