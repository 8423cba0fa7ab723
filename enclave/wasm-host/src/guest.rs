//! One instance of the module, and the only ways into it: a call, and its two buffers between calls.

use std::marker::PhantomData;

use evanesce_guarded_memory::{GuardedStack, PageBytes, Strength, WipedRegion, registers};
use evanesce_signer::abi::{ABI_VERSION, INPUT_BYTES, MEMORY_BYTES, OUTPUT_BYTES, Status, Use};
use wasmtime::{Instance, Store, TypedFunc, WasmParams, WasmResults};

use crate::artefact::Artefact;
use crate::cpu;
use crate::error::{BrokenGuest, InstantiateError, WipeFailed};
use crate::memory::GuestMemory;
use crate::settings::WASM_STACK_BYTES;
use crate::signal_stack::SignalStack;
use crate::watch::Watch;

/// Bytes of stack for one call: the guest's share, and the frames around it.
///
/// Wasmtime's own frames come above the guest's (entering), and below them where the guest calls
/// back into the runtime (to copy memory). All of it together was seen to take 1,440 bytes. After
/// each call exactly this much is wiped, from the top; the rest of the stack is a margin, which a
/// test finds untouched.
pub(crate) const CALL_STACK_BYTES: usize = WASM_STACK_BYTES + HOST_FRAMES_BYTES;

/// Bytes of [`CALL_STACK_BYTES`] for frames that are not the guest's.
const HOST_FRAMES_BYTES: usize = 4 * 1024;

/// Bytes of the whole guarded stack.
const STACK_BYTES: usize = 2 * CALL_STACK_BYTES;

/// An instance on guarded memory and a guarded stack.
///
/// Every call runs on the guarded stack and leaves it zero. Fields are dropped in order: the
/// instance before what it uses.
///
/// # Invariants
///
/// 1. Guest code runs only within [`Guest::call`], which borrows the value mutably. Between calls
///    linear memory is the host's alone.
/// 2. Input and output buffer lie in linear memory, [`INPUT_BYTES`] and [`OUTPUT_BYTES`] long.
pub(crate) struct Guest {
    store: Store<()>,
    exports: Exports,
    broken: bool,
    watch: Watch,
    stack: GuardedStack,
    signal_stack: SignalStack,
    memory: GuestMemory,
    input_at: usize,
    output_at: usize,
    _this_thread: PhantomData<*const ()>,
}

/// What the module exports, with the types that its interface gives them.
struct Exports {
    load: TypedFunc<i32, i32>,
    generate: TypedFunc<i32, i32>,
    sign_message: TypedFunc<i32, i32>,
    sign_digest: TypedFunc<i32, i32>,
    wipe: TypedFunc<(), i32>,
}

/// An export that takes a number.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    Load(Use),
    Generate(Use),
    SignMessage { message_bytes: usize },
    SignDigest { context_bytes: usize },
}

impl Guest {
    pub(crate) fn instantiate(
        artefact: &Artefact,
        strength: Strength,
    ) -> Result<Self, InstantiateError> {
        cpu::check_baseline()?;
        let map = |source| InstantiateError::Map { source };
        let memory = GuestMemory::map(strength).map_err(map)?;
        let stack_bytes = PageBytes::holding(STACK_BYTES).expect("the stack is whole pages");
        let mut stack = GuardedStack::map("signer-stack", stack_bytes, strength).map_err(map)?;

        let (mut store, instance) = artefact.instantiate(memory.clone())?;
        let exports = Exports {
            load: function(&mut store, instance, "evanesce_load")?,
            generate: function(&mut store, instance, "evanesce_generate")?,
            sign_message: function(&mut store, instance, "evanesce_sign_message")?,
            sign_digest: function(&mut store, instance, "evanesce_sign_digest")?,
            wipe: function(&mut store, instance, "evanesce_wipe")?,
        };

        let mut ask = |name| {
            let question: TypedFunc<(), i32> = function(&mut store, instance, name)?;
            stack.run(|| question.call(&mut store, ())).map_err(|source| InstantiateError::Broken {
                source: BrokenGuest::Trapped { source: source.into() },
            })
        };
        let found = ask("evanesce_abi")?;
        if found != ABI_VERSION {
            return Err(InstantiateError::AbiVersion { expected: ABI_VERSION, found });
        }
        let input_at = buffer(ask("evanesce_input")?, INPUT_BYTES, "input buffer")?;
        let output_at = buffer(ask("evanesce_output")?, OUTPUT_BYTES, "output buffer")?;
        if input_at < output_at + OUTPUT_BYTES && output_at < input_at + INPUT_BYTES {
            return Err(InstantiateError::Interface { part: "pair of buffers", source: None });
        }

        // After the first call, and before there is a key: see `SignalStack`.
        let signal_stack = SignalStack::install(strength)?;
        let watch = Watch::start().map_err(|source| InstantiateError::Watch { source })?;
        Ok(Self {
            store,
            exports,
            broken: false,
            watch,
            stack,
            signal_stack,
            memory,
            input_at,
            output_at,
            _this_thread: PhantomData,
        })
    }

    /// Runs one step on the guarded stack, and clears what it left there.
    pub(crate) fn call(&mut self, step: Step) -> Result<(), BrokenGuest> {
        match step {
            Step::Load(bound_to) => self.run(|exports| &exports.load, bound_to.code()),
            Step::Generate(bound_to) => self.run(|exports| &exports.generate, bound_to.code()),
            Step::SignMessage { message_bytes } => {
                self.run(|exports| &exports.sign_message, length(message_bytes))
            }
            Step::SignDigest { context_bytes } => {
                self.run(|exports| &exports.sign_digest, length(context_bytes))
            }
        }
    }

    /// Lends the input buffer. The bytes never leave linear memory.
    pub(crate) fn with_input<R>(&mut self, f: impl FnOnce(&mut [u8; INPUT_BYTES]) -> R) -> R {
        // SAFETY: invariant 2 keeps the sum in linear memory.
        let start = unsafe { self.memory.base().add(self.input_at) };
        // SAFETY: invariant 2 for the length, 1 and `&mut self` for being the only access; linear
        // memory is always initialised, and bytes are aligned.
        f(unsafe { &mut *start.cast() })
    }

    /// Copies the first `N` bytes of the output buffer, which are public.
    pub(crate) fn output<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= OUTPUT_BYTES) };
        // SAFETY: invariant 2 keeps the sum in linear memory.
        let start = unsafe { self.memory.base().add(self.output_at) };
        // SAFETY: invariant 2 and the assertion for the length, 1 and `&mut self` for being the
        // only access; linear memory is always initialised, and bytes are aligned.
        unsafe { start.cast::<[u8; N]>().read() }
    }

    /// Lets the guest wipe itself, ends the instance, then overwrites all of its memory and both
    /// stacks, and reads every byte back.
    pub(crate) fn wipe(mut self) -> Result<Vec<WipedRegion>, WipeFailed> {
        let by_guest =
            self.run(|exports| &exports.wipe, ()).map_err(|source| WipeFailed::Guest { source });
        let Self { store, watch, mut stack, mut signal_stack, memory, .. } = self;
        drop(store);
        drop(watch);
        registers::quiesce();
        let not_zero = |region| move |source| WipeFailed::NotZero { region, source };
        let by_host = [
            memory.wipe().map_err(not_zero("linear memory")),
            stack.wipe().map_err(not_zero("guarded stack")),
            signal_stack.wipe().map_err(not_zero("signal stack")),
        ];
        // All three were overwritten, whatever any of them says.
        let wiped = by_host.into_iter().collect::<Result<_, _>>()?;
        by_guest.map(|()| wiped)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.mapped().accessible_bytes()
    }

    pub(crate) fn stack(&self) -> &GuardedStack {
        &self.stack
    }

    pub(crate) fn signal_stack_bytes(&self) -> usize {
        self.signal_stack.len()
    }

    fn run<P: WasmParams>(
        &mut self,
        export: impl FnOnce(&Exports) -> &TypedFunc<P, i32>,
        params: P,
    ) -> Result<(), BrokenGuest> {
        if self.broken {
            return Err(BrokenGuest::Earlier);
        }
        let function = export(&self.exports);
        let (store, stack) = (&mut self.store, &mut self.stack);
        let answer = self.watch.during(|| stack.run(|| function.call(store, params)));
        self.stack.wipe_used(CALL_STACK_BYTES);
        let outcome = match answer {
            Ok(status) if status == Status::Done.code() => Ok(()),
            Ok(status) => Err(BrokenGuest::Answer { status }),
            Err(source) => Err(BrokenGuest::Trapped { source: source.into() }),
        };
        self.broken = outcome.is_err();
        outcome
    }
}

fn function<P: WasmParams, R: WasmResults>(
    store: &mut Store<()>,
    instance: Instance,
    name: &'static str,
) -> Result<TypedFunc<P, R>, InstantiateError> {
    instance
        .get_typed_func(store, name)
        .map_err(|source| InstantiateError::Interface { part: name, source: Some(source.into()) })
}

/// Checks a buffer's address against linear memory.
fn buffer(at: i32, bytes: usize, part: &'static str) -> Result<usize, InstantiateError> {
    // An address is unsigned; the interface's numbers are not.
    let at = at.cast_unsigned() as usize;
    if at + bytes <= MEMORY_BYTES {
        Ok(at)
    } else {
        Err(InstantiateError::Interface { part, source: None })
    }
}

/// A length as an argument. Callers have compared it with a limit far below.
fn length(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("no buffer has 2 GiB")
}
