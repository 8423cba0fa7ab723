//! `notary`: the key that certifies workloads' keys and signs their receipts.

use std::io::{self, Write};

use clap::Subcommand;
use evanesce_launcher::NotaryInfo;
use evanesce_ledger::NotaryKeyId;
use evanesce_ledger::receipt::Apart;
use serde::Serialize;

use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::local_log;
use crate::receipt_text;
use crate::ui::{FAINT, Report};

/// Make, show or replace the key that certifies keys and signs receipts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce notary show
  evanesce notary show --allowed-signers >> ~/.ssh/allowed_signers
  ssh-keygen -Y verify -f ~/.ssh/allowed_signers -I evanesce -n file \\
    -s release.tar.sig < release.tar
  evanesce notary rotate --reason 'yearly'")]
pub struct NotaryArgs {
    #[command(subcommand)]
    command: NotaryCommand,
}

#[derive(Debug, Subcommand)]
enum NotaryCommand {
    Init(NotaryInitArgs),
    Show(NotaryShowArgs),
    Rotate(NotaryRotateArgs),
}

/// Make the notary's key where there is none yet
///
/// The first `run` or `sign` does the same.
#[derive(Debug, clap::Args)]
struct NotaryInitArgs {}

/// Print the notary's public key, and the line that lets OpenSSH and git trust it
#[derive(Debug, clap::Args)]
struct NotaryShowArgs {
    /// Print the line for allowed_signers and nothing else
    #[arg(long)]
    allowed_signers: bool,
}

/// Replace the notary's key by a new one, which the old one vouches for
///
/// Whoever trusts the old key by a line in allowed_signers has to add the new line.
#[derive(Debug, clap::Args)]
struct NotaryRotateArgs {
    /// Say why, for the ledger
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Makes, shows or replaces the notary's key.
///
/// # Errors
///
/// Where the installation or its notary cannot be used, or there is no notary to show.
pub fn run(args: &NotaryArgs, context: &Context<'_>) -> Result<NotaryReport, CommandError> {
    let launcher = context.launcher()?;
    let notary = launcher.notary();
    let (info, only_line) = match &args.command {
        NotaryCommand::Init(_) => (notary.init()?, false),
        NotaryCommand::Rotate(args) => (notary.rotate(&args.reason)?, false),
        NotaryCommand::Show(args) => (notary.show()?.ok_or(NoNotaryError)?, args.allowed_signers),
    };
    if matches!(args.command, NotaryCommand::Rotate(_)) {
        local_log::grow(context, &launcher);
    }
    Ok(NotaryReport::new(info, only_line))
}

/// A notary as it may be shown to anyone.
#[derive(Debug, Serialize)]
pub struct NotaryReport {
    key_id: NotaryKeyId,
    public_key_line: String,
    allowed_signers_line: String,
    separation: Apart,
    retired: Vec<NotaryKeyId>,
    #[serde(skip)]
    only_line: bool,
}

impl NotaryReport {
    fn new(info: NotaryInfo, only_line: bool) -> Self {
        let line = info.public_key_line;
        Self {
            key_id: info.key_id,
            // What evanesce grants by default and what git needs: no login, no other statement.
            allowed_signers_line: format!("* cert-authority,namespaces=\"file,git\" {line}"),
            public_key_line: line,
            // A notary of this launcher runs as the user of its workloads.
            separation: Apart::SameUid,
            retired: info.retired,
            only_line,
        }
    }
}

impl Report for NotaryReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.only_line {
            return writeln!(out, "{}", self.allowed_signers_line);
        }
        writeln!(out, "notary           {}", self.key_id)?;
        let apart = receipt_text::apart(self.separation);
        writeln!(out, "separation       {apart} {FAINT}(as its workloads){FAINT:#}")?;
        for retired in &self.retired {
            writeln!(out, "before it        {FAINT}{retired}{FAINT:#}")?;
        }
        writeln!(out, "public key       {}", self.public_key_line)?;
        writeln!(out, "allowed_signers  {}", self.allowed_signers_line)
    }
}

/// There is no notary to show.
#[derive(Debug, thiserror::Error)]
#[error("this installation has no notary yet")]
struct NoNotaryError;

impl Coded for NoNotaryError {
    fn code(&self) -> &'static str {
        "notary.none"
    }
}
