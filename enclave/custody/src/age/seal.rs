//! Writing a sealed key.

use base64ct::{Base64Unpadded, Encoding as _};
use chacha20poly1305::Nonce;
use curve25519_dalek::MontgomeryPoint;
use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::custody::Seal;
use evanesce_protocol::limits::RECIPIENTS_MAX;
use hmac::Mac as _;

use super::header::{FIRST, LAST, VERSION};
use super::{
    FILE_KEY_BYTES, FileKey, LABEL, LAST_CHUNK, NONCE_BYTES, SALT_BYTES, derive, encrypt,
    header_mac, scrypt_key, shared_key, wrap,
};
use crate::work::Work;
use crate::{SEED_BYTES, pkcs8};

/// Random bytes that [`seal`] takes: the file key, the payload's nonce, and for each recipient an
/// ephemeral secret, or scrypt's salt.
pub const SEAL_ENTROPY_BYTES: usize = FILE_KEY_BYTES + NONCE_BYTES + RECIPIENTS_MAX * SHARE_BYTES;

/// Bytes of guarded memory that [`seal`] works in.
pub const SEAL_ROOM_BYTES: usize = 256;

/// Seals a key: an armoured age file that holds it as PKCS#8 PEM.
///
/// `passphrase` is what [`Seal::Passphrase`] seals with, and is not looked at otherwise. `room`
/// receives the key in the clear: the caller wipes it, as it wipes `entropy` and the stack of the
/// call. What is allocated is of the sealed file alone.
///
/// # Errors
///
/// [`KeyFormatError::Recipients`] for none, too many or one of low order, and what scrypt refuses.
///
/// # Panics
///
/// Where `room` is shorter than [`SEAL_ROOM_BYTES`].
pub fn seal(
    seed: &[u8; SEED_BYTES],
    to: &Seal,
    passphrase: &[u8],
    entropy: &[u8; SEAL_ENTROPY_BYTES],
    room: &mut [u8],
    work: &mut Work<'_>,
) -> Result<String, KeyFormatError> {
    let (file_key, entropy) = entropy.split_first_chunk().expect("as long as all of it is");
    let (nonce, entropy) = entropy.split_first_chunk::<NONCE_BYTES>().expect("the same");
    let file_key = FileKey(*file_key);
    let mut file = VERSION.to_vec();
    file.push(b'\n');
    match to {
        Seal::Passphrase { log_n } => {
            let salt = entropy.first_chunk::<SALT_BYTES>().expect("the same");
            let key = scrypt_key(passphrase, salt, *log_n, work)?;
            let arguments = ["scrypt", &Base64Unpadded::encode_string(salt), &log_n.to_string()];
            recipe(&mut file, &arguments, &wrap(&key, &file_key));
        }
        Seal::Recipients(recipients) => {
            if recipients.is_empty() || recipients.len() > RECIPIENTS_MAX {
                return Err(KeyFormatError::Recipients);
            }
            for (recipient, secret) in recipients.iter().zip(entropy.as_chunks::<SHARE_BYTES>().0) {
                let share = MontgomeryPoint::mul_base_clamped(*secret).0;
                let point = recipient.as_bytes();
                let key =
                    shared_key(secret, point, &share, point).ok_or(KeyFormatError::Recipients)?;
                let arguments = ["X25519", &Base64Unpadded::encode_string(&share)];
                recipe(&mut file, &arguments, &wrap(&key, &file_key));
            }
        }
        // Not a file: `seal_to_release` does it.
        Seal::Release { .. } => return Err(KeyFormatError::Recipients),
    }
    file.extend_from_slice(&LAST[..LAST.len() - 1]);
    let mut mac = header_mac(&file_key);
    mac.update(&file);
    let mac = Base64Unpadded::encode_string(&mac.finalize().into_bytes());
    file.extend_from_slice(format!(" {mac}\n").as_bytes());

    file.extend_from_slice(nonce);
    let (der, text) = room.split_first_chunk_mut().expect("the caller gives enough room");
    let length = pkcs8::write_ed25519(seed, der, text)?.len();
    let plain = &mut text[..length];
    let payload_key = derive(Some(nonce), &file_key.0, b"payload");
    let tag = encrypt(&payload_key, &Nonce::from(LAST_CHUNK), plain);
    file.extend_from_slice(plain);
    file.extend_from_slice(&tag);
    let armoured = pem_rfc7468::encode_string(LABEL, pem_rfc7468::LineEnding::LF, &file);
    armoured.map_err(|_| KeyFormatError::Recipients)
}

fn recipe(file: &mut Vec<u8>, arguments: &[&str], wrapped: &[u8]) {
    file.extend_from_slice(FIRST);
    file.extend_from_slice(arguments.join(" ").as_bytes());
    file.push(b'\n');
    file.extend_from_slice(Base64Unpadded::encode_string(wrapped).as_bytes());
    file.push(b'\n');
}

/// Bytes in an ephemeral secret.
const SHARE_BYTES: usize = 32;
