//! What is sealed here opens here, and nobody else's secret opens it. That the `age` program opens
//! it is shown end to end.
#![expect(clippy::unwrap_used, reason = "clippy sees tests, not what tests call")]

mod common;

use common::{PASSPHRASE, SEED, file, seed_of};
use evanesce_custody::{
    OrdinaryHeap, SCRATCH_BYTES, SEAL_ENTROPY_BYTES, SEAL_ROOM_BYTES, Secret, Work, inspect, seal,
};
use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::custody::{Recipient, Seal};

fn sealed(to: &Seal) -> Result<String, KeyFormatError> {
    let mut room = [0; SEAL_ROOM_BYTES];
    let mut entropy = [0; SEAL_ENTROPY_BYTES];
    for (place, byte) in entropy.iter_mut().zip((0..=250_u8).cycle()) {
        *place = byte;
    }
    let mut work = Work { factor_max: 18, room: &mut OrdinaryHeap };
    seal(&SEED, to, PASSPHRASE, &entropy, &mut room, &mut work)
}

fn recipient(identity: &str) -> Recipient {
    let text = String::from_utf8(file(identity)).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    line.parse().unwrap()
}

#[test]
fn a_key_that_is_sealed_with_a_passphrase_opens_with_it_alone() {
    let text = sealed(&Seal::Passphrase { log_n: 12 }).unwrap();

    assert_eq!(seed_of(text.as_bytes(), Secret::Passphrase(PASSPHRASE)), Ok(SEED));
    let wrong = seed_of(text.as_bytes(), Secret::Passphrase(b"another"));
    assert_eq!(wrong, Err(KeyFormatError::WrongPassphrase));
}

#[test]
fn a_key_that_is_sealed_to_recipients_opens_for_each_of_them() {
    let to = Seal::Recipients(vec![recipient("identity.txt"), recipient("identity-2.txt")]);
    let text = sealed(&to).unwrap();

    for identity in ["identity.txt", "identity-2.txt"] {
        let found = seed_of(text.as_bytes(), Secret::Identities(&file(identity)));
        assert_eq!(found, Ok(SEED), "{identity}");
    }
    let info = inspect(text.as_bytes(), &mut vec![0; SCRATCH_BYTES]).unwrap();
    assert_eq!(info.recipients, 2);
}

#[test]
fn nothing_is_sealed_to_nobody_to_a_crowd_or_to_a_point_of_low_order() {
    let to = |recipients| sealed(&Seal::Recipients(recipients)).unwrap_err();

    assert_eq!(to(vec![]), KeyFormatError::Recipients);
    assert_eq!(to(vec![recipient("identity.txt"); 21]), KeyFormatError::Recipients);
    assert_eq!(to(vec![Recipient::from_bytes([0; 32])]), KeyFormatError::Recipients);
    sealed(&Seal::Recipients(vec![recipient("identity.txt"); 20])).unwrap();
}
