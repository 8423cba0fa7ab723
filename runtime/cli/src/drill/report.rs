//! What a drill came to: a verdict from its stages, without I/O.

use std::io::{self, Write};

use evanesce_ledger::Timestamp;
use evanesce_residue::ScanReport;
use serde::Serialize;

use crate::exit::Exit;
use crate::progress::bytes;
use crate::receipt_text::counted;
use crate::ui::{BAD, FAINT, GOOD, Report, UNSURE};

/// What a drill came to. The same value is printed, written as JSON and as a page.
#[derive(Clone, Debug, Serialize)]
pub struct DrillReport {
    /// The whole in one word.
    pub verdict: Verdict,
    /// The version of evanesce.
    pub version: String,
    /// The host.
    pub host: HostLine,
    /// What was searched for.
    pub canary: CanaryLine,
    /// When it began and ended.
    pub began: Timestamp,
    /// See [`Self::began`].
    pub ended: Timestamp,
    /// The steps, in order.
    pub stages: Vec<Stage>,
    /// What nobody looked at, in sentences.
    pub not_looked_at: Vec<String>,
}

/// Where a drill was held.
#[derive(Clone, Debug, Serialize)]
pub struct HostLine {
    /// The host's name.
    pub name: String,
    /// `uname -r`.
    pub kernel: String,
    /// The user whose view of the host it is.
    pub uid: u32,
}

/// What a drill searches for.
#[derive(Clone, Debug, Serialize)]
pub struct CanaryLine {
    /// The public key, as receipts have it.
    pub public_key: String,
    /// Signatures whose nonces are among the forms.
    pub signatures: u64,
    /// Forms of the key and its signatures.
    pub forms: u64,
    /// Fragments of them, each of which is searched for.
    pub fragments: u64,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// Its stable name.
    pub name: &'static str,
    /// What is done, in a sentence.
    pub what: &'static str,
    /// Whether it came out as it has to.
    pub outcome: StageOutcome,
    /// What was seen, in sentences.
    pub seen: Vec<String>,
    /// When it began, and how long it took.
    pub began: Timestamp,
    /// See [`Self::began`].
    pub took_ms: u64,
    /// What was searched and found, if something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<ScanReport>,
}

/// What a stage came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageOutcome {
    /// As it has to.
    Holds,
    /// Not as it has to.
    DoesNotHold,
    /// It could not be looked at, or not at all of it.
    NotLookedAt,
}

/// The whole in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every control was found, and of the key nothing, wherever there is something to look at.
    Holds,
    /// Something was found, or a control was not.
    DoesNotHold,
    /// Nothing was found, and not everything was looked at.
    Incomplete,
}

impl Verdict {
    /// What the stages together say.
    pub fn of(stages: &[Stage]) -> Self {
        let any = |outcome| stages.iter().any(|stage| stage.outcome == outcome);
        match (any(StageOutcome::DoesNotHold), any(StageOutcome::NotLookedAt)) {
            (true, _) => Self::DoesNotHold,
            (false, true) => Self::Incomplete,
            // A drill in which nothing was done shows nothing.
            (false, false) if stages.is_empty() => Self::Incomplete,
            (false, false) => Self::Holds,
        }
    }

    /// The words for it.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::Incomplete => "incomplete: nothing was found, and not everything was looked at",
        }
    }
}

impl StageOutcome {
    /// What a search for the key came to, where nothing may be found.
    pub fn of_search(report: &ScanReport, unread: &[String]) -> Self {
        match (report.hits_total, report.bytes_scanned > 0 && unread.is_empty()) {
            (1.., _) => Self::DoesNotHold,
            (0, true) => Self::Holds,
            (0, false) => Self::NotLookedAt,
        }
    }

    /// The words for it.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::NotLookedAt => "not looked at",
        }
    }
}

impl Report for DrillReport {
    fn exit(&self) -> Exit {
        match self.verdict {
            Verdict::Holds => Exit::Success,
            Verdict::DoesNotHold | Verdict::Incomplete => Exit::Failure,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        for stage in &self.stages {
            let style = match stage.outcome {
                StageOutcome::Holds => GOOD,
                StageOutcome::DoesNotHold => BAD,
                StageOutcome::NotLookedAt => UNSURE,
            };
            let words = stage.outcome.words();
            writeln!(
                out,
                "{style}{words:<13}{style:#} {}: {} {FAINT}({} ms){FAINT:#}",
                stage.name, stage.what, stage.took_ms
            )?;
            for sentence in &stage.seen {
                writeln!(out, "{:14}{FAINT}{sentence}{FAINT:#}", "")?;
            }
            if stage.outcome == StageOutcome::DoesNotHold
                && let Some(search) = &stage.search
            {
                write_hits(search, "              ", out)?;
            }
        }
        for sentence in &self.not_looked_at {
            writeln!(out, "not looked at {UNSURE}{sentence}{UNSURE:#}")?;
        }
        let style = match self.verdict {
            Verdict::Holds => GOOD,
            Verdict::DoesNotHold => BAD,
            Verdict::Incomplete => UNSURE,
        };
        writeln!(out, "drill: {style}{}{style:#}", self.verdict.words())
    }
}

/// Writes what a search found, each with its place, and how many are not listed.
///
/// # Errors
///
/// Those of `out`.
pub fn write_hits(report: &ScanReport, indent: &str, out: &mut dyn Write) -> io::Result<()> {
    let shown = report.hits.iter().take(HITS_SHOWN_MAX);
    for hit in shown {
        writeln!(
            out,
            "{indent}{BAD}found{BAD:#} {} bytes of {} (from byte {}) in {}, at {:#x}",
            hit.bytes, hit.form, hit.form_offset, hit.place, hit.offset
        )?;
    }
    let listed = u64::try_from(report.hits.len().min(HITS_SHOWN_MAX)).unwrap_or(u64::MAX);
    match report.hits_total.saturating_sub(listed) {
        0 => Ok(()),
        more => writeln!(out, "{indent}and {more} more"),
    }
}

/// What was searched, in a sentence.
pub fn searched(report: &ScanReport) -> String {
    let sources = u64::try_from(report.sources.len()).unwrap_or(u64::MAX);
    let absent = match report.bytes_absent {
        0 => String::new(),
        bytes_absent => format!(", {} hold nothing", bytes(bytes_absent)),
    };
    let closed = match report.bytes_unreadable {
        0 => String::new(),
        bytes_unreadable => format!(", {} could not be read", bytes(bytes_unreadable)),
    };
    format!(
        "{} of {} searched{absent}{closed}: {} of {} found",
        bytes(report.bytes_scanned),
        counted(sources, "source"),
        counted(report.fragments_found, "fragment"),
        "the key",
    )
}

/// Hits that are printed one by one; JSON lists more.
const HITS_SHOWN_MAX: usize = 20;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn stage(outcome: StageOutcome) -> Stage {
        Stage {
            name: "alive-memory",
            what: "memory of the worker",
            outcome,
            seen: vec!["1 < 2".to_owned()],
            began: Timestamp::from_unix_ms(1_795_313_400_000),
            took_ms: 250,
            search: None,
        }
    }

    pub(crate) fn report(outcomes: &[StageOutcome]) -> DrillReport {
        let stages: Vec<_> = outcomes.iter().copied().map(stage).collect();
        DrillReport {
            verdict: Verdict::of(&stages),
            version: "0.1.0".to_owned(),
            host: HostLine { name: "host".into(), kernel: "6.12".into(), uid: 0 },
            canary: CanaryLine {
                public_key: "ed25519:00".into(),
                signatures: 1000,
                forms: 2,
                fragments: 3,
            },
            began: Timestamp::from_unix_ms(1_795_313_400_000),
            ended: Timestamp::from_unix_ms(1_795_313_401_000),
            stages,
            not_looked_at: vec!["swap <there is none>".to_owned()],
        }
    }

    #[test]
    fn one_stage_that_does_not_hold_or_was_not_looked_at_decides() {
        use StageOutcome::{DoesNotHold, Holds, NotLookedAt};

        let verdict = |outcomes: &[StageOutcome]| report(outcomes).verdict;
        assert_eq!(verdict(&[Holds, Holds]), Verdict::Holds);
        assert_eq!(verdict(&[Holds, NotLookedAt]), Verdict::Incomplete);
        assert_eq!(verdict(&[NotLookedAt, DoesNotHold]), Verdict::DoesNotHold);
        assert_eq!(verdict(&[]), Verdict::Incomplete);
        assert_eq!(report(&[Holds]).exit(), Exit::Success);
        assert_eq!(report(&[NotLookedAt]).exit(), Exit::Failure);
    }

    #[test]
    fn a_search_that_read_nothing_or_not_everything_is_not_clean() {
        let of = |bytes_scanned, hits_total, unread: &[&str]| {
            let report = ScanReport { bytes_scanned, hits_total, ..ScanReport::default() };
            let unread: Vec<_> = unread.iter().map(|text| (*text).to_owned()).collect();
            StageOutcome::of_search(&report, &unread)
        };

        assert_eq!(of(10, 0, &[]), StageOutcome::Holds);
        assert_eq!(of(0, 0, &[]), StageOutcome::NotLookedAt);
        assert_eq!(of(10, 0, &["/dev/sda"]), StageOutcome::NotLookedAt);
        assert_eq!(of(10, 1, &["/dev/sda"]), StageOutcome::DoesNotHold);
    }

    #[test]
    fn the_text_names_what_was_not_looked_at() {
        let mut text = Vec::new();
        report(&[StageOutcome::NotLookedAt]).render(&mut text).unwrap();

        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("swap <there is none>"), "{text}");
        assert!(text.contains("drill: ") && text.contains("incomplete"), "{text}");
    }
}
