//! What evidence binds: which signer, for what, beside whom.

use evanesce_protocol::PublicKey;
use evanesce_protocol::evidence::{Binding, Nonce};

use crate::appraisal::Checks;
use crate::policy::{Allowed, Any, EvanescePolicy, Purpose, one_of};
use crate::rules::{self, Rule};

/// Judges the parts of a binding. Whether the machine signed it is another rule's question.
pub(crate) fn appraise(
    checks: &mut Checks,
    binding: &Binding,
    nonce: Option<&Nonce>,
    public_key: Option<&PublicKey>,
    policy: Option<&EvanescePolicy>,
) {
    if let Some(nonce) = nonce {
        let holds = *nonce == binding.nonce;
        checks.check(rules::BOUND_NONCE, holds, nonce.to_string(), binding.nonce.to_string());
    }
    if let Some(wanted) = public_key {
        let found = binding.subject.public_key();
        checks.check(
            rules::BOUND_KEY,
            found == Some(wanted),
            wanted.to_string(),
            found.map_or("no key".to_owned(), PublicKey::to_string),
        );
    }
    let Some(policy) = policy else {
        checks.check(rules::BOUND_SECTION, false, "an [evanesce] section", "none");
        checks.skip("Which signer and worker it is: the policy has no [evanesce] section.");
        return;
    };
    let purpose = Purpose::of(&binding.subject);
    checks.check(
        rules::BOUND_PURPOSE,
        policy.purposes.contains(&purpose),
        one_of(&policy.purposes),
        purpose.to_string(),
    );
    listed(checks, rules::BOUND_SIGNER, &policy.signers, &binding.signer, "which signer it is");
    listed(checks, rules::BOUND_WORKER, &policy.workers, &binding.worker, "which worker it is");
    listed(checks, rules::BOUND_NOTARY, &policy.notaries, &binding.notary, "which notary it is");
    listed(
        checks,
        rules::BOUND_CONFIGURATION,
        &policy.configurations,
        &binding.configuration,
        "how the worker was configured",
    );
}

/// A section that lists what `binding` has. The configuration names the workload, so that listing
/// it would accept one run alone.
pub(crate) fn section_of(binding: &Binding) -> EvanescePolicy {
    EvanescePolicy {
        purposes: vec![Purpose::of(&binding.subject)],
        signers: Allowed::one(binding.signer),
        workers: Allowed::one(binding.worker),
        notaries: Allowed::one(binding.notary),
        configurations: Allowed::Any(Any::Any),
    }
}

fn listed<T: PartialEq + ToString + std::fmt::Display>(
    checks: &mut Checks,
    rule: Rule,
    allowed: &Allowed<T>,
    found: &T,
    what: &str,
) {
    if allowed.is_any() {
        checks.skip(format!("{}: the policy accepts any, so {what} is open.", rule.code));
    } else {
        checks.check(rule, allowed.allows(found), allowed.to_string(), found.to_string());
    }
}
