//! What evanesce does for the one who uses it, and against the one who attacks it: the program as
//! it is built, real peers, real processes. One file for each thing to be shown.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test and its helpers, a panic is the failure")]

mod architecture;
mod attestation;
mod auditor;
mod bad_input;
mod custody;
mod degraded;
mod disk;
mod ends;
mod hostile;
mod image;
mod many;
mod newcomer;
mod release;
mod residue;
mod rotation;
mod run;
mod serve;
mod tdx;
mod tools;
mod transparency;
mod tsm_fs;
mod units;

#[path = "../../runtime/appraisal/tests/support/der.rs"]
mod der;
#[path = "../../runtime/appraisal/tests/support/genoa.rs"]
mod genoa;
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../../runtime/appraisal/tests/snp_rules/pki.rs"]
mod snp_pki;

use evanesce_tests::Installation;

/// An installation of the program under test, for whoever runs the tests.
fn installation() -> Installation {
    Installation::new(PROGRAM)
}

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_evanesce-under-test");
