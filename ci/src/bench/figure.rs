//! What was measured, and whether it is what was wanted.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// One row of the report.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    what: String,
    unit: Unit,
    /// None where it could not be measured; the detail says why.
    value: Option<f64>,
    target: Option<Target>,
    holds: Option<bool>,
    /// The figures behind this one.
    detail: String,
}

impl Figure {
    /// One time by another.
    pub(super) fn ratio(what: &str, time: Duration, by: Duration) -> Self {
        Self::new(what, time.as_secs_f64() / by.as_secs_f64(), Unit::Ratio)
    }

    pub(super) fn us(what: &str, time: Duration) -> Self {
        Self::new(what, time.as_secs_f64() * 1e6, Unit::Microseconds)
    }

    pub(super) fn ms(what: &str, time: Duration) -> Self {
        Self::new(what, time.as_secs_f64() * 1e3, Unit::Milliseconds)
    }

    pub(super) fn mib(what: &str, kib: u32) -> Self {
        Self::new(what, f64::from(kib) / 1024.0, Unit::Mebibytes)
    }

    pub(super) fn not_measured(what: &str, unit: Unit, why: &str) -> Self {
        let (what, detail) = (what.to_owned(), format!("not measured: {why}"));
        Self { what, unit, value: None, target: None, holds: None, detail }
    }

    pub(super) fn with_target(self, target: Target) -> Self {
        let holds = self.value.map(|value| target.is_met_by(value));
        Self { target: Some(target), holds, ..self }
    }

    pub(super) fn with_detail(self, detail: impl fmt::Display) -> Self {
        Self { detail: detail.to_string(), ..self }
    }

    /// What, target, measured, holds, detail: the cells of [`HEADINGS`].
    pub(super) fn cells(&self) -> [String; HEADINGS.len()] {
        let unit = self.unit;
        [
            self.what.clone(),
            self.target.map_or("none".to_owned(), |target| format!("{target} {unit}")),
            self.value.map_or("-".to_owned(), |value| format!("{value:.2} {unit}")),
            self.holds.map_or("", |holds| if holds { "yes" } else { "no" }).to_owned(),
            self.detail.clone(),
        ]
    }

    fn new(what: &str, value: f64, unit: Unit) -> Self {
        let what = what.to_owned();
        Self { what, unit, value: Some(value), target: None, holds: None, detail: String::new() }
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Unit {
    /// One time by another.
    Ratio,
    Microseconds,
    Milliseconds,
    Mebibytes,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ratio => "x",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
        })
    }
}

/// What a figure is wanted to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

pub(super) const HEADINGS: [&str; 5] = ["what", "target", "measured", "holds", "detail"];
