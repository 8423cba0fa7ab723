//! The life of a signer's worker: cage, key, service, wipe.

use std::os::fd::OwnedFd;

use evanesce_custody::ed25519_seed;
use evanesce_guarded_memory::registers;
use evanesce_protocol::channel::{Channel, Received};
use evanesce_protocol::commitment::RequestCommitment;
use evanesce_protocol::control::{
    Refused, Serve, SignerOrder, SignerReport, Strength, WipeCause, WipeReport,
};
use evanesce_protocol::{KeyOrigin, KeyUse};
use evanesce_wasm_host::{Fresh, Loaded, Signer};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::cage;
use crate::memory::{self, guarded};
use crate::mutant::Leak;
use crate::orders::{await_end, descriptors, next_order};
use crate::room::Room;
use crate::service::{Descriptors, End, Service};

/// Lives the whole life; see [`crate::run`].
pub(crate) fn live(mut channel: Channel, strength: Strength) {
    if let Err(refused) = phases(&mut channel, strength) {
        // Ending with an order unread would have the launcher read a reset instead of the reason.
        if channel.send(&SignerReport::Refused(refused), &[]).is_ok() {
            await_end::<SignerOrder>(&mut channel);
        }
    }
}

/// From the open cage to the wipe. `Ok` also where the launcher is gone.
fn phases(channel: &mut Channel, strength: Strength) -> Result<(), Refused> {
    let cage = cage::Open::enter()?;
    let signer = Signer::instantiate(guarded(strength)).map_err(memory::signer_refused)?;
    let room = Room::map(guarded(strength), STACK_BYTES)?;
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

/// Brings a key within the signer's reach, born there or read from its file.
fn load(
    signer: Signer<Fresh>,
    mut room: Room,
    origin: KeyOrigin,
    key_use: KeyUse,
    files: Vec<OwnedFd>,
    leak: &mut Leak,
) -> Result<(Signer<Loaded>, Room), Refused> {
    match origin {
        KeyOrigin::BornInside => {
            descriptors::<0>("load", files)?;
            let signer = signer.generate(key_use).map_err(memory::load_refused)?;
            Ok((signer, room))
        }
        KeyOrigin::PlaintextFile => {
            let [file] = descriptors::<1>("load", files)?;
            let signer = room.read(&file, |text, scratch| {
                let seed = ed25519_seed(text, scratch)?;
                leak.see(seed.as_bytes());
                let signer = signer.load(seed.as_bytes(), key_use).map_err(memory::load_refused)?;
                seed.check_public_key(signer.public_key().as_bytes())?;
                Ok(signer)
            })?;
            Ok((signer, room))
        }
        _ => Err(Refused::Order { order: "load".into() }),
    }
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
    room: Room,
    cause: WipeCause,
    commitment: &RequestCommitment,
) -> WipeReport {
    let signer = signer.wipe().expect("guarded memory takes zeros");
    let room = room.wipe();
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

/// Decoding a key file needs less than 4 KiB.
const STACK_BYTES: usize = 32 * 1024;
