//! libFuzzer's way into the target of the same name.

#![no_main]

use evanesce_fuzz::{evidence, memory, seeds};

libfuzzer_sys::fuzz_target!(init: begin(), |input: &[u8]| {
    memory::counted(|| evidence::run(input));
});

/// Makes what all inputs share, which would count as memory that one of them keeps.
fn begin() {
    evidence::make_machines();
    seeds::write_where_asked("evidence");
}
