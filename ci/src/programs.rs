//! Other programs: run to their end, their output taken or shown, and `cargo` among them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use serde_json::Value;

/// Runs a program to its end and takes the text that it printed.
pub(crate) fn output(command: &mut Command) -> Result<String, ProgramError> {
    Ok(String::from_utf8_lossy(&bytes(command)?).into_owned())
}

/// Runs a program to its end and takes what it printed.
pub(crate) fn bytes(command: &mut Command) -> Result<Vec<u8>, ProgramError> {
    let program = name(command);
    let Output { status, stdout, stderr } = command
        .output()
        .map_err(|source| ProgramError::Start { program: program.clone(), source })?;
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        return Err(ProgramError::Failed { program, stderr });
    }
    Ok(stdout)
}

/// Runs a program to its end. What it prints is seen by whoever runs this.
pub(crate) fn show(command: &mut Command) -> Result<(), ProgramError> {
    let program = name(command);
    let status = command
        .status()
        .map_err(|source| ProgramError::Start { program: program.clone(), source })?;
    match status.success() {
        true => Ok(()),
        false => Err(ProgramError::Status { program, status }),
    }
}

/// The cargo that built this, to be run in the repository.
///
/// Not with what cargo told this program of its package: build scripts of other packages look at the
/// same names, and would be run again, with all that depends on them.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(repository());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| text.starts_with(start)) {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> Result<PathBuf, ProgramError> {
    let mut metadata = cargo();
    metadata.args(["metadata", "--no-deps", "--format-version=1", "--locked"]);
    let program = name(&metadata);
    serde_json::from_str(&output(&mut metadata)?)
        .ok()
        .and_then(|metadata: Value| Some(metadata["target_directory"].as_str()?.into()))
        .ok_or(ProgramError::Unexpected { program })
}

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder `ci` is in the repository")
}

/// Why a program did not do its part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ProgramError {
    #[error("could not start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} failed:\n{stderr}")]
    Failed { program: String, stderr: String },
    #[error("{program} failed: {status}")]
    Status { program: String, status: ExitStatus },
    #[error("{program} printed something unexpected")]
    Unexpected { program: String },
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
