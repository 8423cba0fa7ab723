//! The statement by which one signing key hands over to the next, as the keys themselves sign it.
//!
//! Both keys sign the same bytes with pure Ed25519: the old one, since it alone may hand over; the
//! new one, to show that it is there. The notary signs the statement that holds both signatures,
//! since the old key alone may be a captured one. A worker makes these bytes itself, of what the
//! launcher orders, and only where its own key is one of the two; a client of the agent socket
//! cannot have them signed, since they begin as evanesce's own statements do ([`crate::grant`]).

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, PublicKey};

/// Bytes in the reason of a rotation.
pub const REASON_BYTES_MAX: usize = 1024;

/// What both keys of a rotation sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The id of the ledger that the statement is for: 32 bytes.
    pub ledger: [u8; 32],
    /// The successor's generation: that of the retired key and one.
    pub generation: u64,
    /// The key that signs no longer.
    pub retired: PublicKey,
    /// The key that signs from now on.
    pub successor: PublicKey,
    /// When, in milliseconds of Unix time.
    pub at_unix_ms: u64,
    /// SHA-256 of the payload of the statement before this one; `None` for a key's first.
    pub previous: Option<Digest>,
    /// Why, in the operator's words; at most [`REASON_BYTES_MAX`] bytes.
    pub reason: String,
}

impl Handover {
    /// The bytes that are signed: a tag, then every member with a fixed length, then the reason.
    ///
    /// ```text
    /// "evanesce key-rotation v1\0"  ledger[32]  generation u64  retired[32]  successor[32]
    /// at u64  previous[32], zero where there is none  reason, to the end
    /// ```
    ///
    /// Numbers are big-endian. No two different handovers have the same bytes: all but the last
    /// member have one length, and no statement's digest is zero.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let previous = self.previous.map_or([0; 32], |digest| *digest.as_bytes());
        [
            TAG,
            &self.ledger,
            &self.generation.to_be_bytes(),
            self.retired.as_bytes(),
            self.successor.as_bytes(),
            &self.at_unix_ms.to_be_bytes(),
            &previous,
            self.reason.as_bytes(),
        ]
        .concat()
    }

    /// Whether this is a handover that `key` may sign: it is one of the two, and they differ.
    pub fn may_be_signed_by(&self, key: &PublicKey) -> bool {
        [self.retired, self.successor].contains(key)
            && self.retired != self.successor
            && self.reason.len() <= REASON_BYTES_MAX
    }
}

/// What no other statement begins with.
const TAG: &[u8] = b"evanesce key-rotation v1\0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::{Grants, Refusal};

    fn handover() -> Handover {
        Handover {
            ledger: [1; 32],
            generation: 2,
            retired: PublicKey::from_bytes([2; 32]),
            successor: PublicKey::from_bytes([3; 32]),
            at_unix_ms: 4,
            previous: None,
            reason: "yearly".into(),
        }
    }

    #[test]
    fn each_member_changes_what_is_signed() {
        let original = handover().signed_bytes();
        assert_eq!(original.len(), TAG.len() + 32 + 8 + 32 + 32 + 8 + 32 + "yearly".len());
        let changes: [fn(&mut Handover); 7] = [
            |h| h.ledger[31] = 9,
            |h| h.generation = 3,
            |h| h.retired = PublicKey::from_bytes([9; 32]),
            |h| h.successor = PublicKey::from_bytes([9; 32]),
            |h| h.at_unix_ms = 9,
            |h| h.previous = Some(Digest::of(b"")),
            |h| h.reason.clear(),
        ];
        for change in changes {
            let mut changed = handover();
            change(&mut changed);
            assert_ne!(changed.signed_bytes(), original, "{changed:?}");
        }
    }

    #[test]
    fn a_worker_signs_for_its_own_key_alone() {
        let may = |byte| handover().may_be_signed_by(&PublicKey::from_bytes([byte; 32]));

        assert!(may(2) && may(3) && !may(4));
        let to_itself = Handover { successor: PublicKey::from_bytes([2; 32]), ..handover() };
        assert!(!to_itself.may_be_signed_by(&PublicKey::from_bytes([2; 32])));
    }

    #[test]
    fn no_client_can_have_a_handover_signed() {
        let grants = Grants::new(vec!["raw".parse().unwrap()]).unwrap();

        let refused = grants.admit(b"any key", &handover().signed_bytes()).unwrap_err();

        assert_eq!(refused, Refusal::OwnStatement);
    }
}
