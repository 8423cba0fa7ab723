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
use crate::otlp::{Collector, Otlp};

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
/// and what goes to a collector is sent by the closing: it leaves none behind.
#[derive(Clone)]
#[must_use = "events are written only while it lives"]
pub struct Log(Rc<RefCell<Option<Writing>>>);

/// What carries events.
struct Writing {
    guard: DefaultGuard,
    otlp: Option<Otlp>,
}

impl Log {
    /// Starts to write events of this thread.
    ///
    /// # Errors
    ///
    /// [`LogError::Journald`] where the journal cannot be reached.
    pub fn start(level: LogLevel, target: LogTarget) -> Result<Self, LogError> {
        let writing = level.level().map(|level| Writing::start(level, Some(target), None));
        Ok(Self(Rc::new(RefCell::new(writing.transpose()?))))
    }

    /// Sends events to `collector` from here on, beside where they are written already. Those of
    /// [`LogLevel::Info`], where no level is named.
    ///
    /// # Errors
    ///
    /// [`LogError::Otlp`] where the way there cannot be opened.
    pub fn send_to(
        &self,
        collector: &Collector,
        level: LogLevel,
        target: LogTarget,
    ) -> Result<(), LogError> {
        let otlp = Some(Otlp::open(collector)?);
        // First the old one: whichever ends restores what was before it.
        self.close()?;
        let writing = match level.level() {
            Some(level) => Writing::start(level, Some(target), otlp)?,
            None => Writing::start(Level::INFO, None, otlp)?,
        };
        *self.0.borrow_mut() = Some(writing);
        Ok(())
    }

    /// Ends the writing: what carried events is gone when this returns, whatever it returns.
    ///
    /// # Errors
    ///
    /// [`LogError::Undelivered`] where a collector did not take all that was sent.
    pub fn close(&self) -> Result<(), LogError> {
        self.0.take().map_or(Ok(()), Writing::close)
    }
}

impl Writing {
    fn start(
        level: Level,
        target: Option<LogTarget>,
        otlp: Option<Otlp>,
    ) -> Result<Self, LogError> {
        let stderr = (target == Some(LogTarget::Stderr))
            .then(|| tracing_fmt::layer().with_writer(io::stderr).with_ansi(false));
        let journal = (target == Some(LogTarget::Journald)).then(tracing_journald::layer);
        let journal = journal.transpose().map_err(LogError::Journald)?;
        let events = Registry::default()
            .with(LevelFilter::from_level(level))
            .with(stderr)
            .with(journal)
            .with(otlp.as_ref().map(Otlp::layer));
        Ok(Self { guard: dispatcher::set_default(&Dispatch::new(events)), otlp })
    }

    fn close(self) -> Result<(), LogError> {
        // What is emitted while the rest is sent would come too late.
        drop(self.guard);
        self.otlp.map_or(Ok(()), Otlp::close)
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
    /// No events can be sent to a collector.
    #[error("events cannot be sent to a collector")]
    Otlp(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A collector was not reached, took too long or refused.
    #[error("{collector} did not take all events: batches that were dropped: {batches}")]
    Undelivered {
        /// Where they were sent.
        collector: Collector,
        /// How many batches got no good answer.
        batches: u64,
    },
}

impl Coded for LogError {
    fn code(&self) -> &'static str {
        match self {
            Self::Level { .. } => "log.level",
            Self::Journald(_) => "log.journald",
            Self::Otlp(_) | Self::Undelivered { .. } => "log.otlp",
        }
    }
}
