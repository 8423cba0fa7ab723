//! The life of a notary's worker: cage, P-256 key, signatures, wipe.
//!
//! Native code signs here, not a Wasm guest: the notary's key is long-lived and lives in this
//! process for milliseconds. Its whole working set is guarded all the same, the heap and the stack
//! of every operation included.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use evanesce_custody::p256_key;
use evanesce_guarded_memory::{Arena, PageBytes, ScopedAllocator, registers};
use evanesce_protocol::Digest;
use evanesce_protocol::channel::Channel;
use evanesce_protocol::control::{
    KeyFormatError, NotaryOrder, NotaryReport, Refused, Strength, TerminalUse, WipeCause,
    WipeReport,
};
use p256::SecretKey;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::pkcs8::{EncodePrivateKey as _, LineEnding};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::cage;
use crate::memory::{self, guarded};
use crate::orders::{await_end, descriptors, next_order};
use crate::room::Room;

/// Lives the whole life; see [`crate::run`].
pub(crate) fn live(mut channel: Channel, strength: Strength, terminal: TerminalUse) {
    if let Err(refused) = phases(&mut channel, strength, terminal) {
        // Ending with an order unread would have the launcher read a reset instead of the reason.
        if channel.send(&NotaryReport::Refused(refused), &[]).is_ok() {
            await_end::<NotaryOrder>(&mut channel);
        }
    }
}

/// From the open cage to the wipe. `Ok` also where the launcher is gone.
fn phases(channel: &mut Channel, strength: Strength, terminal: TerminalUse) -> Result<(), Refused> {
    let cage = cage::Open::enter(terminal)?;
    let mut desk = Desk::map(strength)?;
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
                let (loaded, public_key) = desk.load(&file)?;
                key = Some(loaded);
                NotaryReport::Loaded { public_key }
            }
            (NotaryOrder::Create, None) => {
                let [file] = descriptors::<1>("create", order.descriptors)?;
                let (created, public_key) = desk.create(file)?;
                key = Some(created);
                NotaryReport::Loaded { public_key }
            }
            (NotaryOrder::Sign { payload }, Some(key)) => {
                signatures += 1;
                NotaryReport::Signed { signature: desk.sign(key, &payload).to_vec() }
            }
            (NotaryOrder::Wipe, _) => {
                drop(key);
                leave(channel, desk.wipe(signatures));
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

/// A key whose every byte is in the arena of its [`Desk`].
struct GuardedKey(Box<SigningKey>);

/// Where a notary's key is read, made, used and wiped.
struct Desk {
    room: Room,
    heap: Arena,
}

impl Desk {
    fn map(strength: Strength) -> Result<Self, Refused> {
        let strength = guarded(strength);
        let heap_bytes = PageBytes::holding(HEAP_BYTES).expect("a small number of pages");
        Ok(Self {
            room: Room::map(strength, STACK_BYTES)?,
            heap: Arena::map("notary heap", heap_bytes, strength).map_err(memory::map_refused)?,
        })
    }

    /// Reads a key from its file.
    fn load(&mut self, file: &OwnedFd) -> Result<(GuardedKey, Vec<u8>), Refused> {
        let Self { room, heap } = self;
        let key = room.read(file, |text, scratch| {
            let key = ScopedAllocator::within(heap, || {
                let key = p256_key(text, scratch)?;
                Ok(GuardedKey(Box::new(SigningKey::from(key))))
            });
            // The text of an error is public, and outlives the heap that it was made in: copy it.
            key.map_err(|error: KeyFormatError| Refused::KeyFormat(error.clone()))
        })?;
        let public_key = self.public_key(&key);
        Ok((key, public_key))
    }

    /// Makes a key and writes it to its file.
    fn create(&mut self, file: OwnedFd) -> Result<(GuardedKey, Vec<u8>), Refused> {
        let Self { room, heap } = self;
        let mut file = File::from(file);
        let key = loop {
            let made = room.draw(|entropy| {
                ScopedAllocator::within(heap, || {
                    // One in 2^32 random numbers is no private key: take the next.
                    let key = SecretKey::from_slice(&entropy[..P256_BYTES]).ok()?;
                    let written = write_key(&key, &mut file);
                    Some(written.map(|()| GuardedKey(Box::new(SigningKey::from(key)))))
                })
            })?;
            if let Some(made) = made {
                break made?;
            }
        };
        let public_key = self.public_key(&key);
        Ok((key, public_key))
    }

    /// Signs with ECDSA and SHA-256, nonce by RFC 6979: `r ‖ s`.
    fn sign(&mut self, key: &GuardedKey, payload: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let Self { room, heap } = self;
        let mut signature = [0; SIGNATURE_BYTES];
        room.run(|| {
            ScopedAllocator::within(heap, || {
                let made: Signature = key.0.sign(payload);
                signature.copy_from_slice(&made.to_bytes());
            });
        });
        signature
    }

    /// The uncompressed point.
    fn public_key(&mut self, key: &GuardedKey) -> Vec<u8> {
        let Self { room, heap } = self;
        let mut point = [0; POINT_BYTES];
        room.run(|| {
            ScopedAllocator::within(heap, || {
                let encoded = key.0.verifying_key().as_affine().to_sec1_point(false);
                point.copy_from_slice(encoded.as_bytes());
            });
        });
        point.to_vec()
    }

    /// Wipes everything and reads it back. The key has to be gone, which the arena checks.
    fn wipe(mut self, signatures: u64) -> WipeReport {
        let room = self.room.wipe();
        let heap = self.heap.wipe().expect("the key is gone, and guarded memory takes zeros");
        WipeReport {
            cause: WipeCause::Ordered,
            signatures,
            commitment: Digest::of(b""),
            ranges: memory::wiped_ranges(room.iter().chain([&heap])),
            registers: memory::register_names(registers::vector_state()).to_owned(),
        }
    }
}

/// Writes a new key, PKCS#8 PEM, from the guarded heap straight to its file.
fn write_key(key: &SecretKey, file: &mut File) -> Result<(), Refused> {
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
