//! Bugs on purpose, built with the feature `planted` alone: a search that does not find them would
//! find no others.

/// Called with bytes from deep inside of a valid input. Does nothing, but with the feature: there a
/// digit among them, where no seed has one, meets a bug of the kind that `EVANESCE_PLANTED` names.
#[cfg(not(feature = "planted"))]
pub(crate) const fn bug(_bytes: &[u8]) {}

#[cfg(feature = "planted")]
pub(crate) fn bug(bytes: &[u8]) {
    use std::sync::OnceLock;

    static KIND: OnceLock<String> = OnceLock::new();
    if bytes.iter().any(u8::is_ascii_digit) {
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
