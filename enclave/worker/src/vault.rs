//! Where a workload's key file is read, opened and sealed: buffers and a stack of its own that
//! nobody else can read, and for scrypt alone memory that is wiped and gone before the key is used.

use std::os::fd::{AsFd as _, OwnedFd};

use evanesce_custody::{
    Ed25519Seed, RELEASE_SECRET_BYTES, SCRATCH_BYTES, SEAL_ENTROPY_BYTES, SEAL_ROOM_BYTES,
    SEED_BYTES, Secret, Work, Workroom, inspect, open, open_release, release_key, seal,
    seal_to_release,
};
use evanesce_guarded_memory::{
    GuardedStack, PageBytes, Region, ScopedAllocator, Scratch, Strength, WipedRegion, fill_random,
    fill_to_end, wipe,
};
use evanesce_protocol::control::{KeyFormatError, Refused};
use evanesce_protocol::custody::{KeyFileInfo, Lock, Seal};
use evanesce_protocol::evidence::ReleaseKey;
use evanesce_protocol::limits::{IDENTITY_FILE_BYTES_MAX, KEY_FILE_BYTES_MAX, WORK_FACTOR_SEAL};
use evanesce_protocol::release::{RELEASE_SEALED_BYTES, ReleaseContext};

use crate::memory;

/// Guarded buffers and a guarded stack. All are zero before the first and after the last use.
pub(crate) struct Vault {
    /// The key file in the first part, what it decodes to in the second.
    file: Region,
    file_bytes: usize,
    /// A passphrase or identities; in its last bytes a seed that is to be sealed, or the private
    /// half of a release key.
    secret: Region,
    stack: GuardedStack,
}

impl Vault {
    /// Maps all of it.
    ///
    /// # Errors
    ///
    /// [`Refused`] where the kernel gives no such memory.
    pub(crate) fn map(strength: Strength) -> Result<Self, Refused> {
        let pages = |bytes| PageBytes::holding(bytes).expect("a small number of pages");
        let region =
            |name, bytes| Region::map(name, pages(bytes), strength).map_err(memory::map_refused);
        Ok(Self {
            file: region("key file", TEXT_BYTES + SCRATCH_BYTES)?,
            file_bytes: 0,
            secret: region("secret", SECRET_BYTES + SEED_BYTES)?,
            stack: GuardedStack::map("key stack", pages(STACK_BYTES), strength)
                .map_err(memory::map_refused)?,
        })
    }

    /// Reads a key file straight into the vault, and says what it is.
    ///
    /// # Errors
    ///
    /// [`Refused`] where it cannot be read or is no key file.
    pub(crate) fn take_file(&mut self, file: &OwnedFd) -> Result<KeyFileInfo, Refused> {
        let Self { file: buffer, file_bytes, stack, .. } = self;
        buffer.with_mut(|bytes| {
            let (text, scratch) = bytes.split_at_mut(TEXT_BYTES);
            let filled = fill_to_end(text, file.as_fd()).map_err(memory::key_file_refused)?;
            *file_bytes = filled;
            Ok(stack.run(|| inspect(&text[..filled], scratch))?)
        })
    }

    /// Lends the place for a passphrase or identities, which has to be given back by its length.
    pub(crate) fn with_secret<R>(&mut self, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.secret.with_mut(|bytes| fill(&mut bytes[..SECRET_BYTES]))
    }

    /// Opens the file that was taken and gives its key to `put_to_use`, on the guarded stack.
    /// `secret_bytes` is the length of what is in the place for secrets. With `is_kept` the seed
    /// stays in the vault, for [`Vault::seal`].
    ///
    /// # Errors
    ///
    /// What does not open, and what `put_to_use` refuses.
    pub(crate) fn open<R>(
        &mut self,
        lock: Option<Lock>,
        secret_bytes: usize,
        factor_max: u8,
        is_kept: bool,
        put_to_use: impl FnOnce(&Ed25519Seed<'_>) -> Result<R, Refused>,
    ) -> Result<R, Refused> {
        let Self { file, file_bytes, secret, stack } = self;
        file.with_mut(|bytes| {
            let (text, scratch) = bytes.split_at_mut(TEXT_BYTES);
            secret.with_mut(|bytes| {
                let (secret, kept) = bytes.split_at_mut(SECRET_BYTES);
                let secret = match lock {
                    None => Secret::None,
                    Some(Lock::Passphrase) => Secret::Passphrase(&secret[..secret_bytes]),
                    Some(Lock::Identity) => Secret::Identities(&secret[..secret_bytes]),
                };
                stack.run(|| {
                    let mut work = Work { factor_max, room: &mut Unlocked };
                    let seed = open(&text[..*file_bytes], scratch, secret, &mut work)?;
                    if is_kept {
                        kept[..SEED_BYTES].copy_from_slice(seed.as_bytes());
                    }
                    put_to_use(&seed)
                })
            })
        })
    }

    /// Draws the seed of a new key, which stays in the vault for [`Vault::seal`].
    ///
    /// # Errors
    ///
    /// [`Refused::Entropy`], and what `put_to_use` refuses.
    pub(crate) fn draw<R>(
        &mut self,
        put_to_use: impl FnOnce(&[u8; SEED_BYTES]) -> Result<R, Refused>,
    ) -> Result<R, Refused> {
        let Self { secret, stack, .. } = self;
        secret.with_mut(|bytes| {
            let kept: &mut [u8; SEED_BYTES] = seed_place(bytes);
            fill_random(kept).map_err(memory::key_file_refused)?;
            stack.run(|| put_to_use(kept))
        })
    }

    /// Seals the seed that was kept. `passphrase_bytes` is the length of what is in the place for
    /// secrets.
    ///
    /// # Errors
    ///
    /// [`Refused::Entropy`], and what cannot be sealed to.
    pub(crate) fn seal(&mut self, to: &Seal, passphrase_bytes: usize) -> Result<String, Refused> {
        let Self { file, secret, stack, .. } = self;
        file.with_mut(|bytes| {
            let (entropy, room) = bytes[..TEXT_BYTES].split_at_mut(SEAL_ENTROPY_BYTES);
            fill_random(entropy).map_err(memory::key_file_refused)?;
            secret.with_mut(|bytes| {
                let (passphrase, kept) = bytes.split_at_mut(SECRET_BYTES);
                let seed = kept.first_chunk().expect("there is room for a seed");
                let passphrase = &passphrase[..passphrase_bytes];
                let entropy = entropy.first_chunk().expect("as long as what was drawn");
                stack.run(|| {
                    let mut work = Work { factor_max: WORK_FACTOR_SEAL, room: &mut Unlocked };
                    Ok(seal(
                        seed,
                        to,
                        passphrase,
                        entropy,
                        &mut room[..SEAL_ROOM_BYTES],
                        &mut work,
                    )?)
                })
            })
        })
    }

    /// Draws a release key, whose private half stays in the vault for [`Vault::receive`].
    ///
    /// # Errors
    ///
    /// [`Refused::Entropy`].
    pub(crate) fn offer(&mut self) -> Result<ReleaseKey, Refused> {
        const { assert!(SEED_BYTES == RELEASE_SECRET_BYTES, "one place serves both") };
        let Self { secret, stack, .. } = self;
        secret.with_mut(|bytes| {
            let private = seed_place(bytes);
            fill_random(private).map_err(memory::key_file_refused)?;
            Ok(stack.run(|| release_key(private)))
        })
    }

    /// Opens what was sealed to the release key that was offered, and gives its seed to
    /// `put_to_use`, on the guarded stack.
    ///
    /// # Errors
    ///
    /// [`Refused::ReleaseNotOpened`], and what `put_to_use` refuses.
    pub(crate) fn receive<R>(
        &mut self,
        context: &ReleaseContext,
        sealed: &[u8; RELEASE_SEALED_BYTES],
        put_to_use: impl FnOnce(&[u8; SEED_BYTES]) -> Result<R, Refused>,
    ) -> Result<R, Refused> {
        let Self { file, secret, stack, .. } = self;
        file.with_mut(|bytes| {
            let place: &mut [u8; RELEASE_SEALED_BYTES] =
                bytes.first_chunk_mut().expect("a key file is longer");
            place.copy_from_slice(sealed);
            secret.with_mut(|bytes| {
                let private = seed_place(bytes);
                stack.run(|| {
                    let seed = open_release(private, context, place);
                    put_to_use(seed.ok_or(Refused::ReleaseNotOpened)?)
                })
            })
        })
    }

    /// Seals the seed that was kept to the release key of another machine's worker.
    ///
    /// # Errors
    ///
    /// [`Refused::Entropy`], and a release key of low order.
    pub(crate) fn seal_to_release(
        &mut self,
        to: &ReleaseKey,
        context: &ReleaseContext,
    ) -> Result<[u8; RELEASE_SEALED_BYTES], Refused> {
        let Self { file, secret, stack, .. } = self;
        let mut sealed = [0; RELEASE_SEALED_BYTES];
        file.with_mut(|bytes| {
            let (entropy, room) =
                bytes.split_first_chunk_mut::<RELEASE_SECRET_BYTES>().expect("there is room");
            let room = room.first_chunk_mut().expect("there is room for what is sealed");
            fill_random(entropy).map_err(memory::key_file_refused)?;
            secret.with_mut(|bytes| {
                let seed = seed_place(bytes);
                stack.run(|| seal_to_release(seed, to, context, entropy, room))
            })?;
            sealed = *room;
            Ok(sealed)
        })
    }

    /// Overwrites everything, to be used again or not.
    ///
    /// # Panics
    ///
    /// Where a byte is not zero afterwards.
    pub(crate) fn clear(&mut self) {
        self.file.with_mut(wipe).expect("guarded memory takes zeros");
        self.secret.with_mut(wipe).expect("guarded memory takes zeros");
        self.stack.wipe_used(STACK_BYTES);
        self.file_bytes = 0;
    }

    /// Wipes all of it and reads it back.
    ///
    /// # Panics
    ///
    /// Where a byte is not zero afterwards: the panic hook overwrites everything again and aborts.
    pub(crate) fn wipe(mut self) -> [WipedRegion; 3] {
        [
            self.file.wipe().expect("guarded memory takes zeros"),
            self.secret.wipe().expect("guarded memory takes zeros"),
            self.stack.wipe().expect("guarded memory takes zeros"),
        ]
    }
}

fn seed_place(bytes: &mut [u8]) -> &mut [u8; SEED_BYTES] {
    bytes[SECRET_BYTES..].first_chunk_mut().expect("there is room for a seed")
}

/// Memory that cannot be locked, for as long as one scrypt takes: wiped, read back and unmapped
/// before anything else happens.
struct Unlocked;

impl Workroom for Unlocked {
    fn with_scratch(
        &mut self,
        bytes: usize,
        derive: &mut dyn FnMut(),
    ) -> Result<(), KeyFormatError> {
        let unavailable = || KeyFormatError::Scratch { bytes: bytes as u64 };
        let pages = PageBytes::holding(bytes).ok_or_else(unavailable)?;
        let scratch = Scratch::map("scrypt", pages).map_err(|_| unavailable())?;
        ScopedAllocator::within_scratch(&scratch, derive);
        let wiped = scratch.wipe().expect("nothing of scrypt outlives it, and memory takes zeros");
        assert_eq!(wiped.bytes(), pages.get(), "all of it was read back");
        Ok(())
    }
}

/// The longest key file, and a page that shows its end.
const TEXT_BYTES: usize = KEY_FILE_BYTES_MAX + 4096;

/// The longest file of identities, and room that shows its end. A passphrase, twice, is shorter.
const SECRET_BYTES: usize = IDENTITY_FILE_BYTES_MAX + 4096 - SEED_BYTES;

/// `bcrypt_pbkdf` needs the most: a state of Blowfish has 4 KiB.
const STACK_BYTES: usize = 32 * 1024;
