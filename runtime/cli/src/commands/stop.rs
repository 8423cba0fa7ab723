//! `stop`: end a workload that is alive.

use std::io::{self, Write};
use std::time::Duration;

use evanesce_ledger::Receipt;
use evanesce_ledger::receipt::KeyFate;
use evanesce_protocol::WorkloadId;
use serde::Serialize;

use crate::context::Context;
use crate::errors::CommandError;
use crate::exit::Exit;
use crate::files;
use crate::receipt_text;
use crate::ui::Report;

/// End a workload that is alive, and print its receipt
///
/// Its launcher gets SIGTERM and hands it on to the command; when that ends, the key is wiped,
/// overwritten, and its receipt written, as always. Exits 0 where the receipt shows the key's end,
/// 1 where it does not or the workload did not end in time, and 2 where there is no such workload.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce stop release-1
  evanesce ps --json | jq -r '.[].workload_id' | xargs -n1 evanesce stop")]
pub struct StopArgs {
    /// The workload, as `evanesce ps` lists it
    #[arg(value_name = "ID")]
    workload: WorkloadId,

    /// Wait no longer than TIME for the receipt
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = files::parse_duration
    )]
    timeout: Duration,
}

/// Ends the workload.
///
/// # Errors
///
/// Where no such workload is alive, or it does not end in time.
pub fn run(args: &StopArgs, context: &Context<'_>) -> Result<StopReport, CommandError> {
    let stopped = context.launcher()?.stop(&args.workload, args.timeout)?;
    Ok(StopReport {
        workload_id: args.workload.clone(),
        receipt_row: stopped.found.row,
        receipt: stopped.receipt,
    })
}

/// What became of the workload's key.
#[derive(Debug, Serialize)]
pub struct StopReport {
    workload_id: WorkloadId,
    receipt: Receipt,
    receipt_row: u64,
}

impl Report for StopReport {
    fn exit(&self) -> Exit {
        match self.receipt.key.fate {
            KeyFate::Destroyed | KeyFate::ThisCopyDestroyed => Exit::Success,
            KeyFate::Unproven => Exit::Failure,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        receipt_text::write(&self.receipt, self.receipt_row, out)
    }
}
