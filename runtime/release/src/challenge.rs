//! The challenge: what makes evidence fresh, and names everything that the release is about.

use std::time::Duration;

use evanesce_ledger::{NotaryKeyId, Timestamp};
use evanesce_protocol::evidence::Nonce;
use evanesce_protocol::{Digest, PublicKey};
use serde::{Deserialize, Serialize};

use crate::error::ReleaseError;
use crate::text::{self, Message};

/// Bytes in a challenge.
pub const CHALLENGE_BYTES_MAX: usize = 1024;

/// How long a challenge may count: for files that a person carries, an hour.
pub const CHALLENGE_LIFETIME_MAX: Duration = Duration::from_secs(3600);

/// A holder's challenge. Good for one request, until it expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    session: Nonce,
    public_key: PublicKey,
    holder: NotaryKeyId,
    issued: Timestamp,
    expires: Timestamp,
}

impl Challenge {
    /// A challenge to release `public_key` to. `session` is random, and no other's.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Lifetime`] for one that counts for no time, or more than
    /// [`CHALLENGE_LIFETIME_MAX`].
    pub fn new(
        session: Nonce,
        public_key: PublicKey,
        holder: NotaryKeyId,
        issued: Timestamp,
        lifetime: Duration,
    ) -> Result<Self, ReleaseError> {
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        let expires = Timestamp::from_unix_ms(issued.unix_ms().saturating_add(lifetime_ms));
        Self { session, public_key, holder, issued, expires }.of_some_time()
    }

    /// Reads a challenge.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] where it is none of this version, in its one spelling.
    pub fn from_text(line: &[u8]) -> Result<Self, ReleaseError> {
        text::read::<Self>(line)?.of_some_time()
    }

    /// One line of JSON, without a newline.
    pub fn to_text(&self) -> String {
        text::write(self)
    }

    /// SHA-256 of the line.
    pub fn digest(&self) -> Digest {
        text::digest(&self.to_text())
    }

    /// What the evidence has to bind: SHA-256 of a tag and the line, so that nothing in the
    /// challenge can be another than the one that the machine signed.
    pub fn nonce(&self) -> Nonce {
        let line = self.to_text();
        Nonce::from_bytes(*Digest::of_parts(&[NONCE_TAG, line.as_bytes()]).as_bytes())
    }

    /// The session.
    pub const fn session(&self) -> Nonce {
        self.session
    }

    /// The key that is to be released.
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// The holder's notary, as the holder says.
    pub const fn holder(&self) -> NotaryKeyId {
        self.holder
    }

    /// Until when it counts.
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Whether it still counts.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Expired`].
    pub fn check_time(&self, now: Timestamp) -> Result<(), ReleaseError> {
        match now < self.expires {
            true => Ok(()),
            false => Err(ReleaseError::Expired { expires: self.expires, now }),
        }
    }

    fn of_some_time(self) -> Result<Self, ReleaseError> {
        let lifetime_ms = self.expires.unix_ms().checked_sub(self.issued.unix_ms());
        match lifetime_ms.map(Duration::from_millis) {
            Some(lifetime) if !lifetime.is_zero() && lifetime <= CHALLENGE_LIFETIME_MAX => Ok(self),
            _ => Err(ReleaseError::Lifetime),
        }
    }
}

impl Message for Challenge {
    const TYPE: &'static str = "challenge";
    const BYTES_MAX: usize = CHALLENGE_BYTES_MAX;
}

const NONCE_TAG: &[u8] = b"evanesce/release-challenge/v1\0";
