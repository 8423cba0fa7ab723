//! What this crate's tests share: a notary whose key is a small number.

use std::convert::Infallible;

use evanesce_ledger::{Envelope, NotaryKey, P256Signature};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;

pub(crate) struct TestNotary {
    private: SigningKey,
    pub(crate) key: NotaryKey,
}

impl TestNotary {
    pub(crate) fn new(number: u8) -> Self {
        let private = SigningKey::from_slice(&[number; 32]).unwrap();
        let point = private.verifying_key().to_sec1_point(false);
        Self { private, key: NotaryKey::from_sec1(point.as_bytes()).unwrap() }
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> P256Signature {
        let signature: p256::ecdsa::Signature = self.private.sign(bytes);
        P256Signature::from_fixed(&signature.to_bytes().into()).unwrap()
    }

    pub(crate) fn envelope(&self, payload: &[u8]) -> Envelope {
        let sign = |bytes: &[u8]| Ok::<_, Infallible>(self.sign(bytes));
        let Ok(envelope) = Envelope::sign(payload.to_vec(), self.key.id(), sign);
        envelope
    }
}
