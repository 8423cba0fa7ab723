//! How long an appraisal takes: of a SEV-SNP report, and of a TDX quote against `dcap-qvl` alone in
//! the same run. Real evidence from `../shared/vectors`; without it nothing is measured.
//!
//! Prints the ratios itself, of rounds that take turns, so that both sides see the
//! same machine.
#![expect(missing_docs, reason = "criterion's macro makes a public function")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![expect(clippy::print_stderr, reason = "what was measured has to be said")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteCollateralV3, QuotePolicy};
use evanesce_appraisal::{
    Evidence, Expected, Outcome, Policy, Roots, SnpEndorsements, appraise, policy_from_evidence,
};
use time::OffsetDateTime;

fn read(name: &str) -> Option<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors").join(name);
    match fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            eprintln!("nothing measured: {}: {error}", path.display());
            None
        }
    }
}

/// The policy made from the evidence, but for what the vectors have not: a revocation list and a
/// known binding.
fn policy(evidence: Evidence<'_>, roots: &Roots, at: OffsetDateTime) -> Policy {
    let strict = policy_from_evidence(evidence, None, roots, at).unwrap().to_toml();
    let text = strict
        .replace("report_data = \"compared\"", "report_data = \"not-checked\"")
        .replace("required = true", "required = false");
    Policy::from_toml(&text).unwrap()
}

fn snp(criterion: &mut Criterion) {
    let roots = Roots::vendors();
    let at = OffsetDateTime::from_unix_timestamp(1_780_272_000).unwrap();
    for name in ["milan-v3-ms", "genoa-v3-ms", "turin-v5-ms"] {
        let Some(report) = read(&format!("snp/{name}.report.bin")) else { return };
        let Some(vek) = read(&format!("snp/{name}.vek.pem")) else { return };
        let endorsements = SnpEndorsements { vek: Some(&vek), crl: None };
        let evidence = Evidence::Snp { report: &report, endorsements };
        let policy = policy(evidence, &roots, at);
        criterion.bench_function(&format!("appraise {name}"), |bencher| {
            bencher.iter(|| {
                let appraisal =
                    appraise(black_box(evidence), Expected::Nothing, &policy, &roots, at);
                assert_eq!(appraisal.outcome(), Outcome::Trusted);
            });
        });
    }
}

fn tdx(criterion: &mut Criterion) {
    let Some(quote) = read("tdx/v4-b0c06f-phala.quote.bin") else { return };
    let Some(collateral) = read("tdx/collateral-b0c06f-2025-06.json") else { return };
    let (roots, seconds) = (Roots::vendors(), 1_752_919_234);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    let evidence = Evidence::Tdx { quote: &quote, collateral: Some(&collateral) };
    let policy = policy(evidence, &roots, at);
    let seconds = u64::try_from(seconds).unwrap();
    let ours = || {
        let appraisal = appraise(black_box(evidence), Expected::Nothing, &policy, &roots, at);
        assert_eq!(appraisal.outcome(), Outcome::Trusted);
    };
    // What a caller of `dcap-qvl` has to do at least: read the collateral, verify, ask its policy.
    let verifier = QuoteVerifier::new_prod();
    let alone = || {
        let collateral: QuoteCollateralV3 = serde_json::from_slice(black_box(&collateral)).unwrap();
        let strict = QuotePolicy::strict(seconds)
            .allow_dynamic_platform(true)
            .allow_cached_keys(true)
            .allow_smt(true);
        verifier.verify_with_policy(&quote, collateral, seconds, &strict).unwrap();
    };
    criterion.bench_function("appraise v4-b0c06f-phala", |bencher| bencher.iter(ours));
    criterion.bench_function("dcap-qvl v4-b0c06f-phala", |bencher| bencher.iter(alone));

    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let sides: [&dyn Fn(); 2] = [&ours, &alone];
        for (side, times) in sides.iter().zip(&mut times) {
            let start = Instant::now();
            side();
            times.push(start.elapsed());
        }
    }
    for times in &mut times {
        times.sort_unstable();
    }
    let [ours, alone] = times;
    for (what, place) in [("minima", 0), ("medians", ROUNDS / 2)] {
        let (ours, alone) = (ours[place], alone[place]);
        let ratio = ours.as_secs_f64() / alone.as_secs_f64();
        eprintln!(
            "TDX appraisal / dcap-qvl alone, {what} of {ROUNDS} rounds in turns: {ours:?} / {alone:?} = {ratio:.3}"
        );
    }
}

const ROUNDS: usize = 401;

criterion_group!(benches, snp, tdx);
criterion_main!(benches);
