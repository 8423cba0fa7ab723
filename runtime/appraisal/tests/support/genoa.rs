//! A Genoa machine that does not exist, in the shape of AMD's: it signs reports like one.

use crate::der::{ia5, integer};
use crate::snp_pki::{Certificate, RevocationList, Signer, sign_report};

/// A Genoa machine, its certificates, and the roots above them.
pub(crate) struct Machine {
    pub(crate) vek: Vec<u8>,
    pub(crate) crl: Vec<u8>,
    pub(crate) roots: String,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let ca = |subject, signer| Certificate {
            subject,
            issuer: "ARK-Test",
            signer,
            serial: 5,
            from: "100101",
            until: "490101",
            curve: "",
            extensions: Vec::new(),
        };
        let (ark, ask) = (ca("ARK-Test", Signer::Ark), ca("SEV-Genoa", Signer::Ark));
        let vek = Certificate {
            subject: "SEV-VCEK",
            issuer: "SEV-Genoa",
            signer: Signer::Ask,
            serial: 0,
            curve: "1.3.132.0.34",
            extensions: vec![
                ("1.3.6.1.4.1.3704.1.2", false, ia5("Genoa")),
                ("1.3.6.1.4.1.3704.1.3.1", false, integer(10)),
                ("1.3.6.1.4.1.3704.1.3.2", false, integer(1)),
                ("1.3.6.1.4.1.3704.1.3.3", false, integer(23)),
                ("1.3.6.1.4.1.3704.1.3.8", false, integer(200)),
                ("1.3.6.1.4.1.3704.1.4", false, vec![0x18; 64]),
            ],
            ..ask.clone()
        };
        let crl = RevocationList {
            issuer: "ARK-Test",
            signer: Signer::Ark,
            this_update: "200101",
            next_update: "490101",
            serials: vec![9],
            extensions: vec![("2.5.29.20", false, integer(1))],
        };
        let issuer = ask.ca_pem(Signer::Ask);
        let roots = [ark.ca_pem(Signer::Ark), issuer.clone(), issuer].concat();
        Self { vek: vek.vek_der(), crl: crl.der(), roots }
    }

    /// A report over `report_data`, as the firmware of this machine signs it.
    pub(crate) fn report(&self, report_data: &[u8; 64]) -> Vec<u8> {
        self.report_with(report_data, |_| {})
    }

    /// The same of a guest that something is different of.
    pub(crate) fn report_with(
        &self,
        report_data: &[u8; 64],
        change: impl FnOnce(&mut [u8]),
    ) -> Vec<u8> {
        let mut report = vec![0; 1184];
        for (offset, value) in [(0x00, 3), (0x34, 1), (0x40, 0x3E)] {
            report[offset] = value;
        }
        report[0x08..0x10].copy_from_slice(&0x03D2_0137_u64.to_le_bytes());
        report[0x50..0x90].copy_from_slice(report_data);
        report[0x90..0xC0].fill(0x14);
        report[0x1A0..0x1E0].fill(0x18);
        for tcb in [0x38, 0x180, 0x1E0, 0x1F0] {
            report[tcb..][..8].copy_from_slice(&[10, 1, 0, 0, 0, 0, 23, 200]);
        }
        report[0x188..][..3].copy_from_slice(&[0x19, 0x11, 0x01]);
        for firmware in [0x1E8, 0x1EC] {
            report[firmware..][..3].copy_from_slice(&[40, 55, 1]);
        }
        change(&mut report);
        sign_report(&mut report);
        report
    }

    /// The certificate as a host hands it over: the table of AMD's GHCB specification (56421,
    /// "Certificate table"), one entry and the end.
    pub(crate) fn certificate_table(&self) -> Vec<u8> {
        let entry = |guid: u128, offset: usize, bytes: usize| {
            let numbers =
                [offset, bytes].map(|number| u32::try_from(number).unwrap().to_le_bytes());
            [&guid.to_be_bytes()[..], &numbers.concat()].concat()
        };
        let vcek = entry(0x63da758d_e664_4564_adc5_f4b93be8accd, 48, self.vek.len());
        [vcek, vec![0; 24], self.vek.clone()].concat()
    }
}
