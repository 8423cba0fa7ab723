//! Which of several values counts. Reads nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use evanesce_launcher::{Degraded, Plan};
use evanesce_posture::grade::Requirement;
use evanesce_protocol::grant::{Grant, Grants};
use evanesce_protocol::limits::SIGNATURES_MAX_DEFAULT;

use crate::configuration::{ConfigFile, ConfigurationError, ProfileName, Sourced};
use crate::log::{LogLevel, LogTarget};

/// The settings that one place has. `None` leaves a setting to the places below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of the same name in `Settings`")]
pub struct Layer {
    pub state_dir: Option<Sourced<PathBuf>>,
    pub log: Option<Sourced<LogLevel>>,
    pub log_to: Option<Sourced<LogTarget>>,
    pub grants: Option<Sourced<Vec<Grant>>>,
    pub ttl: Option<Sourced<Duration>>,
    pub signatures_max: Option<Sourced<u64>>,
    pub kill_switch: Option<Sourced<PathBuf>>,
    pub output_dir: Option<Sourced<PathBuf>>,
    pub allow_degraded: Option<Sourced<Vec<Degraded>>>,
    pub require: Option<Sourced<Vec<Requirement>>>,
}

impl Layer {
    /// The names of all settings, in a file and in reports.
    pub const NAMES: [&str; 10] = [
        "state-dir",
        "log",
        "log-to",
        "grants",
        "ttl",
        "signatures-max",
        "kill-switch",
        "output-dir",
        "allow-degraded",
        "require",
    ];

    /// What this layer has and, where it has nothing, `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            state_dir: self.state_dir.or(below.state_dir),
            log: self.log.or(below.log),
            log_to: self.log_to.or(below.log_to),
            grants: self.grants.or(below.grants),
            ttl: self.ttl.or(below.ttl),
            signatures_max: self.signatures_max.or(below.signatures_max),
            kill_switch: self.kill_switch.or(below.kill_switch),
            output_dir: self.output_dir.or(below.output_dir),
            allow_degraded: self.allow_degraded.or(below.allow_degraded),
            require: self.require.or(below.require),
        }
    }
}

/// Every setting of a command, and where each comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The profile whose settings the files were asked for.
    pub profile: Sourced<ProfileName>,
    /// Where ledger and notary are. `None` where nothing says so.
    pub state_dir: Option<Sourced<PathBuf>>,
    /// Which events are written.
    pub log: Sourced<LogLevel>,
    /// Where they are written.
    pub log_to: Sourced<LogTarget>,
    /// What clients of the agent socket may have signed.
    pub grants: Sourced<Vec<Grant>>,
    /// How long a key lives.
    pub ttl: Sourced<Duration>,
    /// How many signatures a key makes.
    pub signatures_max: Sourced<u64>,
    /// The file whose appearance ends a key.
    pub kill_switch: Option<Sourced<PathBuf>>,
    /// The directory that is one workload's.
    pub output_dir: Option<Sourced<PathBuf>>,
    /// Guarantees that are given up.
    pub allow_degraded: Sourced<Vec<Degraded>>,
    /// Grades below which no key is loaded.
    pub require: Sourced<Vec<Requirement>>,
}

/// Decides every setting: a flag comes before the environment, that before the chosen profile in
/// the files, of which the last one counts most, and that before what is built in.
///
/// `chosen` is the profile that a flag or the environment names; else the last file that names one
/// decides, else it is `strict`. `state_dir` is the state directory where nobody names one.
///
/// # Errors
///
/// [`ConfigurationError::NoSuchProfile`].
pub fn resolve(
    flags: Layer,
    environment: Layer,
    files: &[ConfigFile],
    chosen: Option<Sourced<ProfileName>>,
    state_dir: Option<PathBuf>,
) -> Result<Settings, ConfigurationError> {
    let of_files = || files.iter().rev().find_map(|file| file.profile.clone());
    let profile =
        chosen.or_else(of_files).unwrap_or_else(|| Sourced::built_in(ProfileName::strict()));
    let in_files: Vec<&Layer> =
        files.iter().rev().filter_map(|file| file.profiles.get(&profile.value)).collect();
    if in_files.is_empty() && !profile.value.is_strict() {
        return Err(no_such_profile(profile, files));
    }

    let above = flags.over(environment);
    let layer = in_files.into_iter().fold(above, |above, file| above.over(file.clone()));
    let default = Plan::default();
    Ok(Settings {
        profile,
        state_dir: layer.state_dir.or_else(|| state_dir.map(Sourced::built_in)),
        log: layer.log.unwrap_or_else(|| Sourced::built_in(LogLevel::Off)),
        log_to: layer.log_to.unwrap_or_else(|| Sourced::built_in(LogTarget::default())),
        grants: layer
            .grants
            .unwrap_or_else(|| Sourced::built_in(Grants::default().as_slice().to_vec())),
        ttl: layer.ttl.unwrap_or_else(|| Sourced::built_in(default.ttl)),
        signatures_max: layer
            .signatures_max
            .unwrap_or_else(|| Sourced::built_in(SIGNATURES_MAX_DEFAULT)),
        kill_switch: layer.kill_switch,
        output_dir: layer.output_dir,
        allow_degraded: layer.allow_degraded.unwrap_or_else(|| Sourced::built_in(Vec::new())),
        require: layer.require.unwrap_or_else(|| Sourced::built_in(Vec::new())),
    })
}

fn no_such_profile(chosen: Sourced<ProfileName>, files: &[ConfigFile]) -> ConfigurationError {
    let strict = ProfileName::strict();
    let known: BTreeSet<_> =
        files.iter().flat_map(|file| file.profiles.keys()).chain([&strict]).collect();
    let known: Vec<_> = known.into_iter().map(ToString::to_string).collect();
    let Sourced { value: name, origin } = chosen;
    ConfigurationError::NoSuchProfile { name, origin, known: known.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::configuration::Origin;
    use crate::errors::Coded as _;

    fn file(path: &str, text: &str) -> ConfigFile {
        ConfigFile::parse(Path::new(path), text).unwrap()
    }

    fn chosen(name: &str) -> Option<Sourced<ProfileName>> {
        Some(Sourced::flag("--profile", name.parse().unwrap()))
    }

    fn of_files(files: &[ConfigFile]) -> Result<Settings, ConfigurationError> {
        resolve(Layer::default(), Layer::default(), files, None, None)
    }

    #[test]
    fn without_anything_all_is_built_in_and_strict() {
        let settings = of_files(&[]).unwrap();

        assert!(settings.profile.value.is_strict());
        assert_eq!(settings.ttl, Sourced::built_in(Plan::TTL_DEFAULT));
        assert_eq!(settings.allow_degraded, Sourced::built_in(Vec::new()));
        assert_eq!(settings.grants.value, Grants::default().as_slice());
    }

    #[test]
    fn a_flag_comes_before_a_variable_that_before_a_file_and_the_last_file_before_the_first() {
        let system = file(
            "/system",
            "profile = 'a'\n[profiles.a]\nttl = '1m'\nlog = 'warn'\nlog-to = 'journald'\n",
        );
        let own = file("/own", "[profiles.a]\nttl = '2m'\nlog = 'info'\n[profiles.b]\nttl='9m'\n");
        let variable = Layer {
            log: Some(Sourced::variable("EVANESCE_LOG", LogLevel::Debug)),
            ..Layer::default()
        };
        let flag = Layer { log: Some(Sourced::flag("--log", LogLevel::Trace)), ..Layer::default() };
        let resolved = |flags, environment| {
            resolve(flags, environment, &[system.clone(), own.clone()], None, None).unwrap()
        };

        let settings = resolved(flag, variable.clone());
        assert_eq!(settings.log.value, LogLevel::Trace);
        let at = |path: &str, line| Origin::File { path: path.into(), line };
        assert_eq!(settings.ttl.origin, at("/own", 2));
        assert_eq!(settings.log_to.origin, at("/system", 5));
        assert_eq!(settings.profile.origin, at("/system", 1));
        assert_eq!(resolved(Layer::default(), variable).log.value, LogLevel::Debug);
        assert_eq!(resolved(Layer::default(), Layer::default()).log.value, LogLevel::Info);
    }

    #[test]
    fn the_profile_that_was_chosen_decides_alone_and_strict_takes_nothing_from_files() {
        let one = file(
            "/c",
            "profile = 'a'\n[profiles.a]\nallow-degraded = ['secret-pages']\n[profiles.b]\nttl='9m'\n",
        );
        let of = |name| {
            let files = [one.clone()];
            resolve(Layer::default(), Layer::default(), &files, chosen(name), None).unwrap()
        };

        assert_eq!(of("b").ttl.value, Duration::from_secs(540));
        assert_eq!(of("b").allow_degraded.value, []);
        assert_eq!(of("strict").allow_degraded.value, []);
        assert_eq!(of("a").allow_degraded.value, [Degraded::SecretPages]);
        assert_eq!(
            of_files(std::slice::from_ref(&one)).unwrap().profile.value,
            "a".parse().unwrap()
        );
    }

    #[test]
    fn a_profile_that_is_nowhere_is_refused_with_those_that_there_are() {
        let one = file("/c", "[profiles.b]\n[profiles.a]\n");

        let error = resolve(Layer::default(), Layer::default(), &[one], chosen("c"), None);
        let error = error.unwrap_err();

        assert_eq!(error.code(), "configuration.no-such-profile");
        assert_eq!(error.to_string(), "there is no profile c (--profile); there are: a, b, strict");
        let error = of_files(&[file("/c", "profile = 'c'\n")]).unwrap_err();
        assert!(error.to_string().contains("/c, line 1"), "{error}");
    }

    #[test]
    fn the_state_directory_of_nobody_is_the_one_that_is_built_in() {
        let built_in = Some(PathBuf::from("/home/u/state"));
        let settings =
            resolve(Layer::default(), Layer::default(), &[], None, built_in.clone()).unwrap();

        assert_eq!(settings.state_dir, built_in.map(Sourced::built_in));
    }
}
