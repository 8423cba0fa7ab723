//! The notary's public side: its keys, its signatures, and how one key hands over to the next.
//!
//! The private key lives in a worker of its own. Whatever has to be signed is given to a closure.

use std::fmt;
use std::str::FromStr;

use evanesce_protocol::Digest;
use evanesce_protocol::ids::ParseDigestError;
use p256::ecdsa::VerifyingKey;
use p256::pkcs8::{DecodePublicKey as _, EncodePublicKey as _, LineEnding};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base64;
use crate::checkpoint::LedgerId;
use crate::dsse::{Envelope, EnvelopeError};
use crate::statement::{Predicate, Statement, StatementError, Subject};
use crate::timestamp::Timestamp;

/// Names a notary's key: the SHA-256 of its SubjectPublicKeyInfo (RFC 5280, section 4.1), DER.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NotaryKeyId(Digest);

impl NotaryKeyId {
    /// The digest.
    pub const fn digest(self) -> Digest {
        self.0
    }
}

impl fmt::Display for NotaryKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for NotaryKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for NotaryKeyId {
    type Err = ParseDigestError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A notary's public key: a point of P-256. In JSON, its SubjectPublicKeyInfo in base64.
#[derive(Clone, PartialEq, Eq)]
pub struct NotaryKey {
    id: NotaryKeyId,
    spki: Vec<u8>,
    key: VerifyingKey,
}

impl NotaryKey {
    /// Reads a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    ///
    /// [`ParseNotaryKeyError`] for anything but a point of P-256 in the one encoding that is
    /// written back the same.
    pub fn from_spki(der: &[u8]) -> Result<Self, ParseNotaryKeyError> {
        let key = VerifyingKey::from_public_key_der(der).map_err(|_| ParseNotaryKeyError)?;
        let found = Self::of(key);
        match found.spki == der {
            true => Ok(found),
            false => Err(ParseNotaryKeyError),
        }
    }

    /// Reads a PEM file (`BEGIN PUBLIC KEY`).
    ///
    /// # Errors
    ///
    /// [`ParseNotaryKeyError`] for anything but a point of P-256.
    pub fn from_pem(text: &str) -> Result<Self, ParseNotaryKeyError> {
        VerifyingKey::from_public_key_pem(text).map(Self::of).map_err(|_| ParseNotaryKeyError)
    }

    /// Reads a point as SEC 1 encodes it: 65 bytes, or 33 where it is compressed.
    ///
    /// # Errors
    ///
    /// [`ParseNotaryKeyError`] for anything but a point of P-256.
    pub fn from_sec1(point: &[u8]) -> Result<Self, ParseNotaryKeyError> {
        VerifyingKey::from_sec1_bytes(point).map(Self::of).map_err(|_| ParseNotaryKeyError)
    }

    /// The PEM file, which OpenSSL and others read.
    pub fn to_pem(&self) -> String {
        self.key.to_public_key_pem(LineEnding::LF).expect("a point of P-256 can be encoded")
    }

    /// The SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The uncompressed point as SEC 1 encodes it: 65 bytes.
    pub fn to_sec1(&self) -> Vec<u8> {
        self.key.to_sec1_point(false).as_bytes().to_vec()
    }

    /// The key's name.
    pub const fn id(&self) -> NotaryKeyId {
        self.id
    }

    /// Whether `signature` is this key's over the SHA-256 of `bytes`.
    pub fn verifies(&self, bytes: &[u8], signature: &P256Signature) -> bool {
        let point = self.key.to_sec1_point(false);
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.as_bytes())
            .verify(bytes, &signature.0.to_bytes())
            .is_ok()
    }

    fn of(key: VerifyingKey) -> Self {
        let spki = key.to_public_key_der().expect("a point of P-256 can be encoded").into_vec();
        Self { id: NotaryKeyId(Digest::of(&spki)), spki, key }
    }
}

impl fmt::Debug for NotaryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotaryKey").field(&self.id).finish()
    }
}

impl Serialize for NotaryKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        base64::serialize(&self.spki, serializer)
    }
}

impl<'de> Deserialize<'de> for NotaryKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_spki(&base64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Bytes or a text that are not a public key of P-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a public key of P-256")]
pub struct ParseNotaryKeyError;

/// An ECDSA signature with P-256 over a SHA-256 digest. In JSON, its DER (RFC 3279, section
/// 2.2.3) in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct P256Signature(p256::ecdsa::Signature);

impl P256Signature {
    /// Reads DER.
    ///
    /// # Errors
    ///
    /// [`ParseSignatureError`] for anything but DER of two numbers in the group's range.
    pub fn from_der(der: &[u8]) -> Result<Self, ParseSignatureError> {
        p256::ecdsa::Signature::from_der(der).map(Self).map_err(|_| ParseSignatureError)
    }

    /// Takes `r` and `s`, 32 bytes each, most significant first.
    ///
    /// # Errors
    ///
    /// [`ParseSignatureError`] where one is zero or not below the group's order.
    pub fn from_fixed(bytes: &[u8; 64]) -> Result<Self, ParseSignatureError> {
        p256::ecdsa::Signature::from_slice(bytes).map(Self).map_err(|_| ParseSignatureError)
    }

    /// The signature in DER.
    pub fn to_der(&self) -> Vec<u8> {
        self.0.to_der().as_bytes().to_vec()
    }
}

impl Serialize for P256Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        base64::serialize(&self.to_der(), serializer)
    }
}

impl<'de> Deserialize<'de> for P256Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_der(&base64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Bytes that are not an ECDSA signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an ECDSA signature with P-256")]
pub struct ParseSignatureError;

/// The predicate by which one notary key hands over to the next. The old key signs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotaryRotation {
    /// The ledger it is for.
    pub ledger: LedgerId,
    /// The key that signs this, its last signature.
    pub retired: NotaryKeyId,
    /// The key that signs from now on.
    pub successor: NotaryKey,
    /// When.
    pub at: Timestamp,
    /// Why, in the operator's words.
    pub reason: String,
}

impl Predicate for NotaryRotation {
    const TYPE: &str = "https://evanesce.dev/notary-rotation/v1";

    fn subject(&self) -> Subject {
        Subject::new("notary", self.successor.id().digest())
    }
}

impl NotaryRotation {
    /// Has the rotation signed by the key it retires.
    ///
    /// # Errors
    ///
    /// Whatever `sign` returns.
    pub fn sign<E>(
        self,
        sign: impl FnMut(&[u8]) -> Result<P256Signature, E>,
    ) -> Result<Envelope, E> {
        let retired = self.retired;
        Statement::of(self).sign(retired, sign)
    }
}

/// The notary keys that a verifier trusts at one point of the ledger, and those retired by then.
#[derive(Clone, Debug, Default)]
pub struct NotaryKeys {
    keys: Vec<(NotaryKey, Standing)>,
}

/// Whether a key that is known may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It signs.
    Current,
    /// It handed over to another: what it signs from then on does not count.
    Retired,
}

impl NotaryKeys {
    /// Starts from the keys that the verifier trusts by itself.
    pub fn new(keys: impl IntoIterator<Item = NotaryKey>) -> Self {
        Self { keys: keys.into_iter().map(|key| (key, Standing::Current)).collect() }
    }

    /// Follows one rotation: retires the key that signed it and trusts its successor.
    ///
    /// # Errors
    ///
    /// [`RotationError`] where the rotation is not by a key that may sign, not for `ledger`, or not
    /// to `successor`.
    pub fn rotate(
        &mut self,
        envelope: &Envelope,
        ledger: &LedgerId,
        successor: &NotaryKey,
    ) -> Result<(), RotationError> {
        let signer = envelope.key_id();
        let (key, standing) = self.find(signer).ok_or(RotationError::UnknownKey { signer })?;
        if standing == Standing::Retired {
            return Err(RotationError::RetiredKey { signer });
        }
        let rotation: NotaryRotation = Statement::open(envelope, key)?.into_predicate();
        if rotation.retired != signer
            || rotation.ledger != *ledger
            || rotation.successor != *successor
        {
            return Err(RotationError::OtherRotation);
        }
        for (key, standing) in &mut self.keys {
            if key.id() == signer {
                *standing = Standing::Retired;
            }
        }
        if self.find(successor.id()).is_none() {
            self.keys.push((successor.clone(), Standing::Current));
        }
        Ok(())
    }

    /// The key of this name, if it is known.
    pub fn find(&self, id: NotaryKeyId) -> Option<(&NotaryKey, Standing)> {
        let (key, standing) = self.keys.iter().find(|(key, _)| key.id() == id)?;
        Some((key, *standing))
    }
}

/// Why a rotation is not followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// The key that signed is not known, so neither is its successor.
    #[error("the rotation is signed by {signer}, which is not known")]
    UnknownKey {
        /// The key that the envelope names.
        signer: NotaryKeyId,
    },
    /// The key that signed has handed over before.
    #[error("the rotation is signed by {signer}, which was retired before")]
    RetiredKey {
        /// The key that the envelope names.
        signer: NotaryKeyId,
    },
    /// The signature or the statement is not right.
    #[error("the rotation statement does not hold")]
    Statement(#[from] StatementError),
    /// The statement is of another ledger, another key, or to another successor than the row's.
    #[error("the rotation statement is not about this ledger and these keys")]
    OtherRotation,
}

impl RotationError {
    /// A stable name for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownKey { .. } => "rotation.unknown-key",
            Self::RetiredKey { .. } => "rotation.retired-key",
            Self::Statement(_) => "rotation.statement",
            Self::OtherRotation => "rotation.other",
        }
    }
}

impl From<EnvelopeError> for RotationError {
    fn from(error: EnvelopeError) -> Self {
        Self::Statement(error.into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;

    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::Signer as _;

    use super::*;

    /// A notary whose private key is a small number: for tests alone.
    pub(crate) struct TestNotary {
        private: SigningKey,
        public: NotaryKey,
    }

    impl TestNotary {
        pub(crate) fn new(number: u8) -> Self {
            let private = SigningKey::from_slice(&[number; 32]).unwrap();
            let public = NotaryKey::of(*private.verifying_key());
            Self { private, public }
        }

        pub(crate) fn key(&self) -> &NotaryKey {
            &self.public
        }

        pub(crate) fn sign(&self, bytes: &[u8]) -> Result<P256Signature, Infallible> {
            Ok(P256Signature(self.private.sign(bytes)))
        }

        pub(crate) fn envelope(&self, payload: &[u8]) -> Envelope {
            let Ok(envelope) =
                Envelope::sign(payload.to_vec(), self.key().id(), |bytes| self.sign(bytes));
            envelope
        }
    }

    fn rotation(from: &TestNotary, to: &TestNotary) -> Envelope {
        let rotation = NotaryRotation {
            ledger: LedgerId::from_bytes([1; 32]),
            retired: from.key().id(),
            successor: to.key().clone(),
            at: Timestamp::from_unix_ms(1),
            reason: "yearly".into(),
        };
        let Ok(envelope) = rotation.sign(|bytes| from.sign(bytes));
        envelope
    }

    #[test]
    fn a_rotation_by_a_known_key_makes_its_successor_known_and_retires_it() {
        let (first, second) = (TestNotary::new(1), TestNotary::new(2));
        let mut keys = NotaryKeys::new([first.key().clone()]);

        keys.rotate(&rotation(&first, &second), &LedgerId::from_bytes([1; 32]), second.key())
            .unwrap();

        assert_eq!(keys.find(first.key().id()).unwrap().1, Standing::Retired);
        assert_eq!(keys.find(second.key().id()).unwrap().1, Standing::Current);
    }

    #[test]
    fn a_rotation_by_an_unknown_or_retired_key_or_for_another_ledger_is_not_followed() {
        let notaries: Vec<TestNotary> = (1..=3).map(TestNotary::new).collect();
        let ledger = LedgerId::from_bytes([1; 32]);
        let mut keys = NotaryKeys::new([notaries[0].key().clone()]);
        let to_second = rotation(&notaries[0], &notaries[1]);

        let mut code = |envelope: &Envelope, ledger: &LedgerId, to: &TestNotary| {
            keys.rotate(envelope, ledger, to.key()).map_err(|error| error.code())
        };
        let other_ledger = LedgerId::from_bytes([2; 32]);
        assert_eq!(code(&to_second, &other_ledger, &notaries[1]), Err("rotation.other"));
        assert_eq!(code(&to_second, &ledger, &notaries[2]), Err("rotation.other"));
        let by_stranger = rotation(&notaries[2], &notaries[1]);
        assert_eq!(code(&by_stranger, &ledger, &notaries[1]), Err("rotation.unknown-key"));
        assert_eq!(code(&to_second, &ledger, &notaries[1]), Ok(()));
        assert_eq!(code(&to_second, &ledger, &notaries[1]), Err("rotation.retired-key"));
    }

    #[test]
    fn a_key_and_a_signature_are_read_back_from_every_form() {
        let notary = TestNotary::new(1);
        let key = notary.key();
        let Ok(signature) = notary.sign(b"x");

        assert_eq!(NotaryKey::from_pem(&key.to_pem()).as_ref(), Ok(key));
        assert_eq!(NotaryKey::from_spki(key.spki()).as_ref(), Ok(key));
        assert_eq!(NotaryKey::from_sec1(&key.to_sec1()).as_ref(), Ok(key));
        assert_eq!(P256Signature::from_der(&signature.to_der()).as_ref(), Ok(&signature));
        assert!(key.verifies(b"x", &signature) && !key.verifies(b"y", &signature));
    }
}
