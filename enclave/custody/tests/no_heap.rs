//! Reading or releasing a workload's key allocates nothing, so no byte of it can be left on a heap. scrypt alone
//! does, in the memory that its caller gives (`Workroom`).

mod common;

use std::alloc::System;

use common::{PASSPHRASE, SEED, file};
use evanesce_custody::{
    OrdinaryHeap, SCRATCH_BYTES, Secret, Work, open, open_release, release_key, seal_to_release,
};
use evanesce_protocol::evidence::Nonce;
use evanesce_protocol::release::{RELEASE_SEALED_BYTES, ReleaseContext};
use evanesce_protocol::{Digest, PublicKey};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

// One test, so that no other thread allocates meanwhile.
#[test]
fn reading_or_releasing_a_key_of_any_format_allocates_nothing_outside_of_scrypt() {
    let identities = file("identity.txt");
    let passphrase = Secret::Passphrase(PASSPHRASE);
    let mut scratch = vec![0; SCRATCH_BYTES];
    for (name, secret) in [
        ("pkcs8.pem", Secret::None),
        ("pkcs8-pbkdf2-aes256.pem", passphrase),
        ("openssh.key", Secret::None),
        ("openssh-aes256-ctr.key", passphrase),
        ("openssh-aes256-cbc.key", passphrase),
        ("age-x25519.age", Secret::Identities(&identities)),
        ("age-x25519-binary.age", Secret::Identities(&identities)),
        ("age-two-recipients.age", Secret::Identities(&identities)),
        ("age-of-openssh.age", Secret::Identities(&identities)),
    ] {
        let text = file(name);
        let mut work = Work { factor_max: 1, room: &mut OrdinaryHeap };

        let region = Region::new(ALLOCATOR);
        let seed = open(&text, &mut scratch, secret, &mut work);
        let while_reading = region.change().allocations;
        let control = std::hint::black_box(vec![0_u8; 32]);
        let with_control = region.change().allocations;

        assert!(seed.is_ok_and(|seed| *seed.as_bytes() == SEED), "{name}");
        assert_eq!(while_reading, 0, "{name}");
        assert!(with_control > 0, "the control was not counted: {control:?}");
    }

    let context = ReleaseContext {
        session: Nonce::from_bytes([1; 32]),
        challenge: Digest::from_bytes([2; 32]),
        request: Digest::from_bytes([3; 32]),
        public_key: PublicKey::from_bytes([4; 32]),
    };
    let mut sealed = [0; RELEASE_SEALED_BYTES];
    let region = Region::new(ALLOCATOR);
    let to = release_key(&[0x11; 32]);
    let done = seal_to_release(&SEED, &to, &context, &[0x22; 32], &mut sealed);
    let opened = open_release(&[0x11; 32], &context, &mut sealed);
    let while_releasing = region.change().allocations;

    assert!(done.is_ok() && opened == Some(&SEED), "released");
    assert_eq!(while_releasing, 0, "released");
}
