//! The life of a notary's worker: cage, P-256 key, signatures, wipe.
//!
//! Native code signs here, not a Wasm guest: the notary's key is long-lived and lives in this
//! process for milliseconds. Its whole working set is guarded all the same, the heap and the stack
//! of every operation included.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};

use evanesce_custody::p256_key;
use evanesce_guarded_memory::{
    Arena, GuardedStack, PageBytes, Region, ScopedAllocator, fill_to_end, registers, wipe,
};
use evanesce_protocol::Digest;
use evanesce_protocol::channel::Channel;
use evanesce_protocol::control::{
    NotaryOrder, NotaryReport, Refused, Strength, WipeCause, WipeReport,
};
use evanesce_protocol::limits::KEY_FILE_BYTES_MAX;
use p256::SecretKey;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::pkcs8::{EncodePrivateKey as _, LineEnding};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::cage;
use crate::memory::{self, guarded};
use crate::orders::{await_end, descriptors, next_order};

/// Lives the whole life; see [`crate::run`].
pub(crate) fn live(mut channel: Channel, strength: Strength) {
    if let Err(refused) = phases(&mut channel, strength) {
        // Without a launcher there is nobody to tell; the process ends either way.
        let _told = channel.send(&NotaryReport::Refused(refused), &[]);
    }
}

/// From the open cage to the wipe. `Ok` also where the launcher is gone.
fn phases(channel: &mut Channel, strength: Strength) -> Result<(), Refused> {
    let cage = cage::Open::enter()?;
    let mut room = Room::map(strength)?;
    let report = cage.close()?.report(None)?;
    if channel.send(&NotaryReport::Caged(report), &[]).is_err() {
        return Ok(());
    }

    let mut key: Option<GuardedKey> = None;
    let mut signatures = 0;
    while let Some(order) = next_order::<NotaryOrder>(channel) {
        let report = match (order.message, &key) {
            (NotaryOrder::Load, None) => {
                let [file] = descriptors::<1>("load", order.descriptors)?;
                let (loaded, public_key) = room.load(&file)?;
                key = Some(loaded);
                NotaryReport::Loaded { public_key }
            }
            (NotaryOrder::Create, None) => {
                let [file] = descriptors::<1>("create", order.descriptors)?;
                let (created, public_key) = room.create(file)?;
                key = Some(created);
                NotaryReport::Loaded { public_key }
            }
            (NotaryOrder::Sign { payload }, Some(key)) => {
                signatures += 1;
                NotaryReport::Signed { signature: room.sign(key, &payload).to_vec() }
            }
            (NotaryOrder::Wipe, _) => {
                drop(key);
                leave(channel, room.wipe(signatures));
                return Ok(());
            }
            (order, _) => {
                return Err(Refused::Order { order: name(&order).to_owned() });
            }
        };
        if channel.send(&report, &[]).is_err() {
            break;
        }
    }
    Ok(())
}

/// A key whose every byte is in the arena of its [`Room`].
struct GuardedKey(Box<SigningKey>);

/// Where a notary's key is read, made, used and wiped.
struct Room {
    /// A key file in the first half, what it decodes to in the second; or entropy.
    file: Region,
    stack: GuardedStack,
    heap: Arena,
}

impl Room {
    fn map(strength: Strength) -> Result<Self, Refused> {
        let strength = guarded(strength);
        let pages = |bytes| PageBytes::holding(bytes).expect("a small number of pages");
        Ok(Self {
            file: Region::map("key file", pages(2 * FILE_BYTES), strength)
                .map_err(memory::map_refused)?,
            stack: GuardedStack::map("notary stack", pages(STACK_BYTES), strength)
                .map_err(memory::map_refused)?,
            heap: Arena::map("notary heap", pages(HEAP_BYTES), strength)
                .map_err(memory::map_refused)?,
        })
    }

    /// Reads a key from its file.
    fn load(&mut self, file: &OwnedFd) -> Result<(GuardedKey, Vec<u8>), Refused> {
        let Self { file: region, stack, heap } = self;
        let loaded: Result<_, Refused> = region.with_mut(|bytes| {
            let (text, scratch) = bytes.split_at_mut(FILE_BYTES);
            let filled = fill_to_end(text, file.as_fd()).map_err(memory::key_file_refused)?;
            stack.run(|| {
                ScopedAllocator::within(heap, || {
                    let key = p256_key(&text[..filled], scratch)?;
                    Ok(GuardedKey(Box::new(SigningKey::from(key))))
                })
            })
        });
        self.clear();
        let key = loaded?;
        let public_key = self.public_key(&key);
        Ok((key, public_key))
    }

    /// Makes a key and writes it to its file.
    fn create(&mut self, file: OwnedFd) -> Result<(GuardedKey, Vec<u8>), Refused> {
        let Self { file: region, stack, heap } = self;
        let mut file = std::fs::File::from(file);
        let created = loop {
            region.fill_random().map_err(memory::key_file_refused)?;
            let made = region.with(|bytes| {
                stack.run(|| {
                    ScopedAllocator::within(heap, || {
                        // One in 2^32 random numbers is no private key: take the next.
                        let key = SecretKey::from_slice(&bytes[..P256_BYTES]).ok()?;
                        Some(
                            write_key(&key, &mut file)
                                .map(|()| GuardedKey(Box::new(SigningKey::from(key)))),
                        )
                    })
                })
            });
            if let Some(made) = made {
                break made;
            }
        };
        self.clear();
        let key = created?;
        let public_key = self.public_key(&key);
        Ok((key, public_key))
    }

    /// Signs with ECDSA and SHA-256, nonce by RFC 6979: `r ‖ s`.
    fn sign(&mut self, key: &GuardedKey, payload: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let Self { stack, heap, .. } = self;
        let mut signature = [0; SIGNATURE_BYTES];
        stack.run(|| {
            ScopedAllocator::within(heap, || {
                let made: Signature = key.0.sign(payload);
                signature.copy_from_slice(&made.to_bytes());
            });
        });
        self.clear();
        signature
    }

    /// The uncompressed point.
    fn public_key(&mut self, key: &GuardedKey) -> Vec<u8> {
        let mut point = [0; POINT_BYTES];
        let Self { stack, heap, .. } = self;
        stack.run(|| {
            ScopedAllocator::within(heap, || {
                let encoded = key.0.verifying_key().as_affine().to_sec1_point(false);
                point.copy_from_slice(encoded.as_bytes());
            });
        });
        self.clear();
        point.to_vec()
    }

    /// Clears what one operation left on the stack and in the buffer.
    fn clear(&mut self) {
        self.file.with_mut(wipe).expect("guarded memory takes zeros");
        self.stack.wipe_used(STACK_BYTES);
    }

    /// Wipes everything and reads it back. The key has to be gone, which the arena checks.
    fn wipe(mut self, signatures: u64) -> WipeReport {
        let wiped = [
            self.file.wipe().expect("guarded memory takes zeros"),
            self.stack.wipe().expect("guarded memory takes zeros"),
            self.heap.wipe().expect("the key is gone, and guarded memory takes zeros"),
        ];
        WipeReport {
            cause: WipeCause::Ordered,
            signatures,
            commitment: Digest::of(b""),
            ranges: memory::wiped_ranges(&wiped),
            registers: memory::register_names(registers::vector_state()).to_owned(),
        }
    }
}

/// Writes a new key, PKCS#8 PEM, from the guarded heap straight to its file.
fn write_key(key: &SecretKey, file: &mut std::fs::File) -> Result<(), Refused> {
    let text =
        key.to_pkcs8_pem(LineEnding::LF).map_err(|_| Refused::KeyWrite { errno: libc::EINVAL })?;
    file.write_all(text.as_bytes())
        .map_err(|error| Refused::KeyWrite { errno: error.raw_os_error().unwrap_or(libc::EIO) })
}

/// Reports the wipe, lets the launcher in to overwrite the rest, and waits for the end.
fn leave(channel: &mut Channel, report: WipeReport) {
    if set_dumpable_behavior(DumpableBehavior::Dumpable).is_ok()
        && channel.send(&NotaryReport::Wiped(report), &[]).is_ok()
    {
        await_end::<NotaryOrder>(channel);
    }
}

const fn name(order: &NotaryOrder) -> &'static str {
    match order {
        NotaryOrder::Load => "load",
        NotaryOrder::Create => "create",
        NotaryOrder::Sign { .. } => "sign",
        NotaryOrder::Wipe => "wipe",
    }
}

/// The longest key file, and a page that shows its end.
const FILE_BYTES: usize = KEY_FILE_BYTES_MAX + 4096;

/// P-256 arithmetic needs about 20 KiB.
const STACK_BYTES: usize = 48 * 1024;

/// A key, its PEM text and what encoding them takes.
const HEAP_BYTES: usize = 32 * 1024;

/// Bytes in a P-256 scalar.
const P256_BYTES: usize = 32;

/// Bytes in an ECDSA signature over P-256.
const SIGNATURE_BYTES: usize = 64;

/// Bytes in an uncompressed point of P-256 (SEC 1, section 2.3.3).
const POINT_BYTES: usize = 65;
