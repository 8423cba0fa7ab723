//! SSHSIG, the format of `ssh-keygen -Y sign` (OpenSSH, `PROTOCOL.sshsig`).
//!
//! An agent is asked to sign a [`SignedData`], which holds the digest of the file and a namespace;
//! the file `FILE.sig` is an armoured [`Envelope`] around the signature.

use ssh_encoding::{Decode as _, Encode as _, LineEnding, pem};

use crate::wire::{finish, take_string, take_text};

/// The six bytes both structures start with.
pub const MAGIC: &[u8; 6] = b"SSHSIG";

/// The label of the armour.
const PEM_LABEL: &str = "SSH SIGNATURE";

/// `SIG_VERSION` of `PROTOCOL.sshsig`.
const VERSION: u32 = 1;

/// Bytes in an armoured envelope that this crate reads.
const ARMOURED_BYTES_MAX: usize = 64 * 1024;

/// What the key signs: a namespace and the digest of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedData<'a> {
    /// What the signature is for: `file`, `git`, …
    pub namespace: &'a str,
    /// Which hash made [`Self::message_digest`].
    pub hash: HashAlgorithm,
    /// The digest of the message: 32 or 64 bytes, as [`Self::hash`] has it.
    pub message_digest: &'a [u8],
}

impl<'a> SignedData<'a> {
    /// Reads the bytes that a client asks an agent to sign.
    ///
    /// # Errors
    ///
    /// [`ParseSshsigError`] for anything that is not one whole, well-formed structure.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseSshsigError> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(ParseSshsigError::NoMagic)?;
        let namespace = take_text(&mut rest)?;
        let _reserved = take_string(&mut rest)?;
        let hash = HashAlgorithm::parse(take_text(&mut rest)?)?;
        let message_digest = take_string(&mut rest)?;
        finish(rest)?;
        if namespace.is_empty() {
            return Err(ParseSshsigError::EmptyNamespace);
        }
        if message_digest.len() != hash.bytes() {
            return Err(ParseSshsigError::DigestLength {
                expected: hash.bytes(),
                found: message_digest.len(),
            });
        }
        Ok(Self { namespace, hash, message_digest })
    }

    /// The bytes to sign.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for field in
            [self.namespace.as_bytes(), b"", self.hash.name().as_bytes(), self.message_digest]
        {
            field.encode(&mut bytes).expect("a Vec takes any field below 4 GiB");
        }
        bytes
    }
}

/// A signature with all that is needed to check it, but for the message and trust in the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The key as SSH encodes it; an OpenSSH certificate where one was used.
    pub public_key: Vec<u8>,
    /// See [`SignedData::namespace`].
    pub namespace: String,
    /// See [`SignedData::hash`].
    pub hash: HashAlgorithm,
    /// The signature as SSH encodes it: algorithm name and signature bytes.
    pub signature: Vec<u8>,
}

impl Envelope {
    /// The text of a `.sig` file.
    pub fn to_armoured(&self) -> String {
        let mut bytes = MAGIC.to_vec();
        VERSION.encode(&mut bytes).expect("a Vec takes four bytes");
        for field in [
            self.public_key.as_slice(),
            self.namespace.as_bytes(),
            b"",
            self.hash.name().as_bytes(),
            &self.signature,
        ] {
            field.encode(&mut bytes).expect("a Vec takes any field below 4 GiB");
        }
        pem::encode_string(PEM_LABEL, LineEnding::LF, &bytes)
            .expect("the label is ASCII and the input far below the limit")
    }

    /// Reads the text of a `.sig` file.
    ///
    /// # Errors
    ///
    /// [`ParseSshsigError`] for anything that is not one whole, well-formed structure.
    pub fn from_armoured(text: &[u8]) -> Result<Self, ParseSshsigError> {
        if text.len() > ARMOURED_BYTES_MAX {
            return Err(ParseSshsigError::TooLong { found: text.len() });
        }
        // ssh-keygen breaks lines after 70 characters, this crate after 64: take either.
        let joined = rewrap(text).ok_or(ParseSshsigError::NoArmour)?;
        let (label, bytes) =
            pem::decode_vec(joined.as_bytes()).map_err(|_| ParseSshsigError::NoArmour)?;
        if label != PEM_LABEL {
            return Err(ParseSshsigError::NoArmour);
        }
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, ParseSshsigError> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(ParseSshsigError::NoMagic)?;
        match u32::decode(&mut rest)? {
            VERSION => {}
            found => return Err(ParseSshsigError::Version { found }),
        }
        let public_key = take_string(&mut rest)?.to_vec();
        let namespace = take_text(&mut rest)?.to_owned();
        let _reserved = take_string(&mut rest)?;
        let hash = HashAlgorithm::parse(take_text(&mut rest)?)?;
        let signature = take_string(&mut rest)?.to_vec();
        finish(rest)?;
        Ok(Self { public_key, namespace, hash, signature })
    }
}

/// The two hashes that SSHSIG allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512, which OpenSSH and evanesce use.
    Sha512,
}

impl HashAlgorithm {
    /// The name in the format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes in a digest.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn parse(name: &str) -> Result<Self, ParseSshsigError> {
        match name {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(ParseSshsigError::Hash),
        }
    }
}

/// Why bytes are not an SSHSIG structure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSshsigError {
    /// The text is not armoured as `SSH SIGNATURE`.
    #[error("not an armoured SSH signature")]
    NoArmour,
    /// The text is longer than any signature.
    #[error("an SSH signature has at most {ARMOURED_BYTES_MAX} bytes, this text has {found}")]
    TooLong {
        /// Bytes in the text.
        found: usize,
    },
    /// The six bytes `SSHSIG` are missing.
    #[error("the SSHSIG preamble is missing")]
    NoMagic,
    /// A version that this crate does not know.
    #[error("SSHSIG version {VERSION} expected, {found} found")]
    Version {
        /// The version in the envelope.
        found: u32,
    },
    /// The namespace is empty, which the format forbids.
    #[error("the SSHSIG namespace is empty")]
    EmptyNamespace,
    /// Neither `sha256` nor `sha512`.
    #[error("the SSHSIG hash is neither sha256 nor sha512")]
    Hash,
    /// The digest does not fit its hash.
    #[error("the SSHSIG digest has {found} bytes, its hash makes {expected}")]
    DigestLength {
        /// Bytes that the hash makes.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// A field is cut off, not text, or followed by more bytes.
    #[error("the SSHSIG structure is malformed")]
    Malformed(#[source] ssh_encoding::Error),
}

impl From<ssh_encoding::Error> for ParseSshsigError {
    fn from(error: ssh_encoding::Error) -> Self {
        Self::Malformed(error)
    }
}

/// Breaks the body of an armoured text into lines of 64 characters, whatever they were.
fn rewrap(text: &[u8]) -> Option<String> {
    let text = str::from_utf8(text).ok()?.trim();
    let (begin, rest) = text.split_once('\n')?;
    let (body, end) = rest.rsplit_once('\n')?;
    let body: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let mut joined = format!("{}\n", begin.trim_end());
    for line in body.chunks(64) {
        joined.push_str(str::from_utf8(line).ok()?);
        joined.push('\n');
    }
    joined.push_str(end);
    joined.push('\n');
    Some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            public_key: vec![1; 200],
            namespace: "file".into(),
            hash: HashAlgorithm::Sha512,
            signature: vec![2; 83],
        }
    }

    #[test]
    fn what_is_armoured_is_read_back() {
        let armoured = envelope().to_armoured();

        assert!(armoured.starts_with("-----BEGIN SSH SIGNATURE-----\n"), "{armoured}");
        assert_eq!(Envelope::from_armoured(armoured.as_bytes()), Ok(envelope()));
    }

    #[test]
    fn lines_of_seventy_characters_as_ssh_keygen_breaks_them_are_read() {
        let armoured = envelope().to_armoured();
        let body: String = armoured.lines().filter(|line| !line.starts_with('-')).collect();
        let lines: Vec<&str> =
            body.as_bytes().chunks(70).map(|line| str::from_utf8(line).unwrap()).collect();
        let text = format!(
            "-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n",
            lines.join("\n")
        );

        assert_eq!(Envelope::from_armoured(text.as_bytes()), Ok(envelope()));
    }

    #[test]
    fn an_envelope_cut_at_any_byte_is_refused() {
        let armoured = envelope().to_armoured();
        for end in 0..armoured.trim_end().len() {
            assert!(Envelope::from_armoured(&armoured.as_bytes()[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn signed_data_cut_at_any_byte_or_followed_by_one_is_refused() {
        let data =
            SignedData { namespace: "git", hash: HashAlgorithm::Sha256, message_digest: &[3; 32] };
        let bytes = data.to_bytes();

        assert_eq!(SignedData::parse(&bytes), Ok(data));
        for end in 0..bytes.len() {
            assert!(SignedData::parse(&bytes[..end]).is_err(), "cut at {end}");
        }
        let longer = [bytes.as_slice(), b"x"].concat();
        SignedData::parse(&longer).unwrap_err();
    }

    #[test]
    fn a_digest_of_the_wrong_length_is_refused() {
        let data =
            SignedData { namespace: "git", hash: HashAlgorithm::Sha512, message_digest: &[3; 32] };
        assert_eq!(
            SignedData::parse(&data.to_bytes()),
            Err(ParseSshsigError::DigestLength { expected: 64, found: 32 })
        );
    }
}
