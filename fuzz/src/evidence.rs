//! What an appraisal reads, of machines of a PKI made for the run. The first byte names the machine,
//! the second a part of its evidence, and the rest is put in that part's place. What its maker
//! would sign is signed then: without that, every change would be found at the first signature,
//! and what comes after it would never be looked at.

mod snp;
mod tdx;

use std::sync::LazyLock;

use evanesce_appraisal::{
    Evidence, Expected, Outcome, Policy, Roots, appraise, policy_from_evidence,
};
use time::OffsetDateTime;

use crate::planted;

use snp::MACHINES as SNP;
use tdx::MACHINES as TDX;

/// Appraises, and makes a policy of what was given.
///
/// # Panics
///
/// Where something does not hold that must.
pub fn run(input: &[u8]) {
    let Some((&[machine, part], bytes)) = input.split_first_chunk() else { return };
    let machine = usize::from(machine);
    match machine.checked_sub(SNP.len()) {
        None => SNP[machine].run(part, bytes),
        Some(td) if td < TDX.len() => TDX[td].run(part, bytes),
        Some(_) => policy(bytes),
    }
}

/// Makes all machines and their keys, which takes seconds.
pub fn make_machines() {
    LazyLock::force(&SNP);
    LazyLock::force(&TDX);
}

/// Each part of each machine's evidence, as it is.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let of = |machine: usize, parts: Vec<Vec<u8>>| {
        let name = move |part: usize| [machine, part].map(|n| u8::try_from(n).expect("few"));
        parts.into_iter().enumerate().map(move |(part, bytes)| [&name(part)[..], &bytes].concat())
    };
    let snp = SNP.iter().enumerate().flat_map(|(index, snp)| of(index, snp.parts()));
    let tdx = TDX.iter().enumerate().flat_map(|(index, td)| of(SNP.len() + index, td.parts()));
    let policies = SNP.iter().map(|snp| &snp.policy).chain(TDX.iter().map(|td| &td.policy));
    let policies =
        policies.flat_map(|policy| of(SNP.len() + TDX.len(), vec![policy.to_toml().into_bytes()]));
    snp.chain(tdx).chain(policies).collect()
}

/// The policies of the machines.
fn policies() -> impl Iterator<Item = &'static Policy> {
    SNP.iter().map(|snp| &snp.policy).chain(TDX.iter().map(|td| &td.policy))
}

/// Appraises, and asks for the policy that accepts just this.
fn look_at(evidence: Evidence<'_>, policy: &Policy, roots: &Roots, at: OffsetDateTime) {
    let appraisal = appraise(evidence, Expected::ReportData(&[0x13; 64]), policy, roots, at);
    let is_trusted = appraisal.outcome() == Outcome::Trusted;
    assert_eq!(is_trusted, appraisal.failures().next().is_none(), "{appraisal:?}");
    if let Ok(policy) = policy_from_evidence(evidence, None, roots, at) {
        written_and_read(&policy);
    }
}

fn policy(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    if let Ok(policy) = Policy::from_toml(text) {
        written_and_read(&policy);
        planted::bug_if(policies().all(|seed| *seed != policy));
    }
}

fn written_and_read(policy: &Policy) {
    assert_eq!(Policy::from_toml(&policy.to_toml()).ok().as_ref(), Some(policy));
}
