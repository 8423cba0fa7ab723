//! `completions`: teach a shell this command line.

use std::io::{self, Write};

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde::Serialize;

use crate::cli::Cli;
use crate::errors::CommandError;
use crate::ui::Report;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce completions bash > ~/.local/share/bash-completion/completions/evanesce
  evanesce completions zsh > ~/.zfunc/_evanesce")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Makes the script.
///
/// # Errors
///
/// None.
pub fn run(args: &CompletionsArgs) -> Result<CompletionsReport, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "evanesce", &mut script);
    let script = String::from_utf8(script).expect("clap_complete writes text");
    Ok(CompletionsReport { shell: args.shell.to_string(), script })
}

/// The script.
#[derive(Debug, Serialize)]
pub struct CompletionsReport {
    shell: String,
    script: String,
}

impl Report for CompletionsReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(self.script.as_bytes())
    }
}
