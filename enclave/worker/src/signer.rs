//! The life of a signer's worker: cage, key, service, wipe.

use std::os::fd::{AsFd as _, OwnedFd};

use evanesce_custody::ed25519_seed;
use evanesce_guarded_memory::{GuardedStack, PageBytes, Region, fill_to_end, registers, wipe};
use evanesce_protocol::channel::{Channel, Received};
use evanesce_protocol::commitment::RequestCommitment;
use evanesce_protocol::control::{
    Refused, Serve, SignerOrder, SignerReport, Strength, WipeCause, WipeReport,
};
use evanesce_protocol::limits::KEY_FILE_BYTES_MAX;
use evanesce_protocol::{KeyOrigin, KeyUse};
use evanesce_wasm_host::{Fresh, Loaded, Signer};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::cage;
use crate::memory::{self, guarded};
use crate::mutant::Leak;
use crate::orders::{await_end, descriptors, next_order};
use crate::service::{Descriptors, End, Service};

/// Lives the whole life; see [`crate::run`].
pub(crate) fn live(mut channel: Channel, strength: Strength) {
    if let Err(refused) = phases(&mut channel, strength) {
        // Without a launcher there is nobody to tell; the process ends either way.
        let _told = channel.send(&SignerReport::Refused(refused), &[]);
    }
}

/// From the open cage to the wipe. `Ok` also where the launcher is gone.
fn phases(channel: &mut Channel, strength: Strength) -> Result<(), Refused> {
    let cage = cage::Open::enter()?;
    let signer = Signer::instantiate(guarded(strength)).map_err(memory::signer_refused)?;
    let room = LoadingRoom::map(strength)?;
    let mut leak = Leak::new();
    let report = cage.close()?.report(Some(signer.facts().module_digest))?;
    if channel.send(&SignerReport::Caged(report), &[]).is_err() {
        return Ok(());
    }

    let Some(Received { message, descriptors: files }) = next_order(channel) else {
        return Ok(());
    };
    let (signer, room) = match message {
        SignerOrder::Load { origin, key_use } => {
            load(signer, room, origin, key_use, files, &mut leak)?
        }
        SignerOrder::Wipe => return Ok(()),
        SignerOrder::Serve(_) => {
            return Err(Refused::Order { order: "serve".into() });
        }
    };
    let public_key = signer.public_key();
    let loaded = SignerReport::Loaded { public_key };
    if channel.send(&loaded, &[]).is_err() {
        return Ok(());
    }

    let (signer, commitment, end) = match next_order(channel) {
        Some(Received { message: SignerOrder::Serve(terms), descriptors: files }) => {
            serve(channel, signer, terms, files)
        }
        Some(Received { message: SignerOrder::Wipe, .. }) => {
            (signer, RequestCommitment::new(&public_key), End::Wipe(WipeCause::Ordered))
        }
        Some(Received { message: SignerOrder::Load { .. }, .. }) => {
            return Err(Refused::Order { order: "load".into() });
        }
        None => return Ok(()),
    };
    match end {
        End::Wipe(cause) => {
            let report = wipe_all(signer, room, cause, &commitment);
            leave(channel, &SignerReport::Wiped(report));
            Ok(())
        }
        End::LauncherLost => {
            let _report = wipe_all(signer, room, WipeCause::Ordered, &commitment);
            Ok(())
        }
        End::Refused(refused) => {
            let _report = wipe_all(signer, room, WipeCause::Ordered, &commitment);
            Err(refused)
        }
    }
}

/// Where a key file is read and decoded: buffers and a stack that nobody else can read.
struct LoadingRoom {
    /// The file in the first half, what it decodes to in the second.
    file: Region,
    stack: GuardedStack,
}

impl LoadingRoom {
    fn map(strength: Strength) -> Result<Self, Refused> {
        let strength = guarded(strength);
        let pages = |bytes| PageBytes::holding(bytes).expect("a small number of pages");
        Ok(Self {
            file: Region::map("key file", pages(2 * FILE_BYTES), strength)
                .map_err(memory::map_refused)?,
            stack: GuardedStack::map("loading stack", pages(STACK_BYTES), strength)
                .map_err(memory::map_refused)?,
        })
    }
}

/// Brings a key within the signer's reach, born there or read from its file.
fn load(
    signer: Signer<Fresh>,
    mut room: LoadingRoom,
    origin: KeyOrigin,
    key_use: KeyUse,
    files: Vec<OwnedFd>,
    leak: &mut Leak,
) -> Result<(Signer<Loaded>, LoadingRoom), Refused> {
    match origin {
        KeyOrigin::BornInside => {
            descriptors::<0>("load", files)?;
            let signer = signer.generate(key_use).map_err(memory::load_refused)?;
            Ok((signer, room))
        }
        KeyOrigin::PlaintextFile => {
            let [file] = descriptors::<1>("load", files)?;
            let loaded = load_file(signer, &mut room, key_use, &file, leak);
            room.file.with_mut(wipe).expect("guarded memory takes zeros");
            room.stack.wipe_used(STACK_BYTES);
            Ok((loaded?, room))
        }
        _ => Err(Refused::Order { order: "load".into() }),
    }
}

/// Reads a key file straight into guarded memory, decodes it on the guarded stack, and hands the
/// seed to the signer from there.
fn load_file(
    signer: Signer<Fresh>,
    room: &mut LoadingRoom,
    key_use: KeyUse,
    file: &OwnedFd,
    leak: &mut Leak,
) -> Result<Signer<Loaded>, Refused> {
    let LoadingRoom { file: region, stack } = room;
    region.with_mut(|bytes| {
        let (text, scratch) = bytes.split_at_mut(FILE_BYTES);
        let filled = fill_to_end(text, file.as_fd()).map_err(memory::key_file_refused)?;
        stack.run(|| {
            let seed = ed25519_seed(&text[..filled], scratch)?;
            leak.see(seed.as_bytes());
            let signer = signer.load(seed.as_bytes(), key_use).map_err(memory::load_refused)?;
            seed.check_public_key(signer.public_key().as_bytes())?;
            Ok(signer)
        })
    })
}

fn serve(
    channel: &mut Channel,
    signer: Signer<Loaded>,
    terms: Serve,
    files: Vec<OwnedFd>,
) -> (Signer<Loaded>, RequestCommitment, End) {
    let nothing_signed = RequestCommitment::new(&signer.public_key());
    let refused = || End::Refused(Refused::Order { order: "serve".into() });
    let mut files = files.into_iter();
    let (Some(listener), Some(journal), kill_switch, None) =
        (files.next(), files.next(), files.next(), files.next())
    else {
        return (signer, nothing_signed, refused());
    };
    let files = Descriptors { listener, journal, kill_switch };
    match Service::new(signer, terms, files) {
        Ok(service) => match channel.send(&SignerReport::Serving, &[]) {
            Ok(()) => service.run(channel),
            Err(_) => service.abandon(End::LauncherLost),
        },
        Err(unserved) => (unserved.signer, nothing_signed, End::Refused(unserved.refused)),
    }
}

/// Wipes everything that ever held a form of the key and reads it back.
///
/// # Panics
///
/// Where a byte is not zero afterwards: the panic hook overwrites everything again and aborts.
fn wipe_all(
    signer: Signer<Loaded>,
    mut room: LoadingRoom,
    cause: WipeCause,
    commitment: &RequestCommitment,
) -> WipeReport {
    let signer = signer.wipe().expect("guarded memory takes zeros");
    let room = [
        room.file.wipe().expect("guarded memory takes zeros"),
        room.stack.wipe().expect("guarded memory takes zeros"),
    ];
    WipeReport {
        cause,
        signatures: commitment.count(),
        commitment: commitment.value(),
        ranges: memory::wiped_ranges(signer.regions().iter().chain(&room)),
        registers: memory::register_names(registers::vector_state()).to_owned(),
    }
}

/// Reports the wipe, lets the launcher in to overwrite the rest, and waits for the end.
fn leave(channel: &mut Channel, report: &SignerReport) {
    if set_dumpable_behavior(DumpableBehavior::Dumpable).is_ok()
        && channel.send(report, &[]).is_ok()
    {
        await_end::<SignerOrder>(channel);
    }
}

/// The longest key file, and a page that shows its end.
const FILE_BYTES: usize = KEY_FILE_BYTES_MAX + 4096;

/// Decoding a key file needs less than 4 KiB.
const STACK_BYTES: usize = 32 * 1024;
