//! Which way to evidence is taken.

use std::path::Path;

use evanesce_protocol::evidence::{CollectError, EvidenceSource, REPORT_DATA_BYTES, RawEvidence};

use crate::configfs::{self, ConfigFs, TSM_ROOT};
use crate::sev_guest;

/// Has the machine sign `report_data`: through configfs-tsm, else through `/dev/sev-guest`, else
/// not at all.
///
/// `/dev/tdx_guest` is no way: it gives a report that only this very machine can check.
///
/// # Errors
///
/// [`CollectError`] where there is no evidence, or not of these bytes.
pub fn collect(
    report_data: &[u8; REPORT_DATA_BYTES],
    tsm_root: Option<&str>,
    source: EvidenceSource,
) -> Result<RawEvidence, CollectError> {
    let raw = match source {
        EvidenceSource::Machine => of_machine(report_data, tsm_root)?,
        EvidenceSource::InsecureSoftware => of_software(report_data)?,
    };
    match raw.report_data() == Some(report_data) {
        true => Ok(raw),
        false => Err(CollectError::ReportData),
    }
}

fn of_machine(
    report_data: &[u8; REPORT_DATA_BYTES],
    tsm_root: Option<&str>,
) -> Result<RawEvidence, CollectError> {
    let root = Path::new(tsm_root.unwrap_or(TSM_ROOT));
    let tsm = ConfigFs::new(root.to_owned());
    let configfs = match configfs::collect(&tsm, report_data) {
        Err(configfs::Failure::Absent(reason)) => format!("{}: {reason}", root.display()),
        Err(configfs::Failure::Refused(error)) => return Err(error),
        Ok(raw) => return Ok(raw),
    };
    let device = match sev_guest::collect(report_data) {
        Err(sev_guest::Failure::Absent(reason)) => {
            format!("{}: {reason}", sev_guest::DEVICE)
        }
        Err(sev_guest::Failure::Refused(error)) => return Err(error),
        Ok(raw) => return Ok(raw),
    };
    Err(CollectError::NoProvider { configfs, device })
}

#[cfg(feature = "danger-insecure-software")]
fn of_software(report_data: &[u8; REPORT_DATA_BYTES]) -> Result<RawEvidence, CollectError> {
    crate::software::collect(report_data)
}

#[cfg(not(feature = "danger-insecure-software"))]
fn of_software(_: &[u8; REPORT_DATA_BYTES]) -> Result<RawEvidence, CollectError> {
    Err(CollectError::NoSoftware)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_provider_refuses_and_says_what_was_looked_for() {
        if Path::new(sev_guest::DEVICE).exists() {
            return;
        }
        let refused = collect(&[1; 64], Some("/nonexistent/tsm"), EvidenceSource::Machine);

        let Err(error @ CollectError::NoProvider { .. }) = refused else { panic!("{refused:?}") };
        let text = error.to_string();
        assert!(text.contains("/nonexistent/tsm") && text.contains("/dev/sev-guest"), "{text}");
    }

    #[cfg(not(feature = "danger-insecure-software"))]
    #[test]
    fn software_never_stands_in_for_a_machine_in_an_ordinary_build() {
        let refused = collect(&[1; 64], None, EvidenceSource::InsecureSoftware);

        assert_eq!(refused, Err(CollectError::NoSoftware));
    }

    #[cfg(feature = "danger-insecure-software")]
    #[test]
    fn software_evidence_has_the_bytes_and_another_key_each_time() {
        let [one, two] =
            [(), ()].map(|()| collect(&[1; 64], None, EvidenceSource::InsecureSoftware).unwrap());

        assert_eq!(one.report_data(), Some(&[1; 64]));
        assert_ne!(one.outblob, two.outblob);
    }
}
