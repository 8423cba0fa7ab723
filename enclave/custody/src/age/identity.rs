//! Files of age identities, as `age-keygen` writes them: one on a line, `#` before comments.

use bech32::Bech32;
use bech32::primitives::decode::CheckedHrpstring;
use evanesce_protocol::control::KeyFormatError;
use evanesce_protocol::limits::IDENTITIES_MAX;

/// A secret scalar (RFC 7748).
pub(super) struct Identity(pub(super) [u8; 32]);

/// Checks that a file holds identities, before it is needed.
///
/// # Errors
///
/// [`KeyFormatError::Identity`] with the first line that is none.
pub fn check(text: &[u8]) -> Result<(), KeyFormatError> {
    all(text)?.try_for_each(|identity| identity.map(drop))
}

/// The identities of a file.
pub(super) fn all(
    text: &[u8],
) -> Result<impl Iterator<Item = Result<Identity, KeyFormatError>>, KeyFormatError> {
    let text = str::from_utf8(text).map_err(|_| KeyFormatError::Identity { line: 1 })?;
    let lines = text.lines().map(str::trim).zip(1..);
    let lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    match lines.clone().count() {
        0 => Err(KeyFormatError::Identity { line: 0 }),
        count if count > IDENTITIES_MAX => Err(KeyFormatError::Identity { line: 0 }),
        _ => Ok(lines
            .map(|(line, number)| parse(line).ok_or(KeyFormatError::Identity { line: number }))),
    }
}

/// `AGE-SECRET-KEY-1` and 58 characters (Bech32, BIP 173), in upper case.
fn parse(text: &str) -> Option<Identity> {
    let checked = CheckedHrpstring::new::<Bech32>(text).ok()?;
    let is_upper = !text.bytes().any(|byte| byte.is_ascii_lowercase());
    if !is_upper || !text.starts_with(PREFIX) {
        return None;
    }
    let mut identity = Identity([0; 32]);
    let mut bytes = checked.byte_iter();
    for byte in &mut identity.0 {
        *byte = bytes.next()?;
    }
    bytes.next().is_none().then_some(identity)
}

const PREFIX: &str = "AGE-SECRET-KEY-1";
