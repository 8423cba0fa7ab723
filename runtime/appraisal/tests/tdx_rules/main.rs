//! One fault a case, validly signed by a PKI made for the test, each refused for its own reason.
//!
//! What `dcap-qvl` checks is here, too: that it does, and that its word becomes the right rule.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../support/der.rs"]
mod der;
mod pki;

use std::collections::BTreeSet;

use evanesce_appraisal::{
    Appraisal, Evidence, Expected, Outcome, Policy, Roots, appraise, policy_from_evidence, rules,
};
use pki::{Certificate, Key, Platform, RevocationList};
use ring::digest::{SHA256, digest};
use serde_json::{Value as Json, json};
use time::OffsetDateTime;
use toml::{Table, Value};

/// Everything that goes into one appraisal.
struct Setup {
    /// Version, key type, kind of TEE, vendor of the quoting enclave.
    version: u16,
    key_type: u16,
    tee: u32,
    vendor: [u8; 16],
    /// A TD report of 584 bytes, or of 648 for version 5.
    td: Vec<u8>,
    qe: Vec<u8>,
    auth_data: Vec<u8>,
    /// Whether the enclave's report names the attestation key.
    qe_names_key: bool,
    qe_signer: Key,
    td_signer: Key,
    certification_type: u16,
    root: Certificate,
    platform_ca: Certificate,
    pck: Certificate,
    platform: Platform,
    tcb_signer: Certificate,
    root_crl: RevocationList,
    pck_crl: RevocationList,
    tcb_info: Json,
    tcb_info_signer: Key,
    identity: Json,
    identity_signer: Key,
    /// What happens to the collateral after it was signed.
    tamper_collateral: fn(&mut Json),
    /// What happens to the quote after it was signed.
    tamper: fn(&mut Vec<u8>),
    collateral: Option<Vec<u8>>,
    no_collateral: bool,
    policy: Table,
    report_data: Option<[u8; 64]>,
    at: OffsetDateTime,
}

const VENDOR: [u8; 16] = [
    0x93, 0x9A, 0x72, 0x33, 0xF7, 0x9C, 0x4C, 0xA9, 0x94, 0x0A, 0x0D, 0xB3, 0x95, 0x7F, 0x06, 0x07,
];

/// Offsets in a TD report (Intel 348551, "TDREPORT_STRUCT" and DCAP's quote format).
const SVN: usize = 0;
const MRSEAM: usize = 16;
const SIGNER_SEAM: usize = 64;
const SEAM_ATTRIBUTES: usize = 112;
const ATTRIBUTES: usize = 120;
const XFAM: usize = 128;
const MRTD: usize = 136;
const CONFIG_ID: usize = 184;
const OWNER: usize = 232;
const OWNER_CONFIG: usize = 280;
const RTMR: usize = 328;
const REPORT_DATA: usize = 520;
const SVN_2: usize = 584;
const SERVICE_TD: usize = 600;

impl Setup {
    /// A TD with a quote of version 4, and a strict policy made from it.
    fn v4() -> Self {
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
    fn v5() -> Self {
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
    fn set(&mut self, field: &str, value: impl Into<Value>) {
        let table = self.policy["tdx"].as_table_mut().unwrap();
        assert!(table.insert(field.to_owned(), value.into()).is_some(), "no field {field}");
    }

    fn roots(&self) -> Roots {
        Roots::danger_replaced_tdx(&self.root.der())
    }

    fn quote(&self) -> Vec<u8> {
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

    fn collateral(&self) -> Vec<u8> {
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
    fn appraise(&self) -> Appraisal {
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
    fn failures(&self) -> (Outcome, Vec<&'static str>, String) {
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
const PLATFORM_CA: &str = "Intel SGX PCK Platform CA";
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
fn at(date: &str) -> OffsetDateTime {
    use time::format_description::well_known::Rfc3339;
    OffsetDateTime::parse(&format!("{date}T00:00:00Z"), &Rfc3339).unwrap()
}

/// Appends bytes behind their length in `width` bytes, little-endian.
fn push(to: &mut Vec<u8>, bytes: &[u8], width: usize) {
    to.extend(&u64::try_from(bytes.len()).unwrap().to_le_bytes()[..width]);
    to.extend(bytes);
}

fn other(bytes: usize) -> Value {
    Value::Array(vec![hex::encode(vec![0xA5; bytes]).into()])
}

fn masked(value: &str) -> Value {
    let fields = [("value", value), ("mask", "ffffffffffffffff")];
    Value::Table(fields.map(|(name, value)| (name.to_owned(), value.into())).into_iter().collect())
}

/// A baseline, a fault, and the rule that has to name it.
type Case = (&'static str, &'static str, fn() -> Setup, fn(&mut Setup));

const V4: fn() -> Setup = Setup::v4;
const V5: fn() -> Setup = Setup::v5;

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("input.clock", "the clock is of 2019", V4, |s| {
        s.at = at("2019-12-31");
        for (place, time) in [("issueDate", "2019-12-01T00:00:00Z"), ("nextUpdate", "2020-02-01T00:00:00Z")] {
            s.tcb_info[place] = time.into();
            s.identity[place] = time.into();
        }
        for list in [&mut s.root_crl, &mut s.pck_crl] { (list.this_update, list.next_update) = ("191225", "200125"); }
        for certificate in [&mut s.root, &mut s.platform_ca, &mut s.pck, &mut s.tcb_signer] { certificate.from = "180101"; }
    }),
    ("input.roots", "a production policy meets replaced roots", V4, |s| { s.policy.insert("profile".to_owned(), "production".into()); }),
    ("input.report-data", "the quote binds something else", V4, |s| s.report_data = Some([0x31; 64])),
    ("input.report-data", "nothing is given to compare with", V4, |s| s.report_data = None),

    ("tdx.quote.length", "a quote without end", V4, |s| s.tamper = |quote| quote.resize(33 * 1024, 0)),
    ("tdx.quote.readable", "a quote that is cut off", V4, |s| s.tamper = |quote| quote.truncate(1000)),
    ("tdx.quote.readable", "a quote of an SGX enclave's kind", V4, |s| s.tee = 0),
    ("tdx.quote.readable", "a quote of version 6", V4, |s| s.version = 6),
    ("tdx.quote.readable", "a key on P-384", V4, |s| s.key_type = 3),
    ("tdx.quote.version-allowed", "a version that the policy does not list", V4, |s| s.set("quote_versions", vec![5])),
    ("tdx.quote.padding", "something after the quote", V4, |s| s.tamper = |quote| quote.push(1)),

    ("tdx.collateral.present", "no collateral", V4, |s| s.no_collateral = true),
    ("tdx.collateral.present", "collateral without end", V4, |s| s.collateral = Some(vec![b' '; 2 << 20])),
    ("tdx.collateral.readable", "text in place of collateral", V4, |s| s.collateral = Some(b"collateral".to_vec())),
    ("tdx.collateral.readable", "collateral without QE identity", V4, |s| s.tamper_collateral = |c| c["qe_identity"] = "".into()),
    ("tdx.collateral.current", "TCB info of tomorrow", V4, |s| s.tcb_info["issueDate"] = "2026-06-02T00:00:00Z".into()),
    ("tdx.collateral.current", "TCB info that was to be replaced", V4, |s| s.tcb_info["nextUpdate"] = "2026-05-31T00:00:00Z".into()),
    ("tdx.collateral.current", "a QE identity of tomorrow", V4, |s| s.identity["issueDate"] = "2026-06-02T00:00:00Z".into()),
    ("tdx.collateral.current", "a QE identity that was to be replaced", V4, |s| s.identity["nextUpdate"] = "2026-05-31T00:00:00Z".into()),
    ("tdx.collateral.current", "a root's revocation list that was to be replaced", V4, |s| s.root_crl.next_update = "260531"),
    ("tdx.collateral.current", "a platform's revocation list that was to be replaced", V4, |s| s.pck_crl.next_update = "260531"),
    ("tdx.collateral.current", "an expired platform certificate", V4, |s| s.pck.until = "260531"),
    ("tdx.collateral.current", "a platform certificate of tomorrow", V4, |s| s.pck.from = "260602"),
    ("tdx.collateral.current", "an expired platform authority", V4, |s| s.platform_ca.until = "260531"),
    ("tdx.collateral.current", "an expired signer of TCB info", V4, |s| s.tcb_signer.until = "260531"),
    ("tdx.collateral.signature", "TCB info that was changed", V4, |s| s.tamper_collateral = |c| {
        c["tcb_info"] = c["tcb_info"].as_str().unwrap().replace("OutOfDate", "UpToDate").into();
    }),
    ("tdx.collateral.signature", "TCB info signed by a stranger", V4, |s| s.tcb_info_signer = Key::Stranger),
    ("tdx.collateral.signature", "a QE identity that was changed", V4, |s| s.tamper_collateral = |c| {
        c["qe_identity"] = c["qe_identity"].as_str().unwrap().replace("OutOfDate", "UpToDate").into();
    }),
    ("tdx.collateral.signature", "a QE identity signed by a stranger", V4, |s| s.identity_signer = Key::Stranger),
    ("tdx.collateral.signature", "a root's revocation list signed by a stranger", V4, |s| s.root_crl.signer = Key::Stranger),
    ("tdx.collateral.signature", "a platform's revocation list signed by a stranger", V4, |s| s.pck_crl.signer = Key::Stranger),
    ("tdx.collateral.signature", "a platform's revocation list of another issuer", V4, |s| s.pck_crl.issuer = "Other CA"),
    ("tdx.collateral.signature", "no certificate of TCB info's signer", V4, |s| s.tamper_collateral = |c| c["tcb_info_issuer_chain"] = "-".into()),
    ("tdx.collateral.platform", "collateral of another kind of platform", V4, |s| s.tcb_info["fmspc"] = "00806F050000".into()),
    ("tdx.collateral.platform", "TCB info for SGX", V4, |s| s.tcb_info["id"] = "SGX".into()),
    ("tdx.collateral.platform", "an identity of SGX's quoting enclave", V4, |s| s.identity["id"] = "QE".into()),

    ("tdx.chain.signature", "a stranger signed the platform's certificate", V4, |s| s.pck.signer = Key::Stranger),
    ("tdx.chain.signature", "a stranger signed the platform authority", V4, |s| s.platform_ca.signer = Key::Stranger),
    ("tdx.chain.signature", "a stranger signed the signer of TCB info", V4, |s| s.tcb_signer.signer = Key::Stranger),
    ("tdx.chain.signature", "a platform's certificate of an issuer nobody knows", V4, |s| s.pck.issuer = "Other CA"),
    ("tdx.chain.signature", "the platform authority vouches for TCB info", V4, |s| {
        (s.tcb_signer.issuer, s.tcb_signer.signer) = (PLATFORM_CA, Key::PlatformCa);
    }),
    ("tdx.chain.revoked", "the platform's certificate is revoked", V4, |s| s.pck_crl.serials.push(3)),
    ("tdx.chain.revoked", "the platform authority is revoked", V4, |s| s.root_crl.serials.push(2)),
    ("tdx.chain.revoked", "the signer of TCB info is revoked", V4, |s| s.root_crl.serials.push(4)),

    ("tdx.quote.enclave", "another vendor's quoting enclave", V4, |s| s.vendor = [0; 16]),
    ("tdx.quote.enclave", "another key signed the enclave's report", V4, |s| s.qe_signer = Key::Stranger),
    ("tdx.quote.enclave", "the enclave names another attestation key", V4, |s| s.qe_names_key = false),
    ("tdx.quote.enclave", "another signer's enclave", V4, |s| s.qe[128] = 0),
    ("tdx.quote.enclave", "another product of the signer", V4, |s| s.qe[256] = 1),
    ("tdx.quote.enclave", "another MISCSELECT", V4, |s| s.qe[16] = 1),
    ("tdx.quote.enclave", "other attributes", V4, |s| s.qe[49] = 1),
    ("tdx.quote.enclave", "a debug enclave", V4, |s| s.qe[48] |= 2),
    ("tdx.quote.signature", "another key signed the quote", V4, |s| s.td_signer = Key::Stranger),
    ("tdx.quote.signature", "RTMR 3 was changed afterwards", V4, |s| s.tamper = |quote| quote[48 + RTMR + 144] ^= 1),
    ("tdx.quote.verified", "no certificate chain in the quote", V4, |s| s.certification_type = 4),

    ("tdx.tcb.level", "a platform below every level", V4, |s| s.platform.cpu_svn = [2; 16]),
    ("tdx.tcb.level", "a provisioning enclave below every level", V4, |s| s.platform.pce_svn = 10),
    ("tdx.tcb.level", "a quoting enclave below every level", V4, |s| s.qe[258] = 5),
    ("tdx.tcb.status-now", "after an update a module that is out of date", V5, |s| s.td[SVN_2 + 2] = 0),
    ("tdx.tcb.revoked", "a revoked TCB", V4, |s| { s.platform.cpu_svn = [3; 16]; }),
    ("tdx.tcb.status", "a platform that is out of date", V4, |s| s.platform.cpu_svn = [4; 16]),
    ("tdx.tcb.status", "a quoting enclave that is out of date", V4, |s| s.qe[258] = 7),
    ("tdx.tcb.status", "a module that is out of date", V4, |s| s.td[SVN] = 5),
    ("tdx.tcb.advisories", "an open advisory that the policy denies", V4, |s| {
        s.platform.cpu_svn = [4; 16];
        s.set("tcb_statuses", vec!["OutOfDate"]);
        s.set("advisories_denied", vec!["INTEL-SA-00837"]);
    }),
    ("tdx.tcb.evaluation", "collateral of an earlier evaluation", V4, |s| s.set("tcb_evaluation_min", 18)),
    ("tdx.module.identity", "a module of another signer", V4, |s| s.td[SIGNER_SEAM] = 1),
    ("tdx.module.identity", "a module with other attributes", V4, |s| s.td[SEAM_ATTRIBUTES] = 1),
    ("tdx.module.identity", "a module version nobody knows", V4, |s| s.td[SVN + 1] = 9),
    ("tdx.module.identity", "a module below every level", V4, |s| s.td[SVN] = 3),
    ("tdx.module.identity", "after an update a module below every level", V5, |s| s.td[SVN_2] = 3),
    ("tdx.module.mrseam", "another module", V4, |s| s.set("mrseam", other(48))),

    ("tdx.platform.dynamic", "packages may be added", V4, |s| s.platform.flags[0] = true),
    ("tdx.platform.cached-keys", "keys are cached at Intel", V4, |s| s.platform.flags[1] = true),
    ("tdx.platform.smt", "SMT is on", V4, |s| s.platform.flags[2] = true),
    ("tdx.platform.allowed", "another platform", V4, |s| s.platform.ppid = vec![0x52; 16]),

    ("tdx.td.debug", "a debug TD", V4, |s| s.td[ATTRIBUTES] |= 1),
    ("tdx.td.profiling", "a TD that is profiled", V4, |s| s.td[ATTRIBUTES] |= 1 << 4),
    ("tdx.td.reserved", "a reserved attribute", V4, |s| s.td[ATTRIBUTES + 1] |= 1),
    ("tdx.td.migratable", "a TD that can be migrated", V4, |s| s.td[ATTRIBUTES + 3] |= 1 << 5),
    ("tdx.td.sept-ve-disable", "exceptions by unmapping", V4, |s| s.td[ATTRIBUTES + 3] &= !(1 << 4)),
    ("tdx.td.service-td", "a service TD may be bound", V4, |s| s.td[ATTRIBUTES + 2] |= 1 << 1),
    ("tdx.td.service-td", "a service TD is bound", V5, |s| s.td[SERVICE_TD] = 1),
    ("tdx.td.attributes", "PERFMON", V4, |s| s.td[ATTRIBUTES + 7] |= 1 << 7),
    ("tdx.td.attributes", "the policy wants key locker", V4, |s| s.set("td_attributes", masked("0000009000000000"))),
    ("tdx.td.xfam", "AMX", V4, |s| s.td[XFAM + 2] ^= 0x02),
    ("tdx.td.mrtd", "another image", V4, |s| s.td[MRTD] = 0),
    ("tdx.td.rtmr0", "another configuration of the firmware", V4, |s| s.td[RTMR] = 0),
    ("tdx.td.rtmr1", "another kernel", V4, |s| s.td[RTMR + 48] = 0),
    ("tdx.td.rtmr2", "another command line", V4, |s| s.td[RTMR + 96] = 0),
    ("tdx.td.rtmr3", "another measurement of the guest's own", V4, |s| s.td[RTMR + 144] = 0),
    ("tdx.td.mrconfigid", "another configuration", V4, |s| s.td[CONFIG_ID] = 0),
    ("tdx.td.mrowner", "another owner", V4, |s| s.td[OWNER] = 0),
    ("tdx.td.mrownerconfig", "another configuration of the owner's", V4, |s| s.td[OWNER_CONFIG] = 0),
];

#[test]
fn a_td_that_meets_its_policy_is_trusted() {
    for (name, baseline) in [("version 4", V4), ("version 5", V5)] {
        assert_eq!(baseline().failures(), (Outcome::Trusted, vec![], String::new()), "{name}");
    }
}

#[test]
fn each_fault_is_refused_for_its_own_reason() {
    for (rule, fault, baseline, change) in CASES {
        let mut setup = baseline();
        change(&mut setup);
        let is_of_listing = rules::ALL.iter().any(|r| r.code == *rule && r.is_of_listing());
        let outcome = if is_of_listing { Outcome::Unknown } else { Outcome::Refused };
        let (found, failures, text) = setup.failures();
        assert_eq!((found, failures), (outcome, vec![*rule]), "{fault}: {text}");
    }
}

#[test]
fn every_rule_of_the_checklist_has_a_case() {
    let with_case: BTreeSet<_> = CASES.iter().map(|(rule, ..)| *rule).collect();
    let rules = rules::ALL.iter().map(|rule| rule.code).filter(|code| code.starts_with("tdx."));

    let without: Vec<_> = rules.filter(|code| !with_case.contains(code)).collect();

    assert_eq!(without, Vec::<&str>::new());
    assert!(CASES.len() >= 60, "{} cases", CASES.len());
}
