//! Overwriting with zero, and looking whether it took.

use std::arch::asm;

/// Overwrites every byte with zero and reads every byte back.
///
/// # Errors
///
/// The first byte that does not read back as zero. The caller must end the process: what it
/// believes of its memory is wrong.
pub fn wipe(bytes: &mut [u8]) -> Result<(), WipeError> {
    wipe_with(erase, bytes)
}

/// Overwrites with zero, in a way the compiler may not leave out. For ranges that are checked
/// later, or that are wiped after each use.
pub(crate) fn erase(bytes: &mut [u8]) {
    // SAFETY: the slice is valid for writes and exclusively borrowed.
    unsafe { erase_raw(bytes.as_mut_ptr(), bytes.len()) }
}

/// The same, for bytes that no reference can be made to.
///
/// # Safety
///
/// `bytes` bytes from `start` on are mapped and writable, and nothing reads them afterwards as
/// anything else than bytes.
pub(crate) unsafe fn erase_raw(start: *mut u8, bytes: usize) {
    // SAFETY: writes zeros where the caller allows it. The direction flag is clear on entry to any
    // asm block, and flags and stack are left as they were; rdi and rcx, which change, are declared.
    unsafe {
        asm!(
            "rep stosb",
            inout("rdi") start => _,
            inout("rcx") bytes => _,
            in("al") 0_u8,
            options(nostack, preserves_flags),
        );
    }
}

fn wipe_with(erase: impl FnOnce(&mut [u8]), bytes: &mut [u8]) -> Result<(), WipeError> {
    erase(bytes);
    match first_non_zero(bytes) {
        Some(offset) => Err(WipeError { offset }),
        None => Ok(()),
    }
}

/// The offset of the first byte that is not zero. Volatile, so that what was just written cannot
/// stand in for what is there.
pub(crate) fn first_non_zero(bytes: &[u8]) -> Option<usize> {
    // SAFETY: `u64` has no invalid values, so any aligned eight bytes may be seen as one.
    let (head, words, _) = unsafe { bytes.align_to::<u64>() };
    let zeros = words
        .iter()
        .position(|word| read(word) != 0)
        .map_or(head.len() + 8 * words.len(), |index| head.len() + 8 * index);
    let from = if head.iter().any(|byte| read(byte) != 0) { 0 } else { zeros };
    bytes[from..].iter().position(|byte| read(byte) != 0).map(|index| from + index)
}

fn read<T: Copy>(place: &T) -> T {
    // SAFETY: a reference is valid, aligned and initialised for a read of its type.
    unsafe { std::ptr::from_ref(place).read_volatile() }
}

/// Says that a region was overwritten and that every byte of it then read as zero.
#[must_use = "put it into the scrub's report; a wipe nobody recorded cannot be shown"]
#[derive(Debug, PartialEq, Eq)]
pub struct WipedRegion {
    name: &'static str,
    bytes: usize,
}

impl WipedRegion {
    /// Only a wipe that read every byte back as zero may claim so.
    pub(crate) fn of_verified(name: &'static str, bytes: usize) -> Self {
        Self { name, bytes }
    }

    /// What the region was mapped as.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Bytes overwritten and read back.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A byte that did not read back as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the byte at offset {offset} is not zero after the wipe")]
pub struct WipeError {
    /// From the start of the range, in bytes. The byte itself is not told: it may be a key's.
    pub offset: usize,
}

impl WipeError {
    /// A stable name for reports and alerts.
    pub fn code(&self) -> &'static str {
        "wipe.not-zero"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wipe_leaves_zeros_in_the_whole_slice_and_nothing_else() {
        for start in 0..9 {
            for end in start..40 {
                let mut memory = [0xa7_u8; 40];
                wipe(&mut memory[start..end]).unwrap();
                assert!(memory[start..end].iter().all(|byte| *byte == 0));
                assert!(memory[..start].iter().chain(&memory[end..]).all(|byte| *byte == 0xa7));
            }
        }
    }

    /// The read-back is worth something only if it looks at every byte.
    #[test]
    fn a_wipe_that_misses_one_byte_is_reported_with_its_offset() {
        for length in [1, 7, 8, 9, 64, 4096] {
            for missed in 0..length {
                let mut memory = vec![0xa7_u8; length];
                let sabotaged = |bytes: &mut [u8]| {
                    erase(bytes);
                    bytes[missed] = 1;
                };
                assert_eq!(
                    wipe_with(sabotaged, &mut memory),
                    Err(WipeError { offset: missed }),
                    "length {length}",
                );
            }
        }
    }

    #[test]
    fn the_first_of_several_missed_bytes_is_the_one_reported() {
        let mut memory = [0_u8; 64];
        let sabotaged = |bytes: &mut [u8]| bytes[13..].fill(1);
        assert_eq!(wipe_with(sabotaged, &mut memory), Err(WipeError { offset: 13 }));
    }
}
