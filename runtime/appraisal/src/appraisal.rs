//! What an appraisal says: a verdict for each rule, and what was not looked at.

use std::fmt;

use evanesce_protocol::evidence::Binding;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::rules::{self, Rule};

/// The kind of machine that evidence is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Tee {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// No machine: evidence for development.
    InsecureSoftware,
}

impl fmt::Display for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snp => "SEV-SNP",
            Self::Tdx => "TDX",
            Self::InsecureSoftware => "insecure software",
        })
    }
}

/// Whether the relying party may trust what the evidence says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every rule holds.
    Trusted,
    /// Genuine, and the policy does not list which machine, image or signer it is.
    Unknown,
    /// At least one other rule does not.
    Refused,
}

/// One rule, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The rule's stable name.
    pub rule: &'static str,
    /// What the rule asks.
    pub asks: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// What would have been right.
    pub expected: String,
    /// What was there.
    pub found: String,
    /// What to do; only where the rule does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<&'static str>,
}

impl fmt::Display for Check {
    /// One line, and a second one with advice where the rule does not hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds { "holds" } else { "FAILS" };
        write!(f, "{verdict}  {}: {}", self.rule, self.asks)?;
        if let Some(advice) = self.advice {
            write!(
                f,
                "\n       expected {}, found {}\n       {advice}",
                self.expected, self.found
            )?;
        }
        Ok(())
    }
}

/// The result of one appraisal. Made only by [`crate::appraise`].
#[derive(Clone, Debug, Serialize)]
#[must_use = "an appraisal that nobody looks at protects nobody"]
pub struct Appraisal {
    outcome: Outcome,
    tee: Tee,
    at: String,
    checks: Vec<Check>,
    not_checked: Vec<String>,
    #[serde(skip)]
    claims: Option<Claims>,
}

impl Appraisal {
    /// Trusted, unknown or refused.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Every rule that was looked at, in order.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// The kind of machine.
    pub fn tee(&self) -> Tee {
        self.tee
    }

    /// The time that was appraised for, as RFC 3339 has it.
    pub fn at(&self) -> &str {
        &self.at
    }

    /// The rules that do not hold, in order.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.holds)
    }

    /// What was not looked at and why, a sentence each. Never empty: no appraisal sees everything.
    pub fn not_checked(&self) -> &[String] {
        &self.not_checked
    }

    /// The proof that every rule held, for what may only happen then.
    ///
    /// # Errors
    ///
    /// The appraisal itself, where it refuses.
    pub fn into_trusted(self) -> Result<Trusted, Box<Self>> {
        match (self.outcome, &self.claims) {
            (Outcome::Trusted, Some(claims)) => Ok(Trusted(claims.clone())),
            _ => Err(Box::new(self)),
        }
    }
}

/// Evidence for which every rule of a policy held. Only an appraisal makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted(Claims);

impl Trusted {
    /// The kind of machine.
    pub fn tee(&self) -> Tee {
        self.0.tee
    }

    /// What was launched: MEASUREMENT or MRTD, 48 bytes.
    pub fn measurement(&self) -> &[u8; 48] {
        &self.0.measurement
    }

    /// What evidence of this runtime binds, where the caller gave it.
    pub fn binding(&self) -> Option<&Binding> {
        self.0.binding.as_ref()
    }

    /// The 64 bytes that the guest chose.
    pub fn report_data(&self) -> &[u8; 64] {
        &self.0.report_data
    }

    /// Whether those bytes were compared with ones that the caller computed. Without that the
    /// evidence says that some such machine exists, not that it holds a certain key.
    pub fn is_bound(&self) -> bool {
        self.0.bound
    }
}

/// What a trusted appraisal lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) tee: Tee,
    pub(crate) measurement: [u8; 48],
    pub(crate) report_data: [u8; 64],
    pub(crate) bound: bool,
    pub(crate) binding: Option<Binding>,
}

/// Collects verdicts while an appraisal runs.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    list: Vec<Check>,
    not_checked: Vec<String>,
}

impl Checks {
    /// Records a rule. Returns whether it holds.
    pub(crate) fn check(
        &mut self,
        rule: Rule,
        holds: bool,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> bool {
        self.list.push(Check {
            rule: rule.code,
            asks: rule.asks,
            holds,
            expected: expected.into(),
            found: found.into(),
            advice: (!holds).then_some(rule.advice),
        });
        holds
    }

    /// Records something that was not looked at.
    pub(crate) fn skip(&mut self, sentence: impl Into<String>) {
        self.not_checked.push(sentence.into());
    }

    /// Closes the books. Without claims, evidence was not read to its end and cannot be trusted.
    pub(crate) fn finish(self, tee: Tee, at: OffsetDateTime, claims: Option<Claims>) -> Appraisal {
        let listing = |check: &Check| {
            rules::ALL.iter().any(|rule| rule.code == check.rule && rule.is_of_listing())
        };
        let failures: Vec<_> = self.list.iter().filter(|check| !check.holds).collect();
        let outcome = match &claims {
            None => Outcome::Refused,
            Some(claims) if failures.is_empty() && claims.tee != Tee::InsecureSoftware => {
                Outcome::Trusted
            }
            // Not even a defect here lets evidence of no machine through.
            Some(_) if failures.is_empty() => Outcome::Refused,
            Some(_) if failures.iter().copied().all(listing) => Outcome::Unknown,
            Some(_) => Outcome::Refused,
        };
        Appraisal {
            outcome,
            tee,
            at: rfc3339(at),
            checks: self.list,
            not_checked: self.not_checked,
            claims,
        }
    }
}

/// A time as people and JSON want it.
pub(crate) fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339)
        .unwrap_or_else(|_| format!("second {} of the Unix era", at.unix_timestamp()))
}
