//! One instance of the committed module, with everything a test wants to ask of it.

use std::sync::LazyLock;

use evanesce_signer::SIGNER_WASM;
use evanesce_signer::abi::{
    DIGEST_BYTES, OUTPUT_BYTES, PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Status, Use,
};
use wasmtime::{Config, Engine, Instance, Memory, Module, Store, WasmParams};

pub(crate) struct Guest {
    store: Store<()>,
    instance: Instance,
    memory: Memory,
    input: usize,
    output: usize,
}

impl Guest {
    /// An instance without a key.
    pub(crate) fn new() -> Self {
        Self::of(&MODULE)
    }

    /// An instance of a module that is not quite the committed one.
    pub(crate) fn of(module: &Module) -> Self {
        let mut store = Store::new(module.engine(), ());
        let instance = Instance::new(&mut store, module, &[]).unwrap();
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        let mut guest = Self { store, instance, memory, input: 0, output: 0 };
        guest.input = guest.answer("evanesce_input", ()).try_into().unwrap();
        guest.output = guest.answer("evanesce_output", ()).try_into().unwrap();
        guest
    }

    /// An instance with a key.
    pub(crate) fn loaded(seed: &[u8], bound_to: Use) -> Self {
        let mut guest = Self::new();
        assert_eq!(guest.load(seed, bound_to.code()), Status::Done);
        guest
    }

    pub(crate) fn load(&mut self, seed: &[u8], bound_to: i32) -> Status {
        self.write_input(seed);
        self.call("evanesce_load", bound_to)
    }

    pub(crate) fn generate(&mut self, entropy: &[u8], bound_to: i32) -> Status {
        self.write_input(entropy);
        self.call("evanesce_generate", bound_to)
    }

    pub(crate) fn public_key(&mut self) -> Result<[u8; PUBLIC_KEY_BYTES], Status> {
        let status = self.call("evanesce_public_key", ());
        self.output(status)
    }

    pub(crate) fn sign_message(&mut self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Status> {
        self.write_input(message);
        let status = self.call("evanesce_sign_message", i32::try_from(message.len()).unwrap());
        self.output(status)
    }

    pub(crate) fn sign_digest(
        &mut self,
        digest: &[u8; DIGEST_BYTES],
        context: &[u8],
    ) -> Result<[u8; SIGNATURE_BYTES], Status> {
        self.write_input(&[digest, context].concat());
        let status = self.call("evanesce_sign_digest", i32::try_from(context.len()).unwrap());
        self.output(status)
    }

    pub(crate) fn wipe(&mut self) -> Status {
        self.call("evanesce_wipe", ())
    }

    /// Calls an export that answers a status.
    pub(crate) fn call(&mut self, export: &str, params: impl WasmParams) -> Status {
        let code = self.answer(export, params);
        Status::from_code(code).unwrap_or_else(|| panic!("{export} answered {code}"))
    }

    /// Calls an export that answers a number.
    pub(crate) fn answer(&mut self, export: &str, params: impl WasmParams) -> i32 {
        self.try_answer(export, params).unwrap()
    }

    /// Calls an export that may trap.
    pub(crate) fn try_answer(
        &mut self,
        export: &str,
        params: impl WasmParams,
    ) -> wasmtime::Result<i32> {
        let function = self.instance.get_typed_func(&mut self.store, export).unwrap();
        function.call(&mut self.store, params)
    }

    pub(crate) fn write_input(&mut self, bytes: &[u8]) {
        self.memory.write(&mut self.store, self.input, bytes).unwrap();
    }

    /// All of linear memory.
    pub(crate) fn memory(&self) -> &[u8] {
        self.memory.data(&self.store)
    }

    /// The start of the input buffer, `bytes` of it.
    pub(crate) fn input(&self, bytes: usize) -> &[u8] {
        &self.memory()[self.input..][..bytes]
    }

    fn output<const N: usize>(&self, status: Status) -> Result<[u8; N], Status> {
        let output = &self.memory()[self.output..][..OUTPUT_BYTES];
        match status {
            Status::Done => Ok(output[..N].try_into().unwrap()),
            refusal => {
                assert_eq!(output, [0; OUTPUT_BYTES], "a refusal left something in the output");
                Err(refusal)
            }
        }
    }
}

/// Compiles as the host does.
pub(crate) fn compile(wasm: &[u8]) -> Module {
    let mut config = Config::new();
    config.wasm_wide_arithmetic(true);
    Module::new(&Engine::new(&config).unwrap(), wasm).unwrap()
}

static MODULE: LazyLock<Module> = LazyLock::new(|| compile(SIGNER_WASM));
