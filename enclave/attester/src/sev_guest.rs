//! `/dev/sev-guest` (Linux 5.19), for kernels without configfs-tsm. The `sev` crate makes the calls.

use std::io;

use evanesce_protocol::evidence::{CollectError, REPORT_DATA_BYTES, RawEvidence, provider};
use evanesce_protocol::limits::{EVIDENCE_AUXBLOB_BYTES_MAX, EVIDENCE_OUTBLOB_BYTES_MAX};
use sev::firmware::guest::Firmware;
use sev::firmware::host::{CertTableEntry, CertType};

/// The device, as the `sev` crate opens it.
pub(crate) const DEVICE: &str = "/dev/sev-guest";

/// Why the device gave no evidence.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It is not there.
    Absent(String),
    /// It is there, and does not do what it should.
    Refused(CollectError),
}

/// Has the firmware sign `report_data`, at the highest privilege level.
///
/// The extended request brings certificates along. A host that hands out none may refuse it; then
/// the plain one is made.
pub(crate) fn collect(report_data: &[u8; REPORT_DATA_BYTES]) -> Result<RawEvidence, Failure> {
    let mut firmware = match Firmware::open() {
        Ok(firmware) => firmware,
        Err(error) if is_absent(&error) => return Err(Failure::Absent(error.to_string())),
        Err(error) => return Err(refused("opening /dev/sev-guest", &error)),
    };
    let data = Some(*report_data);
    let (outblob, certificates) = match firmware.get_ext_report(None, data, LEVEL) {
        Ok(both) => both,
        Err(_) => {
            let report = firmware.get_report(None, data, LEVEL);
            (report.map_err(|error| refused("asking for a report", &error))?, None)
        }
    };
    if outblob.len() > EVIDENCE_OUTBLOB_BYTES_MAX {
        return Err(Failure::Refused(CollectError::TooLong {
            what: "the report".to_owned(),
            limit_bytes: EVIDENCE_OUTBLOB_BYTES_MAX as u64,
        }));
    }
    let auxblob = table_of(&certificates.unwrap_or_default());
    Ok(RawEvidence { provider: provider::SNP.to_owned(), outblob, auxblob })
}

/// The certificates as configfs-tsm would hand them over: a table of GUID, offset and length, an
/// entry of zeros, the certificates. `None` where there are none, or more than fit.
fn table_of(certificates: &[CertTableEntry]) -> Option<Vec<u8>> {
    let known: Vec<_> = certificates
        .iter()
        .filter_map(|entry| Some((guid_of(&entry.cert_type)?, entry.data())))
        .collect();
    let head_bytes = (known.len() + 1) * ENTRY_BYTES;
    let (mut head, mut body) = (Vec::new(), Vec::new());
    for (guid, data) in &known {
        let offset = u32::try_from(head_bytes + body.len()).ok()?;
        head.extend(guid);
        head.extend(offset.to_le_bytes());
        head.extend(u32::try_from(data.len()).ok()?.to_le_bytes());
        body.extend(*data);
    }
    head.resize(head_bytes, 0);
    head.append(&mut body);
    (!known.is_empty() && head.len() <= EVIDENCE_AUXBLOB_BYTES_MAX).then_some(head)
}

/// The GUID of a kind, in the byte order of RFC 4122; only keys and their issuers matter.
fn guid_of(kind: &CertType) -> Option<[u8; 16]> {
    let guid: u128 = match kind {
        CertType::ARK => 0xc0b406a4_a803_4952_9743_3fb6014cd0ae,
        CertType::ASK => 0x4ab7b379_bbac_4fe4_a02f_05aef327c782,
        CertType::VCEK => 0x63da758d_e664_4564_adc5_f4b93be8accd,
        CertType::VLEK => 0xa8074bc2_a25a_483e_aae6_39c045a0b8a1,
        CertType::Empty | CertType::CRL | CertType::OTHER(_) => return None,
    };
    Some(guid.to_be_bytes())
}

fn is_absent(error: &io::Error) -> bool {
    let gone = [rustix::io::Errno::NXIO, rustix::io::Errno::NODEV].map(|e| e.raw_os_error());
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error().is_some_and(|errno| gone.contains(&errno))
}

fn refused(step: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::Refused(CollectError::Io { step: step.to_owned(), reason: error.to_string() })
}

/// VMPL 0, the guest's own where there is no service module. The crate's default is 1, and the
/// firmware signs for any level below the asker's.
const LEVEL: Option<u32> = Some(0);

/// AMD 56421, section 4.1.8.1.
const ENTRY_BYTES: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_become_the_table_that_configfs_has() {
        let entries = [
            CertTableEntry::new(CertType::ASK, b"ask".to_vec()),
            CertTableEntry::new(CertType::VCEK, b"vcek!".to_vec()),
        ];

        let table = table_of(&entries).unwrap();

        assert_eq!(&table[72..], b"askvcek!");
        assert_eq!(&table[24..28], &[0x63, 0xda, 0x75, 0x8d]);
        assert_eq!(&table[40..48], &[75, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(&table[48..72], &[0; 24]);
        assert_eq!(table_of(&[]), None);
    }
}
