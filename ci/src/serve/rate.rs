//! Signatures a second over one TLS connection, beside those through the agent socket.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ServeError;
use super::client::{Client, check, connect, tls};
use super::server::{CLIENT, Server};
use crate::bench::{AgentClient, BenchError, Samples};

/// What both ways gave, of the same worker, in turns.
#[derive(Debug)]
pub(super) struct Rates {
    remote_per_s: f64,
    agent_per_s: f64,
    remote: Samples,
}

pub(super) fn measure(server: &Server, requests: u32) -> Result<Rates, ServeError> {
    // One thread, which takes tasks in order: what the callers ask after one read goes out in one
    // write. A client that is in its own way would be measured in the server's place.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let config = tls(server, CLIENT)?;
    let (mut remote, mut agents, mut times) = (Vec::new(), Vec::new(), Vec::new());
    // The first round only warms both up.
    for round in 0..=ROUNDS {
        // Neither waits unused for the other's turn, at whose end it might be taken for stuck.
        let mut agent = AgentClient::connect(&server.agent("files")).map_err(BenchError::Agent)?;
        let took = agent.sign_many(requests, CALLERS).map_err(BenchError::Agent)?;
        let stream = connect(server.address, Arc::clone(&config));
        let client = runtime.block_on(async { Client::over(stream.await?).await })?;
        let begin = Instant::now();
        let of_round = runtime.block_on(ask(&client, requests))?;
        let took_remote = begin.elapsed();
        if round > 0 {
            agents.push(took);
            remote.push(took_remote);
            times.extend(of_round);
        }
    }
    let per_s = |took: &[Duration]| {
        let least = took.iter().min().expect("there are rounds");
        f64::from(requests) / least.as_secs_f64()
    };
    Ok(Rates {
        remote_per_s: per_s(&remote),
        agent_per_s: per_s(&agents),
        remote: Samples::new(times),
    })
}

/// Has so many requests signed by callers side by side, and says how long each took.
async fn ask(client: &Client, requests: u32) -> Result<Vec<Duration>, ServeError> {
    let callers: Vec<_> = (0..CALLERS as u64)
        .map(|caller| {
            let mut client = client.clone();
            let share = u64::from(requests) / CALLERS as u64;
            tokio::spawn(async move {
                let mut times = Vec::new();
                for index in 0..share {
                    let number = caller * share + index;
                    let begin = Instant::now();
                    let (status, body) = client.sign(number).await?;
                    times.push(begin.elapsed());
                    if status != 200 {
                        return Err(ServeError::Answer(format!("status {status}")));
                    }
                    // Checking each would measure the checking.
                    if index % CHECK_EACH == 0 {
                        check(number, &body)?;
                    }
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await.map_err(|error| ServeError::Answer(error.to_string()))??);
    }
    Ok(times)
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { remote_per_s, agent_per_s, remote } = self;
        let ratio = remote_per_s / agent_per_s;
        writeln!(
            f,
            "remote / agent socket, {CALLERS} callers, one TLS connection: {ratio:.2} \
             ({remote_per_s:.0} and {agent_per_s:.0} signatures a second; target 0.5)"
        )?;
        write!(f, "one remote request: {remote} (target p99 5 ms)")
    }
}

const CALLERS: usize = 16;

const ROUNDS: usize = 5;

const CHECK_EACH: u64 = 64;
