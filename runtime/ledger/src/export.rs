//! A ledger in one file, for someone who is to verify it elsewhere.
//!
//! `docs/formats/ledger-export.md` describes it: a tar archive of what `verify` reads.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::Serialize;

use crate::checkpoint::{Checkpoint, LedgerId};
use crate::dsse::Envelope;
use crate::notary::{NotaryKey, NotaryKeyId};
use crate::read::{ReadError, Reader};
use crate::statement::{Statement, StatementError};

/// What an export holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The ledger.
    pub ledger: LedgerId,
    /// Rows that the checkpoint signs; a few newer ones may be there as well.
    pub rows: u64,
    /// Its segments.
    pub segments: u64,
    /// The notary keys beside them.
    pub notary_keys: Vec<NotaryKeyId>,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Reader {
    /// Writes the ledger as it was when this reader was opened, with the notary's public keys and a
    /// checkpoint of it. Memory does not grow with the ledger, and the same input gives the same
    /// bytes.
    ///
    /// # Errors
    ///
    /// [`ExportError`]; what was written until then is no export.
    pub fn export(
        &self,
        notaries: &[NotaryKey],
        checkpoint: &Envelope,
        out: &mut dyn Write,
    ) -> Result<Exported, ExportError> {
        let said = Statement::<Checkpoint>::parse_unverified(checkpoint)?.into_predicate();
        let ledger = self.ledger_id()?;
        if said.ledger != ledger {
            return Err(ExportError::OtherLedger { expected: ledger, found: said.ledger });
        }
        let mut archive = Archive { tar: tar::Builder::new(out), bytes: 0 };
        for (segment, bytes) in &self.segments {
            let file = File::open(&segment.path)
                .map_err(|source| ExportError::Segment { path: segment.path.clone(), source })?;
            archive.add(&format!("ledger/{}", segment.name()), *bytes, file)?;
        }
        for notary in notaries {
            let pem = notary.to_pem();
            let name = format!("notary-keys/{}.pem", notary.id().digest().to_hex());
            archive.add(&name, pem.len() as u64, pem.as_bytes())?;
        }
        let text = serde_json::to_string(checkpoint).expect("an envelope is plain data") + "\n";
        archive.add("checkpoint.json", text.len() as u64, text.as_bytes())?;
        archive.tar.finish().map_err(ExportError::Write)?;
        Ok(Exported {
            ledger,
            rows: said.rows,
            segments: self.segments.len() as u64,
            notary_keys: notaries.iter().map(NotaryKey::id).collect(),
            bytes: archive.bytes,
        })
    }
}

/// The archive as far as it is written.
struct Archive<'a> {
    tar: tar::Builder<&'a mut dyn Write>,
    bytes: u64,
}

impl Archive<'_> {
    /// Adds a file of `bytes` bytes: of nobody in particular, and without a date.
    fn add(&mut self, name: &str, bytes: u64, content: impl Read) -> Result<(), ExportError> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(0);
        let path = format!("{ROOT}/{name}");
        let content = Exactly { content, left: bytes };
        self.tar.append_data(&mut header, path, content).map_err(ExportError::Write)?;
        self.bytes += bytes;
        Ok(())
    }
}

/// Reads as many bytes as the header says: growth since the reader was opened is not of this
/// export, and a file that became shorter (a torn row was closed) makes none.
struct Exactly<R> {
    content: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.content.read(&mut buffer[..room])?;
        if read == 0 && room > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The ledger could not be read.
    #[error("the ledger could not be read")]
    Read(#[from] ReadError),
    /// A segment could not be opened.
    #[error("could not read {}", path.display())]
    Segment {
        /// The segment.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The checkpoint is not one.
    #[error("the checkpoint cannot be used")]
    Checkpoint(#[from] StatementError),
    /// The checkpoint is of another ledger.
    #[error("the ledger is {expected}, and the checkpoint is of {found}")]
    OtherLedger {
        /// The ledger.
        expected: LedgerId,
        /// That of the checkpoint.
        found: LedgerId,
    },
    /// The archive could not be written.
    #[error("the archive could not be written")]
    Write(#[source] io::Error),
}

impl ExportError {
    /// A stable name for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read(error) => error.code(),
            Self::Segment { .. } => "export.segment",
            Self::Checkpoint(error) => error.code(),
            Self::OtherLedger { .. } => "export.other-ledger",
            Self::Write(_) => "export.write",
        }
    }
}

/// The one directory in the archive.
const ROOT: &str = "evanesce-ledger";
