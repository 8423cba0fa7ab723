//! A PKI in the shape of Intel's, made anew for each run of the tests.

use std::sync::LazyLock;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use x509_cert::der::pem::{LineEnding, encode_string};

use super::der::{bits, extension, integer, name, oid, tlv, utc};

/// Whose key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Root,
    PlatformCa,
    Pck,
    TcbSigner,
    Attestation,
    /// A key that is nobody's.
    Stranger,
}

/// One key, for both forms of its signatures.
struct Pair {
    asn1: EcdsaKeyPair,
    fixed: EcdsaKeyPair,
}

static KEYS: LazyLock<[Pair; 6]> = LazyLock::new(|| {
    let rng = SystemRandom::new();
    [(); 6].map(|()| {
        let asn1 = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(asn1, &rng).unwrap();
        let read = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &rng).unwrap();
        Pair { asn1: read(asn1), fixed: read(&ECDSA_P256_SHA256_FIXED_SIGNING) }
    })
});

impl Key {
    /// The uncompressed point, 65 bytes.
    pub(crate) fn point(self) -> Vec<u8> {
        self.pair().asn1.public_key().as_ref().to_vec()
    }

    /// `r ‖ s`, 64 bytes.
    pub(crate) fn sign(self, bytes: &[u8]) -> Vec<u8> {
        self.pair().fixed.sign(&SystemRandom::new(), bytes).unwrap().as_ref().to_vec()
    }

    fn sign_asn1(self, bytes: &[u8]) -> Vec<u8> {
        self.pair().asn1.sign(&SystemRandom::new(), bytes).unwrap().as_ref().to_vec()
    }

    fn pair(self) -> &'static Pair {
        &KEYS[self as usize]
    }
}

/// A certificate to be.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) subject: &'static str,
    pub(crate) issuer: &'static str,
    pub(crate) key: Key,
    pub(crate) signer: Key,
    pub(crate) serial: u8,
    /// `YYMMDD`.
    pub(crate) from: &'static str,
    pub(crate) until: &'static str,
    pub(crate) is_ca: bool,
    /// Object identifier, critical, value.
    pub(crate) extensions: Vec<(&'static str, bool, Vec<u8>)>,
}

impl Certificate {
    pub(crate) fn der(&self) -> Vec<u8> {
        let algorithm = [oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")].concat();
        let mut extensions = vec![(KEY_USAGE, true, tlv(0x03, &[1, 0x86]))];
        if self.is_ca {
            extensions.push((BASIC_CONSTRAINTS, true, tlv(0x30, &tlv(0x01, &[0xFF]))));
        }
        extensions.extend(self.extensions.iter().cloned());
        let extensions: Vec<_> = extensions.iter().flat_map(extension).collect();
        let fields = [
            tlv(0xA0, &tlv(0x02, &[2])),
            tlv(0x02, &[self.serial]),
            ecdsa(),
            name(self.issuer),
            tlv(0x30, &[utc(self.from), utc(self.until)].concat()),
            name(self.subject),
            tlv(0x30, &[tlv(0x30, &algorithm), bits(&self.key.point())].concat()),
            tlv(0xA3, &tlv(0x30, &extensions)),
        ];
        signed(&fields.concat(), self.signer)
    }

    pub(crate) fn pem(&self) -> String {
        encode_string("CERTIFICATE", LineEnding::LF, &self.der()).unwrap()
    }
}

/// A revocation list to be.
#[derive(Clone)]
pub(crate) struct RevocationList {
    pub(crate) issuer: &'static str,
    pub(crate) signer: Key,
    pub(crate) this_update: &'static str,
    pub(crate) next_update: &'static str,
    pub(crate) serials: Vec<u8>,
}

impl RevocationList {
    pub(crate) fn der(&self) -> Vec<u8> {
        let entry =
            |serial: &u8| tlv(0x30, &[tlv(0x02, &[*serial]), utc(self.this_update)].concat());
        let mut fields = vec![
            tlv(0x02, &[1]),
            ecdsa(),
            name(self.issuer),
            utc(self.this_update),
            utc(self.next_update),
        ];
        if !self.serials.is_empty() {
            fields.push(tlv(0x30, &self.serials.iter().flat_map(entry).collect::<Vec<_>>()));
        }
        let number = extension(&(CRL_NUMBER, false, integer(1)));
        fields.push(tlv(0xA0, &tlv(0x30, &number)));
        signed(&fields.concat(), self.signer)
    }
}

/// What Intel says of a platform, in its certificate.
#[derive(Clone)]
pub(crate) struct Platform {
    pub(crate) ppid: Vec<u8>,
    pub(crate) cpu_svn: [u8; 16],
    pub(crate) pce_svn: u8,
    pub(crate) fmspc: [u8; 6],
    /// Dynamic platform, cached keys, SMT.
    pub(crate) flags: [bool; 3],
}

impl Platform {
    /// The extension of a PCK certificate (Intel's "SGX PCK Certificate and CRL Profile
    /// Specification", section 1.3.5).
    pub(crate) fn extension(&self) -> (&'static str, bool, Vec<u8>) {
        let pair = |id: &str, value: Vec<u8>| tlv(0x30, &[oid(&sgx(id)), value].concat());
        let tcb = [pair(".2.17", integer(self.pce_svn)), pair(".2.18", tlv(0x04, &self.cpu_svn))];
        let flag = |set: bool| tlv(0x01, &[if set { 0xFF } else { 0 }]);
        let [dynamic, cached, smt] = self.flags.map(flag);
        let configuration = [pair(".7.1", dynamic), pair(".7.2", cached), pair(".7.3", smt)];
        let all = [
            pair(".1", tlv(0x04, &self.ppid)),
            pair(".2", tlv(0x30, &tcb.concat())),
            pair(".3", tlv(0x04, &[0, 0])),
            pair(".4", tlv(0x04, &self.fmspc)),
            pair(".5", tlv(0x0A, &[1])),
            pair(".6", tlv(0x04, &[0x66; 16])),
            pair(".7", tlv(0x30, &configuration.concat())),
        ];
        (SGX_EXTENSION, false, tlv(0x30, &all.concat()))
    }
}

fn signed(fields: &[u8], signer: Key) -> Vec<u8> {
    let tbs = tlv(0x30, fields);
    let signature = signer.sign_asn1(&tbs);
    tlv(0x30, &[tbs, ecdsa(), bits(&signature)].concat())
}

/// ECDSA with SHA-256.
fn ecdsa() -> Vec<u8> {
    tlv(0x30, &oid("1.2.840.10045.4.3.2"))
}

fn sgx(suffix: &str) -> String {
    format!("{SGX_EXTENSION}{suffix}")
}

const SGX_EXTENSION: &str = "1.2.840.113741.1.13.1";
const KEY_USAGE: &str = "2.5.29.15";
const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const CRL_NUMBER: &str = "2.5.29.20";
