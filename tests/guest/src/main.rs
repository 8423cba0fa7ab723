//! `evanesce-guest`: takes the host's orders, and plays everything in the guest that is not
//! evanesce.
//!
//! | role | what it does |
//! |---|---|
//! | `serve` | takes orders from the host, as a unit of systemd |
//! | `sign KEY COUNT` | a workload's command: wipes the key file KEY, signs COUNT times (0: for ever) through the agent |
//! | `hold MASKED PAGES` | a positive control: the key on its heap, in each of PAGES pages |
//! | `sign-alone MASKED` | a positive control: signs for ever with the key in its own memory |
//! | `hog MIB` | fills memory, so that others have to go to swap |
//!
//! All but `serve` say one line once they are where they are to be, and go on until their standard
//! input ends.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "whoever started it reads what it says")]
#![expect(clippy::disallowed_methods, reason = "a workload finds its agent in the environment")]

mod roles;
mod serve;

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve"] => serve::serve(),
        ["sign", key, count] => roles::sign(Path::new(key), count.parse()?),
        ["hold", masked, pages] => roles::hold(Path::new(masked), pages.parse()?),
        ["sign-alone", masked] => roles::sign_alone(Path::new(masked)),
        ["hog", mib] => roles::hog(mib.parse()?),
        _ => Err("no such role".into()),
    }
}
