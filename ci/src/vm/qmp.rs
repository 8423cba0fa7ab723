//! QEMU's own protocol: one JSON object a line, answers in order, events in between.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::error::VmError;

/// A connection to a running QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    events: VecDeque<String>,
}

impl Qmp {
    /// Takes the greeting and leaves the negotiation behind.
    pub(crate) fn new(stream: UnixStream) -> Result<Self, VmError> {
        let mut qmp = Self { stream: BufReader::new(stream), events: VecDeque::new() };
        let greeting = qmp.line(Instant::now() + ANSWER)?;
        if greeting.get("QMP").is_none() {
            return Err(VmError::Unexpected { what: greeting.to_string() });
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Has a command executed.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, VmError> {
        let failed = |source| VmError::Io { what: format!("tell QEMU {command}"), source };
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        self.stream.get_mut().write_all(line.as_bytes()).map_err(failed)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            let mut said = self.line(deadline)?;
            if let Some(event) = said["event"].as_str() {
                self.events.push_back(event.to_owned());
            } else if let Some(error) = said["error"]["desc"].as_str() {
                return Err(VmError::Qmp { command: command.into(), reason: error.into() });
            } else {
                return Ok(said["return"].take());
            }
        }
    }

    /// Waits for an event, those that came earlier included.
    pub(crate) fn await_event(&mut self, event: &str, patience: Duration) -> Result<(), VmError> {
        let deadline = Instant::now() + patience;
        loop {
            while let Some(came) = self.events.pop_front() {
                if came == event {
                    return Ok(());
                }
            }
            if let Some(came) = self.line(deadline)?["event"].as_str() {
                self.events.push_back(came.to_owned());
            }
        }
    }

    fn line(&mut self, deadline: Instant) -> Result<Value, VmError> {
        let failed = |source| VmError::Io { what: "hear from QEMU".into(), source };
        let left = deadline.saturating_duration_since(Instant::now()).max(LEAST_WAIT);
        self.stream.get_ref().set_read_timeout(Some(left)).map_err(failed)?;
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err(failed(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => serde_json::from_str(&line).map_err(|_| VmError::Unexpected { what: line }),
            Err(error) => Err(failed(error)),
        }
    }
}

/// A dump of all memory is one command.
const ANSWER: Duration = Duration::from_secs(180);

/// A timeout of zero would be none.
const LEAST_WAIT: Duration = Duration::from_millis(1);
