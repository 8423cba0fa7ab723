//! The signer's life as types.

use std::fmt;

use evanesce_guarded_memory::{Strength, WipedRegion, fill_random, registry};
use evanesce_protocol::smaps::Backing;
use evanesce_protocol::{Digest, KeyUse, PublicKey};
use evanesce_signer::abi::{
    CONTEXT_BYTES_MAX, DIGEST_BYTES, ENTROPY_BYTES, INPUT_BYTES, SEED_BYTES, SIGNATURE_BYTES, Use,
};

use crate::artefact::{Artefact, SIGNER};
use crate::error::{InstantiateError, LoadError, SignError, WipeFailed};
use crate::guest::{Guest, Step};

/// A signer in one phase of its life: [`Fresh`] → [`Loaded`] → [`WipedSigner`].
///
/// Each step takes `self`: a signer takes one key, and a wiped one cannot sign.
///
/// ```compile_fail,E0382
/// # use evanesce_guarded_memory::Strength;
/// # use evanesce_protocol::KeyUse;
/// # use evanesce_wasm_host::Signer;
/// let mut signer = Signer::instantiate(Strength::Strict)?.generate(KeyUse::Message)?;
/// let wiped = signer.wipe()?;
/// signer.sign_message(b"too late")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A signer stays on the thread that made it: signal stack and watch are that thread's. Dropping it
/// wipes it, too, but only [`Signer::wipe`] says so.
pub struct Signer<Phase> {
    guest: Guest,
    artefact: &'static Artefact,
    phase: Phase,
}

/// The phase of a signer that has no key yet.
#[derive(Debug)]
pub struct Fresh(());

/// The phase of a signer with a key.
#[derive(Debug)]
pub struct Loaded {
    public_key: PublicKey,
    bound_to: KeyUse,
}

impl Signer<Fresh> {
    /// Makes an instance of the signer that this program was built with, after a look at the digest
    /// of its machine code.
    ///
    /// Nothing is made executable, so it works under PR_SET_MDWE (prctl(2)). Later steps make few
    /// system calls: getrandom(2) for a new key, rt_sigreturn(2) after a look of the watch, and at
    /// the end ppoll(2), timer_delete(2), sigaltstack(2) and munmap(2).
    ///
    /// # Errors
    ///
    /// See [`InstantiateError`].
    pub fn instantiate(strength: Strength) -> Result<Self, InstantiateError> {
        Self::instantiate_artefact(&SIGNER, strength)
    }

    pub(crate) fn instantiate_artefact(
        artefact: &'static Artefact,
        strength: Strength,
    ) -> Result<Self, InstantiateError> {
        let guest = Guest::instantiate(artefact, strength)?;
        Ok(Self { guest, artefact, phase: Fresh(()) })
    }

    /// Copies a seed (RFC 8032, section 5.1.5: the private key) from guarded memory straight into
    /// linear memory, and binds the key to one use. The source is the caller's to wipe.
    ///
    /// # Errors
    ///
    /// A seed outside guarded memory, and a broken guest. The signer is gone either way.
    pub fn load(
        mut self,
        seed: &[u8; SEED_BYTES],
        bound_to: KeyUse,
    ) -> Result<Signer<Loaded>, LoadError> {
        if !is_guarded(seed) {
            return Err(LoadError::SeedUnguarded);
        }
        self.guest.with_input(|input| input[..SEED_BYTES].copy_from_slice(seed));
        self.take_key(Step::Load(number(bound_to)), bound_to)
    }

    /// Makes a key of 64 bytes that getrandom(2) writes into linear memory, and binds it to one use.
    /// It was never anywhere else.
    ///
    /// # Errors
    ///
    /// No entropy, and a broken guest. The signer is gone either way.
    pub fn generate(mut self, bound_to: KeyUse) -> Result<Signer<Loaded>, LoadError> {
        self.guest
            .with_input(|input| fill_random(&mut input[..ENTROPY_BYTES]))
            .map_err(|source| LoadError::Entropy { source })?;
        self.take_key(Step::Generate(number(bound_to)), bound_to)
    }

    fn take_key(mut self, step: Step, bound_to: KeyUse) -> Result<Signer<Loaded>, LoadError> {
        self.guest.call(step).map_err(|source| LoadError::Broken { source })?;
        let public_key = PublicKey::from_bytes(self.guest.output());
        let phase = Loaded { public_key, bound_to };
        Ok(Signer { guest: self.guest, artefact: self.artefact, phase })
    }
}

impl Signer<Loaded> {
    /// Signs a message of up to 64 KiB (pure Ed25519, RFC 8032, section 5.1.6).
    ///
    /// # Errors
    ///
    /// A refusal, or a broken guest: see [`SignError::is_fatal`].
    pub fn sign_message(&mut self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], SignError> {
        self.check_use(KeyUse::Message)?;
        let message_bytes = message.len();
        if message_bytes > INPUT_BYTES {
            return Err(SignError::MessageTooLong { found: message_bytes, max: INPUT_BYTES });
        }
        self.guest.with_input(|input| input[..message_bytes].copy_from_slice(message));
        self.sign(Step::SignMessage { message_bytes })
    }

    /// Signs a SHA-512 digest under a context of up to 255 bytes (Ed25519ph, RFC 8032, section 5.1).
    ///
    /// # Errors
    ///
    /// A refusal, or a broken guest: see [`SignError::is_fatal`].
    pub fn sign_digest(
        &mut self,
        digest: &[u8; DIGEST_BYTES],
        context: &[u8],
    ) -> Result<[u8; SIGNATURE_BYTES], SignError> {
        self.check_use(KeyUse::Digest)?;
        let context_bytes = context.len();
        if context_bytes > CONTEXT_BYTES_MAX {
            return Err(SignError::ContextTooLong { found: context_bytes, max: CONTEXT_BYTES_MAX });
        }
        self.guest.with_input(|input| {
            input[..DIGEST_BYTES].copy_from_slice(digest);
            input[DIGEST_BYTES..][..context_bytes].copy_from_slice(context);
        });
        self.sign(Step::SignDigest { context_bytes })
    }

    /// Ends the key: the guest wipes itself, then all of linear memory and both stacks are
    /// overwritten from here and read back.
    ///
    /// # Errors
    ///
    /// On `Err` the caller has to abort: the regions were overwritten, but something that cannot
    /// happen did.
    pub fn wipe(self) -> Result<WipedSigner, WipeFailed> {
        Ok(WipedSigner { regions: self.guest.wipe()? })
    }

    /// The public half of the key.
    pub fn public_key(&self) -> PublicKey {
        self.phase.public_key
    }

    /// What the key may be used for.
    pub fn bound_to(&self) -> KeyUse {
        self.phase.bound_to
    }

    fn check_use(&self, asked: KeyUse) -> Result<(), SignError> {
        let bound_to = self.phase.bound_to;
        if asked == bound_to { Ok(()) } else { Err(SignError::OtherUse { bound_to }) }
    }

    fn sign(&mut self, step: Step) -> Result<[u8; SIGNATURE_BYTES], SignError> {
        self.guest.call(step).map_err(|source| SignError::Broken { source })?;
        Ok(self.guest.output())
    }
}

impl<Phase> Signer<Phase> {
    /// What the worker reports of this signer.
    pub fn facts(&self) -> SignerFacts {
        let stack = self.guest.stack();
        SignerFacts {
            module_digest: self.artefact.module_digest,
            artefact_digest: self.artefact.digest,
            memory_bytes: self.guest.memory_bytes(),
            stack_bytes: stack.range().len(),
            signal_stack_bytes: self.guest.signal_stack_bytes(),
            backing: stack.backing(),
        }
    }

    /// Bytes of the guarded stack that are not zero, counted from the top: zero between calls.
    #[cfg(test)]
    pub(crate) fn stack_used_bytes(&self) -> usize {
        self.guest.stack().used_bytes()
    }
}

impl<Phase: fmt::Debug> fmt::Debug for Signer<Phase> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// What a signer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignerFacts {
    /// SHA-256 of `signer.wasm`, compared at build time with the committed digest.
    pub module_digest: Digest,
    /// SHA-256 of the machine code compiled from it, compared when the signer was instantiated.
    pub artefact_digest: Digest,
    /// Bytes of linear memory.
    pub memory_bytes: usize,
    /// Bytes of the stack that guest code runs on.
    pub stack_bytes: usize,
    /// Bytes of the stack that signal handlers run on.
    pub signal_stack_bytes: usize,
    /// What keeps all three out of dumps.
    pub backing: Backing,
}

/// Says that a signer is gone, and which regions were overwritten and read back as zero.
#[must_use = "put it into the scrub's report; a wipe nobody recorded cannot be shown"]
#[derive(Debug, PartialEq, Eq)]
pub struct WipedSigner {
    regions: Vec<WipedRegion>,
}

impl WipedSigner {
    /// Linear memory, the guarded stack, the signal stack.
    pub fn regions(&self) -> &[WipedRegion] {
        &self.regions
    }

    /// Bytes in all regions.
    pub fn bytes(&self) -> usize {
        self.regions.iter().map(WipedRegion::bytes).sum()
    }
}

/// Whether all of `bytes` lies in one region of guarded memory.
fn is_guarded(bytes: &[u8]) -> bool {
    let start = bytes.as_ptr().addr();
    let end = start + bytes.len();
    let mut guarded = false;
    registry::for_each(|range| {
        guarded |= range.start <= start && end <= range.start + range.bytes;
    });
    guarded
}

/// The use as the guest's interface numbers it.
fn number(bound_to: KeyUse) -> Use {
    match bound_to {
        KeyUse::Message => Use::Message,
        KeyUse::Digest => Use::Digest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefact::RUNAWAY;
    use crate::guest::CALL_STACK_BYTES;

    #[test]
    fn machine_code_with_another_digest_is_refused() {
        let pinned = Digest::of(b"another artefact");
        let artefact: &'static Artefact = Box::leak(Box::new(SIGNER.with_digest(pinned)));

        let refused = Signer::instantiate_artefact(artefact, Strength::Strict);

        assert!(matches!(
            refused,
            Err(InstantiateError::ArtefactDigest { expected, found })
                if expected == pinned && found == SIGNER.digest
        ));
    }

    /// What is wiped after a call is a fixed number of bytes. It has to be all that was used.
    #[test]
    fn no_call_leaves_anything_on_the_guarded_stack() {
        let mut signer = Signer::instantiate(Strength::Strict).unwrap();
        assert!(signer.stack_used_bytes() > 0, "the control: the first calls leave their frames");
        assert!(signer.stack_used_bytes() < CALL_STACK_BYTES / 2);

        signer.guest.call(Step::Generate(Use::Message)).unwrap();
        assert_eq!(signer.stack_used_bytes(), 0);
        for message_bytes in [0, 1, 200, INPUT_BYTES] {
            signer.guest.call(Step::SignMessage { message_bytes }).unwrap();
            assert_eq!(signer.stack_used_bytes(), 0, "{message_bytes} bytes");
        }
    }

    #[test]
    fn a_guest_that_answers_what_it_cannot_is_not_asked_again() {
        let mut signer = Signer::instantiate(Strength::Strict).unwrap();
        let unloaded = Step::SignMessage { message_bytes: 0 };

        let first = signer.guest.call(unloaded);
        let second = signer.guest.call(unloaded);

        assert!(matches!(first, Err(crate::BrokenGuest::Answer { status: 1 })), "{first:?}");
        assert!(matches!(second, Err(crate::BrokenGuest::Earlier)), "{second:?}");
    }

    /// The child of the next test: does not come back.
    #[test]
    #[ignore = "runs for ever; the next test runs it in a child process"]
    fn child_that_signs_for_ever() {
        let mut signer = Signer::instantiate_artefact(&RUNAWAY, Strength::Strict)
            .unwrap()
            .generate(KeyUse::Message)
            .unwrap();
        let signed = signer.sign_message(b"");
        unreachable!("the guest never returns: {signed:?}");
    }

    #[test]
    fn a_guest_that_runs_for_ever_ends_its_process_by_abort() {
        use std::os::unix::process::ExitStatusExt as _;

        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "signer::tests::child_that_signs_for_ever"])
            .output()
            .unwrap();

        let aborted = child.status.signal() == Some(libc::SIGABRT);
        // Where another thread of the test harness is the one to take the signal, exit comes first.
        assert!(aborted || child.status.code() == Some(128 + libc::SIGABRT), "{child:?}");
    }
}
