//! A machine of its own for a worker: QEMU, its memory, and the port to the worker in it.
//!
//! The machine's memory is a file that this process made and keeps. QEMU maps it, and whatever ends
//! the machine (an order, a signal from elsewhere, a fault of QEMU's own), it is overwritten here
//! and read back before anything is said about the key. Nothing of it is ever looked at but for
//! that: bytes are compared with zero.

mod relay;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evanesce_ledger::receipt::{Claim, MachinePlacement, Observer, ScrubStatement};
use evanesce_machine::{Accelerator, Enclave, Image, MEMORY_BYTES, Module, Parts, Start};
use evanesce_protocol::Digest;
use evanesce_protocol::channel::Channel;
use evanesce_protocol::control::Strength;
use evanesce_protocol::evidence::{AttesterReport, RawEvidence};
use evanesce_protocol::machine::Vouch;
use rustix::fs::{MemfdFlags, OFlags};

use crate::attester::{self, AttestError};
use crate::cage::{MemoryAccess, Outside};
use crate::process::HeldProcess;
use crate::worker_image::{ImageError, SealedImage, WorkerImage};

pub use evanesce_machine as parts;

/// A machine that a worker is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachinePlan {
    /// Of what kind.
    pub enclave: Enclave,
    /// The folder of its image.
    pub image: PathBuf,
    /// What executes it.
    pub accelerator: Accelerator,
    /// Its firmware; none for [`Enclave::Vm`].
    pub firmware: Option<PathBuf>,
    /// QEMU's program.
    pub qemu: PathBuf,
}

impl MachinePlan {
    /// Where distributions have QEMU.
    pub const QEMU: &'static str = "/usr/bin/qemu-system-x86_64";
}

/// Makes the image of a machine with the programs of this launcher, and the kernel and modules given.
///
/// # Errors
///
/// As [`Parts::build`].
pub fn build_image(
    kernel: &[u8],
    modules: &[Module],
    folder: &std::path::Path,
) -> Result<Image, evanesce_machine::ImageError> {
    let worker = WorkerImage::embedded();
    let libraries = evanesce_machine::libraries_of_host()?;
    let parts = Parts {
        kernel,
        init: WorkerImage::init(),
        worker: worker.bytes(),
        attester: WorkerImage::attester(),
        libraries: &libraries,
        modules,
    };
    parts.build(folder)
}

/// The machine of a worker that was started.
#[derive(Debug)]
pub(crate) struct Machine {
    enclave: Enclave,
    image: Digest,
    accelerator: Accelerator,
    memory: File,
    /// What QEMU and the machine's console say.
    console: File,
    seen: Seen,
    attester: MachineAttester,
    cleared: Option<Result<Cleared, String>>,
}

/// The way to the attester in a machine. It vouches for the key of that machine's worker alone, on
/// the word of the machine's first program.
#[derive(Clone, Debug)]
pub(crate) struct MachineAttester(Arc<Mutex<Channel>>);

impl MachineAttester {
    /// Has it vouch, and waits for what it says.
    pub(crate) fn ask(&self, vouch: &Vouch) -> Result<RawEvidence, AttestError> {
        let mut channel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What came too late for whoever asked before.
        while channel.receive_within::<AttesterReport>(Duration::ZERO).is_ok() {}
        channel.send(vouch, &[]).map_err(AttestError::Send)?;
        attester::told(channel.receive_within(attester::REPORT_TIMEOUT))
    }
}

/// What the machine's first program saw of the worker.
type Seen = Arc<Mutex<Option<(String, String)>>>;

/// Says that all of a machine's memory was overwritten, and read back as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "put it in the receipt: what nobody recorded cannot be shown"]
pub struct Cleared {
    bytes: u64,
}

impl Cleared {
    /// How many bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// For tests of decisions that take a proof.
    #[cfg(test)]
    pub(crate) const fn of_test() -> Self {
        Self { bytes: 1 << 20 }
    }
}

/// What is known of a machine when its receipt is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineEnd {
    /// Of what kind it was.
    pub enclave: Enclave,
    /// What became of its memory, or why that is not known.
    pub memory: Result<Cleared, String>,
}

impl Machine {
    /// Starts a machine, and a thread that carries messages between it and the channel's other end.
    pub(crate) fn start(
        plan: &MachinePlan,
        strength: Strength,
    ) -> Result<(Self, HeldProcess, Channel), MachineError> {
        check(plan)?;
        // QEMU is started somewhere else than this process.
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(MachineError::Spawn);
        let image = Image::open(&absolute(&plan.image)?)?;
        let manifest = image.manifest();
        for (program, found, expected) in [
            ("worker", manifest.worker, WorkerImage::digest()),
            ("init", manifest.init, Digest::of(WorkerImage::init())),
            ("attester", manifest.attester, Digest::of(WorkerImage::attester())),
        ] {
            if found != expected {
                return Err(MachineError::OtherProgram { program, found, expected });
            }
        }
        let qemu = fs::read(&plan.qemu)
            .map_err(|source| MachineError::Qemu { path: plan.qemu.clone(), source })?;
        // As a worker's: whoever may not read a program may not look into what executes it.
        let qemu = SealedImage::of_program("qemu", &qemu)?;
        let spawn = MachineError::Spawn;
        let memory = memory_file("machine", MEMORY_BYTES).map_err(spawn)?;
        let console = memory_file("console", 0).map_err(spawn)?;
        rustix::fs::fcntl_setfl(&console, OFlags::APPEND).map_err(|error| spawn(error.into()))?;
        let (ours, theirs) = UnixStream::pair().map_err(spawn)?;
        let (channel, worker_end) = Channel::pair().map_err(spawn)?;
        let start = Start {
            enclave: plan.enclave,
            accelerator: plan.accelerator,
            image: &image,
            firmware: plan.firmware.as_ref().map(absolute).transpose()?,
        };
        let mut command = Command::new(qemu.path());
        command
            .arg0("evanesce-machine")
            .args(evanesce_machine::arguments(&start))
            .env_clear()
            .env("QEMU_MODULE_DIR", MODULES)
            .current_dir("/")
            .stdin(Stdio::from(memory.try_clone().map_err(spawn)?))
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stderr(Stdio::from(console.try_clone().map_err(spawn)?))
            .process_group(0);
        let process = HeldProcess::spawn_shielded(&mut command).map_err(spawn)?;
        drop(command); // with our copies of its ends
        let seen = Seen::default();
        let (attester, attester_end) = Channel::pair().map_err(spawn)?;
        let attester = MachineAttester(Arc::new(Mutex::new(attester)));
        let ends = relay::Ends {
            port: ours,
            worker: Channel::new(worker_end),
            attester: Channel::new(attester_end),
        };
        relay::begin(ends, strength, Arc::clone(&seen)).map_err(spawn)?;
        let machine = Self {
            enclave: plan.enclave,
            image: image.manifest().digest(),
            accelerator: plan.accelerator,
            memory,
            console,
            seen,
            attester,
            cleared: None,
        };
        Ok((machine, process, channel))
    }

    /// What can be seen of the worker, in the words of the machine's first program.
    pub(crate) fn outside(&self) -> io::Result<Outside> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (status, limits) = seen.ok_or(io::ErrorKind::NotFound)?;
        // It is root in there, and so may look into anything.
        Ok(Outside { status, limits, memory: MemoryAccess::NotTold })
    }

    /// Who vouches for the key of its worker.
    pub(crate) fn attester(&self) -> MachineAttester {
        self.attester.clone()
    }

    /// What the receipt says of the machine while it ran.
    pub(crate) fn statement(&self) -> ScrubStatement {
        let Self { enclave, accelerator, image, .. } = self;
        ScrubStatement {
            claim: Claim::OwnMachine,
            observer: Observer::ObservedOutside,
            detail: format!("{enclave} by {accelerator}, image {image}"),
        }
    }

    /// Where the receipt says that the worker was.
    pub(crate) fn placement(&self) -> MachinePlacement {
        MachinePlacement { enclave: self.enclave.to_string(), image: self.image }
    }

    /// Overwrites all of the machine's memory and reads it back, once. Called when QEMU is gone.
    pub(crate) fn clear(&mut self) {
        if self.cleared.is_none() {
            self.cleared = Some(overwrite(&self.memory).map_err(|error| error.to_string()));
        }
    }

    /// What is known of it by now.
    pub(crate) fn end(&self) -> MachineEnd {
        let not_yet = || Err("the machine was not seen to be gone".to_owned());
        MachineEnd { enclave: self.enclave, memory: self.cleared.clone().unwrap_or_else(not_yet) }
    }

    /// The last line that QEMU or the machine's console said.
    pub(crate) fn last_words(&self) -> String {
        let said = fs::read(format!("/proc/self/fd/{}", self.console.as_raw_fd()));
        let said = said.unwrap_or_default();
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(SAID_BYTES_MAX)..]);
        // What every machine says at its end is no reason for it.
        let tells = |line: &&str| !line.is_empty() && !line.ends_with("reboot: Power down");
        let line = said.lines().rev().map(str::trim).find(tells);
        line.unwrap_or("nothing").chars().filter(|letter| !letter.is_control()).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its process was killed when it was dropped, before this.
        self.clear();
    }
}

/// What a plan has to be before anything is started.
fn check(plan: &MachinePlan) -> Result<(), MachineError> {
    match (plan.enclave, &plan.firmware, plan.accelerator) {
        (Enclave::Vm, None, _) | (Enclave::Snp | Enclave::Tdx, Some(_), Accelerator::Kvm) => Ok(()),
        (Enclave::Vm, Some(_), _) => Err(MachineError::Plan { what: "vm takes no firmware" }),
        (_, None, _) => Err(MachineError::Plan { what: "snp and tdx take a firmware (OVMF)" }),
        (_, Some(_), Accelerator::Tcg) => {
            Err(MachineError::Plan { what: "snp and tdx take KVM: nothing else encrypts memory" })
        }
    }
}

/// A file in memory of so many bytes.
fn memory_file(name: &str, bytes: u64) -> io::Result<File> {
    let file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.set_len(bytes)?;
    Ok(file)
}

/// Zeros over the whole file, then a look at each of its bytes.
fn overwrite(memory: &File) -> io::Result<Cleared> {
    let bytes = memory.metadata()?.len();
    let zeros = vec![0; PIECE];
    let mut found = vec![0; PIECE];
    let pieces = || (0..bytes).step_by(PIECE);
    let length = |at: u64| usize::try_from(bytes - at).map_or(PIECE, |left| left.min(PIECE));
    for at in pieces() {
        memory.write_all_at(&zeros[..length(at)], at)?;
    }
    for at in pieces() {
        let found = &mut found[..length(at)];
        found.fill(1);
        memory.read_exact_at(found, at)?;
        if found != &zeros[..found.len()] {
            return Err(io::Error::other("a byte was not zero when it was read back"));
        }
    }
    Ok(Cleared { bytes })
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// What was asked for does not go together.
    #[error("no such machine can be started: {what}")]
    Plan {
        /// What.
        what: &'static str,
    },
    /// The image cannot be used.
    #[error("the machine's image cannot be used")]
    Image(#[from] evanesce_machine::ImageError),
    /// The image has another program in it than this launcher.
    #[error("the image has {program} {found} in it, and {expected} is expected")]
    OtherProgram {
        /// Which.
        program: &'static str,
        /// The one in the image.
        found: Digest,
        /// The one that belongs to this launcher.
        expected: Digest,
    },
    /// QEMU's program cannot be read.
    #[error("QEMU's program {} cannot be read", path.display())]
    Qemu {
        /// The program.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// QEMU could not be copied into sealed memory.
    #[error(transparent)]
    Seal(#[from] ImageError),
    /// QEMU could not be started.
    #[error("the machine could not be started")]
    Spawn(#[source] io::Error),
}

impl MachineError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Plan { .. } => "machine.plan",
            Self::Image(error) => error.code(),
            Self::OtherProgram { .. } => "machine.other-program",
            Self::Qemu { .. } => "machine.qemu",
            Self::Seal(error) => error.code(),
            Self::Spawn(_) => "machine.spawn",
        }
    }
}

impl fmt::Display for MachineEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.memory {
            Ok(cleared) => write!(f, "{} bytes of {}", cleared.bytes(), self.enclave),
            Err(reason) => f.write_str(reason),
        }
    }
}

/// For a machine to boot, and its worker to close its cage: seconds, and half a minute where QEMU
/// alone executes it on a busy host.
pub(crate) const BOOT_TIMEOUT: Duration = Duration::from_secs(180);

/// For what takes a worker two seconds without a machine.
pub(crate) const WIPE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where Debian has the parts of QEMU that are loaded as they are needed.
const MODULES: &str = "/usr/lib/x86_64-linux-gnu/qemu";

const PIECE: usize = 1 << 20;

const SAID_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_written_is_zero_after_it_was_cleared() {
        let memory = memory_file("test", 3 * (1 << 20) + 17).unwrap();
        for at in [0, 12_345, (3 << 20) + 16] {
            memory.write_all_at(b"\xaa", at).unwrap();
        }

        let cleared = overwrite(&memory).unwrap();

        assert_eq!(cleared.bytes(), 3 * (1 << 20) + 17);
        let all = fs::read(format!("/proc/self/fd/{}", memory.as_raw_fd())).unwrap();
        assert!(all.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_machine_that_cannot_be_is_refused_by_name() {
        let plan = |enclave, firmware: Option<&str>, accelerator| MachinePlan {
            enclave,
            image: "/no/image".into(),
            accelerator,
            firmware: firmware.map(PathBuf::from),
            qemu: MachinePlan::QEMU.into(),
        };
        for refused in [
            plan(Enclave::Snp, None, Accelerator::Kvm),
            plan(Enclave::Tdx, Some("/OVMF"), Accelerator::Tcg),
            plan(Enclave::Vm, Some("/OVMF"), Accelerator::Tcg),
        ] {
            let error = Machine::start(&refused, Strength::Strict).unwrap_err();
            assert_eq!(error.code(), "machine.plan");
        }
        let missing = plan(Enclave::Vm, None, Accelerator::Tcg);
        let error = Machine::start(&missing, Strength::Strict).unwrap_err();
        assert_eq!(error.code(), "image.read");
    }

    #[test]
    fn an_image_with_other_programs_is_not_started() {
        let mut kernel = vec![0; 0x400];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        let worker = WorkerImage::embedded();
        let own = Parts {
            kernel: &kernel,
            init: WorkerImage::init(),
            worker: worker.bytes(),
            attester: WorkerImage::attester(),
            libraries: &[],
            modules: &[],
        };
        let refusal = |parts: Parts<'_>, qemu: &str| {
            let folder = tempfile::tempdir().unwrap();
            parts.build(folder.path()).unwrap();
            let plan = MachinePlan {
                enclave: Enclave::Vm,
                image: folder.path().to_owned(),
                accelerator: Accelerator::Tcg,
                firmware: None,
                qemu: qemu.into(),
            };
            Machine::start(&plan, Strength::Strict).unwrap_err()
        };

        for (other, name) in [
            (Parts { worker: b"w", ..own }, "worker"),
            (Parts { init: b"i", ..own }, "init"),
            (Parts { attester: b"a", ..own }, "attester"),
        ] {
            let error = refusal(other, MachinePlan::QEMU);
            assert_eq!(error.code(), "machine.other-program");
            assert!(error.to_string().contains(name), "{error}");
        }
        // The control: with its own three it comes to the next step.
        assert_eq!(refusal(own, "/no/qemu").code(), "machine.qemu");
    }
}
