//! What was sealed once opens for ever, and what is not taken is refused by what it is.

mod common;

use common::{PASSPHRASE, PUBLIC, SEED, file, frozen, secret_of, seed_of};
use evanesce_custody::{SCRATCH_BYTES, Secret, inspect};
use evanesce_protocol::PublicKey;
use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::custody::{Kdf, KeyFileFormat, Lock};

#[test]
fn every_frozen_file_opens() {
    let identities = file("identity.txt");
    for (name, text) in frozen(&["pkcs8", "openssh", "age-", "sealed-"]) {
        let found = seed_of(&text, secret_of(&name, &identities));

        assert_eq!(found, Ok(SEED), "{name}");
    }
}

#[test]
fn each_recipient_opens_a_file_that_is_sealed_to_several() {
    for identity in ["identity.txt", "identity-2.txt"] {
        let found = seed_of(&file("age-two-recipients.age"), Secret::Identities(&file(identity)));

        assert_eq!(found, Ok(SEED), "{identity}");
    }
    let stranger = seed_of(&file("age-x25519.age"), Secret::Identities(&file("identity-2.txt")));
    assert_eq!(stranger, Err(KeyFormatError::WrongIdentity));
}

#[test]
fn a_file_of_several_identities_with_comments_is_searched_to_its_end() {
    let mut all = b"# the old one\n\n".to_vec();
    all.extend(file("identity-2.txt"));
    all.extend(b"\r\n");
    all.extend(file("identity.txt"));

    assert_eq!(seed_of(&file("age-x25519.age"), Secret::Identities(&all)), Ok(SEED));
}

#[test]
fn an_identity_file_with_a_line_that_is_none_is_refused_by_its_number() {
    let armoured = file("age-x25519.age");
    let open = |identities: &[u8]| seed_of(&armoured, Secret::Identities(identities));
    let mut mistyped = file("identity.txt");
    let last = mistyped.len() - 3;
    mistyped[last] ^= 1;

    assert_eq!(open(&mistyped), Err(KeyFormatError::Identity { line: 3 }));
    assert_eq!(open(b"# nothing\n"), Err(KeyFormatError::Identity { line: 0 }));
    assert_eq!(open(&file("pkcs8.pem")), Err(KeyFormatError::Identity { line: 1 }));
    assert_eq!(open(b"\xff"), Err(KeyFormatError::Identity { line: 1 }));
}

#[test]
fn a_wrong_passphrase_is_told_from_a_damaged_file() {
    // A wrong key makes well-padded plain text of one file in 256: none of these.
    for (name, text) in frozen(&["pkcs8-", "openssh-aes"]) {
        let found = seed_of(&text, Secret::Passphrase(b"incorrect horse"));

        assert_eq!(found, Err(KeyFormatError::WrongPassphrase), "{name}");
    }
    let age = seed_of(&file("age-passphrase.age"), Secret::Passphrase(b"incorrect horse"));
    assert_eq!(age, Err(KeyFormatError::WrongPassphrase));
}

#[test]
fn a_locked_file_names_what_opens_it() {
    let needs = |name: &str, secret| match seed_of(&file(name), secret) {
        Err(KeyFormatError::Locked { needed }) => needed,
        other => panic!("{name}: {other:?}"),
    };

    for name in ["pkcs8-scrypt.pem", "openssh-aes256-ctr.key", "age-passphrase.age"] {
        assert_eq!(needs(name, Secret::None), "passphrase", "{name}");
    }
    assert_eq!(needs("age-x25519.age", Secret::None), "identity");
    assert_eq!(needs("age-x25519.age", Secret::Passphrase(PASSPHRASE)), "identity");
}

#[test]
fn what_is_not_taken_is_refused_by_what_it_is() {
    let identities = file("identity.txt");
    let refused = |name: &str, secret| seed_of(&file(name), secret).unwrap_err();
    let encryption = |found: &str| KeyFormatError::Encryption { found: found.into() };
    let passphrase = Secret::Passphrase(PASSPHRASE);

    assert_eq!(
        refused("refused-age-of-age.age", Secret::Identities(&identities)),
        KeyFormatError::SealedSomethingElse
    );
    assert_eq!(
        refused("refused-openssh-chacha20-poly1305.key", passphrase),
        encryption("chacha20-poly1305@openssh.com")
    );
    assert_eq!(refused("refused-openssh-aes128-ctr.key", passphrase), encryption("aes128-ctr"));
    assert_eq!(refused("refused-hmac-sha1.pem", passphrase), encryption("PBKDF2 with HMAC-SHA-1"));
    assert_eq!(
        refused("refused-des3.pem", passphrase),
        encryption("PBES2 with an algorithm of the past")
    );
}

#[test]
fn every_frozen_file_says_what_it_is_without_being_opened() {
    let look = |name: &str| inspect(&file(name), &mut vec![0; SCRATCH_BYTES]).unwrap();
    let public_key = Some(PublicKey::from_bytes(PUBLIC));

    let clear = look("pkcs8.pem");
    assert_eq!((clear.format, clear.lock), (KeyFileFormat::Pkcs8, None));
    let encrypted = look("pkcs8-scrypt.pem");
    assert_eq!(encrypted.format, KeyFileFormat::EncryptedPkcs8);
    assert_eq!(encrypted.kdf, Some(Kdf::Scrypt { log_n: 14, memory_bytes: 16 << 20 }));
    assert_eq!(look("pkcs8-pbkdf2-sha512.pem").kdf, Some(Kdf::Pbkdf2 { iterations: 600_000 }));
    let openssh = look("openssh.key");
    assert_eq!((openssh.format, openssh.public_key), (KeyFileFormat::Openssh, public_key));
    let locked = look("openssh-aes256-ctr.key");
    assert_eq!((locked.lock, locked.public_key), (Some(Lock::Passphrase), public_key));
    assert!(matches!(locked.kdf, Some(Kdf::Bcrypt { rounds: 1.. })), "{:?}", locked.kdf);
    let age = look("age-passphrase.age");
    assert_eq!((age.format, age.lock), (KeyFileFormat::Age, Some(Lock::Passphrase)));
    assert_eq!(age.kdf, Some(Kdf::Scrypt { log_n: 18, memory_bytes: 256 << 20 }));
    for (name, recipients) in [
        ("age-x25519.age", 1),
        ("age-x25519-binary.age", 1),
        ("age-two-recipients.age", 2),
        ("age-with-ssh-recipient.age", 1),
    ] {
        let found = look(name);
        assert_eq!((found.lock, found.recipients), (Some(Lock::Identity), recipients), "{name}");
    }
}
