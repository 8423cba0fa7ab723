//! A key file that is cut off, or has any byte changed, is refused: no panic, no key.

mod common;

use common::{PASSPHRASE, SEED, file, frozen, secret_of, seed_within};
use evanesce_custody::{SCRATCH_BYTES, Secret, inspect};

/// Enough for every frozen file but those under a passphrase of age, whose work would make this slow.
const FACTOR_MAX: u8 = 14;

#[test]
fn a_key_file_of_any_format_that_is_cut_at_any_byte_is_refused() {
    let identities = file("identity.txt");
    for (name, text) in frozen(&["pkcs8", "openssh", "age-", "sealed-"]) {
        // Behind its last line there is nothing to miss, but for a binary file.
        let whole = match name.contains("binary") {
            true => text.len(),
            false => text.trim_ascii_end().len(),
        };
        for end in 0..whole {
            let cut = &text[..end];
            let found = seed_within(cut, secret_of(&name, &identities), FACTOR_MAX);
            assert!(found.is_err(), "{name} cut at {end}");
            let _says = inspect(cut, &mut vec![0; SCRATCH_BYTES]);
        }
    }
}

#[test]
fn no_changed_byte_makes_another_key_of_an_authenticated_file() {
    let identities = file("identity.txt");
    for name in ["age-x25519-binary.age", "age-x25519.age"] {
        let text = file(name);
        for position in 0..text.len() {
            let mut changed = text.clone();
            changed[position] ^= 1;
            let found = seed_within(&changed, Secret::Identities(&identities), FACTOR_MAX);
            // Line endings and what stands around the armour are nobody's bytes.
            assert!(found.is_err() || found == Ok(SEED), "{name} changed at {position}");
        }
    }
}

#[test]
fn no_changed_byte_of_a_file_under_a_passphrase_panics() {
    for name in ["pkcs8-pbkdf2-aes256.pem", "openssh-aes256-ctr.key"] {
        let text = file(name);
        for position in (0..text.len()).step_by(7) {
            let mut changed = text.clone();
            changed[position] ^= 1;
            let _found = seed_within(&changed, Secret::Passphrase(PASSPHRASE), FACTOR_MAX);
        }
    }
}
