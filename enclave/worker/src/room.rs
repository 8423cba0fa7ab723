//! Where key files are read, and code that handles a key runs: buffers and a stack of its own that
//! nobody else can read.

use std::os::fd::{AsFd as _, OwnedFd};

use evanesce_guarded_memory::{
    GuardedStack, PageBytes, Region, Strength, WipedRegion, fill_to_end, wipe,
};
use evanesce_protocol::control::Refused;
use evanesce_protocol::limits::KEY_FILE_BYTES_MAX;

use crate::memory;

/// A guarded buffer and a guarded stack. Both are zero between calls.
pub(crate) struct Room {
    /// The file in the first half, what it decodes to in the second; or entropy.
    file: Region,
    stack: GuardedStack,
    stack_bytes: usize,
}

impl Room {
    /// Maps both.
    ///
    /// # Errors
    ///
    /// [`Refused`] where the kernel gives no such memory.
    pub(crate) fn map(strength: Strength, stack_bytes: usize) -> Result<Self, Refused> {
        let pages = |bytes| PageBytes::holding(bytes).expect("a small number of pages");
        Ok(Self {
            file: Region::map("key file", pages(2 * FILE_BYTES), strength)
                .map_err(memory::map_refused)?,
            stack: GuardedStack::map("key stack", pages(stack_bytes), strength)
                .map_err(memory::map_refused)?,
            stack_bytes,
        })
    }

    /// Reads a key file straight into the buffer, and gives it to `decode`, with as much scratch
    /// room, on the guarded stack.
    ///
    /// # Errors
    ///
    /// [`Refused`] where the file cannot be read, and what `decode` refuses.
    pub(crate) fn read<R>(
        &mut self,
        file: &OwnedFd,
        decode: impl FnOnce(&[u8], &mut [u8]) -> Result<R, Refused>,
    ) -> Result<R, Refused> {
        let Self { file: buffer, stack, .. } = self;
        let read = buffer.with_mut(|bytes| {
            let (text, scratch) = bytes.split_at_mut(FILE_BYTES);
            let filled = fill_to_end(text, file.as_fd()).map_err(memory::key_file_refused)?;
            stack.run(|| decode(&text[..filled], scratch))
        });
        self.clear();
        read
    }

    /// Fills the buffer with entropy, and gives it to `make` on the guarded stack.
    ///
    /// # Errors
    ///
    /// [`Refused::Entropy`] where the kernel gives none.
    pub(crate) fn draw<R>(&mut self, make: impl FnOnce(&[u8]) -> R) -> Result<R, Refused> {
        let Self { file: buffer, stack, .. } = self;
        buffer.fill_random().map_err(memory::key_file_refused)?;
        let made = buffer.with(|bytes| stack.run(|| make(bytes)));
        self.clear();
        Ok(made)
    }

    /// Runs `work` on the guarded stack.
    pub(crate) fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let done = self.stack.run(work);
        self.stack.wipe_used(self.stack_bytes);
        done
    }

    /// Wipes both and reads them back.
    ///
    /// # Panics
    ///
    /// Where a byte is not zero afterwards: the panic hook overwrites everything again and aborts.
    pub(crate) fn wipe(mut self) -> [WipedRegion; 2] {
        [
            self.file.wipe().expect("guarded memory takes zeros"),
            self.stack.wipe().expect("guarded memory takes zeros"),
        ]
    }

    fn clear(&mut self) {
        self.file.with_mut(wipe).expect("guarded memory takes zeros");
        self.stack.wipe_used(self.stack_bytes);
    }
}

/// The longest key file, and a page that shows its end.
const FILE_BYTES: usize = KEY_FILE_BYTES_MAX + 4096;
