//! The envelope.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use evanesce_protocol::Digest;
use evanesce_protocol::evidence::{Binding, RawEvidence, RuntimeConfiguration, provider};
use evanesce_protocol::limits::EVIDENCE_CONFIGURATION_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::cert_table::vek_of_auxblob;

/// Bytes in an envelope that is read. The longest that is expected, a TDX quote with collateral,
/// has about 70 KiB.
pub const ENVELOPE_BYTES_MAX: usize = 1024 * 1024;

/// Evidence, what it binds, and what there is to check it by. None of it is checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceEnvelope {
    /// What REPORT_DATA stands for.
    pub binding: Binding,
    /// The text whose digest is bound as the runtime configuration.
    pub configuration: String,
    /// What the machine gave.
    pub raw: RawEvidence,
    /// Certificates and collateral, whoever put them there.
    pub endorsements: Endorsements,
}

/// The kind of machine that evidence says it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// No machine.
    InsecureSoftware,
}

/// What there is to check evidence by. Never a root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endorsements {
    /// For a SEV-SNP report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snp: Option<SnpEndorsements>,
    /// For a TDX quote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<TdxEndorsements>,
}

/// What there is to check a SEV-SNP report by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpEndorsements {
    /// The VCEK or VLEK certificate, DER.
    #[serde(default, with = "base64_option", skip_serializing_if = "Option::is_none")]
    pub vek: Option<Vec<u8>>,
    /// The revocation list of the product's root, DER.
    #[serde(default, with = "base64_option", skip_serializing_if = "Option::is_none")]
    pub crl: Option<Vec<u8>>,
}

/// What there is to check a TDX quote by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxEndorsements {
    /// JSON as DCAP's tools write it, as text: what is signed in it is signed as it is spelled.
    pub collateral: String,
}

/// The text of a configuration, whose digest is bound.
pub fn configuration_text(configuration: &RuntimeConfiguration) -> String {
    serde_json::to_string(configuration).expect("a configuration is plain data")
}

impl EvidenceEnvelope {
    /// Reads an envelope.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`] where it is no envelope of this version, or not whole.
    pub fn from_json(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(EnvelopeError::TooLong { found: bytes.len() });
        }
        let record: Record = serde_json::from_slice(bytes).map_err(EnvelopeError::Parse)?;
        Self::of_record(record)
    }

    /// One line of JSON, without a newline.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.to_record()).expect("an envelope is plain data")
    }

    /// The same without endorsements, which anybody can add again.
    pub fn without_endorsements(&self) -> Self {
        Self { endorsements: Endorsements::default(), ..self.clone() }
    }

    /// How receipts and results name this evidence; see [`RawEvidence::digest`].
    pub fn digest(&self) -> Digest {
        self.raw.digest(&self.binding)
    }

    /// The kind of machine, by the provider's name.
    pub fn kind(&self) -> Kind {
        match self.raw.provider.as_str() {
            provider::SNP => Kind::Snp,
            provider::TDX => Kind::Tdx,
            _ => Kind::InsecureSoftware,
        }
    }

    /// The VCEK or VLEK certificate: an endorsement, or what came with the report.
    pub fn vek(&self) -> Option<&[u8]> {
        let endorsed = self.endorsements.snp.as_ref().and_then(|snp| snp.vek.as_deref());
        endorsed.or_else(|| self.raw.auxblob.as_deref().and_then(vek_of_auxblob))
    }

    /// The revocation list for it.
    pub fn crl(&self) -> Option<&[u8]> {
        self.endorsements.snp.as_ref().and_then(|snp| snp.crl.as_deref())
    }

    /// The collateral of a quote.
    pub fn collateral(&self) -> Option<&[u8]> {
        self.endorsements.tdx.as_ref().map(|tdx| tdx.collateral.as_bytes())
    }

    fn of_record(record: Record) -> Result<Self, EnvelopeError> {
        let Record { v, binding, configuration, cmw: (cmw_type, value, indicator), endorsements } =
            record;
        if v != VERSION {
            return Err(EnvelopeError::Version { found: v });
        }
        if configuration.len() > EVIDENCE_CONFIGURATION_BYTES_MAX
            || Digest::of(configuration.as_bytes()) != binding.configuration
        {
            return Err(EnvelopeError::Configuration);
        }
        let value = Base64UrlUnpadded::decode_vec(&value)
            .map_err(|_| EnvelopeError::Evidence { found: "no base64url".to_owned() })?;
        let report: TsmReport = serde_json::from_slice(&value).map_err(EnvelopeError::Parse)?;
        let wanted_type = media_type(&report.provider)
            .ok_or_else(|| EnvelopeError::Evidence { found: report.provider.clone() })?;
        if cmw_type != wanted_type || indicator != CMW_EVIDENCE {
            return Err(EnvelopeError::Evidence { found: cmw_type });
        }
        let raw = RawEvidence {
            provider: report.provider,
            outblob: report.outblob,
            auxblob: report.auxblob.filter(|blob| !blob.is_empty()),
        };
        if !raw.is_within_limits() {
            return Err(EnvelopeError::TooLong { found: raw.outblob.len() });
        }
        Ok(Self { binding, configuration, raw, endorsements })
    }

    fn to_record(&self) -> Record {
        let report = TsmReport {
            provider: self.raw.provider.clone(),
            outblob: self.raw.outblob.clone(),
            auxblob: self.raw.auxblob.clone(),
        };
        let value = serde_json::to_vec(&report).expect("a report is plain data");
        let cmw_type = media_type(&self.raw.provider).unwrap_or(TSM_REPORT);
        Record {
            v: VERSION,
            binding: self.binding.clone(),
            configuration: self.configuration.clone(),
            cmw: (cmw_type.to_owned(), Base64UrlUnpadded::encode_string(&value), CMW_EVIDENCE),
            endorsements: self.endorsements.clone(),
        }
    }
}

impl Serialize for EvidenceEnvelope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_record().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EvidenceEnvelope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of_record(Record::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Why a text is not an evidence envelope.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// More than [`ENVELOPE_BYTES_MAX`], or a part of it longer than any.
    #[error(
        "evidence has at most {ENVELOPE_BYTES_MAX} bytes in all and each part a limit; found {found}"
    )]
    TooLong {
        /// Bytes found.
        found: usize,
    },
    /// Not JSON, or members are missing, unknown or malformed.
    #[error("the text is not an evidence envelope")]
    Parse(#[source] serde_json::Error),
    /// Another version of the format.
    #[error("an evidence envelope has version {VERSION}, this one has {found}")]
    Version {
        /// The version in the text.
        found: u32,
    },
    /// The configuration is not the one that is bound.
    #[error("the runtime configuration in the envelope is not the one that the evidence binds")]
    Configuration,
    /// The wrapped evidence is of another type, or of a provider that is not known here.
    #[error("the envelope wraps no evidence that is known here: {found:?}")]
    Evidence {
        /// Its type or provider.
        found: String,
    },
}

impl EnvelopeError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "evidence.too-long",
            Self::Parse(_) => "evidence.parse",
            Self::Version { .. } => "evidence.version",
            Self::Configuration => "evidence.configuration",
            Self::Evidence { .. } => "evidence.kind",
        }
    }
}

/// The text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    v: u32,
    binding: Binding,
    configuration: String,
    /// A conceptual message wrapper (RFC 9999) in its form as a JSON array.
    cmw: (String, String, u32),
    #[serde(default, skip_serializing_if = "is_none")]
    endorsements: Endorsements,
}

/// `application/vnd.veraison.tsm-report+json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TsmReport {
    provider: String,
    #[serde(with = "base64")]
    outblob: Vec<u8>,
    #[serde(default, with = "base64_option", skip_serializing_if = "Option::is_none")]
    auxblob: Option<Vec<u8>>,
}

fn is_none(endorsements: &Endorsements) -> bool {
    endorsements == &Endorsements::default()
}

fn media_type(provider: &str) -> Option<&'static str> {
    match provider {
        provider::SNP | provider::TDX => Some(TSM_REPORT),
        provider::INSECURE_SOFTWARE => Some(INSECURE_SOFTWARE),
        _ => None,
    }
}

/// Bytes as base64url without padding (RFC 4648, section 5).
mod base64 {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Base64UrlUnpadded::encode_string(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Base64UrlUnpadded::decode_vec(&text)
            .map_err(|_| de::Error::custom("not unpadded base64url"))
    }
}

/// The same where there may be none.
mod base64_option {
    use serde::{Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde gives the field as it is")]
    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => super::base64::serialize(bytes, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        super::base64::deserialize(deserializer).map(Some)
    }
}

const VERSION: u32 = 1;

/// The bit of a conceptual message wrapper that says: evidence.
const CMW_EVIDENCE: u32 = 4;

const TSM_REPORT: &str = "application/vnd.veraison.tsm-report+json";
const INSECURE_SOFTWARE: &str = "application/vnd.evanesce.insecure-software+json";

#[cfg(test)]
mod tests {
    use evanesce_protocol::evidence::{Nonce, NotaryPoint, Subject};
    use evanesce_protocol::{KeyOrigin, KeyUse, PublicKey};
    use proptest::prelude::*;

    use super::*;

    fn envelope() -> EvidenceEnvelope {
        let configuration = configuration_text(&RuntimeConfiguration {
            version: "0.1.0".to_owned(),
            workload: Some("w-1".parse().unwrap()),
            origin: Some(KeyOrigin::BornInside),
            key_use: Some(KeyUse::Message),
            grants: vec!["sshsig".to_owned()],
            signatures_max: Some(7),
            ttl_ms: Some(600_000),
            degraded: Vec::new(),
        });
        EvidenceEnvelope {
            binding: Binding {
                subject: Subject::SigningIdentity { public_key: PublicKey::from_bytes([2; 32]) },
                nonce: Nonce::from_bytes([1; 32]),
                notary: NotaryPoint::from_bytes([5; 65]),
                signer: Digest::from_bytes([3; 32]),
                worker: Digest::from_bytes([4; 32]),
                configuration: Digest::of(configuration.as_bytes()),
            },
            configuration,
            raw: RawEvidence {
                provider: "sev_guest".to_owned(),
                outblob: vec![7; 1184],
                auxblob: None,
            },
            endorsements: Endorsements {
                snp: Some(SnpEndorsements { vek: Some(vec![8; 20]), crl: None }),
                tdx: None,
            },
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_keeps_its_digest_without_endorsements() {
        let envelope = envelope();

        let read = EvidenceEnvelope::from_json(envelope.to_json().as_bytes()).unwrap();

        assert_eq!(read, envelope);
        assert_eq!(read.without_endorsements().digest(), envelope.digest());
        assert_eq!(read.vek(), Some(&[8; 20][..]));
    }

    #[test]
    fn a_configuration_that_is_not_bound_and_unknown_members_and_kinds_are_refused() {
        let text = envelope().to_json();
        let code = |text: &str| EvidenceEnvelope::from_json(text.as_bytes()).unwrap_err().code();

        assert_eq!(code(&text.replace("600000", "600001")), "evidence.configuration");
        assert_eq!(code(&text.replacen("{\"v\":1", "{\"v\":2", 1)), "evidence.version");
        assert_eq!(code(&text.replacen("{\"v\":1", "{\"w\":1,\"v\":1", 1)), "evidence.parse");
        assert_eq!(code(&text.replace("tsm-report", "other")), "evidence.kind");
        assert_eq!(code(&text.replace(",4]", ",8]")), "evidence.kind");
        assert_eq!(code(&text.replace("signing-identity", "installation")), "evidence.parse");
        assert_eq!(code(&" ".repeat(ENVELOPE_BYTES_MAX + 1)), "evidence.too-long");
    }

    #[test]
    fn an_unknown_provider_is_refused() {
        let mut unknown = envelope();
        unknown.raw.provider = "arm_cca_guest".to_owned();

        let error = EvidenceEnvelope::from_json(unknown.to_json().as_bytes()).unwrap_err();

        assert_eq!(error.code(), "evidence.kind");
    }

    proptest! {
        #[test]
        fn an_envelope_with_one_changed_character_is_read_or_refused_without_a_panic(
            place in any::<prop::sample::Index>(),
            character in any::<char>(),
        ) {
            let mut text: Vec<char> = envelope().to_json().chars().collect();
            let place = place.index(text.len());
            text[place] = character;
            let text: String = text.into_iter().collect();
            if let Ok(read) = EvidenceEnvelope::from_json(text.as_bytes()) {
                let again = EvidenceEnvelope::from_json(read.to_json().as_bytes());
                prop_assert_eq!(again.unwrap(), read);
            }
        }
    }
}
