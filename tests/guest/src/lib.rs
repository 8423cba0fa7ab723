//! What host and guest of the virtual machine of `cargo xtask vm` say to each other.
//!
//! One [`Order`] and one [`Answer`] in a line of JSON each, over a virtio console. Orders come one
//! at a time. No byte of a key is in either: keys reach the guest [masked](masked), on a disk that
//! is not searched.
//!
//! # Why the guest has a program of its own
//!
//! What is to be found in freed memory is overwritten by the next process that starts. So the guest
//! kills, waits and answers from one process that is running already ([`Order::Strike`]), and the
//! host freezes the machine on the answer.

#![forbid(unsafe_code)]

pub mod masked;
pub mod messages;

use serde::{Deserialize, Serialize};

/// What the host asks for. Every order has a deadline in milliseconds, after which it has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Run a program to its end.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
        /// The deadline.
        timeout_ms: u64,
    },
    /// Start a program that goes on, and answer with its first line of standard output.
    Start {
        /// How later orders name it.
        name: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// The deadline of that line.
        timeout_ms: u64,
    },
    /// Close the standard input of a started program and wait for its end.
    Finish {
        /// Its name.
        name: String,
        /// The deadline.
        timeout_ms: u64,
    },
    /// Stop processes, then end others, without starting any program, and wait for those ends.
    ///
    /// Nothing else runs between the first and the last signal: this program has the only
    /// processor, at a real-time priority. So what the ended processes were doing is what the
    /// order interrupted.
    Strike {
        /// These are stopped first (SIGSTOP), so that they do not react.
        stop: Vec<u32>,
        /// These are ended.
        end: Vec<u32>,
        /// How.
        by: Death,
        /// The deadline.
        timeout_ms: u64,
    },
    /// Let stopped processes go on (SIGCONT).
    Continue {
        /// Their ids.
        pids: Vec<u32>,
    },
    /// Make a key file of a masked one, one byte at a time.
    Unmask {
        /// The masked file.
        from: String,
        /// The key file, on a file system in memory that never swaps.
        to: String,
    },
    /// Read a small file.
    Read {
        /// Its path.
        path: String,
    },
    /// Write a small file, in place: settings of the kernel.
    Write {
        /// Its path.
        path: String,
        /// What to write.
        text: String,
    },
    /// Wait until somebody asks the chip for a report (`modules/relay.h`).
    TakeRequest,
    /// Answer what was asked.
    GiveAnswer {
        /// The evidence, in hexadecimal digits.
        evidence: String,
        /// The table of certificates; empty where there is none.
        certificates: String,
    },
    /// Write everything to the disks (sync(2)).
    Sync,
    /// Crash the kernel. There is no answer.
    Crash,
}

/// How a process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Death {
    /// SIGKILL.
    Kill,
    /// SIGABRT, which leaves a core file where one may be left.
    Abort,
    /// The kernel's out-of-memory killer, with the process as its favourite.
    OutOfMemory,
}

/// What the guest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It has started and takes orders.
    Ready,
    /// Done, nothing to say.
    Done,
    /// A program ended.
    Ended {
        /// Its exit status, or 128 and the signal that ended it.
        status: i32,
        /// What it printed, at most [`OUTPUT_BYTES_MAX`].
        stdout: String,
        /// What it complained of, at most [`OUTPUT_BYTES_MAX`].
        stderr: String,
    },
    /// A program was started.
    Started {
        /// Its process id.
        pid: u32,
        /// Its first line.
        line: String,
    },
    /// Processes were ended.
    Struck {
        /// How many of them were on a processor or waiting for one, not asleep.
        interrupted: u32,
    },
    /// Somebody asked the chip for a report.
    Request {
        /// The 64 bytes to be in it, in hexadecimal digits.
        data: String,
        /// The privilege level to be in it.
        privilege_level: u32,
    },
    /// The contents of a file.
    Text {
        /// Them.
        text: String,
    },
    /// It could not be done.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Bytes of a program's output that are handed on.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// The name of the virtio port that both sides talk through.
pub const PORT: &str = "evanesce.guest";
