//! `ps`: list the workloads that are alive.

use std::io::{self, Write};

use evanesce_launcher::Listed;
use serde::Serialize;

use crate::context::Context;
use crate::errors::CommandError;
use crate::receipt_text::counted;
use crate::ui::Report;

/// List the workloads that are alive
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce ps
  evanesce ps --json | jq -r '.[].workload_id'")]
pub struct PsArgs {}

/// Lists them.
///
/// # Errors
///
/// Where the installation cannot be opened.
pub fn run(_args: &PsArgs, context: &Context<'_>) -> Result<PsReport, CommandError> {
    Ok(PsReport(context.launcher()?.list()?))
}

/// The workloads, oldest first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct PsReport(Vec<Listed>);

impl Report for PsReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let width =
            self.0.iter().map(|listed| listed.workload_id.as_str().len()).max().unwrap_or(0);
        for listed in &self.0 {
            let key = listed.public_key.map_or("no key yet".to_owned(), |key| key.to_string());
            writeln!(
                out,
                "{:width$}  {}  worker {}  launcher {}  {}  {key}",
                listed.workload_id.as_str(),
                listed.started_at,
                listed.worker_pid,
                listed.launcher_pid,
                counted(listed.signatures, "signature"),
            )?;
        }
        Ok(())
    }
}
