//! What a check found.

use std::fmt;

use serde::Serialize;

/// Whether a host keeps a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It was seen to hold.
    Holds,
    /// It was seen not to.
    DoesNotHold,
    /// It could not be seen. To be taken as not holding.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::Unknown => "unknown",
        })
    }
}

/// What depends on a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// A strict worker takes no key without it.
    Strict,
    /// It does not stop a worker; receipts say whether it was so.
    Graded,
    /// A stronger promise that few hosts make. Its absence is no fault.
    Extra,
}

/// What a probe found, before it is put beside what the check says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it holds.
    pub verdict: Verdict,
    /// What was found, in a few words.
    pub found: String,
    /// Where: a file, or what was tried.
    pub source: String,
}

impl Answer {
    /// It holds.
    pub fn holds(source: impl Into<String>, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Holds, found: found.into(), source: source.into() }
    }

    /// It does not hold.
    pub fn fails(source: impl Into<String>, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::DoesNotHold, ..Self::holds(source, found) }
    }

    /// It cannot be told.
    pub fn unknown(source: impl Into<String>, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unknown, ..Self::holds(source, found) }
    }
}

/// One check's result. What it means and how to change it are texts for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's stable name.
    pub name: &'static str,
    /// What depends on it.
    pub need: Need,
    /// Whether it holds.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// Where.
    pub source: String,
    /// What it means for a key.
    pub means: &'static str,
    /// How to change it.
    pub change: &'static str,
}
