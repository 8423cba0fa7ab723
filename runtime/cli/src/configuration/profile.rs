//! Names of profiles.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a profile: 1 to 32 of a-z, 0-9 and '-'.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProfileName(String);

impl ProfileName {
    /// The profile that is built in: nothing is given up, and every setting has its default.
    pub fn strict() -> Self {
        Self(STRICT.to_owned())
    }

    /// Whether it is the one that is built in.
    pub fn is_strict(&self) -> bool {
        self.0 == STRICT
    }
}

impl FromStr for ProfileName {
    type Err = ParseProfileNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        match (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
            true => Ok(Self(text.to_owned())),
            false => Err(ParseProfileNameError),
        }
    }
}

impl TryFrom<String> for ProfileName {
    type Error = ParseProfileNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ProfileName> for String {
    fn from(name: ProfileName) -> Self {
        name.0
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no name of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a profile has 1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-'")]
pub struct ParseProfileNameError;

const STRICT: &str = "strict";

/// Bytes in the name of a profile.
const NAME_BYTES_MAX: usize = 32;
