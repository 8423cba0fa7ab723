//! Whether a request meets the holder's policy.

use std::path::PathBuf;

use evanesce_appraisal::{Appraisal, Policy, Roots, appraise};
use evanesce_release::{Admitted, Approved};

use crate::commands::attest::input::{Input, moment};
use crate::context::Context;
use crate::errors::{Coded, CommandError};

/// Appraises the evidence of a request: it has to bind the challenge and its key, and to meet the
/// policy as of now. Endorsements that it lacks are taken from what is kept here.
///
/// # Errors
///
/// [`PolicyError`] where a rule does not hold.
pub(crate) fn judge(
    admitted: Admitted,
    policy: &Policy,
    roots: &Roots,
    context: &Context<'_>,
) -> Result<Approved, CommandError> {
    let name = PathBuf::from("the request");
    let mut input = Input::of_envelope(name, admitted.evidence().clone());
    input.complete(context)?;
    let (nonce, key) = (admitted.challenge().nonce(), admitted.challenge().public_key());
    let expected = input.expected(Some(&nonce), Some(&key), None);
    let appraisal = appraise(input.evidence(), expected, policy, roots, moment(None));
    match appraisal.into_trusted() {
        Ok(trusted) => Ok(admitted.approve(&trusted, policy.digest())?),
        Err(appraisal) => Err(PolicyError::of(&appraisal).into()),
    }
}

/// The policy does not let the key go there.
#[derive(Debug, thiserror::Error)]
#[error("the policy refuses the evidence ({rules})")]
pub(crate) struct PolicyError {
    rules: String,
}

impl PolicyError {
    fn of(appraisal: &Appraisal) -> Self {
        let names: Vec<_> = appraisal.failures().map(|check| check.rule).collect();
        Self { rules: names.join(", ") }
    }
}

impl Coded for PolicyError {
    fn code(&self) -> &'static str {
        "release.policy"
    }
}
