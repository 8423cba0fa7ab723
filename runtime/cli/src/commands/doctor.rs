//! `doctor`: say what this host can and cannot promise.

use std::cell::OnceCell;
use std::io::{self, Write};

use evanesce_launcher::{WorkerImage, try_cage, with_causes};
use evanesce_posture::grade::{self, Graded, PROMISES, grade_name, promise_name};
use evanesce_posture::{
    CHECKS, CageTrial, Files, Finding, Host, LocalFiles, Need, Verdict, examine,
};
use serde::Serialize;

use crate::errors::{Coded, CommandError};
use crate::exit::Exit;
use crate::receipt_text::{self, counted, name_of};
use crate::ui::{BAD, FAINT, GOOD, Report, UNSURE};

/// Say what this host can and cannot promise to keys, and how to change it
///
/// Reads only and changes nothing; needs no privilege. Checks whose names start with `worker` are
/// what a strict worker needs, and are tried on a real one that gets no key. Those of `host` stop
/// no worker. At the end stand the grades that they come to, as receipts have them and --require
/// asks for them, each with the checks it was derived from. Exits 0 where every chosen check holds, `platform` aside, 1
/// where one does not or is unknown, and 2 where there is no such check.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce doctor
  evanesce doctor --check worker && evanesce sign release.tar
  evanesce doctor --json | jq -r '.findings[] | select(.verdict != \"holds\") | .change'")]
pub struct DoctorArgs {
    /// Only make checks whose names start with PREFIX (can be repeated)
    #[arg(long = "check", value_name = "PREFIX")]
    prefixes: Vec<String>,
}

/// Examines this host.
///
/// # Errors
///
/// Where no check has a name that starts so. What does not hold is a report.
pub fn run(args: &DoctorArgs) -> Result<DoctorReport, CommandError> {
    let unknown = |prefix: &&String| !CHECKS.iter().any(|check| check.name.starts_with(*prefix));
    if let Some(prefix) = args.prefixes.iter().find(unknown) {
        return Err(NoCheckError { prefix: prefix.clone() }.into());
    }
    let findings = examine(&ThisHost::default(), &args.prefixes);
    // Of a part of the checks no grade can be derived.
    let grades = if args.prefixes.is_empty() { grade::grade(&findings) } else { Vec::new() };
    Ok(DoctorReport::new(findings, grades))
}

/// The host that this process runs on. The cage is tried once, if it is asked for.
#[derive(Default)]
struct ThisHost {
    files: LocalFiles,
    trial: OnceCell<CageTrial>,
}

impl Files for ThisHost {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self.files.read(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.files.list(path)
    }
}

impl Host for ThisHost {
    fn try_cage(&self) -> &CageTrial {
        self.trial.get_or_init(|| match try_cage(WorkerImage::embedded()) {
            Ok(statements) => CageTrial::Holds(
                statements.into_iter().map(|found| (name_of(found.claim), found.detail)).collect(),
            ),
            Err(error) => {
                CageTrial::Refused { code: error.code().to_owned(), message: with_causes(&error) }
            }
        })
    }
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct DoctorReport {
    holds: bool,
    findings: Vec<Finding>,
    grades: Vec<Graded>,
}

impl DoctorReport {
    fn new(findings: Vec<Finding>, grades: Vec<Graded>) -> Self {
        let is_missing =
            |finding: &Finding| finding.need != Need::Extra && finding.verdict != Verdict::Holds;
        Self { holds: !findings.iter().any(is_missing), findings, grades }
    }

    /// A sentence on all checks that something depends on.
    fn conclusion(&self, need: Need) -> Option<String> {
        let of_need: Vec<_> = self.findings.iter().filter(|finding| finding.need == need).collect();
        let open = of_need.iter().filter(|finding| finding.verdict != Verdict::Holds).count();
        let open = u64::try_from(open).unwrap_or(u64::MAX);
        let sentence = match (need, open) {
            _ if of_need.is_empty() => return None,
            (Need::Strict, 0) => "a strict worker gets what it needs here".to_owned(),
            (Need::Strict, _) => "a strict worker takes no key here".to_owned(),
            (Need::Graded, 0) => "the host keeps every promise beside it".to_owned(),
            (Need::Graded, open) => {
                let promises = counted(open, "promise");
                format!("{promises} of the host missing or unknown, which stops no worker")
            }
            (Need::Extra, _) => return None,
        };
        Some(sentence)
    }
}

impl Report for DoctorReport {
    fn exit(&self) -> Exit {
        match self.holds {
            true => Exit::Success,
            false => Exit::Failure,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        for finding in &self.findings {
            let Finding { name, need, verdict, found, source, means, change } = finding;
            let style = match (verdict, need) {
                (Verdict::Holds, _) => GOOD,
                (Verdict::DoesNotHold, Need::Strict | Need::Graded) => BAD,
                (Verdict::DoesNotHold, Need::Extra) | (Verdict::Unknown, _) => UNSURE,
            };
            let verdict_text = verdict.to_string();
            writeln!(
                out,
                "{style}{verdict_text:<13}{style:#} {name}: {found} {FAINT}({source}){FAINT:#}"
            )?;
            writeln!(out, "{:14}{FAINT}{means}{FAINT:#}", "")?;
            if *verdict != Verdict::Holds {
                writeln!(out, "{:14}to change: {change}", "")?;
            }
        }
        for graded in &self.grades {
            let style = receipt_text::grade_style(graded.grade);
            let grade = grade_name(graded.grade);
            let means = PROMISES.iter().find(|rule| rule.promise == graded.promise);
            let means = means.map_or("", |rule| rule.means);
            let promise = promise_name(graded.promise);
            writeln!(out, "{style}{grade:<13}{style:#} {promise}: {means}")?;
            let lacks: Vec<_> = graded.lacking().collect();
            let from = match lacks.is_empty() {
                true => format!("by {}", graded.evidence.join("; ")),
                false => format!("lacks {}", lacks.join("; ")),
            };
            writeln!(out, "{:14}{FAINT}{from}{FAINT:#}", "")?;
        }
        for sentence in [Need::Strict, Need::Graded].map(|need| self.conclusion(need)) {
            sentence.map_or(Ok(()), |sentence| writeln!(out, "{sentence}"))?;
        }
        Ok(())
    }
}

/// No check's name starts so.
#[derive(Debug, thiserror::Error)]
#[error("there is no check whose name starts with {prefix:?}")]
struct NoCheckError {
    prefix: String,
}

impl Coded for NoCheckError {
    fn code(&self) -> &'static str {
        "doctor.no-such-check"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(need: Need, verdict: Verdict) -> Finding {
        let text = "text";
        let found = || text.to_owned();
        Finding {
            name: text,
            need,
            verdict,
            found: found(),
            source: found(),
            means: text,
            change: text,
        }
    }

    #[test]
    fn what_is_unknown_does_not_hold_and_what_few_hosts_have_is_not_asked_for() {
        let exit = |need, verdict| DoctorReport::new(vec![finding(need, verdict)], vec![]).exit();

        assert_eq!(exit(Need::Strict, Verdict::Holds), Exit::Success);
        assert_eq!(exit(Need::Strict, Verdict::Unknown), Exit::Failure);
        assert_eq!(exit(Need::Graded, Verdict::DoesNotHold), Exit::Failure);
        assert_eq!(exit(Need::Extra, Verdict::DoesNotHold), Exit::Success);
    }

    #[test]
    fn a_grade_is_printed_with_what_it_lacks_or_with_what_it_was_derived_from() {
        let graded = |grade, evidence: &[&str]| Graded {
            promise: grade::Promise::AfterExit,
            grade,
            evidence: evidence.iter().map(|&line| line.to_owned()).collect(),
        };
        let grades = vec![
            graded(grade::Grade::Guarded, &["worker.cage holds: x", "host.a does not hold: off"]),
            graded(grade::Grade::Provable, &["host.a holds: on"]),
        ];
        let mut text = Vec::new();
        DoctorReport::new(vec![], grades).render(&mut text).unwrap();

        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("lacks host.a does not hold: off"), "{text}");
        assert!(text.contains("by host.a holds: on"), "{text}");
        assert!(text.contains("after-exit: after its end this machine's memory"), "{text}");
    }

    #[test]
    fn a_host_that_lacks_only_what_is_graded_is_said_to_take_keys() {
        let findings =
            vec![finding(Need::Strict, Verdict::Holds), finding(Need::Graded, Verdict::Unknown)];
        let mut text = Vec::new();
        DoctorReport::new(findings, vec![]).render(&mut text).unwrap();

        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("a strict worker gets what it needs here"), "{text}");
        assert!(text.contains("1 promise of the host missing or unknown"), "{text}");
    }
}
