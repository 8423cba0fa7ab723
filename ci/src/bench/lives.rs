//! How long a key's life takes around its work.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::BenchError;
use super::figure::{Figure, Target, Unit};
use super::installation::Installation;
use super::samples::Samples;
use crate::programs::output;

/// From before `evanesce run` is started to the first answer of its agent, in which the start of
/// the command is; and from the end of the command, by the launcher's own log, to the launcher's
/// end, which comes after the receipt (its events end before there is one).
pub(super) fn figures(installation: &Installation, lives: u32) -> Result<Vec<Figure>, BenchError> {
    let (mut to_signature, mut to_receipt) = (Vec::new(), Vec::new());
    for _ in 0..lives {
        let begin = Instant::now();
        let held = installation.hold()?;
        held.connect()?.sign().map_err(BenchError::Agent)?;
        to_signature.push(begin.elapsed());
        let log = held.finish()?;
        to_receipt.push(since(OffsetDateTime::now_utc(), &log, "command.ended")?);
    }
    let (to_signature, to_receipt) = (Samples::new(to_signature), Samples::new(to_receipt));
    Ok(vec![
        Figure::ms("spawn to first signature, median", to_signature.median())
            .with_target(Target::AtMost(15.0))
            .with_detail(&to_signature),
        Figure::ms("scrub to receipt, median", to_receipt.median())
            .with_target(Target::AtMost(10.0))
            .with_detail(&to_receipt),
    ])
}

/// The whole life of `evanesce run -- true` against that of `node -e 0`, by turns.
pub(super) fn against_node(installation: &Installation, lives: u32) -> Result<Figure, BenchError> {
    const WHAT: &str = "whole life of `evanesce run -- true`, receipt included / `node -e 0`";
    if output(Command::new("node").arg("--version")).is_err() {
        return Ok(Figure::not_measured(WHAT, Unit::Ratio, "there is no node here"));
    }
    let mut run = installation.evanesce();
    run.args(["run", "--", "true"]);
    let mut node = Command::new("node");
    node.args(["-e", "0"]);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..lives {
        for (command, times) in [&mut run, &mut node].into_iter().zip(&mut times) {
            times.push(life_of(command)?);
        }
    }
    let [run, node] = times.map(Samples::new);
    Ok(Figure::ratio(WHAT, run.median(), node.median())
        .with_target(Target::AtMost(0.5))
        .with_detail(format!("evanesce {run}; node {node}")))
}

fn life_of(command: &mut Command) -> Result<Duration, BenchError> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let status = command.status().map_err(BenchError::Start)?;
    let took = begin.elapsed();
    match status.success() {
        true => Ok(took),
        false => Err(BenchError::Ended { status }),
    }
}

/// The time from an event of a log to `end`.
fn since(end: OffsetDateTime, log: &str, event: &str) -> Result<Duration, BenchError> {
    let field = format!("event={event}");
    let line = log.lines().find(|line| line.split(' ').any(|word| word == field));
    let begin = line.and_then(|line| OffsetDateTime::parse(line.split(' ').next()?, &Rfc3339).ok());
    begin
        .and_then(|begin| Duration::try_from(end - begin).ok())
        .ok_or(BenchError::Output { of: "the log of evanesce" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_an_event_is_read_from_the_log() {
        let log = "\
2026-01-02T23:59:59.999000Z  INFO evanesce_launcher: event=command.ended workload=w-1
2026-01-03T00:00:00.001250Z  INFO evanesce_launcher: event=workload.ended workload=w-1
";
        let end = OffsetDateTime::parse("2026-01-03T00:00:00.001250Z", &Rfc3339).unwrap();
        assert_eq!(since(end, log, "command.ended").unwrap(), Duration::from_micros(2250));

        since(end, log, "command").unwrap_err();
        since(end - Duration::from_secs(1), log, "command.ended").unwrap_err();
    }
}
