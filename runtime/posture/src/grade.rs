//! What a host's checks come to for a key: how far each promise can be kept.
//!
//! The words are those of receipts, so that `doctor` and a receipt say the same of the same host.

use std::fmt;
use std::str::FromStr;

pub use evanesce_ledger::receipt::{Grade, Graded, Promise};

use crate::finding::{Finding, Verdict};

/// What one promise depends on.
#[derive(Clone, Copy, Debug)]
pub struct PromiseRule {
    /// The promise.
    pub promise: Promise,
    /// What it says, in a sentence.
    pub means: &'static str,
    /// Checks without which it is open.
    pub guarded_by: &'static [&'static str],
    /// Checks that it takes besides to hold whatever happens.
    pub provable_by: &'static [&'static str],
}

/// All promises.
pub const PROMISES: &[PromiseRule] = &[
    PromiseRule {
        promise: Promise::AfterExit,
        means: "after its end this machine's memory holds nothing of the key",
        guarded_by: &["worker.cage", "worker.secret-pages"],
        provable_by: &["host.init-on-free"],
    },
    PromiseRule {
        promise: Promise::During,
        means: "while it lives nothing else on this machine reads the key",
        guarded_by: &["worker.cage", "worker.secret-pages", "worker.seccomp", "worker.landlock"],
        provable_by: &["host.lockdown"],
    },
    PromiseRule {
        promise: Promise::AgainstSwap,
        means: "nothing of the key reaches a disk: swap, core files, crash dumps, hibernation",
        guarded_by: &["worker.secret-pages"],
        provable_by: &["host.swap", "host.core-pattern", "host.kdump", "host.hibernation"],
    },
    PromiseRule {
        promise: Promise::AgainstHypervisor,
        means: "the hypervisor cannot read the key",
        guarded_by: &["platform.confidential"],
        provable_by: &[],
    },
];

/// Grades every promise by what was found. A check that was not made counts as unknown.
pub fn grade(findings: &[Finding]) -> Vec<Graded> {
    PROMISES.iter().map(|rule| rule.grade(findings)).collect()
}

/// The names of all checks that a grade depends on.
pub fn checks_of_grades() -> Vec<&'static str> {
    let mut names: Vec<_> = PROMISES.iter().flat_map(PromiseRule::checks).collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl PromiseRule {
    fn checks(&self) -> impl Iterator<Item = &'static str> {
        self.guarded_by.iter().chain(self.provable_by).copied()
    }

    fn grade(&self, findings: &[Finding]) -> Graded {
        let find = |name: &str| findings.iter().find(|finding| finding.name == name);
        let hold = |names: &[&str]| {
            names.iter().all(|name| find(name).is_some_and(|f| f.verdict == Verdict::Holds))
        };
        let grade = match (hold(self.guarded_by), hold(self.provable_by)) {
            (true, true) => Grade::Provable,
            (true, false) => Grade::Guarded,
            (false, _) => Grade::Open,
        };
        let evidence = self.checks().map(|name| match find(name) {
            Some(Finding { verdict, found, .. }) => format!("{name} {verdict}: {}", cut(found)),
            None => format!("{name} {}: not asked", Verdict::Unknown),
        });
        Graded { promise: self.promise, grade, evidence: evidence.collect() }
    }
}

/// Receipts have a limit; what was found has none.
fn cut(text: &str) -> String {
    text.chars().take(FOUND_CHARACTERS_MAX).collect()
}

/// A grade that has to be reached: `provable`, or of one promise, `during=guarded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requirement {
    promise: Option<Promise>,
    grade: Grade,
}

impl Requirement {
    /// Which of these grades are below what is required.
    pub fn unmet_by<'g>(&self, grades: &'g [Graded]) -> Vec<&'g Graded> {
        let is_meant = |promise| match self.promise {
            Some(wanted) => promise == wanted,
            // What any host can be made to promise with its own means.
            None => matches!(promise, Promise::AfterExit | Promise::AgainstSwap),
        };
        grades.iter().filter(|g| is_meant(g.promise) && g.grade < self.grade).collect()
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(promise) = self.promise {
            write!(f, "{}=", promise_name(promise))?;
        }
        f.write_str(grade_name(self.grade))
    }
}

impl FromStr for Requirement {
    type Err = ParseRequirementError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (promise, grade) = match text.split_once('=') {
            Some((promise, grade)) => (Some(promise), grade),
            None => (None, text),
        };
        let find = |name: &str| {
            let mut promises = PROMISES.iter().map(|rule| rule.promise);
            promises.find(|promise| promise_name(*promise) == name).ok_or(ParseRequirementError)
        };
        let grades = [Grade::Guarded, Grade::Provable];
        let grade = grades.into_iter().find(|known| grade_name(*known) == grade);
        Ok(Self {
            promise: promise.map(find).transpose()?,
            grade: grade.ok_or(ParseRequirementError)?,
        })
    }
}

/// A text that names no grade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "grades are `guarded` and `provable`, alone or of one promise: `after-exit=`, `during=`, \
     `against-swap=`, `against-hypervisor=`"
)]
pub struct ParseRequirementError;

/// A promise's stable name.
pub const fn promise_name(promise: Promise) -> &'static str {
    match promise {
        Promise::AfterExit => "after-exit",
        Promise::During => "during",
        Promise::AgainstSwap => "against-swap",
        Promise::AgainstHypervisor => "against-hypervisor",
        _ => "of a later version",
    }
}

/// A grade's stable name.
pub const fn grade_name(grade: Grade) -> &'static str {
    match grade {
        Grade::Open => "open",
        Grade::Guarded => "guarded",
        Grade::Provable => "provable",
        _ => "of a later version",
    }
}

const FOUND_CHARACTERS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::CHECKS;
    use crate::finding::Need;

    fn finding(name: &'static str, verdict: Verdict) -> Finding {
        let text = || "text".to_owned();
        let need = Need::Graded;
        Finding { name, need, verdict, found: text(), source: text(), means: "", change: "" }
    }

    /// What is found on a host where everything holds but for these checks.
    fn all_but(lacking: &[(&str, Verdict)]) -> Vec<Finding> {
        CHECKS
            .iter()
            .map(|check| {
                let found = lacking.iter().find(|(name, _)| *name == check.name);
                finding(check.name, found.map_or(Verdict::Holds, |(_, verdict)| *verdict))
            })
            .collect()
    }

    fn of(promise: Promise, findings: &[Finding]) -> Grade {
        grade(findings).into_iter().find(|graded| graded.promise == promise).unwrap().grade
    }

    #[test]
    fn every_rule_names_checks_that_there_are() {
        for name in checks_of_grades() {
            assert!(CHECKS.iter().any(|check| check.name == name), "{name}");
        }
    }

    #[test]
    fn each_check_that_a_promise_takes_lowers_its_grade_and_no_other_does() {
        for rule in PROMISES {
            for check in CHECKS {
                for verdict in [Verdict::DoesNotHold, Verdict::Unknown] {
                    let is_in = |names: &[&str]| names.contains(&check.name);
                    let expected = match (is_in(rule.guarded_by), is_in(rule.provable_by)) {
                        (true, _) => Grade::Open,
                        (false, true) => Grade::Guarded,
                        (false, false) => Grade::Provable,
                    };
                    let found = of(rule.promise, &all_but(&[(check.name, verdict)]));
                    assert_eq!(found, expected, "{:?} without {}", rule.promise, check.name);
                }
            }
        }
    }

    #[test]
    fn a_check_that_was_not_made_does_not_hold() {
        assert_eq!(of(Promise::AfterExit, &[]), Grade::Open);
        assert!(grade(&[])[0].evidence[0].contains("not asked"));
    }

    #[test]
    fn provable_asks_for_what_a_host_can_do_by_itself_and_a_promise_for_itself_alone() {
        let unmet = |requirement: &str, findings: &[Finding]| {
            let requirement: Requirement = requirement.parse().unwrap();
            let grades = grade(findings);
            requirement.unmet_by(&grades).iter().map(|g| g.promise).collect::<Vec<_>>()
        };
        let ordinary = all_but(&[
            ("host.init-on-free", Verdict::DoesNotHold),
            ("host.lockdown", Verdict::DoesNotHold),
            ("platform.confidential", Verdict::DoesNotHold),
        ]);

        assert_eq!(unmet("provable", &ordinary), [Promise::AfterExit]);
        assert_eq!(unmet("guarded", &ordinary), []);
        assert_eq!(unmet("during=provable", &ordinary), [Promise::During]);
        assert_eq!(unmet("during=guarded", &ordinary), []);
        assert_eq!(unmet("against-hypervisor=guarded", &ordinary), [Promise::AgainstHypervisor]);
    }

    #[test]
    fn requirements_are_read_back_and_nothing_else_is_one() {
        for text in ["provable", "guarded", "after-exit=provable", "against-hypervisor=guarded"] {
            assert_eq!(text.parse::<Requirement>().unwrap().to_string(), text);
        }
        for text in ["", "open", "Provable", "after-exit", "=provable", "swap=provable", "a=b=c"] {
            assert_eq!(text.parse::<Requirement>(), Err(ParseRequirementError), "{text}");
        }
    }
}
