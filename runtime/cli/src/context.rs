//! What a subcommand is handed beside its arguments.

use std::ffi::OsString;
use std::path::PathBuf;

use evanesce_collateral::Cache;
use evanesce_launcher::{Clock, Installation, Launcher, WorkerImage};
use evanesce_ledger::Timestamp;

use crate::cli::GlobalArgs;
use crate::clock;
use crate::directories;
use crate::environment::Environment;
use crate::errors::CommandError;
use crate::log::Log;
use crate::ui::Ui;

/// Where a command runs and how it talks.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    global: &'a GlobalArgs,
    environment: &'a Environment,
    ui: Ui,
    log: &'a Log,
}

impl<'a> Context<'a> {
    /// Takes what the command line and the environment say.
    pub const fn new(
        global: &'a GlobalArgs,
        environment: &'a Environment,
        ui: Ui,
        log: &'a Log,
    ) -> Self {
        Self { global, environment, ui, log }
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
        let log = self.log.clone();
        launcher.before_receipt(move || log.close());
        Ok(launcher)
    }

    /// The directory of the ledger, which need not exist. For commands that only read.
    ///
    /// # Errors
    ///
    /// Where no directory is named anywhere.
    pub fn ledger_dir(&self) -> Result<PathBuf, CommandError> {
        Ok(self.state_dir()?.join("ledger"))
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

    fn state_dir(&self) -> Result<PathBuf, CommandError> {
        let flag = self.global.state_dir.as_deref();
        Ok(directories::state_dir(flag, self.environment)?)
    }
}

/// The clock of this machine.
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        clock::now()
    }
}
