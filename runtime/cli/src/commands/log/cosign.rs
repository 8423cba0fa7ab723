//! `log cosign`: keep what a witness says of a checkpoint.

use std::io::{self, Write};
use std::path::PathBuf;

use evanesce_transparency::note::NOTE_BYTES_MAX;
use evanesce_transparency::{Cosigned, WitnessKey, keep_cosignature};
use serde::Serialize;

use super::{Rendered, entries_text};
use crate::context::Context;
use crate::errors::CommandError;
use crate::files;
use crate::local_log::LocalLog;

/// Keep the line of a witness under a checkpoint of this log
///
/// A witness signs checkpoints that only ever grow (C2SP tlog-cosignature). Its line is checked with
/// its key and from then on shown with the checkpoint, in `log status --checkpoint` and in bundles.
#[derive(Debug, clap::Args)]
pub(super) struct CosignArgs {
    /// The checkpoint with the witness's line
    #[arg(value_name = "NOTE")]
    note: PathBuf,

    /// The witness's key: NAME+HEX+BASE64
    #[arg(long, value_name = "KEY")]
    witness: WitnessKey,
}

pub(super) fn run(args: &CosignArgs, context: &Context<'_>) -> Result<CosignReport, CommandError> {
    let note = files::read_small(&args.note, NOTE_BYTES_MAX as u64)?;
    let note = String::from_utf8_lossy(&note);
    let local = LocalLog::of(context)?;
    let mut log = local.open()?;
    let cosigned = keep_cosignature(local.directory(), &mut log, &note, &args.witness)?;
    Ok(CosignReport { cosigned })
}

/// What was kept.
#[derive(Debug, Serialize)]
pub struct CosignReport {
    #[serde(flatten)]
    cosigned: Cosigned,
}

impl Rendered for CosignReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let Cosigned { witness, size, at } = &self.cosigned;
        writeln!(out, "cosigned      {} by {witness}, at {at} by its clock", entries_text(*size))
    }
}
