//! Filing what came of a playbook in the ledger.

use evanesce_ledger::report::{
    FiledReport, FiledStep, REPORT_STEPS_MAX, REPORT_TEXT_MAX, ReportOutcome,
};
use evanesce_ledger::row::ReportedRow;
use evanesce_ledger::shred::LedgerHead;
use evanesce_ledger::{AppendError, Event, Predicate as _, Timestamp};
use evanesce_protocol::Digest;

use crate::host;
use crate::launcher::Launcher;
use crate::notary::{NO_TERMS, NotaryError};

/// What is to be filed.
#[derive(Clone, Debug)]
pub struct ReportDraft {
    /// The playbook's name.
    pub playbook: String,
    /// SHA-256 of its text.
    pub text: Digest,
    /// When the first step began.
    pub began: Timestamp,
    /// When the last one ended.
    pub ended: Timestamp,
    /// The steps, in order. Those beyond the limit are left out, and longer texts are cut.
    pub steps: Vec<FiledStep>,
}

/// A report in the ledger.
#[derive(Clone, Debug)]
#[must_use = "its row says where it is"]
pub struct Filed {
    /// What it says.
    pub report: FiledReport,
    /// Its row.
    pub row: u64,
}

impl Launcher {
    /// Has the notary sign a report, and appends it to the ledger.
    ///
    /// # Errors
    ///
    /// [`FileReportError`] names the step.
    pub fn file_report(&self, draft: ReportDraft) -> Result<Filed, FileReportError> {
        let ReportDraft { playbook, text, began, ended, mut steps } = draft;
        steps.truncate(REPORT_STEPS_MAX);
        for step in &mut steps {
            step.title = cut(&step.title);
            step.seen = cut(&step.seen);
        }
        let outcome = ReportOutcome::of(&steps);
        let host = host::facts();

        let mut notary = self.notary().open(NO_TERMS).map_err(Box::new)?;
        let mut ledger = self.ledger.borrow_mut();
        let id = ledger.id();
        // Locked until the row is in: the report names the row before it.
        let mut writer = ledger.lock()?;
        let key = notary.key().id();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let mut filed = None;
        let appended = writer.append_after(self.clock.now(), |last, head| {
            let ledger = LedgerHead { id, last, head };
            let report =
                FiledReport { ledger, playbook, text, outcome, began, ended, version, steps, host };
            let envelope =
                report.clone().sign(key, |bytes| notary.sign(bytes)).map_err(Box::new)?;
            filed = Some(report);
            Ok::<_, FileReportError>(Event::Reported(ReportedRow { envelope }))
        })?;
        drop(writer);
        notary.close().map_err(Box::new)?;
        let report = filed.expect("the row that was appended holds it");
        Ok(Filed { report, row: appended.last })
    }
}

fn cut(text: &str) -> String {
    text.chars().take(REPORT_TEXT_MAX).collect()
}

/// Why a report was not filed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileReportError {
    /// The notary did not sign.
    #[error("the notary did not sign the report")]
    Notary(#[from] Box<NotaryError>),
    /// The ledger took no row.
    #[error("the report could not be appended to the ledger")]
    Ledger(#[from] AppendError),
}

impl FileReportError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Notary(error) => error.code(),
            Self::Ledger(error) => error.code(),
        }
    }
}
