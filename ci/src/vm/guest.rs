//! The guest, as it is talked to from outside.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use evanesce_guest::{Answer, Death, Order};

use super::error::VmError;

/// A guest that takes orders.
#[derive(Debug)]
pub(crate) struct Guest {
    stream: BufReader<UnixStream>,
}

/// What a program that ended in the guest left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Guest {
    /// A guest that has yet to say that it is ready.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Waits until it has booted.
    pub(crate) fn await_ready(&mut self, patience: Duration) -> Result<(), VmError> {
        match self.answer(Instant::now() + patience)? {
            Answer::Ready => Ok(()),
            other => Err(VmError::Unexpected { what: format!("{other:?}") }),
        }
    }

    /// Runs a program to its end, whatever its status.
    pub(crate) fn run(&mut self, argv: &[&str]) -> Result<Ended, VmError> {
        let order = Order::Run { argv: owned(argv), timeout_ms: milliseconds(PROGRAM) };
        ended(self.obey(&order, PROGRAM)?)
    }

    /// Runs a program that has to succeed, and returns what it printed.
    pub(crate) fn output(&mut self, argv: &[&str]) -> Result<String, VmError> {
        let Ended { status, stdout, stderr } = self.run(argv)?;
        match status {
            0 => Ok(stdout),
            _ => Err(VmError::InGuest { program: argv.join(" "), status, said: stderr }),
        }
    }

    /// Starts a program that goes on once it has said its first line, and returns its process id
    /// and that line.
    pub(crate) fn start(&mut self, name: &str, argv: &[&str]) -> Result<(u32, String), VmError> {
        let (name, argv) = (name.to_owned(), owned(argv));
        let order = Order::Start { name, argv, timeout_ms: milliseconds(START) };
        match self.obey(&order, START)? {
            Answer::Started { pid, line } => Ok((pid, line)),
            other => Err(VmError::Unexpected { what: format!("{other:?}") }),
        }
    }

    /// Lets a started program come to its end.
    pub(crate) fn finish(&mut self, name: &str) -> Result<Ended, VmError> {
        let order = Order::Finish { name: name.to_owned(), timeout_ms: milliseconds(PROGRAM) };
        ended(self.obey(&order, PROGRAM)?)
    }

    /// Stops some processes and ends others; returns how many of the latter were interrupted.
    pub(crate) fn strike(&mut self, stop: &[u32], end: &[u32], by: Death) -> Result<u32, VmError> {
        let (stop, end) = (stop.to_vec(), end.to_vec());
        let order = Order::Strike { stop, end, by, timeout_ms: milliseconds(DEATH) };
        match self.obey(&order, PROGRAM)? {
            Answer::Struck { interrupted } => Ok(interrupted),
            other => Err(VmError::Unexpected { what: format!("{other:?}") }),
        }
    }

    /// Stops processes.
    pub(crate) fn stop(&mut self, pids: &[u32]) -> Result<(), VmError> {
        self.strike(pids, &[], Death::Kill).map(drop)
    }

    /// Lets stopped processes go on.
    pub(crate) fn let_go_on(&mut self, pids: &[u32]) -> Result<(), VmError> {
        self.do_it(&Order::Continue { pids: pids.to_vec() })
    }

    /// Makes a key file of a masked one.
    pub(crate) fn unmask(&mut self, from: String, to: String) -> Result<(), VmError> {
        self.do_it(&Order::Unmask { from, to })
    }

    /// Reads a small file.
    pub(crate) fn read(&mut self, path: &str) -> Result<String, VmError> {
        match self.obey(&Order::Read { path: path.to_owned() }, SHORT)? {
            Answer::Text { text } => Ok(text),
            other => Err(VmError::Unexpected { what: format!("{other:?}") }),
        }
    }

    /// Writes a setting.
    pub(crate) fn write(&mut self, path: &str, text: &str) -> Result<(), VmError> {
        self.do_it(&Order::Write { path: path.to_owned(), text: text.to_owned() })
    }

    /// Waits until somebody in the guest asks the chip for a report, and returns the 64 bytes that
    /// are to be in it.
    pub(crate) fn take_request(&mut self) -> Result<[u8; 64], VmError> {
        match self.obey(&Order::TakeRequest, SHORT)? {
            Answer::Request { data, privilege_level: 0 } => hex::decode(&data)
                .ok()
                .and_then(|data| data.try_into().ok())
                .ok_or(VmError::Unexpected { what: data }),
            other => Err(VmError::Unexpected { what: format!("{other:?}") }),
        }
    }

    /// Answers it.
    pub(crate) fn give_answer(
        &mut self,
        evidence: &[u8],
        certificates: &[u8],
    ) -> Result<(), VmError> {
        let [evidence, certificates] = [evidence, certificates].map(hex::encode);
        self.do_it(&Order::GiveAnswer { evidence, certificates })
    }

    /// Has everything written to the disks.
    pub(crate) fn sync(&mut self) -> Result<(), VmError> {
        match self.obey(&Order::Sync, PROGRAM)? {
            Answer::Done => Ok(()),
            other => Err(VmError::Unexpected { what: format!("{other:?}") }),
        }
    }

    /// Crashes the kernel.
    pub(crate) fn crash(&mut self) -> Result<(), VmError> {
        self.send(&Order::Crash)
    }

    fn do_it(&mut self, order: &Order) -> Result<(), VmError> {
        match self.obey(order, SHORT)? {
            Answer::Done => Ok(()),
            other => Err(VmError::Unexpected { what: format!("{other:?}") }),
        }
    }

    /// The guest keeps the order's own deadline; the host waits a little longer.
    fn obey(&mut self, order: &Order, patience: Duration) -> Result<Answer, VmError> {
        self.send(order)?;
        match self.answer(Instant::now() + patience + GRACE)? {
            Answer::Failed { reason } => {
                Err(VmError::Guest { order: format!("{order:?}"), reason })
            }
            answer => Ok(answer),
        }
    }

    fn send(&mut self, order: &Order) -> Result<(), VmError> {
        let mut line = serde_json::to_string(order).expect("an order is plain data");
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).map_err(VmError::io("talk to the guest"))
    }

    fn answer(&mut self, deadline: Instant) -> Result<Answer, VmError> {
        let failed = |source| VmError::Io { what: "hear from the guest".into(), source };
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let left = deadline.saturating_duration_since(Instant::now()).max(GRACE / 1000);
            self.stream.get_ref().set_read_timeout(Some(left)).map_err(failed)?;
            if self.stream.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        serde_json::from_slice(&line)
            .map_err(|_| VmError::Unexpected { what: String::from_utf8_lossy(&line).into_owned() })
    }
}

fn ended(answer: Answer) -> Result<Ended, VmError> {
    match answer {
        Answer::Ended { status, stdout, stderr } => Ok(Ended { status, stdout, stderr }),
        other => Err(VmError::Unexpected { what: format!("{other:?}") }),
    }
}

fn owned(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|&argument| argument.to_owned()).collect()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// For what the guest's own program does.
const SHORT: Duration = Duration::from_secs(60);

/// For a program's first line: on an emulated processor a start takes seconds.
const START: Duration = Duration::from_secs(180);

/// For a program's whole run.
const PROGRAM: Duration = Duration::from_secs(180);

/// For the end of a process that was killed.
const DEATH: Duration = Duration::from_secs(20);

/// For the way there and back.
const GRACE: Duration = Duration::from_secs(5);
