//! Where state and sockets live. Names only: the launcher makes the directories, and refuses one
//! that is not for its user alone.

use std::io;
use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::errors::Coded;

/// The directory of the ledger and the notary: `--state-dir`, `EVANESCE_STATE_DIR`,
/// `STATE_DIRECTORY`, then what the user's base directories say. Root has `/var/lib/evanesce`.
///
/// # Errors
///
/// [`DirectoriesError::NoHome`] where none of them is known.
pub fn state_dir(
    flag: Option<&Path>,
    environment: &Environment,
) -> Result<PathBuf, DirectoriesError> {
    let named =
        [flag, environment.evanesce_state_dir.as_deref(), environment.state_directory.as_deref()];
    if let Some(dir) = named.into_iter().flatten().next() {
        return std::path::absolute(dir).map_err(|source| DirectoriesError::Absolute { source });
    }
    if environment.uid == ROOT {
        return Ok("/var/lib/evanesce".into());
    }
    let home = || environment.home.as_ref().map(|home| home.join(".local/state"));
    let state_home = environment.xdg_state_home.clone().or_else(home);
    Ok(state_home.ok_or(DirectoriesError::NoHome)?.join(NAME))
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

    fn user() -> Environment {
        Environment { uid: 1000, home: Some("/home/u".into()), ..Environment::default() }
    }

    #[test]
    fn the_flag_comes_before_the_environment_and_that_before_the_home_directory() {
        let everything = Environment {
            evanesce_state_dir: Some("/env".into()),
            state_directory: Some("/systemd".into()),
            xdg_state_home: Some("/xdg".into()),
            ..user()
        };
        let without = |f: fn(&mut Environment)| {
            let mut environment = everything.clone();
            f(&mut environment);
            state_dir(None, &environment).unwrap()
        };

        assert_eq!(state_dir(Some(Path::new("/flag")), &everything).unwrap(), Path::new("/flag"));
        assert_eq!(without(|_| ()), Path::new("/env"));
        assert_eq!(without(|e| e.evanesce_state_dir = None), Path::new("/systemd"));
        assert_eq!(state_dir(None, &user()).unwrap(), Path::new("/home/u/.local/state/evanesce"));
    }

    #[test]
    fn root_uses_the_system_directories() {
        let root = Environment { uid: 0, ..user() };

        assert_eq!(state_dir(None, &root).unwrap(), Path::new("/var/lib/evanesce"));
        assert_eq!(runtime_dir(&root), Path::new("/run/evanesce"));
    }

    #[test]
    fn without_a_home_there_is_no_guess() {
        let homeless = Environment { uid: 1000, ..Environment::default() };

        assert_eq!(state_dir(None, &homeless).unwrap_err().code(), "directories.no-home");
    }

    #[test]
    fn without_a_session_sockets_go_to_a_directory_named_after_the_user() {
        assert_eq!(runtime_dir(&user()), Path::new("/tmp/evanesce-1000"));
    }
}
