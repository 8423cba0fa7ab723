//! A key file, read as every format there is. A new format is a line in [`FORMATS`] and a seed.

use evanesce_custody::{ed25519_seed, p256_key};
use evanesce_protocol::limits::KEY_FILE_BYTES_MAX;

use crate::planted;

/// Reads the file as every format.
pub fn run(input: &[u8]) {
    let mut scratch = [0; KEY_FILE_BYTES_MAX];
    for read in FORMATS {
        scratch.fill(0);
        read(input, &mut scratch);
    }
}

/// One way to read a key file: the text, and a buffer to decode it into.
type Format = fn(&[u8], &mut [u8]);

/// All ways to read a key file.
const FORMATS: &[Format] = &[
    |text, scratch| {
        if let Ok(key) = ed25519_seed(text, scratch) {
            planted::bug(key.as_bytes());
            // The public half that the file may name is compared, whatever it is.
            key.check_public_key(&[0; 32]).ok();
        }
    },
    |text, scratch| drop(p256_key(text, scratch)),
];
