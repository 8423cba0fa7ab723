//! Every limit of the protocol, by name, in one place.
//!
//! A limit is part of the format: raising one is a compatible change, lowering one is not.

/// Bytes in one message that the signer signs as it stands (pure Ed25519 reads it twice, so it has
/// to fit the guest's input buffer). SSHSIG hashes first, so files of any size are far below it.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Bytes in one ssh-agent frame, without its four length bytes: a message, a key blob and flags.
pub const AGENT_FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 8 * 1024;

/// Connections to one agent socket at one time; the next one waits in the listen backlog.
pub const AGENT_CONNECTIONS_MAX: usize = 32;

/// Bytes in the context of Ed25519ph (RFC 8032, section 5.1: one length octet).
pub const CONTEXT_BYTES_MAX: usize = 255;

/// Bytes in one control message, the text of the worker's smaps entries included.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;

/// Descriptors that travel with one control message.
pub const CONTROL_DESCRIPTORS_MAX: usize = 4;

/// Bytes in one message between a launcher and a worker's machine: a control message, and room for
/// what is around it.
pub const MACHINE_FRAME_BYTES_MAX: usize = CONTROL_BYTES_MAX + 1024;

/// Bytes of one client that travel in one message to or from a worker's machine.
pub const MACHINE_DATA_BYTES_MAX: usize = 16 * 1024;

/// Bytes in a key file. The largest that is expected, an armoured encrypted key, has about 2 KiB.
pub const KEY_FILE_BYTES_MAX: usize = 16 * 1024;

/// Bytes of what an age file holds: a key in the clear has about 120 in PKCS#8, 400 in OpenSSH's
/// format.
pub const SEALED_TEXT_BYTES_MAX: usize = 4 * 1024;

/// Bytes in a passphrase.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;

/// Bytes in a file of age identities. One has about 200, comments included.
pub const IDENTITY_FILE_BYTES_MAX: usize = 8 * 1024;

/// Identities that are tried on one file.
pub const IDENTITIES_MAX: usize = 32;

/// Recipients that one age file may have.
pub const RECIPIENTS_MAX: usize = 20;

/// scrypt's work factor, log2 of `N`, for keys that are sealed here: 64 MiB of scratch memory.
pub const WORK_FACTOR_SEAL: u8 = 16;

/// The highest that is opened unless the operator says otherwise: 256 MiB, what `age -p` writes.
pub const WORK_FACTOR_OPEN_MAX: u8 = 18;

/// The highest that an operator may allow: 2 GiB.
pub const WORK_FACTOR_MAX: u8 = 21;

/// Iterations of PBKDF2 that are done to open a file.
pub const PBKDF2_ITERATIONS_MAX: u32 = 10_000_000;

/// Rounds of OpenSSH's `bcrypt_pbkdf` that are done to open a file.
pub const BCRYPT_ROUNDS_MAX: u32 = 1024;

/// Bytes that one worker may have locked.
pub const LOCKED_BYTES_MAX: u64 = 1024 * 1024;

/// Bytes in an OpenSSH certificate that the agent offers.
pub const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;

/// Grants of one workload.
pub const GRANTS_MAX: usize = 16;

/// Bytes in an SSHSIG namespace that evanesce asks for or grants.
pub const NAMESPACE_BYTES_MAX: usize = 128;

/// Bytes in a workload's id.
pub const WORKLOAD_ID_BYTES_MAX: usize = 64;

/// Signatures of one key where the operator names no smaller budget.
pub const SIGNATURES_MAX_DEFAULT: u64 = 1_000_000;

/// Bytes in the runtime configuration that evidence binds.
pub const EVIDENCE_CONFIGURATION_BYTES_MAX: usize = 16 * 1024;

/// Bytes in the name of a provider of evidence.
pub const EVIDENCE_PROVIDER_BYTES_MAX: usize = 64;

/// Bytes in a report or quote: what the kernel's configfs interface gives at most (`SZ_32K`).
pub const EVIDENCE_OUTBLOB_BYTES_MAX: usize = 32 * 1024;

/// Bytes in the certificates that come with a report: what the kernel's driver takes at most
/// (`SEV_FW_BLOB_MAX_SIZE`).
pub const EVIDENCE_AUXBLOB_BYTES_MAX: usize = 16 * 1024;
