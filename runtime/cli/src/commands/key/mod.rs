//! `key`: sealed key files, made, shown, sealed anew and rotated.

mod history;
mod list;
mod new;
mod reseal;
pub mod rotate;
pub mod secrets;
mod show;

use std::io::{self, Write};

use clap::Subcommand;
use evanesce_launcher::{Custodian, Degraded, WorkerImage};
use evanesce_protocol::control::Strength;
use serde::Serialize;

use crate::context::Context;
use crate::errors::CommandError;
use crate::exit::Exit;
use crate::ui::Report;

/// Make, show, seal and rotate keys that only their sealed files leave
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce key new release.age                          asks for a passphrase
  evanesce key new release.age --recipient age1…        for whoever has that identity
  evanesce key show release.age
  evanesce sign --key release.age release.tar
  evanesce key reseal release.age --recipient age1… --recipient age1…
  evanesce key rotate release.age --reason yearly
  evanesce key history release.age
  age -d release.age | openssl pkey -pubout             nothing but age and OpenSSL is needed")]
pub struct KeyCommandArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    New(new::NewArgs),
    Show(show::ShowArgs),
    List(list::ListArgs),
    Reseal(reseal::ResealArgs),
    Rotate(rotate::RotateArgs),
    History(history::HistoryArgs),
}

/// Does what is asked with key files.
///
/// # Errors
///
/// Where there is no worker, a file cannot be used, or what opens it is not there.
pub fn run(args: &KeyCommandArgs, context: &Context<'_>) -> Result<KeyReport, CommandError> {
    Ok(match &args.command {
        KeyCommand::New(args) => KeyReport::New(new::run(args, context)?),
        KeyCommand::Show(args) => KeyReport::Show(show::run(args, context)?),
        KeyCommand::List(args) => KeyReport::List(list::run(args, context)?),
        KeyCommand::Reseal(args) => KeyReport::Reseal(reseal::run(args, context)?),
        KeyCommand::Rotate(args) => KeyReport::Rotate(Box::new(rotate::run(args, context)?)),
        KeyCommand::History(args) => KeyReport::History(history::run(args, context)?),
    })
}

/// What was done.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum KeyReport {
    /// `key new`.
    New(new::NewReport),
    /// `key show`.
    Show(show::ShowReport),
    /// `key list`.
    List(list::ListReport),
    /// `key reseal`.
    Reseal(reseal::ResealReport),
    /// `key rotate`.
    Rotate(Box<rotate::RotateReport>),
    /// `key history`.
    History(history::HistoryReport),
}

impl KeyReport {
    fn inner(&self) -> &dyn Rendered {
        match self {
            Self::New(report) => report,
            Self::Show(report) => report,
            Self::List(report) => report,
            Self::Reseal(report) => report,
            Self::Rotate(report) => report.as_ref(),
            Self::History(report) => report,
        }
    }
}

/// A report as people read it.
pub(crate) trait Rendered {
    /// How the command ends.
    fn exit(&self) -> Exit {
        Exit::Success
    }

    /// Writes the result.
    fn render(&self, out: &mut dyn Write) -> io::Result<()>;

    /// Writes what is worth saying beside it.
    fn talk(&self, _err: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

impl Report for KeyReport {
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

/// What `key` commands give up.
#[derive(Clone, Debug, clap::Args)]
struct StrengthArgs {
    /// Give up a guarantee by name: secret-pages (can be repeated)
    #[arg(long, value_name = "NAME")]
    allow_degraded: Vec<Degraded>,
}

impl StrengthArgs {
    /// What is given up: by these flags, else by the settings.
    fn degraded(&self, context: &Context<'_>) -> Vec<Degraded> {
        match self.allow_degraded.is_empty() {
            true => context.settings().allow_degraded.value.clone(),
            false => self.allow_degraded.clone(),
        }
    }

    fn custodian(&self, context: &Context<'_>) -> Result<Custodian, CommandError> {
        let strength = match self.degraded(context).contains(&Degraded::SecretPages) {
            true => Strength::AllowLockedPages,
            false => Strength::Strict,
        };
        Ok(Custodian::open(WorkerImage::embedded(), strength)?)
    }
}
