//! `release answer`: judge a request, and seal the key to the worker that asked.

use std::io::{self, Write};
use std::path::PathBuf;

use evanesce_ledger::KeyRelease;
use evanesce_protocol::Digest;
use evanesce_release::REQUEST_BYTES_MAX;
use serde::Serialize;

use super::HeldKeyArgs;
use crate::commands::attest::appraise::read_policy;
use crate::commands::attest::input::RootArgs;
use crate::commands::key::Rendered;
use crate::context::Context;
use crate::errors::CommandError;
use crate::local_log;
use crate::new_file::{self, Existing};
use crate::release::directory::read_line;
use crate::release::judge::judge;
use crate::ui::{FAINT, GOOD};

/// Judge a request by a policy, and seal the key to the worker that asked
///
/// The challenge is used by this, whatever comes of it.
#[derive(Debug, clap::Args)]
pub(super) struct AnswerArgs {
    #[command(flatten)]
    key: HeldKeyArgs,

    /// What is accepted: a policy with key-release among its purposes
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,

    /// The request: request.json in the directory that --key-from names
    #[arg(long, value_name = "FILE")]
    request: PathBuf,

    /// Write the answer to FILE: answer.json in the same directory
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,

    /// Replace FILE where it exists
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    roots: RootArgs,
}

pub(super) fn run(args: &AnswerArgs, context: &Context<'_>) -> Result<AnswerReport, CommandError> {
    let existing = Existing::of_force(args.force);
    new_file::check(&args.out, existing)?;
    let policy = read_policy(&args.policy)?;
    let roots = args.roots.roots(context)?;
    let line = read_line(&args.request, REQUEST_BYTES_MAX)?;
    let launcher = context.launcher()?;
    let approved = judge(launcher.admit(&line)?, &policy, &roots, context)?;
    let answered = launcher.release(approved, &args.key.order(context))?;
    local_log::grow(context, &launcher);
    new_file::write(&args.out, format!("{}\n", answered.line).as_bytes(), existing)?;
    Ok(AnswerReport {
        release: answered.release,
        transcript: answered.row.transcript,
        written: args.out.clone(),
    })
}

/// A key that was released.
#[derive(Debug, Serialize)]
pub struct AnswerReport {
    release: KeyRelease,
    transcript: Digest,
    written: PathBuf,
}

impl Rendered for AnswerReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let KeyRelease { public_key, tee, measurement, release_key, .. } = &self.release;
        writeln!(out, "{GOOD}released{GOOD:#}     {public_key}")?;
        writeln!(out, "to           {tee} {FAINT}{measurement}{FAINT:#}")?;
        writeln!(out, "sealed for   {release_key}")?;
        writeln!(out, "transcript   {}", self.transcript)?;
        writeln!(out, "answer       {}", self.written.display())
    }
}
