//! `cargo xtask sbom`: what the shipped programs are made of, as a CycloneDX 1.6 document.
//!
//! The same source gives the same document: no time, no random number.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::licences::{NotAllowed, not_allowed};
use crate::packages::{Package, Packages};
use crate::programs::{ProgramError, repository};

/// Write the list of everything that the shipped programs are made of (CycloneDX 1.6, JSON)
///
/// Of each package: version, licence, hash, and what it needs. What takes part in the build alone
/// has the scope `excluded`. Fails where a licence is not on the list in ci/src/licences.rs.
#[derive(Debug, clap::Args)]
pub(crate) struct SbomArgs {
    /// Write it to FILE instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &SbomArgs) -> Result<SbomReport, SbomError> {
    let packages = Packages::of_shipped_programs()?;
    let refused = not_allowed(&packages);
    if !refused.is_empty() {
        return Err(SbomError::Licences(refused));
    }
    let document = document(&packages, &hashes()?);
    let text = serde_json::to_string_pretty(&document).expect("plain data") + "\n";
    let Some(path) = &args.output else { return Ok(SbomReport::Text(text)) };
    fs::write(path, text).map_err(|source| SbomError::File { path: path.clone(), source })?;
    Ok(SbomReport::Written { path: path.clone(), packages: packages.packages.len() })
}

/// The document, or where it is.
#[derive(Debug)]
pub(crate) enum SbomReport {
    Text(String),
    Written { path: PathBuf, packages: usize },
}

impl fmt::Display for SbomReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text.trim_end()),
            Self::Written { path, packages } => {
                write!(f, "{packages} packages, all with an allowed licence: {}", path.display())
            }
        }
    }
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SbomError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("{} could not be read or written", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("licences that are not allowed: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Licences(Vec<NotAllowed>),
}

fn document(packages: &Packages, hashes: &Hashes) -> Value {
    let version = packages.shipped.first().map(|id| packages.packages[id].version.as_str());
    let components: Vec<_> =
        packages.packages.values().map(|package| component(package, hashes)).collect();
    let needs = |ids: &mut dyn Iterator<Item = &String>| -> Vec<String> {
        ids.filter_map(|id| packages.packages.get(id)).map(reference).collect()
    };
    let of_root = json!({ "ref": ROOT, "dependsOn": needs(&mut packages.shipped.iter()) });
    let of_packages = packages.packages.values().map(|package| {
        json!({ "ref": reference(package), "dependsOn": needs(&mut package.needs.iter()) })
    });
    let dependencies: Vec<_> = [of_root].into_iter().chain(of_packages).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": ROOT,
                "name": "evanesce",
                "version": version,
                "licenses": [{ "license": { "id": "Apache-2.0" } }],
            },
        },
        "components": components,
        "dependencies": dependencies,
    })
}

fn component(package: &Package, hashes: &Hashes) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version,
        "scope": if package.is_linked { "required" } else { "excluded" },
        "purl": reference(package),
    });
    let licence = package.licence.as_ref().map(|text| {
        let text = text.replace('/', " OR ");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    let sha256 = hashes.0.get(&(package.name.clone(), package.version.clone()));
    let members = [
        ("licenses", licence.map(|expression| json!([{ "expression": expression }]))),
        ("description", package.description.as_ref().map(|text| json!(text.trim()))),
        ("hashes", sha256.map(|content| json!([{ "alg": "SHA-256", "content": content }]))),
        (
            "externalReferences",
            package.repository.as_ref().map(|url| json!([{ "type": "vcs", "url": url }])),
        ),
    ];
    for (name, value) in members {
        if let Some(value) = value {
            component[name] = value;
        }
    }
    component
}

/// The package URL, which names it in the document as well.
fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version.replace('+', "%2B"))
}

/// The SHA-256 of each package's archive, by name and version.
#[derive(Debug, Default)]
struct Hashes(BTreeMap<(String, String), String>);

/// Reads them from the lock file.
fn hashes() -> Result<Hashes, SbomError> {
    let path = repository().join("Cargo.lock");
    let text = fs::read_to_string(&path).map_err(|source| SbomError::File { path, source })?;
    Ok(hashes_of(&text))
}

/// Cargo writes one member a line: `name = "…"`, `version = "…"`, `checksum = "…"`.
fn hashes_of(lock: &str) -> Hashes {
    let member = |package: &str, name: &str| {
        let start = format!("{name} = \"");
        let line = package.lines().find_map(|line| line.strip_prefix(&start))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    let packages = lock.split("[[package]]").skip(1);
    let hashes = packages.filter_map(|package| {
        let id = (member(package, "name")?, member(package, "version")?);
        Some((id, member(package, "checksum")?))
    });
    Hashes(hashes.collect())
}

/// The whole, in the document.
const ROOT: &str = "evanesce";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Whoever reads the document can follow every reference, and check every archive.
    #[test]
    fn every_reference_leads_to_a_component_and_every_foreign_component_has_a_hash_and_a_licence() {
        let packages = Packages::of_shipped_programs().unwrap();
        let document = document(&packages, &hashes().unwrap());

        let components = document["components"].as_array().unwrap();
        let known: BTreeSet<_> =
            components.iter().map(|component| component["bom-ref"].as_str().unwrap()).collect();
        assert_eq!(known.len(), components.len());
        for dependency in document["dependencies"].as_array().unwrap() {
            let needs = dependency["dependsOn"].as_array().unwrap().iter();
            for reference in needs.map(|reference| reference.as_str().unwrap()) {
                assert!(known.contains(reference), "{reference}");
            }
        }
        for component in components {
            let name = component["name"].as_str().unwrap();
            assert!(component["licenses"].is_array(), "{name}");
            assert_eq!(component["hashes"].is_array(), !name.starts_with("evanesce"), "{name}");
        }
        let scope = |name: &str| {
            let of_name = components.iter().find(|component| component["name"] == name);
            of_name.map(|component| component["scope"].as_str().unwrap())
        };
        // In the worker; in what builds the worker; in tests alone.
        assert_eq!(scope("wasmtime"), Some("required"));
        assert_eq!(scope("cranelift-codegen"), Some("excluded"));
        assert_eq!(scope("trycmd"), None);
    }
}
