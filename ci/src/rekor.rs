//! `cargo xtask rekor`: publish to real logs, and have strangers check what comes of it.
//!
//! `ci/rekor/rekor.py` starts the servers and does the rest; this installs them by name, once, into
//! the target directory. What cannot be installed here is left out, with a line that says so.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::programs::{ProgramError, cargo, output, repository, show, target_directory};

/// Publish to Rekor v1 and v2 on loopback, and check with @sigstore/verify and Tessera's fsck
///
/// Needs Go and its module proxy for the servers, PostgreSQL for Rekor v1, Node for @sigstore/verify.
/// Parts whose programs are missing are skipped by name. The servers of Rekor v1 and the timestamp
/// authority listen for metrics on port 2112 of every address: as root they run in a network
/// namespace of their own, else run this where nobody else can connect.
#[derive(Debug, clap::Args)]
pub(crate) struct RekorArgs {
    /// Kill append and publish N times at random moments first: 300
    #[arg(long, value_name = "N", value_parser = ["300"])]
    kills: Option<String>,
}

pub(crate) fn run(args: &RekorArgs) -> Result<RekorReport, ProgramError> {
    if args.kills.is_some() {
        let kills = "three_hundred_kills_lose_nothing_and_publish_nothing_twice";
        show(
            cargo().args(["test", "--locked", "--workspace", "--test", "log_kills", "--"]).args([
                "--ignored",
                "--nocapture",
                "--exact",
                kills,
            ]),
        )?;
    }
    show(cargo().args(["build", "--release", "--locked", "--bin", "evanesce"]))?;
    let target = target_directory()?;
    let (tools, node) = (target.join("go-tools"), target.join("node-tools"));
    let mut skipped = Vec::new();
    for (program, module) in PROGRAMS {
        if !tools.join(program).exists()
            && let Err(error) = install(&tools, module)
        {
            skipped.push(format!("SKIPPED: {program} could not be installed: {error}"));
        }
    }
    if !node.join("node_modules/@sigstore/verify").exists()
        && let Err(error) = install_verifier(&node)
    {
        skipped.push(format!("SKIPPED: @sigstore/verify could not be installed: {error}"));
    }
    let work = target.join("rekor-work");
    if work.exists() {
        // It belongs to the last run; what cannot be removed is reported when it is made anew.
        fs::remove_dir_all(&work).unwrap_or(());
    }
    show(
        Command::new("python3")
            .arg(repository().join("ci/rekor/rekor.py"))
            .arg(target.join("release/evanesce"))
            .args([&tools, &node, &work]),
    )?;
    Ok(RekorReport { skipped })
}

/// The script says itself what it found.
#[derive(Debug)]
pub(crate) struct RekorReport {
    skipped: Vec<String>,
}

impl fmt::Display for RekorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.skipped.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        f.write_str("what was published holds, and what was spoilt was refused")
    }
}

/// Builds a Go program into `tools`, which takes minutes.
fn install(tools: &Path, module: &str) -> Result<(), ProgramError> {
    output(Command::new("go").args(["install", module]).env("GOBIN", tools)).map(drop)
}

fn install_verifier(node: &Path) -> Result<(), ProgramError> {
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--prefix"]).arg(node);
    output(npm.args(VERIFIER)).map(drop)
}

/// By name and version: the program, and where it is from.
const PROGRAMS: [(&str, &str); 7] = [
    ("posix", "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix@v2.3.0"),
    ("timestamp-server", "github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server@v2.1.3"),
    ("trillian_log_server", "github.com/google/trillian/cmd/trillian_log_server@v1.7.3"),
    ("trillian_log_signer", "github.com/google/trillian/cmd/trillian_log_signer@v1.7.3"),
    ("createtree", "github.com/google/trillian/cmd/createtree@v1.7.3"),
    ("rekor-server", "github.com/sigstore/rekor/cmd/rekor-server@v1.5.4"),
    ("fsck", "github.com/transparency-dev/tessera/cmd/fsck@v1.0.4"),
];

/// With the versions of its own dependencies that it names itself.
const VERIFIER: [&str; 3] =
    ["@sigstore/verify@4.1.3", "@sigstore/bundle", "@sigstore/protobuf-specs"];
