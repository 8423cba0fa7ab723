//! What a person or a machine did by a list of steps, filed in the ledger: the run of a playbook.

use serde::{Deserialize, Serialize};

use evanesce_protocol::Digest;

use crate::receipt::HostFacts;
use crate::shred::LedgerHead;
use crate::statement::{Predicate, Subject};
use crate::timestamp::Timestamp;

/// Steps in one report.
pub const REPORT_STEPS_MAX: usize = 64;

/// Characters in one text of a report. Longer ones are cut.
pub const REPORT_TEXT_MAX: usize = 200;

/// The run of a playbook, as the notary signs it.
///
/// The notary vouches that this was reported to it by its own user at this time, not that the steps
/// did what they say. The statement's subject is the text that was followed: named by its name, with
/// the SHA-256 of its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "append the report to the ledger; a run that nobody recorded cannot be shown"]
pub struct FiledReport {
    /// The ledger that the report is for, and how it ended before.
    pub ledger: LedgerHead,
    /// What was followed.
    pub playbook: String,
    /// SHA-256 of its text.
    pub text: Digest,
    /// What came of it.
    pub outcome: ReportOutcome,
    /// When the first step began.
    pub began: Timestamp,
    /// When the last one ended.
    pub ended: Timestamp,
    /// The version of evanesce.
    pub version: String,
    /// The steps that were done, in order; at most [`REPORT_STEPS_MAX`].
    pub steps: Vec<FiledStep>,
    /// What the host itself promises.
    pub host: HostFacts,
}

impl Predicate for FiledReport {
    const TYPE: &str = "https://evanesce.dev/playbook-report/v1";

    fn subject(&self) -> Subject {
        Subject::new(format!("playbook {}", self.playbook), self.text)
    }
}

impl FiledReport {
    /// Whether the outcome is the one that the steps allow.
    pub fn is_consistent(&self) -> bool {
        self.outcome == ReportOutcome::of(&self.steps)
    }
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiledStep {
    /// Its title.
    pub title: String,
    /// What came of it.
    pub outcome: StepOutcome,
    /// What was seen, in a few words.
    pub seen: String,
    /// When it ended.
    pub ended: Timestamp,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepOutcome {
    /// Its commands succeeded, and so did the check that it worked.
    Holds,
    /// A command or the check failed.
    DoesNotHold,
    /// The host lacks what it needs, and the operator left it out by name.
    LeftOut,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportOutcome {
    /// Every step holds.
    Holds,
    /// A step does not.
    DoesNotHold,
    /// No step failed, and some were left out.
    Incomplete,
}

impl ReportOutcome {
    /// What these steps allow to say.
    pub fn of(steps: &[FiledStep]) -> Self {
        let any = |outcome| steps.iter().any(|step| step.outcome == outcome);
        match (any(StepOutcome::DoesNotHold), any(StepOutcome::LeftOut) || steps.is_empty()) {
            (true, _) => Self::DoesNotHold,
            (false, true) => Self::Incomplete,
            (false, false) => Self::Holds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_holds_only_where_every_step_does() {
        let of = |outcomes: &[StepOutcome]| {
            let step = |outcome: &StepOutcome| FiledStep {
                title: "a".into(),
                outcome: *outcome,
                seen: "b".into(),
                ended: Timestamp::from_unix_ms(1),
            };
            ReportOutcome::of(&outcomes.iter().map(step).collect::<Vec<_>>())
        };

        assert_eq!(of(&[StepOutcome::Holds]), ReportOutcome::Holds);
        assert_eq!(of(&[StepOutcome::Holds, StepOutcome::LeftOut]), ReportOutcome::Incomplete);
        assert_eq!(of(&[]), ReportOutcome::Incomplete);
        assert_eq!(
            of(&[StepOutcome::LeftOut, StepOutcome::DoesNotHold]),
            ReportOutcome::DoesNotHold
        );
    }
}
