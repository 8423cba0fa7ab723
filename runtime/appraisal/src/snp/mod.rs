//! The checklist for SEV-SNP, over the report's own bytes.

mod certificate;
mod report;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

pub(crate) use certificate::Certificate;
use certificate::{RevocationList, VekFacts};
use report::{Firmware, Report, Tcb};

use crate::appraisal::{Checks, Claims, Tee, rfc3339};
use crate::endorsement::{EndorsementRequest, TcbParts, WantedError};
use crate::image::SnpImage;
use crate::policy::{
    Allowed, Any, CrlPolicy, GuestGuard, GuestRisk, Hex, PlatformGuard, PlatformRisk, SigningKey,
    SnpPolicy, TcbMin, one_of,
};
use crate::roots::{Roots, SnpRoots};
use crate::rules::{self, Rule};

/// A product line of AMD's, with roots of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Product {
    /// Zen 3: EPYC 7003.
    Milan,
    /// Zen 4: EPYC 9004 and 8004, Bergamo and Siena included.
    Genoa,
    /// Zen 5: EPYC 9005.
    Turin,
}

impl Product {
    /// The product line of a processor, by its family and model.
    fn of_cpuid([family, model, _stepping]: [u8; 3]) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0F) => Some(Self::Milan),
            (0x19, 0x10..=0x1F | 0xA0..=0xAF) => Some(Self::Genoa),
            (0x1A, 0x00..=0x11) => Some(Self::Turin),
            _ => None,
        }
    }

    /// The product line by the name that certificates give it.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        match name {
            "Milan" => Some(Self::Milan),
            "Genoa" => Some(Self::Genoa),
            "Turin" => Some(Self::Turin),
            _ => None,
        }
    }
}

impl FromStr for Product {
    type Err = UnknownProduct;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::of_name(text).ok_or(UnknownProduct)
    }
}

/// A text that names no product line that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected Milan, Genoa or Turin")]
pub struct UnknownProduct;

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What comes with a report; all of it is checked against the roots.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnpEndorsements<'a> {
    /// The VCEK or VLEK certificate in DER or PEM.
    pub vek: Option<&'a [u8]>,
    /// The revocation list of the product's root in DER or PEM.
    pub crl: Option<&'a [u8]>,
}

/// Appraises one report. Returns what it claims, if it could be read to its end.
pub(crate) fn appraise(
    checks: &mut Checks,
    bytes: &[u8],
    endorsements: SnpEndorsements<'_>,
    policy: &SnpPolicy,
    roots: &Roots,
    at: OffsetDateTime,
) -> Option<Claims> {
    let report = read(checks, bytes, policy)?;
    let vek = vek(checks, endorsements.vek, at)?;
    let product = chain(checks, &vek, endorsements.crl, policy, roots, at)?;

    let signed = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, vek.certificate.public_key())
        .verify(report.signed(), &report.signature())
        .is_ok();
    checks.check(
        rules::SNP_SIGNATURE,
        signed,
        "a signature by the certificate's key",
        match signed {
            true => "one",
            false => "another key's signature, or changed bytes",
        },
    );
    key(checks, report, &vek, policy);
    chip(checks, report, &vek, product, policy);
    tcb(checks, report, &vek.facts, product, policy);
    guest_policy(checks, report, policy);
    platform(checks, report, policy);
    guest(checks, report, policy);

    Some(Claims {
        tee: Tee::Snp,
        measurement: *report.measurement(),
        report_data: *report.report_data(),
        bound: false,
        binding: None,
    })
}

/// A policy that accepts this report and as little else as it can.
pub(crate) fn policy_of(bytes: &[u8], vek: &[u8]) -> Result<SnpPolicy, SnpPolicyError> {
    let report = Report::new(bytes).ok_or(SnpPolicyError::Length { found: bytes.len() })?;
    let certificate = Certificate::read(vek).map_err(|_| SnpPolicyError::Certificate)?;
    let facts = certificate.facts().ok_or(SnpPolicyError::Certificate)?;
    let (kind, product) = issuer(&certificate).ok_or(SnpPolicyError::Certificate)?;
    let tcb_min = |bytes| {
        let tcb = Tcb::read(product, bytes).ok_or(SnpPolicyError::Reserved)?;
        Ok(BTreeMap::from([(product, TcbMin::from(tcb))]))
    };
    let Firmware { major, minor, build } = report.committed_firmware();
    let set = |bits: u64, bit: u32| bits >> bit & 1 == 1;
    let [launch, current] = report.mitigations().unwrap_or_default();
    Ok(SnpPolicy {
        products: vec![product],
        report_versions: vec![report.version()],
        signing_keys: vec![kind],
        csp_ids: facts.csp_id.into_iter().collect(),
        chip_ids: match kind {
            SigningKey::Vcek => Allowed::one(Hex(*report.chip_id())),
            SigningKey::Vlek => Allowed::Any(Any::Any),
        },
        measurements: Allowed::one(Hex(*report.measurement())),
        guest_svn_min: report.guest_svn(),
        family_ids: Allowed::one(Hex(*report.family_id())),
        image_ids: Allowed::one(Hex(*report.image_id())),
        host_data: Allowed::one(Hex(*report.host_data())),
        id_key_digests: Allowed::one(Hex(*report.id_key_digest())),
        author_key_digests: Allowed::one(Hex(*report.author_key_digest())),
        vmpls: vec![report.vmpl()],
        guest_policy_abi_min: {
            let [minor, major, ..] = report.policy().to_le_bytes();
            [major, minor]
        },
        guest_policy_allowed: guest_risks(report.policy()),
        guest_policy_required: guest_guards(report.policy()),
        platform_allowed: PLATFORM_RISKS
            .iter()
            .filter_map(|(risk, bit, _)| set(report.platform_info(), *bit).then_some(*risk))
            .collect(),
        platform_required: PLATFORM_GUARDS
            .iter()
            .filter_map(|(guard, bit, _)| set(report.platform_info(), *bit).then_some(*guard))
            .collect(),
        provisional_firmware_allowed: report.committed_tcb() != report.current_tcb()
            || report.committed_firmware() != report.current_firmware(),
        firmware_min: [major, minor, build],
        mitigations: launch & current & i64::MAX.unsigned_abs(), // what a TOML integer holds
        crl: CrlPolicy { required: true, age_hours_max: CRL_AGE_HOURS_MAX },
        tcb_min: tcb_min(report.reported_tcb())?,
        launch_tcb_min: tcb_min(report.launch_tcb())?,
    })
}

/// A policy that accepts `image` on chips of these product lines, whatever firmware they run: nothing
/// is known of them.
pub(crate) fn policy_of_image(image: &SnpImage, products: &[Product]) -> SnpPolicy {
    let lowest = |product: &Product| {
        let fmc = (*product == Product::Turin).then_some(0);
        (*product, TcbMin { fmc, bootloader: 0, tee: 0, snp: 0, microcode: 0 })
    };
    let lowest: BTreeMap<_, _> = products.iter().map(lowest).collect();
    let policy = SnpPolicy {
        products: lowest.keys().copied().collect(),
        // Version 2 does not say on which processor it was made.
        report_versions: vec![3, 4, 5],
        signing_keys: vec![SigningKey::Vcek],
        csp_ids: Vec::new(),
        chip_ids: Allowed::Any(Any::Any),
        measurements: Allowed::OneOf(Vec::new()),
        guest_svn_min: 0,
        family_ids: Allowed::OneOf(Vec::new()),
        image_ids: Allowed::OneOf(Vec::new()),
        host_data: Allowed::OneOf(Vec::new()),
        id_key_digests: Allowed::OneOf(Vec::new()),
        author_key_digests: Allowed::OneOf(Vec::new()),
        vmpls: Vec::new(),
        guest_policy_abi_min: [0, 0],
        guest_policy_allowed: Vec::new(),
        guest_policy_required: Vec::new(),
        // A guest that may run beside another thread runs on platforms that have them.
        platform_allowed: match image.guest_policy >> 16 & 1 {
            0 => Vec::new(),
            _ => vec![PlatformRisk::Smt],
        },
        platform_required: vec![PlatformGuard::Ecc, PlatformGuard::AliasCheck],
        provisional_firmware_allowed: false,
        firmware_min: [0, 0, 0],
        mitigations: 0,
        crl: CrlPolicy { required: true, age_hours_max: CRL_AGE_HOURS_MAX },
        tcb_min: lowest.clone(),
        launch_tcb_min: lowest,
    };
    with_image(policy, image)
}

/// The same platforms, and of guests `image` alone, started without an ID block and without host
/// data: their fields are zero then.
pub(crate) fn with_image(platforms: SnpPolicy, image: &SnpImage) -> SnpPolicy {
    let [minor, major, ..] = image.guest_policy.to_le_bytes();
    SnpPolicy {
        measurements: Allowed::one(Hex(image.measurement)),
        guest_svn_min: 0,
        family_ids: Allowed::one(Hex([0; 16])),
        image_ids: Allowed::one(Hex([0; 16])),
        host_data: Allowed::one(Hex([0; 32])),
        id_key_digests: Allowed::one(Hex([0; 48])),
        author_key_digests: Allowed::one(Hex([0; 48])),
        vmpls: vec![0],
        guest_policy_abi_min: [major, minor],
        guest_policy_allowed: guest_risks(image.guest_policy),
        guest_policy_required: guest_guards(image.guest_policy),
        ..platforms
    }
}

/// The bits of a guest's policy that open something. Debug and migration are left out: the policy
/// then says no to such a guest.
fn guest_risks(policy: u64) -> Vec<GuestRisk> {
    [(GuestRisk::Smt, 16), (GuestRisk::Cxl, 21)]
        .into_iter()
        .filter_map(|(risk, bit)| (policy >> bit & 1 == 1).then_some(risk))
        .collect()
}

/// The bits of a guest's policy that close something.
fn guest_guards(policy: u64) -> Vec<GuestGuard> {
    GUEST_GUARDS
        .iter()
        .filter_map(|(guard, bit, _)| (policy >> bit & 1 == 1).then_some(*guard))
        .collect()
}

/// What a report has to be checked by.
pub(crate) fn wanted(
    bytes: &[u8],
    product: Option<Product>,
) -> Result<EndorsementRequest, WantedError> {
    let report = Report::new(bytes).ok_or(WantedError::Unreadable)?;
    let product = report.cpuid().and_then(|cpuid| Product::of_cpuid(*cpuid)).or(product);
    let product = product.ok_or(WantedError::Product)?;
    let Tcb { fmc, bootloader, tee, snp, microcode } =
        Tcb::read(product, report.reported_tcb()).ok_or(WantedError::Unreadable)?;
    let chip_id = report.chip_id();
    let hardware_id = match product {
        Product::Milan | Product::Genoa => &chip_id[..],
        Product::Turin => &chip_id[..8],
    };
    if report.signing_key() != 0 || hardware_id.iter().all(|byte| *byte == 0) {
        return Err(WantedError::Chip);
    }
    Ok(EndorsementRequest::Snp {
        product,
        hardware_id: hardware_id.to_vec(),
        tcb: TcbParts { fmc, bootloader, tee, snp, microcode },
    })
}

/// Why no policy can be made from a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnpPolicyError {
    /// The report has another length.
    #[error("a report has {} bytes, this one has {found}", report::REPORT_BYTES)]
    Length {
        /// Bytes that were given.
        found: usize,
    },
    /// The certificate cannot be read, or is not of a VCEK or VLEK of a known product line.
    #[error("the certificate is not of a VCEK or VLEK of a known product line")]
    Certificate,
    /// A TCB does not have the product's layout.
    #[error("a TCB of the report does not have the layout of the certificate's product")]
    Reserved,
}

/// A certificate that is of a VCEK or VLEK, whoever signed it.
struct Vek {
    certificate: Certificate,
    kind: SigningKey,
    /// By the issuer's name.
    product: Option<Product>,
    facts: VekFacts,
}

/// Reads the report as far as every later check needs it.
fn read<'a>(checks: &mut Checks, bytes: &'a [u8], policy: &SnpPolicy) -> Option<Report<'a>> {
    let report = Report::new(bytes);
    checks.check(
        rules::SNP_LENGTH,
        report.is_some(),
        format!("{} bytes", report::REPORT_BYTES),
        format!("{} bytes", bytes.len()),
    );
    let Some(report) = report else {
        checks.skip("Everything in the report: it could not be read.");
        return None;
    };
    let version = report.version();
    if !checks.check(rules::SNP_VERSION, (2..=5).contains(&version), "2 to 5", version.to_string())
    {
        checks.skip("Everything else in the report: its layout is not known.");
        return None;
    }
    checks.check(
        rules::SNP_VERSION_ALLOWED,
        policy.report_versions.contains(&version),
        one_of(&policy.report_versions),
        version.to_string(),
    );
    let algorithm = report.signature_algorithm();
    checks.check(rules::SNP_ALGORITHM, algorithm == 1, "1", algorithm.to_string());
    let reserved = report.reserved_not_zero();
    checks.check(
        rules::SNP_RESERVED,
        reserved.is_none(),
        "zeros",
        reserved.map_or("zeros".to_owned(), |offset| format!("something else at 0x{offset:x}")),
    );
    let padding = report.is_padding_zero();
    checks.check(
        rules::SNP_PADDING,
        padding,
        "zeros",
        if padding { "zeros" } else { "something else" },
    );
    Some(report)
}

/// Reads the certificate and checks what does not depend on its issuer.
fn vek(checks: &mut Checks, vek: Option<&[u8]>, at: OffsetDateTime) -> Option<Vek> {
    const SKIPPED: &str = "The report's signature and everything it vouches for: without a \
                           certificate nobody can say who signed.";
    checks.check(
        rules::SNP_VEK_PRESENT,
        vek.is_some(),
        "a certificate",
        if vek.is_some() { "one" } else { "none" },
    );
    let Some(bytes) = vek else {
        checks.skip(SKIPPED);
        return None;
    };
    let certificate = Certificate::read(bytes).ok();
    checks.check(
        rules::SNP_VEK_READABLE,
        certificate.is_some(),
        "an X.509 certificate",
        format!("{} {}", bytes.len(), if certificate.is_some() { "bytes" } else { "other bytes" }),
    );
    let Some(certificate) = certificate else {
        checks.skip(SKIPPED);
        return None;
    };
    let subject = certificate.subject();
    let kind = match subject.as_str() {
        "SEV-VCEK" => Some(SigningKey::Vcek),
        "SEV-VLEK" => Some(SigningKey::Vlek),
        _ => None,
    };
    checks.check(rules::SNP_VEK_SUBJECT, kind.is_some(), "SEV-VCEK or SEV-VLEK", subject);
    let is_p384 = certificate.has_p384_key();
    checks.check(
        rules::SNP_VEK_KEY,
        is_p384,
        "an ECDSA key on P-384",
        if is_p384 { "one" } else { "another" },
    );
    let facts = certificate.facts();
    checks.check(
        rules::SNP_VEK_EXTENSIONS,
        facts.is_some(),
        "product name and security versions, each once and not critical",
        if facts.is_some() { "these" } else { "some missing, repeated, critical or unreadable" },
    );
    within(checks, rules::SNP_VEK_VALIDITY, &certificate, at);
    let (Some(kind), Some(facts)) = (kind, facts) else {
        checks.skip(SKIPPED);
        return None;
    };
    let product = issuer(&certificate)
        .and_then(|(issuer_kind, product)| (issuer_kind == kind).then_some(product));
    Some(Vek { certificate, kind, product, facts })
}

/// What the issuer's name says: the kind of key and the product line.
fn issuer(certificate: &Certificate) -> Option<(SigningKey, Product)> {
    let issuer = certificate.issuer();
    let name = issuer.strip_prefix("SEV-")?;
    match name.strip_prefix("VLEK-") {
        Some(name) => Some((SigningKey::Vlek, Product::of_name(name)?)),
        None => Some((SigningKey::Vcek, Product::of_name(name)?)),
    }
}

/// Checks the certificate up to the pinned root, and against the root's revocation list.
fn chain(
    checks: &mut Checks,
    vek: &Vek,
    crl: Option<&[u8]>,
    policy: &SnpPolicy,
    roots: &Roots,
    at: OffsetDateTime,
) -> Option<Product> {
    let pinned = vek.product.and_then(|product| roots.of(product));
    let known: Vec<_> = roots.snp.iter().map(|roots| roots.product).collect();
    checks.check(
        rules::SNP_PRODUCT,
        pinned.is_some(),
        format!("a {} of {}", vek.kind, one_of(&known)),
        format!("a {} issued by {}", vek.kind, vek.certificate.issuer()),
    );
    let Some(SnpRoots { product, ark, ask, asvk }) = pinned else {
        checks.skip("The chain and everything it vouches for: the issuer is not known.");
        return None;
    };
    checks.check(
        rules::SNP_PRODUCT_ALLOWED,
        policy.products.contains(product),
        one_of(&policy.products),
        product.to_string(),
    );
    let name = vek.facts.product_name.split('-').next().unwrap_or_default();
    checks.check(
        rules::SNP_VEK_PRODUCT_NAME,
        Product::of_name(name) == Some(*product),
        product.to_string(),
        &vek.facts.product_name,
    );
    let issuing = match vek.kind {
        SigningKey::Vcek => ask,
        SigningKey::Vlek => asvk,
    };
    let root_holds = ark.is_signed_by(ark) && issuing.is_signed_by(ark);
    checks.check(
        rules::SNP_ARK,
        root_holds,
        format!("{} and {} signed by the former", ark.subject(), issuing.subject()),
        if root_holds { "these" } else { "another signature" },
    );
    let (ark_from, ark_until) = ark.validity();
    let (from, until) = issuing.validity();
    let (from, until) = (from.max(ark_from), until.min(ark_until));
    checks.check(
        rules::SNP_CA_VALIDITY,
        (from..=until).contains(&at),
        format!("{} to {}", rfc3339(from), rfc3339(until)),
        rfc3339(at),
    );
    let signed = vek.certificate.is_signed_by(issuing);
    checks.check(
        rules::SNP_CHAIN,
        signed,
        format!("a signature by {}", issuing.subject()),
        if signed { "one" } else { "another key's signature, or a changed certificate" },
    );
    revocation(checks, crl, policy, ark, &[issuing, &vek.certificate], at);
    Some(*product)
}

/// Looks `certificates` up in the revocation list of `root`.
fn revocation(
    checks: &mut Checks,
    crl: Option<&[u8]>,
    policy: &SnpPolicy,
    root: &Certificate,
    certificates: &[&Certificate],
    at: OffsetDateTime,
) {
    let Some(bytes) = crl else {
        if policy.crl.required {
            checks.check(rules::SNP_CRL_PRESENT, false, "a revocation list", "none");
        }
        checks.skip("Revocation: no revocation list was given.");
        return;
    };
    let list = RevocationList::read(bytes).ok();
    checks.check(
        rules::SNP_CRL_READABLE,
        list.is_some(),
        "an X.509 revocation list",
        format!("{} {}", bytes.len(), if list.is_some() { "bytes" } else { "other bytes" }),
    );
    let Some(list) = list else {
        checks.skip("Revocation: the revocation list could not be read.");
        return;
    };
    if !checks.check(rules::SNP_CRL_ISSUER, list.is_of(root), root.subject(), list.issuer()) {
        checks.skip("Revocation: the revocation list is another issuer's.");
        return;
    }
    let signed = list.is_signed_by(root);
    checks.check(
        rules::SNP_CRL_SIGNATURE,
        signed,
        format!("a signature by {}", root.subject()),
        if signed { "one" } else { "another key's signature, or a changed list" },
    );
    let (this_update, next_update) = list.window();
    let until = next_update.map_or("further notice".to_owned(), rfc3339);
    checks.check(
        rules::SNP_CRL_CURRENT,
        this_update <= at && next_update.is_none_or(|next_update| at <= next_update),
        format!("{} to {until}", rfc3339(this_update)),
        rfc3339(at),
    );
    let age_max = Duration::hours(policy.crl.age_hours_max.into());
    checks.check(
        rules::SNP_CRL_AGE,
        at - this_update <= age_max,
        format!("at most {} hours", age_max.whole_hours()),
        format!("{} hours", (at - this_update).whole_hours()),
    );
    let revoked = certificates.iter().find(|certificate| {
        // A VCEK has serial number 0 and another issuer: the root's list cannot mean it.
        certificate.is_signed_by(root) && list.names(certificate)
    });
    checks.check(
        rules::SNP_CRL_REVOKED,
        revoked.is_none(),
        "no certificate of the chain in the list",
        revoked.map_or("none".to_owned(), |certificate| certificate.subject()),
    );
    checks.skip("Revocation of single chips: AMD's list names issuing keys only.");
}

/// Whose key signed, and whether that is accepted.
fn key(checks: &mut Checks, report: Report<'_>, vek: &Vek, policy: &SnpPolicy) {
    let named = match report.signing_key() {
        0 => "VCEK".to_owned(),
        1 => "VLEK".to_owned(),
        7 => "no key".to_owned(),
        other => format!("reserved value {other}"),
    };
    let wanted = vek.kind.to_string();
    checks.check(rules::SNP_KEY_KIND, named == wanted, wanted.clone(), named);
    checks.check(
        rules::SNP_KEY_ALLOWED,
        policy.signing_keys.contains(&vek.kind),
        one_of(&policy.signing_keys),
        wanted,
    );
    let masked = report.is_chip_key_masked();
    checks.check(
        rules::SNP_KEY_MASKED,
        !masked,
        "MASK_CHIP_KEY 0",
        format!("MASK_CHIP_KEY {}", u8::from(masked)),
    );
    if vek.kind == SigningKey::Vlek {
        let csp_id = vek.facts.csp_id.as_deref().unwrap_or_default();
        checks.check(
            rules::SNP_CSP,
            policy.csp_ids.iter().any(|allowed| allowed == csp_id),
            one_of(&policy.csp_ids),
            if csp_id.is_empty() { "none" } else { csp_id },
        );
    }
}

/// Which processor it is.
fn chip(checks: &mut Checks, report: Report<'_>, vek: &Vek, product: Product, policy: &SnpPolicy) {
    match report.cpuid() {
        Some(cpuid) => {
            let [family, model, _] = *cpuid;
            let found = Product::of_cpuid(*cpuid).map_or("unknown".to_owned(), |p| p.to_string());
            checks.check(
                rules::SNP_GENERATION,
                Product::of_cpuid(*cpuid) == Some(product),
                product.to_string(),
                format!("{found} (family 0x{family:x}, model 0x{model:x})"),
            );
        }
        None => checks.skip(
            "The processor's family and model: a report of version 2 has none; the product line \
             is the certificate's.",
        ),
    }
    let chip_id = report.chip_id();
    if vek.kind == SigningKey::Vcek {
        let hardware_id = vek.facts.hardware_id.as_deref().unwrap_or_default();
        let (named, rest) = chip_id.split_at(hardware_id.len().min(chip_id.len()));
        checks.check(
            rules::SNP_HWID,
            !hardware_id.is_empty() && named == hardware_id && rest.iter().all(|byte| *byte == 0),
            format!("chip {}", hex::encode(hardware_id)),
            format!("chip {}", hex::encode(chip_id)),
        );
        let is_named = chip_id.iter().any(|byte| *byte != 0);
        checks.check(
            rules::SNP_CHIP_ID,
            is_named,
            "a CHIP_ID",
            if is_named { "one" } else { "zeros" },
        );
    }
    listed(checks, rules::SNP_CHIP_ALLOWED, &policy.chip_ids, Hex(*chip_id), "which chip it is");
}

/// The security versions of the machine's firmware.
fn tcb(
    checks: &mut Checks,
    report: Report<'_>,
    facts: &VekFacts,
    product: Product,
    policy: &SnpPolicy,
) {
    let certified = |bytes: &[u8; 8]| Tcb::read(product, bytes);
    let (reported, current) = (certified(report.reported_tcb()), certified(report.current_tcb()));
    let (committed, launch) = (certified(report.committed_tcb()), certified(report.launch_tcb()));
    let all = [reported, current, committed, launch];
    let ([Some(reported), Some(current), Some(committed), Some(launch)], Some(certified)) =
        (all, facts.tcb(product))
    else {
        checks.check(
            rules::SNP_TCB_CERTIFIED,
            false,
            format!("four TCBs and a certificate with the layout of {product}"),
            "reserved bytes that are not zero, or a version that the certificate lacks",
        );
        checks.skip("The minimum TCB: a TCB could not be read.");
        return;
    };
    checks.check(
        rules::SNP_TCB_CERTIFIED,
        reported == certified,
        certified.to_string(),
        reported.to_string(),
    );
    let mut at_least = |rule, tcb: Tcb, minimum: Tcb, words| {
        checks.check(rule, tcb.is_at_least(&minimum), format!("{words} {minimum}"), tcb.to_string())
    };
    at_least(rules::SNP_TCB_REPORTED, current, reported, "a running TCB of at least");
    at_least(rules::SNP_TCB_COMMITTED, current, committed, "a running TCB of at least");
    if let Some(minimum) = policy.tcb_min.get(&product) {
        at_least(rules::SNP_TCB_MIN, reported, (*minimum).into(), "at least");
    }
    if let Some(minimum) = policy.launch_tcb_min.get(&product) {
        at_least(rules::SNP_TCB_LAUNCH, launch, (*minimum).into(), "at least");
    }
    let running = report.current_firmware();
    if policy.provisional_firmware_allowed {
        checks.skip("Whether the running firmware can be rolled back: the policy allows it.");
    } else {
        checks.check(
            rules::SNP_TCB_PROVISIONAL,
            committed == current && report.committed_firmware() == running,
            format!("committed: {current}; firmware {running}"),
            format!("committed: {committed}; firmware {}", report.committed_firmware()),
        );
    }
    let [major, minor, build] = policy.firmware_min;
    let minimum = Firmware { major, minor, build };
    checks.check(
        rules::SNP_FIRMWARE,
        running >= minimum,
        format!("at least {minimum}"),
        running.to_string(),
    );
    let wanted = policy.mitigations;
    match report.mitigations() {
        _ if wanted == 0 => checks.skip("Mitigation vectors: the policy asks for none."),
        None => {
            checks.check(
                rules::SNP_MITIGATIONS,
                false,
                format!("0x{wanted:x}"),
                "a report version that names none",
            );
        }
        Some([launch, current]) => {
            checks.check(
                rules::SNP_MITIGATIONS,
                launch & current & wanted == wanted,
                format!("0x{wanted:x} in both vectors"),
                format!("0x{launch:x} at launch, 0x{current:x} now"),
            );
        }
    }
}

/// A revocation list of AMD's is made anew before that.
const CRL_AGE_HOURS_MAX: u32 = 30 * 24;

const GUEST_RISKS: [(GuestRisk, u32, Rule); 4] = [
    (GuestRisk::Smt, 16, rules::SNP_POLICY_SMT),
    (GuestRisk::Migration, 18, rules::SNP_POLICY_MIGRATION),
    (GuestRisk::Debug, 19, rules::SNP_POLICY_DEBUG),
    (GuestRisk::Cxl, 21, rules::SNP_POLICY_CXL),
];
const GUEST_GUARDS: [(GuestGuard, u32, Rule); 5] = [
    (GuestGuard::SingleSocket, 20, rules::SNP_POLICY_SINGLE_SOCKET),
    (GuestGuard::Aes256Xts, 22, rules::SNP_POLICY_XTS),
    (GuestGuard::RaplDisabled, 23, rules::SNP_POLICY_RAPL),
    (GuestGuard::CiphertextHiding, 24, rules::SNP_POLICY_HIDING),
    (GuestGuard::PageSwapDisabled, 25, rules::SNP_POLICY_SWAP),
];
/// The highest bit of the guest's policy that has a meaning.
const GUEST_POLICY_BIT_LAST: u32 = 25;
const PLATFORM_RISKS: [(PlatformRisk, u32, Rule); 2] = [
    (PlatformRisk::Smt, 0, rules::SNP_PLATFORM_SMT),
    (PlatformRisk::Tio, 7, rules::SNP_PLATFORM_TIO),
];
const PLATFORM_GUARDS: [(PlatformGuard, u32, Rule); 5] = [
    (PlatformGuard::Tsme, 1, rules::SNP_PLATFORM_TSME),
    (PlatformGuard::Ecc, 2, rules::SNP_PLATFORM_ECC),
    (PlatformGuard::RaplDisabled, 3, rules::SNP_PLATFORM_RAPL),
    (PlatformGuard::CiphertextHiding, 4, rules::SNP_PLATFORM_HIDING),
    (PlatformGuard::AliasCheck, 5, rules::SNP_PLATFORM_ALIAS),
];

/// What the guest's owner asked for at launch.
fn guest_policy(checks: &mut Checks, report: Report<'_>, policy: &SnpPolicy) {
    let bits = report.policy();
    let [minor, major, ..] = bits.to_le_bytes();
    let [major_min, minor_min] = policy.guest_policy_abi_min;
    checks.check(
        rules::SNP_POLICY_ABI,
        [major, minor] >= policy.guest_policy_abi_min,
        format!("at least {major_min}.{minor_min}"),
        format!("{major}.{minor}"),
    );
    let fixed = bits >> 17 & 1;
    checks.check(rules::SNP_POLICY_FIXED, fixed == 1, "1", fixed.to_string());
    let unknown = bits >> (GUEST_POLICY_BIT_LAST + 1) << (GUEST_POLICY_BIT_LAST + 1);
    checks.check(rules::SNP_POLICY_UNKNOWN, unknown == 0, "0x0", format!("0x{unknown:x}"));
    risks(checks, bits, &GUEST_RISKS, &policy.guest_policy_allowed);
    guards(checks, bits, &GUEST_GUARDS, &policy.guest_policy_required);
}

/// What the firmware says of the machine.
fn platform(checks: &mut Checks, report: Report<'_>, policy: &SnpPolicy) {
    const KNOWN: u64 = 0b1011_1111;
    let bits = report.platform_info();
    risks(checks, bits, &PLATFORM_RISKS, &policy.platform_allowed);
    guards(checks, bits, &PLATFORM_GUARDS, &policy.platform_required);
    if bits & !KNOWN != 0 {
        checks.skip(format!(
            "PLATFORM_INFO bits 0x{:x}: they are set and their meaning is not known here.",
            bits & !KNOWN
        ));
    }
}

/// Bits that may be set only where the policy allows it.
fn risks<T: PartialEq>(checks: &mut Checks, bits: u64, risks: &[(T, u32, Rule)], allowed: &[T]) {
    for (risk, bit, rule) in risks {
        let found = bits >> bit & 1;
        if allowed.contains(risk) {
            checks.check(*rule, true, "0 or 1", found.to_string());
        } else {
            checks.check(*rule, found == 0, "0", found.to_string());
        }
    }
}

/// Bits that have to be set where the policy wants it.
fn guards<T: PartialEq>(checks: &mut Checks, bits: u64, guards: &[(T, u32, Rule)], wanted: &[T]) {
    for (guard, bit, rule) in guards {
        let found = bits >> bit & 1;
        if wanted.contains(guard) {
            checks.check(*rule, found == 1, "1", found.to_string());
        } else {
            checks.skip(format!("{}: the policy does not ask for it.", rule.code));
        }
    }
}

/// What runs inside.
fn guest(checks: &mut Checks, report: Report<'_>, policy: &SnpPolicy) {
    let vmpl = report.vmpl();
    checks.check(
        rules::SNP_VMPL,
        policy.vmpls.contains(&vmpl),
        one_of(&policy.vmpls),
        vmpl.to_string(),
    );
    let measurement = Hex(*report.measurement());
    listed(checks, rules::SNP_MEASUREMENT, &policy.measurements, measurement, "what was launched");
    let svn = report.guest_svn();
    checks.check(
        rules::SNP_GUEST_SVN,
        svn >= policy.guest_svn_min,
        format!("at least {}", policy.guest_svn_min),
        svn.to_string(),
    );
    let family_id = Hex(*report.family_id());
    listed(checks, rules::SNP_FAMILY_ID, &policy.family_ids, family_id, "the family id");
    let image_id = Hex(*report.image_id());
    listed(checks, rules::SNP_IMAGE_ID, &policy.image_ids, image_id, "the image id");
    let host_data = Hex(*report.host_data());
    listed(checks, rules::SNP_HOST_DATA, &policy.host_data, host_data, "the host's data");
    let id_key = Hex(*report.id_key_digest());
    listed(checks, rules::SNP_ID_KEY, &policy.id_key_digests, id_key, "the id key");
    let author_key = Hex(*report.author_key_digest());
    let allowed = &policy.author_key_digests;
    listed(checks, rules::SNP_AUTHOR_KEY, allowed, author_key, "the author key");
}

/// Checks that the policy lists `found`, or notes that it does not care.
pub(crate) fn listed<const BYTES: usize>(
    checks: &mut Checks,
    rule: Rule,
    allowed: &Allowed<Hex<BYTES>>,
    found: Hex<BYTES>,
    what: &str,
) {
    if allowed.is_any() {
        checks.skip(format!("{}: the policy accepts any, so {what} is open.", rule.code));
    } else {
        checks.check(rule, allowed.allows(&found), allowed.to_string(), found.to_string());
    }
}

/// Checks that `at` is within the validity of `certificate`.
fn within(checks: &mut Checks, rule: Rule, certificate: &Certificate, at: OffsetDateTime) {
    let (from, until) = certificate.validity();
    checks.check(
        rule,
        (from..=until).contains(&at),
        format!("{} to {}", rfc3339(from), rfc3339(until)),
        rfc3339(at),
    );
}

impl VekFacts {
    /// The TCB that the certificate was issued for. `None` if the product has a part more or less.
    fn tcb(&self, product: Product) -> Option<Tcb> {
        let fmc = match product {
            Product::Milan | Product::Genoa => None,
            Product::Turin => Some(self.fmc?),
        };
        Some(Tcb {
            fmc,
            bootloader: self.bootloader?,
            tee: self.tee?,
            snp: self.snp?,
            microcode: self.microcode?,
        })
    }
}

impl From<Tcb> for TcbMin {
    fn from(Tcb { fmc, bootloader, tee, snp, microcode }: Tcb) -> Self {
        Self { fmc, bootloader, tee, snp, microcode }
    }
}

impl From<TcbMin> for Tcb {
    fn from(TcbMin { fmc, bootloader, tee, snp, microcode }: TcbMin) -> Self {
        Self { fmc, bootloader, tee, snp, microcode }
    }
}
