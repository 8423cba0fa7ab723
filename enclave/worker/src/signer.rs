//! The life of a signer's worker: cage, key, service, wipe.

use std::os::fd::OwnedFd;

use evanesce_guarded_memory::registers;
use evanesce_protocol::channel::{Channel, Received};
use evanesce_protocol::commitment::RequestCommitment;
use evanesce_protocol::control::{
    self, Load, LoadSource, Refused, Serve, SignerOrder, SignerReport, Strength, TerminalUse,
    Wanted, WipeCause, WipeReport,
};
use evanesce_protocol::custody::{Lock, Seal};
use evanesce_protocol::release::RELEASE_SEALED_BYTES;
use evanesce_protocol::rotation::Handover;
use evanesce_protocol::{KeyOrigin, PublicKey};
use evanesce_wasm_host::{Fresh, Loaded, Signer};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::cage;
use crate::memory::{self, guarded};
use crate::mutant::Leak;
use crate::orders::{await_end, descriptors, next_order};
use crate::secret;
use crate::service::{Descriptors, End, Service};
use crate::vault::Vault;

/// Lives the whole life; see [`crate::run`].
pub(crate) fn live(mut channel: Channel, strength: Strength, terminal: TerminalUse) {
    if let Err(refused) = phases(&mut channel, strength, terminal) {
        // Ending with an order unread would have the launcher read a reset instead of the reason.
        if channel.send(&SignerReport::Refused(refused), &[]).is_ok() {
            await_end::<SignerOrder>(&mut channel);
        }
    }
}

/// From the open cage to the wipe. `Ok` also where the launcher is gone.
fn phases(channel: &mut Channel, strength: Strength, terminal: TerminalUse) -> Result<(), Refused> {
    let cage = cage::Open::enter(terminal)?;
    let signer = Signer::instantiate(guarded(strength)).map_err(memory::signer_refused)?;
    let mut vault = Vault::map(guarded(strength))?;
    let mut leak = Leak::new();
    let report = cage.close()?.report(Some(signer.facts().module_digest))?;
    if channel.send(&SignerReport::Caged(report), &[]).is_err() {
        return Ok(());
    }

    let Some(first) = first_load(channel, &mut vault)? else { return Ok(()) };
    let Some((signer, loaded)) = load(channel, signer, &mut vault, first, &mut leak)? else {
        return Ok(());
    };
    let public_key = signer.public_key();
    if channel.send(&SignerReport::Loaded(loaded), &[]).is_err() {
        return Ok(());
    }

    let mut signer = signer;
    let order = loop {
        match next_order(channel) {
            Some(Received { message: SignerOrder::Endorse(handover), .. }) => {
                let signature = endorse(&mut signer, &handover)?;
                if channel.send(&SignerReport::Endorsed { signature }, &[]).is_err() {
                    return Ok(());
                }
            }
            order => break order,
        }
    };
    let (signer, commitment, end) = match order {
        Some(Received { message: SignerOrder::Serve(terms), descriptors: files }) => {
            serve(channel, signer, terms, files)
        }
        Some(Received { message: SignerOrder::Wipe, .. }) => {
            (signer, RequestCommitment::new(&public_key), End::Wipe(WipeCause::Ordered))
        }
        Some(Received { message, .. }) => {
            return Err(Refused::Order { order: name(&message).into() });
        }
        None => return Ok(()),
    };
    match end {
        End::Wipe(cause) => {
            let report = wipe_all(signer, vault, cause, &commitment);
            leave(channel, &SignerReport::Wiped(report));
            Ok(())
        }
        End::LauncherLost => {
            let _report = wipe_all(signer, vault, WipeCause::Ordered, &commitment);
            Ok(())
        }
        End::Refused(refused) => {
            let _report = wipe_all(signer, vault, WipeCause::Ordered, &commitment);
            Err(refused)
        }
    }
}

/// The order to load a key, and what came before it.
struct FirstLoad {
    order: Load,
    files: Vec<OwnedFd>,
    /// The key that a release key was offered for. The vault has its private half.
    offered_for: Option<PublicKey>,
}

/// Says what key files are, and offers a release key, until a key is to be loaded. `None` where the
/// launcher is gone, or has no use for a key.
fn first_load(channel: &mut Channel, vault: &mut Vault) -> Result<Option<FirstLoad>, Refused> {
    let mut offered_for = None;
    loop {
        match next_order(channel) {
            // Who was offered a release key has one use for this worker left.
            Some(Received { message: SignerOrder::Inspect, descriptors: files })
                if offered_for.is_none() =>
            {
                let [file] = descriptors::<1>("inspect", files)?;
                let found = vault.take_file(&file);
                vault.clear();
                if channel.send(&SignerReport::Inspected(found), &[]).is_err() {
                    return Ok(None);
                }
            }
            Some(Received { message: SignerOrder::OfferRelease(key), descriptors: files })
                if offered_for.is_none() =>
            {
                descriptors::<0>("offer a release key", files)?;
                let release_key = vault.offer()?;
                offered_for = Some(key);
                if channel.send(&SignerReport::Offered(release_key), &[]).is_err() {
                    return Ok(None);
                }
            }
            Some(Received { message: SignerOrder::Load(order), descriptors: files }) => {
                return Ok(Some(FirstLoad { order, files, offered_for }));
            }
            Some(Received { message: SignerOrder::Wipe, .. }) | None => return Ok(None),
            Some(Received { message, .. }) => {
                return Err(Refused::Order { order: name(&message).into() });
            }
        }
    }
}

/// Brings a key within the signer's reach, born there or read from its file, and seals it where
/// that was ordered. The vault is empty afterwards. `None` where the launcher is gone.
fn load(
    channel: &mut Channel,
    signer: Signer<Fresh>,
    vault: &mut Vault,
    first: FirstLoad,
    leak: &mut Leak,
) -> Result<Option<(Signer<Loaded>, control::Loaded)>, Refused> {
    let FirstLoad { order: Load { source, key_use, seal }, files, offered_for } = first;
    let out_of_turn = || Refused::Order { order: "load".into() };
    let (signer, origin) = match source {
        LoadSource::Released { context, sealed } => {
            descriptors::<0>("load", files)?;
            let sealed: &[u8; RELEASE_SEALED_BYTES] =
                sealed.as_slice().try_into().map_err(|_| Refused::ReleaseNotOpened)?;
            let (Some(expected), None) = (offered_for, &seal) else { return Err(out_of_turn()) };
            let signer = vault.receive(&context, sealed, |seed| {
                leak.see(seed);
                signer.load(seed, key_use).map_err(memory::load_refused)
            })?;
            // Before anything can be signed: this is the key that was asked for, or none.
            if signer.public_key() != expected {
                return Err(Refused::ReleaseOtherKey { expected });
            }
            (signer, KeyOrigin::Released)
        }
        // A release key that was offered is for what is sealed to it, and for nothing else.
        _ if offered_for.is_some() => return Err(out_of_turn()),
        LoadSource::BornInside => {
            descriptors::<0>("load", files)?;
            let signer = match &seal {
                None => signer.generate(key_use).map_err(memory::load_refused)?,
                // What is to be sealed has to be seen once outside of the signer.
                Some(_) => vault.draw(|seed| {
                    leak.see(seed);
                    signer.load(seed, key_use).map_err(memory::load_refused)
                })?,
            };
            (signer, KeyOrigin::BornInside)
        }
        LoadSource::File { work_factor_max } => {
            let [file] = descriptors::<1>("load", files)?;
            let info = vault.take_file(&file)?;
            let wanted = info.lock.map(|lock| match lock {
                Lock::Passphrase => Wanted::Passphrase,
                Lock::Identity => Wanted::Identity,
            });
            let Some(secret_bytes) = secret_for(channel, vault, wanted, leak)? else {
                return Ok(None);
            };
            let signer =
                vault.open(info.lock, secret_bytes, work_factor_max, seal.is_some(), |seed| {
                    leak.see(seed.as_bytes());
                    let signer =
                        signer.load(seed.as_bytes(), key_use).map_err(memory::load_refused)?;
                    seed.check_public_key(signer.public_key().as_bytes())?;
                    Ok(signer)
                })?;
            (signer, info.format.origin())
        }
    };
    let sealed = match &seal {
        None => None,
        Some(Seal::Release { to, context }) => {
            let own = signer.public_key();
            if context.public_key != own {
                return Err(Refused::ReleaseOtherKey { expected: context.public_key });
            }
            Some(hex::encode(vault.seal_to_release(to, context)?))
        }
        Some(to) => {
            let wanted = matches!(to, Seal::Passphrase { .. }).then_some(Wanted::NewPassphrase);
            let Some(secret_bytes) = secret_for(channel, vault, wanted, leak)? else {
                return Ok(None);
            };
            Some(vault.seal(to, secret_bytes)?)
        }
    };
    vault.clear();
    let public_key = signer.public_key();
    Ok(Some((signer, control::Loaded { public_key, origin, sealed })))
}

/// Signs a handover, where the key is one of its two.
///
/// # Errors
///
/// [`Refused::Order`] for any other, and for a key that signs digests.
pub(crate) fn endorse(
    signer: &mut Signer<Loaded>,
    handover: &Handover,
) -> Result<Vec<u8>, Refused> {
    let refused = || Refused::Order { order: "endorse".into() };
    if !handover.may_be_signed_by(&signer.public_key()) {
        return Err(refused());
    }
    let signature = signer.sign_message(&handover.signed_bytes()).map_err(|_| refused())?;
    Ok(signature.to_vec())
}

/// Gets what is wanted into the vault and gives its length: 0 where nothing is.
fn secret_for(
    channel: &mut Channel,
    vault: &mut Vault,
    wanted: Option<Wanted>,
    leak: &mut Leak,
) -> Result<Option<usize>, Refused> {
    let Some(wanted) = wanted else { return Ok(Some(0)) };
    vault.with_secret(|place| {
        let bytes = secret::ask(channel, wanted, place)?;
        if let Some(first) = place.first_chunk().filter(|_| bytes.is_some_and(|bytes| bytes >= 32))
        {
            leak.see_secret(first);
        }
        Ok(bytes)
    })
}

const fn name(order: &SignerOrder) -> &'static str {
    match order {
        SignerOrder::Inspect => "inspect",
        SignerOrder::OfferRelease(_) => "offer a release key",
        SignerOrder::Load(_) => "load",
        SignerOrder::Secret(_) => "secret",
        SignerOrder::Serve(_) => "serve",
        SignerOrder::Endorse(_) => "endorse",
        SignerOrder::Wipe => "wipe",
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
    vault: Vault,
    cause: WipeCause,
    commitment: &RequestCommitment,
) -> WipeReport {
    let signer = signer.wipe().expect("guarded memory takes zeros");
    let vault = vault.wipe();
    WipeReport {
        cause,
        signatures: commitment.count(),
        commitment: commitment.value(),
        ranges: memory::wiped_ranges(signer.regions().iter().chain(&vault)),
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
