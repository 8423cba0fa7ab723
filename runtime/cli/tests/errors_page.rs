//! `docs/errors.md`, the table behind the hints, and the source name the same codes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use evanesce_cli::advice::ADVICE;

/// A code without a row would be an error without a hint.
#[test]
fn every_code_in_the_source_has_a_row_and_every_row_a_code() {
    let mut found = BTreeSet::new();
    let packages = [
        "appraisal",
        "cli",
        "collateral",
        "evidence",
        "launcher",
        "ledger",
        "machine",
        "protocol",
        "release",
        "residue",
        "server",
        "transparency",
    ];
    for package in packages {
        for file in rust_files(&root().join("runtime").join(package).join("src")) {
            found.extend(codes_of(&fs::read_to_string(file).unwrap()));
        }
    }
    let known: BTreeSet<String> = ADVICE.iter().map(|advice| advice.code.to_owned()).collect();

    assert!(found.contains("key.not-pem"), "the search finds nothing");
    let missing: Vec<_> = found.difference(&known).collect();
    let stale: Vec<_> = known.difference(&found).collect();
    assert!(missing.is_empty() && stale.is_empty(), "missing: {missing:?}, stale: {stale:?}");
}

#[test]
fn the_page_has_the_table_row_for_row() {
    let page = fs::read_to_string(root().join("docs/errors.md")).unwrap();
    let found: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = ADVICE
        .iter()
        .map(|advice| format!("| `{}` | {} | {} |", advice.code, advice.fault, advice.hint))
        .collect();

    assert_eq!(found, expected);
}

#[test]
fn no_code_has_two_rows() {
    let mut codes: Vec<&str> = ADVICE.iter().map(|advice| advice.code).collect();
    codes.sort_unstable();
    codes.dedup();

    assert_eq!(codes.len(), ADVICE.len());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("the source is there") {
        let path = entry.expect("the source can be listed").path();
        match path.is_dir() {
            true => files.extend(rust_files(&path)),
            false => files.push(path),
        }
    }
    files
}

/// The texts with a dot in the bodies of `fn code`.
fn codes_of(source: &str) -> Vec<String> {
    let bodies = source.split("fn code(&self) -> &'static str {").skip(1);
    let bodies = bodies.map(|body| body.split("\n    }\n").next().unwrap_or(body));
    let texts = bodies.flat_map(|body| body.split('"').skip(1).step_by(2));
    texts.filter(|text| text.contains('.')).map(str::to_owned).collect()
}
