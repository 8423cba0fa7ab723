//! No bytes make a parser panic, and what is read is written again as it was.

use evanesce_release::{Challenge, Hello, Refusal, Request};
use proptest::prelude::*;

const CHALLENGE: &str = "{\"v\":1,\"type\":\"challenge\",\
    \"session\":\"0101010101010101010101010101010101010101010101010101010101010101\",\
    \"public_key\":\"ed25519:0202020202020202020202020202020202020202020202020202020202020202\",\
    \"holder\":\"sha256:0303030303030303030303030303030303030303030303030303030303030303\",\
    \"issued\":\"2026-11-22T02:10:00.000Z\",\"expires\":\"2026-11-22T02:12:00.000Z\"}";

/// The format, byte for byte: a change here is a change of the format.
#[test]
fn a_challenge_is_written_as_the_format_says() {
    let challenge = Challenge::from_text(CHALLENGE.as_bytes()).unwrap();

    assert_eq!(challenge.to_text(), CHALLENGE);
    assert_eq!(Hello {}.to_text(), "{\"v\":1,\"type\":\"hello\"}");
    assert_ne!(challenge.nonce().as_bytes(), challenge.digest().as_bytes());
}

proptest! {
    #[test]
    fn no_damage_to_a_challenge_panics_or_is_taken_for_another_spelling(
        position in 0..CHALLENGE.len(),
        byte in any::<u8>(),
    ) {
        let mut bytes = CHALLENGE.as_bytes().to_vec();
        bytes[position] = byte;
        if let Ok(read) = Challenge::from_text(&bytes) {
            prop_assert_eq!(read.to_text().into_bytes(), bytes);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _read = Challenge::from_text(&bytes);
        let _read = Request::from_text(&bytes);
        let _read = Hello::from_text(&bytes);
        let _told = Refusal::tell_apart(&bytes);
    }
}
