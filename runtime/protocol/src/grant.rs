//! What a client of the agent socket may have signed, and the one place that decides it.
//!
//! An agent that signs whatever it is given is an oracle: a client could have it log in to a
//! server, or sign a statement in evanesce's own name. So a request is admitted by a named
//! [`Grant`] or not at all, and statements of our own are refused whatever was granted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ssh_encoding::Decode as _;

use crate::ids::KeyUse;
use crate::limits::{GRANTS_MAX, MESSAGE_BYTES_MAX, NAMESPACE_BYTES_MAX};
use crate::sshsig::{self, SignedData};
use crate::wire::{finish, take_string};

/// One thing that clients of a workload's socket may have signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Grant {
    /// SSHSIG signatures: files, git commits. `sshsig`, or `sshsig:NAMESPACE` for one namespace.
    Sshsig {
        /// The one namespace, or `None` for any but ours.
        namespace: Option<Namespace>,
    },
    /// Logins to SSH servers (RFC 4252, section 7). `ssh-login`.
    SshLogin,
    /// Messages as they are. `raw`.
    Raw,
    /// SHA-512 digests (Ed25519ph). `digest`; excludes all others, since it is another key use.
    Digest,
}

impl FromStr for Grant {
    type Err = ParseGrantError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("sshsig", namespace)) => Ok(Self::Sshsig { namespace: Some(namespace.parse()?) }),
            None if text == "sshsig" => Ok(Self::Sshsig { namespace: None }),
            None if text == "ssh-login" => Ok(Self::SshLogin),
            None if text == "raw" => Ok(Self::Raw),
            None if text == "digest" => Ok(Self::Digest),
            _ => Err(ParseGrantError::Unknown { found: text.to_owned() }),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sshsig { namespace: None } => f.write_str("sshsig"),
            Self::Sshsig { namespace: Some(namespace) } => write!(f, "sshsig:{namespace}"),
            Self::SshLogin => f.write_str("ssh-login"),
            Self::Raw => f.write_str("raw"),
            Self::Digest => f.write_str("digest"),
        }
    }
}

impl TryFrom<String> for Grant {
    type Error = ParseGrantError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Grant> for String {
    fn from(grant: Grant) -> Self {
        grant.to_string()
    }
}

/// An SSHSIG namespace that may be granted: 1 to 128 printable ASCII characters, not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// The namespace as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = ParseGrantError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > NAMESPACE_BYTES_MAX || !printable {
            return Err(ParseGrantError::Namespace);
        }
        if is_reserved_namespace(text) {
            return Err(ParseGrantError::ReservedNamespace);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text names no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseGrantError {
    /// No grant has this name.
    #[error(
        "no grant is called {found:?}: there are sshsig, sshsig:NAMESPACE, ssh-login, raw and digest"
    )]
    Unknown {
        /// The text.
        found: String,
    },
    /// Empty, too long, or with characters that are not printable ASCII.
    #[error("a namespace has 1 to {NAMESPACE_BYTES_MAX} printable ASCII characters")]
    Namespace,
    /// A namespace of evanesce's own statements.
    #[error("namespaces that start with {RESERVED:?} are for evanesce's own statements")]
    ReservedNamespace,
}

/// The grants of one workload: at least one, of one key use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Grant>", into = "Vec<Grant>")]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// Takes the grants that were named; none means [`Grants::default`].
    ///
    /// # Errors
    ///
    /// [`GrantsError`] where they are too many or need both uses of a key.
    pub fn new(grants: Vec<Grant>) -> Result<Self, GrantsError> {
        if grants.len() > GRANTS_MAX {
            return Err(GrantsError::TooMany { found: grants.len() });
        }
        let digests = grants.iter().filter(|grant| matches!(grant, Grant::Digest)).count();
        if digests > 0 && digests != grants.len() {
            return Err(GrantsError::BothUses);
        }
        match grants.is_empty() {
            true => Ok(Self::default()),
            false => Ok(Self(grants)),
        }
    }

    /// The use that a key under these grants is bound to.
    pub fn key_use(&self) -> KeyUse {
        match self.0.contains(&Grant::Digest) {
            true => KeyUse::Digest,
            false => KeyUse::Message,
        }
    }

    /// The grants, in the order they were named.
    pub fn as_slice(&self) -> &[Grant] {
        &self.0
    }

    /// Decides whether the worker signs `message` for a client that asked in the name of `key`,
    /// the key blob of its request.
    ///
    /// # Errors
    ///
    /// [`Refusal`] names the grant that is missing, or why none could help.
    pub fn admit<'a>(&self, key: &[u8], message: &'a [u8]) -> Result<Admitted<'a>, Refusal> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(Refusal::TooLong { found: message.len() });
        }
        if self.key_use() == KeyUse::Digest {
            return Err(Refusal::KeySignsDigests);
        }
        let kind = Kind::of(key, message)?;
        let granted = self.0.iter().any(|grant| match (grant, &kind) {
            (Grant::Raw, _) => true,
            (Grant::Sshsig { namespace: None }, Kind::Sshsig { .. }) => true,
            (Grant::Sshsig { namespace: Some(granted) }, Kind::Sshsig { namespace }) => {
                granted.as_str() == *namespace
            }
            (Grant::SshLogin, Kind::SshLogin) => true,
            _ => false,
        });
        match (granted, kind) {
            (true, _) => Ok(Admitted(message)),
            (false, Kind::Sshsig { namespace }) => Err(Refusal::Namespace {
                found: namespace.chars().take(NAMESPACE_BYTES_MAX).collect(),
            }),
            (false, Kind::SshLogin) => Err(Refusal::NotGranted { missing: "ssh-login" }),
            (false, Kind::Other) => Err(Refusal::NotGranted { missing: "raw" }),
        }
    }

    /// Decides whether the worker signs a digest for a client.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotGranted`] where digests were not granted, [`Refusal::OwnStatement`] where the
    /// context is one of ours.
    pub fn admit_digest(&self, context: &[u8]) -> Result<AdmittedDigest, Refusal> {
        if context.starts_with(RESERVED.as_bytes()) {
            return Err(Refusal::OwnStatement);
        }
        match self.key_use() {
            KeyUse::Digest => Ok(AdmittedDigest(())),
            KeyUse::Message => Err(Refusal::NotGranted { missing: "digest" }),
        }
    }
}

impl Default for Grants {
    /// SSHSIG in any namespace but ours.
    fn default() -> Self {
        Self(vec![Grant::Sshsig { namespace: None }])
    }
}

impl TryFrom<Vec<Grant>> for Grants {
    type Error = GrantsError;

    fn try_from(grants: Vec<Grant>) -> Result<Self, Self::Error> {
        Self::new(grants)
    }
}

impl From<Grants> for Vec<Grant> {
    fn from(grants: Grants) -> Self {
        grants.0
    }
}

/// Why grants cannot stand together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantsError {
    /// More than [`GRANTS_MAX`].
    #[error("a workload has at most {GRANTS_MAX} grants, these are {found}")]
    TooMany {
        /// How many were named.
        found: usize,
    },
    /// `digest` beside another.
    #[error(
        "`digest` stands alone: a key signs either messages or digests (RFC 8032, section 8.5)"
    )]
    BothUses,
}

/// A message that a grant covers. Only [`Grants::admit`] makes one.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Admitted<'a>(&'a [u8]);

impl<'a> Admitted<'a> {
    /// The message to sign.
    pub const fn message(self) -> &'a [u8] {
        self.0
    }
}

/// A digest that a grant covers. Only [`Grants::admit_digest`] makes one.
#[derive(Debug)]
#[must_use]
pub struct AdmittedDigest(());

/// Why a client's request is not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("a message has at most {MESSAGE_BYTES_MAX} bytes, this one has {found}")]
    TooLong {
        /// Bytes in the message.
        found: usize,
    },
    /// The key is bound to digests.
    #[error("this key signs digests only")]
    KeySignsDigests,
    /// A statement that only evanesce itself makes.
    #[error("statements of evanesce itself are not signed for a client")]
    OwnStatement,
    /// Starts like an SSHSIG structure and is none.
    #[error("the SSHSIG structure is malformed")]
    Malformed,
    /// SSHSIG in a namespace that was not granted.
    #[error("namespace {found:?} was not granted")]
    Namespace {
        /// The namespace asked for, cut to 128 characters.
        found: String,
    },
    /// Another kind of message, which was not granted.
    #[error("`{missing}` was not granted")]
    NotGranted {
        /// The grant that would have covered it.
        missing: &'static str,
    },
}

/// What a message turns out to be.
enum Kind<'a> {
    Sshsig { namespace: &'a str },
    SshLogin,
    Other,
}

impl<'a> Kind<'a> {
    fn of(key: &[u8], message: &'a [u8]) -> Result<Self, Refusal> {
        if message.starts_with(sshsig::MAGIC) {
            let data = SignedData::parse(message).map_err(|_| Refusal::Malformed)?;
            return match is_reserved_namespace(data.namespace) {
                true => Err(Refusal::OwnStatement),
                false => Ok(Self::Sshsig { namespace: data.namespace }),
            };
        }
        if OWN_PREFIXES.iter().any(|prefix| message.starts_with(prefix)) {
            return Err(Refusal::OwnStatement);
        }
        Ok(match is_ssh_login(key, message) {
            Ok(true) => Self::SshLogin,
            Ok(false) | Err(_) => Self::Other,
        })
    }
}

/// Whether `message` is the signed part of a public-key login with `key` (RFC 4252, section 7, and
/// its host-bound variant in OpenSSH's `PROTOCOL`).
fn is_ssh_login(key: &[u8], message: &[u8]) -> Result<bool, ssh_encoding::Error> {
    let mut rest = message;
    let _session = take_string(&mut rest)?;
    let request = u8::decode(&mut rest)?;
    let _user = take_string(&mut rest)?;
    let service = take_string(&mut rest)?;
    let method = take_string(&mut rest)?;
    let has_signature = u8::decode(&mut rest)?;
    let _algorithm = take_string(&mut rest)?;
    let login_key = take_string(&mut rest)?;
    match method {
        b"publickey" => {}
        b"publickey-hostbound-v00@openssh.com" => {
            let _host_key = take_string(&mut rest)?;
        }
        _ => return Ok(false),
    }
    finish(rest)?;
    Ok(request == SSH_MSG_USERAUTH_REQUEST
        && service == b"ssh-connection"
        && has_signature == 1
        && login_key == key)
}

fn is_reserved_namespace(namespace: &str) -> bool {
    namespace.starts_with(RESERVED)
}

/// Namespaces and Ed25519ph contexts that start so are evanesce's own.
const RESERVED: &str = "evanesce";

/// First bytes of the statements that evanesce signs with a workload's key: its own tag, and DSSE's
/// pre-authentication encoding, in which its in-toto statements are signed.
const OWN_PREFIXES: [&[u8]; 2] = [RESERVED.as_bytes(), b"DSSEv1 "];

/// RFC 4252, section 6.
const SSH_MSG_USERAUTH_REQUEST: u8 = 50;

#[cfg(test)]
mod tests {
    use ssh_encoding::Encode as _;

    use super::*;
    use crate::sshsig::HashAlgorithm;

    const KEY: &[u8] = b"key blob";

    fn grants(texts: &[&str]) -> Grants {
        Grants::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    fn admits(grants: &Grants, message: &[u8]) -> bool {
        grants.admit(KEY, message).is_ok_and(|admitted| admitted.message() == message)
    }

    fn sshsig(namespace: &str) -> Vec<u8> {
        SignedData { namespace, hash: HashAlgorithm::Sha512, message_digest: &[5; 64] }.to_bytes()
    }

    fn login(key: &[u8], method: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        b"session".encode_to(&mut bytes);
        bytes.push(SSH_MSG_USERAUTH_REQUEST);
        for field in [b"user".as_slice(), b"ssh-connection", method.as_bytes()] {
            field.encode_to(&mut bytes);
        }
        bytes.push(1);
        b"ssh-ed25519".encode_to(&mut bytes);
        key.encode_to(&mut bytes);
        if method != "publickey" {
            b"host key".encode_to(&mut bytes);
        }
        bytes
    }

    trait EncodeTo {
        fn encode_to(&self, bytes: &mut Vec<u8>);
    }

    impl<T: AsRef<[u8]> + ?Sized> EncodeTo for T {
        fn encode_to(&self, bytes: &mut Vec<u8>) {
            self.as_ref().encode(bytes).unwrap();
        }
    }

    #[test]
    fn by_default_sshsig_is_signed_and_nothing_else() {
        let default = Grants::default();

        assert!(admits(&default, &sshsig("file")));
        assert_eq!(
            default.admit(KEY, &login(KEY, "publickey")).err(),
            Some(Refusal::NotGranted { missing: "ssh-login" })
        );
        assert_eq!(
            default.admit(KEY, b"hello").err(),
            Some(Refusal::NotGranted { missing: "raw" })
        );
        assert_eq!(
            default.admit_digest(b"").err(),
            Some(Refusal::NotGranted { missing: "digest" })
        );
    }

    #[test]
    fn a_namespace_that_was_not_named_is_refused_by_name() {
        let git = grants(&["sshsig:git"]);

        assert!(admits(&git, &sshsig("git")));
        assert_eq!(
            git.admit(KEY, &sshsig("file")).err(),
            Some(Refusal::Namespace { found: "file".into() })
        );
    }

    #[test]
    fn our_own_statements_are_refused_whatever_was_granted() {
        let all = grants(&["raw", "sshsig", "ssh-login"]);

        for message in [
            sshsig("evanesce"),
            sshsig("evanesce-rotation"),
            b"evanesce rotation v1\0".to_vec(),
            b"DSSEv1 28 application/vnd.in-toto+json 2 {}".to_vec(),
        ] {
            assert_eq!(all.admit(KEY, &message).err(), Some(Refusal::OwnStatement));
        }
        assert_eq!(
            grants(&["digest"]).admit_digest(b"evanesce").err(),
            Some(Refusal::OwnStatement)
        );
    }

    #[test]
    fn bytes_that_only_start_like_sshsig_are_refused_even_with_raw() {
        let mut cut = sshsig("file");
        cut.pop();

        assert_eq!(grants(&["raw"]).admit(KEY, &cut).err(), Some(Refusal::Malformed));
    }

    #[test]
    fn a_login_is_for_this_key_and_whole() {
        let logins = grants(&["ssh-login"]);
        let missing = Some(Refusal::NotGranted { missing: "raw" });

        assert!(admits(&logins, &login(KEY, "publickey")));
        assert!(admits(&logins, &login(KEY, "publickey-hostbound-v00@openssh.com")));
        assert_eq!(logins.admit(KEY, &login(b"another", "publickey")).err(), missing);
        assert_eq!(logins.admit(KEY, &login(KEY, "password")).err(), missing);
        let whole = login(KEY, "publickey");
        for end in 0..whole.len() {
            assert_eq!(logins.admit(KEY, &whole[..end]).err(), missing, "cut at {end}");
        }
    }

    #[test]
    fn one_key_is_never_granted_both_uses() {
        let both = vec!["digest".parse().unwrap(), "sshsig".parse().unwrap()];

        assert_eq!(Grants::new(both), Err(GrantsError::BothUses));
        assert_eq!(
            grants(&["digest"]).admit(KEY, &sshsig("file")).err(),
            Some(Refusal::KeySignsDigests)
        );
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_it_is_read() {
        let long = vec![0; MESSAGE_BYTES_MAX + 1];

        assert_eq!(
            grants(&["raw"]).admit(KEY, &long).err(),
            Some(Refusal::TooLong { found: long.len() })
        );
    }

    #[test]
    fn printed_grants_parse_to_what_was_printed_and_reserved_ones_do_not() {
        for text in ["sshsig", "sshsig:git", "ssh-login", "raw", "digest"] {
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
        assert_eq!("sshsig:evanesce".parse::<Grant>(), Err(ParseGrantError::ReservedNamespace));
        assert_eq!("sshsig:".parse::<Grant>(), Err(ParseGrantError::Namespace));
        assert_eq!("sshsig:a b".parse::<Grant>(), Err(ParseGrantError::Namespace));
    }
}
