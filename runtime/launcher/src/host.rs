//! What the host itself promises, by the checks of `doctor`: asked here, judged in
//! `evanesce-posture`.

use std::collections::BTreeMap;
use std::io;

use evanesce_ledger::receipt::{Claim, Graded, HostFacts, Known, ScrubStatement, Swap};
use evanesce_posture::{CageTrial, Facts, Files, Host, LocalFiles, SwapUse, examine, grade};

/// How far this host keeps each promise to a key whose worker's cage was found to hold by `cage`;
/// where that is empty, it is not known any more.
pub(crate) fn grades(cage: &[ScrubStatement]) -> Vec<Graded> {
    let refused = |code: &str, message: &str| CageTrial::Refused {
        code: code.to_owned(),
        message: message.to_owned(),
    };
    let is_in_machine = cage.iter().any(|statement| statement.claim == Claim::OwnMachine);
    let trial = match (cage.is_empty(), is_in_machine) {
        (true, _) => refused("launcher.lost", "what was found of the cage is lost"),
        (_, true) => refused("machine", "its cage is in a machine, whose memory this host has"),
        (false, false) => CageTrial::Holds(cage.iter().map(named).collect()),
    };
    grade::grade(&examine(&ThisHost { trial }, &grade::checks_of_grades()))
}

/// Reads the facts that a receipt states; what cannot be read is unknown.
pub(crate) fn facts() -> HostFacts {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let Facts { init_on_free, swap, core_pattern, kdump, hibernation } = Facts::of(&LocalFiles);
    HostFacts {
        kernel,
        init_on_free: known(init_on_free),
        swap: match swap {
            SwapUse::None => Swap::None,
            SwapUse::Encrypted => Swap::Encrypted,
            SwapUse::Plain => Swap::Plain,
            SwapUse::Unknown => Swap::Unknown,
        },
        core_pattern,
        kdump: known(kdump),
        hibernation: known(hibernation),
        other: BTreeMap::new(),
    }
}

const fn known(fact: Option<bool>) -> Known {
    match fact {
        Some(true) => Known::Yes,
        Some(false) => Known::No,
        None => Known::Unknown,
    }
}

/// The host that this process runs on, and a cage on it.
struct ThisHost {
    trial: CageTrial,
}

impl Files for ThisHost {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        LocalFiles.read(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        LocalFiles.list(path)
    }
}

impl Host for ThisHost {
    fn try_cage(&self) -> &CageTrial {
        &self.trial
    }
}

/// A claim by its stable name, with what was seen.
fn named(statement: &ScrubStatement) -> (String, String) {
    let name = serde_json::to_value(statement.claim).ok();
    let name = name.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    (name, statement.detail.clone())
}

#[cfg(test)]
mod tests {
    use evanesce_ledger::receipt::Grade;

    use super::*;

    #[test]
    fn a_cage_that_is_not_known_any_more_makes_no_promise() {
        let grades = grades(&[]);

        assert!(grades[..2].iter().all(|graded| graded.grade == Grade::Open), "{grades:?}");
    }
}
