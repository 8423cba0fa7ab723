//! configfs-tsm (Linux 6.7; Documentation/ABI/testing/configfs-tsm-report in the kernel's source).
//!
//! A directory that is made below the root is a request: bytes go into `inblob`, the report comes
//! out of `outblob`, and the directory is removed again. The write takes effect when the file is
//! closed, without a word where it does not; so what was written is looked for in what comes out,
//! and the kernel's count of writes is compared.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evanesce_protocol::evidence::{CollectError, REPORT_DATA_BYTES, RawEvidence, provider};
use evanesce_protocol::limits::{
    EVIDENCE_AUXBLOB_BYTES_MAX, EVIDENCE_OUTBLOB_BYTES_MAX, EVIDENCE_PROVIDER_BYTES_MAX,
};
use rustix::event::{PollFd, Timespec, poll};

/// Where Linux has it, with configfs mounted where everybody mounts it.
pub const TSM_ROOT: &str = "/sys/kernel/config/tsm/report";

/// The operations on a directory of requests. The kernel's is [`ConfigFs`].
pub trait TsmDirectory {
    /// Makes a request. Its name must not be there yet.
    ///
    /// # Errors
    ///
    /// [`io::Error`] of `mkdir(2)`.
    fn create(&self, request: &str) -> io::Result<()>;

    /// Writes an attribute and closes it.
    ///
    /// # Errors
    ///
    /// [`io::Error`] of opening and writing.
    fn write(&self, request: &str, attribute: &str, value: &[u8]) -> io::Result<()>;

    /// Reads an attribute, one byte more than `bytes_max` at most.
    ///
    /// # Errors
    ///
    /// [`io::Error`] of opening and reading.
    fn read(&self, request: &str, attribute: &str, bytes_max: usize) -> io::Result<Vec<u8>>;

    /// Removes a request.
    ///
    /// # Errors
    ///
    /// [`io::Error`] of `rmdir(2)`.
    fn remove(&self, request: &str) -> io::Result<()>;

    /// Waits before something is tried again.
    fn pause(&self, time: Duration);
}

/// The kernel's directory.
#[derive(Debug)]
pub struct ConfigFs {
    root: PathBuf,
}

impl ConfigFs {
    /// The directory at `root`, [`TSM_ROOT`] but in tests.
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn path(&self, request: &str, attribute: &str) -> PathBuf {
        [self.root.as_path(), Path::new(request), Path::new(attribute)].iter().collect()
    }
}

impl TsmDirectory for ConfigFs {
    fn create(&self, request: &str) -> io::Result<()> {
        fs::create_dir(self.root.join(request))
    }

    fn write(&self, request: &str, attribute: &str, value: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.path(request, attribute))?;
        // Dropped here: the kernel takes what was written when the file is closed.
        file.write_all(value)
    }

    fn read(&self, request: &str, attribute: &str, bytes_max: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(request, attribute))?;
        let mut value = Vec::new();
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
        file.take(limit).read_to_end(&mut value)?;
        Ok(value)
    }

    fn remove(&self, request: &str) -> io::Result<()> {
        // Its attributes go along: it is "not empty", and rmdir(2) removes it all the same.
        fs::remove_dir(self.root.join(request))
    }

    fn pause(&self, time: Duration) {
        let time = Timespec::try_from(time).expect("a fraction of a second");
        let nothing: &mut [PollFd<'_>] = &mut [];
        // A signal shortens it, which does no harm.
        poll(nothing, Some(&time)).ok();
    }
}

/// Why configfs gave no evidence.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no such interface, or nothing behind it: another way may lead on.
    Absent(String),
    /// There is one, and it does not do what it should.
    Refused(CollectError),
}

/// Has the kernel's provider sign `report_data`.
pub(crate) fn collect(
    tsm: &dyn TsmDirectory,
    report_data: &[u8; REPORT_DATA_BYTES],
) -> Result<RawEvidence, Failure> {
    let request = Request::create(tsm)?;
    let provider = request.text("provider", EVIDENCE_PROVIDER_BYTES_MAX)?;
    if ![provider::SNP, provider::TDX].contains(&provider.as_str()) {
        return Err(Failure::Refused(CollectError::UnknownProvider { found: provider }));
    }
    let mut writes = 0;
    // A guest under a service module reports for its own level; elsewhere the floor is 0 and there
    // is nothing to write. TDX has no levels, and no such attribute.
    if let Some(floor) = request.optional_text("privlevel_floor")?
        && floor != "0"
    {
        request.write("privlevel", floor.as_bytes())?;
        writes += 1;
    }
    request.write("inblob", report_data)?;
    writes += 1;
    let outblob = request.outblob()?;
    let auxblob = request.optional("auxblob", EVIDENCE_AUXBLOB_BYTES_MAX)?;
    let generation = request.text("generation", NUMBER_BYTES_MAX)?;
    match generation.parse::<u64>() {
        Ok(found) if found == writes => {}
        Ok(found) => return Err(Failure::Refused(CollectError::Generation { found })),
        Err(_) => {
            return Err(refused("reading generation", &io::ErrorKind::InvalidData.into()));
        }
    }
    let auxblob = auxblob.filter(|blob| !blob.is_empty());
    Ok(RawEvidence { provider, outblob, auxblob })
}

/// One directory, removed at the end whatever happened.
struct Request<'a> {
    tsm: &'a dyn TsmDirectory,
    name: String,
}

impl<'a> Request<'a> {
    fn create(tsm: &'a dyn TsmDirectory) -> Result<Self, Failure> {
        let pid = std::process::id();
        for attempt in 0..NAMES_MAX {
            let name = format!("evanesce-{pid}-{attempt}");
            match tsm.create(&name) {
                Ok(()) => return Ok(Self { tsm, name }),
                // Left behind by an attester that was killed, when the number was another's.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if is_absent(&error) => return Err(Failure::Absent(error.to_string())),
                Err(error) => return Err(refused("making a report's directory", &error)),
            }
        }
        Err(refused("making a report's directory", &io::ErrorKind::AlreadyExists.into()))
    }

    fn write(&self, attribute: &str, value: &[u8]) -> Result<(), Failure> {
        self.patiently(&format!("writing {attribute}"), || {
            self.tsm.write(&self.name, attribute, value)
        })
    }

    fn read(&self, attribute: &str, bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let value = self.patiently(&format!("reading {attribute}"), || {
            self.tsm.read(&self.name, attribute, bytes_max)
        })?;
        bounded(attribute, value, bytes_max)
    }

    fn outblob(&self) -> Result<Vec<u8>, Failure> {
        self.read("outblob", EVIDENCE_OUTBLOB_BYTES_MAX)
    }

    /// An attribute that not every provider has.
    fn optional(&self, attribute: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, Failure> {
        match self.tsm.read(&self.name, attribute, bytes_max) {
            Ok(value) => bounded(attribute, value, bytes_max).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refused(&format!("reading {attribute}"), &error)),
        }
    }

    fn text(&self, attribute: &str, bytes_max: usize) -> Result<String, Failure> {
        self.read(attribute, bytes_max).map(|value| line(&value))
    }

    fn optional_text(&self, attribute: &str) -> Result<Option<String>, Failure> {
        Ok(self.optional(attribute, NUMBER_BYTES_MAX)?.map(|value| line(&value)))
    }

    /// Does a step, again while the firmware is busy with somebody else, up to a deadline.
    fn patiently<T>(
        &self,
        step: &str,
        mut work: impl FnMut() -> io::Result<T>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut wait = WAIT_FIRST;
        loop {
            match work() {
                Ok(done) => return Ok(done),
                Err(error) if is_busy(&error) && Instant::now() < deadline => {
                    self.tsm.pause(wait);
                    wait = (2 * wait).min(WAIT_LONGEST);
                }
                Err(error) => return Err(refused(step, &error)),
            }
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        // Evidence is no worse for it; the directory takes a few bytes of the kernel's until reboot.
        self.tsm.remove(&self.name).ok();
    }
}

/// Whether another way to evidence may be tried: no interface, or no provider behind it.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NXIO)
}

fn is_busy(error: &io::Error) -> bool {
    let busy = [Errno::BUSY, Errno::AGAIN, Errno::INTR];
    error.raw_os_error().is_some_and(|errno| busy.contains(&errno))
}

/// The numbers that matter here.
struct Errno;

impl Errno {
    const NXIO: i32 = rustix::io::Errno::NXIO.raw_os_error();
    const BUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();
    const AGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();
    const INTR: i32 = rustix::io::Errno::INTR.raw_os_error();
}

fn bounded(attribute: &str, value: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    match value.len() <= bytes_max {
        true => Ok(value),
        false => Err(Failure::Refused(CollectError::TooLong {
            what: attribute.to_owned(),
            limit_bytes: u64::try_from(bytes_max).unwrap_or(u64::MAX),
        })),
    }
}

fn line(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end().to_owned()
}

fn refused(step: &str, error: &io::Error) -> Failure {
    Failure::Refused(CollectError::Io { step: step.to_owned(), reason: error.to_string() })
}

/// Bytes in a number that is printed.
const NUMBER_BYTES_MAX: usize = 32;

/// Names of requests that are tried.
const NAMES_MAX: u32 = 16;

/// The kernel itself waits for a quote for thirty seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const WAIT_FIRST: Duration = Duration::from_millis(20);
const WAIT_LONGEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A kernel that behaves, but for one thing.
    struct Fake {
        provider: &'static str,
        /// How often a step is busy before it is done.
        busy: Cell<u32>,
        /// Writes of somebody else.
        meddled: u64,
        floor: Option<&'static str>,
        outblob_bytes: usize,
        inblob: RefCell<Vec<u8>>,
        level: RefCell<Vec<u8>>,
        writes: Cell<u64>,
        requests: RefCell<Vec<String>>,
        create_error: Option<i32>,
    }

    impl Fake {
        fn new(provider: &'static str) -> Self {
            Self {
                provider,
                busy: Cell::new(0),
                meddled: 0,
                floor: None,
                outblob_bytes: 1184,
                inblob: RefCell::default(),
                level: RefCell::default(),
                writes: Cell::new(0),
                requests: RefCell::default(),
                create_error: None,
            }
        }
    }

    impl TsmDirectory for Fake {
        fn create(&self, request: &str) -> io::Result<()> {
            if let Some(errno) = self.create_error {
                return Err(io::Error::from_raw_os_error(errno));
            }
            self.requests.borrow_mut().push(request.to_owned());
            Ok(())
        }

        fn write(&self, _: &str, attribute: &str, value: &[u8]) -> io::Result<()> {
            self.writes.set(self.writes.get() + 1);
            match attribute {
                "inblob" => *self.inblob.borrow_mut() = value.to_vec(),
                "privlevel" => *self.level.borrow_mut() = value.to_vec(),
                _ => return Err(io::ErrorKind::NotFound.into()),
            }
            Ok(())
        }

        fn read(&self, _: &str, attribute: &str, _: usize) -> io::Result<Vec<u8>> {
            match attribute {
                "provider" => Ok(format!("{}\n", self.provider).into_bytes()),
                "generation" => Ok(format!("{}\n", self.writes.get() + self.meddled).into_bytes()),
                "privlevel_floor" => {
                    let floor = self.floor.ok_or(io::ErrorKind::NotFound)?;
                    Ok(format!("{floor}\n").into_bytes())
                }
                "outblob" if self.busy.get() > 0 => {
                    self.busy.set(self.busy.get() - 1);
                    Err(io::Error::from_raw_os_error(Errno::BUSY))
                }
                "outblob" => {
                    let mut report = vec![0; self.outblob_bytes];
                    report[0x50..0x90].copy_from_slice(&self.inblob.borrow());
                    Ok(report)
                }
                "auxblob" if self.provider == "sev_guest" => Ok(Vec::new()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }

        fn remove(&self, request: &str) -> io::Result<()> {
            self.requests.borrow_mut().retain(|name| name != request);
            Ok(())
        }

        fn pause(&self, _: Duration) {}
    }

    fn error(fake: &Fake) -> CollectError {
        match collect(fake, &[7; 64]) {
            Err(Failure::Refused(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_report_of_the_bytes_is_collected_and_its_directory_removed() {
        let fake = Fake::new("sev_guest");

        let raw = collect(&fake, &[7; 64]).unwrap();

        assert_eq!((raw.provider.as_str(), raw.report_data()), ("sev_guest", Some(&[7; 64])));
        assert_eq!(raw.auxblob, None);
        assert!(fake.requests.borrow().is_empty());
    }

    #[test]
    fn a_guest_under_a_service_module_reports_for_its_own_level() {
        let fake = Fake { floor: Some("2"), ..Fake::new("sev_guest") };

        collect(&fake, &[7; 64]).unwrap();

        assert_eq!(*fake.level.borrow(), b"2");
    }

    #[test]
    fn a_busy_firmware_is_asked_again() {
        let fake = Fake { busy: Cell::new(5), ..Fake::new("tdx_guest") };

        collect(&fake, &[7; 64]).unwrap();

        assert_eq!(fake.busy.get(), 0);
    }

    #[test]
    fn a_report_that_somebody_else_wrote_to_is_refused_and_removed() {
        let fake = Fake { meddled: 1, ..Fake::new("sev_guest") };

        assert_eq!(error(&fake), CollectError::Generation { found: 2 });
        assert!(fake.requests.borrow().is_empty());
    }

    #[test]
    fn an_unknown_provider_and_a_report_without_end_are_refused() {
        let unknown = Fake::new("arm_cca_guest");
        assert_eq!(error(&unknown).code(), "attest.unknown-provider");
        let long = Fake { outblob_bytes: EVIDENCE_OUTBLOB_BYTES_MAX + 1, ..Fake::new("sev_guest") };
        assert_eq!(error(&long).code(), "attest.too-long");
    }

    #[test]
    fn no_directory_and_no_provider_are_absent_and_no_permission_is_an_error() {
        let create = |errno| {
            let fake = Fake { create_error: Some(errno), ..Fake::new("sev_guest") };
            collect(&fake, &[7; 64])
        };

        for errno in [Errno::NXIO, rustix::io::Errno::NOENT.raw_os_error()] {
            assert!(matches!(create(errno), Err(Failure::Absent(_))), "{errno}");
        }
        let refused = create(rustix::io::Errno::ACCESS.raw_os_error());
        assert!(matches!(refused, Err(Failure::Refused(CollectError::Io { .. }))), "{refused:?}");
    }

    #[test]
    fn a_plain_directory_in_the_place_of_configfs_is_refused_and_left_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let tsm = ConfigFs::new(root.path().to_owned());

        assert!(matches!(collect(&tsm, &[7; 64]), Err(Failure::Refused(_))));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
