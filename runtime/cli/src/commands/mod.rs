//! One file per subcommand.

pub mod attest;
pub mod audit;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod drill;
pub mod image;
pub mod key;
pub mod key_from;
pub mod log;
pub mod man;
pub mod notary;
pub mod plan;
pub mod playbook;
pub mod ps;
pub mod release;
pub mod run;
pub mod serve;
pub mod shred;
pub mod sign;
pub mod stop;
pub mod verify;
