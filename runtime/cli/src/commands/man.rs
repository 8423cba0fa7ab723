//! `man`: the manual pages, made from the help.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_mangen::Man;
use serde::Serialize;

use crate::cli::Cli;
use crate::errors::{Coded, CommandError};
use crate::new_file::{self, Existing};
use crate::ui::Report;

/// Print the manual page, or write all of them to a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce man | man -l -
  evanesce man --output ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Write one page per command to DIR
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Makes the pages.
///
/// # Errors
///
/// Where the directory cannot be written.
pub fn run(args: &ManArgs) -> Result<ManReport, CommandError> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(dir) = &args.output else {
        let text = page(&command)?;
        return Ok(ManReport { text: Some(text), written: Vec::new() });
    };
    fs::create_dir_all(dir).map_err(|source| ManError::Directory { path: dir.clone(), source })?;
    let mut written = Vec::new();
    write_pages(&command, dir, &mut written)?;
    Ok(ManReport { text: None, written })
}

fn write_pages(
    command: &clap::Command,
    dir: &Path,
    written: &mut Vec<PathBuf>,
) -> Result<(), CommandError> {
    let path = dir.join(Man::new(command.clone()).get_filename());
    new_file::write(&path, page(command)?.as_bytes(), Existing::Replace)?;
    written.push(path);
    command.get_subcommands().try_for_each(|command| write_pages(command, dir, written))
}

fn page(command: &clap::Command) -> Result<String, ManError> {
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text).map_err(ManError::Render)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The pages.
#[derive(Debug, Serialize)]
pub struct ManReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    written: Vec<PathBuf>,
}

impl Report for ManReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(text) = &self.text {
            out.write_all(text.as_bytes())?;
        }
        self.written.iter().try_for_each(|path| writeln!(out, "{}", path.display()))
    }
}

/// Why there are no pages.
#[derive(Debug, thiserror::Error)]
enum ManError {
    #[error("the directory {} could not be made", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the manual page could not be made")]
    Render(#[source] io::Error),
}

impl Coded for ManError {
    fn code(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "man.directory",
            Self::Render(_) => "man.render",
        }
    }
}
