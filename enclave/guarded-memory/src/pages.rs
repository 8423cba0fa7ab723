//! Sizes in whole pages.

use std::num::NonZeroUsize;

/// Bytes in a page. x86_64 has no other base page size.
pub const PAGE_BYTES: usize = 4096;

/// A number of bytes that is whole pages and not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageBytes(NonZeroUsize);

impl PageBytes {
    /// The smallest whole number of pages that holds `bytes`: at least one.
    ///
    /// `None` where that number has no `isize`, the bound of an object's size in Rust.
    pub const fn holding(bytes: usize) -> Option<Self> {
        let at_least_one = if bytes == 0 { 1 } else { bytes };
        match at_least_one.checked_next_multiple_of(PAGE_BYTES) {
            Some(rounded) if rounded <= isize::MAX.cast_unsigned() => {
                match NonZeroUsize::new(rounded) {
                    Some(rounded) => Some(Self(rounded)),
                    None => None,
                }
            }
            _ => None,
        }
    }

    /// The number, in bytes.
    pub const fn get(self) -> usize {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_up_to_whole_pages_and_never_to_none() {
        for (bytes, expected) in [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192)] {
            assert_eq!(PageBytes::holding(bytes).map(PageBytes::get), Some(expected));
        }
    }

    #[test]
    fn a_size_that_no_object_can_have_is_refused() {
        for bytes in [usize::MAX, isize::MAX.cast_unsigned()] {
            assert_eq!(PageBytes::holding(bytes), None);
        }
    }
}
