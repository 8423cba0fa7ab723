//! `log publish`: enter what waits in the logs of a target. The only command that opens a network
//! connection, and a process of its own wherever another command wants it.

use std::io::{self, Write};
use std::time::Duration;

use evanesce_transparency::publish::{
    Http, Pause, Published, REQUEST_TIMEOUT, Stopped, TargetName,
};
use rustix::event::Timespec;
use serde::Serialize;

use super::{Rendered, entries_text};
use crate::clock;
use crate::context::Context;
use crate::errors::CommandError;
use crate::exit::Exit;
use crate::files;
use crate::local_log::LocalLog;
use crate::ui::{FAINT, GOOD, UNSURE};

/// Enter what waits in the logs of all targets, or of those that are named
///
/// An answer counts once it was verified with the target's trusted root. What a server does not take
/// waits for the next time. It can be ended at any moment: an entry is published or still waits.
/// Exits 1 where something still waits.
#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    /// The targets; all of them where none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<TargetName>,

    /// Begin nothing new after TIME
    #[arg(long, value_name = "TIME", value_parser = files::parse_duration, default_value = "5m")]
    give_up_after: Duration,

    /// Wait no longer than TIME for one answer
    #[arg(long, value_name = "TIME", value_parser = files::parse_duration)]
    timeout: Option<Duration>,
}

pub(super) fn run(
    args: &PublishArgs,
    context: &Context<'_>,
) -> Result<PublishReport, CommandError> {
    let local = LocalLog::of(context)?;
    // A log that is behind the ledger is grown first: a command may have been killed before.
    local.extend(&context.launcher()?)?;
    let local = LocalLog::of(context)?;
    let log = local.open()?;
    let outbox = local.outbox();
    let targets = match args.targets.is_empty() {
        true => outbox.targets()?,
        false => args.targets.clone(),
    };
    let http = Http::new(args.timeout.unwrap_or(REQUEST_TIMEOUT));
    let give_up_after = u64::try_from(args.give_up_after.as_millis()).unwrap_or(u64::MAX);
    let deadline = clock::now().unix_ms().saturating_add(give_up_after);
    let mut pause = |time: Duration| {
        let left = deadline.saturating_sub(clock::now().unix_ms());
        if u128::from(left) <= time.as_millis() {
            return Pause::Aborted;
        }
        wait(time);
        Pause::Over
    };
    let mut published = Vec::new();
    for name in &targets {
        let sources = (&log, local.ledger());
        published.push(outbox.publish(name, sources, (&http, clock::now()), &mut pause)?);
    }
    Ok(PublishReport { targets: published })
}

fn wait(time: Duration) {
    if let Ok(time) = Timespec::try_from(time) {
        // A signal ends it early, which does no harm.
        rustix::event::poll(&mut [], Some(&time)).unwrap_or(0);
    }
}

/// What came of it, target by target.
#[derive(Debug, Serialize)]
pub struct PublishReport {
    targets: Vec<Published>,
}

impl Rendered for PublishReport {
    fn exit(&self) -> Exit {
        match self.targets.iter().all(|target| target.waiting == 0) {
            true => Exit::Success,
            false => Exit::Failure,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        for target in &self.targets {
            let published = entries_text(target.published);
            write!(out, "published     {GOOD}{published}{GOOD:#} to {}", target.target)?;
            match target.waiting {
                0 => writeln!(out)?,
                more => writeln!(out, ", {UNSURE}{more} waiting{UNSURE:#}")?,
            }
            match &target.stopped {
                Some(Stopped::Aborted) => {
                    writeln!(out, "              {FAINT}time is up{FAINT:#}")?
                }
                Some(Stopped::Failed(failure)) => {
                    let (entry, message) = (failure.entry, &failure.message);
                    writeln!(
                        out,
                        "              entry {entry}: {message} {FAINT}[{}]{FAINT:#}",
                        failure.code
                    )?;
                }
                None => {}
            }
        }
        Ok(())
    }
}
