//! Why a release goes no further.

use evanesce_ledger::statement::StatementError;
use evanesce_ledger::{NotaryKeyId, Timestamp};
use evanesce_protocol::evidence::{Nonce, ReleaseKey};
use evanesce_protocol::{Digest, PublicKey};

/// Why a message is refused. Nothing in it is secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// More bytes than a message of its kind has.
    #[error("a {message} has at most {limit_bytes} bytes, this one has {found}")]
    TooLong {
        /// What was expected.
        message: &'static str,
        /// Its limit.
        limit_bytes: usize,
        /// Bytes found.
        found: usize,
    },
    /// Cut off, or changed into something that is no such message.
    #[error("this is no whole {message}: {reason}")]
    Parse {
        /// What was expected.
        message: &'static str,
        /// What is wrong with it, without the characters that a terminal obeys: it may repeat some
        /// of what was sent.
        reason: String,
    },
    /// It says the same in other bytes.
    #[error("the {message} is not written in its one form")]
    Spelling {
        /// What was expected.
        message: &'static str,
    },
    /// Of another version of the protocol.
    #[error("a {message} of version {found} is not known here")]
    Version {
        /// What was expected.
        message: &'static str,
        /// The version that it names.
        found: u32,
    },
    /// A message of another step.
    #[error("a {expected} is due, and this is a {found:?}")]
    OutOfOrder {
        /// What was expected.
        expected: &'static str,
        /// What it says it is.
        found: String,
    },
    /// There is no open challenge of this session: it was never issued, or used, or is long over.
    #[error("session {session} is not open: its challenge was used, or never issued here")]
    NotOpen {
        /// The session.
        session: Nonce,
    },
    /// It is of another session.
    #[error("this is of session {found}, and session {expected} is meant")]
    OtherSession {
        /// The session that is meant.
        expected: Nonce,
        /// The session that it names.
        found: Nonce,
    },
    /// It answers another challenge of the same session.
    #[error("this is not about the challenge of its session")]
    OtherChallenge,
    /// It came too late.
    #[error("the challenge counted until {expires}, and it is {now}")]
    Expired {
        /// Until when it counts.
        expires: Timestamp,
        /// The time.
        now: Timestamp,
    },
    /// A challenge that ends before it begins, or counts for longer than any.
    #[error("a challenge counts for at most {} s", super::CHALLENGE_LIFETIME_MAX.as_secs())]
    Lifetime,
    /// The challenge is of another holder.
    #[error("the challenge is by notary {found}, and {expected} is trusted to release the key")]
    OtherHolder {
        /// The notary that is trusted.
        expected: NotaryKeyId,
        /// The notary that the challenge names.
        found: NotaryKeyId,
    },
    /// It is about another key.
    #[error("this is about key {found}, and {expected} is meant")]
    OtherKey {
        /// The key that is meant.
        expected: PublicKey,
        /// The key that it names.
        found: PublicKey,
    },
    /// The evidence was made for another purpose.
    #[error("the evidence is for {found}, and not for a release")]
    Purpose {
        /// Its purpose.
        found: &'static str,
    },
    /// The evidence binds another challenge, or is old.
    #[error("the evidence does not bind this challenge")]
    Nonce,
    /// The appraisal was of other evidence.
    #[error("the appraisal is not of the evidence in the request")]
    NotAppraised,
    /// The holder's notary did not sign the answer.
    #[error("the answer is not signed by the holder's notary")]
    Signature(#[source] StatementError),
    /// The answer is to another request.
    #[error("the answer is to request {found}, and not to {expected}")]
    OtherRequest {
        /// The request's digest.
        expected: Digest,
        /// The digest that the answer names.
        found: Digest,
    },
    /// The key was sealed to another release key.
    #[error("the key was sealed to {found}, and not to {expected}")]
    OtherReleaseKey {
        /// The release key of the worker that asked.
        expected: ReleaseKey,
        /// The one that the answer names.
        found: ReleaseKey,
    },
    /// The answer is about other evidence.
    #[error("the answer is about other evidence than was shown")]
    OtherEvidence,
    /// What is sealed is not what the notary signed.
    #[error("what is sealed in the answer is not what the holder's notary signed")]
    Sealed,
    /// The holder said no.
    #[error("the holder refuses: {message} ({code})")]
    Refused {
        /// The holder's code.
        code: String,
        /// The holder's words.
        message: String,
    },
}

impl ReleaseError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "release.too-long",
            Self::Parse { .. } => "release.parse",
            Self::Spelling { .. } => "release.spelling",
            Self::Version { .. } => "release.version",
            Self::OutOfOrder { .. } => "release.out-of-order",
            Self::NotOpen { .. } => "release.not-open",
            Self::OtherSession { .. } => "release.other-session",
            Self::OtherChallenge => "release.other-challenge",
            Self::Expired { .. } => "release.expired",
            Self::Lifetime => "release.lifetime",
            Self::OtherHolder { .. } => "release.other-holder",
            Self::OtherKey { .. } => "release.other-public-key",
            Self::Purpose { .. } => "release.purpose",
            Self::Nonce => "release.nonce",
            Self::NotAppraised => "release.not-appraised",
            Self::Signature(_) => "release.signature",
            Self::OtherRequest { .. } => "release.other-request",
            Self::OtherReleaseKey { .. } => "release.other-release-key",
            Self::OtherEvidence => "release.other-evidence",
            Self::Sealed => "release.sealed",
            Self::Refused { .. } => "release.refused",
        }
    }
}
