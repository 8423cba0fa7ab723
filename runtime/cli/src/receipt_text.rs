//! A receipt in a few lines.

use std::io::{self, Write};

use anstyle::Style;
use evanesce_ledger::Receipt;
use evanesce_ledger::receipt::{
    Apart, Cause, Claim, CommandEnd, Grade, KeyFate, Known, Observer, Placement, ScrubMethod,
    ScrubStatement, Separation,
};
use evanesce_protocol::KeyOrigin;
use evanesce_protocol::smaps::Backing;
use serde::Serialize;

use crate::ui::{BAD, FAINT, GOOD, UNSURE};

/// Writes what became of a key: its life, its fate, and by whose word.
///
/// # Errors
///
/// Those of `out`.
pub fn write(receipt: &Receipt, row: u64, out: &mut dyn Write) -> io::Result<()> {
    let (key, scrub) = (&receipt.key, &receipt.scrub);
    let style = match key.fate {
        KeyFate::Destroyed => GOOD,
        KeyFate::ThisCopyDestroyed => UNSURE,
        KeyFate::Unproven => BAD,
    };
    writeln!(out, "key       {} {FAINT}({}){FAINT:#}", key.public_key, origin(key.origin))?;
    writeln!(
        out,
        "used      {}, {} ms, ended because {}{}",
        counted(receipt.signatures.count, "signature"),
        lifetime_ms(receipt),
        cause(receipt.cause),
        if receipt.signatures.complete { "" } else { "; there may have been more signatures" },
    )?;
    writeln!(out, "fate      {style}{}{style:#}: {}", fate(key.fate), method(receipt))?;
    for observer in [
        Observer::ObservedOutside,
        Observer::SelfReported,
        Observer::RestsOnKernel,
        Observer::RestsOnPlatform,
    ] {
        let claims = claims_of(&scrub.statements, observer);
        if !claims.is_empty() {
            writeln!(out, "          {FAINT}{}: {claims}{FAINT:#}", observer_name(observer))?;
        }
    }
    for unproven in &scrub.unproven {
        let claim = name_of(unproven.claim);
        writeln!(out, "unproven  {BAD}{claim}{BAD:#}: {}", unproven.reason)?;
    }
    if let Some(attestation) = &receipt.attestation {
        let (digest, provider) = (attestation.evidence, &attestation.provider);
        writeln!(out, "evidence  {digest} {FAINT}({provider}, unjudged here){FAINT:#}")?;
    }
    if let Some(by) = &receipt.released_by {
        let (holder, transcript) = (by.holder, by.transcript);
        writeln!(out, "released  by notary {holder}, transcript {transcript}")?;
    }
    if let Some(forced) = &scrub.forced
        && forced.kernel_clears != Known::Yes
    {
        writeln!(out, "kernel    {FAINT}{}{FAINT:#}", forced.leaves)?;
    }
    if !receipt.grades.is_empty() {
        write!(out, "promised ")?;
        for (index, graded) in receipt.grades.iter().enumerate() {
            let style = grade_style(graded.grade);
            let (promise, grade) = (name_of(graded.promise), name_of(graded.grade));
            let comma = if index == 0 { "" } else { "," };
            write!(out, "{comma} {promise} {style}{grade}{style:#}")?;
        }
        writeln!(out)?;
    }
    if let Some(place) = receipt.placement.as_ref().and_then(place) {
        writeln!(out, "started   {place}")?;
    }
    if !receipt.degraded.is_empty() {
        writeln!(out, "given up  {UNSURE}{}{UNSURE:#}", receipt.degraded.join(", "))?;
    }
    writeln!(
        out,
        "receipt   row {row} of the ledger, workload {} {FAINT}(notary: {}){FAINT:#}",
        receipt.workload,
        notary(&receipt.separation),
    )
}

/// The words for where a worker was, where that is more than beside its launcher.
fn place(placement: &Placement) -> Option<String> {
    if let Some(machine) = &placement.machine {
        return Some(format!(
            "in a machine of its own ({}, image {})",
            machine.enclave, machine.image
        ));
    }
    match (&placement.unit, &placement.launcher_unit) {
        (Some(unit), None) => Some(format!("by systemd as {unit}")),
        (Some(unit), Some(own)) => Some(format!("by systemd as {unit}, its launcher in {own}")),
        (None, Some(own)) => Some(format!("by its launcher, in {own}")),
        (None, None) => None,
    }
}

/// How a grade is painted.
pub const fn grade_style(grade: Grade) -> Style {
    match grade {
        Grade::Provable => GOOD,
        Grade::Guarded => UNSURE,
        _ => BAD,
    }
}

/// The words for a receipt's notary: how far away it was, and what held its key.
fn notary(separation: &Separation) -> String {
    let apart = apart(separation.notary);
    match separation.notary_memory {
        Some(Backing::SecretPages) | None => apart.to_owned(),
        Some(Backing::LockedPages) => format!("{apart}, its key in locked pages"),
        Some(_) => format!("{apart}, its key in other pages"),
    }
}

/// The words for a key's fate.
pub const fn fate(fate: KeyFate) -> &'static str {
    match fate {
        KeyFate::Destroyed => "destroyed",
        KeyFate::ThisCopyDestroyed => "this copy destroyed",
        KeyFate::Unproven => "unproven",
    }
}

/// The words for how a command ended.
pub fn command_end(end: CommandEnd) -> String {
    match end {
        CommandEnd::Exited(status) => format!("exited with status {status}"),
        CommandEnd::Signalled(signal) => format!("was ended by signal {signal}"),
    }
}

/// A number with its noun.
pub fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// The stable name of a value, as JSON has it.
pub fn name_of(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("names are strings, not {other:?}"),
    }
}

fn lifetime_ms(receipt: &Receipt) -> u64 {
    receipt.times.ended.unix_ms().saturating_sub(receipt.times.loaded.unix_ms())
}

/// The words for where a key came from.
pub(crate) const fn origin(origin: KeyOrigin) -> &'static str {
    match origin {
        KeyOrigin::BornInside => "born inside the signer",
        KeyOrigin::PlaintextFile => "from a file in the clear, which still exists",
        KeyOrigin::SealedFile => "from a sealed file, which still exists",
        KeyOrigin::Released => "released by its holder, who still has it",
        _ => "of an origin this version does not know",
    }
}

/// The words for why a workload ended, after "because".
pub(crate) const fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::CommandEnded => "the command was done",
        Cause::SignaturesSpent => "its signatures were spent",
        Cause::TimeToLive => "its time was over",
        Cause::KillSwitch => "the kill switch was set",
        Cause::Operator => "the operator ended it",
        Cause::LauncherLost => "the launcher was lost",
        Cause::WorkerLost => "the worker was lost",
        Cause::Failed => "a step failed",
        _ => "of a reason this version does not know",
    }
}

fn method(receipt: &Receipt) -> String {
    let scrub = &receipt.scrub;
    match scrub.method {
        ScrubMethod::WorkerWipedThenOverwritten => format!(
            "{} KiB wiped inside, {} KiB overwritten from outside",
            scrub.bytes_wiped.div_ceil(1024),
            scrub.bytes_overwritten.div_ceil(1024),
        ),
        ScrubMethod::Kernel => "the worker was dead already, the kernel cleared its pages".into(),
        ScrubMethod::MachineOverwritten => format!(
            "its machine ended, {} MiB of its memory overwritten from outside",
            scrub.bytes_overwritten >> 20,
        ),
    }
}

const fn observer_name(observer: Observer) -> &'static str {
    match observer {
        Observer::ObservedOutside => "observed from outside",
        Observer::SelfReported => "by the worker's own word",
        Observer::RestsOnKernel => "rests on the kernel",
        Observer::RestsOnPlatform => "rests on the platform",
    }
}

/// The words for how far two processes are apart.
pub const fn apart(apart: Apart) -> &'static str {
    match apart {
        Apart::SameUid => "same user, same machine",
        Apart::OtherUid => "other user, same machine",
        Apart::OtherMachine => "other machine",
    }
}

fn claims_of(statements: &[ScrubStatement], observer: Observer) -> String {
    let of_observer = statements.iter().filter(|statement| statement.observer == observer);
    let names: Vec<String> = of_observer
        .filter(|statement| is_of_scrub(statement.claim))
        .map(|statement| name_of(statement.claim))
        .collect();
    names.join(", ")
}

/// Claims of the cage are left to `audit receipt`: here the question is what became of the key.
pub(crate) const fn is_of_scrub(claim: Claim) -> bool {
    matches!(
        claim,
        Claim::RegionsWipedAndReadBack
            | Claim::RegistersCleared
            | Claim::Stopped
            | Claim::PrivatePagesOverwrittenAndReadBack
            | Claim::KilledByPidfd
            | Claim::ProcessGone
            | Claim::SecretPagesClearedOnFree
            | Claim::PagesClearedOnFree
            | Claim::MachineMemoryOverwritten
            | Claim::MemoryKeyDestroyed
    )
}
