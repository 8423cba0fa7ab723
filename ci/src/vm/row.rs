//! One result: what was searched when, what was found, and what had to be.

use std::collections::BTreeSet;

use evanesce_residue::ScanReport;
use serde::Serialize;

use super::machine::Store;

/// What a search must find for a row to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Expected {
    /// Nothing of any key: this is what is claimed.
    Nothing,
    /// Something of each key: the search works, or the documents promise no more.
    Every,
    /// Something of at least one key: this is what the claim is held against.
    Some,
    /// Nothing is claimed, and the receipt says so; what is found is reported.
    Unclaimed,
}

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) case: &'static str,
    pub(crate) moment: &'static str,
    pub(crate) store: Store,
    pub(crate) init_on_free: bool,
    pub(crate) expected: Expected,
    pub(crate) holds: bool,
    /// Keys that were searched for, and those of which something was found.
    pub(crate) keys: usize,
    pub(crate) keys_found: usize,
    /// Pages of 4 KiB with something in them.
    pub(crate) pages: usize,
    /// Runs of eight bytes or more, over all keys.
    pub(crate) hits: u64,
    pub(crate) bytes_scanned: u64,
    /// The forms that were found, a signature's number left out.
    pub(crate) forms: Vec<String>,
}

impl Row {
    /// A row of what was found of each key.
    pub(crate) fn new(
        (case, moment): (&'static str, &'static str),
        (store, expected): (Store, Expected),
        init_on_free: bool,
        reports: &[ScanReport],
    ) -> Self {
        let keys_found = reports.iter().filter(|report| report.hits_total > 0).count();
        let bytes_scanned = reports.iter().map(|report| report.bytes_scanned).min().unwrap_or(0);
        let complete =
            bytes_scanned > 0 && reports.iter().all(|report| report.unreadable.is_empty());
        let hits = || reports.iter().flat_map(|report| &report.hits);
        let holds = complete
            && match expected {
                Expected::Nothing => keys_found == 0,
                Expected::Every => keys_found == reports.len(),
                Expected::Some => keys_found > 0,
                Expected::Unclaimed => true,
            };
        Self {
            case,
            moment,
            store,
            init_on_free,
            expected,
            holds,
            keys: reports.len(),
            keys_found,
            pages: hits().map(|hit| hit.offset / PAGE_BYTES).collect::<BTreeSet<_>>().len(),
            hits: reports.iter().map(|report| report.hits_total).sum(),
            bytes_scanned,
            forms: hits().map(|hit| kind(&hit.form)).collect::<BTreeSet<_>>().into_iter().collect(),
        }
    }
}

/// `nonce[7].hash` is of kind `nonce.hash`.
fn kind(form: &str) -> String {
    match (form.split_once('['), form.split_once(']')) {
        (Some((before, _)), Some((_, after))) => format!("{before}{after}"),
        _ => form.to_owned(),
    }
}

const PAGE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use evanesce_residue::{Canary, Scanner, unwatched};

    use super::*;

    fn reports(of: &[bool]) -> Vec<ScanReport> {
        of.iter()
            .map(|found| {
                let canary = Canary::random().unwrap();
                let bytes = if *found { *canary.seed() } else { [0; 32] };
                Scanner::new(&canary.forms(&[]))
                    .scan_reader("bytes", 0, &bytes[..], &mut unwatched())
                    .unwrap()
            })
            .collect()
    }

    fn holds(expected: Expected, found: &[bool]) -> bool {
        let store = (Store::Memory, expected);
        Row::new(("case", "moment"), store, true, &reports(found)).holds
    }

    #[test]
    fn a_row_holds_where_what_was_found_is_what_had_to_be() {
        assert!(holds(Expected::Nothing, &[false, false]));
        assert!(!holds(Expected::Nothing, &[false, true]));
        assert!(holds(Expected::Every, &[true, true]));
        assert!(!holds(Expected::Every, &[false, true]));
        assert!(holds(Expected::Some, &[false, true]));
        assert!(!holds(Expected::Some, &[false, false]));
        assert!(holds(Expected::Unclaimed, &[false, true]));
    }

    /// A search of nothing would find nothing.
    #[test]
    fn a_row_about_no_bytes_never_holds() {
        assert!(!holds(Expected::Nothing, &[]));
        let store = (Store::Disk, Expected::Nothing);
        assert!(!Row::new(("case", "moment"), store, true, &[ScanReport::default()]).holds);
    }

    #[test]
    fn forms_of_all_signatures_are_one_kind() {
        assert_eq!(kind("nonce[7].hash.words"), "nonce.hash.words");
        assert_eq!(kind("seed.base64-1"), "seed.base64-1");
    }
}
