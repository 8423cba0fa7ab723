//! `key new`: a key is born inside a worker, and only its sealed file leaves it.

use std::io::{self, Write};
use std::path::PathBuf;

use evanesce_launcher::{NewKey, PublicFile, Unlock};
use evanesce_protocol::PublicKey;
use serde::Serialize;

use super::secrets::SealArgs;
use super::{Rendered, StrengthArgs};
use crate::context::Context;
use crate::errors::CommandError;
use crate::ui::FAINT;

/// Make a key inside a worker and write its sealed file
///
/// The key is never shown: FILE is an age file with the key in it as PKCS#8 PEM, FILE.pub names its
/// public half. `age -d` opens FILE as well. Without --recipient a passphrase is asked for.
#[derive(Debug, clap::Args)]
pub(super) struct NewArgs {
    /// Where the sealed key goes; it must not be there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    seal: SealArgs,

    #[command(flatten)]
    strength: StrengthArgs,
}

pub(super) fn run(args: &NewArgs, context: &Context<'_>) -> Result<NewReport, CommandError> {
    let seal = args.seal.seal()?;
    let unlock = Unlock {
        new_passphrase: args.seal.new_passphrase(),
        credentials: context.credentials(),
        ..Unlock::default()
    };
    let made = args.strength.custodian(context)?.create(&args.file, seal, &unlock)?;
    Ok(NewReport::new(made))
}

/// A key that was made.
#[derive(Debug, Serialize)]
pub struct NewReport {
    file: PathBuf,
    public_file: PathBuf,
    public_key: PublicKey,
    generation: u64,
}

impl NewReport {
    fn new(made: NewKey) -> Self {
        Self {
            public_file: PublicFile::of(&made.file).path().to_owned(),
            file: made.file,
            public_key: made.public_key,
            generation: made.generation,
        }
    }
}

impl Rendered for NewReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "key          {}", self.public_key)?;
        writeln!(out, "sealed in    {}", self.file.display())?;
        writeln!(out, "public half  {}", self.public_file.display())
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        let file = self.file.display();
        writeln!(err, "{FAINT}sign with it: evanesce sign --key {file} FILE{FAINT:#}")
    }
}
