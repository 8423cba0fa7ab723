//! How the programs that the launcher embeds are built, wherever they are built: by the launcher's
//! build script, and by `cargo xtask reproduce`, which builds them again elsewhere and compares.
//!
//! Nothing of the machine goes into them but the compiler and its target: the profile is
//! fixed, the outer cargo's settings stay out, and paths are renamed.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The cargo that builds a program of the checkout at `workspace` into `target`.
pub(crate) fn command(cargo: &OsStr, workspace: &Path, target: &Path, package: &str) -> Command {
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace)
        .args(["build", "--quiet", "--package", package, "--bin", package])
        .args(["--profile", PROFILE, "--target-dir"])
        .arg(target);
    if workspace.join("Cargo.lock").exists() {
        command.arg("--locked");
    }
    for (name, _) in env::vars_os().filter(|(name, _)| !is_kept(name)) {
        command.env_remove(name);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", remapped_paths(workspace));
    command
}

/// Where [`command`] leaves the program.
pub(crate) fn program(target: &Path, package: &str) -> PathBuf {
    target.join(PROFILE).join(package)
}

/// Flags that keep this machine's paths out of the programs, as `CARGO_ENCODED_RUSTFLAGS` wants them.
fn remapped_paths(workspace: &Path) -> OsString {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let mut flags = OsString::new();
    for (path, name) in [(Some(workspace.to_owned()), "/evanesce"), (home, "/cargo")] {
        let Some(path) = path else { continue };
        if !flags.is_empty() {
            flags.push("\u{1f}");
        }
        flags.push("--remap-path-prefix=");
        flags.push(path);
        flags.push("=");
        flags.push(name);
    }
    flags
}

/// Whether the inner cargo sees this variable. Cargo's and rustc's settings stay out, but for where
/// the registry is, whether there is a network, and the jobserver, so that both share the cores.
fn is_kept(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return true };
    let kept = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_MAKEFLAGS"].contains(&name)
        || name.starts_with("CARGO_HTTP_")
        || name.starts_with("CARGO_REGISTRIES_");
    let compiler = name.starts_with("CARGO")
        || name.starts_with("RUSTC")
        || name.starts_with("RUSTDOC")
        || name == "RUSTFLAGS"
        || COMMON_TO_BUILD_SCRIPTS.contains(&name);
    kept || !compiler
}

const PROFILE: &str = "worker";

/// Set by cargo for build scripts without a prefix of its own; they would leak into the inner
/// build's scripts where those look for them.
const COMMON_TO_BUILD_SCRIPTS: &[&str] =
    &["OUT_DIR", "TARGET", "HOST", "NUM_JOBS", "OPT_LEVEL", "PROFILE", "DEBUG", "LD_LIBRARY_PATH"];
