//! Evidence of no machine. It has a form, so that everything around it can be tried out; it is
//! never trusted, and a production policy refuses it by type.

use evanesce_protocol::evidence::INSECURE_SOFTWARE_TAG;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::appraisal::{Checks, Claims, Tee};
use crate::policy::Profile;
use crate::rules;

/// Looks at the form. Returns what it claims, which no appraisal ever calls trusted.
pub(crate) fn appraise(checks: &mut Checks, statement: &[u8], profile: Profile) -> Option<Claims> {
    const NO_MACHINE: &str = "Everything of a machine: there is none.";
    let found = "insecure software evidence";
    if profile == Profile::Production {
        checks.check(rules::SOFTWARE_PROFILE, false, "evidence of a machine", found);
        checks.skip(NO_MACHINE);
        return None;
    }
    let parts = Statement::read(statement);
    checks.check(
        rules::SOFTWARE_READABLE,
        parts.is_some(),
        "a tag, a key, 64 bytes and a signature",
        format!("{} {}", statement.len(), if parts.is_some() { "bytes" } else { "other bytes" }),
    );
    checks.skip(NO_MACHINE);
    let Statement { signed, key, report_data, signature } = parts?;
    let holds = UnparsedPublicKey::new(&ED25519, key).verify(signed, signature).is_ok();
    checks.check(
        rules::SOFTWARE_SIGNATURE,
        holds,
        "a signature by the key in the evidence",
        if holds { "one" } else { "another key's signature, or changed bytes" },
    );
    checks.check(rules::SOFTWARE_VOUCHED, false, "a machine", "nobody");
    Some(Claims {
        tee: Tee::InsecureSoftware,
        measurement: [0; 48],
        report_data: *report_data,
        bound: false,
        binding: None,
    })
}

/// The parts of a statement.
struct Statement<'a> {
    /// Everything before the signature.
    signed: &'a [u8],
    key: &'a [u8; 32],
    report_data: &'a [u8; 64],
    signature: &'a [u8; 64],
}

impl<'a> Statement<'a> {
    fn read(statement: &'a [u8]) -> Option<Self> {
        let (signed, signature) = statement.split_last_chunk()?;
        let rest = signed.strip_prefix(INSECURE_SOFTWARE_TAG)?;
        let (key, rest) = rest.split_first_chunk()?;
        Some(Self { signed, key, report_data: rest.try_into().ok()?, signature })
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use time::OffsetDateTime;

    use super::*;
    use crate::Outcome;

    fn statement() -> Vec<u8> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let mut statement = [INSECURE_SOFTWARE_TAG, key.public_key().as_ref(), &[7; 64]].concat();
        let signature = key.sign(&statement);
        statement.extend(signature.as_ref());
        statement
    }

    fn verdict(statement: &[u8], profile: Profile) -> (Outcome, Vec<&'static str>) {
        let mut checks = Checks::default();
        let claims = appraise(&mut checks, statement, profile);
        let at = OffsetDateTime::UNIX_EPOCH;
        let appraisal = checks.finish(Tee::InsecureSoftware, at, claims);
        (appraisal.outcome(), appraisal.failures().map(|check| check.rule).collect())
    }

    #[test]
    fn software_evidence_is_refused_in_production_and_at_best_unknown_in_development() {
        let refused = (Outcome::Refused, vec!["software.profile"]);
        assert_eq!(verdict(&statement(), Profile::Production), refused);
        let unknown = (Outcome::Unknown, vec!["software.vouched"]);
        assert_eq!(verdict(&statement(), Profile::Development), unknown);
    }

    #[test]
    fn software_evidence_that_was_changed_or_cut_is_refused() {
        let mut changed = statement();
        changed[60] ^= 1;
        let (outcome, rules) = verdict(&changed, Profile::Development);
        assert_eq!((outcome, rules[0]), (Outcome::Refused, "software.signature"));
        let (outcome, rules) = verdict(&statement()[..100], Profile::Development);
        assert_eq!((outcome, rules[0]), (Outcome::Refused, "software.readable"));
    }
}
