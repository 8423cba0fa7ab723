//! What a subcommand is handed beside its arguments.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use evanesce_collateral::Cache;
use evanesce_launcher::{Clock, Installation, Launcher, WorkerImage};
use evanesce_ledger::Timestamp;

use crate::clock;
use crate::configuration::read::{self, Found};
use crate::configuration::{ConfigurationError, Layer, ProfileName, Settings, Sourced, resolve};
use crate::directories;
use crate::environment::Environment;
use crate::errors::CommandError;
use crate::log::{Log, LogError};
use crate::otlp::Collector;
use crate::ui::Ui;

/// Where a command runs and how it talks.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    configuration: &'a Configuration,
    environment: &'a Environment,
    ui: Ui,
    log: &'a Log,
}

impl<'a> Context<'a> {
    /// Takes what was decided and the environment.
    pub const fn new(
        configuration: &'a Configuration,
        environment: &'a Environment,
        ui: Ui,
        log: &'a Log,
    ) -> Self {
        Self { configuration, environment, ui, log }
    }

    /// What was decided for this command.
    pub const fn settings(&self) -> &'a Settings {
        &self.configuration.settings
    }

    /// The configuration files.
    pub const fn files(&self) -> &'a Found {
        &self.configuration.files
    }

    /// For what has to be said while the command is at work.
    pub const fn ui(&self) -> &Ui {
        &self.ui
    }

    /// Opens the installation, made where there is none, and gives what killed launchers left
    /// behind its receipts.
    ///
    /// # Errors
    ///
    /// Those of the directories, of [`Launcher::open`] and [`Launcher::recover`].
    pub fn launcher(&self) -> Result<Launcher, CommandError> {
        let installation = Installation {
            state_dir: self.state_dir()?,
            runtime_dir: directories::runtime_dir(self.environment),
        };
        let mut launcher =
            Launcher::open(installation, WorkerImage::embedded(), Box::new(SystemClock))?;
        for recovered in launcher.recover()? {
            let id = &recovered.workload;
            self.ui.say(&format!("workload {id} had lost its launcher; it has its receipt now"));
        }
        let (log, ui) = (self.log.clone(), self.ui);
        launcher.before_receipt(move || close_events(&log, &ui));
        Ok(launcher)
    }

    /// Sends events to `collector` from here on, those of the level that is configured.
    ///
    /// # Errors
    ///
    /// Those of [`Log::send_to`].
    pub fn send_events(&self, collector: &Collector) -> Result<(), LogError> {
        let settings = self.settings();
        self.log.send_to(collector, settings.log.value, settings.log_to.value)
    }

    /// Ends the writing of events, where no receipt has ended it.
    pub fn close_events(&self) {
        close_events(self.log, &self.ui);
    }

    /// The directory of the ledger, which need not exist. For commands that only read.
    ///
    /// # Errors
    ///
    /// Where no directory is named anywhere.
    pub fn ledger_dir(&self) -> Result<PathBuf, CommandError> {
        Ok(self.state_dir()?.join("ledger"))
    }

    /// The directory of the local log, which need not exist.
    ///
    /// # Errors
    ///
    /// Where no directory is named anywhere.
    pub fn log_dir(&self) -> Result<PathBuf, CommandError> {
        Ok(self.state_dir()?.join("log"))
    }

    /// The directory of the notary's public keys, which need not exist.
    ///
    /// # Errors
    ///
    /// Where no directory is named anywhere.
    pub fn notary_dir(&self) -> Result<PathBuf, CommandError> {
        Ok(self.state_dir()?.join("notary"))
    }

    /// What `attest collateral fetch` kept.
    ///
    /// # Errors
    ///
    /// Where no directory is named anywhere.
    pub fn collateral(&self) -> Result<Cache, CommandError> {
        Ok(Cache::new(self.state_dir()?.join("collateral")))
    }

    /// What a command that is started inherits.
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        self.environment.variables.0.clone()
    }

    /// Where systemd puts what it keeps for a service.
    pub fn credentials(&self) -> Option<PathBuf> {
        self.environment.credentials_directory.clone()
    }

    /// The file in which the run of a playbook is kept. The installation is made where there is none,
    /// and the file's directory with it.
    ///
    /// # Errors
    ///
    /// Those of [`Self::launcher`], and where the directory cannot be made.
    pub fn playbook_state(&self, name: &str) -> Result<PathBuf, CommandError> {
        drop(self.launcher()?);
        let directory = self.state_dir()?.join("playbooks");
        crate::new_file::private_directory(&directory)?;
        Ok(directory.join(format!("{name}.json")))
    }

    /// One variable of the environment.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        let mut found = self.environment.variables.0.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.clone())
    }

    /// The state directory, which need not exist.
    ///
    /// # Errors
    ///
    /// Where none is named anywhere.
    pub fn state_dir(&self) -> Result<PathBuf, CommandError> {
        let named = self.settings().state_dir.as_ref();
        Ok(directories::state_dir(named.map(|dir| dir.value.as_path()))?)
    }
}

/// Every setting, and the files that were read for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The settings.
    pub settings: Settings,
    /// The files.
    pub files: Found,
}

impl Configuration {
    /// Reads the files and decides: see [`resolve()`].
    ///
    /// # Errors
    ///
    /// [`ConfigurationError`], and what is wrong with a variable.
    pub fn decide(
        flags: Layer,
        profile: Option<Sourced<ProfileName>>,
        named: Option<&Path>,
        environment: &Environment,
    ) -> Result<Self, CommandError> {
        let files = read::all(environment, named)?;
        let profile = match profile {
            Some(profile) => Some(profile),
            None => profile_of(environment)?,
        };
        let state_dir = directories::state_dir_of_user(environment);
        let settings = resolve(flags, layer_of(environment)?, &files.files, profile, state_dir)?;
        Ok(Self { settings, files })
    }
}

impl Default for Configuration {
    /// What is built in.
    fn default() -> Self {
        let settings = resolve(Layer::default(), Layer::default(), &[], None, None);
        Self { settings: settings.expect("the profile is built in"), files: Found::default() }
    }
}

/// The settings that variables name.
fn layer_of(environment: &Environment) -> Result<Layer, LogError> {
    let log = environment.evanesce_log.as_ref().map(|text| text.to_string_lossy().parse());
    let log = log.transpose()?.map(|level| Sourced::variable("EVANESCE_LOG", level));
    let state_dir = directories::state_dir_of_variables(environment);
    Ok(Layer { state_dir, log, ..Layer::default() })
}

fn profile_of(
    environment: &Environment,
) -> Result<Option<Sourced<ProfileName>>, ConfigurationError> {
    let Some(text) = &environment.evanesce_profile else { return Ok(None) };
    let text = text.to_string_lossy();
    match text.parse() {
        Ok(name) => Ok(Some(Sourced::variable("EVANESCE_PROFILE", name))),
        Err(source) => Err(ConfigurationError::Variable { found: text.into_owned(), source }),
    }
}

/// Events that a collector did not take are told of, and change nothing else.
fn close_events(log: &Log, ui: &Ui) {
    if let Err(error) = log.close() {
        let error = CommandError::from(error);
        let (what, code) = (error.clauses().join(": "), error.code());
        ui.say(&format!("evanesce: {what} [{code}]: {}", error.hint().unwrap_or_default()));
    }
}

/// The clock of this machine.
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        clock::now()
    }
}
