//! `log export`: the log in one file that anyone can check or serve.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use evanesce_transparency::note::verifier_key;
use evanesce_transparency::trust::local_trusted_root;
use serde::Serialize;

use super::{Rendered, entries_text};
use crate::commands::audit::TerminalError;
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::local_log::LocalLog;
use crate::new_file::{Existing, NewFile, check};
use crate::ui::Stream;

/// Write the log into one file that anyone can check or serve
///
/// A tar archive of a C2SP tile log (`tiles/`), a Sigstore trusted root that names its keys
/// (`trusted_root.json`) and its verifier key (`vkey.txt`). That the keys are the notary's has to
/// be known from elsewhere: an archive cannot vouch for itself.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// Write the archive to FILE instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace FILE where it exists
    #[arg(long, requires = "output")]
    force: bool,

    /// Write the trusted root alone
    #[arg(long)]
    trusted_root: bool,
}

pub(super) fn run(args: &ExportArgs, context: &Context<'_>) -> Result<ExportReport, CommandError> {
    let existing = Existing::of_force(args.force);
    match &args.output {
        Some(path) => check(path, existing)?,
        None if !args.trusted_root && io::stdout().is_terminal() => {
            return Err(TerminalError.into());
        }
        None => {}
    }
    let local = LocalLog::of(context)?;
    let log = local.open()?;
    let checkpoint = log.checkpoint();
    let root = local_trusted_root(&checkpoint.origin, &log.notaries()?);
    let write = |out: &mut dyn Write| -> io::Result<()> {
        if args.trusted_root {
            return out.write_all(root.as_bytes());
        }
        let mut archive = tar::Builder::new(out);
        add(&mut archive, "trusted_root.json", root.as_bytes())?;
        let vkey = verifier_key(&checkpoint.origin, log.key()) + "\n";
        add(&mut archive, "vkey.txt", vkey.as_bytes())?;
        add(&mut archive, "tiles/checkpoint", log.note().as_bytes())?;
        let tiles = local.directory().tiles();
        add_all(&mut archive, &tiles, &tiles.join("tile"))?;
        archive.finish()
    };
    let failed = |source| CommandError::from(LogExportError { source });
    match &args.output {
        Some(path) => {
            let mut file = NewFile::create(path)?;
            write(&mut file).map_err(failed)?;
            file.keep(existing)?;
        }
        None => write(&mut context.ui().raw_output()).map_err(failed)?,
    }
    let (entries, origin) = (checkpoint.size, checkpoint.origin.to_string());
    Ok(ExportReport { origin, entries, written: args.output.clone() })
}

/// Adds the files below `directory`, sorted: the same log gives the same bytes.
fn add_all(
    archive: &mut tar::Builder<&mut dyn Write>,
    root: &Path,
    directory: &Path,
) -> io::Result<()> {
    let entries: io::Result<Vec<_>> = fs::read_dir(directory)?.collect();
    let mut paths: Vec<PathBuf> = entries?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        // What is being written is not there yet.
        if path.extension().is_some_and(|extension| extension == "new") {
            continue;
        }
        match path.is_dir() {
            true => add_all(archive, root, &path)?,
            false => {
                let name = path.strip_prefix(root).expect("it is below the root");
                let name = Path::new("tiles").join(name);
                let mut bytes = Vec::new();
                io::Read::read_to_end(&mut File::open(&path)?, &mut bytes)?;
                add(archive, &name.to_string_lossy(), &bytes)?;
            }
        }
    }
    Ok(())
}

/// Adds a file: of nobody in particular, and without a date.
fn add(archive: &mut tar::Builder<&mut dyn Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, format!("evanesce-log/{name}"), bytes)
}

/// What an export holds.
#[derive(Debug, Serialize)]
pub struct ExportReport {
    origin: String,
    entries: u64,
    written: Option<PathBuf>,
}

impl Rendered for ExportReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.written {
            Some(path) => {
                let entries = entries_text(self.entries);
                writeln!(out, "exported  {entries} of {} → {}", self.origin, path.display())
            }
            None => Ok(()),
        }
    }

    fn json_stream(&self) -> Stream {
        match self.written {
            Some(_) => Stream::Output,
            None => Stream::Error,
        }
    }
}

/// The archive could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the archive could not be written")]
struct LogExportError {
    #[source]
    source: io::Error,
}

impl Coded for LogExportError {
    fn code(&self) -> &'static str {
        "log.export"
    }
}
