//! `signing-workload COUNT`: signs COUNT requests through the agent, says `signed` and its process
//! id, and waits for the end of its input.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "whoever started it reads what it says")]
#![expect(clippy::disallowed_methods, reason = "a workload finds its agent in the environment")]

use std::error::Error;
use std::io;
use std::path::Path;

use evanesce_tests::agent::{Agent, numbered_request};

fn main() -> Result<(), Box<dyn Error>> {
    let count: usize = std::env::args().nth(1).ok_or("how many signatures?")?.parse()?;
    let socket = std::env::var_os("SSH_AUTH_SOCK").ok_or("there is no agent")?;
    let mut agent = Agent::connect(Path::new(&socket))?;
    let key = agent.keys()?.swap_remove(0);
    for index in 0..count {
        agent.sign(&key, &numbered_request(index))?.ok_or("the agent refused")?;
    }
    println!("signed {}", std::process::id());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
