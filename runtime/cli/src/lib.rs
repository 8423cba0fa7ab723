//! The command `evanesce`: sign through a key that no dump can show.
//!
//! Start at [`cli`] for the command line, at [`commands`] for what each subcommand does.
//!
//! # How it is put together
//!
//! | what | where |
//! |---|---|
//! | one file per subcommand: `Args` (its docs are the help) and `run` | [`commands`] |
//! | the environment, read once | [`environment`] |
//! | the clock, read here and nowhere below | [`clock`] |
//! | every setting, and where it comes from | [`configuration`] |
//! | everything that is printed | [`ui`] |
//! | exit statuses | [`exit`] |
//! | whose fault an error is, and what to do | [`errors`] and [`advice`] |
//! | what a signature proves | [`signature`] |
//! | whether its signer was attested | [`attestation`] |
//! | a canary's life on this host | [`drill`] |
//! | what to do, step by step | [`playbook`] |
//! | ways between the holder of a key and who asks for it | `release` |
//! | pages that stand alone | [`html`], [`certificate_page`] |
//!
//! # Invariant
//!
//! This process never holds a byte of a private key: it passes names of key files on, and talks to
//! a worker through its agent socket like any other client.

#![forbid(unsafe_code)]

pub mod advice;
pub mod agent_client;
pub mod attestation;
pub mod certificate_page;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod configuration;
pub mod context;
pub mod directories;
pub mod drill;
pub mod environment;
pub mod errors;
pub mod exit;
pub mod files;
pub mod html;
pub mod local_log;
pub mod log;
pub mod new_file;
pub mod otlp;
pub mod playbook;
pub mod progress;
pub mod publisher;
pub mod receipt_text;
mod release;
pub mod signature;
pub mod trust;
pub mod ui;

pub use cli::main;
