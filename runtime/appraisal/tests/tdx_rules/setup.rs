//! Everything that goes into one appraisal of a TDX quote, and two TDs to start from.

use evanesce_appraisal::{
    Appraisal, Evidence, Expected, Outcome, Policy, Roots, appraise, policy_from_evidence,
};
use ring::digest::{SHA256, digest};
use serde_json::{Value as Json, json};
use time::OffsetDateTime;
use toml::{Table, Value};

use super::pki::{Certificate, Key, Platform, RevocationList};

/// Everything that goes into one appraisal.
pub(crate) struct Setup {
    /// Version, key type, kind of TEE, vendor of the quoting enclave.
    pub(crate) version: u16,
    pub(crate) key_type: u16,
    pub(crate) tee: u32,
    pub(crate) vendor: [u8; 16],
    /// A TD report of 584 bytes, or of 648 for version 5.
    pub(crate) td: Vec<u8>,
    pub(crate) qe: Vec<u8>,
    pub(crate) auth_data: Vec<u8>,
    /// Whether the enclave's report names the attestation key.
    pub(crate) qe_names_key: bool,
    pub(crate) qe_signer: Key,
    pub(crate) td_signer: Key,
    pub(crate) certification_type: u16,
    pub(crate) root: Certificate,
    pub(crate) platform_ca: Certificate,
    pub(crate) pck: Certificate,
    pub(crate) platform: Platform,
    pub(crate) tcb_signer: Certificate,
    pub(crate) root_crl: RevocationList,
    pub(crate) pck_crl: RevocationList,
    pub(crate) tcb_info: Json,
    pub(crate) tcb_info_signer: Key,
    pub(crate) identity: Json,
    pub(crate) identity_signer: Key,
    /// What happens to the collateral after it was signed.
    pub(crate) tamper_collateral: fn(&mut Json),
    /// What happens to the quote after it was signed.
    pub(crate) tamper: fn(&mut Vec<u8>),
    pub(crate) collateral: Option<Vec<u8>>,
    pub(crate) no_collateral: bool,
    pub(crate) policy: Table,
    pub(crate) report_data: Option<[u8; 64]>,
    pub(crate) at: OffsetDateTime,
}

const VENDOR: [u8; 16] = [
    0x93, 0x9A, 0x72, 0x33, 0xF7, 0x9C, 0x4C, 0xA9, 0x94, 0x0A, 0x0D, 0xB3, 0x95, 0x7F, 0x06, 0x07,
];

/// Offsets in a TD report (Intel 348551, "TDREPORT_STRUCT" and DCAP's quote format).
pub(crate) const SVN: usize = 0;
const MRSEAM: usize = 16;
pub(crate) const SIGNER_SEAM: usize = 64;
pub(crate) const SEAM_ATTRIBUTES: usize = 112;
pub(crate) const ATTRIBUTES: usize = 120;
pub(crate) const XFAM: usize = 128;
pub(crate) const MRTD: usize = 136;
pub(crate) const CONFIG_ID: usize = 184;
pub(crate) const OWNER: usize = 232;
pub(crate) const OWNER_CONFIG: usize = 280;
pub(crate) const RTMR: usize = 328;
pub(crate) const REPORT_DATA: usize = 520;
pub(crate) const SVN_2: usize = 584;
pub(crate) const SERVICE_TD: usize = 600;

impl Setup {
    /// A TD with a quote of version 4, and a strict policy made from it.
    pub(crate) fn v4() -> Self {
        let ca = |subject, issuer, key, signer, serial| Certificate {
            subject,
            issuer,
            key,
            signer,
            serial,
            from: "200101",
            until: "450101",
            is_ca: true,
            extensions: Vec::new(),
        };
        let root = ca(ROOT, ROOT, Key::Root, Key::Root, 1);
        let platform_ca = ca(PLATFORM_CA, ROOT, Key::PlatformCa, Key::Root, 2);
        let leaf = |subject, issuer, key, signer, serial| Certificate {
            is_ca: false,
            ..ca(subject, issuer, key, signer, serial)
        };
        let pck = leaf("Test PCK Certificate", PLATFORM_CA, Key::Pck, Key::PlatformCa, 3);
        let tcb_signer = leaf("Test TCB Signing", ROOT, Key::TcbSigner, Key::Root, 4);
        let list = |issuer, signer| RevocationList {
            issuer,
            signer,
            this_update: "260525",
            next_update: "260625",
            serials: vec![99],
        };

        let mut td = vec![0; 584];
        td[SVN..][..4].copy_from_slice(&[6, 1, 3, 0]);
        td[MRSEAM..][..48].fill(0x31);
        td[ATTRIBUTES + 3] = 0x10; // SEPT_VE_DISABLE
        td[XFAM..][..3].copy_from_slice(&[0xE7, 0x02, 0x06]);
        for (offset, fill) in [
            (MRTD, 0x32),
            (CONFIG_ID, 0x33),
            (OWNER, 0x34),
            (OWNER_CONFIG, 0x35),
            (RTMR, 0x36),
            (RTMR + 48, 0x37),
            (RTMR + 96, 0x38),
            (RTMR + 144, 0x39),
        ] {
            td[offset..][..48].fill(fill);
        }
        td[REPORT_DATA..].fill(0x13);

        let mut qe = vec![0; 384];
        qe[48] = 0x11; // INIT, MODE64BIT
        qe[128..160].fill(0x41); // MRSIGNER
        qe[256] = 2; // ISVPRODID
        qe[258] = 8; // ISVSVN

        let mut setup = Self {
            version: 4,
            key_type: 2,
            tee: 0x81,
            vendor: VENDOR,
            td,
            qe,
            auth_data: (0..32).collect(),
            qe_names_key: true,
            qe_signer: Key::Pck,
            td_signer: Key::Attestation,
            certification_type: 5,
            root,
            platform_ca,
            pck,
            platform: Platform {
                ppid: vec![0x51; 16],
                cpu_svn: [5; 16],
                pce_svn: 11,
                fmspc: FMSPC,
                flags: [false; 3],
            },
            tcb_signer,
            root_crl: list(ROOT, Key::Root),
            pck_crl: list(PLATFORM_CA, Key::PlatformCa),
            tcb_info: tcb_info(),
            tcb_info_signer: Key::TcbSigner,
            identity: identity(),
            identity_signer: Key::TcbSigner,
            tamper_collateral: |_| {},
            tamper: |_| {},
            collateral: None,
            no_collateral: false,
            policy: Table::new(),
            report_data: Some([0x13; 64]),
            at: at("2026-06-01"),
        };
        setup.policy = setup.strict_policy();
        setup
    }

    /// The same TD with a quote of version 5 and a report of TDX 1.5.
    pub(crate) fn v5() -> Self {
        let mut setup = Self::v4();
        setup.version = 5;
        setup.td.extend([6, 1, 3, 0]);
        setup.td.resize(648, 0);
        setup.policy = setup.strict_policy();
        setup
    }

    fn strict_policy(&self) -> Table {
        let (quote, collateral) = (self.quote(), self.collateral());
        let evidence = Evidence::Tdx { quote: &quote, collateral: Some(&collateral) };
        let policy = policy_from_evidence(evidence, None, &self.roots(), self.at).unwrap();
        let mut table: Table = policy.to_toml().parse().unwrap();
        table.insert("profile".to_owned(), "development".into());
        table
    }

    /// Sets a field of the policy's `tdx` table.
    pub(crate) fn set(&mut self, field: &str, value: impl Into<Value>) {
        let table = self.policy["tdx"].as_table_mut().unwrap();
        assert!(table.insert(field.to_owned(), value.into()).is_some(), "no field {field}");
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::danger_replaced_tdx(&self.root.der())
    }

    pub(crate) fn quote(&self) -> Vec<u8> {
        let mut quote = Vec::new();
        quote.extend(self.version.to_le_bytes());
        quote.extend(self.key_type.to_le_bytes());
        quote.extend(self.tee.to_le_bytes());
        quote.extend([0; 4]);
        quote.extend(self.vendor);
        quote.extend([0; 20]);
        if self.version == 5 {
            quote.extend(3_u16.to_le_bytes());
            quote.extend(u32::try_from(self.td.len()).unwrap().to_le_bytes());
        }
        quote.extend(&self.td);
        let key = &Key::Attestation.point()[1..];
        let mut qe = self.qe.clone();
        if self.qe_names_key {
            let named = digest(&SHA256, &[key, &self.auth_data].concat());
            qe[320..352].copy_from_slice(named.as_ref());
        }
        let mut pck = self.pck.clone();
        pck.extensions.push(self.platform.extension());
        let chain = [pck.pem(), self.platform_ca.pem(), self.root.pem()].concat();
        let mut certification = [qe.as_slice(), &self.qe_signer.sign(&qe)].concat();
        push(&mut certification, &self.auth_data, 2);
        certification.extend(self.certification_type.to_le_bytes());
        push(&mut certification, chain.as_bytes(), 4);

        let mut signature = [self.td_signer.sign(&quote).as_slice(), key].concat();
        signature.extend(6_u16.to_le_bytes());
        push(&mut signature, &certification, 4);
        push(&mut quote, &signature, 4);
        quote
    }

    pub(crate) fn collateral(&self) -> Vec<u8> {
        let chain = [self.tcb_signer.pem(), self.root.pem()].concat();
        let authority = [self.platform_ca.pem(), self.root.pem()].concat();
        let (tcb_info, identity) = (self.tcb_info.to_string(), self.identity.to_string());
        let mut collateral = json!({
            "pck_crl_issuer_chain": authority,
            "root_ca_crl": hex::encode(self.root_crl.der()),
            "pck_crl": hex::encode(self.pck_crl.der()),
            "tcb_info_issuer_chain": chain,
            "tcb_info_signature": hex::encode(self.tcb_info_signer.sign(tcb_info.as_bytes())),
            "tcb_info": tcb_info,
            "qe_identity_issuer_chain": chain,
            "qe_identity_signature": hex::encode(self.identity_signer.sign(identity.as_bytes())),
            "qe_identity": identity,
        });
        (self.tamper_collateral)(&mut collateral);
        collateral.to_string().into_bytes()
    }

    /// Signs and appraises.
    pub(crate) fn appraise(&self) -> Appraisal {
        let mut quote = self.quote();
        (self.tamper)(&mut quote);
        let collateral = self.collateral.clone().unwrap_or_else(|| self.collateral());
        let collateral = (!self.no_collateral).then_some(collateral.as_slice());
        let evidence = Evidence::Tdx { quote: &quote, collateral };
        let policy = Policy::from_toml(&self.policy.to_string()).unwrap();
        let expected = self.report_data.as_ref().map_or(Expected::Nothing, Expected::ReportData);
        appraise(evidence, expected, &policy, &self.roots(), self.at)
    }

    /// Appraises, and names the rules that do not hold.
    pub(crate) fn failures(&self) -> (Outcome, Vec<&'static str>, String) {
        let appraisal = self.appraise();
        for check in appraisal.failures() {
            assert!(!check.expected.is_empty() && !check.found.is_empty(), "{check}");
            assert!(check.advice.is_some(), "{check}");
        }
        let text = appraisal.failures().map(ToString::to_string).collect();
        (appraisal.outcome(), appraisal.failures().map(|check| check.rule).collect(), text)
    }
}

const ROOT: &str = "Test SGX Root CA";
pub(crate) const PLATFORM_CA: &str = "Intel SGX PCK Platform CA";
const FMSPC: [u8; 6] = [0xB0, 0xC0, 0x6F, 0, 0, 0];
const ISSUED: &str = "2026-05-25T00:00:00Z";
const NEXT: &str = "2026-06-25T00:00:00Z";

fn tcb_info() -> Json {
    let svns = |svn: [u8; 16]| svn.map(|svn| json!({ "svn": svn })).to_vec();
    let mut tdx = [0; 16];
    tdx[..3].copy_from_slice(&[5, 0, 3]);
    let level = |sgx: u8, tdx, status: &str, advisories: Json| {
        json!({
            "tcb": {
                "sgxtcbcomponents": svns([sgx; 16]),
                "pcesvn": 11,
                "tdxtcbcomponents": svns(tdx),
            },
            "tcbDate": "2025-01-01T00:00:00Z",
            "tcbStatus": status,
            "advisoryIDs": advisories,
        })
    };
    let attributes = json!({
        "mrsigner": "00".repeat(48),
        "attributes": "0000000000000000",
        "attributesMask": "FFFFFFFFFFFFFFFF",
    });
    let mut module = attributes.clone();
    module["id"] = "TDX_01".into();
    module["tcbLevels"] = json!([
        { "tcb": { "isvsvn": 6 }, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "UpToDate" },
        { "tcb": { "isvsvn": 4 }, "tcbDate": "2024-01-01T00:00:00Z", "tcbStatus": "OutOfDate" },
    ]);
    json!({
        "id": "TDX",
        "version": 3,
        "issueDate": ISSUED,
        "nextUpdate": NEXT,
        "fmspc": hex::encode_upper(FMSPC),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 17,
        "tdxModule": attributes,
        "tdxModuleIdentities": [module],
        "tcbLevels": [
            level(5, tdx, "UpToDate", json!([])),
            level(4, [0; 16], "OutOfDate", json!(["INTEL-SA-00837"])),
            level(3, [0; 16], "Revoked", json!([])),
        ],
    })
}

fn identity() -> Json {
    json!({
        "id": "TD_QE",
        "version": 2,
        "issueDate": ISSUED,
        "nextUpdate": NEXT,
        "tcbEvaluationDataNumber": 17,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "41".repeat(32),
        "isvprodid": 2,
        "tcbLevels": [
            { "tcb": { "isvsvn": 8 }, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "UpToDate" },
            { "tcb": { "isvsvn": 6 }, "tcbDate": "2024-01-01T00:00:00Z", "tcbStatus": "OutOfDate" },
        ],
    })
}

/// Midnight of a day.
pub(crate) fn at(date: &str) -> OffsetDateTime {
    use time::format_description::well_known::Rfc3339;
    OffsetDateTime::parse(&format!("{date}T00:00:00Z"), &Rfc3339).unwrap()
}

/// Appends bytes behind their length in `width` bytes, little-endian.
pub(crate) fn push(to: &mut Vec<u8>, bytes: &[u8], width: usize) {
    to.extend(&u64::try_from(bytes.len()).unwrap().to_le_bytes()[..width]);
    to.extend(bytes);
}
