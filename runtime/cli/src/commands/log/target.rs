//! `log target`: where the log is published to.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use evanesce_transparency::Target;
use evanesce_transparency::publish::{SIGNING_CONFIG_BYTES_MAX, TargetFiles, TargetName};
use evanesce_transparency::trust::TRUSTED_ROOT_BYTES_MAX;
use serde::Serialize;

use super::Rendered;
use crate::context::Context;
use crate::errors::CommandError;
use crate::files;
use crate::local_log::LocalLog;
use crate::ui::FAINT;

/// Add, list and remove the logs that this log is published to
#[derive(Debug, clap::Args)]
pub(super) struct TargetArgs {
    #[command(subcommand)]
    command: TargetCommand,
}

#[derive(Debug, Subcommand)]
enum TargetCommand {
    Add(AddArgs),
    List(ListArgs),
    Remove(RemoveArgs),
}

/// Add a target: from then on every entry, from the first, waits until it is published there
///
/// Servers are named by a Sigstore signing configuration (v0.2) and believed by a Sigstore trusted
/// root. Both are copied.
#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Name the target NAME: a-z, 0-9, '-' and '_'
    #[arg(value_name = "NAME")]
    name: TargetName,

    /// The signing configuration
    #[arg(long, value_name = "FILE")]
    signing_config: PathBuf,

    /// The trusted root
    #[arg(long, value_name = "FILE")]
    trusted_root: PathBuf,
}

/// List the targets
#[derive(Debug, clap::Args)]
struct ListArgs {}

/// Forget a target, what waits for it, and the proofs of what was published there
#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// The target
    #[arg(value_name = "NAME")]
    name: TargetName,
}

pub(super) fn run(args: &TargetArgs, context: &Context<'_>) -> Result<TargetReport, CommandError> {
    let outbox = LocalLog::of(context)?.outbox();
    match &args.command {
        TargetCommand::Add(args) => {
            let read = |path: &Path, bytes_max: usize| {
                let bytes = files::read_small(path, bytes_max as u64)?;
                // What is no text is no JSON either, and is refused as such.
                Ok::<_, CommandError>(String::from_utf8_lossy(&bytes).into_owned())
            };
            let config = read(&args.signing_config, SIGNING_CONFIG_BYTES_MAX)?;
            let root = read(&args.trusted_root, TRUSTED_ROOT_BYTES_MAX)?;
            let target = TargetFiles::new(config, root)?;
            outbox.add(&args.name, &target)?;
        }
        TargetCommand::Remove(args) => outbox.remove(&args.name)?,
        TargetCommand::List(_) => {}
    }
    let mut targets = Vec::new();
    for name in outbox.targets()? {
        let target = Target::new(&outbox.files(&name)?, &[])?;
        let servers = target.urls().map(str::to_owned).collect();
        targets.push(TargetRecord { name, servers });
    }
    Ok(TargetReport { targets })
}

/// The targets there are.
#[derive(Debug, Serialize)]
pub struct TargetReport {
    targets: Vec<TargetRecord>,
}

#[derive(Debug, Serialize)]
struct TargetRecord {
    name: TargetName,
    servers: Vec<String>,
}

impl Rendered for TargetReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        self.targets.iter().try_for_each(|target| {
            let servers = target.servers.join(", ");
            writeln!(out, "{:<16}  {FAINT}{servers}{FAINT:#}", target.name.as_str())
        })
    }
}
