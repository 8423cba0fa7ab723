//! Who starts a worker.

use std::fmt;
use std::str::FromStr;

use evanesce_ledger::row::Spawn;

/// Who is to start the worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpawnChoice {
    /// The launcher.
    #[default]
    Direct,
    /// systemd, as a transient service.
    Systemd,
    /// systemd where it can be asked, else the launcher.
    Auto,
}

/// What [`SpawnChoice::Auto`] depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// Whether systemd is what booted this machine (sd_booted(3)).
    pub(crate) is_booted_by_systemd: bool,
    /// Whether the system bus has a socket.
    pub(crate) has_bus: bool,
    /// Whether this process is root's.
    pub(crate) is_root: bool,
}

impl SpawnChoice {
    /// Who it is, here. A choice by name is kept, whether or not it can be carried out.
    pub(crate) const fn resolve(self, here: Surroundings) -> Spawn {
        match self {
            Self::Direct => Spawn::Direct,
            Self::Systemd => Spawn::Systemd,
            Self::Auto if here.is_booted_by_systemd && here.has_bus && here.is_root => {
                Spawn::Systemd
            }
            Self::Auto => Spawn::Direct,
        }
    }
}

impl fmt::Display for SpawnChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Systemd => "systemd",
            Self::Auto => "auto",
        })
    }
}

impl FromStr for SpawnChoice {
    type Err = ParseSpawnError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Direct, Self::Systemd, Self::Auto]
            .into_iter()
            .find(|choice| choice.to_string() == text)
            .ok_or(ParseSpawnError)
    }
}

/// A text that names nobody who starts workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("workers are started `direct`, by `systemd`, or as `auto` finds it best")]
pub struct ParseSpawnError;

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Surroundings =
        Surroundings { is_booted_by_systemd: true, has_bus: true, is_root: true };

    #[test]
    fn auto_asks_systemd_only_where_it_is_there_and_will_listen() {
        assert_eq!(SpawnChoice::Auto.resolve(ALL), Spawn::Systemd);
        for lacking in [
            Surroundings { is_booted_by_systemd: false, ..ALL },
            Surroundings { has_bus: false, ..ALL },
            Surroundings { is_root: false, ..ALL },
        ] {
            assert_eq!(SpawnChoice::Auto.resolve(lacking), Spawn::Direct, "{lacking:?}");
            assert_eq!(SpawnChoice::Systemd.resolve(lacking), Spawn::Systemd);
        }
        assert_eq!(SpawnChoice::Direct.resolve(ALL), Spawn::Direct);
    }

    #[test]
    fn names_are_read_back() {
        for choice in [SpawnChoice::Direct, SpawnChoice::Systemd, SpawnChoice::Auto] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("docker".parse::<SpawnChoice>(), Err(ParseSpawnError));
    }
}
