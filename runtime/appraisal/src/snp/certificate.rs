//! X.509 as AMD uses it: RSA-PSS above, P-384 at the end, a chip's facts in extensions.

use ring::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use time::OffsetDateTime;
use x509_cert::crl::CertificateList;
use x509_cert::der::asn1::{BitStringRef, Ia5StringRef, ObjectIdentifier, OctetStringRef};
use x509_cert::der::{Decode, Encode as _, Reader as _, SliceReader, pem};
use x509_cert::name::Name;
use x509_cert::time::Time;

/// Bytes in a certificate. AMD's have below 2 KiB.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// Bytes in a revocation list. AMD's have below 1 KiB.
const CRL_BYTES_MAX: usize = 256 * 1024;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// The extensions of a VCEK or VLEK (AMD 57230, "VCEK Certificate Definition").
const PRODUCT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const SPL_BOOTLOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const SPL_TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SPL_SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const SPL_MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const SPL_FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HWID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CSP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");

/// What is signed in a certificate or a revocation list, byte for byte, and the signature.
#[derive(Debug)]
struct Signed {
    bytes: Vec<u8>,
    signature: Vec<u8>,
    /// RSA-PSS, named alike inside and outside of what is signed.
    is_rsa_pss: bool,
}

impl Signed {
    /// Splits `SEQUENCE { signed, algorithm, signature }` without re-encoding anything.
    fn split(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
        let mut reader = SliceReader::new(der).ok()?;
        reader
            .sequence(|reader: &mut SliceReader<'_>| {
                let bytes = reader.tlv_bytes()?;
                let algorithm = reader.tlv_bytes()?;
                let signature = BitStringRef::decode(reader)?;
                Ok::<_, x509_cert::der::Error>((bytes, algorithm, signature.raw_bytes()))
            })
            .ok()
    }

    fn is_signed_by(&self, issuer: &Certificate) -> bool {
        let key = issuer.public_key();
        self.is_rsa_pss
            && UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key)
                .verify(&self.bytes, &self.signature)
                .is_ok()
    }
}

/// A certificate that could be read. Nothing is said of who signed it.
#[derive(Debug)]
pub(crate) struct Certificate {
    signed: Signed,
    inner: x509_cert::Certificate,
}

/// Bytes that are not one X.509 certificate or CRL in DER or PEM.
#[derive(Debug)]
pub(crate) struct Unreadable;

impl Certificate {
    /// Reads DER, or the first certificate of a PEM text.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let der = der_of(bytes, "CERTIFICATE", CERTIFICATE_BYTES_MAX)?;
        let inner = x509_cert::Certificate::from_der(&der).map_err(|_| Unreadable)?;
        let (bytes, algorithm, signature) = Signed::split(&der).ok_or(Unreadable)?;
        let inside = inner.tbs_certificate().signature();
        let is_rsa_pss =
            inside.oid == RSASSA_PSS && inside.to_der().is_ok_and(|inside| inside == algorithm);
        let signed = Signed { bytes: bytes.to_vec(), signature: signature.to_vec(), is_rsa_pss };
        Ok(Self { signed, inner })
    }

    /// The encoded key: PKCS#1 for RSA, an uncompressed point for P-384.
    pub(crate) fn public_key(&self) -> &[u8] {
        self.inner.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes()
    }

    /// Whether the key is a point on P-384.
    pub(crate) fn has_p384_key(&self) -> bool {
        let algorithm = &self.inner.tbs_certificate().subject_public_key_info().algorithm;
        let curve = algorithm.parameters.as_ref().and_then(|any| any.decode_as().ok());
        algorithm.oid == EC_PUBLIC_KEY && curve == Some(SECP384R1)
    }

    /// Whether `issuer`'s key signed these bytes and its name stands as the issuer's.
    pub(crate) fn is_signed_by(&self, issuer: &Self) -> bool {
        self.inner.tbs_certificate().issuer() == issuer.inner.tbs_certificate().subject()
            && self.signed.is_signed_by(issuer)
    }

    /// The subject's common name, or what stands there.
    pub(crate) fn subject(&self) -> String {
        common_name(self.inner.tbs_certificate().subject())
    }

    /// The issuer's common name, or what stands there.
    pub(crate) fn issuer(&self) -> String {
        common_name(self.inner.tbs_certificate().issuer())
    }

    /// First and last second of validity.
    pub(crate) fn validity(&self) -> (OffsetDateTime, OffsetDateTime) {
        let validity = self.inner.tbs_certificate().validity();
        (moment(validity.not_before), moment(validity.not_after))
    }

    /// What AMD wrote into a VCEK or VLEK. `None` if an extension is there twice, is critical,
    /// or cannot be read, or one that each of them has is missing.
    pub(crate) fn facts(&self) -> Option<VekFacts> {
        let mut facts = VekFacts::default();
        let mut seen = Vec::new();
        for extension in self.inner.tbs_certificate().extensions()? {
            let oid = extension.extn_id;
            if extension.critical || seen.contains(&oid) {
                return None;
            }
            seen.push(oid);
            let value = extension.extn_value.as_bytes();
            match oid {
                PRODUCT_NAME => facts.product_name = text(value)?,
                SPL_BOOTLOADER => facts.bootloader = Some(u8::from_der(value).ok()?),
                SPL_TEE => facts.tee = Some(u8::from_der(value).ok()?),
                SPL_SNP => facts.snp = Some(u8::from_der(value).ok()?),
                SPL_MICROCODE => facts.microcode = Some(u8::from_der(value).ok()?),
                SPL_FMC => facts.fmc = Some(u8::from_der(value).ok()?),
                HWID => facts.hardware_id = Some(hardware_id(value)?),
                CSP_ID => facts.csp_id = Some(text(value)?),
                _ => {}
            }
        }
        let complete = !facts.product_name.is_empty()
            && [facts.bootloader, facts.tee, facts.snp, facts.microcode]
                .iter()
                .all(Option::is_some);
        complete.then_some(facts)
    }

    fn serial(&self) -> &[u8] {
        self.inner.tbs_certificate().serial_number().as_bytes()
    }
}

/// What a VCEK or VLEK says of its chip.
#[derive(Debug, Default)]
pub(crate) struct VekFacts {
    /// Such as `Milan-B0` or `Turin`.
    pub(crate) product_name: String,
    pub(crate) fmc: Option<u8>,
    pub(crate) bootloader: Option<u8>,
    pub(crate) tee: Option<u8>,
    pub(crate) snp: Option<u8>,
    pub(crate) microcode: Option<u8>,
    /// 64 bytes, on Turin 8; a VLEK has none.
    pub(crate) hardware_id: Option<Vec<u8>>,
    /// Only in a VLEK.
    pub(crate) csp_id: Option<String>,
}

/// A revocation list that could be read. Nothing is said of who signed it.
#[derive(Debug)]
pub(crate) struct RevocationList {
    signed: Signed,
    inner: CertificateList,
}

impl RevocationList {
    /// Reads DER, or the first list of a PEM text.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let der = der_of(bytes, "X509 CRL", CRL_BYTES_MAX)?;
        let inner = CertificateList::from_der(&der).map_err(|_| Unreadable)?;
        let (bytes, algorithm, signature) = Signed::split(&der).ok_or(Unreadable)?;
        // A critical extension can turn the list into something else, such as a part of one.
        let entries = inner.tbs_cert_list.revoked_certificates.iter().flatten();
        let of_entries = entries.filter_map(|entry| entry.crl_entry_extensions.as_ref());
        let mut extensions = inner.tbs_cert_list.crl_extensions.iter().chain(of_entries).flatten();
        if extensions.any(|extension| extension.critical) {
            return Err(Unreadable);
        }
        let inside = &inner.tbs_cert_list.signature;
        let is_rsa_pss =
            inside.oid == RSASSA_PSS && inside.to_der().is_ok_and(|inside| inside == algorithm);
        let signed = Signed { bytes: bytes.to_vec(), signature: signature.to_vec(), is_rsa_pss };
        Ok(Self { signed, inner })
    }

    /// The issuer's common name.
    pub(crate) fn issuer(&self) -> String {
        common_name(&self.inner.tbs_cert_list.issuer)
    }

    /// Whether `root`'s name stands as the issuer's.
    pub(crate) fn is_of(&self, root: &Certificate) -> bool {
        self.inner.tbs_cert_list.issuer == *root.inner.tbs_certificate().subject()
    }

    /// Whether `root`'s key signed the list.
    pub(crate) fn is_signed_by(&self, root: &Certificate) -> bool {
        self.signed.is_signed_by(root)
    }

    /// `thisUpdate`, and `nextUpdate` where there is one.
    pub(crate) fn window(&self) -> (OffsetDateTime, Option<OffsetDateTime>) {
        let list = &self.inner.tbs_cert_list;
        (moment(list.this_update), list.next_update.map(moment))
    }

    /// Whether the list names `certificate`, by its serial number.
    pub(crate) fn names(&self, certificate: &Certificate) -> bool {
        let revoked = self.inner.tbs_cert_list.revoked_certificates.iter().flatten();
        revoked.into_iter().any(|entry| entry.serial_number.as_bytes() == certificate.serial())
    }
}

/// The DER in `bytes`, which are DER or start with PEM under `label`.
fn der_of(bytes: &[u8], label: &str, bytes_max: usize) -> Result<Vec<u8>, Unreadable> {
    if bytes.len() > bytes_max {
        return Err(Unreadable);
    }
    if bytes.first() == Some(&0x30) {
        return Ok(bytes.to_vec());
    }
    // Providers hand out a VCEK with its issuers behind it; those come from the pinned roots.
    let end = format!("-----END {label}-----");
    let at = bytes.windows(end.len()).position(|window| window == end.as_bytes());
    let first = &bytes[..at.ok_or(Unreadable)? + end.len()];
    let (_, der) = pem::decode_vec(first).map_err(|_| Unreadable)?;
    Ok(der)
}

fn common_name(name: &Name) -> String {
    match name.common_name() {
        Ok(Some(common_name)) => common_name.value().into_owned(),
        _ => name.to_string(),
    }
}

fn moment(time: Time) -> OffsetDateTime {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn text(value: &[u8]) -> Option<String> {
    Ia5StringRef::from_der(value).ok().map(|text| text.as_str().to_owned())
}

/// Older certificates hold the id as it stands, newer ones in an OCTET STRING.
fn hardware_id(value: &[u8]) -> Option<Vec<u8>> {
    const LENGTHS: [usize; 2] = [8, 64];
    if LENGTHS.contains(&value.len()) {
        return Some(value.to_vec());
    }
    let id = <&OctetStringRef>::from_der(value).ok()?.as_bytes();
    LENGTHS.contains(&id.len()).then(|| id.to_vec())
}
