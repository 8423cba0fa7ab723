//! Who is killed, and finding them.

use std::fmt;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::chance::Chance;

/// One of the processes of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// `evanesce` itself.
    Launcher,
    /// The worker with the key, or the notary's, whichever is there.
    Worker,
    /// The program that the workload runs.
    Command,
}

impl Victim {
    /// Any of the three.
    pub(crate) fn of(chance: &mut Chance) -> Self {
        match chance.number() % 3 {
            0 => Self::Launcher,
            1 => Self::Worker,
            _ => Self::Command,
        }
    }

    /// Kills the victim once `moment` has passed, or as soon as it is there after that. Says whether
    /// it was met alive.
    pub(crate) fn kill_after(self, moment: Duration, launcher: u32) -> bool {
        let launcher_fd = open(launcher).expect("it is not waited for yet");
        let deadline = Instant::now() + moment;
        if ends_before(&launcher_fd, deadline) {
            return false;
        }
        loop {
            match self.find(launcher) {
                Some(Found::Launcher) => return kill(&launcher_fd),
                Some(Found::Child(victim)) => return kill(&victim),
                None if ends_before(&launcher_fd, Instant::now() + LOOK_AGAIN) => return false,
                None => {}
            }
        }
    }

    fn find(self, launcher: u32) -> Option<Found> {
        let is_victim = |child: &&Child| match self {
            Self::Launcher => false,
            Self::Worker => child.image == Image::Worker,
            Self::Command => child.image == Image::Command,
        };
        if self == Self::Launcher {
            return Some(Found::Launcher);
        }
        let found = children_of(launcher);
        let victim = open(found.iter().find(is_victim)?.pid)?;
        // Opened and still the launcher's child: nobody else has got its number meanwhile.
        let still = children_of(launcher);
        still.iter().any(|child| is_victim(&child)).then_some(Found::Child(victim))
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Launcher => "launcher",
            Self::Worker => "worker",
            Self::Command => "command",
        })
    }
}

enum Found {
    Launcher,
    Child(OwnedFd),
}

/// A child of some process, alive or waiting to be reaped.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    image: Image,
    state: char,
}

impl Child {
    /// Whether it is a worker that its launcher had stopped to overwrite it. Nothing else is ever
    /// stopped here, and one that is overwritten has no command line left to be known by.
    pub(crate) fn is_stopped_worker(&self) -> bool {
        self.state == 'T'
    }
}

/// What a process executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Image {
    Worker,
    Command,
    /// Nothing: it has ended.
    None,
}

/// The children of a process that execute a program of their own, by `/proc`.
pub(crate) fn children_of(parent: u32) -> Vec<Child> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let own = command_line(parent);
    pids.filter_map(|pid| Some((pid, state_and_parent(pid)?)))
        .filter(|(_, (_, of))| *of == parent)
        .filter_map(|(pid, (state, _))| {
            let line = command_line(pid);
            // Between fork and exec a child is its parent's image.
            let image = match line.as_slice() {
                [] => Image::None,
                line if line == own => return None,
                line if line.starts_with(b"evanesce-worker\0") => Image::Worker,
                _ => Image::Command,
            };
            Some(Child { pid, image, state })
        })
        .collect()
}

/// Two fields of `stat`, behind the name in parentheses (proc_pid_stat(5)).
fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn command_line(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()
}

fn kill(victim: &OwnedFd) -> bool {
    !ends_before(victim, Instant::now()) && pidfd_send_signal(victim, Signal::KILL).is_ok()
}

/// Waits for the end of a process, or for `deadline`.
fn ends_before(process: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("some seconds");
        match poll(&mut [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)], Some(&left)) {
            Ok(ended) => return ended != 0,
            Err(Errno::INTR) => {}
            Err(errno) => panic!("poll failed: {errno}"),
        }
    }
}

/// A victim that is not there yet is looked for again after this time.
const LOOK_AGAIN: Duration = Duration::from_micros(500);
