//! From the journal of requests to `signed` rows.

use std::io;

use evanesce_ledger::row::{REQUESTS_PER_ROW_MAX, Signed};
use evanesce_ledger::{AppendError, Event, NewRow, Timestamp};
use evanesce_protocol::WorkloadId;

use crate::journal::Journal;

/// The rows for all requests that the journal holds by now, in batches that the ledger takes, with
/// `last` behind them.
pub(crate) fn rows<'a>(
    journal: &'a mut Journal,
    workload: &'a WorkloadId,
    now: Timestamp,
    last: Option<&'a Event>,
) -> impl Iterator<Item = Result<Vec<NewRow>, RecordError>> + 'a {
    let mut last = last;
    let row = move |event| NewRow::of_workload(now, workload.clone(), event);
    std::iter::from_fn(move || {
        let mut batch = Vec::new();
        while batch.len() < ROWS_PER_BATCH {
            match journal.next(REQUESTS_PER_ROW_MAX) {
                Ok(Some((first, requests))) => {
                    batch.push(row(Event::Signed(Signed { first, requests })));
                }
                Ok(None) => {
                    batch.extend(last.take().cloned().map(row));
                    break;
                }
                Err(error) => return Some(Err(RecordError::Journal(error))),
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    })
}

/// Why signatures could not be moved from the journal to the ledger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The journal could not be read.
    #[error("the journal of requests could not be read")]
    Journal(#[source] io::Error),
    /// The ledger took no rows.
    #[error("the ledger takes no rows")]
    Ledger(#[from] AppendError),
    /// It failed before, so what the ledger holds has to be read anew first.
    #[error("signatures could not be recorded before")]
    Earlier,
}

impl RecordError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Journal(_) => "journal.read",
            Self::Ledger(error) => error.code(),
            Self::Earlier => "journal.earlier",
        }
    }
}

/// A row of 256 requests has about 20 KiB, a batch of the ledger at most 1 MiB.
const ROWS_PER_BATCH: usize = 32;

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use evanesce_ledger::row::Wiped;
    use evanesce_protocol::{Digest, PublicKey};

    use super::*;

    #[test]
    fn every_request_is_in_one_row_in_order_and_the_last_row_comes_last() {
        // Given a journal with more requests than one batch takes,
        let directory = tempfile::tempdir().unwrap();
        let key = PublicKey::from_bytes([7; 32]);
        let (mut journal, mut worker) =
            Journal::create(&directory.path().join("requests"), &key).unwrap();
        let count = ROWS_PER_BATCH * REQUESTS_PER_ROW_MAX + 3;
        let request = |number: usize| Digest::of(&number.to_be_bytes());
        for number in 0..count {
            worker.write_all(request(number).as_bytes()).unwrap();
        }

        // When they are put into rows,
        let last = Event::Wiped(Wiped { regions: 1, bytes: 1 });
        let id = "w".parse().unwrap();
        let batches: Vec<_> = rows(&mut journal, &id, Timestamp::from_unix_ms(1), Some(&last))
            .map(Result::unwrap)
            .collect();

        // Then all are there once, in order, and the other row ends the last batch.
        assert_eq!(batches.len(), 2);
        let mut next = 0;
        for row in batches.iter().flatten() {
            if let Event::Signed(signed) = &row.event {
                assert_eq!(signed.first, next as u64 + 1);
                for found in &signed.requests {
                    assert_eq!(*found, request(next));
                    next += 1;
                }
            }
        }
        assert_eq!(next, count);
        assert_eq!(batches[1].last().unwrap().event, last);
    }
}
