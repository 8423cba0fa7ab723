//! `release challenge`: open a session, good for one request.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use evanesce_ledger::{NotaryKeyId, Timestamp};
use evanesce_protocol::PublicKey;
use evanesce_protocol::evidence::Nonce;
use serde::Serialize;

use super::HeldKeyArgs;
use crate::commands::key::Rendered;
use crate::context::Context;
use crate::errors::CommandError;
use crate::files::parse_duration;
use crate::new_file::{self, Existing};
use crate::ui::FAINT;

/// Write a challenge, to which one worker may answer with evidence
#[derive(Debug, clap::Args)]
pub(super) struct ChallengeArgs {
    #[command(flatten)]
    key: HeldKeyArgs,

    /// Let the challenge count for TIME, at most an hour: 90s, 10m
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10m")]
    lifetime: Duration,

    /// Write the challenge to FILE: challenge.json in the directory that --key-from will name
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,

    /// Replace FILE where it exists
    #[arg(long)]
    force: bool,
}

pub(super) fn run(
    args: &ChallengeArgs,
    context: &Context<'_>,
) -> Result<ChallengeReport, CommandError> {
    let existing = Existing::of_force(args.force);
    new_file::check(&args.out, existing)?;
    let launcher = context.launcher()?;
    let challenge = launcher.challenge(&args.key.order(context), args.lifetime)?;
    new_file::write(&args.out, format!("{}\n", challenge.to_text()).as_bytes(), existing)?;
    Ok(ChallengeReport {
        session: challenge.session(),
        public_key: challenge.public_key(),
        holder: challenge.holder(),
        expires: challenge.expires(),
        written: args.out.clone(),
    })
}

/// A challenge that was issued.
#[derive(Debug, Serialize)]
pub struct ChallengeReport {
    session: Nonce,
    public_key: PublicKey,
    holder: NotaryKeyId,
    expires: Timestamp,
    written: PathBuf,
}

impl Rendered for ChallengeReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "challenge    {}, until {}", self.written.display(), self.expires)?;
        writeln!(out, "for key      {}", self.public_key)?;
        writeln!(out, "session      {}", self.session)?;
        writeln!(out, "holder       {} {FAINT}(notary.pem names it){FAINT:#}", self.holder)
    }
}
