//! `cargo xtask readme`: does what the README tells a newcomer to do.
//!
//! Its blocks marked `sh` are run in their order, in one shell that stops at the first command that
//! fails. Left out is the block that runs the tests, since CI runs them anyway.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::programs::{ProgramError, repository, show, target_directory};

/// Run the commands of the README, in their order, in one shell
///
/// The installation they use is a temporary one. What they write beside the README is removed; where
/// it is there before, nothing is run.
#[derive(Debug, clap::Args)]
pub(crate) struct ReadmeArgs {}

pub(crate) fn run(_args: &ReadmeArgs) -> Result<ReadmeReport, ReadmeError> {
    let readme = repository().join("README.md");
    let text =
        fs::read_to_string(&readme).map_err(|source| ReadmeError::Read { path: readme, source })?;
    let blocks: Vec<_> =
        blocks(&text).into_iter().filter(|block| !block.commands.contains(TESTS)).collect();
    let made = MADE.map(|name| repository().join(name));
    if let Some(path) = made.iter().find(|path| path.exists()) {
        return Err(ReadmeError::InTheWay { path: path.clone() });
    }

    let ran = in_one_shell(&blocks);
    for path in made.iter().filter(|path| path.exists()) {
        fs::remove_file(path)
            .map_err(|source| ReadmeError::Remove { path: path.clone(), source })?;
    }
    ran?;
    Ok(ReadmeReport { blocks: blocks.len() })
}

/// What was run.
#[derive(Debug)]
pub(crate) struct ReadmeReport {
    blocks: usize,
}

impl fmt::Display for ReadmeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} blocks of the README do what they say", self.blocks)
    }
}

/// Why the README's commands were not run, or not to their end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReadmeError {
    #[error("could not read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is in the way: move it", path.display())]
    InTheWay { path: PathBuf },
    #[error("could not make a directory for the commands")]
    Directory(#[source] io::Error),
    #[error("a command of the README failed: the last one above")]
    Command(#[source] ProgramError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("could not remove {}", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// One block of commands.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// The line of the first command, from 1.
    line: usize,
    commands: String,
}

/// The blocks marked `sh`.
fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in markdown.lines().enumerate() {
        match &mut open {
            None if line == "```sh" => {
                open = Some(Block { line: index + 2, commands: String::new() });
            }
            None => {}
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some(block) => {
                block.commands.push_str(line);
                block.commands.push('\n');
            }
        }
    }
    blocks
}

/// Runs the blocks in the repository. The shell prints each line before it runs it.
fn in_one_shell(blocks: &[Block]) -> Result<(), ReadmeError> {
    let directory = tempfile::tempdir().map_err(ReadmeError::Directory)?;
    let script = directory.path().join("readme.sh");
    let mut text = String::new();
    for Block { line, commands } in blocks {
        text.push_str(&format!("\n# README.md, line {line}\n{commands}"));
    }
    fs::write(&script, text).map_err(ReadmeError::Directory)?;
    // Some commands write into `target`, whether or not cargo builds there.
    fs::create_dir_all(repository().join("target")).map_err(ReadmeError::Directory)?;
    let built = target_directory()?.join("release");
    show(
        Command::new("bash")
            .args(["-v", "-e", "-u", "-o", "pipefail"])
            .arg(&script)
            .current_dir(repository())
            .stdin(Stdio::null())
            .env("PATH", path_with(&built))
            .env("EVANESCE_STATE_DIR", directory.path().join("state"))
            .env("RUNTIME_DIRECTORY", directory.path().join("run")),
    )
    .map_err(ReadmeError::Command)
}

/// The search path, with `directory` first.
#[expect(clippy::disallowed_methods, reason = "a task runs in its caller's environment")]
fn path_with(directory: &Path) -> OsString {
    let mut path = OsString::from(directory);
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

/// The block with this is left out.
const TESTS: &str = "cargo test --workspace";

/// What the commands write outside of `target`.
const MADE: [&str; 2] = ["README.md.sig", "README.md.sigstore.json"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_marked_sh_are_commands() {
        let markdown = "text\n```sh\none\n  two\n```\n```\nno\n```\n    ```sh\n```sh\nthree\n```\n";

        let block = |line, commands: &str| Block { line, commands: commands.to_owned() };
        assert_eq!(blocks(markdown), [block(3, "one\n  two\n"), block(11, "three\n")]);
    }
}
