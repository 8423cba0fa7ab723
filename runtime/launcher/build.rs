//! Builds the worker, the attester and a machine's first program, which this launcher embeds, and pins their digests.
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

    let target = target_directory(&out);
    // Only the residue test names features: workers that leak on purpose.
    let features = env::var("EVANESCE_WORKER_FEATURES").ok();
    embed(&workspace, &target, &out, "worker", features.as_deref());
    // Only builds for tests have evidence of no machine.
    let insecure = env::var_os("CARGO_FEATURE_DANGER_INSECURE_SOFTWARE_ATTESTATION");
    embed(&workspace, &target, &out, "attester", insecure.map(|_| "danger-insecure-software"));
    embed(&workspace, &target, &out, "init", None);

    let signer = fs::read(workspace.join(SIGNER_MODULE)).unwrap_or_default();
    let digest = hex::encode(Sha256::digest(&signer));
    println!("cargo::rustc-env=EVANESCE_SIGNER_SHA256={digest}");
}

/// Builds `evanesce-NAME`, and has the launcher compiled with its bytes and its digest.
fn embed(workspace: &Path, target: &Path, out: &Path, name: &str, features: Option<&str>) {
    let package = format!("evanesce-{name}");
    let built = build(workspace, target, &package, features);
    // A copy of our own: another build may replace the file before the compiler includes it.
    let embedded = out.join(&package);
    let bytes = fs::read(&built).expect("it was just built");
    fs::write(&embedded, &bytes).expect("OUT_DIR can be written");

    let (name, digest) = (name.to_uppercase(), hex::encode(Sha256::digest(&bytes)));
    println!("cargo::rustc-env=EVANESCE_{name}_FILE={}", embedded.display());
    println!("cargo::rustc-env=EVANESCE_{name}_SHA256={digest}");
}

/// Runs the inner cargo and returns the executable's path.
fn build(workspace: &Path, target: &Path, package: &str, features: Option<&str>) -> PathBuf {
    let mut cargo = worker_build::command(&required("CARGO"), workspace, target, package);
    if let Some(features) = features {
        cargo.args(["--features", features]);
    }
    let status = cargo.status().expect("cargo can be run: it is running this script");
    assert!(status.success(), "{package} could not be built: {status}");
    worker_build::program(target, package)
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

/// What worker and attester are made of, from the workspace's root.
const INPUTS: &[&str] = &["enclave", "runtime/protocol", "wasm-signer", "Cargo.toml", "Cargo.lock"];
