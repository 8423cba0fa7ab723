//! What the clients of both Rekor versions have in common.

use evanesce_ledger::{Envelope, NotaryKey};
use serde::de::DeserializeOwned;

use crate::bundle::LogEntry;
use crate::publish::http::{Answer, Http, HttpError};

/// A statement to be entered in a log.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The statement.
    pub envelope: &'a Envelope,
    /// The key that signed it.
    pub key: &'a NotaryKey,
}

/// A log that takes entries.
pub trait Rekor: std::fmt::Debug {
    /// Enters a statement, or finds the entry that it has already. Nothing of the answer is
    /// verified.
    ///
    /// # Errors
    ///
    /// [`SubmitError`].
    fn submit(&self, http: &Http, item: Item<'_>) -> Result<LogEntry, SubmitError>;

    /// Where it is.
    fn url(&self) -> &str;
}

/// Why an entry is not in a log, as far as is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// There was no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The server is out of order, or has too much to do.
    #[error("{url} answered {status}: {text}")]
    Unavailable {
        /// The server.
        url: String,
        /// The status.
        status: u16,
        /// The start of what it said.
        text: String,
    },
    /// The server does not take this entry.
    #[error("{url} refused the entry with {status}: {text}")]
    Refused {
        /// The server.
        url: String,
        /// The status.
        status: u16,
        /// The start of what it said.
        text: String,
    },
    /// The answer is not of the form that it has to have.
    #[error("{url} answered what makes no sense: {what}")]
    Garbage {
        /// The server.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// The answer does not hold, by the target's trusted root.
    #[error("what {url} answered does not hold: {reason}")]
    NotVerified {
        /// The server.
        url: String,
        /// Why.
        reason: String,
    },
}

impl SubmitError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Http(HttpError::Plain { .. }) => "publish.plain-http",
            Self::Http(HttpError::Failed { .. }) => "publish.no-answer",
            Self::Unavailable { .. } => "publish.unavailable",
            Self::Refused { .. } => "publish.refused",
            Self::Garbage { .. } => "publish.garbage",
            Self::NotVerified { .. } => "publish.not-verified",
        }
    }

    /// Whether the same request may succeed in a moment.
    pub(crate) const fn is_transient(&self) -> bool {
        matches!(self, Self::Http(HttpError::Failed { .. }) | Self::Unavailable { .. })
    }

    /// Whether only this entry is concerned, and others may be tried.
    pub(crate) const fn is_of_entry(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    pub(crate) fn garbage(url: &str, what: impl ToString) -> Self {
        Self::Garbage { url: url.to_owned(), what: what.to_string() }
    }

    /// What an unexpected status means.
    pub(crate) fn of_status(url: &str, answer: &Answer) -> Self {
        let shown = &answer.body[..answer.body.len().min(SHOWN_BYTES)];
        let text = String::from_utf8_lossy(shown).replace(char::is_control, " ");
        let (url, status) = (url.to_owned(), answer.status);
        match status {
            408 | 425 | 429 | 500.. => Self::Unavailable { url, status, text },
            _ => Self::Refused { url, status, text },
        }
    }
}

/// Reads the JSON of an answer.
pub(crate) fn parse<T: DeserializeOwned>(url: &str, body: &[u8]) -> Result<T, SubmitError> {
    serde_json::from_slice(body).map_err(|error| SubmitError::garbage(url, error))
}

/// `base` and `path` with one slash between.
pub(crate) fn join(base: &str, path: &str) -> String {
    format!("{}/{path}", base.trim_end_matches('/'))
}

/// Bytes of an error's text that are kept.
const SHOWN_BYTES: usize = 300;

pub(crate) const JSON: &str = "application/json";
