//! Publishing after a workload: `evanesce log publish`, in a process of its own.
//!
//! Whatever comes of it, the workload's result is what it was: the process that publishes is not
//! waited for longer than [`WAIT_MAX`], and a signal that asks to end ends the waiting alone.

use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use evanesce_transparency::publish::TargetName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::clock;
use crate::context::Context;
use crate::errors::CommandError;
use crate::local_log::LocalLog;

/// How long a command waits for what it publishes. The process goes on after that.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// What came of publishing, as far as it was waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Publishing {
    /// Everything is published.
    Done,
    /// Something waits in the outbox; why, if it was heard.
    Waits {
        /// The report of `log publish`, or its error.
        report: Option<Value>,
    },
    /// It goes on in the background.
    GoesOn,
    /// It could not be started.
    NotStarted {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Publishing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("everything"),
            Self::GoesOn => f.write_str("not yet: it goes on in the background"),
            Self::NotStarted { reason } => write!(f, "nothing: {reason}"),
            Self::Waits { report } => {
                let targets = report.as_ref().and_then(|report| report["targets"].as_array());
                let reason = |target: &Value| {
                    Some(target["stopped"]["failed"]["message"].as_str()?.to_owned())
                };
                let reason = targets.into_iter().flatten().find_map(reason);
                let reason = reason.unwrap_or_else(|| "`evanesce log publish` says why".into());
                write!(f, "not everything, the rest waits: {reason}")
            }
        }
    }
}

/// Where a command publishes to once it is done.
#[derive(Debug, clap::Args)]
pub struct PublishingArgs {
    /// Publish what the log has by then to TARGET, of `log target`, afterwards (can be repeated)
    ///
    /// In a process of its own, for which at most a minute is waited. Whatever comes of it, the exit
    /// status is the command's; what is not published waits.
    #[arg(long = "publish", value_name = "TARGET")]
    targets: Vec<TargetName>,
}

impl PublishingArgs {
    /// Refuses names of targets that are not there: before there is a key.
    ///
    /// # Errors
    ///
    /// [`TargetError::None`](evanesce_transparency::publish::TargetError::None).
    pub fn check(&self, context: &Context<'_>) -> Result<(), CommandError> {
        if self.targets.is_empty() {
            return Ok(());
        }
        let outbox = LocalLog::of(context)?.outbox();
        for target in &self.targets {
            outbox.files(target)?;
        }
        Ok(())
    }

    /// Publishes, if that was asked for.
    ///
    /// # Errors
    ///
    /// Where there is no state directory; what comes of publishing is in the result.
    pub fn publish(&self, context: &Context<'_>) -> Result<Option<Publishing>, CommandError> {
        match self.targets.is_empty() {
            true => Ok(None),
            false => Ok(Some(publish(&context.state_dir()?, &self.targets))),
        }
    }
}

/// Publishes what waits for `targets`, in the installation with `state_dir`.
fn publish(state_dir: &Path, targets: &[TargetName]) -> Publishing {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        // Without its handler a signal would end this process with a status that is not the
        // command's.
        signal_hook::flag::register(signal, Arc::clone(&flag)).map(drop).unwrap_or(());
    }
    let started = start(state_dir, targets);
    match started.and_then(|child| wait(child, &flag)) {
        Ok(publishing) => publishing,
        Err(error) => Publishing::NotStarted { reason: error.to_string() },
    }
}

fn start(state_dir: &Path, targets: &[TargetName]) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--json").arg("--state-dir").arg(state_dir).args(["log", "publish"]);
    command.args(targets.iter().map(TargetName::as_str));
    // In a group of its own: what a terminal sends ends the waiting, not the publishing.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    command.spawn()
}

fn wait(mut child: Child, flag: &AtomicBool) -> io::Result<Publishing> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pidfd = pidfd_open(pid.expect("a child's id is positive"), PidfdFlags::empty())?;
    let deadline = clock::now().unix_ms().saturating_add(WAIT_MAX_MS);
    let step = Timespec::try_from(STEP).expect("a fraction of a second");
    loop {
        let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
        let ended = poll(&mut watched, Some(&step)).is_ok_and(|ready| ready > 0);
        if ended {
            break;
        }
        if flag.load(Ordering::Relaxed) || clock::now().unix_ms() >= deadline {
            return Ok(Publishing::GoesOn);
        }
    }
    let mut report = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(REPORT_BYTES_MAX).read_to_end(&mut report)?;
    }
    match child.wait()?.success() {
        true => Ok(Publishing::Done),
        false => Ok(Publishing::Waits { report: serde_json::from_slice(&report).ok() }),
    }
}

const WAIT_MAX_MS: u64 = WAIT_MAX.as_secs() * 1000;

const STEP: Duration = Duration::from_millis(100);

const REPORT_BYTES_MAX: u64 = 64 * 1024;
