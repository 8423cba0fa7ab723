//! A key file, read as every format there is. A new format is a line in [`FORMATS`] and a seed.
//!
//! Passphrases are not tried: what they cost is bounded, and on purpose not small.

use evanesce_custody::{
    OrdinaryHeap, SCRATCH_BYTES, Secret, Work, age_ed25519_seed, ed25519_seed, inspect, open,
    p256_key,
};

use crate::planted;

/// Reads the file as every format.
pub fn run(input: &[u8]) {
    let mut scratch = [0; SCRATCH_BYTES];
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
            planted::bug_if(key.as_bytes().iter().any(u8::is_ascii_digit));
        }
    },
    |text, scratch| drop(inspect(text, scratch)),
    |text, scratch| {
        let mut room = OrdinaryHeap;
        if let Ok(key) = open(text, scratch, Secret::None, &mut cheap(&mut room)) {
            // The public half that the file may name is compared, whatever it is.
            key.check_public_key(&[0; 32]).ok();
        }
    },
    |text, scratch| {
        let (secret, mut room) = (Secret::Identities(IDENTITIES), OrdinaryHeap);
        drop(age_ed25519_seed(text, scratch, secret, &mut cheap(&mut room)));
    },
    |text, scratch| drop(p256_key(text, scratch)),
];

/// No more work than a search can do a million times.
fn cheap(room: &mut OrdinaryHeap) -> Work<'_> {
    Work { factor_max: 4, room }
}

/// What opens the sealed files among the seeds.
const IDENTITIES: &[u8] = include_bytes!("../../enclave/custody/tests/frozen/identity.txt");
