//! What a signer refuses, and how it ends.

mod common;

use common::{fresh, loaded};
use evanesce_protocol::KeyUse;
use evanesce_wasm_host::{LoadError, SignError};

/// A seed on the ordinary stack or heap is a leak already; taking it would hide that.
#[test]
fn a_seed_in_ordinary_memory_is_refused() {
    let seed = [7; 32];
    let refused = fresh().load(&seed, KeyUse::Message);
    assert!(matches!(refused, Err(LoadError::SeedUnguarded)), "{refused:?}");
}

#[test]
fn a_key_bound_to_messages_signs_no_digest_and_goes_on_signing_messages() {
    let mut signer = loaded([7; 32], KeyUse::Message);
    let before = signer.sign_message(b"a").unwrap();

    let refused = signer.sign_digest(&[0; 64], b"");

    let bound_to = KeyUse::Message;
    assert!(
        matches!(refused, Err(SignError::OtherUse { bound_to: found }) if found == bound_to),
        "{refused:?}"
    );
    assert_eq!(signer.sign_message(b"a").unwrap(), before);
}

#[test]
fn a_key_bound_to_digests_signs_no_message() {
    let refused = loaded([7; 32], KeyUse::Digest).sign_message(b"a");
    assert!(
        matches!(refused, Err(SignError::OtherUse { bound_to: KeyUse::Digest })),
        "{refused:?}"
    );
}

#[test]
fn a_message_longer_than_the_input_buffer_is_refused_and_is_not_fatal() {
    let refused = loaded([7; 32], KeyUse::Message).sign_message(&[0; 65_537]).unwrap_err();
    assert!(
        matches!(refused, SignError::MessageTooLong { found: 65_537, max: 65_536 }),
        "{refused:?}"
    );
    assert!(!refused.is_fatal());
}

#[test]
fn a_context_longer_than_rfc_8032_allows_is_refused() {
    let mut signer = loaded([7; 32], KeyUse::Digest);
    signer.sign_digest(&[0; 64], &[0; 255]).unwrap();

    let refused = signer.sign_digest(&[0; 64], &[0; 256]);

    assert!(
        matches!(refused, Err(SignError::ContextTooLong { found: 256, max: 255 })),
        "{refused:?}"
    );
}

#[test]
fn contexts_separate_signatures_over_one_digest() {
    let mut signer = loaded([7; 32], KeyUse::Digest);
    let [one, other] = [b"a", b"b"].map(|context| signer.sign_digest(&[0; 64], context).unwrap());
    assert_ne!(one, other);
}

#[test]
fn a_wipe_reads_back_linear_memory_and_both_stacks() {
    let signer = loaded([7; 32], KeyUse::Message);
    let facts = signer.facts();

    let wiped = signer.wipe().unwrap();

    let regions: Vec<_> =
        wiped.regions().iter().map(|region| (region.name(), region.bytes())).collect();
    assert_eq!(
        regions,
        [
            ("signer-memory", facts.memory_bytes),
            ("signer-stack", facts.stack_bytes),
            ("signer-signal-stack", facts.signal_stack_bytes),
        ]
    );
}

#[test]
fn the_facts_name_the_committed_module() {
    let facts = fresh().facts();
    assert_eq!(facts.module_digest.as_bytes(), &evanesce_signer::SIGNER_WASM_SHA256);
    assert_ne!(facts.artefact_digest, facts.module_digest);
}
