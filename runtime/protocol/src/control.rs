//! The control channel: what a launcher orders and what a worker reports.
//!
//! A worker is one of two [`Role`]s, told by its first argument. Each role has its own orders and
//! reports, in the one sequence that the worker's types allow:
//!
//! ```text
//! signer   → Caged   ← Inspect (+ key file)    → Inspected
//!                    ← Load (+ key file)       → Wanted   ← Secret (+ its source)           → Loaded
//!                    ← Load (+ key file)       → Loaded   ← Serve (+ listener, journal, …)  → Serving
//!                    ← OfferRelease            → Offered  ← Load                            → Loaded
//!                                                         ← Wipe                            → Wiped
//! notary   → Caged   ← Load | Create (+ file)  → Loaded   ← Sign …                          → Signed …
//!                                                         ← Wipe                            → Wiped
//! ```
//!
//! A worker that cannot go on reports [`Refused`], wipes and ends. One that ends its key of its own
//! accord (budget, time, kill switch) reports `Wiped` without being asked. End of file on the
//! channel means that the launcher is gone: the worker wipes and ends.
//!
//! Messages are encoded with postcard. None has room for a private key: keys travel as descriptors.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::custody::{KeyFileInfo, Seal};
use crate::evidence::ReleaseKey;
use crate::grant::Grants;
use crate::ids::{Digest, KeyOrigin, KeyUse, PublicKey};
use crate::release::ReleaseContext;
use crate::rotation::Handover;
pub use crate::smaps::Backing;

/// Which of the two workers a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Holds a workload's Ed25519 key in a Wasm signer and serves the agent socket.
    Signer,
    /// Holds the notary's P-256 key while it signs receipts and certificates.
    Notary,
}

impl Role {
    /// The worker's first argument.
    pub const fn argument(self) -> &'static str {
        match self {
            Self::Signer => "signer",
            Self::Notary => "notary",
        }
    }

    /// Reads the worker's first argument.
    pub fn of_argument(argument: &[u8]) -> Option<Self> {
        [Self::Signer, Self::Notary].into_iter().find(|role| role.argument().as_bytes() == argument)
    }
}

/// Whether a worker may fall back to lesser memory where the kernel gives no secret pages. Told by
/// the worker's second argument, since memory is mapped before the first order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// No secret pages, no key.
    Strict,
    /// Locked pages will do (`--allow-degraded=secret-pages`).
    AllowLockedPages,
}

impl Strength {
    /// The worker's second argument.
    pub const fn argument(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::AllowLockedPages => "allow-locked-pages",
        }
    }

    /// Reads the worker's second argument.
    pub fn of_argument(argument: &[u8]) -> Option<Self> {
        [Self::Strict, Self::AllowLockedPages]
            .into_iter()
            .find(|strength| strength.argument().as_bytes() == argument)
    }
}

/// Whether a worker may have to read a passphrase from a terminal. Told by the worker's third
/// argument, since a process can leave its terminal only before it leads a process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalUse {
    /// It is never handed a terminal: a process group of its own keeps a terminal's signals away.
    Never,
    /// It may be handed one: it leads a session of its own, to which job control does not apply.
    Possible,
}

impl TerminalUse {
    /// The worker's third argument.
    pub const fn argument(self) -> &'static str {
        match self {
            Self::Never => "no-terminal",
            Self::Possible => "terminal",
        }
    }

    /// Reads the worker's third argument.
    pub fn of_argument(argument: &[u8]) -> Option<Self> {
        [Self::Never, Self::Possible]
            .into_iter()
            .find(|terminal| terminal.argument().as_bytes() == argument)
    }
}

/// An order to a signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignerOrder {
    /// Say what a key file is, without opening it. One descriptor, the key file.
    Inspect,
    /// Make a release key, that the private half of this key may be sealed to. The only order that
    /// makes sense next is to load what was sealed to it, once, or to wipe.
    OfferRelease(PublicKey),
    /// Bring a key within the signer's reach. One descriptor, the key file, unless it is born inside
    /// or released.
    Load(Load),
    /// What [`SignerReport::Wanted`] asked for. One descriptor.
    Secret(SecretSource),
    /// Serve the agent socket. Descriptors: the listening socket, the journal of requests (opened
    /// for appending), and an inotify descriptor where there is a kill switch.
    Serve(Serve),
    /// Sign a handover with the key, as one of its two. While the socket is served it counts as a
    /// request like any other.
    Endorse(Handover),
    /// Wipe everything and report it.
    Wipe,
}

/// How a key is brought within the signer's reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Where the key comes from.
    pub source: LoadSource,
    /// The use it is bound to.
    pub key_use: KeyUse,
    /// Have the key sealed as well, and the sealed file reported.
    pub seal: Option<Seal>,
}

/// Where a key comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadSource {
    /// It is made inside.
    BornInside,
    /// The key file that comes with the order.
    File {
        /// The highest work factor of scrypt that is done to open it, log2 of `N`.
        work_factor_max: u8,
    },
    /// Another machine sealed it to the release key that this worker offered.
    Released {
        /// What it was sealed under.
        context: ReleaseContext,
        /// What was sealed, [`crate::release::RELEASE_SEALED_BYTES`].
        sealed: Vec<u8>,
    },
}

/// How a worker gets at a secret, through the descriptor that comes along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretSource {
    /// It is typed in at a terminal.
    Terminal {
        /// What to ask, without a colon.
        prompt: String,
    },
    /// It is read to its end: a pipe or a file.
    Stream,
}

/// The secret that a worker cannot go on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// The passphrase of the key file.
    Passphrase,
    /// An identity that the key file is sealed to.
    Identity,
    /// A new passphrase, for the file that is to be sealed.
    NewPassphrase,
}

/// The terms of a signer's service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serve {
    /// What clients may have signed.
    pub grants: Grants,
    /// The key's OpenSSH certificate as SSH encodes it, offered beside the plain key.
    pub certificate: Vec<u8>,
    /// The comment beside both identities.
    pub comment: String,
    /// The user whose processes may connect.
    pub client_uid: u32,
    /// Signatures after which the key is wiped.
    pub signatures_max: u64,
    /// Time after which the key is wiped, in milliseconds of `CLOCK_BOOTTIME`.
    pub ttl_ms: Option<u64>,
    /// The name that, appearing in the watched directory, has the key wiped.
    pub kill_switch: Option<Vec<u8>>,
}

/// A report of a signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignerReport {
    /// The cage is closed; nothing secret is inside yet.
    Caged(CageReport),
    /// What a key file is, or why it is none.
    Inspected(Result<KeyFileInfo, Refused>),
    /// A release key was made.
    Offered(ReleaseKey),
    /// A secret is needed.
    Wanted(Wanted),
    /// A key is loaded.
    Loaded(Loaded),
    /// The socket is being served.
    Serving,
    /// The signature of a handover.
    Endorsed {
        /// Pure Ed25519 (RFC 8032), 64 bytes.
        signature: Vec<u8>,
    },
    /// Everything was wiped; the worker waits for its end.
    Wiped(WipeReport),
    /// The worker cannot go on; it has wiped what there was.
    Refused(Refused),
}

/// A key that is within the signer's reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Its public half.
    pub public_key: PublicKey,
    /// Where it came from.
    pub origin: KeyOrigin,
    /// What was sealed, where that was ordered: armoured age, or for a release
    /// [`crate::release::RELEASE_SEALED_BYTES`] in hexadecimal digits.
    pub sealed: Option<String>,
}

/// An order to a notary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotaryOrder {
    /// Load the P-256 key from the one descriptor, PKCS#8 PEM.
    Load,
    /// Make a P-256 key and write it, PKCS#8 PEM, to the one descriptor: an empty file of mode 0600.
    Create,
    /// Sign the payload (ECDSA, SHA-256).
    Sign {
        /// What it is.
        payload: Vec<u8>,
    },
    /// Wipe everything and report it.
    Wipe,
}

/// A report of a notary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotaryReport {
    /// The cage is closed; nothing secret is inside yet.
    Caged(CageReport),
    /// A key is loaded.
    Loaded {
        /// Its public half: the uncompressed point of SEC 1, section 2.3.3, 65 bytes.
        public_key: Vec<u8>,
    },
    /// The signature.
    Signed {
        /// Fixed-size `r ‖ s`, 64 bytes.
        signature: Vec<u8>,
    },
    /// Everything was wiped; the worker waits for its end.
    Wiped(WipeReport),
    /// The worker cannot go on; it has wiped what there was.
    Refused(Refused),
}

/// What a worker found its cage to be, read back after it was closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CageReport {
    /// `PR_GET_DUMPABLE`: 0 is wanted.
    pub dumpable: u32,
    /// `PR_GET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// `PR_GET_MDWE` has `PR_MDWE_REFUSE_EXEC_GAIN`.
    pub memory_deny_write_execute: bool,
    /// `RLIMIT_CORE`, soft and hard, in bytes.
    pub core_limit_bytes: (u64, u64),
    /// The Landlock ABI that was enforced; 0 for none.
    pub landlock_abi: u32,
    /// Opening `/` was refused after Landlock was in force.
    pub landlock_refused_open: bool,
    /// Descriptors that are open, by number.
    pub descriptors: Vec<i32>,
    /// Every guarded range, with the kernel's word on it.
    pub ranges: Vec<RangeReport>,
    /// SHA-256 of the signer module; `None` for a notary.
    pub signer_module: Option<Digest>,
}

/// One guarded range of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeReport {
    /// What it is for.
    pub name: String,
    /// The address of its first byte.
    pub start: u64,
    /// Its size in bytes, without the guard pages.
    pub bytes: u64,
    /// What it is meant to be.
    pub backing: Backing,
    /// The entries of `/proc/self/smaps` for it and its two guard pages as they stand, read after
    /// the cage was closed: for [`crate::smaps::parse`] and [`crate::smaps::check`].
    pub smaps: String,
}

/// What a wipe did, in the worker's own words: nobody else can read secret pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WipeReport {
    /// Why it was done.
    pub cause: WipeCause,
    /// Signatures made with the key.
    pub signatures: u64,
    /// The commitment to the ordered list of requests (see [`crate::commitment`]).
    pub commitment: Digest,
    /// Each guarded range: name, bytes overwritten and read back as zero.
    pub ranges: Vec<(String, u64)>,
    /// The registers that now hold the public pattern: `avx512`, `avx2` or `sse`.
    pub registers: String,
}

/// Why a worker wiped its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WipeCause {
    /// The launcher ordered it.
    Ordered,
    /// The signature budget is spent.
    BudgetSpent,
    /// The time to live is over.
    TimeToLive,
    /// The kill-switch file appeared.
    KillSwitch,
    /// It was told to stop: SIGTERM, as a service manager sends it.
    Stopped,
}

impl fmt::Display for WipeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ordered => "the launcher ordered it",
            Self::BudgetSpent => "the signature budget is spent",
            Self::TimeToLive => "the time to live is over",
            Self::KillSwitch => "the kill switch was set",
            Self::Stopped => "it was told to stop",
        })
    }
}

/// Why a worker cannot go on. Holds no key bytes: every field may be logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The kernel gives no secret pages.
    #[error("the kernel gives no secret pages (memfd_secret(2): {})", Errno(*errno))]
    SecretPages {
        /// The error number.
        errno: i32,
    },
    /// Not enough memory may be locked.
    #[error("{needed_bytes} bytes have to be locked, and RLIMIT_MEMLOCK allows {limit_bytes}")]
    LockLimit {
        /// Bytes that the worker locks in all.
        needed_bytes: u64,
        /// The soft limit in force.
        limit_bytes: u64,
    },
    /// Guarded memory could not be mapped for another reason.
    #[error("guarded memory could not be mapped at step {step} ({})", Errno(*errno))]
    Memory {
        /// The system call.
        step: String,
        /// The error number.
        errno: i32,
    },
    /// One wall of the cage could not be raised.
    #[error("the cage is incomplete: {step} failed ({})", Errno(*errno))]
    Cage {
        /// Which wall.
        step: String,
        /// The error number, or 0 where there is none.
        errno: i32,
    },
    /// The machine that the worker is in cannot go on.
    #[error("the worker's machine failed at step {step} ({})", Errno(*errno))]
    Machine {
        /// The step.
        step: String,
        /// The error number, or 0 where there is none.
        errno: i32,
    },
    /// The signer in this worker is not the one it was built with, or does not start.
    #[error("the signer does not start: {reason}")]
    Signer {
        /// What was found.
        reason: String,
    },
    /// The key file could not be read.
    #[error("the key file could not be read ({})", Errno(*errno))]
    KeyRead {
        /// The error number.
        errno: i32,
    },
    /// The key file is not a key that this worker takes.
    #[error("{0}")]
    KeyFormat(#[from] KeyFormatError),
    /// The new key could not be written to its file.
    #[error("the new key could not be written ({})", Errno(*errno))]
    KeyWrite {
        /// The error number.
        errno: i32,
    },
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes ({})", Errno(*errno))]
    Entropy {
        /// The error number.
        errno: i32,
    },
    /// A passphrase or an identity could not be read from where it was to come from.
    #[error("the {what} could not be read ({})", Errno(*errno))]
    SecretRead {
        /// Passphrase or identity.
        what: String,
        /// The error number.
        errno: i32,
    },
    /// Nothing was typed or written in time.
    #[error("no {what} came within {seconds} seconds")]
    SecretTimeout {
        /// Passphrase or identity.
        what: String,
        /// How long the worker waited.
        seconds: u32,
    },
    /// A passphrase that is empty or too long.
    #[error("a passphrase has 1 to {limit_bytes} bytes")]
    PassphraseLength {
        /// The limit.
        limit_bytes: u32,
    },
    /// The two passphrases that were typed differ.
    #[error("the two passphrases differ")]
    PassphrasesDiffer,
    /// A file of identities that is too long.
    #[error("the identity file is longer than {limit_bytes} bytes")]
    IdentityLength {
        /// The limit.
        limit_bytes: u32,
    },
    /// What was released does not open with the release key of this worker.
    #[error("what was released does not open with this worker's release key")]
    ReleaseNotOpened,
    /// What was released is not the key that was asked for.
    #[error("what was released is not the key {expected}")]
    ReleaseOtherKey {
        /// The public half of the key that was asked for.
        expected: PublicKey,
    },
    /// The journal of requests could not be written, so nothing more is signed.
    #[error("the journal of requests could not be written ({})", Errno(*errno))]
    Journal {
        /// The error number.
        errno: i32,
    },
    /// An order that does not belong in this phase, or without its descriptors.
    #[error("the launcher gave an order that does not belong here: {order}")]
    Order {
        /// Its name.
        order: String,
    },
}

impl Refused {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::SecretPages { .. } => "worker.secret-pages",
            Self::LockLimit { .. } => "worker.lock-limit",
            Self::Memory { .. } => "worker.memory",
            Self::Machine { .. } => "worker.machine",
            Self::Cage { .. } => "worker.cage",
            Self::Signer { .. } => "worker.signer",
            Self::KeyRead { .. } => "worker.key-read",
            Self::KeyFormat(error) => error.code(),
            Self::KeyWrite { .. } => "worker.key-write",
            Self::Entropy { .. } => "worker.entropy",
            Self::SecretRead { .. } => "secret.read",
            Self::SecretTimeout { .. } => "secret.timeout",
            Self::PassphraseLength { .. } => "passphrase.length",
            Self::PassphrasesDiffer => "passphrase.differ",
            Self::IdentityLength { .. } => "identity.length",
            Self::ReleaseNotOpened => "release.not-opened",
            Self::ReleaseOtherKey { .. } => "release.other-key",
            Self::Journal { .. } => "worker.journal",
            Self::Order { .. } => "worker.order",
        }
    }
}

/// Why the bytes of a key file are not a key that is taken. Names formats, never contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFormatError {
    /// The file is empty.
    #[error("the key file is empty")]
    Empty,
    /// The file is longer than any key.
    #[error("the key file is longer than {limit_bytes} bytes")]
    TooLong {
        /// The limit.
        limit_bytes: u64,
    },
    /// There is no PEM armour, or it is damaged or cut off.
    #[error("the key file is not whole PEM text")]
    NotPem,
    /// The armour is for something else.
    #[error("the key file is labelled {found:?}, and a private key is expected")]
    Label {
        /// The label, cut to 64 characters.
        found: String,
    },
    /// The armour holds no PKCS#8 structure (RFC 5958).
    #[error("the key file holds no PKCS#8 structure")]
    NotPkcs8,
    /// A private key of another algorithm.
    #[error("the key file holds a key of algorithm {found}, and {expected} is expected")]
    Algorithm {
        /// The algorithm that is taken, by name.
        expected: String,
        /// The object identifier found.
        found: String,
    },
    /// The key inside has the wrong size or form (RFC 8410, section 7).
    #[error("the PKCS#8 structure holds no well-formed {expected} key")]
    Malformed {
        /// The algorithm that is taken, by name.
        expected: String,
    },
    /// The file is held shut by a passphrase or to recipients, and nothing was given to open it.
    #[error("the key file cannot be opened without its {needed}")]
    Locked {
        /// Passphrase or identity.
        needed: String,
    },
    /// The passphrase is not the one of the file.
    #[error("the passphrase does not open the key file")]
    WrongPassphrase,
    /// None of the identities is of a recipient of the file.
    #[error("none of the identities opens the key file")]
    WrongIdentity,
    /// A line of the identity file that is none.
    #[error("line {line} of the identity file is no X25519 identity of age")]
    Identity {
        /// Counted from 1; 0 where there is none at all.
        line: u32,
    },
    /// Encrypted in a way that is not taken.
    #[error("the key file is encrypted with {found}, which is not taken")]
    Encryption {
        /// By name or object identifier.
        found: String,
    },
    /// Opening takes more work or memory than is allowed.
    #[error("opening the key file takes {kdf} with {found}, and at most {limit} is allowed")]
    Work {
        /// Its key derivation function.
        kdf: String,
        /// What it asks for.
        found: String,
        /// What is allowed.
        limit: String,
    },
    /// There is not as much memory.
    #[error("{bytes} bytes of scratch memory cannot be had")]
    Scratch {
        /// How many.
        bytes: u64,
    },
    /// No age file (C2SP `age.md`), or one that was cut off or changed.
    #[error("the key file is no whole age file")]
    NotAge,
    /// An age file that holds something else than a key in the clear.
    #[error("the age file holds no key in the clear")]
    SealedSomethingElse,
    /// A recipient that nothing can be sealed to.
    #[error("nothing can be sealed to these recipients")]
    Recipients,
    /// No structure of OpenSSH's format, or one that was cut off or changed.
    #[error("the key file holds no whole OpenSSH key")]
    NotOpenssh,
    /// The file names a public half, and it is not the one of its private half.
    #[error("the public key in the file does not belong to its private key")]
    PublicKeyMismatch,
}

impl KeyFormatError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "key.empty",
            Self::TooLong { .. } => "key.too-long",
            Self::NotPem => "key.not-pem",
            Self::Label { .. } => "key.label",
            Self::NotPkcs8 => "key.not-pkcs8",
            Self::Algorithm { .. } => "key.algorithm",
            Self::Malformed { .. } => "key.malformed",
            Self::Locked { .. } => "key.locked",
            Self::WrongPassphrase => "key.wrong-passphrase",
            Self::WrongIdentity => "key.wrong-identity",
            Self::Identity { .. } => "identity.malformed",
            Self::Encryption { .. } => "key.encryption",
            Self::Work { .. } => "key.work-factor",
            Self::Scratch { .. } => "key.scratch",
            Self::NotAge => "key.not-age",
            Self::SealedSomethingElse => "key.sealed-something-else",
            Self::Recipients => "key.recipients",
            Self::NotOpenssh => "key.not-openssh",
            Self::PublicKeyMismatch => "key.public-key-mismatch",
        }
    }
}

/// Prints an error number as the C library explains it.
struct Errno(i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_strengths_are_read_from_what_they_print() {
        for role in [Role::Signer, Role::Notary] {
            assert_eq!(Role::of_argument(role.argument().as_bytes()), Some(role));
        }
        for strength in [Strength::Strict, Strength::AllowLockedPages] {
            assert_eq!(Strength::of_argument(strength.argument().as_bytes()), Some(strength));
        }
        for terminal in [TerminalUse::Never, TerminalUse::Possible] {
            let argument = terminal.argument().as_bytes();
            assert_eq!(TerminalUse::of_argument(argument), Some(terminal));
        }
        assert_eq!(Role::of_argument(b"signer "), None);
    }

    #[test]
    fn a_refusal_explains_its_error_number_and_has_a_stable_code() {
        let refused = Refused::SecretPages { errno: 38 };

        assert_eq!(refused.code(), "worker.secret-pages");
        assert!(refused.to_string().contains("Function not implemented"), "{refused}");
        assert_eq!(Refused::KeyFormat(KeyFormatError::NotPem).code(), "key.not-pem");
    }
}
