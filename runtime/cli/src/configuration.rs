//! Where the settings of a command come from: what is built in, configuration files, the
//! environment, flags.
//!
//! Start at [`resolve`](resolve()), which decides and reads nothing; [`read`] reads the files.
//! `docs/formats/configuration.md` describes them.

mod file;
mod origin;
mod profile;
pub mod read;
mod resolve;

pub use file::ConfigFile;
pub use origin::{Origin, Sourced};
pub use profile::{ParseProfileNameError, ProfileName};
pub use resolve::{Layer, Settings, resolve};

use std::io;
use std::path::PathBuf;

use crate::errors::Coded;

/// Bytes in a configuration file.
pub const CONFIGURATION_BYTES_MAX: u64 = 64 * 1024;

/// Why the settings are not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// A file that has to be there, or is there, could not be read.
    #[error("the configuration file {} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A directory, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// Longer than [`CONFIGURATION_BYTES_MAX`].
    #[error("{} is longer than {CONFIGURATION_BYTES_MAX} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Another user could have written what the file says.
    #[error(
        "the configuration file {} is not trusted: {} {wrong}",
        path.display(),
        open.display()
    )]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// The file, or a directory above it.
        open: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// Not UTF-8, not TOML, an unknown field, or a value of the wrong form.
    #[error("{}, line {line}, column {column}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A file says what a built-in profile is to be.
    #[error("{}, line {line}: the profile `strict` is built in and cannot be changed", path.display())]
    BuiltInProfile {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The profile that was chosen is in no file.
    #[error("there is no profile {name} ({origin}); there are: {known}")]
    NoSuchProfile {
        /// The name.
        name: ProfileName,
        /// Who chose it.
        origin: Origin,
        /// The profiles that there are.
        known: String,
    },
    /// `EVANESCE_PROFILE` is no name of a profile.
    #[error("EVANESCE_PROFILE is {found:?}")]
    Variable {
        /// What it is.
        found: String,
        /// What a name is.
        #[source]
        source: ParseProfileNameError,
    },
}

impl Coded for ConfigurationError {
    fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "configuration.read",
            Self::NotAFile { .. } => "configuration.not-a-file",
            Self::TooLong { .. } => "configuration.too-long",
            Self::OpenToOthers { .. } => "configuration.open-to-others",
            Self::Parse { .. } => "configuration.parse",
            Self::BuiltInProfile { .. } => "configuration.built-in-profile",
            Self::NoSuchProfile { .. } => "configuration.no-such-profile",
            Self::Variable { .. } => "configuration.variable",
        }
    }
}
