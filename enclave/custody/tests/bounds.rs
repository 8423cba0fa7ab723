//! No file makes its reader work or allocate without end.

mod common;

use base64ct::Encoding as _;
use common::{PASSPHRASE, file, seed_within};
use evanesce_custody::{SCRATCH_BYTES, Secret, Work, Workroom, open};
use evanesce_protocol::control::KeyFormatError;

/// A room in which no work may be done.
struct Nowhere;

impl Workroom for Nowhere {
    fn with_scratch(
        &mut self,
        bytes: usize,
        _derive: &mut dyn FnMut(),
    ) -> Result<(), KeyFormatError> {
        Err(KeyFormatError::Scratch { bytes: bytes as u64 })
    }
}

#[test]
fn more_scrypt_than_is_allowed_is_refused_before_any_memory_is_asked_for() {
    let refused = |name: &str, factor_max| {
        let mut scratch = vec![0; SCRATCH_BYTES];
        let mut work = Work { factor_max, room: &mut Nowhere };
        open(&file(name), &mut scratch, Secret::Passphrase(PASSPHRASE), &mut work).unwrap_err()
    };

    for (name, factor) in [("age-passphrase.age", 18), ("pkcs8-scrypt.pem", 14)] {
        let found = format!("work factor {factor}");
        let limit = (factor - 1).to_string();
        assert_eq!(
            refused(name, factor - 1),
            KeyFormatError::Work { kdf: "scrypt".into(), found, limit },
            "{name}"
        );
        let allowed = refused(name, factor);
        assert!(matches!(allowed, KeyFormatError::Scratch { .. }), "{name}: {allowed}");
    }
}

#[test]
fn a_work_factor_that_no_machine_has_is_refused() {
    let text = file("age-passphrase.age");
    let text = str::from_utf8(&text).unwrap();
    let lines: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let header = base64ct::Base64::decode_vec(&lines).unwrap();
    let header = String::from_utf8_lossy(&header[..150]).into_owned();
    for factor in ["63", "62", "22"] {
        let huge = header.replacen(" 18\n", &format!(" {factor}\n"), 1);
        let huge = huge.as_bytes();
        let error = seed_within(huge, Secret::Passphrase(PASSPHRASE), 21).unwrap_err();
        assert_eq!(error.code(), "key.work-factor", "{factor}: {error}");
    }
    for factor in ["0", "64", "018", "+18", "-1", "18 18", ""] {
        let odd = header.replacen(" 18\n", &format!(" {factor}\n"), 1);
        let error = seed_within(odd.as_bytes(), Secret::Passphrase(PASSPHRASE), 21).unwrap_err();
        assert_eq!(error, KeyFormatError::NotAge, "{factor:?}");
    }
}
