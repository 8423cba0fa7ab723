//! Why a step of a signer's life did not happen. No variant holds a byte of a key or a message.

use std::error::Error;
use std::io;

use evanesce_guarded_memory::{FillError, MapError, WipeError};
use evanesce_protocol::{Digest, KeyUse};

/// Why there is no signer. Nothing was loaded, so nothing has to be wiped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstantiateError {
    /// The machine code in this program is not what its build made: a damaged or altered file.
    #[error("the signer's machine code has digest {found}, not {expected}")]
    ArtefactDigest {
        /// What the build pinned.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// The CPU is older than the artefact's baseline, x86-64-v2, or a hypervisor hides a part of it.
    #[error("this CPU lacks {feature}, which the signer is compiled for")]
    CpuLacks {
        /// As the Rust standard library names it.
        feature: &'static str,
    },
    /// No guarded memory.
    #[error("could not map guarded memory for the signer")]
    Map {
        /// What was refused.
        #[source]
        source: MapError,
    },
    /// Wasmtime refused its settings.
    #[error("could not set up the Wasm engine")]
    Engine {
        /// Wasmtime's reason.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Wasmtime refused the artefact.
    #[error("could not load the signer's machine code")]
    Load {
        /// Wasmtime's reason.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The module does not have the signer's interface.
    #[error("the signer has no usable {part}")]
    Interface {
        /// The export or property that is missing or of another type.
        part: &'static str,
        /// Wasmtime's reason, where there is one.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// The module speaks another version of the interface.
    #[error("the signer speaks version {found} of its interface, not {expected}")]
    AbiVersion {
        /// The version this host speaks.
        expected: i32,
        /// What the module answered.
        found: i32,
    },
    /// The kernel refused the alternate signal stack (sigaltstack(2)).
    #[error("could not install the guarded signal stack")]
    SignalStack {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the watch over run-away calls (timer_create(2), sigaction(2)).
    #[error("could not start the watch over guest calls")]
    Watch {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The guest failed in its first calls.
    #[error("the signer failed before it was given a key")]
    Broken {
        /// How.
        #[source]
        source: BrokenGuest,
    },
}

impl InstantiateError {
    /// A stable name for reports and alerts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ArtefactDigest { .. } => "signer.artefact-digest",
            Self::CpuLacks { .. } => "signer.cpu-lacks",
            Self::Map { source } => source.code(),
            Self::Engine { .. } => "signer.engine",
            Self::Load { .. } => "signer.load-code",
            Self::Interface { .. } => "signer.interface",
            Self::AbiVersion { .. } => "signer.abi-version",
            Self::SignalStack { .. } => "signer.signal-stack",
            Self::Watch { .. } => "signer.watch",
            Self::Broken { source } => source.code(),
        }
    }
}

/// The guest did what its interface rules out. Always fatal: wipe the signer, then abort.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokenGuest {
    /// It trapped: out of its memory or stack, or at an instruction that is never reached.
    #[error("the signer trapped")]
    Trapped {
        /// Wasmtime's name for the trap.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// It gave an answer that this step cannot have.
    #[error("the signer answered {status}, which cannot be here")]
    Answer {
        /// The number; see `evanesce_signer::abi::Status`.
        status: i32,
    },
    /// It was broken before, and asked again.
    #[error("the signer is broken since an earlier call")]
    Earlier,
}

impl BrokenGuest {
    /// A stable name for reports and alerts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Trapped { .. } => "signer.trapped",
            Self::Answer { .. } => "signer.answer",
            Self::Earlier => "signer.broken",
        }
    }
}

/// Why no key came into the signer. The signer is gone, and its memory was wiped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The seed lies in ordinary memory, where it should never have been.
    #[error("the seed is not in guarded memory")]
    SeedUnguarded,
    /// No entropy for a new key.
    #[error("could not get entropy for a new key")]
    Entropy {
        /// The kernel's answer.
        #[source]
        source: FillError,
    },
    /// The guest failed.
    #[error("the signer failed to take the key")]
    Broken {
        /// How.
        #[source]
        source: BrokenGuest,
    },
}

impl LoadError {
    /// A stable name for reports and alerts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::SeedUnguarded => "signer.seed-unguarded",
            Self::Entropy { source } => source.code(),
            Self::Broken { source } => source.code(),
        }
    }
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// A refusal: the message is too long for the signer's input buffer.
    #[error("the message has {found} bytes, the signer takes {max}")]
    MessageTooLong {
        /// Bytes in the message.
        found: usize,
        /// Bytes that the signer takes.
        max: usize,
    },
    /// A refusal: RFC 8032 gives a context 255 bytes.
    #[error("the context has {found} bytes, Ed25519ph takes {max}")]
    ContextTooLong {
        /// Bytes in the context.
        found: usize,
        /// Bytes that Ed25519ph takes.
        max: usize,
    },
    /// A refusal: the key was bound to the other use when it was loaded.
    #[error("the key is bound to the other use: {bound_to:?}")]
    OtherUse {
        /// What the key may be used for.
        bound_to: KeyUse,
    },
    /// Fatal: wipe the signer, then abort.
    #[error("the signer failed to sign")]
    Broken {
        /// How.
        #[source]
        source: BrokenGuest,
    },
}

impl SignError {
    /// Whether the signer has to be wiped and the process ended, because an invariant broke.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::MessageTooLong { .. } | Self::ContextTooLong { .. } | Self::OtherUse { .. } => {
                false
            }
            Self::Broken { .. } => true,
        }
    }

    /// A stable name for reports and alerts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MessageTooLong { .. } => "signer.message-too-long",
            Self::ContextTooLong { .. } => "signer.context-too-long",
            Self::OtherUse { .. } => "signer.other-use",
            Self::Broken { source } => source.code(),
        }
    }
}

/// A wipe that cannot be vouched for. Every region was overwritten all the same; abort.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WipeFailed {
    /// The guest did not wipe itself.
    #[error("the signer failed to wipe itself")]
    Guest {
        /// How.
        #[source]
        source: BrokenGuest,
    },
    /// A region does not read back as zero.
    #[error("the {region} is not zero after its wipe")]
    NotZero {
        /// The name of the region.
        region: &'static str,
        /// Where.
        #[source]
        source: WipeError,
    },
}

impl WipeFailed {
    /// A stable name for reports and alerts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Guest { source } => source.code(),
            Self::NotZero { source, .. } => source.code(),
        }
    }
}
