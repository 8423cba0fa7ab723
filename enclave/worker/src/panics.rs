//! What a broken invariant does: say where, wipe everything, abort.

use std::io::Write as _;

use evanesce_guarded_memory::registry;

/// Has every panic wipe all guarded memory and end the process.
///
/// The message of a panic may hold anything, so only its place in the source is printed.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|panic| {
        let mut stderr = std::io::stderr();
        let place =
            panic.location().map_or((file!(), line!()), |place| (place.file(), place.line()));
        let _written =
            writeln!(stderr, "evanesce-worker: broken invariant at {}:{}", place.0, place.1);
        registry::wipe_all_and_abort();
    }));
}
