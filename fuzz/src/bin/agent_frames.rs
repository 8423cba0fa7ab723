//! libFuzzer's way into the target of the same name.

#![no_main]

use evanesce_fuzz::{agent_frames, memory, seeds};

libfuzzer_sys::fuzz_target!(init: seeds::write_where_asked("agent-frames"), |input: &[u8]| {
    memory::counted(|| agent_frames::run(input));
});
