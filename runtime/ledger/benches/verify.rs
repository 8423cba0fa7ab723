//! How long an audit takes, and appending with it.
//!
//! `cargo bench -p evanesce-ledger`. Rows are those of real lives; their number is in the name of
//! each benchmark. `examples/million.rs` makes the ledger of a million rows and audits it once.

#[expect(dead_code, reason = "the tests' helpers, of which this uses a part")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use evanesce_ledger::{Reader, Row};

use support::{TestNotary, audit, open, small_ledger};

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let notary = TestNotary::new(1);
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let mut ledger = small_ledger(dir.path(), &notary);
    support::fill(&mut ledger, &notary, 20_000, 1000);
    let rows = ledger.lock().and_then(|mut writer| writer.head()).expect("it can be read");
    let rows = rows.map_or(0, |(rows, _)| rows);

    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(rows));
    let keys = [notary.key.clone()];
    group.bench_function(format!("verify {rows} rows"), |bench| {
        bench.iter(|| black_box(audit(dir.path(), &keys, None)));
    });
    group.bench_function(format!("parse {rows} rows"), |bench| {
        let reader = Reader::open(dir.path()).expect("it can be read");
        bench.iter(|| reader.rows().filter_map(Result::ok).map(|row: Row| row.seq).max());
    });
    group.throughput(Throughput::Elements(1));
    let fresh = tempfile::tempdir().expect("a temporary directory can be made");
    let mut ledger = open(fresh.path());
    group.bench_function("append 1 row, synced", |bench| {
        bench.iter(|| ledger.append(&[support::failed("a.b")]).map(|appended| appended.last));
    });
    group.finish();
    criterion.final_summary();
}
