//! What the module declares, and what it refuses.

use std::collections::BTreeSet;
use std::ops::Range;

use evanesce_signer::abi::{
    ABI_VERSION, CONTEXT_BYTES_MAX, INPUT_BYTES, MEMORY_BYTES, STACK_BYTES, Status, Use,
};
use evanesce_signer::{SIGNER_WASM, SIGNER_WASM_SHA256};
use sha2::{Digest as _, Sha256};
use wasmparser::{ExternalKind, Operator, Parser, Payload};
use wasmtime::Trap;

use crate::guest::{Guest, compile};

#[test]
fn the_committed_digest_is_that_of_the_committed_module() {
    assert_eq!(<[u8; 32]>::from(Sha256::digest(SIGNER_WASM)), SIGNER_WASM_SHA256);
}

#[test]
fn the_module_imports_nothing_and_exports_what_the_specification_lists() {
    let declared = Declared::read();

    assert_eq!(declared.imports, 0);
    let expected = [
        "__data_end", // these two are the linker's
        "__heap_base",
        "evanesce_abi",
        "evanesce_generate",
        "evanesce_input",
        "evanesce_load",
        "evanesce_output",
        "evanesce_public_key",
        "evanesce_sign_digest",
        "evanesce_sign_message",
        "evanesce_wipe",
        "memory",
    ];
    assert_eq!(declared.exports, BTreeSet::from(expected));
}

#[test]
fn linear_memory_has_one_size_and_the_shadow_stack_is_at_its_start() {
    let declared = Declared::read();

    let pages = MEMORY_BYTES as u64 / 65536;
    assert_eq!(declared.memory_pages, (pages, Some(pages)));
    assert_eq!(usize::try_from(declared.stack_pointer), Ok(STACK_BYTES));
}

/// What the stack really needs cannot be seen from outside, since every call clears it. So the
/// module is run with three quarters of it.
#[test]
fn a_quarter_of_the_shadow_stack_is_to_spare() {
    let module = compile(&with_stack_of(STACK_BYTES / 4 * 3));

    let mut guest = Guest::of(&module);
    assert_eq!(guest.generate(&[1; 64], Use::Message.code()), Status::Done);
    assert_eq!(guest.sign_message(&[1; INPUT_BYTES]).err(), None);

    let mut guest = Guest::of(&module);
    assert_eq!(guest.load(&[1; 32], Use::Digest.code()), Status::Done);
    assert_eq!(guest.sign_digest(&[1; 64], &[1; CONTEXT_BYTES_MAX]).err(), None);
}

#[test]
fn a_shadow_stack_that_overflows_traps_instead_of_reaching_data() {
    let mut guest = Guest::of(&compile(&with_stack_of(STACK_BYTES / 4)));

    let loaded = guest.try_answer("evanesce_load", Use::Message.code());

    let trap = loaded.unwrap_err().downcast::<Trap>().unwrap();
    assert_eq!(trap, Trap::MemoryOutOfBounds);
}

/// The clearing of the shadow stack after each call rests on this: an export with a frame there
/// would clear its own.
#[test]
fn no_export_has_a_frame_on_the_shadow_stack() {
    let declared = Declared::read();

    assert!(declared.functions_with_a_frame.iter().any(|with| *with), "the scan finds no frame");
    for index in declared.exported_functions {
        assert!(!declared.functions_with_a_frame[index], "exported function {index} has a frame");
    }
}

#[test]
fn the_module_is_of_the_version_that_the_host_knows() {
    assert_eq!(Guest::new().answer("evanesce_abi", ()), ABI_VERSION);
}

#[test]
fn nothing_is_signed_before_a_key_is_loaded() {
    let mut guest = Guest::new();

    assert_eq!(guest.public_key(), Err(Status::NoKey));
    assert_eq!(guest.sign_message(b"m"), Err(Status::NoKey));
    assert_eq!(guest.sign_digest(&[1; 64], b""), Err(Status::NoKey));
}

#[test]
fn a_second_key_is_refused_and_the_first_one_stays() {
    let mut guest = Guest::loaded(&[1; 32], Use::Message);
    let first = guest.public_key().unwrap();

    assert_eq!(guest.load(&[2; 32], Use::Message.code()), Status::KeyAlready);
    assert_eq!(guest.generate(&[3; 64], Use::Message.code()), Status::KeyAlready);

    assert_eq!(guest.public_key(), Ok(first));
}

#[test]
fn a_use_that_does_not_exist_loads_nothing() {
    let mut guest = Guest::new();
    for unknown in [-1, 2, i32::MAX] {
        assert_eq!(guest.load(&[1; 32], unknown), Status::UnknownUse);
        assert_eq!(guest.generate(&[1; 64], unknown), Status::UnknownUse);
    }
    assert_eq!(guest.public_key(), Err(Status::NoKey));
}

#[test]
fn a_key_signs_for_the_use_it_was_loaded_for_and_not_for_the_other() {
    let mut for_messages = Guest::loaded(&[1; 32], Use::Message);
    let mut for_digests = Guest::loaded(&[1; 32], Use::Digest);

    assert_eq!(for_messages.sign_digest(&[1; 64], b""), Err(Status::OtherUse));
    assert_eq!(for_digests.sign_message(b"m"), Err(Status::OtherUse));
}

#[test]
fn the_longest_message_is_signed_and_one_byte_more_is_refused() {
    use ed25519_dalek::Signer as _;

    let mut guest = Guest::loaded(&[1; 32], Use::Message);
    let longest = vec![0x5a; INPUT_BYTES];
    let native = ed25519_dalek::SigningKey::from_bytes(&[1; 32]).sign(&longest);

    assert_eq!(guest.sign_message(&longest), Ok(native.to_bytes()));
    for bytes in [65_537, i32::MAX, -1, i32::MIN] {
        assert_eq!(guest.call("evanesce_sign_message", bytes), Status::TooLong);
    }
}

#[test]
fn a_context_of_more_than_255_bytes_is_refused() {
    let mut guest = Guest::loaded(&[1; 32], Use::Digest);
    for bytes in [256, i32::MAX, -1] {
        assert_eq!(guest.call("evanesce_sign_digest", bytes), Status::TooLong);
    }
}

#[test]
fn a_wiped_instance_refuses_everything_for_good() {
    for bound_to in [Use::Message, Use::Digest] {
        let mut guest = Guest::loaded(&[1; 32], bound_to);

        assert_eq!(guest.wipe(), Status::Done);

        assert_eq!(guest.public_key(), Err(Status::Wiped));
        assert_eq!(guest.sign_message(b"m"), Err(Status::Wiped));
        assert_eq!(guest.sign_digest(&[1; 64], b""), Err(Status::Wiped));
        assert_eq!(guest.load(&[1; 32], bound_to.code()), Status::Wiped);
        assert_eq!(guest.generate(&[1; 64], bound_to.code()), Status::Wiped);
        assert_eq!(guest.wipe(), Status::Done);
    }
}

#[test]
fn an_instance_that_never_had_a_key_is_wiped_as_well() {
    let mut guest = Guest::new();

    assert_eq!(guest.wipe(), Status::Done);

    assert_eq!(guest.load(&[1; 32], Use::Message.code()), Status::Wiped);
}

/// A born key is one that no host buffer held: neither the entropy nor its plain hash is the seed.
#[test]
fn a_born_key_follows_from_its_entropy_and_is_not_a_key_loaded_from_it() {
    use ed25519_dalek::SigningKey;
    use sha2::Sha512;

    let entropy: [u8; 64] = std::array::from_fn(|i| u8::try_from(i).unwrap());
    let mut born = Guest::new();
    assert_eq!(born.generate(&entropy, Use::Message.code()), Status::Done);
    let public_key = born.public_key().unwrap();

    // As SPEC.md says it,
    let tag = b"evanesce signer: birth of a key, version 1\0";
    let hash = Sha512::new().chain_update(tag).chain_update(entropy).finalize();
    let expected = SigningKey::from_bytes(hash[..32].try_into().unwrap());
    assert_eq!(public_key, expected.verifying_key().to_bytes());

    // and not a key that someone who reads the entropy would try first.
    for seed in [&entropy[..32], &entropy[32..], &Sha512::digest(entropy)[..32]] {
        let other = SigningKey::from_bytes(seed.try_into().unwrap());
        assert_ne!(public_key, other.verifying_key().to_bytes());
    }
}

/// The committed module with another start of the stack pointer.
fn with_stack_of(bytes: usize) -> Vec<u8> {
    let at = Declared::read().stack_pointer_at;
    let mut wasm = SIGNER_WASM.to_vec();
    // `i32.const` and two bytes of LEB128, which is what the committed one has as well.
    let [low, high] = [bytes & 0x7f | 0x80, bytes >> 7].map(|part| u8::try_from(part).unwrap());
    wasm[at].copy_from_slice(&[0x41, low, high]);
    wasm
}

/// What the module says of itself.
#[derive(Default)]
struct Declared {
    imports: u32,
    exports: BTreeSet<&'static str>,
    exported_functions: Vec<usize>,
    memory_pages: (u64, Option<u64>),
    stack_pointer: i32,
    stack_pointer_at: Range<usize>,
    functions_with_a_frame: Vec<bool>,
}

impl Declared {
    fn read() -> Self {
        let mut declared = Self::default();
        for payload in Parser::new(0).parse_all(SIGNER_WASM) {
            match payload.unwrap() {
                Payload::ImportSection(imports) => declared.imports = imports.count(),
                Payload::MemorySection(memories) => {
                    let memory = memories.into_iter().next().unwrap().unwrap();
                    declared.memory_pages = (memory.initial, memory.maximum);
                }
                Payload::GlobalSection(globals) => {
                    // The first global is the stack pointer: the only one that is mutable.
                    let mut globals = globals.into_iter().map(Result::unwrap);
                    let stack_pointer = globals.next().unwrap();
                    assert!(stack_pointer.ty.mutable && globals.all(|other| !other.ty.mutable));
                    let mut start = stack_pointer.init_expr.get_operators_reader();
                    let from = start.original_position();
                    match start.read().unwrap() {
                        Operator::I32Const { value } => declared.stack_pointer = value,
                        other => panic!("the stack pointer starts as {other:?}"),
                    }
                    declared.stack_pointer_at = from..start.original_position();
                }
                Payload::ExportSection(exports) => {
                    for export in exports.into_iter().map(Result::unwrap) {
                        declared.exports.insert(export.name);
                        if export.kind == ExternalKind::Func {
                            declared.exported_functions.push(export.index as usize);
                        }
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    let mut operators = body.get_operators_reader().unwrap().into_iter();
                    let frame = operators.any(|operator| {
                        matches!(operator.unwrap(), Operator::GlobalSet { global_index: 0 })
                    });
                    declared.functions_with_a_frame.push(frame);
                }
                _ => {}
            }
        }
        declared
    }
}
