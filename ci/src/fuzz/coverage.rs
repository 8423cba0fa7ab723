//! How much of this repository's code the inputs reach.
//!
//! The compiler leaves a table of instrumented addresses in a program (`__sancov_pcs`), and libFuzzer
//! notes which places of it inputs meet when it merges them. Binutils say which source file each
//! address is of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::FuzzError;
use crate::programs::{output, repository};

/// Of each source file of this repository that inputs reach: which lines that decide something are
/// met.
#[derive(Debug)]
pub(super) struct Coverage {
    files: BTreeMap<String, Lines>,
}

/// The lines with an instrumented address, and whether one of theirs is met.
type Lines = BTreeMap<u32, bool>;

impl Coverage {
    /// Runs the inputs in `corpus` once more, and looks every address up.
    pub(super) fn of(program: &Path, corpus: &Path) -> Result<Self, FuzzError> {
        let all = instrumented(program)?;
        let met = met(program, corpus)?;
        let mut files = BTreeMap::<String, Lines>::new();
        for (place, file) in sources(program, &all)?.into_iter().enumerate() {
            let Some((file, line)) = file else { continue };
            *files.entry(file).or_default().entry(line).or_default() |= met.contains(&place);
        }
        files.retain(|_, lines| lines.values().any(|is_met| *is_met));
        match files.is_empty() {
            false => Ok(Self { files }),
            true => Err(FuzzError::Coverage("no address is of a file of this repository")),
        }
    }

    pub(super) fn write_files(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.iter().try_for_each(|(file, lines)| {
            write!(f, "\n  {file}: {}", share(count_met(lines), lines.len()))?;
            let missed = lines.iter().filter(|(_, is_met)| !**is_met);
            let missed: Vec<_> = missed.map(|(line, _)| line.to_string()).collect();
            match missed.is_empty() {
                true => Ok(()),
                false => write!(f, "; not {}", missed.join(", ")),
            }
        })
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = self.files.values().map(count_met).sum();
        let all = self.files.values().map(Lines::len).sum();
        f.write_str(&share(met, all))
    }
}

fn count_met(lines: &Lines) -> usize {
    lines.values().filter(|is_met| **is_met).count()
}

fn share(met: usize, all: usize) -> String {
    format!("{met} of {all} lines that decide ({} %)", met * 100 / all.max(1))
}

/// Every address in the program's table: pairs of eight bytes, of which the second says whether it
/// is where a function starts.
fn instrumented(program: &Path) -> Result<Vec<u64>, FuzzError> {
    let table = tempfile::NamedTempFile::new()
        .map_err(|source| FuzzError::Folder { path: std::env::temp_dir(), source })?;
    output(
        Command::new("objcopy")
            .args(["--output-target=binary", "--only-section=__sancov_pcs"])
            .arg(program)
            .arg(table.path()),
    )?;
    let bytes = fs::read(table.path())
        .map_err(|source| FuzzError::Folder { path: table.path().to_owned(), source })?;
    let pairs = bytes.as_chunks::<16>().0.iter();
    let addresses = pairs.map(|pair| {
        let (address, _) = pair.split_first_chunk().expect("sixteen bytes");
        u64::from_le_bytes(*address)
    });
    Ok(addresses.collect())
}

/// The places in the table that the inputs meet, by what libFuzzer notes while it merges them: lines
/// of `COV`, the number of an input, and the places that no input before it met.
fn met(program: &Path, corpus: &Path) -> Result<BTreeSet<usize>, FuzzError> {
    let directory = tempfile::tempdir()
        .map_err(|source| FuzzError::Folder { path: std::env::temp_dir(), source })?;
    let (notes, merged) = (directory.path().join("notes"), directory.path().join("merged"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| FuzzError::Folder { path, source }
    };
    fs::create_dir(&merged).map_err(failed(&merged))?;
    output(
        Command::new(program)
            .arg("-merge=1")
            .arg(format!("-merge_control_file={}", notes.display()))
            .args([merged.as_path(), corpus])
            .stdin(Stdio::null()),
    )?;
    let notes = fs::read_to_string(&notes).map_err(failed(&notes))?;
    let lines = notes.lines().filter_map(|line| line.strip_prefix("COV "));
    let places = lines.flat_map(|line| line.split(' ').skip(1));
    Ok(places.filter_map(|place| place.parse().ok()).collect())
}

/// The file of this repository that each address is of, and the line; `None` for other people's
/// code.
fn sources(program: &Path, addresses: &[u64]) -> Result<Vec<Option<(String, u32)>>, FuzzError> {
    let mut list = tempfile::NamedTempFile::new()
        .map_err(|source| FuzzError::Folder { path: std::env::temp_dir(), source })?;
    for address in addresses {
        writeln!(list, "{address:#x}")
            .map_err(|source| FuzzError::Folder { path: list.path().to_owned(), source })?;
    }
    let list = list
        .reopen()
        .map_err(|source| FuzzError::Folder { path: list.path().to_owned(), source })?;
    let text = output(Command::new("addr2line").arg("--exe").arg(program).stdin(list))?;
    let own = |line: &str| {
        let (file, line) = line.rsplit_once(':')?;
        let line = line.split(' ').next()?.parse().ok()?;
        let file = Path::new(file).strip_prefix(repository()).ok()?.to_str()?.to_owned();
        (!file.starts_with("fuzz/")).then_some((file, line))
    };
    Ok(text.lines().map(own).collect())
}
