//! `key rotate`: a new key for a sealed file, which the old one hands over to.

use std::io::{self, Write};
use std::path::PathBuf;

use evanesce_launcher::{Rotated, RotationOrder, Unlock};
use evanesce_ledger::Receipt;
use evanesce_ledger::receipt::KeyFate;
use evanesce_protocol::PublicKey;
use serde::Serialize;

use super::secrets::{SealArgs, UnlockArgs};
use super::{Rendered, StrengthArgs};
use crate::commands::run::UnprovenError;
use crate::context::Context;
use crate::errors::{CommandError, ErrorRecord};
use crate::exit::Exit;
use crate::local_log;
use crate::publisher::{Publishing, PublishingArgs};
use crate::receipt_text;
use crate::ui::{self, FAINT};

/// Replace the key in a sealed file by a new one, which the old one hands over to
///
/// Both keys and the notary sign the statement, which goes to the ledger; the old key is destroyed
/// with a receipt. Say again to whom the new key is sealed: a file does not tell. A rotation that
/// was interrupted is ended by the next command that uses the file.
#[derive(Debug, clap::Args)]
pub struct RotateArgs {
    /// The sealed key file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Say why, for the ledger
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,

    #[command(flatten)]
    seal: SealArgs,

    #[command(flatten)]
    unlock: UnlockArgs,

    #[command(flatten)]
    strength: StrengthArgs,

    #[command(flatten)]
    publish: PublishingArgs,
}

pub(super) fn run(args: &RotateArgs, context: &Context<'_>) -> Result<RotateReport, CommandError> {
    args.publish.check(context)?;
    let order = RotationOrder {
        file: &args.file,
        seal: args.seal.seal()?,
        unlock: Unlock {
            new_passphrase: args.seal.new_passphrase(),
            ..args.unlock.unlock(context)
        },
        reason: args.reason.clone(),
        degraded: args.strength.degraded(context),
    };
    let launcher = context.launcher()?;
    let rotated = launcher.rotate_key(&order)?;
    local_log::grow(context, &launcher);
    let mut report = RotateReport::new(args.file.clone(), rotated);
    report.publishing = args.publish.publish(context)?;
    Ok(report)
}

/// A key that handed over.
#[derive(Debug, Serialize)]
pub struct RotateReport {
    file: PathBuf,
    #[serde(flatten)]
    handover: HandoverReport,
    error: Option<ErrorRecord>,
    receipt: Option<Receipt>,
    receipt_row: Option<u64>,
    publishing: Option<Publishing>,
    #[serde(skip)]
    unproven: Option<ErrorRecord>,
}

/// What is worth saying of a handover.
#[derive(Clone, Debug, Serialize)]
pub struct HandoverReport {
    generation: u64,
    retired: PublicKey,
    successor: PublicKey,
    row: u64,
}

impl HandoverReport {
    /// Of a rotation that is done.
    pub const fn of(rotated: &Rotated) -> Self {
        Self {
            generation: rotated.generation,
            retired: rotated.retired,
            successor: rotated.successor,
            row: rotated.row,
        }
    }

    /// Writes it in three lines.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { generation, retired, successor, row } = self;
        writeln!(out, "key       {successor} {FAINT}(generation {generation}){FAINT:#}")?;
        writeln!(out, "retired   {retired}")?;
        writeln!(out, "rotation  row {row} of the ledger")
    }
}

impl RotateReport {
    fn new(file: PathBuf, rotated: Rotated) -> Self {
        let handover = HandoverReport::of(&rotated);
        let unproven = rotated.ended.as_ref().filter(|ended| ended.fate == KeyFate::Unproven);
        let unproven = unproven.map(|ended| {
            let id = ended.receipt.workload.clone();
            CommandError::from(UnprovenError { id }).to_record()
        });
        Self {
            file,
            handover,
            error: unproven.clone(),
            receipt_row: rotated.ended.as_ref().map(|ended| ended.row),
            receipt: rotated.ended.map(|ended| ended.receipt),
            publishing: None,
            unproven,
        }
    }
}

impl Rendered for RotateReport {
    fn exit(&self) -> Exit {
        match self.unproven {
            Some(_) => Exit::Failure,
            None => Exit::Success,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        self.handover.render(out)
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        match (&self.receipt, self.receipt_row) {
            (Some(receipt), Some(row)) => receipt_text::write(receipt, row, err)?,
            _ => writeln!(err, "an interrupted rotation was ended; run it again for another one")?,
        }
        if let Some(publishing) = &self.publishing {
            writeln!(err, "published {publishing}")?;
        }
        self.unproven.as_ref().map_or(Ok(()), |error| ui::write_error(error, err))
    }
}
