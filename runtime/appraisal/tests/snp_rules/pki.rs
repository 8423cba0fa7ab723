//! A PKI in the shape of AMD's, made anew for each run of the tests.

use std::sync::LazyLock;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PSS_SHA384, RsaKeyPair,
};
use rsa::pkcs1::EncodeRsaPrivateKey as _;
use x509_cert::der::pem::{LineEnding, encode_string};

#[path = "../support/report_signature.rs"]
mod report_signature;

use super::der::{bits, extension, name, oid, tlv, utc};

/// Whose RSA key signs something.
#[derive(Clone, Copy)]
pub(crate) enum Signer {
    Ark,
    Ask,
    /// A key that is nobody's.
    Stranger,
}

/// The keys of one run: RSA with 2048 bits, where AMD has 4096, because making them takes time.
struct Keys {
    ark: RsaKeyPair,
    ask: RsaKeyPair,
    stranger: RsaKeyPair,
    vek: EcdsaKeyPair,
    vek_pkcs8: Vec<u8>,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let rsa = || {
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
        RsaKeyPair::from_der(key.to_pkcs1_der().unwrap().as_bytes()).unwrap()
    };
    let rng = SystemRandom::new();
    let algorithm = &ECDSA_P384_SHA384_FIXED_SIGNING;
    let vek_pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &rng).unwrap().as_ref().to_vec();
    let vek = EcdsaKeyPair::from_pkcs8(algorithm, &vek_pkcs8, &rng).unwrap();
    Keys { ark: rsa(), ask: rsa(), stranger: rsa(), vek, vek_pkcs8 }
});

impl Signer {
    fn key(self) -> &'static RsaKeyPair {
        match self {
            Self::Ark => &KEYS.ark,
            Self::Ask => &KEYS.ask,
            Self::Stranger => &KEYS.stranger,
        }
    }
}

/// Signs a report's first 672 bytes, and puts the numbers where they belong.
pub(crate) fn sign_report(report: &mut [u8]) {
    report_signature::sign(report, &KEYS.vek);
}

/// The key that signs reports, PKCS#8, for a chip that is another process.
pub(crate) fn vek_pkcs8() -> &'static [u8] {
    &KEYS.vek_pkcs8
}

/// A certificate to be.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) subject: &'static str,
    pub(crate) issuer: &'static str,
    pub(crate) signer: Signer,
    pub(crate) serial: u8,
    /// `YYMMDD`.
    pub(crate) from: &'static str,
    pub(crate) until: &'static str,
    pub(crate) curve: &'static str,
    /// Object identifier, critical, value.
    pub(crate) extensions: Vec<(&'static str, bool, Vec<u8>)>,
}

impl Certificate {
    /// One with the key that signs reports.
    pub(crate) fn vek_der(&self) -> Vec<u8> {
        let algorithm = [oid("1.2.840.10045.2.1"), oid(self.curve)].concat();
        self.der(&algorithm, KEYS.vek.public_key().as_ref())
    }

    /// One with the RSA key of `subject_key`.
    pub(crate) fn ca_pem(&self, subject_key: Signer) -> String {
        let algorithm = [oid("1.2.840.113549.1.1.1"), tlv(0x05, &[])].concat();
        let der = self.der(&algorithm, subject_key.key().public_key().as_ref());
        encode_string("CERTIFICATE", LineEnding::LF, &der).unwrap()
    }

    fn der(&self, algorithm: &[u8], key: &[u8]) -> Vec<u8> {
        let mut fields = vec![
            tlv(0xA0, &tlv(0x02, &[2])),
            tlv(0x02, &[self.serial]),
            rsassa_pss(),
            name(self.issuer),
            tlv(0x30, &[utc(self.from), utc(self.until)].concat()),
            name(self.subject),
            tlv(0x30, &[tlv(0x30, algorithm), bits(key)].concat()),
        ];
        if !self.extensions.is_empty() {
            let extensions: Vec<_> = self.extensions.iter().flat_map(extension).collect();
            fields.push(tlv(0xA3, &tlv(0x30, &extensions)));
        }
        signed(&fields.concat(), self.signer)
    }
}

/// A revocation list to be.
#[derive(Clone)]
pub(crate) struct RevocationList {
    pub(crate) issuer: &'static str,
    pub(crate) signer: Signer,
    pub(crate) this_update: &'static str,
    pub(crate) next_update: &'static str,
    pub(crate) serials: Vec<u8>,
    /// Object identifier, critical, value.
    pub(crate) extensions: Vec<(&'static str, bool, Vec<u8>)>,
}

impl RevocationList {
    pub(crate) fn der(&self) -> Vec<u8> {
        let entry =
            |serial: &u8| tlv(0x30, &[tlv(0x02, &[*serial]), utc(self.this_update)].concat());
        let mut fields = vec![
            tlv(0x02, &[1]),
            rsassa_pss(),
            name(self.issuer),
            utc(self.this_update),
            utc(self.next_update),
        ];
        if !self.serials.is_empty() {
            fields.push(tlv(0x30, &self.serials.iter().flat_map(entry).collect::<Vec<_>>()));
        }
        if !self.extensions.is_empty() {
            let extensions: Vec<_> = self.extensions.iter().flat_map(extension).collect();
            fields.push(tlv(0xA0, &tlv(0x30, &extensions)));
        }
        signed(&fields.concat(), self.signer)
    }
}

fn signed(fields: &[u8], signer: Signer) -> Vec<u8> {
    let tbs = tlv(0x30, fields);
    let key = signer.key();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PSS_SHA384, &SystemRandom::new(), &tbs, &mut signature).unwrap();
    tlv(0x30, &[tbs, rsassa_pss(), bits(&signature)].concat())
}

/// RSASSA-PSS with SHA-384, MGF1 with SHA-384 and 48 bytes of salt, as AMD's certificates have it.
fn rsassa_pss() -> Vec<u8> {
    let sha384 = tlv(0x30, &[oid("2.16.840.1.101.3.4.2.2"), tlv(0x05, &[])].concat());
    let mgf1 = tlv(0x30, &[oid("1.2.840.113549.1.1.8"), sha384.clone()].concat());
    let parameters = [tlv(0xA0, &sha384), tlv(0xA1, &mgf1), tlv(0xA2, &tlv(0x02, &[48]))].concat();
    tlv(0x30, &[oid("1.2.840.113549.1.1.10"), tlv(0x30, &parameters)].concat())
}
