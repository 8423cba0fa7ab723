//! `key reseal`: a new passphrase or new recipients for a key file.

use std::io::{self, Write};
use std::path::PathBuf;

use evanesce_launcher::Unlock;
use evanesce_protocol::PublicKey;
use evanesce_protocol::custody::KeyFileFormat;
use serde::Serialize;

use super::secrets::{SealArgs, UnlockArgs};
use super::{Rendered, StrengthArgs};
use crate::context::Context;
use crate::errors::CommandError;
use crate::ui::{FAINT, UNSURE};

/// Seal the key of a file anew: another passphrase, other recipients
///
/// The key stays the same; FILE is replaced in one step. A file of any format becomes a sealed one.
#[derive(Debug, clap::Args)]
pub(super) struct ResealArgs {
    /// The key file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    seal: SealArgs,

    #[command(flatten)]
    unlock: UnlockArgs,

    #[command(flatten)]
    strength: StrengthArgs,
}

pub(super) fn run(args: &ResealArgs, context: &Context<'_>) -> Result<ResealReport, CommandError> {
    let seal = args.seal.seal()?;
    let unlock =
        Unlock { new_passphrase: args.seal.new_passphrase(), ..args.unlock.unlock(context) };
    let (sealed, before) = args.strength.custodian(context)?.reseal(&args.file, seal, &unlock)?;
    Ok(ResealReport {
        file: sealed.file,
        public_key: sealed.public_key,
        generation: sealed.generation,
        format_before: before,
    })
}

/// A key file that was sealed anew.
#[derive(Debug, Serialize)]
pub struct ResealReport {
    file: PathBuf,
    public_key: PublicKey,
    generation: u64,
    format_before: KeyFileFormat,
}

impl Rendered for ResealReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "key        {}", self.public_key)?;
        let (file, before) = (self.file.display(), self.format_before);
        writeln!(out, "sealed in  {file} {FAINT}(before: {before}){FAINT:#}")
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        match self.format_before {
            KeyFileFormat::Pkcs8 | KeyFileFormat::Openssh => writeln!(
                err,
                "{UNSURE}the disk may still hold the key in the clear{UNSURE:#}: \
                 make a new one where that matters"
            ),
            _ => Ok(()),
        }
    }
}
