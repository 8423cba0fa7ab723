//! One file per subcommand.

pub mod audit;
pub mod completions;
pub mod man;
pub mod notary;
pub mod plan;
pub mod ps;
pub mod run;
pub mod sign;
pub mod verify;
