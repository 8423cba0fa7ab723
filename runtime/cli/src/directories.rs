//! Where state and sockets live. Names only: the launcher makes the directories, and refuses one
//! that is not for its user alone.

use std::io;
use std::path::{Path, PathBuf};

use crate::configuration::Sourced;
use crate::environment::Environment;
use crate::errors::Coded;

/// The directory of the ledger and the notary that a variable names: `EVANESCE_STATE_DIR`, then
/// `STATE_DIRECTORY`.
pub fn state_dir_of_variables(environment: &Environment) -> Option<Sourced<PathBuf>> {
    let named = [
        ("EVANESCE_STATE_DIR", &environment.evanesce_state_dir),
        ("STATE_DIRECTORY", &environment.state_directory),
    ];
    named.into_iter().find_map(|(variable, dir)| Some(Sourced::variable(variable, dir.clone()?)))
}

/// The directory of the ledger and the notary where nobody names one: what the user's base
/// directories say. Root has `/var/lib/evanesce`. `None` where there is no home directory.
pub fn state_dir_of_user(environment: &Environment) -> Option<PathBuf> {
    if environment.uid == ROOT {
        return Some("/var/lib/evanesce".into());
    }
    let home = || environment.home.as_ref().map(|home| home.join(".local/state"));
    let state_home = environment.xdg_state_home.clone().or_else(home)?;
    Some(state_home.join(NAME))
}

/// The directory that was named, from the root of the file system.
///
/// # Errors
///
/// [`DirectoriesError::NoHome`] where none is named.
pub fn state_dir(named: Option<&Path>) -> Result<PathBuf, DirectoriesError> {
    let dir = named.ok_or(DirectoriesError::NoHome)?;
    std::path::absolute(dir).map_err(|source| DirectoriesError::Absolute { source })
}

/// The directory of sockets and claims: `RUNTIME_DIRECTORY`, `/run/evanesce` for root,
/// `XDG_RUNTIME_DIR`, else one of this user's own below `/tmp`.
pub fn runtime_dir(environment: &Environment) -> PathBuf {
    match (&environment.runtime_directory, &environment.xdg_runtime_dir) {
        (Some(dir), _) => dir.clone(),
        (None, _) if environment.uid == ROOT => "/run/evanesce".into(),
        (None, Some(dir)) => dir.join(NAME),
        (None, None) => format!("/tmp/{NAME}-{}", environment.uid).into(),
    }
}

/// Why there is no directory to work in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoriesError {
    /// No variable says where state goes.
    #[error("there is no state directory: neither --state-dir nor HOME is set")]
    NoHome,
    /// A relative state directory, and no working directory to start from.
    #[error("the working directory is not known")]
    Absolute {
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Coded for DirectoriesError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoHome => "directories.no-home",
            Self::Absolute { .. } => "directories.absolute",
        }
    }
}

const ROOT: u32 = 0;

/// The name of our directory below those of the user.
const NAME: &str = "evanesce";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Origin;

    fn user() -> Environment {
        Environment { uid: 1000, home: Some("/home/u".into()), ..Environment::default() }
    }

    #[test]
    fn our_own_variable_comes_before_that_of_systemd() {
        let both = Environment {
            evanesce_state_dir: Some("/env".into()),
            state_directory: Some("/systemd".into()),
            ..user()
        };
        let systemd = Environment { evanesce_state_dir: None, ..both.clone() };

        let found = state_dir_of_variables(&both).unwrap();
        assert_eq!(found, Sourced::variable("EVANESCE_STATE_DIR", "/env".into()));
        let found = state_dir_of_variables(&systemd).unwrap();
        assert_eq!(found.origin, Origin::Environment { variable: "STATE_DIRECTORY" });
        assert_eq!(state_dir_of_variables(&user()), None);
    }

    #[test]
    fn state_goes_to_the_base_directory_and_without_one_below_the_home_directory() {
        let xdg = Environment { xdg_state_home: Some("/xdg".into()), ..user() };

        assert_eq!(state_dir_of_user(&xdg).unwrap(), Path::new("/xdg/evanesce"));
        assert_eq!(state_dir_of_user(&user()).unwrap(), Path::new("/home/u/.local/state/evanesce"));
    }

    #[test]
    fn root_uses_the_system_directories() {
        let root = Environment { uid: 0, ..user() };

        assert_eq!(state_dir_of_user(&root).unwrap(), Path::new("/var/lib/evanesce"));
        assert_eq!(runtime_dir(&root), Path::new("/run/evanesce"));
    }

    #[test]
    fn without_a_home_there_is_no_guess() {
        let homeless = Environment { uid: 1000, ..Environment::default() };

        let found = state_dir_of_user(&homeless);

        assert_eq!(state_dir(found.as_deref()).unwrap_err().code(), "directories.no-home");
        assert_eq!(state_dir(Some(Path::new("/flag"))).unwrap(), Path::new("/flag"));
    }

    #[test]
    fn without_a_session_sockets_go_to_a_directory_named_after_the_user() {
        assert_eq!(runtime_dir(&user()), Path::new("/tmp/evanesce-1000"));
    }
}
