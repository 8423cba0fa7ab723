//! Programs under a deadline: started, talked to, waited for, and killed when nobody waits.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// How long anything may take. Reached only by what hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a program that ended left.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, as far as nobody took lines of it before.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// Asserts the exit status.
    ///
    /// # Panics
    ///
    /// For any other end, with everything that the program said.
    #[track_caller]
    pub fn expect_status(self, expected: i32) -> Self {
        assert_eq!(self.status.code(), Some(expected), "{self:#?}");
        self
    }

    /// Asserts that the program refused with one clear line, ending in the stable `code`, and at
    /// most one hint.
    ///
    /// # Panics
    ///
    /// Where it said anything else on standard error, or anything at all on standard output.
    #[track_caller]
    pub fn expect_refusal(self, status: i32, code: &str) -> Self {
        let outcome = self.expect_status(status);
        let (errors, others): (Vec<&str>, Vec<&str>) =
            outcome.stderr.lines().partition(|line| line.starts_with("error: "));
        assert!(
            errors.len() == 1 && errors[0].ends_with(&format!("[{code}]")),
            "expected one error [{code}]: {outcome:#?}"
        );
        assert!(
            others.len() == 1 && others[0].starts_with("hint: "),
            "expected one hint: {outcome:#?}"
        );
        assert_eq!(outcome.stdout, "", "{outcome:#?}");
        outcome
    }

    /// The signal that ended it, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// A program that runs, with standard input, output and error in our hands. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
}

impl Running {
    /// Starts it in a process group of its own.
    ///
    /// # Panics
    ///
    /// Where it cannot be started.
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{command:?} could not be started: {error}"),
        };
        Self {
            stdin: child.stdin.take(),
            stdout: Lines::of(child.stdout.take().expect("piped")),
            stderr: Lines::of(child.stderr.take().expect("piped")),
            child,
        }
    }

    /// The next line of its standard output.
    ///
    /// # Panics
    ///
    /// Where it ends, or the deadline passes, without one.
    #[track_caller]
    pub fn next_line(&mut self) -> String {
        match self.stdout.next_before(Instant::now() + DEADLINE) {
            Some(line) => line,
            None => {
                self.kill();
                panic!("no line came: {:?}", self.stderr.rest());
            }
        }
    }

    /// Writes to its standard input.
    ///
    /// # Panics
    ///
    /// Where it takes no more.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("standard input is open until the end");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("it reads its input");
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// Where it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.raw_pid(), signal).expect("it is there until it is waited for");
    }

    /// Closes its standard input and waits for its end.
    ///
    /// # Panics
    ///
    /// Where the deadline passes.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        drop(self.stdin.take());
        self.wait()
    }

    /// Waits for its end, which it has to find by itself.
    ///
    /// # Panics
    ///
    /// Where the deadline passes.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        if !ends_before_deadline(self.raw_pid()) {
            self.kill();
            panic!("it does not end: {:?} {:?}", self.stdout.rest(), self.stderr.rest());
        }
        let status = self.child.wait().expect("it has ended");
        Outcome { status, stdout: self.stdout.rest(), stderr: self.stderr.rest() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn kill(&mut self) {
        // Whatever is gone already need not be killed.
        kill_process_group(self.raw_pid(), Signal::KILL).ok();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.kill();
    }
}

/// Runs a program to its end.
///
/// # Panics
///
/// Where it cannot be started or the deadline passes.
#[track_caller]
pub fn output(command: Command) -> Outcome {
    Running::start(command).finish()
}

/// Waits for something to be so.
///
/// # Panics
///
/// Where the deadline passes before it is.
#[track_caller]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks again: not all can be polled"
)]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came to be: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process is there and not just waiting to be reaped.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

/// Sends a signal to a process by its number.
///
/// # Panics
///
/// Where it is not there.
#[track_caller]
pub fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

fn ends_before_deadline(pid: Pid) -> bool {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a child that nobody has waited for");
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("a minute");
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ended) => return ended != 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => panic!("poll failed: {errno}"),
        }
    }
}

/// The lines of a stream, read as they come by a thread that ends with the stream.
#[derive(Debug)]
struct Lines(Receiver<String>);

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self(receiver)
    }

    fn next_before(&mut self, deadline: Instant) -> Option<String> {
        let line = self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
        Some(line.trim_end_matches('\n').to_owned())
    }

    /// All that is still to come. Somebody who inherited the stream may keep it open for a while.
    fn rest(&mut self) -> String {
        let deadline = Instant::now() + STREAM_CLOSES_WITHIN;
        let mut text = String::new();
        loop {
            match self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => text.push_str(&line),
                Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => return text,
            }
        }
    }
}

const STREAM_CLOSES_WITHIN: Duration = Duration::from_secs(5);
