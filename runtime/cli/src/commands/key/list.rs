//! `key list`: the key files of a directory.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use evanesce_launcher::Described;
use serde::Serialize;

use super::show::ShowReport;
use super::{Rendered, StrengthArgs};
use crate::context::Context;
use crate::errors::{Coded, CommandError, ErrorRecord};
use crate::ui::{BAD, FAINT};

/// List the key files in a directory
///
/// Recognised by their content; files that are none are passed over, those that could be keys and
/// cannot be used are listed with the reason.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// The directory
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,

    #[command(flatten)]
    strength: StrengthArgs,
}

pub(super) fn run(args: &ListArgs, context: &Context<'_>) -> Result<ListReport, CommandError> {
    let paths = files_of(&args.directory)?;
    let mut report = ListReport { keys: Vec::new(), unusable: Vec::new() };
    for Described { file, found } in args.strength.custodian(context)?.describe(&paths)? {
        match found {
            Ok(found) => report.keys.push(ShowReport::new(&found)),
            Err(error) if error.is_of_another_kind() => {}
            Err(error) => {
                let error = CommandError::from(error).to_record();
                report.unusable.push(Unusable { file, error });
            }
        }
    }
    Ok(report)
}

/// The regular files of a directory, by name. Links are not followed, and public files not asked.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>, DirectoryError> {
    let fail = |source| DirectoryError { path: directory.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let is_public = entry.path().extension().is_some_and(|extension| extension == "pub");
        if entry.file_type().map_err(fail)?.is_file() && !is_public {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// The key files of a directory.
#[derive(Debug, Serialize)]
pub struct ListReport {
    keys: Vec<ShowReport>,
    unusable: Vec<Unusable>,
}

/// A file that could be a key and cannot be used.
#[derive(Debug, Serialize)]
struct Unusable {
    file: PathBuf,
    error: ErrorRecord,
}

impl Rendered for ListReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        for key in &self.keys {
            writeln!(out, "{}", key.line())?;
        }
        for Unusable { file, error } in &self.unusable {
            let (file, code) = (file.display(), error.code);
            writeln!(out, "{file}  {BAD}{}{BAD:#} {FAINT}[{code}]{FAINT:#}", error.message)?;
        }
        Ok(())
    }
}

/// The directory cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("{} could not be listed", path.display())]
struct DirectoryError {
    path: PathBuf,
    source: io::Error,
}

impl Coded for DirectoryError {
    fn code(&self) -> &'static str {
        "key-list.directory"
    }
}
