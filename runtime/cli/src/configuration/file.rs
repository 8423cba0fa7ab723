//! The text of a configuration file.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use evanesce_launcher::Degraded;
use evanesce_posture::grade::Requirement;
use evanesce_protocol::grant::{Grant, Grants};
use serde::de::{self, Deserialize, Deserializer};
use toml::Spanned;

use crate::configuration::resolve::Layer;
use crate::configuration::{ConfigurationError, Origin, ProfileName, Sourced};
use crate::files::parse_duration;
use crate::log::{LogLevel, LogTarget};

/// What one file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// The profile that is taken where nobody chooses one.
    pub(crate) profile: Option<Sourced<ProfileName>>,
    /// The settings of each profile.
    pub(crate) profiles: BTreeMap<ProfileName, Layer>,
}

impl ConfigFile {
    /// Reads the text of the file at `path`.
    ///
    /// # Errors
    ///
    /// [`ConfigurationError::Parse`] with the place, and [`ConfigurationError::BuiltInProfile`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigurationError> {
        let place = Place { path, text };
        let document: Document = toml::from_str(text).map_err(|error| place.error(&error))?;
        let mut profiles = BTreeMap::new();
        for (name, profile) in document.profiles {
            if name.get_ref().is_strict() {
                let line = place.line_and_column(name.span()).0;
                return Err(ConfigurationError::BuiltInProfile { path: path.to_owned(), line });
            }
            profiles.insert(name.into_inner(), profile.layer(&place));
        }
        Ok(Self { profile: document.profile.map(|name| place.sourced(name)), profiles })
    }
}

/// The whole file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    profile: Option<Spanned<ProfileName>>,
    #[serde(default)]
    profiles: BTreeMap<Spanned<ProfileName>, Profile>,
}

/// The settings of one profile: the flags of the same names.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Profile {
    state_dir: Option<Spanned<AbsolutePath>>,
    log: Option<Spanned<Named<LogLevel>>>,
    log_to: Option<Spanned<Named<LogTarget>>>,
    grants: Option<Spanned<GrantList>>,
    ttl: Option<Spanned<Ttl>>,
    signatures_max: Option<Spanned<Budget>>,
    kill_switch: Option<Spanned<AbsolutePath>>,
    output_dir: Option<Spanned<AbsolutePath>>,
    allow_degraded: Option<Spanned<DegradedList>>,
    require: Option<Spanned<RequirementList>>,
}

impl Profile {
    fn layer(self, place: &Place<'_>) -> Layer {
        Layer {
            state_dir: place.setting(self.state_dir),
            log: place.setting(self.log),
            log_to: place.setting(self.log_to),
            grants: place.setting(self.grants),
            ttl: place.setting(self.ttl),
            signatures_max: place.setting(self.signatures_max),
            kill_switch: place.setting(self.kill_switch),
            output_dir: place.setting(self.output_dir),
            allow_degraded: place.setting(self.allow_degraded),
            require: place.setting(self.require),
        }
    }
}

/// A path that means the same wherever the command is run.
struct AbsolutePath(PathBuf);

impl<'de> Deserialize<'de> for AbsolutePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        match path.is_absolute() {
            true => Ok(Self(path)),
            false => Err(de::Error::custom("a path in a configuration file starts with /")),
        }
    }
}

/// A value that the command line has a word for.
struct Named<T>(T);

impl<'de, T: ValueEnum> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::from_str(&text, false).map(Self).map_err(|_| {
            let words = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
            let words: Vec<_> = words.map(|word| word.get_name().to_owned()).collect();
            de::Error::custom(format!("{text:?} is none of {}", words.join(", ")))
        })
    }
}

/// Grants that can stand together, at least one.
struct GrantList(Vec<Grant>);

impl<'de> Deserialize<'de> for GrantList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let grants = list::<D, Grant>(deserializer)?;
        if grants.is_empty() {
            return Err(de::Error::custom("a list of grants names at least one"));
        }
        Grants::new(grants.clone()).map_err(de::Error::custom)?;
        Ok(Self(grants))
    }
}

/// Guarantees that are given up; none is a list as well.
struct DegradedList(Vec<Degraded>);

impl<'de> Deserialize<'de> for DegradedList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        list(deserializer).map(Self)
    }
}

/// Grades below which no key is loaded; none is a list as well.
struct RequirementList(Vec<Requirement>);

impl<'de> Deserialize<'de> for RequirementList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        list(deserializer).map(Self)
    }
}

/// A list of texts that the command line takes as well.
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
}

/// A time to live.
struct Ttl(Duration);

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).map_err(de::Error::custom)
    }
}

/// How many signatures a key may make.
struct Budget(u64);

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            0 => Err(de::Error::custom("a key has to make at least one signature")),
            signatures => Ok(Self(signatures)),
        }
    }
}

/// What a field of the file is a setting of.
trait Field {
    type Setting;

    fn setting(self) -> Self::Setting;
}

macro_rules! field {
    ($($field:ty => $setting:ty),* $(,)?) => {
        $(impl Field for $field {
            type Setting = $setting;

            fn setting(self) -> $setting {
                self.0
            }
        })*
    };
}

field!(
    AbsolutePath => PathBuf,
    Named<LogLevel> => LogLevel,
    Named<LogTarget> => LogTarget,
    GrantList => Vec<Grant>,
    DegradedList => Vec<Degraded>,
    RequirementList => Vec<Requirement>,
    Ttl => Duration,
    Budget => u64,
);

/// Where a text is, so that a value's line can be told.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn setting<F: Field>(&self, field: Option<Spanned<F>>) -> Option<Sourced<F::Setting>> {
        let Sourced { value, origin } = self.sourced(field?);
        Some(Sourced { value: value.setting(), origin })
    }

    fn sourced<T>(&self, spanned: Spanned<T>) -> Sourced<T> {
        let line = self.line_and_column(spanned.span()).0;
        let origin = Origin::File { path: self.path.to_owned(), line };
        Sourced { value: spanned.into_inner(), origin }
    }

    fn error(&self, error: &toml::de::Error) -> ConfigurationError {
        let (line, column) = self.line_and_column(error.span().unwrap_or_default());
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        ConfigurationError::Parse { path: self.path.to_owned(), line, column, message }
    }

    /// Of the start of a range of bytes, both counted from 1.
    fn line_and_column(&self, span: Range<usize>) -> (usize, usize) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::Coded as _;

    fn parse(text: &str) -> Result<ConfigFile, ConfigurationError> {
        ConfigFile::parse(Path::new("/c.toml"), text)
    }

    #[test]
    fn every_setting_is_read_with_its_line() {
        let text = r#"profile = "release"

[profiles.release]
state-dir = "/var/lib/release"
log = "info"
log-to = "journald"
grants = ["sshsig:git", "ssh-login"]
ttl = "1h 30m"
signatures-max = 3
kill-switch = "/run/stop"
output-dir = "/srv/out"
allow-degraded = ["secret-pages"]
require = ["provable", "during=guarded"]
"#;
        let file = parse(text).unwrap();

        let name: ProfileName = "release".parse().unwrap();
        let at = |line| Origin::File { path: "/c.toml".into(), line };
        assert_eq!(file.profile, Some(Sourced { value: name.clone(), origin: at(1) }));
        let layer = &file.profiles[&name];
        assert_eq!(layer.ttl, Some(Sourced { value: Duration::from_secs(5400), origin: at(8) }));
        assert_eq!(layer.signatures_max, Some(Sourced { value: 3, origin: at(9) }));
        assert_eq!(
            layer.allow_degraded,
            Some(Sourced { value: vec![Degraded::SecretPages], origin: at(12) })
        );
        assert_eq!(layer.require.as_ref().map(|grades| grades.value.len()), Some(2));
        assert_eq!(layer.grants.as_ref().map(|grants| grants.value.len()), Some(2));
        assert_eq!(layer.log_to.as_ref().map(|to| to.value), Some(LogTarget::Journald));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_with_its_place() {
        for (text, line, column, part) in [
            ("[profiles.a]\nttll = '1m'\n", 2, 1, "unknown field `ttll`"),
            ("version = 1\n", 1, 1, "unknown field `version`"),
            ("[profiles.a]\nttl = 'soon'\n", 2, 7, "write 90s, 10m or 1h 30m"),
            ("[profiles.a]\nttl = '0s'\n", 2, 7, "live for some time"),
            ("[profiles.a]\nttl = 60\n", 2, 7, "invalid type"),
            ("[profiles.a]\nsignatures-max = 0\n", 2, 18, "at least one signature"),
            ("[profiles.a]\nsignatures-max = -1\n", 2, 18, "invalid value"),
            ("[profiles.a]\nkill-switch = 'stop'\n", 2, 15, "starts with /"),
            ("[profiles.a]\ngrants = []\n", 2, 10, "at least one"),
            ("[profiles.a]\ngrants = ['raw', 'digest']\n", 2, 10, "stands alone"),
            ("[profiles.a]\ngrants = ['sign']\n", 2, 10, "no grant is called"),
            ("[profiles.a]\nlog = 'loud'\n", 2, 7, "none of off, error, warn"),
            ("[profiles.a]\nallow-degraded = ['all']\n", 2, 18, "no guarantee of this name"),
            ("[profiles.a]\nrequire = ['most']\n", 2, 11, "grades are `guarded` and"),
            ("[profiles.A]\n", 1, 11, "the name of a profile has"),
            ("profile = 'a b'\n", 1, 11, "the name of a profile has"),
            ("[profiles.a]\nttl = '1m'\nttl = '2m'\n", 3, 1, "duplicate key"),
            ("[profiles.a\n", 1, 12, ""),
        ] {
            let error = parse(text).unwrap_err();
            let ConfigurationError::Parse { line: l, column: c, message, .. } = &error else {
                panic!("{text}: {error}");
            };
            assert!(message.contains(part) && !message.contains('\n'), "{text}: {message}");
            assert_eq!((*l, *c), (line, column), "{text}: {message}");
        }
    }

    #[test]
    fn the_profile_that_is_built_in_cannot_be_changed() {
        let error = parse("profile = 'strict'\n\n[profiles.strict]\nttl = '1m'\n").unwrap_err();

        assert_eq!(error.code(), "configuration.built-in-profile");
        assert!(error.to_string().contains("line 3"), "{error}");
        parse("profile = 'strict'\n").unwrap();
    }

    /// The page that explains the format has to be right.
    #[test]
    fn the_example_of_the_format_page_is_read() {
        let page = include_str!("../../../../docs/formats/configuration.md");
        let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());

        let file = parse(example.expect("the page has an example")).unwrap();

        assert_eq!(file.profiles.len(), 2);
        let settings = |name: &str| &file.profiles[&name.parse().unwrap()];
        assert!(settings("release").grants.is_some() && settings("laptop").ttl.is_some());
        // Every setting is in the table.
        let table: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
        for name in Layer::NAMES {
            let row = format!("| `{name}` |");
            assert!(table.iter().any(|line| line.starts_with(&row)), "{name}");
        }
    }
}
