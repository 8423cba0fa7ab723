//! One place that says of every error: whose fault, which exit status, and what to do.

use std::error::Error;
use std::fmt;

use serde::Serialize;

use crate::advice::ADVICE;
use crate::exit::Exit;

/// An error with a stable name.
pub trait Coded: Error + Send + Sync + 'static {
    /// The name, like `key.not-pem`: for `--json`, alerts and `docs/errors.md`.
    fn code(&self) -> &'static str;
}

/// Why a command could not do what it was asked.
///
/// Any [`Coded`] error becomes one with `?`.
#[derive(Debug)]
pub struct CommandError {
    code: &'static str,
    cause: Box<dyn Error + Send + Sync>,
}

impl CommandError {
    /// The stable name.
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// The exit status of a command that this error ends, but for `run` and verifying commands,
    /// whose statuses have meanings of their own.
    pub fn exit(&self) -> Exit {
        match self.advice().map(|advice| advice.fault) {
            Some(Fault::Misuse) => Exit::Misuse,
            _ => Exit::Failure,
        }
    }

    /// The exit status of `run` where this error ends it: as a shell has it where the command cannot
    /// be started, and 125 for all else.
    pub fn exit_of_run(&self) -> Exit {
        match self.code {
            "command.not-found" => Exit::Command(127),
            "command.not-executable" => Exit::Command(126),
            _ => Exit::Refused,
        }
    }

    /// The sentence that says what to do, if there is one.
    pub fn hint(&self) -> Option<&'static str> {
        self.advice().map(|advice| advice.hint)
    }

    /// The error and everything that caused it, outermost first, each one clause. A cause that
    /// repeats what was just said is left out.
    pub fn clauses(&self) -> Vec<String> {
        let mut clauses = vec![self.cause.to_string()];
        let mut next = self.cause.source();
        while let Some(cause) = next {
            let clause = cause.to_string();
            if clauses.last() != Some(&clause) {
                clauses.push(clause);
            }
            next = cause.source();
        }
        clauses
    }

    /// The same as data.
    pub fn to_record(&self) -> ErrorRecord {
        let mut clauses = self.clauses();
        let message = clauses.remove(0);
        let fault = self.advice().map_or(Fault::Internal, |advice| advice.fault);
        ErrorRecord { code: self.code, fault, message, causes: clauses, hint: self.hint() }
    }

    fn advice(&self) -> Option<&'static Advice> {
        ADVICE.iter().find(|advice| advice.code == self.code)
    }
}

impl<E: Coded> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self { code: error.code(), cause: Box::new(error) }
    }
}

/// An error as `--json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorRecord {
    /// See [`Coded::code`].
    pub code: &'static str,
    /// Whose fault it is.
    pub fault: Fault,
    /// What happened.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do.
    pub hint: Option<&'static str>,
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The command line, or a file it names, is not what the command takes.
    Misuse,
    /// A rule says no: a grant, a budget, a missing guarantee.
    Refusal,
    /// The machine does not give what is needed.
    Environment,
    /// The other end of a socket, a pipe or a file broke its promise.
    Peer,
    /// A defect of evanesce.
    Internal,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Misuse => "misuse",
            Self::Refusal => "refusal",
            Self::Environment => "environment",
            Self::Peer => "peer",
            Self::Internal => "internal",
        })
    }
}

/// What is known of one code.
#[derive(Clone, Copy, Debug)]
pub struct Advice {
    /// See [`Coded::code`].
    pub code: &'static str,
    /// Whose fault it is.
    pub fault: Fault,
    /// What to do.
    pub hint: &'static str,
}

impl Advice {
    pub(crate) const fn new(code: &'static str, fault: Fault, hint: &'static str) -> Self {
        Self { code, fault, hint }
    }
}

/// Errors of other crates have their names already.
macro_rules! coded {
    ($($error:ty),* $(,)?) => {
        $(impl Coded for $error {
            fn code(&self) -> &'static str {
                // The inherent method of the same name.
                <$error>::code(self)
            }
        })*
    };
}

coded!(
    evanesce_appraisal::PolicyFromEvidenceError,
    evanesce_appraisal::WantedError,
    evanesce_collateral::CacheError,
    evanesce_collateral::FetchError,
    evanesce_launcher::AttestError,
    evanesce_launcher::CheckpointError,
    evanesce_launcher::CommandError,
    evanesce_launcher::CustodyError,
    evanesce_launcher::EndError,
    evanesce_launcher::FileReportError,
    evanesce_launcher::HolderError,
    evanesce_launcher::ListError,
    evanesce_launcher::NotaryError,
    evanesce_launcher::OpenError,
    evanesce_launcher::RecoverError,
    evanesce_launcher::ResultError,
    evanesce_launcher::RotateError,
    evanesce_launcher::RunError,
    evanesce_launcher::ShredError,
    evanesce_launcher::StartError,
    evanesce_launcher::StopError,
    evanesce_launcher::TargetError,
    evanesce_launcher::machine::parts::FirmwareError,
    evanesce_launcher::machine::parts::ImageError,
    evanesce_launcher::machine::parts::MeasureError,
    evanesce_ledger::ExportError,
    evanesce_ledger::ReadError,
    evanesce_ledger::statement::StatementError,
    evanesce_server::ServerError,
    evanesce_server::TlsError,
    evanesce_transparency::CosignError,
    evanesce_transparency::ExtendError,
    evanesce_transparency::LogError,
    evanesce_transparency::publish::OutboxError,
    evanesce_transparency::publish::TargetError,
    evanesce_transparency::trust::TrustedRootError,
    evanesce_transparency::verify::TrustError,
    evanesce_release::ReleaseError,
    evanesce_residue::CanaryFileError,
    evanesce_residue::ScanError,
);
