//! Where `tracing` events go. Nowhere, unless a level is named.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::str::FromStr;

use clap::ValueEnum;
use tracing::Level;
use tracing::dispatcher::{self, DefaultGuard, Dispatch};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, fmt as tracing_fmt};

use crate::errors::Coded;

/// Which events are written (`--log`, `EVANESCE_LOG`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// None
    Off,
    /// Defects of evanesce
    Error,
    /// What an operator should look at
    Warn,
    /// Each step of a workload's life
    Info,
    /// What the steps found
    Debug,
    /// Everything
    Trace,
}

impl LogLevel {
    const fn level(self) -> Option<Level> {
        match self {
            Self::Off => None,
            Self::Error => Some(Level::ERROR),
            Self::Warn => Some(Level::WARN),
            Self::Info => Some(Level::INFO),
            Self::Debug => Some(Level::DEBUG),
            Self::Trace => Some(Level::TRACE),
        }
    }
}

impl FromStr for LogLevel {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        <Self as ValueEnum>::from_str(text, false)
            .map_err(|_| LogError::Level { found: text.to_owned() })
    }
}

/// Where events are written (`--log-to`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogTarget {
    /// Standard error, one line an event
    #[default]
    Stderr,
    /// The journal of systemd
    Journald,
}

/// Events are written until this is closed. Each is written before the code that emits it goes on,
/// so closing leaves none behind.
#[derive(Clone)]
#[must_use = "events are written only while it lives"]
pub struct Log(Rc<RefCell<Option<DefaultGuard>>>);

impl Log {
    /// Starts to write events of this thread.
    ///
    /// # Errors
    ///
    /// [`LogError::Journald`] where the journal cannot be reached.
    pub fn start(level: LogLevel, target: LogTarget) -> Result<Self, LogError> {
        let Some(level) = level.level() else {
            return Ok(Self(Rc::default()));
        };
        let registry = Registry::default().with(LevelFilter::from_level(level));
        let dispatch = match target {
            LogTarget::Stderr => Dispatch::new(
                registry.with(tracing_fmt::layer().with_writer(io::stderr).with_ansi(false)),
            ),
            LogTarget::Journald => {
                let journal = tracing_journald::layer().map_err(LogError::Journald)?;
                Dispatch::new(registry.with(journal))
            }
        };
        Ok(Self(Rc::new(RefCell::new(Some(dispatcher::set_default(&dispatch))))))
    }

    /// Ends the writing: what carried events is gone when this returns.
    pub fn close(&self) {
        drop(self.0.take());
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Log").field(&self.0.borrow().is_some()).finish()
    }
}

/// Why events cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// `EVANESCE_LOG` names no level.
    #[error("EVANESCE_LOG is {found:?}, which is not a level")]
    Level {
        /// What it is.
        found: String,
    },
    /// The journal cannot be reached.
    #[error("the journal cannot be reached")]
    Journald(#[source] io::Error),
}

impl Coded for LogError {
    fn code(&self) -> &'static str {
        match self {
            Self::Level { .. } => "log.level",
            Self::Journald(_) => "log.journald",
        }
    }
}
