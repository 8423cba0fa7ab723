//! What host and guest agree on. `SPEC.md` says the same in prose; a test keeps the two in step
//! with the built module.

/// The version of this interface. `evanesce_abi` answers it, and a host refuses any other.
pub const ABI_VERSION: i32 = 1;

/// Bytes in the input buffer: the longest message, and far more than a digest with its context.
pub const INPUT_BYTES: usize = 64 * 1024;

/// Bytes in the output buffer: one signature, or one public key in the first half.
pub const OUTPUT_BYTES: usize = SIGNATURE_BYTES;

/// Bytes in a seed (RFC 8032, section 5.1.5: the private key).
pub const SEED_BYTES: usize = 32;

/// Bytes of fresh entropy that a key is born from: twice a seed's, so that a source with half the
/// entropy it claims still fills one.
pub const ENTROPY_BYTES: usize = 64;

/// Bytes in an encoded public key.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// Bytes in a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// Bytes in the SHA-512 digest that Ed25519ph signs. The context follows it in the input.
pub const DIGEST_BYTES: usize = 64;

/// Bytes in the context of Ed25519ph (RFC 8032, section 5.1: one length octet).
pub const CONTEXT_BYTES_MAX: usize = 255;

/// Bytes in the guest's shadow stack, which is linear memory from address 0 up to here: nearly
/// twice what any call was seen to use (2,216). One that overflows runs below address 0 and traps,
/// instead of into data.
pub const STACK_BYTES: usize = 4 * 1024;

/// Bytes in linear memory, for good: the module declares them as minimum and maximum.
pub const MEMORY_BYTES: usize = 2 * 64 * 1024;

/// What an export answers. The number is part of the interface and is never given a new meaning.
///
/// Complete as it stands: a host that meets another number meets another interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// It was done, and the output holds what was asked for.
    Done = 0,
    /// No key is loaded yet.
    NoKey = 1,
    /// A key is loaded, or was: an instance has one in its life.
    KeyAlready = 2,
    /// The key was wiped; this instance is at its end.
    Wiped = 3,
    /// The number of the use is neither of [`Use`].
    UnknownUse = 4,
    /// The key is bound to the other use.
    OtherUse = 5,
    /// The message is longer than [`INPUT_BYTES`], or the context than [`CONTEXT_BYTES_MAX`].
    TooLong = 6,
}

impl Status {
    /// The number that crosses the boundary.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// Reads what an export answered; `None` is an answer that this interface does not have.
    pub const fn from_code(code: i32) -> Option<Self> {
        match code {
            0 => Some(Self::Done),
            1 => Some(Self::NoKey),
            2 => Some(Self::KeyAlready),
            3 => Some(Self::Wiped),
            4 => Some(Self::UnknownUse),
            5 => Some(Self::OtherUse),
            6 => Some(Self::TooLong),
            _ => None,
        }
    }
}

/// What a key may be used for, bound when it is loaded: RFC 8032, section 8.5 warns against one
/// key for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Use {
    /// Pure Ed25519 over messages.
    Message = 0,
    /// Ed25519ph over SHA-512 digests, with a context.
    Digest = 1,
}

impl Use {
    /// The number that crosses the boundary.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// Reads the number; `None` is neither use.
    pub const fn from_code(code: i32) -> Option<Self> {
        match code {
            0 => Some(Self::Message),
            1 => Some(Self::Digest),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_what_wrote_it_and_no_other_number_reads() {
        for code in -2..10 {
            assert!(Status::from_code(code).is_none_or(|status| status.code() == code));
            assert!(Use::from_code(code).is_none_or(|bound| bound.code() == code));
        }
        assert_eq!((0..10).filter_map(Status::from_code).count(), 7);
        assert_eq!((0..10).filter_map(Use::from_code).count(), 2);
    }
}
