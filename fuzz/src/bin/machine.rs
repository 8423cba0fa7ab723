//! libFuzzer's way into the target of the same name.

#![no_main]

use evanesce_fuzz::{machine, memory, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write_where_asked("machine"), |input: &[u8]| {
    memory::counted(|| machine::run(input));
});
