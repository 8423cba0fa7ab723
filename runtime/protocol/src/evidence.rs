//! What evidence of a confidential machine binds, and how a launcher has it collected.
//!
//! A report or quote has 64 bytes that its guest chooses. [`Binding::report_data`] says which:
//! a digest of everything that a relying party has to know of the key. Both sides compute it with
//! this module. It does no I/O. `docs/formats/evidence.md` describes the bytes.
//!
//! [`AttesterOrder`] and [`AttesterReport`] are what a launcher and its attester say to each other:
//! one order, one report, then the attester ends.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use crate::ids::{Digest, KeyOrigin, KeyUse, PublicKey, WorkloadId};
use crate::limits::{
    EVIDENCE_AUXBLOB_BYTES_MAX, EVIDENCE_OUTBLOB_BYTES_MAX, EVIDENCE_PROVIDER_BYTES_MAX,
};

/// Bytes that a guest puts into a report or quote.
pub const REPORT_DATA_BYTES: usize = 64;

/// What the 64 bytes of a report or quote stand for.
///
/// The purpose is part of it, so that evidence that was made to get a key released can never be
/// shown as the identity of a signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// What the evidence is for, and the keys that this purpose has.
    pub subject: Subject,
    /// Chosen by the relying party, or tied to a moment that can be known afterwards.
    pub nonce: Nonce,
    /// The notary that certifies keys and signs receipts beside the signer.
    pub notary: NotaryPoint,
    /// SHA-256 of `signer.wasm`.
    pub signer: Digest,
    /// SHA-256 of the worker's file.
    pub worker: Digest,
    /// SHA-256 of the runtime configuration, a text that travels beside the evidence.
    pub configuration: Digest,
}

/// What evidence is for, and the keys that this purpose has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "purpose", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Subject {
    /// Somebody is to encrypt a key to the release key.
    KeyRelease {
        /// The public half of the key that is to be released.
        public_key: PublicKey,
        /// Whom to encrypt to.
        release_key: ReleaseKey,
    },
    /// A key lives in this signer.
    SigningIdentity {
        /// Its public half.
        public_key: PublicKey,
    },
    /// This installation runs here; it speaks for no workload's key.
    Installation {},
}

impl Subject {
    /// The purpose as one byte of what is hashed. A number is never reused.
    const fn number(self) -> u8 {
        match self {
            Self::KeyRelease { .. } => 1,
            Self::SigningIdentity { .. } => 2,
            Self::Installation {} => 3,
        }
    }

    /// The purpose's name, as policies list it.
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::KeyRelease { .. } => "key-release",
            Self::SigningIdentity { .. } => "signing-identity",
            Self::Installation {} => "installation",
        }
    }

    /// The workload's key, where the purpose has one.
    pub const fn public_key(&self) -> Option<&PublicKey> {
        match self {
            Self::KeyRelease { public_key, .. } | Self::SigningIdentity { public_key } => {
                Some(public_key)
            }
            Self::Installation {} => None,
        }
    }

    /// The key to encrypt to, where the purpose has one.
    pub const fn release_key(&self) -> Option<&ReleaseKey> {
        match self {
            Self::KeyRelease { release_key, .. } => Some(release_key),
            Self::SigningIdentity { .. } | Self::Installation {} => None,
        }
    }
}

impl Binding {
    /// The bytes that are hashed: the tag, the purpose, then each field behind its length in four
    /// bytes, big-endian. A field that the purpose does not have is empty.
    pub fn to_bytes(&self) -> Vec<u8> {
        let public_key = self.subject.public_key().map(PublicKey::as_bytes);
        let release_key = self.subject.release_key().map(ReleaseKey::as_bytes);
        let fields: [&[u8]; 7] = [
            self.nonce.as_bytes(),
            public_key.map_or(&[], |key| key),
            self.signer.as_bytes(),
            self.worker.as_bytes(),
            self.notary.as_bytes(),
            release_key.map_or(&[], |key| key),
            self.configuration.as_bytes(),
        ];
        let mut bytes = [BINDING_TAG, &[self.subject.number()]].concat();
        for field in fields {
            push(&mut bytes, field);
        }
        bytes
    }

    /// What REPORT_DATA has to be: the SHA-512 of [`Self::to_bytes`].
    pub fn report_data(&self) -> [u8; REPORT_DATA_BYTES] {
        Sha512::digest(self.to_bytes()).into()
    }
}

/// How a worker was to be used: the text behind the configuration's digest.
///
/// A verifier compares digests. This type is for who writes the text, for reading it, and for the
/// first program of a machine, which vouches for no other than the true one. The text is its JSON
/// without white space, members in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeConfiguration {
    /// The version of evanesce.
    pub version: String,
    /// The workload; none where evidence speaks for the installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadId>,
    /// Where the key came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<KeyOrigin>,
    /// What the key is bound to sign.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub key_use: Option<KeyUse>,
    /// What clients may have signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<String>,
    /// Signatures after which the key ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signatures_max: Option<u64>,
    /// Milliseconds after which the key ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Guarantees that the operator gave up by name, sorted.
    pub degraded: Vec<String>,
}

/// What a machine's firmware gave, as Linux hands it over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawEvidence {
    /// Who made it: [`provider::SNP`], [`provider::TDX`] or [`provider::INSECURE_SOFTWARE`].
    pub provider: String,
    /// The report or quote, at most [`EVIDENCE_OUTBLOB_BYTES_MAX`].
    pub outblob: Vec<u8>,
    /// Certificates that came along, at most [`EVIDENCE_AUXBLOB_BYTES_MAX`].
    pub auxblob: Option<Vec<u8>>,
}

impl RawEvidence {
    /// Whether each part is within its limit.
    pub fn is_within_limits(&self) -> bool {
        self.provider.len() <= EVIDENCE_PROVIDER_BYTES_MAX
            && self.outblob.len() <= EVIDENCE_OUTBLOB_BYTES_MAX
            && self.auxblob.as_ref().is_none_or(|blob| blob.len() <= EVIDENCE_AUXBLOB_BYTES_MAX)
    }

    /// Where REPORT_DATA stands in the outblob of a provider that is known here.
    ///
    /// A SEV-SNP report has it at 0x50, a quote of version 4 behind a header of 48 bytes and 520
    /// bytes of the TD report, a quote of version 5 behind six more bytes.
    pub fn report_data(&self) -> Option<&[u8; REPORT_DATA_BYTES]> {
        let offset = match self.provider.as_str() {
            provider::SNP => 0x50,
            provider::TDX => match self.outblob.get(..2)? {
                [4, 0] => 48 + 520,
                [5, 0] => 48 + 6 + 520,
                _ => return None,
            },
            provider::INSECURE_SOFTWARE => INSECURE_SOFTWARE_TAG.len() + 32,
            _ => return None,
        };
        self.outblob.get(offset..)?.first_chunk()
    }

    /// How receipts and results name this evidence: SHA-256 over a tag, the binding and each part,
    /// everything but the tag behind its length. Endorsements are not in it: who verifies may bring
    /// newer ones.
    pub fn digest(&self, binding: &Binding) -> Digest {
        let mut bytes = EVIDENCE_TAG.to_vec();
        push(&mut bytes, &binding.to_bytes());
        push(&mut bytes, self.provider.as_bytes());
        push(&mut bytes, &self.outblob);
        push(&mut bytes, self.auxblob.as_deref().unwrap_or_default());
        Digest::from_bytes(Sha256::digest(bytes).into())
    }
}

/// Names of providers, as the kernel's `provider` attribute has them.
pub mod provider {
    /// AMD SEV-SNP.
    pub const SNP: &str = "sev_guest";
    /// Intel TDX.
    pub const TDX: &str = "tdx_guest";
    /// No machine at all: for development.
    pub const INSECURE_SOFTWARE: &str = "insecure_software";
}

/// What the outblob of insecure software evidence starts with; then come 32 bytes of a public key
/// (Ed25519), 64 bytes of REPORT_DATA, and 64 bytes of that key's signature over all before it.
pub const INSECURE_SOFTWARE_TAG: &[u8] = b"evanesce/insecure-software-evidence/v1\0";

/// An order to an attester.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttesterOrder {
    /// Have the machine sign 64 bytes.
    Collect {
        /// The 64 bytes.
        report_data: Vec<u8>,
        /// Where the kernel's reports are made, instead of the place where Linux has them.
        tsm_root: Option<String>,
        /// What may give evidence.
        source: EvidenceSource,
    },
}

/// What may give evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvidenceSource {
    /// The machine: configfs-tsm, else `/dev/sev-guest`, else nothing.
    #[default]
    Machine,
    /// A key of the attester's own, made for this once. Proves nothing; only attesters built for
    /// tests do it.
    InsecureSoftware,
}

/// A report of an attester.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttesterReport {
    /// What the machine gave. The 64 bytes were looked for in it.
    Collected(RawEvidence),
    /// There is no evidence.
    Refused(CollectError),
}

/// Why there is no evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// Neither way to evidence is there.
    #[error("this machine gives no evidence: {configfs}; {device}")]
    NoProvider {
        /// What was found of configfs-tsm.
        configfs: String,
        /// What was found of `/dev/sev-guest`.
        device: String,
    },
    /// A provider that is not known here.
    #[error("the kernel's provider of evidence is {found:?}, which is not known here")]
    UnknownProvider {
        /// Its name, cut to what is sensible.
        found: String,
    },
    /// This attester cannot make insecure evidence.
    #[error("this build makes no insecure software evidence")]
    NoSoftware,
    /// The kernel refused a step.
    #[error("{step} failed ({reason})")]
    Io {
        /// What was done.
        step: String,
        /// What the kernel or the firmware said.
        reason: String,
    },
    /// The report was changed by somebody else while it was made.
    #[error("the report was written {found} times, and once by us: somebody else uses it as well")]
    Generation {
        /// What the kernel counted.
        found: u64,
    },
    /// What came back is not about what was asked.
    #[error("the machine signed other bytes than it was given")]
    ReportData,
    /// More bytes than any report has.
    #[error("{what} has more than {limit_bytes} bytes")]
    TooLong {
        /// Which part.
        what: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// An order that is none.
    #[error("the launcher's order makes no sense to the attester")]
    Order,
    /// The machine was asked to vouch for something that is not so.
    #[error("the worker's machine does not vouch for {what}")]
    Untrue {
        /// What is not so.
        what: String,
    },
}

impl CollectError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoProvider { .. } => "attest.no-provider",
            Self::UnknownProvider { .. } => "attest.unknown-provider",
            Self::NoSoftware => "attest.no-software",
            Self::Io { .. } => "attest.io",
            Self::Generation { .. } => "attest.generation",
            Self::ReportData => "attest.report-data",
            Self::TooLong { .. } => "attest.too-long",
            Self::Order => "attest.order",
            Self::Untrue { .. } => "attest.untrue",
        }
    }
}

/// Declares a newtype over bytes that are printed as a prefix and lower-case hexadecimal digits.
macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident $bytes:literal $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Bytes in it.
            pub const BYTES: usize = $bytes;

            /// Takes the bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseHexError;

            /// Reads exactly what [`fmt::Display`] writes.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let wrong = ParseHexError { prefix: $prefix, digits: 2 * $bytes };
                let digits = text.strip_prefix($prefix).ok_or(wrong)?;
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(digits, &mut bytes).map_err(|_| wrong)?;
                match digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
                    true => Err(wrong),
                    false => Ok(Self(bytes)),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseHexError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

hex_bytes! {
    /// What makes evidence fresh: 32 bytes, printed as 64 lower-case hexadecimal digits.
    Nonce 32 ""
}

hex_bytes! {
    /// The notary's public key: an uncompressed point of P-256 (SEC 1, section 2.3.3), printed as
    /// `p256:` and 130 lower-case hexadecimal digits.
    NotaryPoint 65 "p256:"
}

hex_bytes! {
    /// The public key that a key is released to (X25519, RFC 7748), printed as `x25519:` and 64
    /// lower-case hexadecimal digits.
    ReleaseKey 32 "x25519:"
}

/// A text that is not the one printed form of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {prefix:?} and {digits} lower-case hexadecimal digits")]
pub struct ParseHexError {
    prefix: &'static str,
    digits: usize,
}

fn push(bytes: &mut Vec<u8>, field: &[u8]) {
    let length = u32::try_from(field.len()).expect("every field has a limit far below 4 GiB");
    bytes.extend(length.to_be_bytes());
    bytes.extend(field);
}

const BINDING_TAG: &[u8] = b"evanesce/attest/v1\0";
const EVIDENCE_TAG: &[u8] = b"evanesce/evidence/v1\0";

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Binding {
        Binding {
            subject: Subject::KeyRelease {
                public_key: PublicKey::from_bytes([2; 32]),
                release_key: ReleaseKey::from_bytes([6; 32]),
            },
            nonce: Nonce::from_bytes([1; 32]),
            notary: NotaryPoint::from_bytes([5; 65]),
            signer: Digest::from_bytes([3; 32]),
            worker: Digest::from_bytes([4; 32]),
            configuration: Digest::from_bytes([7; 32]),
        }
    }

    /// Computed with Python's hashlib from the description in `docs/formats/evidence.md`.
    #[test]
    fn report_data_is_the_sha_512_that_the_format_describes() {
        assert_eq!(hex::encode(binding().report_data()), KNOWN_REPORT_DATA);
    }

    const KNOWN_REPORT_DATA: &str = "\
        8c378c47d06be401d1ac3f466d9fb9ee17b26de3a2c9d11c2b1299ed947fab42\
        a7eb569c5ae3a896051f8f2e87b84187d6f841dcca439ea14e60221cb5f256e9";

    #[test]
    fn every_part_of_a_binding_changes_its_report_data() {
        let mut seen = vec![binding().report_data()];
        let changes: [fn(&mut Binding); 9] = [
            |b| b.nonce = Nonce::from_bytes([9; 32]),
            |b| b.notary = NotaryPoint::from_bytes([9; 65]),
            |b| b.signer = Digest::from_bytes([9; 32]),
            |b| b.worker = Digest::from_bytes([9; 32]),
            |b| b.configuration = Digest::from_bytes([9; 32]),
            |b| b.subject = Subject::SigningIdentity { public_key: PublicKey::from_bytes([2; 32]) },
            |b| b.subject = Subject::Installation {},
            |b| {
                b.subject = Subject::KeyRelease {
                    public_key: PublicKey::from_bytes([9; 32]),
                    release_key: ReleaseKey::from_bytes([6; 32]),
                };
            },
            |b| {
                b.subject = Subject::KeyRelease {
                    public_key: PublicKey::from_bytes([2; 32]),
                    release_key: ReleaseKey::from_bytes([9; 32]),
                };
            },
        ];
        for change in changes {
            let mut changed = binding();
            change(&mut changed);
            assert!(!seen.contains(&changed.report_data()), "{changed:?}");
            seen.push(changed.report_data());
        }
    }

    #[test]
    fn a_digest_of_evidence_depends_on_each_part_and_its_borders() {
        let evidence = |provider: &str, outblob: &[u8], auxblob: Option<&[u8]>| {
            let (outblob, auxblob) = (outblob.to_vec(), auxblob.map(<[u8]>::to_vec));
            RawEvidence { provider: provider.to_owned(), outblob, auxblob }.digest(&binding())
        };
        let one = evidence("sev_guest", b"ab", Some(b"c"));

        for other in [
            evidence("tdx_guest", b"ab", Some(b"c")),
            evidence("sev_guest", b"a", Some(b"bc")),
            evidence("sev_guest", b"abc", None),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(evidence("x", b"a", None), evidence("x", b"a", Some(b"")));
    }

    #[test]
    fn report_data_is_found_where_each_provider_has_it() {
        for (provider, start, offset) in [
            (provider::SNP, &[3, 0][..], 0x50),
            (provider::TDX, &[4, 0], 568),
            (provider::TDX, &[5, 0], 574),
            (provider::INSECURE_SOFTWARE, &[], 71),
        ] {
            let mut outblob = vec![0; offset + 64];
            outblob[..start.len()].copy_from_slice(start);
            outblob[offset..].fill(7);
            let mut raw = RawEvidence { provider: provider.into(), outblob, auxblob: None };
            assert_eq!(raw.report_data(), Some(&[7; 64]), "{provider}");
            raw.outblob.pop();
            assert_eq!(raw.report_data(), None, "{provider}");
        }
    }

    #[test]
    fn printed_nonces_and_keys_parse_to_what_was_printed_and_nothing_else_does() {
        let point = NotaryPoint::from_bytes([0xAB; 65]);
        assert_eq!(point.to_string().parse(), Ok(point));
        point.to_string().to_uppercase().parse::<NotaryPoint>().unwrap_err();
        "00".repeat(31).parse::<Nonce>().unwrap_err();
        "AB".repeat(32).parse::<Nonce>().unwrap_err();
        "ab".repeat(32).parse::<ReleaseKey>().unwrap_err();
    }
}
