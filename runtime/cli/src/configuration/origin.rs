//! Values that know where they come from.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Where a value comes from, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Origin {
    /// evanesce itself, from nothing but who runs it.
    BuiltIn,
    /// A configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        variable: &'static str,
    },
    /// The command line.
    Flag {
        /// Its name, dashes included.
        flag: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Environment { variable } => f.write_str(variable),
            Self::Flag { flag } => f.write_str(flag),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// A value of evanesce itself.
    pub const fn built_in(value: T) -> Self {
        Self { value, origin: Origin::BuiltIn }
    }

    /// A value of a variable.
    pub const fn variable(variable: &'static str, value: T) -> Self {
        Self { value, origin: Origin::Environment { variable } }
    }

    /// A value of a flag.
    pub const fn flag(flag: &'static str, value: T) -> Self {
        Self { value, origin: Origin::Flag { flag } }
    }
}
