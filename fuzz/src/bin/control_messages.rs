//! libFuzzer's way into the target of the same name.

#![no_main]

use evanesce_fuzz::{control_messages, memory, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write_where_asked("control-messages"), |input: &[u8]| {
    memory::counted(|| control_messages::run(input));
});
