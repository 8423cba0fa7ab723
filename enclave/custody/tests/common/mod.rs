//! The frozen files and how they are opened.
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "not every test leaves a part unused")]

use std::fs;
use std::path::{Path, PathBuf};

use evanesce_custody::{OrdinaryHeap, SCRATCH_BYTES, Secret, Work, open};
use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::limits::WORK_FACTOR_OPEN_MAX;

/// The seed in RFC 8410, section 10.3.
pub(crate) const SEED: [u8; 32] = [
    0xd4, 0xee, 0x72, 0xdb, 0xf9, 0x13, 0x58, 0x4a, 0xd5, 0xb6, 0xd8, 0xf1, 0xf7, 0x69, 0xf8, 0xad,
    0x3a, 0xfe, 0x7c, 0x28, 0xcb, 0xf1, 0xd4, 0xfb, 0xe0, 0x97, 0xa8, 0x8f, 0x44, 0x75, 0x58, 0x42,
];

/// Its public half.
pub(crate) const PUBLIC: [u8; 32] = [
    0x19, 0xbf, 0x44, 0x09, 0x69, 0x84, 0xcd, 0xfe, 0x85, 0x41, 0xba, 0xc1, 0x67, 0xdc, 0x3b, 0x96,
    0xc8, 0x50, 0x86, 0xaa, 0x30, 0xb6, 0xb6, 0xcb, 0x0c, 0x5c, 0x38, 0xad, 0x70, 0x31, 0x66, 0xe1,
];

pub(crate) const PASSPHRASE: &[u8] = b"correct horse battery staple";

/// The names and contents of the frozen files that begin like this.
pub(crate) fn frozen(beginnings: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| beginnings.iter().any(|beginning| name.starts_with(beginning)))
        .map(|name| (name.clone(), file(&name)))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no file begins like {beginnings:?}");
    files
}

pub(crate) fn file(name: &str) -> Vec<u8> {
    fs::read(directory().join(name)).unwrap()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen")
}

/// Opens a file and gives the seed, its public half checked.
pub(crate) fn seed_of(text: &[u8], secret: Secret<'_>) -> Result<[u8; 32], KeyFormatError> {
    seed_within(text, secret, WORK_FACTOR_OPEN_MAX)
}

/// The same, with as much work of scrypt as is named.
pub(crate) fn seed_within(
    text: &[u8],
    secret: Secret<'_>,
    factor_max: u8,
) -> Result<[u8; 32], KeyFormatError> {
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut work = Work { factor_max, room: &mut OrdinaryHeap };
    let seed = open(text, &mut scratch, secret, &mut work)?;
    seed.check_public_key(&PUBLIC)?;
    Ok(*seed.as_bytes())
}

/// What opens the frozen file of this name.
pub(crate) fn secret_of<'a>(name: &str, identities: &'a [u8]) -> Secret<'a> {
    if name.contains("passphrase") || name.contains("pbkdf2") || name.contains("scrypt") {
        Secret::Passphrase(PASSPHRASE)
    } else if name.ends_with(".age") {
        Secret::Identities(identities)
    } else if name.starts_with("openssh-") {
        Secret::Passphrase(PASSPHRASE)
    } else {
        Secret::None
    }
}
