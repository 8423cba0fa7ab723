//! What was counted, as Prometheus reads it (text format 0.0.4).
//!
//! The names of routes, codes, keys and clients are few and known, so there is a bound on what can be
//! counted; nothing that a client sends becomes a label.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::keys::Key;

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    answers: Mutex<BTreeMap<Answer, u64>>,
    sign_seconds: Histogram,
    pub(crate) connections: Gauge,
    pub(crate) handshakes_failed: Counter,
    pub(crate) connections_cut: Counter,
    pub(crate) reloads: Counter,
    pub(crate) reloads_failed: Counter,
}

/// One kind of answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Answer {
    pub(crate) route: &'static str,
    pub(crate) status: u16,
    /// The code of the problem, `ok` where there is none.
    pub(crate) code: &'static str,
    /// The client's name; empty for a stranger.
    pub(crate) client: String,
}

impl Metrics {
    /// Counts an answer, and how long it took where a signature was asked for.
    pub(crate) fn answered(&self, answer: Answer, took: Duration) {
        if answer.route == "sign" && answer.status == 200 {
            self.sign_seconds.observe(took);
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry(answer).or_insert(0) += 1;
    }

    /// The text that Prometheus reads.
    pub(crate) fn to_text<'a>(&self, keys: impl Iterator<Item = &'a Key> + Clone) -> String {
        let mut out = String::new();
        let mut put = |line: std::fmt::Arguments<'_>| {
            out.write_fmt(line).expect("a String takes any text");
        };
        put(format_args!("# TYPE evanesce_answers_total counter\n"));
        for (answer, count) in &*self.answers.lock().unwrap_or_else(PoisonError::into_inner) {
            let Answer { route, status, code, client } = answer;
            put(format_args!(
                "evanesce_answers_total{{route=\"{route}\",status=\"{status}\",code=\"{code}\",client=\"{client}\"}} {count}\n"
            ));
        }
        put(format_args!("# TYPE evanesce_signatures_total counter\n"));
        for key in keys.clone() {
            let (name, count) = (&key.setup.name, key.signatures());
            put(format_args!("evanesce_signatures_total{{key=\"{name}\"}} {count}\n"));
        }
        put(format_args!("# TYPE evanesce_key_serving gauge\n"));
        for key in keys {
            let (name, serving) = (&key.setup.name, u8::from(key.end().is_none()));
            put(format_args!("evanesce_key_serving{{key=\"{name}\"}} {serving}\n"));
        }
        put(format_args!("# TYPE evanesce_sign_seconds histogram\n"));
        let (mut below, buckets) = (0, self.sign_seconds.counts());
        for (bound, count) in BOUNDS_S.iter().zip(buckets) {
            below += count;
            put(format_args!("evanesce_sign_seconds_bucket{{le=\"{bound}\"}} {below}\n"));
        }
        let (count, sum) = self.sign_seconds.count_and_sum();
        put(format_args!("evanesce_sign_seconds_bucket{{le=\"+Inf\"}} {count}\n"));
        put(format_args!("evanesce_sign_seconds_sum {}\n", sum.as_secs_f64()));
        put(format_args!("evanesce_sign_seconds_count {count}\n"));
        put(format_args!("# TYPE evanesce_connections gauge\n"));
        put(format_args!("evanesce_connections {}\n", self.connections.get()));
        for (name, counter) in [
            ("evanesce_handshakes_failed_total", &self.handshakes_failed),
            ("evanesce_connections_cut_total", &self.connections_cut),
            ("evanesce_reloads_total", &self.reloads),
            ("evanesce_reloads_failed_total", &self.reloads_failed),
        ] {
            put(format_args!("# TYPE {name} counter\n{name} {}\n", counter.get()));
        }
        out
    }
}

/// Counts up.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    /// One more, until the result is dropped.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }

    fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of what a [`Gauge`] shows.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long something took, in steps.
#[derive(Debug, Default)]
struct Histogram {
    counts: [AtomicU64; BOUNDS_S.len()],
    count: AtomicU64,
    sum_ns: AtomicU64,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(bucket) = BOUNDS_S.iter().position(|bound| seconds <= *bound) {
            self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn counts(&self) -> [u64; BOUNDS_S.len()] {
        std::array::from_fn(|bucket| self.counts[bucket].load(Ordering::Relaxed))
    }

    fn count_and_sum(&self) -> (u64, Duration) {
        let sum = Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed));
        (self.count.load(Ordering::Relaxed), sum)
    }
}

/// Seconds.
const BOUNDS_S: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.25, 1.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_is_counted_by_route_status_code_and_client() {
        let metrics = Metrics::default();
        let answer = |status, code| Answer { route: "sign", status, code, client: "ci".into() };
        metrics.answered(answer(200, "ok"), Duration::from_micros(700));
        metrics.answered(answer(200, "ok"), Duration::from_secs(2));
        metrics.answered(answer(429, "rate.exceeded"), Duration::ZERO);
        let held = metrics.connections.hold();

        let text = metrics.to_text(std::iter::empty());

        for line in [
            r#"evanesce_answers_total{route="sign",status="200",code="ok",client="ci"} 2"#,
            r#"evanesce_answers_total{route="sign",status="429",code="rate.exceeded",client="ci"} 1"#,
            r#"evanesce_sign_seconds_bucket{le="0.0005"} 0"#,
            r#"evanesce_sign_seconds_bucket{le="0.001"} 1"#,
            r#"evanesce_sign_seconds_bucket{le="1"} 1"#,
            r#"evanesce_sign_seconds_bucket{le="+Inf"} 2"#,
            "evanesce_sign_seconds_count 2",
            "evanesce_connections 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        drop(held);
        assert!(metrics.to_text(std::iter::empty()).contains("evanesce_connections 0\n"));
    }
}
