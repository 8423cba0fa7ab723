//! schemathesis over the document that the server shows.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::ServeError;
use super::server::{CLIENT, KEYS, Server};
use crate::programs::{ProgramError, output, show, target_directory};

/// What it found nothing wrong with.
#[derive(Debug)]
pub(super) struct Outcome {
    examples: u32,
}

pub(super) fn check(server: &Server, examples: u32) -> Result<Outcome, ServeError> {
    let tools = target_directory()?.join("python-tools");
    let program = tools.join("bin/st");
    if !program.exists() {
        install(&tools).map_err(ServeError::NoSchemathesis)?;
    }
    let document = server.path("openapi.json");
    fs::write(&document, with_key_names(DOCUMENT)?)?;
    let at = format!("https://localhost:{}", server.address.port());
    let mut schemathesis = Command::new(program);
    schemathesis
        .current_dir(server.path("."))
        .arg("run")
        .arg(document)
        .args(["--url", &at, "--checks", "all"])
        // Which certificate is shown is beneath HTTP, out of its reach.
        .args(["--exclude-checks", "ignored_auth"])
        .args(["--max-examples", &examples.to_string(), "--seed", "1", "--workers", "1"])
        .arg("--tls-verify")
        .arg(server.path("ca.pem"))
        .arg("--request-cert")
        .arg(server.path(&format!("{CLIENT}.pem")))
        .arg("--request-cert-key")
        .arg(server.path(&format!("{CLIENT}.key")));
    show(&mut schemathesis)?;
    Ok(Outcome { examples })
}

/// The document with the names of the keys that there are: no generator would find them.
fn with_key_names(document: &str) -> Result<String, ServeError> {
    let wrong = |error: serde_json::Error| ServeError::Answer(error.to_string());
    let mut document: Value = serde_json::from_str(document).map_err(wrong)?;
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    let operations = paths.filter_map(Value::as_object_mut).flat_map(|path| path.values_mut());
    for operation in operations {
        if let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) {
            for parameter in parameters {
                parameter["schema"] = json!({ "enum": KEYS });
            }
        }
    }
    serde_json::to_string(&document).map_err(wrong)
}

fn install(tools: &Path) -> Result<(), ProgramError> {
    output(Command::new("python3").args(["-m", "venv"]).arg(tools))?;
    output(Command::new(tools.join("bin/pip")).args(["install", "--quiet", SCHEMATHESIS]))?;
    Ok(())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { examples } = self;
        write!(
            f,
            "schemathesis: no server error, no undocumented answer ({examples} cases an operation)"
        )
    }
}

/// A test of the server holds it against the code.
const DOCUMENT: &str = include_str!("../../../runtime/server/openapi.json");

const SCHEMATHESIS: &str = "schemathesis==4.32.5";
