//! The folder is the trust boundary: what must not happen has no dependency edge.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

#[test]
fn nothing_in_runtime_depends_on_enclave_and_enclave_depends_on_the_protocol_alone() {
    let packages = packages();
    let of = |side: &'static str| {
        packages.iter().filter(move |package| package.folder.starts_with(side))
    };

    for package in of("runtime") {
        for dependency in &package.path_dependencies {
            assert!(!dependency.starts_with("enclave"), "{} on {dependency}", package.folder);
            assert!(!dependency.starts_with("wasm-signer"), "{} on {dependency}", package.folder);
        }
    }
    for package in of("enclave").chain(of("wasm-signer")) {
        for dependency in &package.path_dependencies {
            let allowed = dependency.starts_with("enclave")
                || ["runtime/protocol", "wasm-signer"].contains(&dependency.as_str());
            assert!(allowed, "{} on {dependency}", package.folder);
        }
    }
    // The rules are about something.
    assert!(of("runtime").count() >= 4 && of("enclave").count() >= 4);
}

#[test]
fn only_the_crates_on_the_list_may_use_unsafe_and_each_of_them_says_so() {
    let text = fs::read_to_string(workspace().join("enclave/SAFETY.md")).unwrap();
    let (_, list) = text.split_once("## The list").expect("the list has a heading");
    let list = list.split("\n## ").next().unwrap();
    let listed: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split('`').next())
        .map(str::to_owned)
        .collect();

    let mut without_forbid = BTreeSet::new();
    for package in packages() {
        for root in &package.crate_roots {
            let source = fs::read_to_string(root).unwrap();
            if !source.lines().any(|line| line == "#![forbid(unsafe_code)]") {
                without_forbid.insert(package.folder.clone());
            }
        }
        let manifest = workspace().join(&package.folder).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}", package.folder);
    }

    assert_eq!(without_forbid, listed);
    assert!(!listed.is_empty());
}

#[test]
fn the_workers_graph_has_no_compiler_no_async_runtime_no_network_and_no_general_parser() {
    let tree = cargo(&["tree", "-p", "evanesce-worker", "-e", "normal", "--prefix", "none"]);
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();

    for name in &names {
        let forbidden = FORBIDDEN_IN_WORKER.iter().find(|start| name.starts_with(**start));
        assert_eq!(forbidden, None, "{name} is in the worker's graph");
    }
    assert!(names.contains("wasmtime"), "the rule is about this graph: {names:?}");
}

/// How the names of crates start that a worker has no use for.
const FORBIDDEN_IN_WORKER: &[&str] = &[
    "cranelift-codegen",
    "cranelift-frontend",
    "cranelift-native",
    "wasmtime-internal-cranelift",
    "winch",
    "tokio",
    "async-std",
    "async-io",
    "async-executor",
    "async-global",
    "smol",
    "mio",
    "hyper",
    "reqwest",
    "ureq",
    "curl",
    "socket2",
    "rustls",
    "native-tls",
    "openssl",
    "serde_json",
    "serde_yaml",
    "toml",
    "clap",
    "regex",
    "tracing",
];

struct Package {
    /// From the workspace's root.
    folder: String,
    /// Folders of the workspace that it depends on in any way.
    path_dependencies: Vec<String>,
    /// The roots of its library and programs.
    crate_roots: Vec<PathBuf>,
}

fn packages() -> Vec<Package> {
    let metadata = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let folder = |path: &Path| {
        let folder = path.strip_prefix(workspace()).expect("inside of the workspace");
        folder.to_str().unwrap().to_owned()
    };
    let texts = |value: &Value, name: &str| value[name].as_str().map(PathBuf::from);
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| Package {
            folder: folder(texts(package, "manifest_path").unwrap().parent().unwrap()),
            path_dependencies: package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|dependency| texts(dependency, "path"))
                .map(|path| folder(&path))
                .collect(),
            crate_roots: package["targets"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|target| {
                    let kinds = target["kind"].as_array().unwrap();
                    kinds
                        .iter()
                        .any(|kind| ["lib", "bin", "cdylib"].contains(&kind.as_str().unwrap()))
                })
                .filter_map(|target| texts(target, "src_path"))
                .collect(),
        })
        .collect()
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .args(["--locked", "--offline"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package is in a folder of the workspace").to_owned()
}
