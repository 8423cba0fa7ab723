//! evanesce's agent against OpenSSH's: the same client, the same requests, by turns.

use std::io;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::BenchError;
use super::client::Client;
use super::figure::{Figure, Target};
use super::installation::{Installation, SshAgent};
use super::samples::Samples;

/// Compares the agents in so many rounds of so many requests to each.
pub(super) fn figures(
    installation: &Installation,
    rounds: u32,
    requests: u32,
) -> Result<Vec<Figure>, BenchError> {
    let one_by_one = |client: &mut Client| (0..requests).map(|_| client.sign()).collect();
    let pipelined = |client: &mut Client| {
        client.sign_many(requests, OUTSTANDING).map(|took| vec![took / requests])
    };
    let pinned = on_one_core(|| Times::take(installation, rounds, one_by_one))?;
    let free = Times::take(installation, rounds, one_by_one)?;
    let many = Times::take(installation, rounds, pipelined)?;

    let p99 = pinned.evanesce.percentile(99);
    Ok(vec![
        pinned
            .figure("agent socket / OpenSSH's ssh-agent, all on one core, one request outstanding")
            .with_target(Target::AtLeast(15.0)),
        Figure::us("the same, one request of evanesce, 99th percentile", p99)
            .with_target(Target::AtMost(150.0)),
        free.figure("the same, not pinned"),
        many.figure(&format!("the same, not pinned, {OUTSTANDING} requests outstanding")),
    ])
}

/// How long a request took with each agent.
struct Times {
    evanesce: Samples,
    openssh: Samples,
}

impl Times {
    fn take(
        installation: &Installation,
        rounds: u32,
        round: impl Fn(&mut Client) -> io::Result<Vec<Duration>>,
    ) -> Result<Self, BenchError> {
        let (workload, ssh_agent) = (installation.hold()?, SshAgent::start()?);
        let mut clients = [workload.connect()?, ssh_agent.connect()?];
        let mut times = [Vec::new(), Vec::new()];
        // The first round only warms both up.
        for index in 0..=rounds {
            for (client, times) in clients.iter_mut().zip(&mut times) {
                let taken = round(client).map_err(BenchError::Agent)?;
                if index > 0 {
                    times.extend(taken);
                }
            }
        }
        drop(clients);
        workload.finish()?;
        let [evanesce, openssh] = times.map(Samples::new);
        Ok(Self { evanesce, openssh })
    }

    fn figure(&self, what: &str) -> Figure {
        Figure::ratio(what, self.openssh.median(), self.evanesce.median())
            .with_detail(format!("evanesce {}; ssh-agent {}", self.evanesce, self.openssh))
    }
}

/// Does something while this thread, and with it all that it starts, keeps to one core.
fn on_one_core<T>(work: impl FnOnce() -> Result<T, BenchError>) -> Result<T, BenchError> {
    let all = sched_getaffinity(None).map_err(BenchError::Pin)?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|core| all.is_set(*core));
    let mut one = CpuSet::new();
    one.set(last.expect("this thread runs somewhere"));
    sched_setaffinity(None, &one).map_err(BenchError::Pin)?;
    let done = work();
    sched_setaffinity(None, &all).map_err(BenchError::Pin)?;
    done
}

/// Requests under way at once, where it is more than one.
const OUTSTANDING: usize = 16;
