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
        let (is_right, while_reading) = counted(|| {
            let mut work = Work { factor_max: 1, room: &mut OrdinaryHeap };
            let seed = open(&text, &mut scratch, secret, &mut work);
            seed.is_ok_and(|seed| *seed.as_bytes() == SEED)
        });

        assert!(is_right, "{name}");
        assert_eq!(while_reading, 0, "{name}");
    }
    let (_, with_control) = counted(|| std::hint::black_box(vec![0_u8; 32]).len() == 32);
    assert!(with_control > 0, "the control was not counted");

    let context = ReleaseContext {
        session: Nonce::from_bytes([1; 32]),
        challenge: Digest::from_bytes([2; 32]),
        request: Digest::from_bytes([3; 32]),
        public_key: PublicKey::from_bytes([4; 32]),
    };
    let mut sealed = [0; RELEASE_SEALED_BYTES];
    let (is_right, while_releasing) = counted(|| {
        let to = release_key(&[0x11; 32]);
        let done = seal_to_release(&SEED, &to, &context, &[0x22; 32], &mut sealed);
        let opened = open_release(&[0x11; 32], &context, &mut sealed);
        done.is_ok() && opened == Some(&SEED)
    });

    assert!(is_right, "released");
    assert_eq!(while_releasing, 0, "released");
}

/// Whether the work came out right each time, and what it allocates: what is allocated every time.
/// The thread that runs the tests may allocate something of its own at any one of them.
fn counted(mut work: impl FnMut() -> bool) -> (bool, usize) {
    let tries = [(); 5].map(|()| {
        let region = Region::new(ALLOCATOR);
        let is_right = work();
        (is_right, region.change().allocations)
    });
    let least = tries.iter().map(|(_, allocations)| *allocations).min();
    (tries.iter().all(|(is_right, _)| *is_right), least.expect("there are five"))
}
