//! What the shipped programs are made of, by `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::programs::{ProgramError, cargo, output};

/// Every package that is compiled for the shipped programs or takes part in compiling them.
#[derive(Debug)]
pub(crate) struct Packages {
    /// By cargo's id.
    pub(crate) packages: BTreeMap<String, Package>,
    /// The ids of the shipped programs' packages.
    pub(crate) shipped: Vec<String>,
}

/// One package.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX expression, as its manifest has it.
    pub(crate) licence: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) repository: Option<String>,
    /// Where it comes from; `None` for those of this repository.
    pub(crate) source: Option<String>,
    /// Whether its code is in a shipped program, and not only in what builds one.
    pub(crate) is_linked: bool,
    /// The ids of those it needs, for either purpose.
    pub(crate) needs: BTreeSet<String>,
}

impl Packages {
    /// Those of the shipped targets, by the lock file.
    pub(crate) fn of_shipped_programs() -> Result<Self, ProgramError> {
        let (linked, all) = (in_trees("normal")?, in_trees("normal,build")?);
        let mut metadata = cargo();
        metadata.args(["metadata", "--format-version=1", "--locked"]);
        let program = "cargo metadata".to_owned();
        let metadata: Metadata = serde_json::from_str(&output(&mut metadata)?)
            .map_err(|_| ProgramError::Unexpected { program })?;
        Ok(Self::of(metadata, &linked, &all))
    }

    /// Cargo's description of those in `all`. Its own graph has more edges than any one build.
    fn of(metadata: Metadata, linked: &BTreeSet<Named>, all: &BTreeSet<Named>) -> Self {
        let nodes: BTreeMap<_, _> =
            metadata.resolve.nodes.into_iter().map(|node| (node.id, node.deps)).collect();
        let wanted = |package: &Described| all.contains(&package.named());
        let ids: BTreeSet<_> = metadata
            .packages
            .iter()
            .filter(|package| wanted(package))
            .map(|package| package.id.clone())
            .collect();
        let packages = metadata.packages.into_iter().filter(|package| wanted(package));
        let packages = packages.map(|package| {
            let needs = nodes.get(&package.id).into_iter().flatten();
            let needs = needs.filter(|dep| ids.contains(&dep.pkg) && dep.is_for_programs());
            let described = Package {
                is_linked: linked.contains(&package.named()),
                needs: needs.map(|dep| dep.pkg.clone()).collect(),
                name: package.name,
                version: package.version,
                licence: package.license,
                description: package.description,
                repository: package.repository,
                source: package.source,
            };
            (package.id, described)
        });
        let packages: BTreeMap<_, _> = packages.collect();
        let is_shipped = |package: &Package| {
            SHIPPED.iter().any(|(name, _)| *name == package.name) && package.source.is_none()
        };
        let shipped = packages.iter().filter(|(_, package)| is_shipped(package));
        Self { shipped: shipped.map(|(id, _)| id.clone()).collect(), packages }
    }
}

/// Name and version.
type Named = (String, String);

/// The packages in the trees of the shipped programs, along edges of these kinds. Cargo resolves
/// here as it does for a build: what only a build script needs is not taken to be linked.
fn in_trees(edges: &str) -> Result<BTreeSet<Named>, ProgramError> {
    let mut found = BTreeSet::new();
    for (package, target) in SHIPPED {
        let mut tree = cargo();
        tree.args(["tree", "--locked", "--package", package, "--target", target]);
        tree.args(["--edges", edges, "--prefix", "none", "--format", "{p}"]);
        // A line is `name v1.2.3`, and perhaps where it is or that it is a macro.
        let text = output(&mut tree)?;
        found.extend(text.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            Some((name.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
        }));
    }
    Ok(found)
}

/// What `cargo metadata` prints, as far as it is of interest here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Described>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Described {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    repository: Option<String>,
    source: Option<String>,
}

impl Described {
    fn named(&self) -> Named {
        (self.name.clone(), self.version.clone())
    }
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dep>,
}

#[derive(Debug, Deserialize)]
struct Dep {
    pkg: String,
    dep_kinds: Vec<DepKind>,
}

impl Dep {
    fn is_for_programs(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"))
    }
}

#[derive(Debug, Deserialize)]
struct DepKind {
    /// `dev`, `build`, or nothing for what is linked.
    kind: Option<String>,
}

/// The launcher runs worker and attester, a machine runs its first program, and the worker holds the guest: cargo knows no edge between
/// them.
const SHIPPED: [(&str, &str); 5] = [
    ("evanesce", "x86_64-unknown-linux-gnu"),
    ("evanesce-attester", "x86_64-unknown-linux-gnu"),
    ("evanesce-init", "x86_64-unknown-linux-gnu"),
    ("evanesce-worker", "x86_64-unknown-linux-gnu"),
    ("evanesce-signer", "wasm32-unknown-unknown"),
];
