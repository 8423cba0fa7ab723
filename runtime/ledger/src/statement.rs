//! In-toto Statements (v1): a subject, and a predicate of one of the types of this crate.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use evanesce_protocol::Digest;

use crate::dsse::{Envelope, EnvelopeError};
use crate::notary::{NotaryKey, NotaryKeyId, P256Signature};
use crate::record::Sha512Digest;

/// The type of every statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// What a statement can say of its subject.
pub trait Predicate: Serialize + DeserializeOwned {
    /// The predicate's type, a URI that is never reused for another shape.
    const TYPE: &str;

    /// What the statement is about.
    fn subject(&self) -> Subject;

    /// Has the statement that it makes signed with the notary's key named `key`; see
    /// [`Envelope::sign`].
    ///
    /// # Errors
    ///
    /// Whatever `sign` returns.
    fn sign<E>(
        self,
        key: NotaryKeyId,
        sign: impl FnMut(&[u8]) -> Result<P256Signature, E>,
    ) -> Result<Envelope, E> {
        Statement::of(self).sign(key, sign)
    }
}

/// A statement as its payload has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement<P> {
    #[serde(rename = "_type")]
    statement_type: String,
    subject: [Subject; 1],
    predicate_type: String,
    predicate: P,
}

impl<P: Predicate> Statement<P> {
    /// The statement that `predicate` makes about its subject.
    pub fn of(predicate: P) -> Self {
        Self {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject: [predicate.subject()],
            predicate_type: P::TYPE.to_owned(),
            predicate,
        }
    }

    /// Reads a statement that `key` signed.
    ///
    /// # Errors
    ///
    /// [`StatementError`] where the envelope does not hold, or is not a statement of this type
    /// about the subject that its predicate names.
    pub fn open(envelope: &Envelope, key: &NotaryKey) -> Result<Self, StatementError> {
        Self::parse(envelope.verify(key)?.as_bytes())
    }

    /// Reads a payload without asking who signed it: for display, never for a decision.
    ///
    /// # Errors
    ///
    /// [`StatementError`], as [`Statement::open`].
    pub fn parse_unverified(envelope: &Envelope) -> Result<Self, StatementError> {
        Self::parse(envelope.payload_unverified())
    }

    /// Reads a payload whose signature the caller checked, or will.
    ///
    /// # Errors
    ///
    /// [`StatementError`], as [`Statement::open`].
    pub fn parse(payload: &[u8]) -> Result<Self, StatementError> {
        let statement: Self = serde_json::from_slice(payload).map_err(StatementError::Parse)?;
        if statement.statement_type != STATEMENT_TYPE || statement.predicate_type != P::TYPE {
            return Err(StatementError::Type {
                expected: P::TYPE,
                found: statement.predicate_type,
            });
        }
        match statement.subject[0] == statement.predicate.subject() {
            true => Ok(statement),
            false => Err(StatementError::Subject),
        }
    }

    /// Has the statement signed with the key named `key`; see [`Envelope::sign`].
    ///
    /// # Errors
    ///
    /// Whatever `sign` returns.
    pub fn sign<E>(
        &self,
        key: NotaryKeyId,
        sign: impl FnMut(&[u8]) -> Result<P256Signature, E>,
    ) -> Result<Envelope, E> {
        let payload =
            serde_json::to_vec(self).expect("statements have text keys and finite numbers");
        Envelope::sign(payload, key, sign)
    }

    /// What it says.
    pub const fn predicate(&self) -> &P {
        &self.predicate
    }

    /// What it says.
    pub fn into_predicate(self) -> P {
        self.predicate
    }
}

/// What a statement is about: a name, and the digest that a verifier can compute itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    name: String,
    digest: SubjectDigest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SubjectDigest {
    sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha512: Option<Sha512Digest>,
}

impl Subject {
    /// Names a subject.
    pub fn new(name: impl Into<String>, digest: Digest) -> Self {
        Self { name: name.into(), digest: SubjectDigest { sha256: digest.to_hex(), sha512: None } }
    }

    /// Adds the SHA-512 of the same bytes.
    pub(crate) fn with_sha512(self, sha512: Sha512Digest) -> Self {
        let digest = SubjectDigest { sha512: Some(sha512), ..self.digest };
        Self { digest, ..self }
    }
}

/// Why an envelope holds no statement of the type that was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The envelope does not vouch for its payload.
    #[error("the envelope does not hold")]
    Envelope(#[from] EnvelopeError),
    /// The payload is not such a statement.
    #[error("the payload is not a statement with the members it needs")]
    Parse(#[source] serde_json::Error),
    /// A statement, but of another type.
    #[error("a statement of type {expected} expected, {found:?} found")]
    Type {
        /// The type that was asked for.
        expected: &'static str,
        /// The predicate's type.
        found: String,
    },
    /// The subject is not the one that the predicate names.
    #[error("the statement's subject is not what its predicate is about")]
    Subject,
}

impl StatementError {
    /// A stable name for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Envelope(error) => error.code(),
            Self::Parse(_) => "statement.parse",
            Self::Type { .. } => "statement.type",
            Self::Subject => "statement.subject",
        }
    }
}
