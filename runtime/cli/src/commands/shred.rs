//! `shred`: end a process that held a key without a cage.

use std::io::{self, BufRead as _, IsTerminal as _, Write};

use evanesce_launcher::{Shredded, Target};
use evanesce_ledger::ShredReceipt;
use evanesce_ledger::shred::{LeftPages, ShredFate};
use serde::Serialize;

use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::exit::Exit;
use crate::local_log;
use crate::receipt_text::{counted, name_of};
use crate::ui::{BAD, FAINT, GOOD, Report};

/// Overwrite the memory of a process of your own, kill it, and write a receipt
///
/// For a program that held a key without a cage. The process is stopped, every page that it alone
/// has is overwritten and read back, and it is killed. Pages that were swapped, are shared with
/// other processes, are mapped files, or are still shared with a parent or child since a fork are
/// counted: where there is one, the receipt says `incomplete`. What the process wrote to files,
/// pipes or sockets before is out of reach and not counted. Exits 0 where nothing is left, 1 where
/// something is or a step failed, and 2 where there is no such process or nobody said yes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce shred --pid 4711
  evanesce shred --yes --pid \"$(cat signer.pid)\"")]
pub struct ShredArgs {
    /// The process
    #[arg(long, value_name = "PID")]
    pid: u32,

    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Shreds the process.
///
/// # Errors
///
/// Where it cannot be shredded, or nobody said yes. What is left is a report.
pub fn run(args: &ShredArgs, context: &Context<'_>) -> Result<ShredReport, CommandError> {
    let target = Target::open(args.pid)?;
    if !args.yes {
        confirm(&target, context)?;
    }
    let launcher = context.launcher()?;
    let Shredded { receipt, row, .. } = launcher.shred(&target)?;
    local_log::grow(context, &launcher);
    Ok(ShredReport { receipt, receipt_row: row })
}

fn confirm(target: &Target, context: &Context<'_>) -> Result<(), NotConfirmedError> {
    let process = target.process();
    let (pid, name) = (process.pid, process.name.clone());
    if !io::stdin().is_terminal() {
        return Err(NotConfirmedError { pid, name });
    }
    context.ui().say(&format!("kill process {pid} ({name}) and overwrite its memory? [y/N]"));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    match read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        true => Ok(()),
        false => Err(NotConfirmedError { pid, name }),
    }
}

/// What became of the process's memory.
#[derive(Debug, Serialize)]
pub struct ShredReport {
    receipt: ShredReceipt,
    receipt_row: u64,
}

impl Report for ShredReport {
    fn exit(&self) -> Exit {
        match self.receipt.fate {
            ShredFate::Overwritten => Exit::Success,
            ShredFate::Incomplete => Exit::Failure,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let ShredReceipt { process, fate, left, unproven, .. } = &self.receipt;
        let style = match fate {
            ShredFate::Overwritten => GOOD,
            ShredFate::Incomplete => BAD,
        };
        let fate = name_of(fate);
        let kib = self.receipt.bytes_overwritten.div_ceil(1024);
        writeln!(out, "process   {} {FAINT}({}){FAINT:#}", process.pid, process.name)?;
        writeln!(out, "memory    {style}{fate}{style:#}: {kib} KiB overwritten and read back")?;
        for (pages, why) in reasons(left) {
            if pages > 0 {
                writeln!(out, "left      {BAD}{}{BAD:#} {why}", counted(pages, "page"))?;
            }
        }
        for unproven in unproven {
            let claim = name_of(unproven.claim);
            writeln!(out, "unproven  {BAD}{claim}{BAD:#}: {}", unproven.reason)?;
        }
        writeln!(out, "receipt   row {} of the ledger", self.receipt_row)
    }
}

/// The counts of what is left, each with what it means.
fn reasons(left: &LeftPages) -> [(u64, &'static str); 5] {
    let LeftPages { swapped, shared, file_backed, copy_on_write, unwritable } = *left;
    [
        (swapped, "had been swapped: the disk may keep them"),
        (shared, "of memory shared with other processes"),
        (file_backed, "of files that were mapped: the files have them"),
        (copy_on_write, "that a parent or child of the process has a copy of since a fork"),
        (unwritable, "that the kernel did not let be overwritten"),
    ]
}

/// Nobody said yes.
#[derive(Debug, thiserror::Error)]
#[error("nobody confirmed that process {pid} ({name}) is to be killed")]
struct NotConfirmedError {
    pid: u32,
    name: String,
}

impl Coded for NotConfirmedError {
    fn code(&self) -> &'static str {
        "shred.not-confirmed"
    }
}
