//! Key files that can lie on a disk without the key lying there.
//!
//! A masked file is a pad and, equally long, the key file XOR the pad. Whoever has the file has the
//! key: this hides a canary from a search and from nobody else.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Masks `clear` with a pad of the same length.
///
/// # Panics
///
/// Where the pad has another length.
pub fn mask(clear: &[u8], pad: &[u8]) -> Vec<u8> {
    assert_eq!(clear.len(), pad.len(), "a pad is as long as what it masks");
    let masked = clear.iter().zip(pad).map(|(clear, pad)| clear ^ pad);
    pad.iter().copied().chain(masked).collect()
}

/// Makes the file `to`, for its owner alone, of the masked file `from`.
///
/// At no time is more than one byte of the key in this process, in memory or in registers: each is
/// unmasked and written by itself, into the one page that the file has. [`wipe`] overwrites that
/// very page.
///
/// # Errors
///
/// Those of reading and writing, and where `from` is no masked file.
pub fn unmask(from: &Path, to: &Path) -> io::Result<()> {
    let masked = read(from)?;
    let (pad, masked) = masked.split_at(masked.len() / 2);
    let file = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    for (offset, (masked, pad)) in (0..).zip(masked.iter().zip(pad)) {
        file.write_all_at(&[masked ^ pad], offset)?;
    }
    Ok(())
}

/// Overwrites a file in place and removes it.
///
/// # Errors
///
/// Those of writing and removing.
pub fn wipe(path: &Path) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    for offset in 0..file.metadata()?.len() {
        file.write_all_at(&[0], offset)?;
    }
    fs::remove_file(path)
}

/// The whole key in this process's memory: for those that are to be found.
///
/// # Errors
///
/// Those of reading, and where `from` is no masked file.
pub fn danger_unmask_here(from: &Path) -> io::Result<Vec<u8>> {
    let masked = read(from)?;
    let (pad, masked) = masked.split_at(masked.len() / 2);
    Ok(masked.iter().zip(pad).map(|(masked, pad)| masked ^ pad).collect())
}

fn read(from: &Path) -> io::Result<Vec<u8>> {
    let mut masked = Vec::new();
    File::open(from)?.take(MASKED_BYTES_MAX).read_to_end(&mut masked)?;
    match masked.len() {
        0 => Err(io::Error::other("a masked file that is empty")),
        length if length % 2 == 1 => Err(io::Error::other("a masked file of an odd length")),
        _ => Ok(masked),
    }
}

const MASKED_BYTES_MAX: u64 = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_masked_and_unmasked_is_the_same_and_gone_after_a_wipe() {
        let directory = tempfile::tempdir().unwrap();
        let [masked, clear] = ["masked", "clear"].map(|name| directory.path().join(name));
        fs::write(&masked, mask(b"some key", b"12345678")).unwrap();

        unmask(&masked, &clear).unwrap();

        assert_eq!(fs::read(&clear).unwrap(), b"some key");
        assert_eq!(danger_unmask_here(&masked).unwrap(), b"some key");
        wipe(&clear).unwrap();
        assert!(!clear.exists());
    }

    #[test]
    fn the_key_is_nowhere_in_a_masked_file() {
        let masked = mask(b"some key", &[0x5a; 8]);

        assert!(!masked.windows(4).any(|window| b"some key".windows(4).any(|key| key == window)));
    }

    #[test]
    fn half_a_masked_file_and_none_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let masked = directory.path().join("masked");

        for bytes in [&[][..], &[1, 2, 3]] {
            fs::write(&masked, bytes).unwrap();
            danger_unmask_here(&masked).unwrap_err();
        }
    }
}
