//! What guarded memory and the signer say, in the words of the control protocol.

use std::error::Error;

use evanesce_guarded_memory::registers::VectorState;
use evanesce_guarded_memory::{self as guarded_memory, FillError, MapError, WipedRegion};
use evanesce_protocol::control::{KeyFormatError, Refused, Strength};
use evanesce_protocol::limits::KEY_FILE_BYTES_MAX;
use evanesce_wasm_host::{InstantiateError, LoadError};
use rustix::io::Errno;

/// What the launcher allows, as the mapping code takes it.
pub(crate) const fn guarded(strength: Strength) -> guarded_memory::Strength {
    match strength {
        Strength::Strict => guarded_memory::Strength::Strict,
        Strength::AllowLockedPages => guarded_memory::Strength::AllowDegraded,
    }
}

pub(crate) fn map_refused(error: MapError) -> Refused {
    match error {
        MapError::SecretPagesUnavailable { source } => {
            Refused::SecretPages { errno: source.raw_os_error() }
        }
        MapError::MemlockTooLow { needed, limit, .. } => {
            Refused::LockLimit { needed_bytes: needed, limit_bytes: limit.unwrap_or(u64::MAX) }
        }
        MapError::Reserve { source, .. } => memory("mmap", source),
        MapError::Back { source } => memory("mmap of secret pages", source),
        MapError::Advise { advice, source } => memory(advice, source),
        _ => memory("register a region", Errno::NOMEM),
    }
}

pub(crate) fn signer_refused(error: InstantiateError) -> Refused {
    match error {
        InstantiateError::Map { source } => map_refused(source),
        other => Refused::Signer { reason: with_causes(&other) },
    }
}

pub(crate) fn load_refused(error: LoadError) -> Refused {
    match error {
        LoadError::Entropy { source } => key_file_refused(source),
        other => Refused::Signer { reason: with_causes(&other) },
    }
}

pub(crate) fn key_file_refused(error: FillError) -> Refused {
    match error {
        FillError::TooLong { .. } => {
            let limit_bytes = u64::try_from(KEY_FILE_BYTES_MAX).expect("16 KiB fit 64 bits");
            Refused::KeyFormat(KeyFormatError::TooLong { limit_bytes })
        }
        FillError::Read { source } => Refused::KeyRead { errno: source.raw_os_error() },
        FillError::Random { source } => Refused::Entropy { errno: source.raw_os_error() },
        _ => Refused::KeyRead { errno: 0 },
    }
}

/// Names and sizes, as the report of a wipe lists them.
pub(crate) fn wiped_ranges<'a>(
    regions: impl IntoIterator<Item = &'a WipedRegion>,
) -> Vec<(String, u64)> {
    regions.into_iter().map(|region| (region.name().to_owned(), region.bytes() as u64)).collect()
}

/// The registers that hold the public pattern while the worker waits.
pub(crate) const fn register_names(state: VectorState) -> &'static str {
    match state {
        VectorState::Avx512 => "avx512",
        VectorState::Avx => "avx",
        _ => "sse",
    }
}

/// An error and its causes in one clause. The signer's errors hold no byte of a key.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn memory(step: &str, errno: Errno) -> Refused {
    Refused::Memory { step: step.to_owned(), errno: errno.raw_os_error() }
}
