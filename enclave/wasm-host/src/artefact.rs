//! Machine code that was compiled at build time and lies in this program's own text.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use evanesce_protocol::Digest;
use wasmtime::{CustomCodeMemory, Engine, Instance, Module, Store};

use crate::error::InstantiateError;
use crate::memory::{GuestMemory, Handover};
use crate::settings;

/// A module's machine code and what it has to be.
///
/// # Invariants
///
/// 1. `bytes` are an artefact that this crate's build script compiled. They are page-aligned, in a
///    section that the loader maps readable and executable and never writable.
pub(crate) struct Artefact {
    bytes: &'static [u8],
    /// The Wasm module's SHA-256.
    pub(crate) module_digest: Digest,
    /// The SHA-256 of the machine code that was compiled from it.
    pub(crate) digest: Digest,
    /// Made once: Wasmtime knows code by its address, so a process has one module of each.
    loaded: Mutex<Option<Loaded>>,
}

/// The machine code as Wasmtime knows it.
struct Loaded {
    engine: Engine,
    module: Module,
    handover: Arc<Handover>,
}

/// The signer.
pub(crate) static SIGNER: Artefact = in_text!("signer");

/// A module with the signer's interface that signs for ever.
#[cfg(test)]
pub(crate) static RUNAWAY: Artefact = in_text!("runaway");

impl Artefact {
    /// Makes an instance in this memory, after one more look at the digest of the machine code.
    ///
    /// # Errors
    ///
    /// Bytes that are not the pinned ones, and what Wasmtime refuses: another version or other
    /// settings than those of the build, or a module with other needs.
    pub(crate) fn instantiate(
        &self,
        memory: GuestMemory,
    ) -> Result<(Store<()>, Instance), InstantiateError> {
        let found = Digest::of(self.bytes);
        if found != self.digest {
            return Err(InstantiateError::ArtefactDigest { expected: self.digest, found });
        }
        // Held to the end, so that the memory goes to this instance.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = match &mut *loaded {
            Some(loaded) => loaded,
            nothing => nothing.insert(self.load()?),
        };
        loaded.handover.offer(memory);
        let mut store = Store::new(&loaded.engine, ());
        let instance = Instance::new(&mut store, &loaded.module, &[])
            .map_err(|source| InstantiateError::Load { source: source.into() })?;
        Ok((store, instance))
    }

    fn load(&self) -> Result<Loaded, InstantiateError> {
        let handover = Arc::new(Handover::default());
        let engine = engine(Arc::clone(&handover))
            .map_err(|source| InstantiateError::Engine { source: source.into() })?;
        // SAFETY: invariant 1: the bytes were made by `Engine::precompile_module`, which the digest
        // has just confirmed, and nothing can write to them.
        let module = unsafe { Module::deserialize_raw(&engine, NonNull::from(self.bytes)) }
            .map_err(|source| InstantiateError::Load { source: source.into() })?;
        Ok(Loaded { engine, module, handover })
    }

    /// The same bytes under a digest that they do not have.
    #[cfg(test)]
    pub(crate) fn with_digest(&self, digest: Digest) -> Self {
        let loaded = Mutex::new(None);
        Self { bytes: self.bytes, module_digest: self.module_digest, digest, loaded }
    }
}

fn engine(handover: Arc<Handover>) -> wasmtime::Result<Engine> {
    let mut config = settings::settings()?;
    config.with_host_memory(handover).with_custom_code_memory(Some(Arc::new(AlreadyExecutable)));
    Engine::new(&config)
}

/// Stands in for the step that makes freshly written memory executable: there is none.
pub(crate) struct AlreadyExecutable;

impl CustomCodeMemory for AlreadyExecutable {
    fn required_alignment(&self) -> usize {
        TEXT_ALIGNMENT
    }

    fn publish_executable(&self, _start: *const u8, _bytes: usize) -> wasmtime::Result<()> {
        Ok(())
    }

    fn unpublish_executable(&self, _start: *const u8, _bytes: usize) -> wasmtime::Result<()> {
        Ok(())
    }
}

/// Puts what the build script made under this name into the program's text.
///
/// A section whose name starts with `.text` is linked into the executable segment. Naming it counts
/// as unsafe: what the linker puts there may run. This one's name is used once, and who runs what is
/// in it is [`Artefact::load`].
macro_rules! in_text {
    ($name:literal) => {{
        const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".cwasm"));
        const DIGESTS: [[u8; 32]; 2] = include!(concat!(env!("OUT_DIR"), "/", $name, ".rs"));

        #[repr(C, align(4096))]
        struct Pages([u8; BYTES.len()]);

        #[unsafe(link_section = concat!(".text.evanesce_", $name))]
        static TEXT: Pages = Pages(*include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".cwasm")));

        Artefact {
            bytes: &TEXT.0,
            module_digest: Digest::from_bytes(DIGESTS[0]),
            digest: Digest::from_bytes(DIGESTS[1]),
            loaded: Mutex::new(None),
        }
    }};
}
use in_text;

/// A page: what `Pages` is aligned to, and the section of code within the artefact too.
const TEXT_ALIGNMENT: usize = 4096;
