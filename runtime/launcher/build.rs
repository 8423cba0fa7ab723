//! Builds the worker that this launcher embeds, and pins its digest.
//!
//! The worker is an executable of its own: the launcher runs it and never links it. It is built by
//! a cargo of its own, always in the profile `worker`, in a target directory of its own, with none
//! of the outer cargo's settings, so that its bytes do not depend on how the launcher is built, nor
//! on where the checkout is.

#![expect(clippy::disallowed_methods, reason = "a build script is configured by its environment")]

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

mod worker_build;

fn main() {
    let out = PathBuf::from(required("OUT_DIR"));
    let workspace = workspace_root();
    println!("cargo::rerun-if-env-changed=EVANESCE_WORKER_FEATURES");
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }

    let built = build_worker(&workspace, &target_directory(&out));
    // A copy of our own: another build may replace the file before the compiler includes it.
    let embedded = out.join("evanesce-worker");
    let worker = fs::read(&built).expect("the worker was just built");
    fs::write(&embedded, &worker).expect("OUT_DIR can be written");

    let digest = hex::encode(Sha256::digest(&worker));
    println!("cargo::rustc-env=EVANESCE_WORKER_FILE={}", embedded.display());
    println!("cargo::rustc-env=EVANESCE_WORKER_SHA256={digest}");

    let signer = fs::read(workspace.join(SIGNER_MODULE)).unwrap_or_default();
    let digest = hex::encode(Sha256::digest(&signer));
    println!("cargo::rustc-env=EVANESCE_SIGNER_SHA256={digest}");
}

/// Runs the inner cargo and returns the worker's path.
fn build_worker(workspace: &Path, target: &Path) -> PathBuf {
    let mut cargo = worker_build::command(&required("CARGO"), workspace, target);
    // Only the residue test names features: workers that leak on purpose.
    if let Some(features) = env::var_os("EVANESCE_WORKER_FEATURES") {
        cargo.arg("--features").arg(features);
    }
    let status = cargo.status().expect("cargo can be run: it is running this script");
    assert!(status.success(), "the worker could not be built: {status}");
    worker_build::program(target)
}

/// One directory for the worker's builds beside all profiles of the outer build, which is not
/// locked while this script runs.
fn target_directory(out: &Path) -> PathBuf {
    let profile = out
        .ancestors()
        .find(|directory| directory.file_name() == Some(OsStr::new("build")))
        .and_then(Path::parent)
        .expect("OUT_DIR is TARGET/PROFILE/build/PACKAGE/out");
    profile
        .parent()
        .expect("a profile has a directory in the target directory")
        .join("worker-build")
}

fn workspace_root() -> PathBuf {
    let package = PathBuf::from(required("CARGO_MANIFEST_DIR"));
    package
        .ancestors()
        .nth(2)
        .expect("the package is in runtime/launcher of the workspace")
        .to_owned()
}

fn required(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}

const SIGNER_MODULE: &str = "wasm-signer/signer.wasm";

/// What the worker is made of, from the workspace's root.
const INPUTS: &[&str] = &["enclave", "runtime/protocol", "wasm-signer", "Cargo.toml", "Cargo.lock"];
