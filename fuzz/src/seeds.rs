//! The valid inputs that fuzzing starts from.

mod agent;
mod control;
mod keys;
mod ledger;
mod machine;
#[path = "../../runtime/ledger/tests/support/mod.rs"]
#[expect(dead_code, reason = "the ledger's tests use the rest")]
mod support;

use std::fs;
use std::io;
use std::path::PathBuf;

/// Writes the seeds of a target, a file each, into the directory that `EVANESCE_SEEDS` names.
///
/// # Panics
///
/// Where they cannot be written.
pub fn write_where_asked(target: &str) {
    let Some(directory) = std::env::var_os("EVANESCE_SEEDS").map(PathBuf::from) else { return };
    let write = || {
        let seeds = match target {
            "agent-frames" => agent::seeds(),
            "control-messages" => control::seeds(),
            "key-files" => keys::seeds(),
            "ledger-segments" => ledger::seeds()?,
            "machine" => machine::seeds(),
            "evidence" => crate::evidence::seeds(),
            _ => unreachable!("a target has seeds"),
        };
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed)?;
        }
        io::Result::Ok(())
    };
    write().expect("the directory can be written");
}
