//! Scan speed on one core: `taskset -c 1 cargo bench -p evanesce-residue --bench scan`.
//!
//! Files are in the page cache. The signatures of one key make most of the index: 0 and 1,000.

#![expect(missing_docs, reason = "the macros of criterion make an undocumented function")]

use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use evanesce_residue::{Canary, Scanner, unwatched};

const FILE_BYTES: usize = 256 << 20;

fn scan(criterion: &mut Criterion) {
    let canary = Canary::random().expect("the kernel has entropy");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let random = directory.path().join("random");
    fill(&random, |block| getrandom::fill(block).expect("the kernel has entropy"));
    // What memory and disks mostly hold: text, code and numbers, here this program itself.
    let binary = directory.path().join("binary");
    let own = std::fs::read(std::env::current_exe().expect("a path")).expect("readable");
    let mut own = own.iter().cycle();
    fill(&binary, |block| block.fill_with(|| *own.next().expect("endless")));
    let zero = directory.path().join("zero");
    fill(&zero, |block| block.fill(0));
    let hexadecimal = directory.path().join("hex");
    fill(&hexadecimal, |block| {
        let mut bytes = vec![0; block.len() / 2];
        getrandom::fill(&mut bytes).expect("the kernel has entropy");
        hex::encode_to_slice(bytes, block).expect("two digits a byte");
    });

    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Bytes(FILE_BYTES as u64)).sample_size(10);
    for signatures in [0_u64, 1000] {
        let messages: Vec<[u8; 8]> = (0..signatures).map(u64::to_le_bytes).collect();
        let messages: Vec<&[u8]> = messages.iter().map(|message| &message[..]).collect();
        let scanner = Scanner::new(&canary.forms(&messages));
        for path in [&random, &binary, &zero, &hexadecimal] {
            let kind = path.file_name().expect("a name").to_string_lossy();
            let id = BenchmarkId::new(kind, signatures);
            group.bench_with_input(id, path, |bencher, path| {
                bencher.iter(|| black_box(scanner.scan_path(path, &mut unwatched())));
            });
        }
    }
    group.finish();
}

fn fill(path: &Path, mut block: impl FnMut(&mut [u8])) {
    let mut file = File::create(path).expect("a new file");
    let mut bytes = vec![0; 1 << 20];
    for _ in 0..FILE_BYTES / bytes.len() {
        block(&mut bytes);
        file.write_all(&bytes).expect("room for the file");
    }
}

criterion_group!(benches, scan);
criterion_main!(benches);
