//! What a relying party accepts, in TOML.
//!
//! Every field is required and nothing is accepted by default: what a policy does not list is
//! refused. `docs/formats/appraisal-policy.md` has a page on each field.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use evanesce_protocol::Digest;
use evanesce_protocol::evidence::{NotaryPoint, Subject};
use serde::{Deserialize, Serialize};

use crate::snp::Product;

/// Bytes in a policy.
pub const POLICY_BYTES_MAX: usize = 256 * 1024;

/// The version of the format.
const VERSION: u32 = 1;

/// A policy that can accept something, and not everything. Made by [`Policy::from_toml`] and
/// [`crate::policy_from_evidence`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    version: u32,
    pub(crate) profile: Profile,
    pub(crate) report_data: ReportDataRule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snp: Option<SnpPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tdx: Option<TdxPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) evanesce: Option<EvanescePolicy>,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    ///
    /// Text that is not a policy of this version, one that could never accept anything, and one
    /// that would accept any machine, each with the field to look at.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::TooLong { found: text.len() });
        }
        let policy: Self = toml::from_str(text).map_err(|source| PolicyError::Parse { source })?;
        policy.reviewed()
    }

    /// The policy as [`Policy::from_toml`] reads it.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a policy has only tables, texts, numbers and lists")
    }

    /// The same for evidence of these purposes alone, where the policy asks what evidence binds.
    #[must_use]
    pub fn for_purposes(mut self, purposes: &[Purpose]) -> Self {
        if let Some(evanesce) = &mut self.evanesce {
            evanesce.purposes = purposes.to_vec();
        }
        self
    }

    /// What the policy asks and what it leaves open, a sentence each.
    pub fn explain(&self) -> Vec<String> {
        let mut sentences = vec![match self.profile {
            Profile::Production => "It is for production: roots are the vendors', and no debug guest is accepted.",
            Profile::Development => "It is for DEVELOPMENT: replaced roots and debug guests can be accepted. Do not rely on it.",
        }
        .to_owned()];
        sentences.push(match self.report_data {
            ReportDataRule::Compared => "REPORT_DATA has to be what you computed from nonce and key.",
            ReportDataRule::NotChecked => "REPORT_DATA is NOT compared unless you give what to expect: what is accepted may speak for another key.",
        }.to_owned());
        match &self.snp {
            Some(snp) => snp.explain(&mut sentences),
            None => sentences.push("No SEV-SNP machine is accepted.".to_owned()),
        }
        match &self.tdx {
            Some(tdx) => tdx.explain(&mut sentences),
            None => sentences.push("No TDX machine is accepted.".to_owned()),
        }
        match &self.evanesce {
            Some(evanesce) => evanesce.explain(&mut sentences),
            None => sentences.push(
                "No signer is accepted: without an [evanesce] section the policy judges machines, not keys."
                    .to_owned(),
            ),
        }
        sentences
    }

    /// What a person should know before relying on the policy: where it accepts about everything,
    /// or what one would not expect of it. Empty for one that is strict.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |is_open: bool, sentence: &str| {
            if is_open {
                warnings.push(sentence.to_owned());
            }
        };
        warn(
            self.profile == Profile::Development,
            "the policy is for development: it can accept replaced roots and debug guests; set profile = \"production\" before anything depends on it",
        );
        warn(
            self.report_data == ReportDataRule::NotChecked,
            "evidence of another key can be accepted: set report_data = \"compared\"",
        );
        if let Some(snp) = &self.snp {
            warn(
                snp.measurements.is_any(),
                "every SEV-SNP image is accepted: list what you built in snp.measurements",
            );
            warn(
                snp.chip_ids.is_any(),
                "every SEV-SNP chip is accepted, also one that an attacker holds in his hands: list yours in snp.chip_ids where you can",
            );
            warn(
                snp.tcb_min.values().any(TcbMin::is_lowest),
                "SEV-SNP firmware of any age is accepted, known flaws included: raise snp.tcb_min and snp.launch_tcb_min to what AMD's newest bulletins ask for",
            );
            warn(
                !snp.crl.required,
                "revoked SEV-SNP keys can be accepted: set snp.crl.required = true",
            );
            warn(
                snp.guest_policy_allowed.contains(&GuestRisk::Debug),
                "SEV-SNP guests whose host reads their memory are accepted: take \"debug\" out of snp.guest_policy_allowed",
            );
        }
        if let Some(tdx) = &self.tdx {
            warn(tdx.mrtd.is_any(), "every TDX image is accepted: list what you built in tdx.mrtd");
            warn(
                tdx.rtmr1.is_any() || tdx.rtmr2.is_any(),
                "every kernel or command line of a TD is accepted: MRTD covers the firmware alone, so list tdx.rtmr1 and tdx.rtmr2",
            );
            warn(
                tdx.platform_ids.is_any(),
                "every TDX platform is accepted, also one that an attacker holds in his hands: list yours in tdx.platform_ids where you can",
            );
            warn(
                tdx.tcb_statuses.iter().any(|status| status.starts_with("OutOfDate")),
                "TDX platforms with known flaws are accepted: take OutOfDate out of tdx.tcb_statuses",
            );
        }
        if let Some(evanesce) = &self.evanesce {
            warn(
                evanesce.workers.is_any() || evanesce.signers.is_any(),
                "every worker or signer is accepted: list yours in evanesce.workers and evanesce.signers",
            );
        }
        warnings
    }

    /// SHA-256 of [`Self::to_toml`]: how results name the policy. Comments and order do not count.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_toml().as_bytes())
    }

    pub(crate) fn new(
        snp: Option<SnpPolicy>,
        tdx: Option<TdxPolicy>,
        evanesce: Option<EvanescePolicy>,
    ) -> Self {
        Self {
            version: VERSION,
            profile: Profile::Production,
            report_data: ReportDataRule::Compared,
            snp,
            tdx,
            evanesce,
        }
    }

    /// The only way to a policy from outside: refuses what accepts nothing or everything.
    pub(crate) fn reviewed(self) -> Result<Self, PolicyError> {
        if self.version != VERSION {
            return Err(PolicyError::Version { found: self.version });
        }
        if self.snp.is_none() && self.tdx.is_none() {
            return Err(PolicyError::AcceptsNothing { field: "snp and tdx" });
        }
        if let Some(snp) = &self.snp {
            snp.review(self.profile)?;
        }
        if let Some(tdx) = &self.tdx {
            tdx.review(self.profile)?;
        }
        if let Some(evanesce) = &self.evanesce {
            evanesce.review(self.profile)?;
        }
        Ok(self)
    }
}

/// What the policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Profile {
    Production,
    Development,
}

/// Whether REPORT_DATA may go uncompared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ReportDataRule {
    /// The caller has to give what to compare with.
    Compared,
    /// Compared only if the caller gives something.
    NotChecked,
}

/// The word `"any"`, or a list of what is accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "the word \"any\", or a list of hexadecimal values of the right length"
)]
pub(crate) enum Allowed<T> {
    Any(Any),
    OneOf(Vec<T>),
}

/// The word `any`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Any {
    Any,
}

impl<T: PartialEq> Allowed<T> {
    pub(crate) fn one(value: T) -> Self {
        Self::OneOf(vec![value])
    }

    pub(crate) fn allows(&self, value: &T) -> bool {
        match self {
            Self::Any(_) => true,
            Self::OneOf(list) => list.contains(value),
        }
    }

    /// Whether the policy does not care.
    pub(crate) fn is_any(&self) -> bool {
        matches!(self, Self::Any(_))
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::OneOf(list) if list.is_empty())
    }
}

impl<T: fmt::Display> fmt::Display for Allowed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(_) => f.write_str("any"),
            Self::OneOf(list) => f.write_str(&one_of(list)),
        }
    }
}

/// `one of a, b`, or `a`.
pub(crate) fn one_of<T: fmt::Display>(list: &[T]) -> String {
    let texts: Vec<_> = list.iter().map(T::to_string).collect();
    match texts.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        many => format!("one of {}", many.join(", ")),
    }
}

/// A fixed number of bytes, in lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Hex<const BYTES: usize>(pub(crate) [u8; BYTES]);

impl<const BYTES: usize> fmt::Display for Hex<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl<const BYTES: usize> FromStr for Hex<BYTES> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; BYTES];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| format!("expected {} hexadecimal digits", 2 * BYTES))?;
        Ok(Self(bytes))
    }
}

impl<const BYTES: usize> TryFrom<String> for Hex<BYTES> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl<const BYTES: usize> From<Hex<BYTES>> for String {
    fn from(hex: Hex<BYTES>) -> Self {
        hex.to_string()
    }
}

/// What is accepted of what evidence binds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvanescePolicy {
    pub(crate) purposes: Vec<Purpose>,
    pub(crate) signers: Allowed<Digest>,
    pub(crate) workers: Allowed<Digest>,
    /// As the binding has them, `p256:HEX`.
    pub(crate) notaries: Allowed<NotaryPoint>,
    pub(crate) configurations: Allowed<Digest>,
}

/// What evidence is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Somebody is to release a key.
    KeyRelease,
    /// A key lives in a signer.
    SigningIdentity,
    /// It speaks for no workload's key.
    Installation,
}

impl Purpose {
    pub(crate) fn of(subject: &Subject) -> Self {
        match subject {
            Subject::KeyRelease { .. } => Self::KeyRelease,
            Subject::SigningIdentity { .. } => Self::SigningIdentity,
            Subject::Installation {} => Self::Installation,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyRelease => "key-release",
            Self::SigningIdentity => "signing-identity",
            Self::Installation => "installation",
        })
    }
}

impl FromStr for Purpose {
    type Err = ParsePurposeError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::KeyRelease, Self::SigningIdentity, Self::Installation];
        all.into_iter().find(|known| known.to_string() == text).ok_or(ParsePurposeError)
    }
}

/// A text that names no purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are `key-release`, `signing-identity` and `installation`")]
pub struct ParsePurposeError;

impl EvanescePolicy {
    fn review(&self, profile: Profile) -> Result<(), PolicyError> {
        let empty = [
            ("evanesce.purposes", self.purposes.is_empty()),
            ("evanesce.signers", self.signers.is_empty()),
            ("evanesce.workers", self.workers.is_empty()),
            ("evanesce.notaries", self.notaries.is_empty()),
            ("evanesce.configurations", self.configurations.is_empty()),
        ];
        if let Some((field, _)) = empty.into_iter().find(|(_, empty)| *empty) {
            return Err(PolicyError::AcceptsNothing { field });
        }
        let open = [
            ("evanesce.signers", self.signers.is_any()),
            ("evanesce.workers", self.workers.is_any()),
        ];
        match open.into_iter().find(|(_, any)| *any) {
            Some((field, _)) if profile == Profile::Production => {
                Err(PolicyError::AcceptsEverySigner { field })
            }
            _ => Ok(()),
        }
    }

    fn explain(&self, sentences: &mut Vec<String>) {
        sentences.push(format!("Signers: evidence for {}.", one_of(&self.purposes)));
        sentences.push(format!("Signers: module {}.", self.signers));
        sentences.push(format!("Signers: worker {}.", self.workers));
        sentences.push(format!("Signers: beside notary {}.", self.notaries));
        sentences.push(format!("Signers: with configuration {}.", self.configurations));
    }
}

/// What is accepted of SEV-SNP machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnpPolicy {
    pub(crate) products: Vec<Product>,
    pub(crate) report_versions: Vec<u32>,
    pub(crate) signing_keys: Vec<SigningKey>,
    pub(crate) csp_ids: Vec<String>,
    pub(crate) chip_ids: Allowed<Hex<64>>,
    pub(crate) measurements: Allowed<Hex<48>>,
    pub(crate) guest_svn_min: u32,
    pub(crate) family_ids: Allowed<Hex<16>>,
    pub(crate) image_ids: Allowed<Hex<16>>,
    pub(crate) host_data: Allowed<Hex<32>>,
    pub(crate) id_key_digests: Allowed<Hex<48>>,
    pub(crate) author_key_digests: Allowed<Hex<48>>,
    pub(crate) vmpls: Vec<u32>,
    /// `MAJOR.MINOR` of the ABI in the guest's policy.
    pub(crate) guest_policy_abi_min: [u8; 2],
    pub(crate) guest_policy_allowed: Vec<GuestRisk>,
    pub(crate) guest_policy_required: Vec<GuestGuard>,
    pub(crate) platform_allowed: Vec<PlatformRisk>,
    pub(crate) platform_required: Vec<PlatformGuard>,
    pub(crate) provisional_firmware_allowed: bool,
    /// Major, minor and build.
    pub(crate) firmware_min: [u8; 3],
    /// Bits that have to be set in both mitigation vectors; 0 asks for none.
    pub(crate) mitigations: u64,
    pub(crate) crl: CrlPolicy,
    pub(crate) tcb_min: BTreeMap<Product, TcbMin>,
    pub(crate) launch_tcb_min: BTreeMap<Product, TcbMin>,
}

/// What is asked of revocation lists.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CrlPolicy {
    pub(crate) required: bool,
    pub(crate) age_hours_max: u32,
}

/// The lowest security version of each part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TcbMin {
    /// Turin alone has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fmc: Option<u8>,
    pub(crate) bootloader: u8,
    pub(crate) tee: u8,
    pub(crate) snp: u8,
    pub(crate) microcode: u8,
}

impl TcbMin {
    /// Whether it asks for nothing.
    fn is_lowest(&self) -> bool {
        let Self { fmc, bootloader, tee, snp, microcode } = *self;
        [fmc.unwrap_or_default(), bootloader, tee, snp, microcode] == [0; 5]
    }
}

/// Whose key signed the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SigningKey {
    /// The chip's own.
    Vcek,
    /// The provider's, loaded into the chip.
    Vlek,
}

impl fmt::Display for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
        })
    }
}

/// A bit of the guest's policy that opens something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GuestRisk {
    Smt,
    Migration,
    Debug,
    Cxl,
}

/// A bit of the guest's policy that closes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GuestGuard {
    SingleSocket,
    #[serde(rename = "aes-256-xts")]
    Aes256Xts,
    RaplDisabled,
    CiphertextHiding,
    PageSwapDisabled,
}

/// A fact of the platform that opens something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PlatformRisk {
    Smt,
    Tio,
}

/// A fact of the platform that closes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PlatformGuard {
    Tsme,
    Ecc,
    RaplDisabled,
    CiphertextHiding,
    AliasCheck,
}

impl SnpPolicy {
    fn review(&self, profile: Profile) -> Result<(), PolicyError> {
        let empty = [
            ("snp.products", self.products.is_empty()),
            ("snp.report_versions", self.report_versions.is_empty()),
            ("snp.signing_keys", self.signing_keys.is_empty()),
            ("snp.chip_ids", self.chip_ids.is_empty()),
            ("snp.measurements", self.measurements.is_empty()),
            ("snp.family_ids", self.family_ids.is_empty()),
            ("snp.image_ids", self.image_ids.is_empty()),
            ("snp.host_data", self.host_data.is_empty()),
            ("snp.id_key_digests", self.id_key_digests.is_empty()),
            ("snp.author_key_digests", self.author_key_digests.is_empty()),
            ("snp.vmpls", self.vmpls.is_empty()),
            ("snp.csp_ids", self.signing_keys == [SigningKey::Vlek] && self.csp_ids.is_empty()),
        ];
        if let Some((field, _)) = empty.into_iter().find(|(_, empty)| *empty) {
            return Err(PolicyError::AcceptsNothing { field });
        }
        for product in &self.products {
            for (field, minima) in
                [("tcb_min", &self.tcb_min), ("launch_tcb_min", &self.launch_tcb_min)]
            {
                if !minima.contains_key(product) {
                    return Err(PolicyError::NoMinimum { field, product: *product });
                }
            }
        }
        if profile == Profile::Development {
            return Ok(());
        }
        if self.measurements.is_any() {
            return Err(PolicyError::AcceptsEverything { field: "snp.measurements" });
        }
        for (risk, name) in [(GuestRisk::Debug, "debug"), (GuestRisk::Migration, "migration")] {
            if self.guest_policy_allowed.contains(&risk) {
                return Err(PolicyError::NotForProduction {
                    field: "snp.guest_policy_allowed",
                    found: name,
                });
            }
        }
        Ok(())
    }

    fn explain(&self, sentences: &mut Vec<String>) {
        sentences.push(format!("SEV-SNP: product lines {}.", one_of(&self.products)));
        sentences.push(format!("SEV-SNP: launched images with measurement {}.", self.measurements));
        sentences.push(format!("SEV-SNP: reports signed with a {}.", one_of(&self.signing_keys)));
        if self.chip_ids.is_any() {
            sentences.push(
                "SEV-SNP: any chip, so also one whose owner can open it and read its keys."
                    .to_owned(),
            );
        }
        for (product, _) in self.tcb_min.iter().filter(|(_, minimum)| minimum.is_lowest()) {
            sentences.push(format!("SEV-SNP: {product} with firmware of any age."));
        }
        if !self.crl.required {
            sentences.push("SEV-SNP: revocation is NOT required to be checked.".to_owned());
        }
        if self.provisional_firmware_allowed {
            sentences.push("SEV-SNP: firmware that can be rolled back is accepted.".to_owned());
        }
        if !self.platform_required.contains(&PlatformGuard::AliasCheck) {
            sentences.push(
                "SEV-SNP: machines that never looked for aliased memory (BadRAM) are accepted."
                    .to_owned(),
            );
        }
        if self.guest_policy_allowed.contains(&GuestRisk::Debug) {
            sentences.push(
                "SEV-SNP: DEBUG guests are accepted; their host reads all of their memory."
                    .to_owned(),
            );
        }
        for (name, any) in [
            ("family id", self.family_ids.is_any()),
            ("image id", self.image_ids.is_any()),
            ("host data", self.host_data.is_any()),
            ("id key", self.id_key_digests.is_any()),
            ("author key", self.author_key_digests.is_any()),
        ] {
            if any {
                sentences.push(format!("SEV-SNP: any {name}."));
            }
        }
    }
}

/// What is accepted of TDX machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TdxPolicy {
    pub(crate) quote_versions: Vec<u16>,
    pub(crate) mrtd: Allowed<Hex<48>>,
    pub(crate) rtmr0: Allowed<Hex<48>>,
    pub(crate) rtmr1: Allowed<Hex<48>>,
    pub(crate) rtmr2: Allowed<Hex<48>>,
    pub(crate) rtmr3: Allowed<Hex<48>>,
    pub(crate) mrconfigid: Allowed<Hex<48>>,
    pub(crate) mrowner: Allowed<Hex<48>>,
    pub(crate) mrownerconfig: Allowed<Hex<48>>,
    pub(crate) mrseam: Allowed<Hex<48>>,
    pub(crate) platform_ids: Allowed<Hex<16>>,
    pub(crate) tcb_statuses: Vec<String>,
    pub(crate) advisories_denied: Vec<String>,
    pub(crate) tcb_evaluation_min: u32,
    pub(crate) dynamic_platform_allowed: bool,
    pub(crate) cached_keys_allowed: bool,
    pub(crate) smt_allowed: bool,
    pub(crate) td_attributes: Masked,
    pub(crate) xfam: Masked,
}

/// Bits that have to be as given, where the mask is one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Masked {
    /// As the bytes stand in the quote.
    pub(crate) value: Hex<8>,
    pub(crate) mask: Hex<8>,
}

impl Masked {
    pub(crate) fn exactly(value: [u8; 8]) -> Self {
        Self { value: Hex(value), mask: Hex([0xFF; 8]) }
    }

    pub(crate) fn allows(&self, found: [u8; 8]) -> bool {
        let bits = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        (bits(found) ^ bits(self.value.0)) & bits(self.mask.0) == 0
    }
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} where {} has ones", self.value, self.mask)
    }
}

/// The statuses that Intel gives; a policy may list only these.
const TCB_STATUSES: &[&str] = &[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
];

impl TdxPolicy {
    fn review(&self, profile: Profile) -> Result<(), PolicyError> {
        let empty = [
            ("tdx.quote_versions", self.quote_versions.is_empty()),
            ("tdx.mrtd", self.mrtd.is_empty()),
            ("tdx.rtmr0", self.rtmr0.is_empty()),
            ("tdx.rtmr1", self.rtmr1.is_empty()),
            ("tdx.rtmr2", self.rtmr2.is_empty()),
            ("tdx.rtmr3", self.rtmr3.is_empty()),
            ("tdx.mrconfigid", self.mrconfigid.is_empty()),
            ("tdx.mrowner", self.mrowner.is_empty()),
            ("tdx.mrownerconfig", self.mrownerconfig.is_empty()),
            ("tdx.mrseam", self.mrseam.is_empty()),
            ("tdx.platform_ids", self.platform_ids.is_empty()),
            ("tdx.tcb_statuses", self.tcb_statuses.is_empty()),
        ];
        if let Some((field, _)) = empty.into_iter().find(|(_, empty)| *empty) {
            return Err(PolicyError::AcceptsNothing { field });
        }
        let known = |status: &&String| !TCB_STATUSES.contains(&status.as_str());
        if let Some(status) = self.tcb_statuses.iter().find(known) {
            return Err(PolicyError::TcbStatus { found: status.clone() });
        }
        if profile == Profile::Production && self.mrtd.is_any() {
            return Err(PolicyError::AcceptsEverything { field: "tdx.mrtd" });
        }
        Ok(())
    }

    fn explain(&self, sentences: &mut Vec<String>) {
        sentences.push(format!("TDX: launched images with MRTD {}.", self.mrtd));
        sentences.push(format!("TDX: platforms with TCB status {}.", one_of(&self.tcb_statuses)));
        if self.platform_ids.is_any() {
            sentences.push(
                "TDX: any platform, so also one whose owner can open it and read its keys."
                    .to_owned(),
            );
        }
        for (name, any) in [
            ("RTMR 0 (firmware configuration)", self.rtmr0.is_any()),
            ("RTMR 1 (kernel)", self.rtmr1.is_any()),
            ("RTMR 2 (command line, initrd)", self.rtmr2.is_any()),
            ("RTMR 3", self.rtmr3.is_any()),
            ("MRCONFIGID", self.mrconfigid.is_any()),
            ("MROWNER", self.mrowner.is_any()),
            ("MROWNERCONFIG", self.mrownerconfig.is_any()),
            ("TDX module", self.mrseam.is_any()),
        ] {
            if any {
                sentences.push(format!("TDX: any {name}."));
            }
        }
    }
}

/// Why a text is not a policy to appraise by.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// More than [`POLICY_BYTES_MAX`].
    #[error("a policy has at most {POLICY_BYTES_MAX} bytes, this one has {found}")]
    TooLong {
        /// Bytes in the text.
        found: usize,
    },
    /// Not TOML, a field that is missing or unknown, or a value of the wrong form.
    #[error("the text is not a policy")]
    Parse {
        /// Line, column and field.
        #[source]
        source: toml::de::Error,
    },
    /// Another version of the format.
    #[error("a policy has version {VERSION}, this one has {found}")]
    Version {
        /// The version in the text.
        found: u32,
    },
    /// An empty list: no evidence could ever pass.
    #[error("the policy accepts nothing, because it lists nothing in {field}")]
    AcceptsNothing {
        /// The empty field.
        field: &'static str,
    },
    /// `"any"` where only a list says which software is meant.
    #[error("the policy accepts every image, because {field} is \"any\"; list the measurements")]
    AcceptsEverything {
        /// The open field.
        field: &'static str,
    },
    /// `"any"` where only a list says which signer is meant.
    #[error("the policy accepts every signer, because {field} is \"any\"; list the digests")]
    AcceptsEverySigner {
        /// The open field.
        field: &'static str,
    },
    /// Something that only a development policy may accept.
    #[error("a production policy may not list \"{found}\" in {field}")]
    NotForProduction {
        /// The field.
        field: &'static str,
        /// What it lists.
        found: &'static str,
    },
    /// A product line is accepted without saying from which TCB on.
    #[error("the policy lists {product} but has no [snp.{field}.{product}]")]
    NoMinimum {
        /// `tcb_min` or `launch_tcb_min`.
        field: &'static str,
        /// The product line.
        product: Product,
    },
    /// A TCB status that Intel does not give, or that cannot be accepted.
    #[error("{found:?} is not a TCB status that can be accepted")]
    TcbStatus {
        /// The text in the list.
        found: String,
    },
}

impl PolicyError {
    /// A stable name for `--json` and alerts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "appraisal.policy-too-long",
            Self::Parse { .. } => "appraisal.policy-parse",
            Self::Version { .. } => "appraisal.policy-version",
            Self::AcceptsNothing { .. } => "appraisal.policy-accepts-nothing",
            Self::AcceptsEverything { .. } => "appraisal.policy-accepts-everything",
            Self::AcceptsEverySigner { .. } => "appraisal.policy-accepts-every-signer",
            Self::NotForProduction { .. } => "appraisal.policy-not-for-production",
            Self::NoMinimum { .. } => "appraisal.policy-no-minimum",
            Self::TcbStatus { .. } => "appraisal.policy-tcb-status",
        }
    }
}
