//! `key show`: what a key file is, without opening it.

use std::io::{self, Write};
use std::path::PathBuf;

use evanesce_launcher::{KeyDescription, PublicFile};
use evanesce_protocol::PublicKey;
use evanesce_protocol::custody::{Kdf, KeyFileFormat, Lock};
use serde::Serialize;

use super::{Rendered, StrengthArgs};
use crate::context::Context;
use crate::errors::CommandError;
use crate::ui::{BAD, FAINT, UNSURE};

/// Say what a key file is: its public half, its format, and what opens it
///
/// A worker looks at it, and opens nothing: the public half of a sealed file is what FILE.pub says,
/// which is checked whenever the key is used.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The key file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    strength: StrengthArgs,
}

pub(super) fn run(args: &ShowArgs, context: &Context<'_>) -> Result<ShowReport, CommandError> {
    let custodian = args.strength.custodian(context)?;
    let described = custodian.describe(std::slice::from_ref(&args.file))?;
    let described = described.into_iter().next().expect("one file was asked for");
    Ok(ShowReport::new(&described.found?))
}

/// What a key file is.
#[derive(Debug, Serialize)]
pub struct ShowReport {
    file: PathBuf,
    format: KeyFileFormat,
    lock: Option<Lock>,
    recipients: u32,
    kdf: Option<Kdf>,
    public_key: Option<PublicKey>,
    public_key_from: Option<Source>,
    generation: Option<u64>,
    /// Both keys that an interrupted rotation left in `FILE.pub`.
    candidates: Vec<PublicKey>,
}

/// Who says what the public half is.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Source {
    /// The key file itself.
    KeyFile,
    /// `FILE.pub`.
    PublicFile,
}

impl ShowReport {
    pub(super) fn new(found: &KeyDescription) -> Self {
        let only = match found.named.as_slice() {
            [named] => Some(*named),
            _ => None,
        };
        let (public_key, public_key_from) = match (found.public_key, only) {
            (Some(key), _) => (Some(key), Some(Source::KeyFile)),
            (None, Some(named)) => (Some(named.key), Some(Source::PublicFile)),
            (None, None) => (None, None),
        };
        let generation = found.named.iter().find(|named| Some(named.key) == public_key);
        Self {
            file: found.file.clone(),
            format: found.info.format,
            lock: found.info.lock,
            recipients: found.info.recipients,
            kdf: found.info.kdf,
            public_key,
            public_key_from,
            generation: generation.and_then(|named| named.generation),
            candidates: match public_key {
                Some(_) => Vec::new(),
                None => found.named.iter().map(|named| named.key).collect(),
            },
        }
    }

    /// In one line, for a list.
    pub(super) fn line(&self) -> String {
        let key = self.public_key.map_or_else(|| "unknown".to_owned(), |key| key.to_string());
        format!("{}  {key}  {}", self.file.display(), self.protection())
    }

    fn protection(&self) -> String {
        match (self.format, self.lock, self.recipients) {
            (KeyFileFormat::Age, Some(Lock::Passphrase), _) => "age, under a passphrase".into(),
            (KeyFileFormat::Age, _, 1) => "age, sealed to 1 recipient".into(),
            (KeyFileFormat::Age, _, count) => format!("age, sealed to {count} recipients"),
            (format, ..) => format.to_string(),
        }
    }
}

impl Rendered for ShowReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let public_file = PublicFile::of(&self.file).path().display().to_string();
        match (self.public_key, self.public_key_from) {
            (Some(key), Some(Source::PublicFile)) => {
                writeln!(out, "key         {key} {FAINT}(says {public_file}){FAINT:#}")?;
            }
            (Some(key), _) => writeln!(out, "key         {key}")?,
            (None, _) => {
                writeln!(out, "key         {UNSURE}unknown{UNSURE:#}: there is no {public_file}")?;
            }
        }
        if let Some(generation) = self.generation {
            writeln!(out, "generation  {generation}")?;
        }
        let (style, protection) =
            (if self.lock.is_some() { FAINT } else { BAD }, self.protection());
        match self.lock {
            Some(_) => writeln!(out, "format      {protection}")?,
            None => writeln!(out, "format      {style}{protection}{style:#}")?,
        }
        match self.kdf {
            Some(Kdf::Scrypt { log_n, memory_bytes }) => {
                writeln!(out, "opening     scrypt, work factor {log_n}, {} MiB", memory_bytes >> 20)
            }
            Some(Kdf::Pbkdf2 { iterations }) => {
                writeln!(out, "opening     PBKDF2, {iterations} iterations")
            }
            Some(Kdf::Bcrypt { rounds }) => writeln!(out, "opening     bcrypt, {rounds} rounds"),
            _ => Ok(()),
        }
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        if self.candidates.len() > 1 {
            let file = self.file.display();
            writeln!(err, "a rotation was interrupted; finish it: evanesce key rotate {file}")?;
        }
        if self.lock.is_none() {
            let file = self.file.display();
            writeln!(err, "{FAINT}seal it: evanesce key reseal {file}{FAINT:#}")?;
        }
        Ok(())
    }
}
