//! Evidence of no machine, for tests: a key that is made for one statement and forgotten.
//!
//! It vouches for nothing, which is why the key needs no guarding.

use ed25519_dalek::{Signer as _, SigningKey};
use evanesce_protocol::evidence::{
    CollectError, INSECURE_SOFTWARE_TAG, REPORT_DATA_BYTES, RawEvidence, provider,
};

/// Signs `report_data` with a new key.
pub(crate) fn collect(report_data: &[u8; REPORT_DATA_BYTES]) -> Result<RawEvidence, CollectError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| CollectError::Io {
        step: "making a key".to_owned(),
        reason: error.to_string(),
    })?;
    let key = SigningKey::from_bytes(&seed);
    let public_key = key.verifying_key().to_bytes();
    let mut outblob = [INSECURE_SOFTWARE_TAG, &public_key, report_data].concat();
    outblob.extend(key.sign(&outblob).to_bytes());
    Ok(RawEvidence { provider: provider::INSECURE_SOFTWARE.to_owned(), outblob, auxblob: None })
}
