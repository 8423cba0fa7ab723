//! The one place that reads the environment.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// What the environment says, read once when the process starts.
///
/// An empty variable counts as unset, as the XDG base directory specification asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `EVANESCE_STATE_DIR`.
    pub evanesce_state_dir: Option<PathBuf>,
    /// `EVANESCE_LOG`.
    pub evanesce_log: Option<OsString>,
    /// `EVANESCE_PROFILE`.
    pub evanesce_profile: Option<OsString>,
    /// `STATE_DIRECTORY`, the first of its directories (`systemd.exec(5)` joins them with colons).
    pub state_directory: Option<PathBuf>,
    /// `RUNTIME_DIRECTORY`, the first of its directories.
    pub runtime_directory: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`, where it is an absolute path.
    pub xdg_config_home: Option<PathBuf>,
    /// `CREDENTIALS_DIRECTORY`, where systemd puts what it keeps for a service.
    pub credentials_directory: Option<PathBuf>,
    /// `XDG_STATE_HOME`, where it is an absolute path.
    pub xdg_state_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`, where it is an absolute path.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// The user this process runs as.
    pub uid: u32,
    /// All variables, for a command that `run` starts.
    pub variables: Variables,
}

/// Environment variables, which may hold secrets: not to be printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variables(pub Vec<(OsString, OsString)>);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} variables", self.0.len())
    }
}

impl Environment {
    /// Reads the environment of this process.
    pub fn of_process() -> Self {
        let uid = rustix::process::getuid().as_raw();
        let variables: Vec<_> = std::env::vars_os().collect();
        Self::from_variables(uid, variables)
    }

    /// Takes these variables.
    pub fn from_variables(uid: u32, variables: Vec<(OsString, OsString)>) -> Self {
        let text = |name: &str| {
            let mut found =
                variables.iter().filter(|(key, value)| key == name && !value.is_empty());
            found.next().map(|(_, value)| value.clone())
        };
        let path = |name: &str| text(name).map(PathBuf::from);
        let absolute = |name: &str| path(name).filter(|path| path.is_absolute());
        Self {
            evanesce_state_dir: path("EVANESCE_STATE_DIR"),
            evanesce_log: text("EVANESCE_LOG"),
            evanesce_profile: text("EVANESCE_PROFILE"),
            state_directory: text("STATE_DIRECTORY").and_then(first_of_list),
            runtime_directory: text("RUNTIME_DIRECTORY").and_then(first_of_list),
            xdg_config_home: absolute("XDG_CONFIG_HOME"),
            credentials_directory: absolute("CREDENTIALS_DIRECTORY"),
            xdg_state_home: absolute("XDG_STATE_HOME"),
            xdg_runtime_dir: absolute("XDG_RUNTIME_DIR"),
            home: path("HOME"),
            uid,
            variables: Variables(variables),
        }
    }
}

fn first_of_list(list: OsString) -> Option<PathBuf> {
    std::env::split_paths(&list).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Environment::from_variables(1000, variables)
    }

    #[test]
    fn empty_and_relative_directories_count_as_unset() {
        let found = environment(&[("XDG_STATE_HOME", "state"), ("EVANESCE_STATE_DIR", "")]);

        assert_eq!((found.xdg_state_home, found.evanesce_state_dir), (None, None));
    }

    #[test]
    fn of_a_list_of_state_directories_the_first_is_taken() {
        let found = environment(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")]);

        assert_eq!(found.state_directory, Some("/var/lib/a".into()));
    }
}
