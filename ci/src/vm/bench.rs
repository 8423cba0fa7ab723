//! One booted guest, its keys, and what was found in it so far.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding as _};
use evanesce_residue::unwatched;
use serde_json::Value;

use super::VmReport;
use super::error::VmError;
use super::image::Image;
use super::machine::{Boot, Machine, Store};
use super::payload::{Key, Programs};
use super::row::{Expected, Row};

/// A guest in which cases are run one after the other, each with keys of its own.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) machine: Machine,
    pub(crate) init_on_free: bool,
    /// `evanesce` with replaceable roots, on the host.
    pub(crate) appraiser: PathBuf,
    keys: Vec<Key>,
    rows: Vec<Row>,
    /// What was shown that is no row.
    shown: Vec<String>,
    /// What was not as it has to be: receipts that say something else than what happened.
    faults: Vec<String>,
}

/// A workload that runs in the guest.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) id: String,
    pub(crate) key: Key,
    pub(crate) launcher: u32,
    pub(crate) worker: u32,
    pub(crate) command: u32,
}

impl Bench {
    /// Boots a guest.
    pub(crate) fn boot(image: &Image, programs: &Programs, boot: Boot) -> Result<Self, VmError> {
        let (machine, keys) = Machine::boot(image, programs, boot)?;
        let init_on_free = boot.init_on_free;
        let appraiser = programs.appraiser.clone();
        let mut bench = Self {
            machine,
            init_on_free,
            appraiser,
            keys,
            rows: Vec::new(),
            shown: Vec::new(),
            faults: Vec::new(),
        };
        // A program of a newer C library would say something hard to read later.
        bench.machine.guest.output(&[EVANESCE, "--version"])?;
        bench.machine.guest.output(&[EVANESCE, "notary", "init"])?;
        Ok(bench)
    }

    /// What was found.
    pub(crate) fn into_results(self) -> VmReport {
        VmReport { rows: self.rows, shown: self.shown, faults: self.faults }
    }

    /// An error with what the kernel said before it.
    pub(crate) fn explain(&self, error: VmError) -> VmError {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        let what = format!("{error}{}", cause.unwrap_or_default());
        VmError::Machine { what, console: self.machine.console() }
    }

    /// A key that no case had before.
    pub(crate) fn key(&mut self) -> Key {
        self.keys.pop().expect("a payload has keys for all cases of its guest")
    }

    /// Starts a workload that has signed `count` times when this returns, or, where that is zero,
    /// signs for ever.
    pub(crate) fn start(&mut self, id: &str, count: u32) -> Result<Workload, VmError> {
        let key = self.key();
        let (path, count) = (self.unmask(&key)?, count.to_string());
        let argv = [RUN, &[id, "--key", &path, "--", GUEST, "sign", &path, &count]].concat();
        let (launcher, line) = self.machine.guest.start(id, &argv)?;
        self.workload(id, key, launcher, &line)
    }

    /// As [`Bench::start`], as a unit of systemd with the workload's id for its name, that signs for
    /// ever.
    pub(crate) fn start_as_unit(&mut self, id: &str) -> Result<Workload, VmError> {
        let key = self.key();
        let path = self.unmask(&key)?;
        let (unit, said) = (format!("--unit={id}"), format!("/run/{id}.said"));
        let output = format!("--property=StandardOutput=file:{said}");
        let limit = "--property=LimitMEMLOCK=8M";
        let systemd = ["/usr/bin/systemd-run", "--quiet", "--collect", &unit, &output, limit, "--"];
        let argv = [&systemd, RUN, &[id, "--key", &path, "--", GUEST, "sign", &path, "0"]].concat();
        self.machine.guest.output(&argv)?;
        let line = self.await_text(&said)?;
        let show = ["/usr/bin/systemctl", "show", "--property=MainPID", "--value", id];
        let launcher = number(&self.machine.guest.output(&show)?)?;
        self.workload(id, key, launcher, &line)
    }

    /// Searches stores of a machine that stands still. With `Disk`, everything is written out
    /// first.
    pub(crate) fn look(
        &mut self,
        name: (&'static str, &'static str),
        keys: &[&Key],
        wanted: &[(Store, Expected)],
    ) -> Result<(), VmError> {
        if wanted.iter().any(|(store, _)| *store == Store::Disk) {
            self.machine.guest.sync()?;
        }
        let init_on_free = self.init_on_free;
        let rows = self.machine.frozen(|machine| {
            wanted
                .iter()
                .map(|wanted| row(name, *wanted, init_on_free, keys, &machine.path(wanted.0)))
                .collect::<Result<Vec<_>, _>>()
        })?;
        self.rows.extend(rows);
        Ok(())
    }

    /// Searches a machine that does not move any more.
    pub(crate) fn look_at_remains(
        &mut self,
        name: (&'static str, &'static str),
        keys: &[&Key],
        wanted: &[(Store, Expected)],
    ) -> Result<(), VmError> {
        for wanted in wanted {
            let path = self.machine.path(wanted.0);
            self.rows.push(row(name, *wanted, self.init_on_free, keys, &path)?);
        }
        Ok(())
    }

    /// Searches a snapshot of the machine that its host takes.
    pub(crate) fn look_at_snapshot(
        &mut self,
        name: (&'static str, &'static str),
        keys: &[&Key],
        expected: Expected,
    ) -> Result<(), VmError> {
        let init_on_free = self.init_on_free;
        let row = self
            .machine
            .snapshot(|file| row(name, (Store::Dump, expected), init_on_free, keys, file))?;
        self.rows.push(row);
        Ok(())
    }

    /// Holds the receipt of a workload to how its key ended.
    pub(crate) fn check_receipt(&mut self, id: &str, method: &str) -> Result<Value, VmError> {
        let audit = [EVANESCE, "audit", "receipt", id, "--format", "json"];
        let envelope = self.machine.guest.output(&audit)?;
        let receipt =
            predicate(&envelope).ok_or_else(|| VmError::Unexpected { what: envelope.clone() })?;
        let said = &receipt["scrub"]["method"];
        if said != method {
            self.fault(format!("the receipt of {id} says {said} and not {method}"));
        }
        let host = if self.init_on_free { "yes" } else { "no" };
        if receipt["host"]["init_on_free"] != host {
            self.fault(format!("the receipt of {id} says another init_on_free than {host}"));
        }
        if receipt["key"]["fate"] != "this-copy-destroyed" {
            self.fault(format!("the receipt of {id} says {}", receipt["key"]["fate"]));
        }
        Ok(receipt)
    }

    /// Loads modules of the guest's kernel, each after those that it needs.
    pub(crate) fn load(&mut self, modules: &[&str]) -> Result<(), VmError> {
        for module in modules {
            let file = format!("/payload/modules/{module}.ko");
            self.machine.guest.output(&["/sbin/insmod", &file])?;
        }
        Ok(())
    }

    /// Unloads them.
    pub(crate) fn unload(&mut self, modules: &[&str]) -> Result<(), VmError> {
        for module in modules {
            self.machine.guest.output(&["/sbin/rmmod", module])?;
        }
        Ok(())
    }

    /// Records that something was as it has to be.
    pub(crate) fn show(&mut self, what: String) {
        self.shown.push(what);
    }

    /// Records that something was not as it has to be.
    pub(crate) fn fault(&mut self, what: String) {
        let setting = u8::from(self.init_on_free);
        self.faults.push(format!("init_on_free={setting}: {what}"));
    }

    /// Waits for a file with a whole line in it.
    pub(crate) fn await_text(&mut self, path: &str) -> Result<String, VmError> {
        let deadline = Instant::now() + START;
        loop {
            match self.machine.guest.read(path) {
                Ok(text) if text.ends_with('\n') => return Ok(text),
                Err(error @ VmError::Guest { .. }) if Instant::now() > deadline => {
                    return Err(error);
                }
                Ok(_) if Instant::now() > deadline => {
                    return Err(VmError::Unexpected { what: format!("nothing in {path}") });
                }
                Ok(_) | Err(VmError::Guest { .. }) => pause(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until a process that is not ours to wait for is gone.
    pub(crate) fn await_end(&mut self, pid: u32) -> Result<(), VmError> {
        let deadline = Instant::now() + START;
        while self.machine.guest.read(&format!("/proc/{pid}/stat")).is_ok() {
            if Instant::now() > deadline {
                return Err(VmError::Unexpected { what: format!("process {pid} goes on") });
            }
            pause();
        }
        Ok(())
    }

    fn unmask(&mut self, key: &Key) -> Result<String, VmError> {
        let path = format!("/keys/{}", key.index);
        self.machine.guest.unmask(key.masked(), path.clone())?;
        Ok(path)
    }

    /// A workload whose command said `line` and its process id.
    fn workload(
        &mut self,
        id: &str,
        key: Key,
        launcher: u32,
        line: &str,
    ) -> Result<Workload, VmError> {
        let command = number(line.rsplit(' ').next().unwrap_or_default())?;
        let children = format!("/proc/{launcher}/task/{launcher}/children");
        let children = self.machine.guest.read(&children)?;
        let others: Vec<u32> = children
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
            .filter(|child| *child != command)
            .collect();
        match others[..] {
            [worker] => Ok(Workload { id: id.to_owned(), key, launcher, worker, command }),
            _ => Err(VmError::Unexpected { what: format!("children of the launcher: {others:?}") }),
        }
    }
}

fn row(
    name: (&'static str, &'static str),
    wanted: (Store, Expected),
    init_on_free: bool,
    keys: &[&Key],
    path: &Path,
) -> Result<Row, VmError> {
    let reports = keys
        .iter()
        .map(|key| Ok(key.scanner().scan_path(path, &mut unwatched())?))
        .collect::<Result<Vec<_>, VmError>>()?;
    Ok(Row::new(name, wanted, init_on_free, &reports))
}

/// What an envelope's statement says.
fn predicate(envelope: &str) -> Option<Value> {
    let envelope: Value = serde_json::from_str(envelope).ok()?;
    let payload = Base64::decode_vec(envelope["payload"].as_str()?).ok()?;
    let mut statement: Value = serde_json::from_slice(&payload).ok()?;
    Some(statement["predicate"].take())
}

fn number(text: &str) -> Result<u32, VmError> {
    text.trim().parse().map_err(|_| VmError::Unexpected { what: text.to_owned() })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file in the guest tells nobody when it is written"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(200));
}

/// The programs in the guest.
pub(crate) const EVANESCE: &str = "/payload/evanesce";
pub(crate) const GUEST: &str = "/payload/evanesce-guest";

const RUN: &[&str] = &[EVANESCE, "run", "--quiet", "--workload-id"];

const START: Duration = Duration::from_secs(180);
