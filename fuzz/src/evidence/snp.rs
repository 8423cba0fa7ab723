//! Machines with SEV-SNP.

#[path = "../../../runtime/appraisal/tests/support/der.rs"]
mod der;
#[expect(dead_code, reason = "the appraisal's tests use the rest")]
#[path = "../../../runtime/appraisal/tests/snp_rules/pki.rs"]
mod pki;
#[expect(dead_code, reason = "the appraisal's tests use the rest")]
#[path = "../../../runtime/appraisal/tests/snp_rules/setup.rs"]
mod setup;

use std::sync::LazyLock;

use evanesce_appraisal::{Evidence, Policy, Roots, SnpEndorsements};
use pki::sign_report;
use setup::Setup;

use super::look_at;

/// A machine with SEV-SNP.
pub(super) struct Machine {
    setup: Setup,
    vek: Vec<u8>,
    crl: Vec<u8>,
    pub(super) policy: Policy,
    roots: Roots,
}

pub(super) static MACHINES: LazyLock<[Machine; 3]> = LazyLock::new(|| {
    [Setup::genoa(), Setup::turin(), Setup::vlek()].map(|setup| Machine {
        vek: setup.vek.vek_der(),
        crl: setup.crl.as_ref().map(|crl| crl.der()).expect("a baseline has one"),
        policy: Policy::from_toml(&setup.policy.to_string()).expect("a policy"),
        roots: setup.roots(),
        setup,
    })
});

impl Machine {
    /// Report, certificate, revocation list, and the values of the certificate's extensions.
    pub(super) fn parts(&self) -> Vec<Vec<u8>> {
        let extensions = self.setup.vek.extensions.iter().map(|(.., value)| value.clone());
        let parts = [self.setup.report.clone(), self.vek.clone(), self.crl.clone()];
        parts.into_iter().chain(extensions).collect()
    }

    pub(super) fn run(&self, part: u8, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        let mut report = self.setup.report.clone();
        let (mut vek, mut crl) = (self.vek.clone(), self.crl.clone());
        match usize::from(part) {
            0 => report = bytes,
            1 => vek = bytes,
            2 => crl = bytes,
            extension => {
                let mut changed = self.setup.vek.clone();
                let Some((.., value)) = changed.extensions.get_mut(extension - 3) else { return };
                *value = bytes;
                vek = changed.vek_der();
            }
        }
        if report.len() == self.setup.report.len() {
            sign_report(&mut report);
        }
        let endorsements = SnpEndorsements { vek: Some(&vek), crl: Some(&crl) };
        let evidence = Evidence::Snp { report: &report, endorsements };
        look_at(evidence, &self.policy, &self.roots, self.setup.at);
    }
}
