//! One step for each export: reads the input buffer, asks the signer, fills the output buffer.

#![forbid(unsafe_code)]

use crate::abi::{
    CONTEXT_BYTES_MAX, DIGEST_BYTES, ENTROPY_BYTES, INPUT_BYTES, OUTPUT_BYTES, SEED_BYTES, Status,
    Use,
};
use crate::signer::Signer;

/// Everything that outlives a call. All zero before the first one.
///
/// Each step overwrites what it took from the input with zero and leaves the output with its answer
/// alone, or empty where it refuses. Steps that use the stack are never inlined, so that their
/// frames end before the caller clears it.
pub(crate) struct Guest {
    signer: Signer,
    pub(crate) input: [u8; INPUT_BYTES],
    pub(crate) output: [u8; OUTPUT_BYTES],
}

impl Guest {
    pub(crate) const fn new() -> Self {
        Self { signer: Signer::Empty, input: [0; INPUT_BYTES], output: [0; OUTPUT_BYTES] }
    }

    /// Loads the seed at the start of the input. Output: the public key.
    #[inline(never)]
    pub(crate) fn load(&mut self, bound_to: i32) -> Status {
        let loaded = match Use::from_code(bound_to) {
            Some(bound_to) => self.signer.load(self.input.first_chunk().expect(FITS), bound_to),
            None => Err(Status::UnknownUse),
        };
        self.input[..SEED_BYTES].fill(0);
        self.answer(loaded.and_then(|()| self.signer.public_key()))
    }

    /// Makes a key of the entropy at the start of the input. Output: the public key.
    #[inline(never)]
    pub(crate) fn generate(&mut self, bound_to: i32) -> Status {
        let born = match Use::from_code(bound_to) {
            Some(bound_to) => self.signer.generate(self.input.first_chunk().expect(FITS), bound_to),
            None => Err(Status::UnknownUse),
        };
        self.input[..ENTROPY_BYTES].fill(0);
        self.answer(born.and_then(|()| self.signer.public_key()))
    }

    /// Output: the public key.
    #[inline(never)]
    pub(crate) fn public_key(&mut self) -> Status {
        self.answer(self.signer.public_key())
    }

    /// Signs the first `message_bytes` of the input. Output: the signature.
    #[inline(never)]
    pub(crate) fn sign_message(&mut self, message_bytes: i32) -> Status {
        let Some(message) = prefix(&mut self.input, message_bytes) else {
            return self.answer::<0>(Err(Status::TooLong));
        };
        let signed = self.signer.sign_message(message);
        message.fill(0);
        self.answer(signed)
    }

    /// Signs the digest at the start of the input, with the context of `context_bytes` after it.
    /// Output: the signature.
    #[inline(never)]
    pub(crate) fn sign_digest(&mut self, context_bytes: i32) -> Status {
        let (digest, rest) = self.input.split_first_chunk_mut::<DIGEST_BYTES>().expect(FITS);
        let Some(context) = prefix(&mut rest[..CONTEXT_BYTES_MAX], context_bytes) else {
            return self.answer::<0>(Err(Status::TooLong));
        };
        let signed = self.signer.sign_digest(digest, context);
        digest.fill(0);
        context.fill(0);
        self.answer(signed)
    }

    /// Makes this the end: no key follows. The caller has cleared everything.
    pub(crate) fn retire(&mut self) -> Status {
        self.signer = Signer::Retired;
        Status::Done
    }

    /// Leaves `bytes` in the output and zero in the rest of it.
    fn answer<const N: usize>(&mut self, answer: Result<[u8; N], Status>) -> Status {
        self.output.fill(0);
        match answer {
            Ok(bytes) => {
                self.output[..N].copy_from_slice(&bytes);
                Status::Done
            }
            Err(refusal) => refusal,
        }
    }
}

/// The first `bytes` of `buffer`, if it has as many.
fn prefix(buffer: &mut [u8], bytes: i32) -> Option<&mut [u8]> {
    buffer.get_mut(..usize::try_from(bytes).ok()?)
}

/// Why the fixed parts of the input can always be taken.
const FITS: &str = "the input holds a message, so it holds a seed, entropy or a digest";

// The module's own tests are in `tests/module`, against its bytes. This one lets the safe code be
// debugged where a debugger is.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_on_the_host_goes_through_both_lives() {
        // One key for messages,
        let mut guest = Guest::new();
        guest.input[..SEED_BYTES].fill(1);
        assert_eq!(guest.load(Use::Message.code()), Status::Done);
        assert_eq!(guest.sign_message(100), Status::Done);
        assert_eq!(guest.sign_digest(0), Status::OtherUse);
        assert_eq!(guest.output, [0; OUTPUT_BYTES]);
        assert_eq!(guest.retire(), Status::Done);
        assert_eq!(guest.public_key(), Status::Wiped);

        // and one for digests.
        let mut guest = Guest::new();
        assert_eq!(guest.generate(Use::Digest.code()), Status::Done);
        assert_eq!(guest.sign_digest(3), Status::Done);
        assert_ne!(guest.output, [0; OUTPUT_BYTES]);
        assert_eq!(guest.sign_message(100), Status::OtherUse);
    }
}
