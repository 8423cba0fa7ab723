//! Which unit of systemd a process is in, by its control group.

use serde::{Deserialize, Serialize};

/// A unit that an operator or an administrator started this process in: `systemd-run`, a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnUnit {
    /// Its name: `run-r1f….scope`, `release.service`.
    pub name: String,
}

impl OwnUnit {
    /// Reads `/proc/PID/cgroup` (cgroups(7)). Sessions of users and what systemd itself runs in are
    /// nobody's choice and so no unit of this kind.
    pub fn of_cgroups(text: &str) -> Option<Self> {
        let name = systemd_paths(text).find_map(innermost_unit)?;
        let is_chosen = name != "init.scope"
            && !(name.starts_with("session-") && name.ends_with(".scope"))
            && !name.starts_with("user@");
        is_chosen.then(|| Self { name: name.to_owned() })
    }
}

/// Whether a process is in a unit, by its `/proc/PID/cgroup`.
pub fn is_in_unit(cgroups: &str, unit: &str) -> bool {
    systemd_paths(cgroups).any(|path| path.split('/').any(|part| part == unit))
}

/// The control groups in the hierarchies that a systemd may manage: the unified one, and the one of
/// its name, which may be that of a systemd outside of a container.
fn systemd_paths(text: &str) -> impl Iterator<Item = &str> {
    ["", "name=systemd"].into_iter().filter_map(move |wanted| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            (controllers == wanted).then_some(path)
        })
    })
}

fn innermost_unit(path: &str) -> Option<&str> {
    let is_unit = |part: &&str| {
        let suffixes = [".service", ".scope"];
        suffixes.iter().any(|suffix| part.len() > suffix.len() && part.ends_with(suffix))
    };
    path.split('/').rev().find(is_unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(cgroups: &str) -> Option<String> {
        OwnUnit::of_cgroups(cgroups).map(|unit| unit.name)
    }

    #[test]
    fn the_innermost_unit_that_somebody_chose_is_named() {
        for (cgroups, unit) in [
            ("0::/system.slice/run-r12ab.scope\n", Some("run-r12ab.scope")),
            ("0::/system.slice/release.service/inner\n", Some("release.service")),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-u7.service\n",
                Some("run-u7.service"),
            ),
            ("12:memory:/\n1:name=systemd:/system.slice/a.service\n0::/\n", Some("a.service")),
            ("9:name=systemd:/\n0::/system.slice/b.service\n", Some("b.service")),
            ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice\n", None),
            ("0::/init.scope\n", None),
            ("0::/\n", None),
            ("", None),
            ("0::/.service\n", None),
        ] {
            assert_eq!(name(cgroups).as_deref(), unit, "{cgroups}");
        }
    }

    #[test]
    fn a_process_is_in_a_unit_only_where_a_whole_name_says_so() {
        let cgroups = "0::/system.slice/evanesce-w.service\n";

        assert!(is_in_unit(cgroups, "evanesce-w.service"));
        assert!(!is_in_unit(cgroups, "w.service"));
        assert!(!is_in_unit("", "w.service"));
    }
}
