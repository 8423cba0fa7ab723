//! What a process of the same user can try against a worker and its launcher.
//!
//! `hostile-workload look`, run as a workload's command: every way to another process's memory and
//! descriptors that the kernel has, on the worker, on the launcher, and on a process that does
//! nothing against it. One line each: `TARGET<tab>ATTACK<tab>refused|succeeded<tab>REASON`.
//!
//! `hostile-workload race PROGRAM ARGUMENT…`: runs the program, and opens the memory of every child
//! it has, over and over, from before they execute anything until the program says its first line.
//! Repeats that line, then says `PID ATTEMPTS OPENED` for each child.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "whoever started it reads what it says")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, IoSliceMut};
use std::os::unix::process::parent_id;
use std::process::{Command, Stdio};
use std::thread;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("look") => look(),
        Some("race") => {
            let program = args.next().ok_or("race against which program?")?;
            race(&program, &args.collect::<Vec<_>>())
        }
        _ => Err("look or race?".into()),
    }
}

fn look() -> Result<(), Box<dyn Error>> {
    let launcher = parent_id();
    let own = std::process::id();
    let workers: Vec<u32> = children(launcher)?.into_iter().filter(|child| *child != own).collect();
    if workers.is_empty() {
        return Err("the launcher has no worker".into());
    }
    let mut bystander = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    attack("launcher", launcher);
    workers.into_iter().for_each(|worker| attack("worker", worker));
    attack("bystander", bystander.id());
    bystander.kill()?;
    bystander.wait()?;
    Ok(())
}

fn attack(target: &str, pid: u32) {
    for (name, attempt) in ATTACKS {
        match attempt(pid) {
            Ok(()) => println!("{target}\t{name}\tsucceeded\t"),
            Err(error) => println!("{target}\t{name}\trefused\t{error}"),
        }
    }
}

/// An attempt on the process of this number; success is what must not be.
type Attempt = fn(u32) -> io::Result<()>;

const ATTACKS: &[(&str, Attempt)] = &[
    ("read its memory", |pid| File::open(of(pid, "mem")).map(drop)),
    ("write its memory", |pid| File::options().write(true).open(of(pid, "mem")).map(drop)),
    ("read its mappings", |pid| fs::read(of(pid, "maps")).map(drop)),
    ("read its page table", |pid| File::open(of(pid, "pagemap")).map(drop)),
    ("read its environment", |pid| fs::read(of(pid, "environ")).map(drop)),
    ("read its auxiliary vector", |pid| fs::read(of(pid, "auxv")).map(drop)),
    ("follow its program", |pid| fs::read_link(of(pid, "exe")).map(drop)),
    ("list its descriptors", |pid| fs::read_dir(of(pid, "fd")).map(drop)),
    ("open its descriptor 0", |pid| fs::read_link(of(pid, "fd/0")).map(drop)),
    ("take its descriptor 0", take_descriptor),
    ("process_vm_readv", read_remotely),
    ("ptrace", trace),
];

fn of(pid: u32, file: &str) -> String {
    format!("/proc/{pid}/{file}")
}

fn take_descriptor(pid: u32) -> io::Result<()> {
    let pid =
        rustix::process::Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_getfd(pidfd, 0, PidfdGetfdFlags::empty())?;
    Ok(())
}

fn read_remotely(pid: u32) -> io::Result<()> {
    let mut byte = [0];
    let remote = RemoteIoVec { base: 0x1000, len: 1 };
    match process_vm_readv(raw(pid), &mut [IoSliceMut::new(&mut byte)], &[remote]) {
        // Nothing is mapped there: the kernel had let us in by then.
        Ok(_) | Err(Errno::EFAULT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Last, because its target is stopped from then on.
fn trace(pid: u32) -> io::Result<()> {
    ptrace::seize(raw(pid), ptrace::Options::empty()).map_err(Into::into)
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

fn race(program: &str, args: &[String]) -> Result<(), Box<dyn Error>> {
    let mut target = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut said = BufReader::new(target.stdout.take().expect("piped"));
    let first_line = thread::spawn(move || {
        let mut line = String::new();
        said.read_line(&mut line).map(|_| line)
    });

    let mut tried: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    while !first_line.is_finished() {
        for child in children(target.id()).unwrap_or_default() {
            let memory = File::options().read(true).write(true).open(of(child, "mem"));
            let (attempts, opened) = tried.entry(child).or_default();
            *attempts += 1;
            *opened += u64::from(memory.is_ok());
        }
    }
    let first_line = first_line.join().expect("reading does not panic")?;
    println!("{}", first_line.trim_end());
    for (child, (attempts, opened)) in tried {
        println!("{child} {attempts} {opened}");
    }
    drop(target.stdin.take());
    target.wait()?;
    Ok(())
}

fn children(pid: u32) -> io::Result<Vec<u32>> {
    let list = fs::read_to_string(of(pid, &format!("task/{pid}/children")))?;
    Ok(list.split_whitespace().filter_map(|child| child.parse().ok()).collect())
}
