//! `config`: say what is configured, and where.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use crate::commands::plan::LimitArgs;
use crate::commands::run::BoundArgs;
use crate::configuration::{Layer, Origin, ProfileName, Settings, Sourced};
use crate::context::Context;
use crate::errors::CommandError;
use crate::ui::{FAINT, Report};

/// Say what is configured, and where each value comes from
///
/// A flag comes before a variable of the environment, that before the chosen profile in
/// configuration files, and that before what is built in. Files are read in this order, and the
/// last one that has a setting counts: /etc/evanesce/config.toml,
/// $XDG_CONFIG_HOME/evanesce/config.toml (else ~/.config/evanesce/config.toml), --config FILE.
/// docs/formats/configuration.md describes them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce config show
  evanesce config show --profile release --ttl 1m
  evanesce config show --json | jq -r '.settings.\"state-dir\".value'")]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    Show(ConfigShowArgs),
}

/// Print every setting and where its value comes from
///
/// Takes the flags of `run` as well, and then shows what `run` would do with them.
#[derive(Debug, clap::Args)]
struct ConfigShowArgs {
    #[command(flatten)]
    bounds: BoundArgs,

    #[command(flatten)]
    limits: LimitArgs,
}

impl ConfigArgs {
    /// The settings that its flags name.
    pub fn layer(&self) -> Layer {
        let ConfigCommand::Show(args) = &self.command;
        args.bounds.layer().over(args.limits.layer())
    }
}

/// Says what was decided.
///
/// # Errors
///
/// None: what is wrong with the configuration ends any command before.
pub fn run(args: &ConfigArgs, context: &Context<'_>) -> Result<ConfigReport, CommandError> {
    let ConfigCommand::Show(_) = &args.command;
    let files = context.files();
    let looked_for = files.looked_for.iter();
    let mut profiles: Vec<_> =
        files.files.iter().flat_map(|file| file.profiles.keys().cloned()).collect();
    profiles.push(ProfileName::strict());
    profiles.sort();
    profiles.dedup();
    Ok(ConfigReport {
        profile: context.settings().profile.clone(),
        settings: shown(context.settings()),
        files: looked_for
            .map(|(path, read)| LookedFor { path: path.clone(), read: *read })
            .collect(),
        profiles,
    })
}

/// What is configured.
#[derive(Debug, Serialize)]
pub struct ConfigReport {
    profile: Sourced<ProfileName>,
    #[serde(serialize_with = "as_map")]
    settings: Vec<(&'static str, Sourced<Shown>)>,
    profiles: Vec<ProfileName>,
    files: Vec<LookedFor>,
}

/// A file that was looked for.
#[derive(Debug, Serialize)]
struct LookedFor {
    path: PathBuf,
    read: bool,
}

/// A value as it stands in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Shown {
    Nothing,
    Text(String),
    Number(u64),
    List(Vec<String>),
}

impl Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("-"),
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::List(list) if list.is_empty() => f.write_str("-"),
            Self::List(list) => f.write_str(&list.join(", ")),
        }
    }
}

/// Every setting, in the order of [`Layer::NAMES`].
fn shown(settings: &Settings) -> Vec<(&'static str, Sourced<Shown>)> {
    let Settings {
        profile: _,
        state_dir,
        log,
        log_to,
        grants,
        ttl,
        signatures_max,
        kill_switch,
        output_dir,
        allow_degraded,
        require,
    } = settings;
    let values = [
        optional(state_dir, |path| Shown::Text(path.display().to_string())),
        one(log, |level| Shown::Text(word(level))),
        one(log_to, |target| Shown::Text(word(target))),
        one(grants, |grants| Shown::List(texts(grants))),
        one(ttl, |ttl| Shown::Text(humantime::format_duration(*ttl).to_string())),
        one(signatures_max, |max| Shown::Number(*max)),
        optional(kill_switch, |path| Shown::Text(path.display().to_string())),
        optional(output_dir, |path| Shown::Text(path.display().to_string())),
        one(allow_degraded, |names| Shown::List(texts(names))),
        one(require, |grades| Shown::List(texts(grades))),
    ];
    Layer::NAMES.into_iter().zip(values).collect()
}

fn one<T>(setting: &Sourced<T>, show: impl Fn(&T) -> Shown) -> Sourced<Shown> {
    Sourced { value: show(&setting.value), origin: setting.origin.clone() }
}

fn optional<T>(setting: &Option<Sourced<T>>, show: impl Fn(&T) -> Shown) -> Sourced<Shown> {
    match setting {
        Some(setting) => one(setting, show),
        None => Sourced { value: Shown::Nothing, origin: Origin::BuiltIn },
    }
}

fn word(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value().expect("no level and no target is hidden");
    value.get_name().to_owned()
}

fn texts(values: &[impl Display]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn as_map<S: serde::Serializer>(
    settings: &[(&'static str, Sourced<Shown>)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(settings.iter().map(|(name, setting)| (name, setting)))
}

impl Report for ConfigReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let profile = ("profile", self.profile.value.to_string(), &self.profile.origin);
        let settings = self.settings.iter();
        let rows: Vec<_> = std::iter::once(profile)
            .chain(settings.map(|(name, set)| (*name, set.value.to_string(), &set.origin)))
            .collect();
        let width = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or(0);
        for (name, value, origin) in rows {
            writeln!(out, "{name:<15} {value:<width$}  {FAINT}{origin}{FAINT:#}")?;
        }
        for LookedFor { path, read } in &self.files {
            let state = if *read { "read" } else { "not there" };
            writeln!(out, "{:<15} {}  {FAINT}{state}{FAINT:#}", "file", path.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Configuration;

    #[test]
    fn every_setting_is_shown_under_its_own_name() {
        let settings = shown(&Configuration::default().settings);

        let value = |name| {
            let (_, setting) = settings.iter().find(|(known, _)| *known == name).unwrap();
            setting.value.to_string()
        };
        assert_eq!(settings.len(), Layer::NAMES.len());
        assert_eq!((value("ttl"), value("grants")), ("10m".into(), "sshsig".into()));
        assert_eq!((value("log"), value("log-to")), ("off".into(), "stderr".into()));
        assert_eq!((value("signatures-max"), value("state-dir")), ("1000000".into(), "-".into()));
        assert_eq!((value("allow-degraded"), value("kill-switch")), ("-".into(), "-".into()));
    }
}
