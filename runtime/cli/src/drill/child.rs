//! Other processes, under a deadline: started, listened to, stopped, ended when nobody waits.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process of the drill. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Running {
    /// Starts `program` with these arguments and variables, and nothing else of ours.
    ///
    /// # Errors
    ///
    /// Those of execve(2).
    pub fn start(
        program: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        variables: &[(OsString, OsString)],
        directory: &Path,
    ) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let lines = lines_of(child.stdout.take());
        let errors = lines_of(child.stderr.take());
        Ok(Self { stdin: child.stdin.take(), lines, errors, child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    ///
    /// # Errors
    ///
    /// Those of write(2).
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stdin = self.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(bytes)?;
        stdin.flush()
    }

    /// The next line of its standard output.
    ///
    /// # Errors
    ///
    /// Where it says nothing more, or nothing in time; with what it said on standard error.
    pub fn next_line(&self) -> io::Result<String> {
        self.lines.recv_timeout(DEADLINE).map_err(|error| {
            let what = match error {
                RecvTimeoutError::Timeout => "it said nothing in time",
                RecvTimeoutError::Disconnected => "it ended",
            };
            io::Error::other(format!("{what}: {}", self.last_error()))
        })
    }

    /// Closes its standard input and waits for its end.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] where it does not end in time.
    pub fn finish(&mut self) -> io::Result<ExitStatus> {
        drop(self.stdin.take());
        wait(&mut self.child)
    }

    /// What it last said on standard error.
    pub fn last_error(&self) -> String {
        self.errors.try_iter().last().unwrap_or_else(|| "without a word".to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        self.child.kill().unwrap_or(());
        drop(self.child.wait());
    }
}

/// Runs a program to its end and takes what it printed; kills it after the deadline.
///
/// # Errors
///
/// Where it cannot be started or does not end in time.
pub fn output(mut command: Command) -> io::Result<Output> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (bytes_of(child.stdout.take()), bytes_of(child.stderr.take()));
    let status = wait(&mut child);
    if status.is_err() {
        child.kill().unwrap_or(());
        drop(child.wait());
    }
    let taken = |bytes: Receiver<Vec<u8>>| bytes.recv_timeout(DEADLINE).unwrap_or_default();
    Ok(Output { status: status?, stdout: taken(stdout), stderr: taken(stderr) })
}

/// Stops processes while something looks at them; lets them go on when it is dropped.
#[derive(Debug)]
pub struct Stopped(Vec<std::os::fd::OwnedFd>);

impl Stopped {
    /// Stops all of these and waits until they are.
    ///
    /// # Errors
    ///
    /// Where one cannot be signalled or does not stop in time; those that were stopped go on.
    pub fn all(pids: &[u32]) -> io::Result<Self> {
        let mut stopped = Self(Vec::new());
        for pid in pids {
            let pidfd = open(*pid)?;
            pidfd_send_signal(&pidfd, Signal::STOP)?;
            stopped.0.push(pidfd);
        }
        for pid in pids {
            until(|| Ok(status(*pid, "State")?.starts_with(['T', 't'])))?;
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pidfd in &self.0 {
            // It may be gone.
            pidfd_send_signal(pidfd, Signal::CONT).unwrap_or(());
        }
    }
}

/// Sends a signal to a process.
///
/// # Errors
///
/// Where it is gone, or another user's.
pub fn send(pid: u32, signal: Signal) -> io::Result<()> {
    Ok(pidfd_send_signal(open(pid)?, signal)?)
}

/// Whether a process is there, as more than an entry that nobody has reaped.
pub fn is_alive(pid: u32) -> bool {
    status(pid, "State").is_ok_and(|state| !state.starts_with(['Z', 'X']))
}

/// A line of `/proc/PID/status`, without its name.
///
/// # Errors
///
/// Where there is no such process or line.
pub fn status(pid: u32, field: &str) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.ok_or(io::ErrorKind::NotFound)?.trim().to_owned())
}

/// Waits until something is so.
///
/// # Errors
///
/// Those of `is_so`, and [`io::ErrorKind::TimedOut`].
pub fn until(mut is_so: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !is_so()? {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Nothing tells when a file of /proc changes.
        thread::park_timeout(LOOK_AGAIN);
    }
    Ok(())
}

fn open(pid: u32) -> io::Result<std::os::fd::OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let mut ended = None;
    until(|| {
        ended = child.try_wait()?;
        Ok(ended.is_some())
    })?;
    ended.ok_or_else(|| io::ErrorKind::TimedOut.into())
}

fn lines_of(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let lines = stream.map(|stream| BufReader::new(stream.take(OUTPUT_BYTES_MAX)).lines());
        for line in lines.into_iter().flatten().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

fn bytes_of(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(stream) = stream {
            // What was read until an error is what there is.
            stream.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).unwrap_or_default();
        }
        send.send(bytes).unwrap_or(());
    });
    receive
}

/// How long any of them may take.
const DEADLINE: Duration = Duration::from_secs(120);

const LOOK_AGAIN: Duration = Duration::from_millis(5);

const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;
