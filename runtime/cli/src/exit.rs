//! Every exit status, in one table. A number is never given a second meaning.

use std::process::ExitCode;

/// How a command ends.
///
/// | status | meaning |
/// |---|---|
/// | 0 | done; of `verify` and `audit verify`: trusted |
/// | 1 | failed; of `verify`, `audit verify` and `attest appraise`: invalid; of `doctor`, `stop` and `shred`: not all holds |
/// | 2 | misuse; of `verify` and `audit verify` also: the input could not be read |
/// | 3 | of `verify` and `audit verify`: intact, but the signer is unknown; of `attest appraise`: genuine, but not listed |
/// | 125 | of `run`: evanesce refused or failed, or the key's fate is unproven |
/// | 126 | of `run`: the command was found and could not be executed |
/// | 127 | of `run`: the command was not found |
/// | others | of `run`: the command's own; 128 + N where signal N ended it |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or trusted.
    Success,
    /// Failed, or invalid.
    Failure,
    /// The command line asks for something that makes no sense.
    Misuse,
    /// Intact, but nobody who is trusted vouches for the signer.
    UnknownSigner,
    /// `run`: evanesce refused or failed, or the key's fate is unproven.
    Refused,
    /// `run`: the command's own status, 126 and 127 as a shell has them included.
    Command(u8),
}

impl Exit {
    /// The number that the process ends with.
    pub const fn status(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Misuse => 2,
            Self::UnknownSigner => 3,
            Self::Refused => 125,
            Self::Command(status) => status,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.status().into()
    }
}
