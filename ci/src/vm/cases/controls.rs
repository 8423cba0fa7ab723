//! Programs that take no care of their key. If nothing of these is found, nothing was searched.

use evanesce_guest::Death;

use crate::vm::bench::{Bench, GUEST};
use crate::vm::error::VmError;
use crate::vm::machine::Store::Memory;
use crate::vm::payload::Key;
use crate::vm::row::Expected::{Every, Nothing, Some};

/// A key in each of 256 pages of a heap: a single freed page would often be used again at once.
pub(crate) fn heap(bench: &mut Bench) -> Result<(), VmError> {
    let case = "control: a key on a heap, 256 pages; SIGKILL";
    let key = bench.key();
    let guest = &mut bench.machine.guest;
    let (pid, _) = guest.start("heap", &[GUEST, "hold", &key.masked(), "256"])?;
    bench.look((case, "alive"), &[&key], &[(Memory, Every)])?;

    bench.machine.guest.strike(&[], &[pid], Death::Kill)?;
    bench.machine.guest.finish("heap")?;
    look_at_the_rest(bench, case, &[&key])
}

/// Keys in ordinary memory, in use when the kill comes.
pub(crate) fn signing_alone(bench: &mut Bench) -> Result<(), VmError> {
    let case = "control: signing with a key in ordinary memory; SIGKILL";
    let keys: Vec<_> = (0..SIGNERS).map(|_| bench.key()).collect();
    let mut pids = Vec::new();
    for key in &keys {
        let name = key.index.to_string();
        let argv = [GUEST, "sign-alone", &key.masked()];
        pids.push(bench.machine.guest.start(&name, &argv)?.0);
    }
    let all: Vec<_> = keys.iter().collect();
    bench.look((case, "alive"), &all, &[(Memory, Every)])?;

    bench.machine.guest.strike(&[], &pids, Death::Kill)?;
    for key in &keys {
        bench.machine.guest.finish(&key.index.to_string())?;
    }
    look_at_the_rest(bench, case, &all)
}

/// Where the kernel clears what it frees, it is given the time to free it: of a process that was
/// waited for, the registers are kept until every processor has passed through the scheduler.
fn look_at_the_rest(bench: &mut Bench, case: &'static str, keys: &[&Key]) -> Result<(), VmError> {
    let left = if bench.init_on_free {
        bench.machine.guest.output(&["/bin/sleep", "1"])?;
        Nothing
    } else {
        Some
    };
    bench.look((case, "after"), keys, &[(Memory, left)])
}

const SIGNERS: usize = 4;
