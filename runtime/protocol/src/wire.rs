//! Reading SSH strings without copying them (RFC 4251, section 5).

use ssh_encoding::{Decode, Error};

/// Takes one `string` off the front of `input`: four length bytes and as many bytes.
///
/// # Errors
///
/// Where `input` ends before it does.
pub fn take_string<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], Error> {
    let bytes = usize::try_from(u32::decode(input)?).map_err(|_| Error::Length)?;
    let (string, rest) = input.split_at_checked(bytes).ok_or(Error::Length)?;
    *input = rest;
    Ok(string)
}

/// Takes one `string` that has to be UTF-8.
///
/// # Errors
///
/// As [`take_string`], and where it is not UTF-8.
pub fn take_text<'a>(input: &mut &'a [u8]) -> Result<&'a str, Error> {
    str::from_utf8(take_string(input)?).map_err(|_| Error::CharacterEncoding)
}

/// Refuses what is left over.
///
/// # Errors
///
/// Where anything is.
pub fn finish(input: &[u8]) -> Result<(), Error> {
    match input.len() {
        0 => Ok(()),
        remaining => Err(Error::TrailingData { remaining }),
    }
}
