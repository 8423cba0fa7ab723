//! A virtual machine whose memory and disks can be read: QEMU without KVM.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::error::VmError;
use super::guest::Guest;
use super::image::Image;
use super::payload::{self, Key, Programs};
use super::qmp::Qmp;
use crate::programs::output;

/// A booted guest. Dropped, it is gone, and its memory and disks with it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) guest: Guest,
    qmp: Qmp,
    process: Child,
    folder: TempDir,
    stores: Vec<(Store, File)>,
}

/// What keeps bytes and can be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    /// All of the guest's physical memory.
    Memory,
    /// The disk with its system, ledger, journal and core files.
    Disk,
    /// The disk it swaps to.
    Swap,
    /// The disk that a crash kernel writes to.
    Dump,
}

/// What differs between machines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boot {
    /// The kernel's setting of that name.
    pub(crate) init_on_free: bool,
    /// Keys on its payload.
    pub(crate) keys: usize,
}

impl Machine {
    /// Boots one and waits until it takes orders.
    pub(crate) fn boot(
        image: &Image,
        programs: &Programs,
        boot: Boot,
    ) -> Result<(Self, Vec<Key>), VmError> {
        let folder = tempfile::Builder::new()
            .prefix("evanesce-vm-")
            .tempdir_in(fast_folder())
            .map_err(VmError::io("make a folder in memory"))?;
        let at = |name: &str| folder.path().join(name);
        let keys = payload::make(folder.path(), &at("payload"), programs, image, boot.keys)?;
        output(Command::new("cp").arg("--sparse=always").arg(image.root_disk()).arg(at("disk")))?;
        let mut stores = Vec::new();
        for (store, name, mib) in [
            (Store::Memory, "memory", MEMORY_MIB),
            (Store::Disk, "disk", 0),
            (Store::Swap, "swap", SWAP_MIB),
            (Store::Dump, "dump", DUMP_MIB),
        ] {
            stores.push((store, open(&at(name), mib)?));
        }
        let process = qemu(image, folder.path(), boot)
            .spawn()
            .map_err(VmError::io("start qemu-system-x86_64"))?;
        let mut starting = Starting { process: Some(process), folder: Some(folder) };
        let qmp = Qmp::new(starting.connect("qmp")?)?;
        let guest = Guest::new(starting.connect("guest")?);
        let (Some(process), Some(folder)) = (starting.process.take(), starting.folder.take())
        else {
            unreachable!("both are there until they are taken here");
        };
        let mut machine = Self { guest, qmp, process, folder, stores };
        // QEMU and we have them open; whatever ends us, nothing stays behind.
        for name in ["memory", "disk", "swap", "dump", "payload"] {
            fs::remove_file(machine.folder.path().join(name)).map_err(VmError::io("unlink"))?;
        }
        if let Err(error) = machine.guest.await_ready(BOOT) {
            let console = machine.console();
            return Err(VmError::Machine { what: error.to_string(), console });
        }
        Ok((machine, keys))
    }

    /// Looks at a machine that does not move meanwhile.
    pub(crate) fn frozen<T>(
        &mut self,
        look: impl FnOnce(&Self) -> Result<T, VmError>,
    ) -> Result<T, VmError> {
        self.qmp.execute("stop", json!({}))?;
        let seen = look(self)?;
        self.qmp.execute("cont", json!({}))?;
        Ok(seen)
    }

    /// Has QEMU write all of memory into a file, as a snapshot does, and looks at that file.
    pub(crate) fn snapshot<T>(
        &mut self,
        look: impl FnOnce(&Path) -> Result<T, VmError>,
    ) -> Result<T, VmError> {
        let file = self.folder.path().join("snapshot");
        let protocol = format!("file:{}", file.display());
        self.qmp.execute("dump-guest-memory", json!({"paging": false, "protocol": protocol}))?;
        let seen = look(&file);
        fs::remove_file(&file).map_err(VmError::io("remove the snapshot"))?;
        seen
    }

    /// Waits until the guest has powered itself off. Its memory stays.
    pub(crate) fn await_power_off(&mut self) -> Result<(), VmError> {
        self.qmp
            .await_event("SHUTDOWN", POWER_OFF)
            .map_err(|error| VmError::Machine { what: error.to_string(), console: self.console() })
    }

    /// A path to what a store holds, for as long as the machine is there.
    pub(crate) fn path(&self, store: Store) -> PathBuf {
        let (_, file) =
            self.stores.iter().find(|(of, _)| *of == store).expect("each store is opened at boot");
        format!("/proc/self/fd/{}", file.as_raw_fd()).into()
    }

    /// The end of what the kernel said.
    pub(crate) fn console(&self) -> String {
        let said = fs::read(self.folder.path().join("console")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Where it does not listen any more it is killed below.
        self.qmp.execute("quit", json!({})).ok();
        end(&mut self.process);
    }
}

/// QEMU before anything can be said to it.
struct Starting {
    process: Option<Child>,
    folder: Option<TempDir>,
}

impl Starting {
    fn connect(&mut self, name: &str) -> Result<UnixStream, VmError> {
        let folder = self.folder.as_ref().expect("it is taken when both are connected").path();
        let socket = folder.join(name);
        let deadline = Instant::now() + CONNECT;
        loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() > deadline => {
                    return Err(VmError::Io { what: "connect to QEMU".into(), source: error });
                }
                Err(_) => {
                    let process = self.process.as_mut().expect("it is taken with the folder");
                    let ended = process.try_wait().map_err(VmError::io("wait for QEMU"))?;
                    if let Some(status) = ended {
                        let said = fs::read_to_string(folder.join("qemu.err")).unwrap_or_default();
                        let what = format!("QEMU ended at once, {status}");
                        return Err(VmError::Machine { what, console: said });
                    }
                    pause();
                }
            }
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            end(process);
        }
    }
}

/// Waits a little for the end, then sees to it.
fn end(process: &mut Child) {
    let deadline = Instant::now() + CONNECT;
    while Instant::now() < deadline && matches!(process.try_wait(), Ok(None)) {
        pause();
    }
    // `timeout` hands it on.
    if let Some(pid) = rustix::process::Pid::from_raw(process.id().cast_signed())
        && matches!(process.try_wait(), Ok(None))
    {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        process.wait().ok();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a socket that is not there yet tells nobody when it is"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// A file of so many MiB, all of it a hole; an existing one where that is zero.
fn open(path: &Path, mib: u64) -> Result<File, VmError> {
    let create = |path: &Path| -> io::Result<File> {
        if mib == 0 {
            return File::options().read(true).write(true).open(path);
        }
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.set_len(mib << 20)?;
        Ok(file)
    };
    create(path).map_err(VmError::io(format!("make {}", path.display())))
}

fn qemu(image: &Image, folder: &Path, boot: Boot) -> Command {
    let at = |name: &str| folder.join(name).display().to_string();
    let mut qemu = Command::new("timeout");
    qemu.args(["--kill-after=5", LIFE_SECONDS_MAX, "qemu-system-x86_64"]);
    // KVM is there on some machines and fails; what is shown does not depend on it.
    qemu.args(["-accel", "tcg,thread=single", "-machine", "pc,memory-backend=memory"]);
    // The guest's clock counts instructions: a busy host does not make it miss its timers.
    qemu.args(["-icount", "shift=1"]);
    qemu.args(["-cpu", "max", "-smp", "1", "-m", &format!("{MEMORY_MIB}M")]);
    let memory = at("memory");
    qemu.arg("-object").arg(format!(
        "memory-backend-file,id=memory,size={MEMORY_MIB}M,mem-path={memory},share=on"
    ));
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-net", "none"]);
    // Memory stays as it is when the guest powers off.
    qemu.args(["-action", "shutdown=pause,reboot=shutdown,panic=none"]);
    qemu.arg("-kernel").arg(image.kernel()).arg("-initrd").arg(image.initrd());
    qemu.arg("-append").arg(kernel_arguments(boot));
    for (name, options) in [("disk", ""), ("payload", ",readonly=on"), ("swap", ""), ("dump", "")] {
        let file = at(name);
        qemu.arg("-drive")
            .arg(format!("if=none,id={name},format=raw,discard=ignore,file={file}{options}"));
        qemu.args(["-device", &format!("virtio-blk-pci,drive={name}")]);
    }
    qemu.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    qemu.arg("-chardev").arg(format!("socket,id=guest,server=on,wait=off,path={}", at("guest")));
    let port = format!("virtserialport,chardev=guest,name={}", evanesce_guest::PORT);
    qemu.args(["-device", &port]);
    qemu.arg("-serial").arg(format!("file:{}", at("console")));
    qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", at("qmp")));
    qemu.stdin(Stdio::null()).stdout(Stdio::null());
    match File::create(folder.join("qemu.err")) {
        Ok(file) => qemu.stderr(file),
        Err(_) => qemu.stderr(Stdio::null()),
    };
    qemu
}

fn kernel_arguments(boot: Boot) -> String {
    format!(
        "console=ttyS0 quiet loglevel=4 no_timer_check init_on_free={} secretmem.enable=1 crashkernel={CRASH_MIB}M \
         systemd.unit=guest.target systemd.show_status=0 audit=0 panic=10",
        u8::from(boot.init_on_free)
    )
}

/// Where memory of the guest costs no disk.
fn fast_folder() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() }
}

/// A machine with two disks' worth of residue to hold, and room for a crash kernel.
const MEMORY_MIB: u64 = 1024;
const SWAP_MIB: u64 = 768;
const CRASH_MIB: u64 = 160;

/// All of memory, and what a dump says about it.
const DUMP_MIB: u64 = MEMORY_MIB + 64;

/// QEMU ends by itself then, whatever became of us.
const LIFE_SECONDS_MAX: &str = "1800";

const CONNECT: Duration = Duration::from_secs(10);

/// Ten seconds on a quiet machine. All of these are reached only by what hangs.
const BOOT: Duration = Duration::from_secs(300);

/// A crash kernel boots, and writes all of memory.
const POWER_OFF: Duration = Duration::from_secs(300);

const CONSOLE_LINES: usize = 30;
