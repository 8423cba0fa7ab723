//! Workers that leak on purpose, so that the residue test can show that it would notice.
//!
//! Only built with one of the features `danger-leak-…`, which no launcher that is shipped asks for:
//! a launcher pins the digest of the worker it was built with. Without them everything here is
//! empty.

/// What a mutant keeps of a key that passed by. Made on the ordinary stack, for the worker's life.
#[derive(Default)]
pub(crate) struct Leak {
    #[cfg(feature = "danger-leak-heap")]
    heap: Vec<u8>,
    #[cfg(feature = "danger-leak-stack")]
    stack: [u8; 32],
    #[cfg(feature = "danger-leak-register")]
    region: Option<evanesce_guarded_memory::Region>,
}

impl Leak {
    /// Sees a seed on its way into the signer.
    #[cfg_attr(
        not(any(
            feature = "danger-leak-heap",
            feature = "danger-leak-stack",
            feature = "danger-leak-register"
        )),
        expect(clippy::unused_self, clippy::needless_pass_by_ref_mut, reason = "nothing leaks")
    )]
    pub(crate) fn see(&mut self, _seed: &[u8; 32]) {
        #[cfg(feature = "danger-leak-heap")]
        self.heap.extend_from_slice(_seed);
        #[cfg(feature = "danger-leak-stack")]
        {
            self.stack = *_seed;
            std::hint::black_box(&mut self.stack);
        }
        #[cfg(feature = "danger-leak-register")]
        if let Some(region) = &mut self.region {
            // The copy is in guarded memory; the register it is loaded into is the leak.
            region.with_mut(|bytes| bytes[..32].copy_from_slice(_seed));
            waiting::SEED.store(region.base().as_ptr(), std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Sees the beginning of a passphrase or of identities, on its way into the vault.
    #[cfg_attr(
        not(any(
            feature = "danger-leak-heap",
            feature = "danger-leak-stack",
            feature = "danger-leak-register"
        )),
        expect(clippy::unused_self, clippy::needless_pass_by_ref_mut, reason = "nothing leaks")
    )]
    pub(crate) fn see_secret(&mut self, _secret: &[u8; 32]) {
        #[cfg(feature = "danger-leak-heap")]
        self.heap.extend_from_slice(_secret);
    }

    /// Makes room for what will leak, while memory can still be mapped.
    pub(crate) fn new() -> Self {
        #[cfg(feature = "danger-leak-register")]
        return Self {
            region: evanesce_guarded_memory::PageBytes::holding(4096).and_then(|bytes| {
                let strict = evanesce_guarded_memory::Strength::Strict;
                evanesce_guarded_memory::Region::map("leak", bytes, strict).ok()
            }),
        };
        #[cfg(not(feature = "danger-leak-register"))]
        Self::default()
    }
}

#[cfg(not(feature = "danger-leak-register"))]
pub(crate) use evanesce_guarded_memory::registers::quiesce_and_wait;

#[cfg(feature = "danger-leak-register")]
pub(crate) use waiting::quiesce_and_wait;

/// Waiting with the seed in `xmm6` and `xmm7` instead of the public pattern.
#[cfg(feature = "danger-leak-register")]
mod waiting {
    #![expect(unsafe_code, reason = "a mutant; never part of a worker that is shipped")]

    use std::arch::asm;
    use std::io;
    use std::os::fd::{AsRawFd as _, BorrowedFd};
    use std::sync::atomic::{AtomicPtr, Ordering};
    use std::time::Duration;

    use evanesce_guarded_memory::registers;

    pub(crate) static SEED: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

    pub(crate) fn quiesce_and_wait<'e>(
        epoll: BorrowedFd<'_>,
        events: &'e mut [libc::epoll_event],
        timeout: Option<Duration>,
    ) -> io::Result<&'e [libc::epoll_event]> {
        let seed = SEED.load(Ordering::Relaxed);
        if seed.is_null() {
            return registers::quiesce_and_wait(epoll, events, timeout);
        }
        let answer: i64;
        // SAFETY: reads 32 bytes of a live region and makes one epoll_pwait(2), with valid
        // arguments and without a mask.
        unsafe {
            asm!(
                "movdqu xmm6, [{seed}]",
                "movdqu xmm7, [{seed} + 16]",
                "syscall",
                seed = in(reg) seed,
                inlateout("rax") libc::SYS_epoll_pwait => answer,
                in("rdi") i64::from(epoll.as_raw_fd()),
                in("rsi") events.as_mut_ptr(),
                in("rdx") events.len(),
                in("r10") timeout.map_or(-1, |_| 0_i64),
                in("r8") 0,
                out("xmm6") _,
                out("xmm7") _,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        let came = usize::try_from(answer).map_err(|_| {
            io::Error::from_raw_os_error(i32::try_from(-answer).unwrap_or(libc::EIO))
        })?;
        Ok(&events[..came])
    }
}
