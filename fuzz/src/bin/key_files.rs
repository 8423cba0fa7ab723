//! libFuzzer's way into the target of the same name.

#![no_main]

use evanesce_fuzz::{key_files, memory, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write_where_asked("key-files"), |input: &[u8]| {
    memory::counted(|| key_files::run(input));
});
