//! What the tests need of the machine, and saying so where it is not there.

use std::path::Path;
use std::process::Command;
use std::thread;

/// Whether one of `programs` is missing. The caller then returns.
///
/// # Panics
///
/// Where the environment variable `CI` is set: there a test that did not run is a failure.
#[must_use]
pub fn missing(programs: &[&str]) -> bool {
    match programs.iter().find(|program| !is_installed(program)) {
        Some(program) => skip(&format!("there is no {program} here")),
        None => false,
    }
}

/// Whether Python's `cryptography` is missing; see [`missing`].
#[must_use]
pub fn missing_python_cryptography() -> bool {
    let imported = Command::new("python3").args(["-c", "import cryptography"]).output();
    match imported.is_ok_and(|output| output.status.success()) {
        true => false,
        false => skip("there is no python3 with cryptography here"),
    }
}

/// Whether the tests do not run as root; see [`missing`].
#[must_use]
pub fn not_root() -> bool {
    match is_root() {
        true => false,
        false => skip("only root can look into these processes"),
    }
}

/// Whether this user has no shell to log in to; see [`missing`].
#[must_use]
pub fn no_login() -> bool {
    let shell = "getent passwd \"$(id -u)\" | grep -qv -e nologin -e /false";
    let found = Command::new("sh").args(["-c", shell]).output();
    match found.is_ok_and(|output| output.status.success()) {
        true => false,
        false => skip("this user has no shell to log in to"),
    }
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where programs are looked for, by the tests and by all they start.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn is_installed(program: &str) -> bool {
    PATH.split(':').any(|directory| Path::new(directory).join(program).exists())
}

#[expect(
    clippy::disallowed_methods,
    reason = "whether to fail is for whoever runs the tests to say"
)]
#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
fn skip(reason: &str) -> bool {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none(), "{name} has to run where CI is set: {reason}");
    eprintln!("SKIPPED: {name}: {reason}");
    true
}
