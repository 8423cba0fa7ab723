//! The conversation with systemd over D-Bus, and nothing else: what is asked is in [`super::unit`],
//! what it means in [`super::readback`].

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::process::geteuid;
use zbus::blocking::Connection;
use zbus::blocking::connection::Builder;
use zbus::message::Body;
use zbus::zvariant::{self, DynamicType, OwnedValue};

use super::choice::Surroundings;
use super::placement;
use super::readback::{self, Apartness, Seen, SwapLimit, UnitFaults};
use super::unit::{UnitPlan, Value};
use super::worker_file::{self, WorkerFileError};
use crate::process::{EndStatus, Gone, HeldProcess, is_readable_within};
use crate::worker_image::WorkerImage;
use evanesce_ledger::receipt::ScrubStatement;
use evanesce_protocol::Digest;

/// Looks at what there is of systemd, without asking it anything.
pub(crate) fn surroundings() -> Surroundings {
    Surroundings {
        is_booted_by_systemd: Path::new(BOOTED).is_dir(),
        has_bus: Path::new(BUS_SOCKET).exists(),
        is_root: geteuid().is_root(),
    }
}

/// A connection to the system's systemd, on its way.
pub(crate) struct Connecting {
    connection: mpsc::Receiver<zbus::Result<Connection>>,
}

impl Connecting {
    /// Begins to connect, where there is a systemd that would do what it is asked.
    pub(crate) fn begin() -> Result<Self, SystemdError> {
        let here = surroundings();
        if !here.is_booted_by_systemd {
            return Err(SystemdError::None);
        }
        if !here.is_root {
            return Err(SystemdError::NotRoot);
        }
        if !here.has_bus {
            return Err(SystemdError::NoBus);
        }
        let (sender, connection) = mpsc::sync_channel(1);
        // A thread, because connecting has no deadline of its own.
        thread::Builder::new()
            .name("dbus".to_owned())
            .spawn(move || {
                let connect = || Builder::address(ADDRESS)?.method_timeout(CALL_TIMEOUT).build();
                // Nobody may be left to be told.
                sender.send(connect()).ok();
            })
            .map_err(|source| SystemdError::Bus(zbus::Error::InputOutput(source.into()).into()))?;
        Ok(Self { connection })
    }

    fn finish(self) -> Result<Connection, SystemdError> {
        match self.connection.recv_timeout(CALL_TIMEOUT) {
            Ok(connected) => connected.map_err(|error| SystemdError::Bus(Box::new(error))),
            Err(_) => Err(SystemdError::NoAnswer { step: "connecting" }),
        }
    }
}

/// A transient unit that was asked for. systemd keeps it until its end was seen or the launcher ends.
#[derive(Debug)]
pub(crate) struct Unit {
    connection: Connection,
    plan: UnitPlan,
    path: String,
}

impl Unit {
    /// Asks systemd to start the unit, with `control` as its worker's standard input. Does not wait
    /// for the worker.
    pub(crate) fn start(
        connecting: Connecting,
        plan: UnitPlan,
        control: OwnedFd,
    ) -> Result<Self, SystemdError> {
        let connection = connecting.finish()?;
        let name = plan.name();
        let mut properties: Vec<(&str, zvariant::Value<'_>)> =
            plan.settings().into_iter().map(|s| (s.name, to_variant(s.value))).collect();
        let control = zvariant::Fd::from(control);
        properties.push(("StandardInputFileDescriptor", zvariant::Value::Fd(control)));
        // Kept until its end was asked about.
        properties.push(("AddRef", true.into()));
        let none: Vec<(&str, Vec<(&str, zvariant::Value<'_>)>)> = Vec::new();
        let unit = Self { connection, path: object_path(&name), plan };
        unit.call(MANAGER_PATH, MANAGER, "StartTransientUnit", &(&name, "fail", properties, none))?;
        Ok(unit)
    }

    /// The unit's name.
    pub(crate) fn name(&self) -> String {
        self.plan.name()
    }

    /// Takes hold of the worker's process, once it has something to say on `control`. Looking at
    /// the unit meanwhile would keep systemd from starting it; that it failed is told by it alone.
    pub(crate) fn process(&self, control: BorrowedFd<'_>) -> Result<HeldProcess, SystemdError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let fail = |source: io::Error| {
            SystemdError::Bus(Box::new(zbus::Error::InputOutput(source.into())))
        };
        while !is_readable_within(control, LOOK_AT_UNIT).map_err(fail)? {
            // A unit is inactive before its start as well, but has not become so.
            if self.number(UNIT, "InactiveEnterTimestampMonotonic")? != 0 {
                return Err(self.not_started());
            }
            if Instant::now() > deadline {
                return Err(SystemdError::NoAnswer { step: "starting the worker" });
            }
        }
        let pid = u32::try_from(self.number(SERVICE, "MainPID")?);
        let pid = pid.map_err(|_| self.unexpected("MainPID"))?;
        if pid == 0 {
            return Err(self.not_started());
        }
        let hidden = |source| SystemdError::Hidden { unit: self.name(), pid, source };
        let process = HeldProcess::adopt(pid).map_err(hidden);
        // Before it is held, and so before it could be killed: in another PID namespace the number
        // is somebody else's.
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(hidden)?;
        match placement::is_in_unit(&cgroups, &self.name()) {
            true => process,
            false => {
                process.map(HeldProcess::let_go).ok();
                Err(hidden(io::ErrorKind::NotFound.into()))
            }
        }
    }

    /// Reads everything back and decides whether it is what was asked for.
    pub(crate) fn check(&self, pid: u32) -> Result<Vec<ScrubStatement>, SystemdError> {
        let hidden = |source| SystemdError::Hidden { unit: self.name(), pid, source };
        let found = worker_file::digest_of_process(pid).map_err(hidden)?;
        if found != WorkerImage::digest() {
            let expected = WorkerImage::digest();
            return Err(SystemdError::OtherWorker { unit: self.name(), expected, found });
        }
        let mut properties = self.properties(UNIT)?;
        properties.extend(self.properties(SERVICE)?);
        let seen = observe(pid, properties).map_err(hidden)?;
        Ok(readback::check(&self.plan, &seen)?)
    }

    /// Says, of a worker that is gone, what systemd saw of its end, and has systemd forget the unit.
    pub(crate) fn see_end(&self, gone: Gone) -> Gone {
        let deadline = Instant::now() + END_TIMEOUT;
        let mut seen = None;
        while seen.is_none() && Instant::now() < deadline {
            match self.main_status() {
                Ok(Some(status)) => seen = Some(status),
                Ok(None) => pause(LOOK_AGAIN),
                Err(_) => break,
            }
        }
        // What could not be asked for happens by itself when the connection closes.
        self.call(MANAGER_PATH, MANAGER, "UnrefUnit", &(self.name(),)).ok();
        match seen {
            Some(status) => gone.told_by_systemd(status),
            None => gone,
        }
    }

    /// Waits until systemd has forgotten the unit of a worker that is gone: its name may be used
    /// again.
    pub(crate) fn release(self) {
        let deadline = Instant::now() + END_TIMEOUT;
        while Instant::now() < deadline
            && self.call(MANAGER_PATH, MANAGER, "GetUnit", &(self.name(),)).is_ok()
        {
            pause(LOOK_AGAIN);
        }
    }

    /// How the main process ended: `ExecMainCode` is `si_code` of waitid(2).
    fn main_status(&self) -> Result<Option<EndStatus>, SystemdError> {
        let code = self.number(SERVICE, "ExecMainCode")?;
        let status = self.number(SERVICE, "ExecMainStatus")?;
        let status = i32::try_from(status).map_err(|_| self.unexpected("ExecMainStatus"))?;
        Ok(match code {
            0 => None,
            CLD_EXITED => Some(EndStatus::Exited(status)),
            _ => Some(EndStatus::Signalled(status)),
        })
    }

    fn not_started(&self) -> SystemdError {
        let result = self.text(SERVICE, "Result").unwrap_or_else(|_| "unknown".to_owned());
        let status = self.main_status().ok().flatten();
        SystemdError::NotStarted {
            unit: self.name(),
            result: match status {
                Some(status) => format!("{result}, {status}"),
                None => result,
            },
        }
    }

    fn number(&self, interface: &str, property: &str) -> Result<u64, SystemdError> {
        let value = self.property(interface, property)?;
        match &*value {
            zvariant::Value::U64(number) => Ok(*number),
            zvariant::Value::U32(number) => Ok((*number).into()),
            zvariant::Value::I32(number) => {
                u64::try_from(*number).map_err(|_| self.unexpected(property))
            }
            _ => Err(self.unexpected(property)),
        }
    }

    fn text(&self, interface: &str, property: &str) -> Result<String, SystemdError> {
        let value = self.property(interface, property)?;
        match &*value {
            zvariant::Value::Str(text) => Ok(text.as_str().to_owned()),
            _ => Err(self.unexpected(property)),
        }
    }

    fn property(&self, interface: &str, property: &str) -> Result<OwnedValue, SystemdError> {
        let body = self.call(&self.path, PROPERTIES, "Get", &(interface, property))?;
        body.deserialize::<OwnedValue>().map_err(|_| self.unexpected(property))
    }

    fn properties(&self, interface: &str) -> Result<BTreeMap<String, Value>, SystemdError> {
        let body = self.call(&self.path, PROPERTIES, "GetAll", &(interface,))?;
        let all: HashMap<String, OwnedValue> =
            body.deserialize().map_err(|_| self.unexpected("GetAll"))?;
        let known = |(name, value): (String, OwnedValue)| Some((name, from_variant(&value)?));
        Ok(all.into_iter().filter_map(known).collect())
    }

    fn call(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        arguments: &(impl serde::Serialize + DynamicType),
    ) -> Result<Body, SystemdError> {
        match self.connection.call_method(Some(SYSTEMD), path, Some(interface), method, arguments) {
            Ok(reply) => Ok(reply.body()),
            Err(error) => Err(self.refused(error)),
        }
    }

    /// Tells the refusals that somebody can do something about from the others.
    fn refused(&self, error: zbus::Error) -> SystemdError {
        let zbus::Error::MethodError(name, text, _) = &error else {
            return SystemdError::Bus(Box::new(error));
        };
        let message = text.clone().unwrap_or_default();
        match name.as_str() {
            "org.freedesktop.systemd1.UnitExists" => SystemdError::NameTaken { unit: self.name() },
            "org.freedesktop.DBus.Error.AccessDenied"
            | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => {
                SystemdError::Denied { message }
            }
            "org.freedesktop.DBus.Error.ServiceUnknown"
            | "org.freedesktop.DBus.Error.NameHasNoOwner" => SystemdError::None,
            _ => SystemdError::Refused { unit: self.name(), message },
        }
    }

    fn unexpected(&self, what: &str) -> SystemdError {
        let message = format!("{what} is not what it should be");
        SystemdError::Refused { unit: self.name(), message }
    }
}

/// Looks at a unit's process.
fn observe(pid: u32, properties: BTreeMap<String, Value>) -> io::Result<Seen> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let cgroups = read("cgroup")?;
    let mut namespaces = BTreeMap::new();
    for name in ["mnt", "net", "ipc", "uts"] {
        let (own, its) = (format!("/proc/self/ns/{name}"), format!("/proc/{pid}/ns/{name}"));
        let apart = fs::read_link(own)? != fs::read_link(its)?;
        let apartness = if apart { Apartness::Apart } else { Apartness::Shared };
        namespaces.insert(name.to_owned(), apartness);
    }
    Ok(Seen {
        properties,
        status: read("status")?,
        limits: read("limits")?,
        mounts: read("mountinfo")?,
        namespaces,
        filters_of_all: filters_of_init(),
        swap: swap_limit(&cgroups),
        cgroups,
    })
}

/// Filters that whatever started systemd had put on it, and that all its children have.
fn filters_of_init() -> u32 {
    let status = fs::read_to_string("/proc/1/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn swap_limit(cgroups: &str) -> SwapLimit {
    let unified = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let limit = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .find_map(|root| fs::read_to_string(format!("{root}{unified}/memory.swap.max")).ok());
    let is_swapless =
        || fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() == 1);
    match limit.as_deref().map(str::trim_end) {
        Some("max") | None if is_swapless() => SwapLimit::NoSwapHere,
        Some("max") | None => SwapLimit::Unlimited,
        Some(bytes) => bytes.parse().map_or(SwapLimit::Unlimited, SwapLimit::Bytes),
    }
}

fn to_variant(value: Value) -> zvariant::Value<'static> {
    match value {
        Value::Flag(flag) => flag.into(),
        Value::Text(text) => text.into(),
        Value::Number(number) => number.into(),
        Value::Mode(mode) => mode.into(),
        Value::Texts(texts) => texts.into(),
        Value::Allowed(names) => (true, names).into(),
        Value::Command(command) => {
            let program = command.first().cloned().unwrap_or_default();
            vec![(program, command, false)].into()
        }
        Value::EndingSignals(signals) => (Vec::<i32>::new(), signals).into(),
        Value::Pairs(pairs) => pairs.into(),
        Value::EveryAddress => {
            vec![(AF_INET, vec![0_u8; 4], 0_u32), (AF_INET6, vec![0_u8; 16], 0_u32)].into()
        }
    }
}

/// A value that systemd reports, where it is of a kind that is asked for.
fn from_variant(value: &zvariant::Value<'_>) -> Option<Value> {
    use zvariant::Value as Variant;
    match value {
        Variant::Bool(flag) => Some(Value::Flag(*flag)),
        Variant::Str(text) => Some(Value::Text(text.as_str().to_owned())),
        Variant::U64(number) => Some(Value::Number(*number)),
        Variant::U32(mode) => Some(Value::Mode(*mode)),
        Variant::Array(array) => match array.iter().all(|item| matches!(item, Variant::Str(_))) {
            true => texts(value).map(Value::Texts),
            false => array.iter().map(pair).collect::<Option<_>>().map(Value::Pairs),
        },
        Variant::Structure(structure) => match structure.fields() {
            [Variant::Bool(true), names] => texts(names).map(Value::Allowed),
            _ => None,
        },
        _ => None,
    }
}

fn texts(value: &zvariant::Value<'_>) -> Option<Vec<String>> {
    let zvariant::Value::Array(array) = value else { return None };
    array.iter().map(text).collect()
}

fn pair(value: &zvariant::Value<'_>) -> Option<(String, String)> {
    let zvariant::Value::Structure(structure) = value else { return None };
    let [left, right] = structure.fields() else { return None };
    Some((text(left)?, text(right)?))
}

fn text(value: &zvariant::Value<'_>) -> Option<String> {
    match value {
        zvariant::Value::Str(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

/// The object path of a unit: every byte that is no letter and no digit becomes `_` and two
/// hexadecimal digits (sd_bus_path_encode(3)).
fn object_path(unit: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (index, byte) in unit.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => path.push(byte.into()),
            b'0'..=b'9' if index > 0 => path.push(byte.into()),
            _ => path.push_str(&format!("_{byte:02x}")),
        }
    }
    path
}

/// Lets some time pass: neither a unit's state nor its name has a descriptor to wait for.
fn pause(time: Duration) {
    let time = Timespec::try_from(time).expect("milliseconds");
    // A signal ends it early, and whoever waits looks again.
    poll(&mut [], Some(&time)).ok();
}

/// Why a worker could not be had from systemd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemdError {
    /// No systemd runs here.
    #[error("this machine was not booted by systemd")]
    None,
    /// The system bus has no socket.
    #[error("there is no D-Bus system bus: {BUS_SOCKET} does not exist")]
    NoBus,
    /// Only root may have units started, and look at the processes of others.
    #[error("only root can have systemd start workers")]
    NotRoot,
    /// The bus or systemd did not let it.
    #[error("systemd does not let this process start units: {message}")]
    Denied {
        /// Its words.
        message: String,
    },
    /// The bus broke off, or says something that is not D-Bus.
    #[error("the conversation with systemd failed")]
    Bus(#[source] Box<zbus::Error>),
    /// No answer in time.
    #[error("systemd did not answer in time while {step}")]
    NoAnswer {
        /// What was to be done.
        step: &'static str,
    },
    /// A unit of this name is there.
    #[error("there is a unit {unit} already")]
    NameTaken {
        /// Its name.
        unit: String,
    },
    /// systemd does not take the unit: a version too old for a setting, most likely.
    #[error("systemd refuses the unit {unit}: {message}")]
    Refused {
        /// Its name.
        unit: String,
        /// systemd's words.
        message: String,
    },
    /// The unit ended before there was a worker.
    #[error("systemd could not start {unit}: {result}")]
    NotStarted {
        /// Its name.
        unit: String,
        /// Its result, and how its process ended.
        result: String,
    },
    /// The worker's process is out of sight.
    #[error("process {pid} of {unit} cannot be seen from here")]
    Hidden {
        /// The unit.
        unit: String,
        /// The process, as systemd numbers it.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// What runs is not the worker of this build.
    #[error("{unit} runs a worker with digest {found}, and {expected} is expected")]
    OtherWorker {
        /// The unit.
        unit: String,
        /// The pinned digest.
        expected: Digest,
        /// The one found.
        found: Digest,
    },
    /// Settings are not in force.
    #[error("settings of the unit are not in force")]
    Settings(#[from] UnitFaults),
    /// There is no worker for systemd to execute.
    #[error(transparent)]
    WorkerFile(#[from] WorkerFileError),
}

impl SystemdError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::None => "systemd.none",
            Self::NoBus => "systemd.no-bus",
            Self::NotRoot => "systemd.not-root",
            Self::Denied { .. } => "systemd.denied",
            Self::Bus(_) => "systemd.bus",
            Self::NoAnswer { .. } => "systemd.no-answer",
            Self::NameTaken { .. } => "systemd.name-taken",
            Self::Refused { .. } => "systemd.refused",
            Self::NotStarted { .. } => "systemd.not-started",
            Self::Hidden { .. } => "systemd.hidden",
            Self::OtherWorker { .. } => "systemd.other-worker",
            Self::Settings(_) => "systemd.settings",
            Self::WorkerFile(_) => "systemd.worker-file",
        }
    }
}

/// sd_booted(3).
const BOOTED: &str = "/run/systemd/system";

const BUS_SOCKET: &str = "/run/dbus/system_bus_socket";
const ADDRESS: &str = "unix:path=/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// waitid(2).
const CLD_EXITED: u64 = 1;

/// include/linux/socket.h
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;

/// For one answer of systemd.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// For a worker to be started.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// For systemd to take note of an end that is over.
const END_TIMEOUT: Duration = Duration::from_secs(1);

const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Between two looks at a unit whose worker says nothing.
const LOOK_AT_UNIT: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_name_is_escaped_as_systemd_does_it() {
        assert_eq!(
            object_path("evanesce-w_1.a.service"),
            "/org/freedesktop/systemd1/unit/evanesce_2dw_5f1_2ea_2eservice"
        );
    }

    #[test]
    fn what_systemd_reports_is_read_as_what_was_asked_for() {
        for value in [
            Value::Flag(true),
            Value::Text("strict".into()),
            Value::Number(0),
            Value::Mode(0o77),
            Value::Texts(vec!["native".into()]),
            Value::Allowed(vec!["AF_UNIX".into()]),
            Value::Pairs(vec![("key".into(), "/etc/key".into())]),
        ] {
            assert_eq!(from_variant(&to_variant(value.clone())), Some(value));
        }
        assert_eq!(from_variant(&(false, vec!["AF_UNIX".to_owned()]).into()), None);
    }
}
