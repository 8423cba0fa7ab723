//! What happens to a key once it is inside a worker, decided without doing any of it.
//!
//! [`Lifecycle`] is told what was observed and answers what to do next; at the end it says what a
//! receipt may claim. Each observation that a claim rests on is a value that only the observer can
//! make ([`Overwritten`], [`Gone`]), so nothing can be claimed by asking for it.
//!
//! ```text
//! Serving ──end asked──► Wiping ──wiped──► Overwriting ──overwritten──► Ending ──gone──► Over
//!    │                     │ no answer         │ failed                   ▲
//!    ├──wiped by itself────┼──────────────────►│                          │
//!    └──worker ended───────┴───────────────────┴──────────────────────────┘
//! ```

use evanesce_ledger::receipt::{
    Cause, Claim, Forced, ForcedEnd, KeyFate, Known, Observer, Scrub, ScrubMethod, ScrubStatement,
    Unproven,
};
use evanesce_protocol::KeyOrigin;
use evanesce_protocol::commitment::RequestCommitment;
use evanesce_protocol::control::{Backing, WipeCause, WipeReport};

use crate::machine::{Cleared, MachineEnd};
use crate::process::{EndStatus, Gone};
use crate::scrub::Overwritten;

/// Something that was observed of a worker with a key inside, or asked for.
#[derive(Debug)]
pub enum Event {
    /// The workload is to end, and why.
    EndAsked(Cause),
    /// The worker reports that it wiped everything.
    Wiped(WipeReport),
    /// The worker cannot be got to wipe: no answer in time, or none that makes sense.
    NotWiped(String),
    /// The worker was stopped, overwritten and read back.
    Overwritten(Overwritten),
    /// It could not be, and why.
    NotOverwritten(String),
    /// There is nothing to overwrite as long as it lives: it is in a machine, which goes with it.
    GoesWithMachine,
    /// The worker's process has ended, or its channel is closed.
    WorkerEnded,
    /// The worker's process was reaped.
    Gone(Gone),
    /// It could not be seen to be gone, and why.
    NotGone(String),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until something else is observed.
    Wait,
    /// Order the worker to wipe, and wait for its report.
    OrderWipe,
    /// Stop the worker and overwrite it from outside.
    Overwrite,
    /// Kill the worker and wait until it is gone.
    Kill,
    /// Wait until the worker, which ended by itself, is gone.
    Reap,
    /// Write the receipt: see [`Lifecycle::conclude`].
    Conclude,
}

/// One key's life from the moment it is inside its worker.
#[derive(Debug)]
pub struct Lifecycle {
    phase: Phase,
    /// Whether someone waits for the receipt.
    is_end_asked: bool,
    cause: Option<Cause>,
    wipe: Option<WipeReport>,
    overwritten: Option<Overwritten>,
    gone: Option<Gone>,
    /// Whether the worker was alive when it was killed.
    was_killed: bool,
    unproven: Vec<Unproven>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Wiping,
    Overwriting,
    Ending,
    Over,
}

impl Lifecycle {
    /// The life of a key that was just loaded.
    pub fn new() -> Self {
        Self {
            phase: Phase::Serving,
            is_end_asked: false,
            cause: None,
            wipe: None,
            overwritten: None,
            gone: None,
            was_killed: false,
            unproven: Vec::new(),
        }
    }

    /// The life of a key whose launcher was lost: all that is left is to see its worker gone.
    pub fn of_orphan() -> Self {
        Self {
            phase: Phase::Ending,
            is_end_asked: true,
            cause: Some(Cause::LauncherLost),
            ..Self::new()
        }
    }

    /// Takes note of an observation and says what to do. What does not fit the phase changes
    /// nothing.
    pub fn on(&mut self, event: Event) -> Action {
        match (self.phase, event) {
            (Phase::Serving, Event::EndAsked(cause)) => {
                self.is_end_asked = true;
                self.cause = Some(cause);
                self.go(Phase::Wiping, Action::OrderWipe)
            }
            (Phase::Serving, Event::Wiped(report)) => {
                self.cause = Some(cause_of(report.cause));
                self.wipe = Some(report);
                self.go(Phase::Overwriting, Action::Overwrite)
            }
            (Phase::Serving, Event::NotWiped(reason)) => {
                self.cause = Some(Cause::WorkerLost);
                self.doubt(Claim::RegionsWipedAndReadBack, reason);
                self.kill()
            }
            (Phase::Serving, Event::WorkerEnded) => {
                self.cause = Some(Cause::WorkerLost);
                self.go(Phase::Ending, Action::Reap)
            }
            (Phase::Wiping, Event::Wiped(report)) => {
                // It may have ended by itself just before it was asked to.
                if report.cause != WipeCause::Ordered {
                    self.cause = Some(cause_of(report.cause));
                }
                self.wipe = Some(report);
                self.go(Phase::Overwriting, Action::Overwrite)
            }
            (Phase::Wiping, Event::NotWiped(reason)) => {
                self.doubt(Claim::RegionsWipedAndReadBack, reason);
                self.kill()
            }
            (Phase::Overwriting, Event::Overwritten(overwritten)) => {
                self.overwritten = Some(overwritten);
                self.kill()
            }
            (Phase::Overwriting, Event::NotOverwritten(reason)) => {
                self.doubt(Claim::PrivatePagesOverwrittenAndReadBack, reason);
                self.kill()
            }
            (Phase::Overwriting, Event::GoesWithMachine) => self.kill(),
            (Phase::Wiping | Phase::Overwriting, Event::WorkerEnded) => {
                self.go(Phase::Ending, Action::Reap)
            }
            (Phase::Ending, Event::Gone(gone)) => {
                self.gone = Some(gone);
                self.over()
            }
            (Phase::Ending, Event::NotGone(reason)) => {
                self.doubt(Claim::ProcessGone, reason);
                self.over()
            }
            (Phase::Over, Event::EndAsked(cause)) => {
                self.is_end_asked = true;
                self.cause.get_or_insert(cause);
                Action::Conclude
            }
            (Phase::Overwriting | Phase::Ending, Event::EndAsked(_)) => {
                self.is_end_asked = true;
                Action::Wait
            }
            (
                Phase::Serving,
                Event::Overwritten(_) | Event::NotOverwritten(_) | Event::GoesWithMachine,
            )
            | (
                Phase::Wiping,
                Event::EndAsked(_)
                | Event::Overwritten(_)
                | Event::NotOverwritten(_)
                | Event::GoesWithMachine,
            )
            | (Phase::Overwriting, Event::Wiped(_) | Event::NotWiped(_))
            | (
                Phase::Serving | Phase::Wiping | Phase::Overwriting,
                Event::Gone(_) | Event::NotGone(_),
            )
            | (
                Phase::Ending,
                Event::Wiped(_)
                | Event::NotWiped(_)
                | Event::Overwritten(_)
                | Event::NotOverwritten(_)
                | Event::GoesWithMachine
                | Event::WorkerEnded,
            )
            | (
                Phase::Over,
                Event::Wiped(_)
                | Event::NotWiped(_)
                | Event::Overwritten(_)
                | Event::NotOverwritten(_)
                | Event::GoesWithMachine
                | Event::WorkerEnded
                | Event::Gone(_)
                | Event::NotGone(_),
            ) => Action::Wait,
        }
    }

    /// Whether the key may still sign.
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// Why the key ended, or is to end; `None` while nothing ends it.
    pub const fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Guarded ranges that the worker says it wiped, and the bytes in them.
    pub fn wiped(&self) -> Option<(u64, u64)> {
        let wipe = self.wipe.as_ref()?;
        Some((wipe.ranges.len() as u64, wipe.ranges.iter().map(|(_, bytes)| bytes).sum()))
    }

    /// What has become of the key, as far as was observed by now.
    pub fn fate(&self, facts: &Facts<'_>) -> KeyFate {
        match self.is_shown(facts) {
            true => KeyFate::shown(facts.origin),
            false => KeyFate::Unproven,
        }
    }

    /// Says what the receipt may claim. Whatever was not observed by now is not claimed.
    pub fn conclude(self, facts: &Facts<'_>) -> Verdict {
        let cleared = self.machine_cleared(facts);
        let method = match (&self.wipe, &self.overwritten, &self.gone) {
            (_, _, Some(_)) if cleared.is_some() => ScrubMethod::MachineOverwritten,
            (Some(_), Some(_), Some(_)) => ScrubMethod::WorkerWipedThenOverwritten,
            _ => ScrubMethod::Kernel,
        };
        let complete = self.wipe.as_ref().is_some_and(|wipe| {
            wipe.signatures == facts.journal.count() && wipe.commitment == facts.journal.value()
        });
        let fate = self.fate(facts);
        let (regions, bytes_wiped) = self.wiped().unwrap_or((0, 0));
        Verdict {
            cause: self.cause.unwrap_or(Cause::Failed),
            fate,
            complete,
            scrub: Scrub {
                method,
                statements: self.statements(facts),
                unproven: self.doubts(facts),
                regions,
                bytes_wiped,
                bytes_overwritten: self
                    .overwritten
                    .as_ref()
                    .map_or(cleared.map_or(0, Cleared::bytes), Overwritten::bytes),
                pages_absent: self.overwritten.as_ref().map_or(0, Overwritten::pages_absent),
                forced: Some(self.forced(facts.init_on_free)),
            },
        }
    }

    /// Whether the worker ended between two signatures, and what an end elsewhere leaves.
    fn forced(&self, kernel_clears: Known) -> ForcedEnd {
        let ended_by = self.gone.and_then(Gone::status);
        let happened = match (&self.wipe, self.was_killed, ended_by) {
            (Some(_), _, _) => Forced::No,
            (None, true, _) => Forced::DeadlinePassed,
            (None, false, Some(EndStatus::Signalled(_))) => Forced::BySignal,
            (None, false, Some(EndStatus::Exited(_)) | None) => Forced::Unseen,
        };
        let leaves = match (happened, kernel_clears) {
            (Forced::No, Known::Yes) => "nothing: the kernel clears pages as it frees them",
            (_, Known::Yes) => "nothing: the kernel cleared the pages as it freed them",
            (Forced::No, _) => {
                "a forced kill could have left the registers of a signature under way in freed \
                 kernel memory; this end was in order"
            }
            (_, _) => {
                "the registers of a signature under way may be left in freed kernel memory until \
                 it is used again"
            }
        };
        ForcedEnd { happened, kernel_clears, leaves: leaves.to_owned() }
    }

    /// Whether the key's pages can hold nothing more: the process is gone, and its pages were
    /// wiped, or are cleared by the kernel.
    fn is_shown(&self, facts: &Facts<'_>) -> bool {
        let is_cleared = self.wipe.is_some()
            || facts.backing == Backing::SecretPages
            || facts.init_on_free == Known::Yes
            || self.machine_cleared(facts).is_some();
        self.gone.is_some() && is_cleared
    }

    /// What was overwritten of the machine that the worker was in. Only a machine that is gone can
    /// have been.
    fn machine_cleared<'f>(&self, facts: &Facts<'f>) -> Option<&'f Cleared> {
        let machine = facts.machine.filter(|_| self.gone.is_some())?;
        machine.memory.as_ref().ok()
    }

    fn statements(&self, facts: &Facts<'_>) -> Vec<ScrubStatement> {
        let mut statements = facts.cage.to_vec();
        let mut state = |claim, observer, detail: String| {
            statements.push(ScrubStatement { claim, observer, detail });
        };
        if let Some(wipe) = &self.wipe {
            let (regions, bytes) = self.wiped().unwrap_or((0, 0));
            let detail = format!("{regions} ranges, {bytes} bytes");
            state(Claim::RegionsWipedAndReadBack, Observer::SelfReported, detail);
            let detail = format!("a public pattern, {}", wipe.registers);
            state(Claim::RegistersCleared, Observer::SelfReported, detail);
        }
        if let Some(overwritten) = &self.overwritten {
            state(Claim::Stopped, Observer::ObservedOutside, "waitid: stopped".into());
            let detail = format!(
                "{} bytes; {} pages absent; {} shared ranges left",
                overwritten.bytes(),
                overwritten.pages_absent(),
                overwritten.ranges_shared()
            );
            let claim = Claim::PrivatePagesOverwrittenAndReadBack;
            state(claim, Observer::ObservedOutside, detail);
        }
        if let Some(gone) = &self.gone {
            let killed = gone.status() == Some(EndStatus::Signalled(libc::SIGKILL));
            if self.was_killed && killed {
                let detail = "pidfd_send_signal: SIGKILL".to_owned();
                state(Claim::KilledByPidfd, Observer::ObservedOutside, detail);
            }
            state(Claim::ProcessGone, Observer::ObservedOutside, gone.to_string());
            if facts.backing == Backing::SecretPages {
                let detail = "memfd_secret(2) pages are cleared when freed".to_owned();
                state(Claim::SecretPagesClearedOnFree, Observer::RestsOnKernel, detail);
            }
            if facts.init_on_free == Known::Yes {
                let detail = "init_on_free=1".to_owned();
                state(Claim::PagesClearedOnFree, Observer::RestsOnKernel, detail);
            }
            if let Some(cleared) = self.machine_cleared(facts) {
                let detail = format!("{} bytes", cleared.bytes());
                let claim = Claim::MachineMemoryOverwritten;
                state(claim, Observer::ObservedOutside, detail);
            }
            if let Some(MachineEnd { enclave, .. }) = facts.machine
                && enclave.is_encrypted()
            {
                let detail = format!("{enclave}: the vendor's word; nothing here can measure it");
                state(Claim::MemoryKeyDestroyed, Observer::RestsOnPlatform, detail);
            }
        }
        statements
    }

    /// What was tried and failed, and what nobody was left to do.
    fn doubts(&self, facts: &Facts<'_>) -> Vec<Unproven> {
        let mut doubts = self.unproven.clone();
        let mut doubt = |claim, reason: &str| {
            if !doubts.iter().any(|known| known.claim == claim) {
                doubts.push(Unproven { claim, reason: reason.to_owned() });
            }
        };
        if self.wipe.is_none() {
            doubt(Claim::RegionsWipedAndReadBack, "the worker ended without a word");
            if facts.init_on_free != Known::Yes {
                let reason = "the kernel may keep registers that it saved when the worker ended";
                doubt(Claim::RegistersCleared, reason);
            }
        }
        match facts.machine.map(|machine| &machine.memory) {
            Some(Ok(_)) => {}
            Some(Err(reason)) => doubt(Claim::MachineMemoryOverwritten, reason),
            None if self.overwritten.is_none() => {
                doubt(Claim::PrivatePagesOverwrittenAndReadBack, "the worker had ended");
            }
            None => {}
        }
        if self.gone.is_none() {
            doubt(Claim::ProcessGone, "nobody saw it");
        }
        doubts
    }

    fn kill(&mut self) -> Action {
        self.was_killed = true;
        self.go(Phase::Ending, Action::Kill)
    }

    fn over(&mut self) -> Action {
        self.phase = Phase::Over;
        match self.is_end_asked {
            true => Action::Conclude,
            false => Action::Wait,
        }
    }

    fn go(&mut self, phase: Phase, action: Action) -> Action {
        self.phase = phase;
        action
    }

    fn doubt(&mut self, claim: Claim, reason: String) {
        self.unproven.push(Unproven { claim, reason });
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

/// What a verdict depends on besides the key's life.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The requests that the journal holds.
    pub journal: RequestCommitment,
    /// Where the key came from.
    pub origin: KeyOrigin,
    /// What memory the key was in.
    pub backing: Backing,
    /// Whether the kernel clears pages as it frees them.
    pub init_on_free: Known,
    /// What was found of the cage; empty where that is not known any more.
    pub cage: &'a [ScrubStatement],
    /// The end of the machine that the worker was in, where it was in one.
    pub machine: Option<&'a MachineEnd>,
}

/// What a receipt may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why the key ended.
    pub cause: Cause,
    /// What became of it.
    pub fate: KeyFate,
    /// Whether the worker's own count of signatures is the journal's.
    pub complete: bool,
    /// How its memory was cleared, and by whose word.
    pub scrub: Scrub,
}

const fn cause_of(cause: WipeCause) -> Cause {
    match cause {
        WipeCause::BudgetSpent => Cause::SignaturesSpent,
        WipeCause::TimeToLive => Cause::TimeToLive,
        WipeCause::KillSwitch => Cause::KillSwitch,
        WipeCause::Stopped => Cause::Operator,
        // Out of turn, or of a later version: nothing is made up about why.
        _ => Cause::WorkerLost,
    }
}

#[cfg(test)]
mod tests {
    use evanesce_machine::Enclave;
    use evanesce_protocol::{Digest, PublicKey};
    use proptest::prelude::*;

    use super::*;

    const KEY: PublicKey = PublicKey::from_bytes([7; 32]);

    fn journal() -> RequestCommitment {
        let mut journal = RequestCommitment::new(&KEY);
        journal.extend(&Digest::of(b"request"));
        journal
    }

    fn report(cause: WipeCause) -> WipeReport {
        WipeReport {
            cause,
            signatures: journal().count(),
            commitment: journal().value(),
            ranges: vec![("memory".into(), 4096)],
            registers: "avx2".into(),
        }
    }

    fn facts(backing: Backing) -> Facts<'static> {
        Facts {
            journal: journal(),
            origin: KeyOrigin::BornInside,
            backing,
            init_on_free: Known::No,
            cage: &[],
            machine: None,
        }
    }

    fn killed() -> Gone {
        Gone::of_test(EndStatus::Signalled(9))
    }

    fn claims(verdict: &Verdict) -> Vec<Claim> {
        verdict.scrub.statements.iter().map(|statement| statement.claim).collect()
    }

    #[test]
    fn a_wiped_overwritten_and_killed_worker_leaves_a_destroyed_key() {
        let mut life = Lifecycle::new();

        assert_eq!(life.on(Event::EndAsked(Cause::CommandEnded)), Action::OrderWipe);
        assert_eq!(life.on(Event::Wiped(report(WipeCause::Ordered))), Action::Overwrite);
        assert_eq!(life.on(Event::Overwritten(Overwritten::of_test())), Action::Kill);
        assert_eq!(life.on(Event::Gone(killed())), Action::Conclude);

        let verdict = life.conclude(&facts(Backing::SecretPages));
        assert_eq!(verdict.fate, KeyFate::Destroyed);
        assert_eq!(verdict.scrub.method, ScrubMethod::WorkerWipedThenOverwritten);
        assert_eq!((verdict.complete, verdict.cause), (true, Cause::CommandEnded));
        assert_eq!(verdict.scrub.unproven, []);
        assert!(claims(&verdict).contains(&Claim::KilledByPidfd));
    }

    #[test]
    fn a_worker_that_ends_by_itself_is_scrubbed_at_once_and_receipted_when_asked() {
        let mut life = Lifecycle::new();

        assert_eq!(life.on(Event::Wiped(report(WipeCause::TimeToLive))), Action::Overwrite);
        assert_eq!(life.on(Event::Overwritten(Overwritten::of_test())), Action::Kill);
        assert_eq!(life.on(Event::Gone(killed())), Action::Wait);
        assert_eq!(life.on(Event::EndAsked(Cause::CommandEnded)), Action::Conclude);

        assert_eq!(life.conclude(&facts(Backing::SecretPages)).cause, Cause::TimeToLive);
    }

    #[test]
    fn a_worker_killed_by_somebody_else_leaves_the_kernels_word_alone() {
        let mut life = Lifecycle::new();

        assert_eq!(life.on(Event::WorkerEnded), Action::Reap);
        assert_eq!(life.on(Event::Gone(killed())), Action::Wait);
        assert_eq!(life.on(Event::EndAsked(Cause::CommandEnded)), Action::Conclude);

        let verdict = life.conclude(&facts(Backing::SecretPages));
        assert_eq!((verdict.fate, verdict.complete), (KeyFate::Destroyed, false));
        assert_eq!(verdict.scrub.method, ScrubMethod::Kernel);
        assert_eq!(verdict.cause, Cause::WorkerLost);
        assert_eq!(claims(&verdict), [Claim::ProcessGone, Claim::SecretPagesClearedOnFree]);
        assert!(verdict.scrub.unproven.iter().any(|d| d.claim == Claim::RegistersCleared));
    }

    #[test]
    fn an_end_that_was_forced_is_told_from_one_in_order_and_says_what_rests_on_the_kernel() {
        let end = |events: Vec<Event>, init_on_free| {
            let mut life = Lifecycle::new();
            for event in events {
                life.on(event);
            }
            let facts = Facts { init_on_free, ..facts(Backing::SecretPages) };
            life.conclude(&facts).scrub.forced.unwrap()
        };
        let asked = || Event::EndAsked(Cause::CommandEnded);
        let wiped = || Event::Wiped(report(WipeCause::Ordered));
        let in_order = vec![asked(), wiped()];
        let too_late = vec![asked(), Event::NotWiped("no answer".into()), Event::Gone(killed())];
        let killed_outside = vec![Event::WorkerEnded, Event::Gone(killed())];
        let exited = Gone::of_test(EndStatus::Exited(0));
        let unseen = vec![Event::WorkerEnded, Event::Gone(exited)];

        for (events, happened) in [
            (in_order, Forced::No),
            (too_late, Forced::DeadlinePassed),
            (killed_outside, Forced::BySignal),
            (unseen, Forced::Unseen),
        ] {
            let forced = end(events, Known::No);
            assert_eq!((forced.happened, forced.kernel_clears), (happened, Known::No));
            assert!(forced.leaves.contains("registers of a signature"), "{forced:?}");
        }
        let forced = end(vec![asked(), wiped()], Known::Unknown);
        assert!(forced.leaves.contains("could have left"), "{forced:?}");
        let forced = end(vec![Event::WorkerEnded, Event::Gone(killed())], Known::Yes);
        assert!(forced.leaves.starts_with("nothing:"), "{forced:?}");
    }

    fn machine(enclave: Enclave, cleared: bool) -> MachineEnd {
        let memory = if cleared { Ok(Cleared::of_test()) } else { Err("no write".to_owned()) };
        MachineEnd { enclave, memory }
    }

    #[test]
    fn a_machine_that_was_killed_from_outside_leaves_nothing_once_its_memory_is_overwritten() {
        let end = |machine: &MachineEnd| {
            let mut life = Lifecycle::new();
            assert_eq!(life.on(Event::WorkerEnded), Action::Reap);
            assert_eq!(life.on(Event::Gone(killed())), Action::Wait);
            assert_eq!(life.on(Event::EndAsked(Cause::CommandEnded)), Action::Conclude);
            life.conclude(&Facts { machine: Some(machine), ..facts(Backing::LockedPages) })
        };

        let verdict = end(&machine(Enclave::Vm, true));
        assert_eq!(verdict.fate, KeyFate::Destroyed);
        assert_eq!(verdict.scrub.method, ScrubMethod::MachineOverwritten);
        assert_eq!(claims(&verdict), [Claim::ProcessGone, Claim::MachineMemoryOverwritten]);

        let verdict = end(&machine(Enclave::Vm, false));
        assert_eq!(verdict.fate, KeyFate::Unproven);
        let doubted = verdict.scrub.unproven.iter().map(|doubt| doubt.claim);
        assert!(doubted.into_iter().any(|claim| claim == Claim::MachineMemoryOverwritten));
    }

    #[test]
    fn what_the_platform_does_with_its_key_is_the_vendors_word() {
        let mut life = Lifecycle::new();
        life.on(Event::EndAsked(Cause::CommandEnded));
        assert_eq!(life.on(Event::Wiped(report(WipeCause::Ordered))), Action::Overwrite);
        assert_eq!(life.on(Event::GoesWithMachine), Action::Kill);
        life.on(Event::Gone(killed()));
        let machine = machine(Enclave::Snp, true);

        let verdict =
            life.conclude(&Facts { machine: Some(&machine), ..facts(Backing::LockedPages) });

        let of_platform =
            |statement: &&ScrubStatement| statement.claim == Claim::MemoryKeyDestroyed;
        let statement = verdict.scrub.statements.iter().find(of_platform).unwrap();
        assert_eq!(statement.observer, Observer::RestsOnPlatform);
        assert_eq!((verdict.scrub.unproven, verdict.complete), (vec![], true));
    }

    #[test]
    fn a_machine_that_was_not_seen_to_be_gone_was_not_overwritten() {
        let mut life = Lifecycle::new();
        life.on(Event::EndAsked(Cause::CommandEnded));
        life.on(Event::NotWiped("no answer".into()));
        life.on(Event::NotGone("no end in time".into()));
        let machine = machine(Enclave::Vm, true);

        let verdict =
            life.conclude(&Facts { machine: Some(&machine), ..facts(Backing::LockedPages) });

        assert_eq!(verdict.fate, KeyFate::Unproven);
        assert_eq!(verdict.scrub.method, ScrubMethod::Kernel);
        assert!(!claims(&verdict).contains(&Claim::MachineMemoryOverwritten));
    }

    #[test]
    fn a_worker_that_was_told_to_stop_is_the_operators_end() {
        let mut life = Lifecycle::new();

        assert_eq!(life.on(Event::Wiped(report(WipeCause::Stopped))), Action::Overwrite);

        assert_eq!(life.conclude(&facts(Backing::SecretPages)).cause, Cause::Operator);
    }

    #[test]
    fn locked_pages_that_nobody_wiped_are_unproven_unless_the_kernel_clears_all_pages() {
        let end = |init_on_free| {
            let mut life = Lifecycle::of_orphan();
            assert_eq!(life.on(Event::Gone(killed())), Action::Conclude);
            life.conclude(&Facts { init_on_free, ..facts(Backing::LockedPages) }).fate
        };

        assert_eq!(end(Known::No), KeyFate::Unproven);
        assert_eq!(end(Known::Unknown), KeyFate::Unproven);
        assert_eq!(end(Known::Yes), KeyFate::Destroyed);
    }

    #[test]
    fn a_worker_whose_count_differs_from_the_journal_is_not_called_complete() {
        for change in [
            |report: &mut WipeReport| report.signatures += 1,
            |report: &mut WipeReport| report.commitment = Digest::of(b"other"),
        ] {
            let mut wrong = report(WipeCause::Ordered);
            change(&mut wrong);
            let mut life = Lifecycle::new();
            life.on(Event::EndAsked(Cause::CommandEnded));
            life.on(Event::Wiped(wrong));

            assert!(!life.conclude(&facts(Backing::SecretPages)).complete);
        }
    }

    /// An event as a test can make it many times.
    #[derive(Clone, Copy, Debug)]
    enum Given {
        EndAsked,
        Wiped,
        WipedWrongly,
        NotWiped,
        Overwritten,
        NotOverwritten,
        WorkerEnded,
        Gone,
        NotGone,
    }

    impl Given {
        fn event(self) -> Event {
            match self {
                Self::EndAsked => Event::EndAsked(Cause::CommandEnded),
                Self::Wiped => Event::Wiped(report(WipeCause::Ordered)),
                Self::WipedWrongly => {
                    Event::Wiped(WipeReport { signatures: 9, ..report(WipeCause::Ordered) })
                }
                Self::NotWiped => Event::NotWiped("no answer".into()),
                Self::Overwritten => Event::Overwritten(Overwritten::of_test()),
                Self::NotOverwritten => Event::NotOverwritten("refused".into()),
                Self::WorkerEnded => Event::WorkerEnded,
                Self::Gone => Event::Gone(killed()),
                Self::NotGone => Event::NotGone("no end in time".into()),
            }
        }
    }

    fn any_given() -> impl Strategy<Value = Given> {
        prop::sample::select(vec![
            Given::EndAsked,
            Given::Wiped,
            Given::WipedWrongly,
            Given::NotWiped,
            Given::Overwritten,
            Given::NotOverwritten,
            Given::WorkerEnded,
            Given::Gone,
            Given::NotGone,
        ])
    }

    proptest! {
        /// Whatever happens in whatever order, the life comes to one conclusion once its orders are
        /// carried out, and claims nothing that did not happen after what it rests on.
        #[test]
        fn no_order_of_events_leads_to_a_claim_that_was_not_observed(
            noise in prop::collection::vec(any_given(), 0..12),
            backing in prop::sample::select(vec![Backing::SecretPages, Backing::LockedPages]),
        ) {
            let mut life = Lifecycle::new();
            let mut log = Vec::new();
            // Whatever is still owed after the noise is tried, and none of it works. A caller
            // concludes when it is told to, and tells the machine no more.
            let owed = [Given::EndAsked, Given::NotWiped, Given::NotOverwritten, Given::NotGone];
            let concluded = noise.into_iter().chain(owed).any(|given| {
                log.push(given);
                life.on(given.event()) == Action::Conclude
            });
            prop_assert!(concluded, "{:?}", log);

            let facts = facts(backing);
            let verdict = life.conclude(&facts);
            let happened = |wanted: fn(&Given) -> bool| log.iter().position(wanted);
            let wiped = happened(|g| matches!(g, Given::Wiped | Given::WipedWrongly));
            let overwritten = happened(|g| matches!(g, Given::Overwritten));
            let gone = happened(|g| matches!(g, Given::Gone));
            let claimed = claims(&verdict);
            if claimed.contains(&Claim::RegionsWipedAndReadBack) {
                prop_assert!(wiped.is_some());
            }
            if claimed.contains(&Claim::PrivatePagesOverwrittenAndReadBack) {
                prop_assert!(overwritten.is_some());
            }
            if claimed.contains(&Claim::ProcessGone) {
                prop_assert!(gone.is_some());
            }
            if verdict.scrub.method == ScrubMethod::WorkerWipedThenOverwritten {
                prop_assert!(wiped.is_some() && overwritten.is_some() && gone.is_some());
            }
            if verdict.complete {
                prop_assert!(happened(|g| matches!(g, Given::Wiped)).is_some());
            }
            if verdict.fate != KeyFate::Unproven {
                prop_assert!(gone.is_some());
                prop_assert!(wiped.is_some() || backing == Backing::SecretPages);
            }
        }
    }
}
