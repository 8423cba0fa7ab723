//! Whether this CPU has what the artefact was compiled for.

use crate::error::InstantiateError;

/// Looks for x86-64-v2, the baseline that `build.rs` compiles for.
///
/// # Errors
///
/// The first feature that is missing. Wasmtime would refuse the artefact as well; this says why in
/// words that can be acted on.
pub(crate) fn check_baseline() -> Result<(), InstantiateError> {
    let features = [
        ("sse3", is_x86_feature_detected!("sse3")),
        ("ssse3", is_x86_feature_detected!("ssse3")),
        ("sse4.1", is_x86_feature_detected!("sse4.1")),
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("popcnt", is_x86_feature_detected!("popcnt")),
        ("cmpxchg16b", is_x86_feature_detected!("cmpxchg16b")),
    ];
    match features.into_iter().find(|(_, present)| !present) {
        Some((feature, _)) => Err(InstantiateError::CpuLacks { feature }),
        None => Ok(()),
    }
}
