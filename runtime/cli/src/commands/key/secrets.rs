//! The flags that say where passphrases and identities come from, and to whom a key is sealed.

use std::path::PathBuf;

use evanesce_launcher::{NewPassphrase, Unlock};
use evanesce_protocol::custody::{Recipient, Seal};
use evanesce_protocol::limits::{
    RECIPIENTS_MAX, WORK_FACTOR_MAX, WORK_FACTOR_OPEN_MAX, WORK_FACTOR_SEAL,
};

use crate::context::Context;
use crate::errors::{Coded, CommandError};

/// What opens a key file that is not in the clear.
#[derive(Clone, Debug, clap::Args)]
pub struct UnlockArgs {
    /// Read the passphrase of the key file from descriptor N: its first line
    ///
    /// The worker reads it; evanesce itself never does. Without this, the systemd credential
    /// evanesce.passphrase is taken where there is one, else the terminal is asked.
    #[arg(long, value_name = "N")]
    pub passphrase_fd: Option<u32>,

    /// Open a key file that is sealed to recipients with the age identities in FILE
    ///
    /// As age-keygen writes it, for its owner alone. Without this, the systemd credential
    /// evanesce.identity is taken where there is one.
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,

    /// Open files that scrypt guards with up to 2^N steps: 1 KiB of memory each
    #[arg(
        long,
        value_name = "N",
        default_value_t = WORK_FACTOR_OPEN_MAX,
        value_parser = clap::value_parser!(u8).range(1..=i64::from(WORK_FACTOR_MAX))
    )]
    pub work_factor_max: u8,
}

impl UnlockArgs {
    /// The same, as the launcher takes it.
    pub fn unlock(&self, context: &Context<'_>) -> Unlock {
        Unlock {
            passphrase_fd: self.passphrase_fd,
            identity: self.identity.clone(),
            new_passphrase: NewPassphrase::Asked,
            credentials: context.credentials(),
            work_factor_max: self.work_factor_max,
        }
    }
}

/// To whom a key is sealed.
#[derive(Clone, Debug, clap::Args)]
pub struct SealArgs {
    /// Seal to RECIPIENT, age1… as age-keygen prints it (can be repeated)
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Vec<Recipient>,

    /// Seal with a passphrase, which is asked for twice (the default)
    #[arg(long, conflicts_with = "recipient")]
    passphrase: bool,

    /// Read the new passphrase from descriptor N: its first line
    #[arg(long, value_name = "N", conflicts_with = "recipient")]
    new_passphrase_fd: Option<u32>,
}

impl SealArgs {
    /// The same, as a worker takes it.
    ///
    /// # Errors
    ///
    /// For more recipients than a file has.
    pub fn seal(&self) -> Result<Seal, CommandError> {
        match self.recipient.len() {
            0 => Ok(Seal::Passphrase { log_n: WORK_FACTOR_SEAL }),
            1..=RECIPIENTS_MAX => Ok(Seal::Recipients(self.recipient.clone())),
            found => Err(RecipientsError { found }.into()),
        }
    }

    /// Where the new passphrase comes from.
    pub fn new_passphrase(&self) -> NewPassphrase {
        self.new_passphrase_fd.map_or(NewPassphrase::Asked, NewPassphrase::Fd)
    }

    /// Whether any of it was named.
    pub const fn is_named(&self) -> bool {
        !self.recipient.is_empty() || self.passphrase || self.new_passphrase_fd.is_some()
    }
}

/// More recipients than a file has.
#[derive(Debug, thiserror::Error)]
#[error("{found} recipients were named, and a key is sealed to at most {RECIPIENTS_MAX}")]
struct RecipientsError {
    found: usize,
}

impl Coded for RecipientsError {
    fn code(&self) -> &'static str {
        "key.recipients"
    }
}
