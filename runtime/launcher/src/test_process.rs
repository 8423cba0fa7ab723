//! Processes for tests to stop, to overwrite and to search.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// Starts a program that says `ready` when it is, and waits for it to say so. Its input stays open.
pub(crate) fn ready(program: &str, arguments: &[&str]) -> Child {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

/// A shell that holds [`SECRET`] in a variable. The text is on nobody's command line.
pub(crate) fn holder_of_a_secret() -> Child {
    ready("bash", &["-c", "secret=$(printf 'attack-at-%s' dawn); echo ready; read -r _"])
}

/// What [`holder_of_a_secret`] holds.
pub(crate) const SECRET: &[u8] = b"attack-at-dawn";
