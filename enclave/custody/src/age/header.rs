//! The header of an age file.
//!
//! ```text
//! age-encryption.org/v1
//! -> X25519 SHARE            one recipe for each recipient, its body below it in lines of 64
//! BODY
//! --- MAC
//! ```

use std::ops::Range;

use base64ct::{Base64Unpadded, Encoding as _};
use evanesce_protocol::control::KeyFormatError;

use super::{SALT_BYTES, WRAPPED_BYTES};

/// A header that is well formed. Nothing of it is authenticated yet.
pub(super) struct Header<'a> {
    /// From the first line up to the dashes of the last.
    pub(super) authenticated: &'a [u8],
    pub(super) mac: [u8; 32],
    /// Where what follows the header lies.
    pub(super) payload: Range<usize>,
    recipes: &'a [u8],
}

/// How the file key is wrapped for one recipient ("stanza").
pub(super) enum Recipe {
    X25519 {
        share: [u8; 32],
        wrapped: [u8; WRAPPED_BYTES],
    },
    Scrypt {
        salt: [u8; SALT_BYTES],
        log_n: u8,
        wrapped: [u8; WRAPPED_BYTES],
    },
    /// Of a kind that is not known here.
    Other,
}

impl<'a> Header<'a> {
    /// Reads the header off the front of a file.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, KeyFormatError> {
        let mut lines = Lines { rest: file };
        if lines.next() != Some(VERSION) {
            return Err(KeyFormatError::NotAge);
        }
        let start = file.len() - lines.rest.len();
        let mut recipes = 0;
        let mut has_scrypt = false;
        loop {
            let end = file.len() - lines.rest.len();
            let line = lines.next().ok_or(KeyFormatError::NotAge)?;
            if let Some(text) = line.strip_prefix(LAST) {
                let mac = decode::<32>(text).ok_or(KeyFormatError::NotAge)?;
                // One recipe with a passphrase has to stand alone: age demands it.
                if recipes == 0 || recipes > RECIPES_MAX || (has_scrypt && recipes > 1) {
                    return Err(KeyFormatError::NotAge);
                }
                return Ok(Self {
                    authenticated: &file[..end + LAST.len() - 1],
                    mac,
                    payload: file.len() - lines.rest.len()..file.len(),
                    recipes: &file[start..end],
                });
            }
            let recipe = recipe(line, &mut lines).ok_or(KeyFormatError::NotAge)?;
            has_scrypt |= matches!(recipe, Recipe::Scrypt { .. });
            recipes += 1;
        }
    }

    /// The recipes, in their order.
    pub(super) fn recipes(&self) -> impl Iterator<Item = Recipe> + use<'a> {
        let mut lines = Lines { rest: self.recipes };
        std::iter::from_fn(move || {
            let line = lines.next()?;
            recipe(line, &mut lines)
        })
    }

    /// scrypt's work factor, where the file is under a passphrase.
    pub(super) fn work_factor(&self) -> Option<u8> {
        match self.recipes().next()? {
            Recipe::Scrypt { log_n, .. } => Some(log_n),
            Recipe::X25519 { .. } | Recipe::Other => None,
        }
    }
}

/// Reads one recipe: its first line was read, its body follows. `None` where it is malformed.
fn recipe(line: &[u8], lines: &mut Lines<'_>) -> Option<Recipe> {
    let line = str::from_utf8(line.strip_prefix(FIRST)?).ok()?;
    let mut arguments = line.split(' ');
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
    if !arguments.clone().all(is_word) {
        return None;
    }
    let body = body(lines)?;
    match arguments.next()? {
        "X25519" => {
            let share = decode(arguments.next()?.as_bytes())?;
            let wrapped = decode(body?)?;
            arguments.next().is_none().then_some(Recipe::X25519 { share, wrapped })
        }
        "scrypt" => {
            let salt = decode(arguments.next()?.as_bytes())?;
            let log_n = factor(arguments.next()?)?;
            let wrapped = decode(body?)?;
            arguments.next().is_none().then_some(Recipe::Scrypt { salt, log_n, wrapped })
        }
        _ => Some(Recipe::Other),
    }
}

/// Reads a body to its end: full lines, then one that is shorter. Gives it where it is that one
/// line alone, as those of the known kinds are.
fn body<'a>(lines: &mut Lines<'a>) -> Option<Option<&'a [u8]>> {
    let mut full = 0;
    loop {
        let line = lines.next()?;
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
        if !line.iter().all(is_base64) || line.len() > LINE_BYTES {
            return None;
        }
        match line.len() {
            LINE_BYTES => full += 1,
            _ => return Some((full == 0).then_some(line)),
        }
    }
}

/// Decimal without a sign or leading zeros, as age has it.
fn factor(text: &str) -> Option<u8> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let factor: u8 = text.parse().ok()?;
    (is_plain && factor < 64).then_some(factor)
}

/// Canonical base64 without padding, of exactly `N` bytes.
fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let text = str::from_utf8(text).ok()?;
    let decoded = Base64Unpadded::decode(text, &mut bytes).ok()?;
    (decoded.len() == N).then_some(bytes)
}

/// Lines that end in a newline; what does not end in one is none.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Some(line)
    }
}

pub(super) const VERSION: &[u8] = b"age-encryption.org/v1";

/// How a recipe begins.
pub(super) const FIRST: &[u8] = b"-> ";

/// How the last line begins. The code covers the dashes, not the space.
pub(super) const LAST: &[u8] = b"--- ";

/// Characters in a full line of a body.
const LINE_BYTES: usize = 64;

/// Each costs one multiplication on the curve for each identity.
const RECIPES_MAX: usize = 64;
