//! The armour of all formats (RFC 7468), decoded into memory that the caller gives.

use evanesce_protocol::control::KeyFormatError;
use pem_rfc7468::Decoder;

/// What the armour says it holds.
///
/// # Errors
///
/// [`KeyFormatError::NotPem`].
pub(crate) fn label(text: &[u8]) -> Result<&str, KeyFormatError> {
    pem_rfc7468::decode_label(text).map_err(|_| KeyFormatError::NotPem)
}

/// Takes the armour off, whatever it holds, into the front of `into`, which has to be as long as
/// `text`. Lines may be of any one length: OpenSSH wraps at 70, all others at 64 characters.
///
/// # Errors
///
/// [`KeyFormatError::NotPem`].
pub(crate) fn decode<'o>(text: &[u8], into: &'o mut [u8]) -> Result<&'o mut [u8], KeyFormatError> {
    let mut decoder = Decoder::new_detect_wrap(text).map_err(|_| KeyFormatError::NotPem)?;
    let into = into.get_mut(..decoder.remaining_len()).ok_or(KeyFormatError::NotPem)?;
    decoder.decode(into).map_err(|_| KeyFormatError::NotPem)?;
    match decoder.is_finished() {
        true => Ok(into),
        false => Err(KeyFormatError::NotPem),
    }
}

/// The same, of armour that is for one thing.
///
/// # Errors
///
/// Where it is for another.
pub(crate) fn decode_labelled<'o>(
    text: &[u8],
    wanted: &str,
    into: &'o mut [u8],
) -> Result<&'o mut [u8], KeyFormatError> {
    crate::check_length(text)?;
    match label(text)? {
        found if found == wanted => decode(text, into),
        found => Err(other(found)),
    }
}

/// Armour for something else.
pub(crate) fn other(found: &str) -> KeyFormatError {
    KeyFormatError::Label { found: found.chars().take(64).collect() }
}
