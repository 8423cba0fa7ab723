//! TDs.

#[expect(dead_code, reason = "the appraisal's tests use the rest")]
#[path = "../../../runtime/appraisal/tests/support/der.rs"]
mod der;
#[expect(dead_code, reason = "the appraisal's tests use the rest")]
#[path = "../../../runtime/appraisal/tests/tdx_rules/pki.rs"]
mod pki;
#[expect(dead_code, reason = "the appraisal's tests use the rest")]
#[path = "../../../runtime/appraisal/tests/tdx_rules/setup.rs"]
mod setup;

use std::sync::LazyLock;

use evanesce_appraisal::{Evidence, Policy, Roots};
use pki::Key;
use serde_json::Value as Json;
use setup::Setup;

use super::look_at;

/// A TD.
pub(super) struct Machine {
    setup: Setup,
    quote: Vec<u8>,
    collateral: Vec<u8>,
    pub(super) policy: Policy,
    roots: Roots,
}

pub(super) static MACHINES: LazyLock<[Machine; 2]> = LazyLock::new(|| {
    [Setup::v4(), Setup::v5()].map(|setup| Machine {
        quote: setup.quote(),
        collateral: setup.collateral(),
        policy: Policy::from_toml(&setup.policy.to_string()).expect("a policy"),
        roots: setup.roots(),
        setup,
    })
});

impl Machine {
    /// Quote and collateral; what the quoting enclave signs of a TD; what Intel signs.
    pub(super) fn parts(&self) -> Vec<Vec<u8>> {
        let setup = &self.setup;
        let signed = [&setup.tcb_info, &setup.identity].map(|json| json.to_string().into_bytes());
        let [tcb_info, identity] = signed;
        vec![self.quote.clone(), self.collateral.clone(), setup.td.clone(), tcb_info, identity]
    }

    pub(super) fn run(&self, part: u8, bytes: &[u8]) {
        let (mut quote, mut collateral) = (self.quote.clone(), self.collateral.clone());
        match part {
            0 => quote = bytes.to_vec(),
            1 => collateral = bytes.to_vec(),
            2 => quote = self.quote_of(bytes),
            3 => collateral = self.collateral_with("tcb_info", bytes),
            4 => collateral = self.collateral_with("qe_identity", bytes),
            _ => return,
        }
        let evidence = Evidence::Tdx { quote: &quote, collateral: Some(&collateral) };
        look_at(evidence, &self.policy, &self.roots, self.setup.at);
    }

    /// A quote of another TD's report, signed.
    fn quote_of(&self, td: &[u8]) -> Vec<u8> {
        let header = match self.setup.version {
            5 => HEADER_BYTES + TYPE_AND_SIZE_BYTES,
            _ => HEADER_BYTES,
        };
        let (before, _) = self.quote.split_at(header);
        let after = &self.quote[header + self.setup.td.len()..];
        let signed = [before, td].concat();
        let signature = Key::Attestation.sign(&signed);
        let (length, rest) = after.split_at(4);
        [&signed, length, &signature, &rest[signature.len()..]].concat()
    }

    /// Collateral with another text under one of its names, signed.
    fn collateral_with(&self, name: &str, text: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(text).into_owned();
        let mut json: Json = serde_json::from_slice(&self.collateral).expect("our own");
        let signature = Key::TcbSigner.sign(text.as_bytes());
        json[format!("{name}_signature")] = hex::encode(signature).into();
        json[name] = text.into();
        json.to_string().into_bytes()
    }
}

const HEADER_BYTES: usize = 48;
const TYPE_AND_SIZE_BYTES: usize = 6;
