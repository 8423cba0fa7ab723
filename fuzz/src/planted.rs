//! Bugs on purpose, built with the feature `planted` alone: a search that does not find them would
//! find no others.

/// Called from deep inside of a valid input, with whether something is there that no seed has. Does
/// nothing, but with the feature: there it is a bug of the kind that `EVANESCE_PLANTED` names.
#[cfg(not(feature = "planted"))]
pub(crate) const fn bug_if(_is_there: bool) {}

#[cfg(feature = "planted")]
pub(crate) fn bug_if(is_there: bool) {
    use std::sync::OnceLock;

    static KIND: OnceLock<String> = OnceLock::new();
    if is_there {
        let kind = KIND.get_or_init(|| std::env::var("EVANESCE_PLANTED").unwrap_or_default());
        match kind.as_str() {
            "hang" => loop {
                std::hint::spin_loop();
            },
            "growth" => drop(Box::leak(vec![0_u8; 256 * 1024].into_boxed_slice())),
            _ => panic!("the planted bug was found"),
        }
    }
}
