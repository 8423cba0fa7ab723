//! `without-secret-pages PROGRAM ARGUMENT…`: runs a program on what looks to it like a kernel built
//! without `memfd_secret(2)`: the call answers `ENOSYS`, to it and to all that it starts.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

fn main() -> Result<(), Box<dyn Error>> {
    let mut line = env::args_os().skip(1);
    let program = line.next().ok_or("usage: without-secret-pages PROGRAM ARGUMENT…")?;
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_memfd_secret, vec![])]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        TargetArch::x86_64,
    )?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Err(Command::new(program).args(line).exec().into())
}
