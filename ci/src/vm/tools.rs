//! The programs that have to be installed, and the Debian packages that have them.

use std::path::Path;

use super::error::VmError;

/// Names every package that is missing, at once.
pub(crate) fn check() -> Result<(), VmError> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(VmError::Tools { missing }) }
}

fn is_there(program: &str) -> bool {
    FOLDERS.iter().any(|folder| Path::new(folder).join(program).exists())
}

const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("dpkg-deb", "dpkg"),
    ("xz", "xz-utils"),
    ("make", "make"),
    ("gcc-12", "gcc-12"),
];

const FOLDERS: &[&str] = &["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
