//! `evanesce-attester`: asks this machine for evidence, once.
//!
//! Started by a launcher alone, with its end of the control channel as standard input. Ends with
//! status 0; what went wrong was reported over the channel.

#![forbid(unsafe_code)]

fn main() {
    evanesce_attester::run();
}
