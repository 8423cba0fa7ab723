//! Everything that goes into one appraisal of a SEV-SNP report, and three machines to start from.

use evanesce_appraisal::{
    Appraisal, Evidence, Expected, Outcome, Policy, Product, Roots, SnpEndorsements, appraise,
    policy_from_evidence,
};
use time::OffsetDateTime;
use toml::{Table, Value};

use super::der::{ia5, integer};
use super::pki::{Certificate, RevocationList, Signer, sign_report};

pub(crate) const PRODUCT_NAME: &str = "1.3.6.1.4.1.3704.1.2";
pub(crate) const SPL_BOOTLOADER: &str = "1.3.6.1.4.1.3704.1.3.1";
pub(crate) const SPL_TEE: &str = "1.3.6.1.4.1.3704.1.3.2";
pub(crate) const SPL_SNP: &str = "1.3.6.1.4.1.3704.1.3.3";
pub(crate) const SPL_MICROCODE: &str = "1.3.6.1.4.1.3704.1.3.8";
pub(crate) const SPL_FMC: &str = "1.3.6.1.4.1.3704.1.3.9";
pub(crate) const HWID: &str = "1.3.6.1.4.1.3704.1.4";
const CRL_NUMBER: &str = "2.5.29.20";
pub(crate) const DELTA_CRL: &str = "2.5.29.27";
pub(crate) const CSP_ID: &str = "1.3.6.1.4.1.3704.1.5";

/// Everything that goes into one appraisal.
pub(crate) struct Setup {
    pub(crate) product: Product,
    pub(crate) report: Vec<u8>,
    /// What happens to the report after it was signed.
    pub(crate) tamper: fn(&mut Vec<u8>),
    pub(crate) vek: Certificate,
    /// Bytes in place of the certificate.
    pub(crate) vek_bytes: Option<Option<Vec<u8>>>,
    pub(crate) ask: Certificate,
    pub(crate) crl: Option<RevocationList>,
    pub(crate) crl_bytes: Option<Vec<u8>>,
    pub(crate) policy: Table,
    pub(crate) report_data: Option<[u8; 64]>,
    pub(crate) at: OffsetDateTime,
}

impl Setup {
    /// A Genoa machine with a VCEK, and a strict policy made from its evidence.
    pub(crate) fn genoa() -> Self {
        let mut report = vec![0; 1184];
        for (offset, value) in [(0x00, 3), (0x04, 7), (0x34, 1), (0x40, 0x3E)] {
            report[offset] = value;
        }
        // SINGLE_SOCKET, AES-256-XTS, RAPL_DIS, CIPHERTEXT_HIDING, PAGE_SWAP_DISABLE, ABI 1.55
        report[0x08..0x10].copy_from_slice(&0x03D2_0137_u64.to_le_bytes());
        for (offset, length, fill) in [
            (0x10, 16, 0x11),  // FAMILY_ID
            (0x20, 16, 0x12),  // IMAGE_ID
            (0x50, 64, 0x13),  // REPORT_DATA
            (0x90, 48, 0x14),  // MEASUREMENT
            (0xC0, 32, 0x15),  // HOST_DATA
            (0xE0, 48, 0x16),  // ID_KEY_DIGEST
            (0x110, 48, 0x17), // AUTHOR_KEY_DIGEST
            (0x1A0, 64, 0x18), // CHIP_ID
        ] {
            report[offset..][..length].fill(fill);
        }
        for tcb in TCBS {
            report[tcb..][..8].copy_from_slice(&[10, 1, 0, 0, 0, 0, 23, 200]);
        }
        report[0x188..][..3].copy_from_slice(&[0x19, 0x11, 0x01]);
        for firmware in [0x1E8, 0x1EC] {
            report[firmware..][..3].copy_from_slice(&[40, 55, 1]);
        }
        let extensions = vec![
            (PRODUCT_NAME, false, ia5("Genoa")),
            (SPL_BOOTLOADER, false, integer(10)),
            (SPL_TEE, false, integer(1)),
            (SPL_SNP, false, integer(23)),
            (SPL_MICROCODE, false, integer(200)),
            (HWID, false, vec![0x18; 64]),
        ];
        Self::new(Product::Genoa, "SEV-Genoa", report, extensions)
    }

    /// A Turin machine: another TCB layout, mitigation vectors, 8 bytes of chip id.
    pub(crate) fn turin() -> Self {
        let mut setup = Self::genoa();
        let report = &mut setup.report;
        report[0x00] = 5;
        report[0x188..][..3].copy_from_slice(&[0x1A, 0x02, 0x01]);
        report[0x1A8..][..56].fill(0);
        for tcb in TCBS {
            report[tcb..][..8].copy_from_slice(&[2, 1, 1, 4, 0, 0, 0, 81]);
        }
        report[0x1F8] = 0x3F;
        report[0x200] = 0x3F;
        let extensions = vec![
            (PRODUCT_NAME, false, ia5("Turin")),
            (SPL_FMC, false, integer(2)),
            (SPL_BOOTLOADER, false, integer(1)),
            (SPL_TEE, false, integer(1)),
            (SPL_SNP, false, integer(4)),
            (SPL_MICROCODE, false, integer(81)),
            (HWID, false, vec![0x18; 8]),
        ];
        Self::new(Product::Turin, "SEV-Turin", setup.report, extensions)
    }

    /// A Genoa machine whose provider loaded a VLEK.
    pub(crate) fn vlek() -> Self {
        let mut setup = Self::genoa();
        setup.report[0x48] = 1 << 2;
        let mut extensions = setup.vek.extensions;
        extensions.retain(|(id, ..)| *id != HWID);
        extensions.push((CSP_ID, false, ia5("Example Cloud")));
        let mut setup = Self::new(Product::Genoa, "SEV-VLEK-Genoa", setup.report, extensions);
        setup.vek.subject = "SEV-VLEK";
        setup.policy = setup.strict_policy();
        setup
    }

    fn new(
        product: Product,
        issuer: &'static str,
        report: Vec<u8>,
        extensions: Vec<(&'static str, bool, Vec<u8>)>,
    ) -> Self {
        let ca = Certificate {
            subject: issuer,
            issuer: "ARK-Test",
            signer: Signer::Ark,
            serial: 5,
            from: "100101",
            until: "450101",
            curve: "",
            extensions: Vec::new(),
        };
        let vek = Certificate {
            subject: "SEV-VCEK",
            issuer,
            signer: Signer::Ask,
            serial: 0,
            curve: "1.3.132.0.34",
            extensions,
            ..ca.clone()
        };
        let crl = RevocationList {
            issuer: "ARK-Test",
            signer: Signer::Ark,
            this_update: "260525",
            next_update: "260625",
            serials: vec![9],
            extensions: vec![(CRL_NUMBER, false, integer(1))],
        };
        let mut setup = Self {
            product,
            report,
            tamper: |_| {},
            vek,
            vek_bytes: None,
            ask: ca,
            crl: Some(crl),
            crl_bytes: None,
            policy: Table::new(),
            report_data: Some([0x13; 64]),
            at: at("2026-06-01"),
        };
        setup.policy = setup.strict_policy();
        setup
    }

    fn strict_policy(&self) -> Table {
        let vek = self.vek.vek_der();
        let endorsements = SnpEndorsements { vek: Some(&vek), crl: None };
        let evidence = Evidence::Snp { report: &self.report, endorsements };
        let policy = policy_from_evidence(evidence, None, &Roots::vendors(), self.at).unwrap();
        let mut table: Table = policy.to_toml().parse().unwrap();
        table.insert("profile".to_owned(), "development".into());
        table
    }

    /// The vendor's certificates, as this setup has them.
    pub(crate) fn roots(&self) -> Roots {
        let ark = Certificate {
            subject: "ARK-Test",
            signer: Signer::Ark,
            until: "450101",
            ..self.ask.clone()
        };
        // One key serves as ASK and ASVK: what differs is the name.
        let issuer = self.ask.ca_pem(Signer::Ask);
        let pem = match self.vek.issuer.starts_with("SEV-VLEK-") {
            true => {
                let unused = Certificate { subject: "SEV-Genoa", ..self.ask.clone() };
                [ark.ca_pem(Signer::Ark), unused.ca_pem(Signer::Ask), issuer].concat()
            }
            false => [ark.ca_pem(Signer::Ark), issuer.clone(), issuer].concat(),
        };
        Roots::danger_replaced(self.product, &pem).unwrap()
    }

    /// Sets a field of the policy's `snp` table; `a.b` is a field of a table in it.
    pub(crate) fn set(&mut self, path: &str, value: impl Into<Value>) {
        let (last, tables) = path.rsplit_once('.').map_or((path, None), |(t, l)| (l, Some(t)));
        let mut table = self.policy["snp"].as_table_mut().unwrap();
        for name in tables.into_iter().flat_map(|tables| tables.split('.')) {
            table = table[name].as_table_mut().unwrap();
        }
        assert!(table.insert(last.to_owned(), value.into()).is_some(), "no field {path}");
    }

    /// Raises a number of the policy by one.
    pub(crate) fn raise(&mut self, path: &str) {
        let value = path.split('.').fold(&self.policy["snp"], |value, name| &value[name]);
        let raised = value.as_integer().unwrap() + 1;
        self.set(path, raised);
    }

    pub(crate) fn extension(&mut self, id: &str) -> &mut Vec<u8> {
        &mut self.vek.extensions.iter_mut().find(|(found, ..)| *found == id).unwrap().2
    }

    /// Appraises, and names the rules that do not hold.
    pub(crate) fn failures(self) -> (Outcome, Vec<&'static str>) {
        let appraisal = self.appraise();
        for check in appraisal.failures() {
            assert!(!check.expected.is_empty() && !check.found.is_empty(), "{check}");
            assert!(check.advice.is_some(), "{check}");
        }
        (appraisal.outcome(), appraisal.failures().map(|check| check.rule).collect())
    }

    /// Signs and appraises.
    pub(crate) fn appraise(mut self) -> Appraisal {
        sign_report(&mut self.report);
        (self.tamper)(&mut self.report);
        let roots = self.roots();
        let vek = self.vek_bytes.unwrap_or_else(|| Some(self.vek.vek_der()));
        let crl = self.crl_bytes.or_else(|| self.crl.map(|crl| crl.der()));
        let evidence = Evidence::Snp {
            report: &self.report,
            endorsements: SnpEndorsements { vek: vek.as_deref(), crl: crl.as_deref() },
        };
        let policy = Policy::from_toml(&self.policy.to_string()).unwrap();
        let expected = self.report_data.as_ref().map_or(Expected::Nothing, Expected::ReportData);

        appraise(evidence, expected, &policy, &roots, self.at)
    }
}

const TCBS: [usize; 4] = [0x38, 0x180, 0x1E0, 0x1F0];

/// Midnight of a day.
pub(crate) fn at(date: &str) -> OffsetDateTime {
    use time::format_description::well_known::Rfc3339;
    OffsetDateTime::parse(&format!("{date}T00:00:00Z"), &Rfc3339).unwrap()
}
