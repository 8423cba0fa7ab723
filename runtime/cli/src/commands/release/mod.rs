//! `release`: a key goes to an attested worker of another machine.

mod answer;
mod challenge;
mod listen;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use evanesce_launcher::{Degraded, ReleaseOrder};
use serde::Serialize;

use crate::commands::key::Rendered;
use crate::commands::key::secrets::UnlockArgs;
use crate::context::Context;
use crate::errors::CommandError;
use crate::exit::Exit;
use crate::ui::Report;

/// Release a key to a worker of another machine, where its evidence meets a policy
///
/// The holder's side. The key is opened by a worker here, which seals it to the very worker that
/// asked; what passes between the two is public or sealed. The other side is `run --key-from` and
/// `sign --key-from`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  evanesce release --listen tls://0.0.0.0:7443 --tls-cert holder.pem --tls-key holder.key \\
    --key release.age --identity identity.txt --policy policy.toml
  evanesce release --listen unix:/run/user/1000/holder.sock --key release.age --policy policy.toml
  evanesce release challenge --key release.age --out usb/challenge.json
  evanesce release answer --key release.age --policy policy.toml \\
    --request usb/request.json --out usb/answer.json

On the other side, inside the confidential machine, with this installation's notary.pem:
  evanesce run --key-from tls://holder.example:7443 --holder notary.pem -- ./release.sh
  evanesce sign --key-from usb --holder notary.pem release.tar"
)]
pub struct ReleaseArgs {
    #[command(subcommand)]
    command: Option<ReleaseCommand>,

    #[command(flatten)]
    listen: listen::ListenArgs,
}

#[derive(Debug, Subcommand)]
enum ReleaseCommand {
    Challenge(challenge::ChallengeArgs),
    Answer(answer::AnswerArgs),
}

/// Which key is released.
#[derive(Clone, Debug, clap::Args)]
struct HeldKeyArgs {
    /// Release the key in FILE: PKCS#8 PEM, OpenSSH or age
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    #[command(flatten)]
    how: OpenArgs,
}

impl HeldKeyArgs {
    fn order(&self, context: &Context<'_>) -> ReleaseOrder<'_> {
        self.how.order(&self.key, context)
    }
}

/// How its file is opened, and what is given up.
#[derive(Clone, Debug, clap::Args)]
struct OpenArgs {
    #[command(flatten)]
    unlock: UnlockArgs,

    /// Give up a guarantee by name: secret-pages (can be repeated)
    #[arg(long, value_name = "NAME")]
    allow_degraded: Vec<Degraded>,
}

impl OpenArgs {
    fn order<'a>(&self, file: &'a Path, context: &Context<'_>) -> ReleaseOrder<'a> {
        let degraded = match self.allow_degraded.is_empty() {
            true => context.settings().allow_degraded.value.clone(),
            false => self.allow_degraded.clone(),
        };
        ReleaseOrder { file, unlock: self.unlock.unlock(context), degraded, public_key: None }
    }
}

/// Releases, or helps with it.
///
/// # Errors
///
/// Where a file cannot be used, the request is refused, or a step fails.
pub fn run(args: &ReleaseArgs, context: &Context<'_>) -> Result<ReleaseReport, CommandError> {
    match &args.command {
        Some(ReleaseCommand::Challenge(args)) => {
            challenge::run(args, context).map(ReleaseReport::Challenge)
        }
        Some(ReleaseCommand::Answer(args)) => {
            answer::run(args, context).map(Box::new).map(ReleaseReport::Answer)
        }
        None => listen::run(&args.listen, context).map(ReleaseReport::Listen),
    }
}

/// What was done.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ReleaseReport {
    #[expect(missing_docs, reason = "named like its command")]
    Challenge(challenge::ChallengeReport),
    #[expect(missing_docs, reason = "named like its command")]
    Answer(Box<answer::AnswerReport>),
    #[expect(missing_docs, reason = "named like its flag")]
    Listen(listen::ListenReport),
}

impl ReleaseReport {
    fn inner(&self) -> &dyn Rendered {
        match self {
            Self::Challenge(report) => report,
            Self::Answer(report) => report.as_ref(),
            Self::Listen(report) => report,
        }
    }
}

impl Report for ReleaseReport {
    fn exit(&self) -> Exit {
        self.inner().exit()
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        self.inner().render(out)
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        self.inner().talk(err)
    }
}
