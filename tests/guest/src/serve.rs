//! The host's orders, one after the other.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use evanesce_guest::{Answer, Death, OUTPUT_BYTES_MAX, Order, PORT, masked};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Takes orders until the host hangs up.
pub(crate) fn serve() -> Result<(), Box<dyn Error>> {
    let port = File::options().read(true).write(true).open(port()?)?;
    let mut orders = BufReader::new(port.try_clone()?);
    let mut answers = port;
    fs::create_dir_all(OUTPUTS)?;
    let mut guest = Guest { started: BTreeMap::new(), chip: None };
    let mut answer = Answer::Ready;
    loop {
        let mut line = serde_json::to_string(&answer)?;
        line.push('\n');
        answers.write_all(line.as_bytes())?;
        line.clear();
        if orders.read_line(&mut line)? == 0 {
            return Ok(());
        }
        answer = match serde_json::from_str(&line) {
            Ok(order) => guest
                .obey(order)
                .unwrap_or_else(|error| Answer::Failed { reason: error.to_string() }),
            Err(error) => Answer::Failed { reason: error.to_string() },
        };
    }
}

/// The device of the port, found by its name.
fn port() -> Result<PathBuf, Box<dyn Error>> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name"))?.trim() == PORT {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(format!("there is no virtio port {PORT}").into())
}

struct Guest {
    started: BTreeMap<String, Started>,
    /// A chip that owes an answer.
    chip: Option<File>,
}

struct Started {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Guest {
    fn obey(&mut self, order: Order) -> Result<Answer, Box<dyn Error>> {
        match order {
            Order::Run { argv, timeout_ms } => {
                let mut child = command("run", &argv)?
                    .stdin(Stdio::null())
                    .stdout(File::create(output("run", "out"))?)
                    .spawn()?;
                let status = wait(&mut child, deadline(timeout_ms))?;
                Ok(ended("run", status))
            }
            Order::Start { name, argv, timeout_ms } => self.start(name, &argv, timeout_ms),
            Order::Finish { name, timeout_ms } => {
                let mut started = self.started.remove(&name).ok_or("nothing of that name")?;
                drop(started.stdin.take());
                let status = wait(&mut started.child, deadline(timeout_ms))?;
                Ok(ended(&name, status))
            }
            Order::Strike { stop, end, by, timeout_ms } => {
                let interrupted = strike(&stop, &end, by, deadline(timeout_ms))?;
                Ok(Answer::Struck { interrupted })
            }
            Order::Continue { pids } => {
                for pid in pids {
                    kill_process(process(pid)?, Signal::CONT)?;
                }
                Ok(Answer::Done)
            }
            Order::Unmask { from, to } => {
                masked::unmask(Path::new(&from), Path::new(&to))?;
                Ok(Answer::Done)
            }
            Order::Read { path } => Ok(Answer::Text { text: read(Path::new(&path))? }),
            Order::Write { path, text } => {
                File::options().write(true).open(path)?.write_all(text.as_bytes())?;
                Ok(Answer::Done)
            }
            Order::TakeRequest => {
                // Open until it is answered. A request that never comes is the host's deadline.
                let mut chip = File::options().read(true).write(true).open(CHIP)?;
                let mut request = [0; REQUEST_BYTES];
                chip.read_exact(&mut request)?;
                let (data, level) = request.split_at(REQUEST_BYTES - size_of::<u32>());
                self.chip = Some(chip);
                let privilege_level = u32::from_le_bytes(level.try_into()?);
                Ok(Answer::Request { data: hex::encode(data), privilege_level })
            }
            Order::GiveAnswer { evidence, certificates } => {
                let mut chip = self.chip.take().ok_or("nobody asked")?;
                let parts = [hex::decode(evidence)?, hex::decode(certificates)?];
                let mut answer = Vec::new();
                for part in &parts {
                    answer.extend(u32::try_from(part.len())?.to_le_bytes());
                }
                answer.extend(parts.concat());
                // In one write.
                chip.write_all(&answer)?;
                Ok(Answer::Done)
            }
            Order::Sync => {
                rustix::fs::sync();
                Ok(Answer::Done)
            }
            Order::Crash => {
                fs::write("/proc/sysrq-trigger", "c")?;
                Err("the kernel did not crash".into())
            }
        }
    }

    fn start(
        &mut self,
        name: String,
        argv: &[String],
        timeout_ms: u64,
    ) -> Result<Answer, Box<dyn Error>> {
        let mut child =
            command(&name, argv)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let mut stdout = child.stdout.take().ok_or("its standard output is piped")?;
        let pid = child.id();
        let mut line = Vec::new();
        let deadline = deadline(timeout_ms);
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            if !is_ready(&stdout, deadline)? || stdout.read(&mut byte)? == 0 {
                child.kill()?;
                child.wait()?;
                let said = read(&output(&name, "err")).unwrap_or_default();
                return Err(format!("{} said no line: {said}", argv.join(" ")).into());
            }
            line.push(byte[0]);
        }
        self.started.insert(name, Started { child, stdin });
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        Ok(Answer::Started { pid, line })
    }
}

/// Everything between the first signal and the last happens without a system call that waits.
fn strike(stop: &[u32], end: &[u32], by: Death, deadline: Instant) -> Result<u32, Box<dyn Error>> {
    let targets: Vec<(Pid, OwnedFd)> = end
        .iter()
        .map(|pid| {
            let pid = process(*pid)?;
            Ok((pid, pidfd_open(pid, PidfdFlags::empty())?))
        })
        .collect::<Result<_, io::Error>>()?;
    if by == Death::OutOfMemory {
        for pid in end {
            fs::write(format!("/proc/{pid}/oom_score_adj"), "1000")?;
        }
    }
    let interrupted = await_work(end);
    for pid in stop {
        kill_process(process(*pid)?, Signal::STOP)?;
    }
    for (pid, _) in &targets {
        match by {
            Death::Kill => kill_process(*pid, Signal::KILL)?,
            Death::Abort => kill_process(*pid, Signal::ABORT)?,
            Death::OutOfMemory => fs::write("/proc/sysrq-trigger", "f")?,
        }
    }
    for (pid, pidfd) in &targets {
        if !is_ready(pidfd, deadline)? {
            let pid = pid.as_raw_nonzero();
            let [stat, stack] = ["stat", "stack"]
                .map(|file| read(&Path::new("/proc").join(pid.to_string()).join(file)));
            let (stat, stack) = (stat.unwrap_or_default(), stack.unwrap_or_default());
            return Err(format!("process {pid} did not end: {stat}{stack}").into());
        }
    }
    Ok(u32::try_from(interrupted)?)
}

/// Waits for a moment at which half of the processes are at work, and says how many are. What never
/// works is not waited for long.
#[expect(clippy::disallowed_methods, reason = "a process that works tells nobody that it does")]
fn await_work(pids: &[u32]) -> usize {
    let mut working = 0;
    for _ in 0..MOMENTS_MAX {
        working = pids.iter().filter(|pid| is_runnable(**pid)).count();
        if working * 2 >= pids.len() {
            break;
        }
        std::thread::sleep(MOMENT);
    }
    working
}

const MOMENTS_MAX: u32 = 500;

/// Not a multiple of the scheduler's ticks.
const MOMENT: Duration = Duration::from_micros(3700);

/// Whether a process is on a processor or waits for one (proc_pid_stat(5), state R).
fn is_runnable(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('R')))
}

fn process(pid: u32) -> Result<Pid, io::Error> {
    Pid::from_raw(pid.cast_signed()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn command(name: &str, argv: &[String]) -> Result<Command, Box<dyn Error>> {
    let (program, args) = argv.split_first().ok_or("run what?")?;
    let mut command = Command::new(program);
    command.args(args).current_dir("/").stderr(File::create(output(name, "err"))?);
    Ok(command)
}

fn output(name: &str, stream: &str) -> PathBuf {
    Path::new(OUTPUTS).join(format!("{name}.{stream}"))
}

fn ended(name: &str, status: ExitStatus) -> Answer {
    Answer::Ended {
        status: status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1),
        stdout: read(&output(name, "out")).unwrap_or_default(),
        stderr: read(&output(name, "err")).unwrap_or_default(),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(OUTPUT_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn deadline(timeout_ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(timeout_ms)
}

/// Waits for a child, and kills it at the deadline.
fn wait(child: &mut Child, deadline: Instant) -> Result<ExitStatus, Box<dyn Error>> {
    let pidfd = pidfd_open(process(child.id())?, PidfdFlags::empty())?;
    if !is_ready(&pidfd, deadline)? {
        child.kill()?;
        child.wait()?;
        return Err("it did not end in time, and was killed".into());
    }
    Ok(child.wait()?)
}

/// Waits until there is something to read, or an end.
fn is_ready(what: impl AsFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&what, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// What `modules/relay.h` makes.
const CHIP: &str = "/dev/fake-chip";

/// 64 bytes of report data and a privilege level.
const REQUEST_BYTES: usize = 68;

/// In memory, and never searched for keys on its own: nothing secret is printed.
const OUTPUTS: &str = "/run/evanesce-guest";
