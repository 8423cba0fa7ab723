//! `drill`: show on this host that nothing is left of a key, and search dumps for a canary.

use std::io::{self, BufRead as _, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use evanesce_protocol::PublicKey;
use evanesce_protocol::agent::{Response, request};
use evanesce_protocol::sshsig::HashAlgorithm;
use evanesce_residue::{Canary, ScanError, ScanReport, Scanner};
use serde::Serialize;

use crate::agent_client::{AgentClient, AgentError};
use crate::clock;
use crate::context::Context;
use crate::drill::life::{self, Setting};
use crate::drill::report::{CanaryLine, DrillReport, searched, write_hits};
use crate::drill::{numbered, places};
use crate::errors::{Coded, CommandError};
use crate::exit::Exit;
use crate::files;
use crate::new_file::{self, Existing};
use crate::progress::ProgressBar;
use crate::receipt_text::counted;
use crate::ui::{BAD, GOOD, Report, UNSURE};

/// Let a key that is made for it live and end on this host, and search for what is left
///
/// A canary is loaded, signs a thousand times, is looked for in the memory of every process, in a
/// core file that a debugger writes, on the disk and in swap; its worker is killed once while it
/// signs, and once ended in order. Controls that have to be found show that the search works. Needs
/// no installation and leaves nothing behind. Only root can look everywhere: whatever was not looked
/// at is listed, and the verdict is then not that the promise holds. Exits 0 where it holds, 1 where
/// it does not or not everything was looked at, and 2 on misuse.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  evanesce drill --html report.html
  evanesce drill --json | jq -r .verdict
  evanesce drill canary new canary.pem
  evanesce drill scan --canary canary.pem --pid \"$(pidof node)\""
)]
pub struct DrillArgs {
    #[command(subcommand)]
    command: Option<DrillCommand>,

    /// Let the canary sign N times
    #[arg(long, value_name = "N", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(1..=numbered::COUNT_MAX))]
    signatures: u64,

    /// Write the report as a page with a timeline to FILE, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Replace FILE where it exists
    #[arg(long, requires = "html")]
    force: bool,
}

#[derive(Debug, Subcommand)]
enum DrillCommand {
    Scan(ScanArgs),
    Canary(CanaryArgs),
    #[command(hide = true)]
    Sign(SignArgs),
    #[command(hide = true)]
    Hold(HoldArgs),
}

/// Search processes, dumps and devices for every form of a canary
///
/// Looks for every piece of eight bytes of everything that the key turns into while it signs. Exits 0
/// where all was read and nothing found, 1 where something was found or not everything could be
/// read, and 2 on misuse. Pages that no other process can read, memfd_secret(2) and the kernel's own,
/// are listed and not counted as unread.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  evanesce drill scan --canary canary.pem --pid 4711 --core core.4711 --swap
  evanesce drill scan --canary canary.pem --signed release.tar --device /dev/vda2")]
struct ScanArgs {
    /// Search for the canary in FILE, from `drill canary new`; no other key is read
    #[arg(long, value_name = "FILE")]
    canary: PathBuf,

    /// Search for the nonce of a signature of FILE, too, in SSHSIG's namespace `file` (can be repeated)
    #[arg(long, value_name = "FILE")]
    signed: Vec<PathBuf>,

    /// Search for the nonces of the first N requests that a drill signs, too
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=numbered::COUNT_MAX))]
    numbered: u64,

    /// Search the memory of process PID (can be repeated)
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,

    /// Search the core file or memory image FILE (can be repeated)
    #[arg(long, value_name = "FILE")]
    core: Vec<PathBuf>,

    /// Search FILE, or all files below it where it is a directory (can be repeated)
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,

    /// Search the block device DEVICE (can be repeated)
    #[arg(long, value_name = "DEVICE")]
    device: Vec<PathBuf>,

    /// Search the kernel's view of memory, /proc/kcore; this process's own copies are found there
    #[arg(long)]
    kcore: bool,

    /// Search every device and file that memory is swapped to
    #[arg(long)]
    swap: bool,
}

/// Make a key that is made for being searched for
#[derive(Debug, Args)]
struct CanaryArgs {
    #[command(subcommand)]
    command: CanaryCommand,
}

#[derive(Debug, Subcommand)]
enum CanaryCommand {
    New(CanaryNewArgs),
}

/// Write a new canary to FILE, marked as one, PKCS#8 PEM for its owner alone
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  evanesce drill canary new canary.pem
  evanesce run --key canary.pem -- ./release.sh")]
struct CanaryNewArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Replace FILE where it exists
    #[arg(long)]
    force: bool,
}

/// Sign numbered requests through the agent: what a drill's workload does
#[derive(Debug, Args)]
struct SignArgs {
    /// How many
    #[arg(long, value_name = "N")]
    count: u64,

    /// Go on until the agent hangs up
    #[arg(long)]
    endless: bool,
}

/// Keep hexadecimal lines in memory as bytes: the control of a drill
#[derive(Debug, Args)]
struct HoldArgs {}

/// Drills.
///
/// # Errors
///
/// Where the drill could not be held, or something that was named cannot be searched.
pub fn run(args: &DrillArgs, context: &Context<'_>) -> Result<DrillOutput, CommandError> {
    match &args.command {
        None => hold_drill(args, context).map(DrillOutput::Drill),
        Some(DrillCommand::Scan(args)) => scan(args, context).map(DrillOutput::Scan),
        Some(DrillCommand::Canary(CanaryArgs { command: CanaryCommand::New(args) })) => {
            new_canary(args).map(DrillOutput::Canary)
        }
        Some(DrillCommand::Sign(args)) => sign(args, context),
        Some(DrillCommand::Hold(HoldArgs {})) => hold(context),
    }
}

fn hold_drill(args: &DrillArgs, context: &Context<'_>) -> Result<Box<DrillReport>, CommandError> {
    let existing = Existing::of_force(args.force);
    if let Some(path) = &args.html {
        new_file::check(path, existing)?;
    }
    let program = std::env::current_exe().map_err(SelfError)?;
    let report = life::hold(Setting {
        program,
        search_path: context.variable("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
        signatures: args.signatures,
        ui: *context.ui(),
        now: clock::now,
    })?;
    if let Some(path) = &args.html {
        new_file::write(path, report.to_html().as_bytes(), existing)?;
    }
    Ok(Box::new(report))
}

fn scan(args: &ScanArgs, context: &Context<'_>) -> Result<Box<ScanOutput>, CommandError> {
    let canary = Canary::read_file(&args.canary)?;
    let mut requests = numbered::requests(args.numbered);
    for file in &args.signed {
        let digest = files::digest(file, HashAlgorithm::Sha512)?;
        requests.push(numbered::of_file("file", &digest));
    }
    let messages: Vec<_> = requests.iter().map(Vec::as_slice).collect();
    let forms = canary.forms(&messages);
    let scanner = Scanner::new(&forms);
    let canary = CanaryLine {
        public_key: PublicKey::from_bytes(canary.public_key()).to_string(),
        signatures: u64::try_from(requests.len()).unwrap_or(u64::MAX),
        forms: u64::try_from(forms.iter().count()).unwrap_or(u64::MAX),
        fragments: u64::try_from(forms.fragments()).unwrap_or(u64::MAX),
    };

    let mut report = ScanReport::default();
    let mut not_looked_at = Vec::new();
    let paths = paths(args, &mut not_looked_at)?;
    if args.pid.is_empty() && paths.is_empty() && not_looked_at.is_empty() {
        return Err(NothingError.into());
    }
    for pid in &args.pid {
        let mut bar = ProgressBar::new(*context.ui(), format!("process {pid}"));
        report.merge(scanner.scan_process(*pid, &mut |progress| bar.show(progress))?);
    }
    for path in paths {
        let mut bar = ProgressBar::new(*context.ui(), path.display().to_string());
        report.merge(scanner.scan_path(&path, &mut |progress| bar.show(progress))?);
    }
    not_looked_at.extend(places::unread(&report));
    let verdict = ScanVerdict::of(&report, &not_looked_at);
    Ok(Box::new(ScanOutput { verdict, canary, not_looked_at, report }))
}

/// All paths that were named, each of the kind that it has to be. What a host does not have is
/// noted.
fn paths(args: &ScanArgs, missing: &mut Vec<String>) -> Result<Vec<PathBuf>, CommandError> {
    let mut paths = Vec::new();
    for (path, kind) in args
        .core
        .iter()
        .map(|path| (path, Kind::File))
        .chain(args.device.iter().map(|path| (path, Kind::Device)))
    {
        let found = std::fs::metadata(path)
            .map_err(|source| ScanError::Open { path: path.clone(), source })?
            .file_type();
        let fits = match kind {
            Kind::File => found.is_file(),
            Kind::Device => found.is_block_device(),
        };
        if !fits {
            return Err(KindError { path: path.clone(), expected: kind.words() }.into());
        }
        paths.push(path.clone());
    }
    paths.extend(args.file.iter().cloned());
    if args.kcore {
        match Path::new(KCORE).exists() {
            true => paths.push(KCORE.into()),
            false => missing.push(format!("{KCORE}: this kernel has none")),
        }
    }
    if args.swap {
        let swaps = places::swaps()
            .map_err(|source| ScanError::Open { path: "/proc/swaps".into(), source })?;
        if swaps.is_empty() {
            missing.push("swap: this host has none".to_owned());
        }
        paths.extend(swaps);
    }
    Ok(paths)
}

#[derive(Clone, Copy)]
enum Kind {
    File,
    Device,
}

impl Kind {
    const fn words(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Device => "a block device",
        }
    }
}

fn new_canary(args: &CanaryNewArgs) -> Result<CanaryOutput, CommandError> {
    let existing = Existing::of_force(args.force);
    new_file::check(&args.file, existing)?;
    let canary = Canary::random().map_err(|error| EntropyError(error.into()))?;
    new_file::write_private(&args.file, canary.to_file().as_bytes(), existing)?;
    let public_key = PublicKey::from_bytes(canary.public_key()).to_string();
    Ok(CanaryOutput { written: args.file.clone(), public_key })
}

/// Says `signed` and the process id when the requests are signed, and waits for the end of its input,
/// or of the agent.
fn sign(args: &SignArgs, context: &Context<'_>) -> Result<DrillOutput, CommandError> {
    let socket = context.variable("SSH_AUTH_SOCK").ok_or(NoAgentError)?;
    let mut agent = AgentClient::connect(Path::new(&socket))?;
    let key = match agent.ask(&request::identities())? {
        Response::Identities(mut keys) if !keys.is_empty() => keys.swap_remove(0).0,
        _ => return Err(AgentError::Unexpected.into()),
    };
    for index in 0..args.count {
        agent.sign(&key, &numbered::request(index))?;
    }
    context.ui().answer(&format!("signed {}", std::process::id()));
    if args.endless {
        // The same again: their nonces are the same, and so are known.
        for index in (0..args.count).cycle() {
            agent.sign(&key, &numbered::request(index))?;
        }
    }
    await_end_of_input();
    Ok(DrillOutput::Nothing)
}

fn hold(context: &Context<'_>) -> Result<DrillOutput, CommandError> {
    let mut held: Vec<Vec<u8>> = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(HoldError)?;
        if line.is_empty() {
            break;
        }
        held.push(hex::decode(line).map_err(|error| HoldError(io::Error::other(error)))?);
    }
    context.ui().answer("holding");
    await_end_of_input();
    std::hint::black_box(held);
    Ok(DrillOutput::Nothing)
}

fn await_end_of_input() {
    // However it ends, it has ended.
    drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
}

/// What one of the drills came to.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum DrillOutput {
    #[expect(missing_docs, reason = "named like its command")]
    Drill(Box<DrillReport>),
    #[expect(missing_docs, reason = "named like its command")]
    Scan(Box<ScanOutput>),
    #[expect(missing_docs, reason = "named like its command")]
    Canary(CanaryOutput),
    /// It said all while it ran.
    Nothing,
}

impl Report for DrillOutput {
    fn exit(&self) -> Exit {
        match self {
            Self::Drill(report) => report.exit(),
            Self::Scan(output) => output.exit(),
            Self::Canary(_) | Self::Nothing => Exit::Success,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Drill(report) => report.render(out),
            Self::Scan(output) => output.render(out),
            Self::Canary(CanaryOutput { written, public_key }) => {
                writeln!(out, "canary {public_key} → {}", written.display())
            }
            Self::Nothing => Ok(()),
        }
    }

    fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            _ => {
                serde_json::to_writer(&mut *out, self)?;
                out.write_all(b"\n")
            }
        }
    }
}

/// What a search came to.
#[derive(Debug, Serialize)]
pub struct ScanOutput {
    verdict: ScanVerdict,
    canary: CanaryLine,
    not_looked_at: Vec<String>,
    report: ScanReport,
}

/// The whole in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum ScanVerdict {
    /// All was read, and nothing was found.
    NothingFound,
    /// Something was found.
    Found,
    /// Nothing was found, and not all could be read; or what was found may be this process's own.
    Undecided,
}

impl ScanVerdict {
    fn of(report: &ScanReport, not_looked_at: &[String]) -> Self {
        let elsewhere = report.hits.iter().any(|hit| hit.source != KCORE);
        let is_cut =
            u64::try_from(report.hits.len()).is_ok_and(|listed| listed < report.hits_total);
        match report.hits_total {
            0 if report.bytes_scanned > 0 && not_looked_at.is_empty() => Self::NothingFound,
            0 => Self::Undecided,
            _ if elsewhere || is_cut => Self::Found,
            _ => Self::Undecided,
        }
    }
}

impl ScanOutput {
    const fn exit(&self) -> Exit {
        match self.verdict {
            ScanVerdict::NothingFound => Exit::Success,
            ScanVerdict::Found | ScanVerdict::Undecided => Exit::Failure,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let CanaryLine { public_key, signatures, fragments, .. } = &self.canary;
        let signatures = counted(*signatures, "signature");
        writeln!(out, "canary    {public_key}, {signatures}, {}", counted(*fragments, "fragment"))?;
        for source in &self.report.sources {
            let bytes = crate::progress::bytes(source.bytes_scanned);
            writeln!(
                out,
                "searched  {}: {bytes} in {}",
                source.name,
                counted(source.parts, "part")
            )?;
        }
        for part in &self.not_looked_at {
            writeln!(out, "not read  {UNSURE}{part}{UNSURE:#}")?;
        }
        write_hits(&self.report, "", out)?;
        let (style, words) = match self.verdict {
            ScanVerdict::NothingFound => (GOOD, "nothing of the key was found"),
            ScanVerdict::Found => (BAD, "the key was found"),
            ScanVerdict::Undecided if self.report.hits_total > 0 => {
                (UNSURE, "undecided: what was found in kernel memory may be this search's own")
            }
            ScanVerdict::Undecided => (UNSURE, "nothing was found, and not everything was read"),
        };
        writeln!(out, "scan: {style}{words}{style:#} ({})", searched(&self.report))
    }
}

/// A canary that was made.
#[derive(Debug, Serialize)]
pub struct CanaryOutput {
    written: PathBuf,
    public_key: String,
}

/// Nothing was named.
#[derive(Debug, thiserror::Error)]
#[error("nothing was named to search")]
struct NothingError;

impl Coded for NothingError {
    fn code(&self) -> &'static str {
        "scan.nothing"
    }
}

/// A path is of another kind than the flag says.
#[derive(Debug, thiserror::Error)]
#[error("{} is not {expected}", path.display())]
struct KindError {
    path: PathBuf,
    expected: &'static str,
}

impl Coded for KindError {
    fn code(&self) -> &'static str {
        "scan.kind"
    }
}

/// This program does not know where it is.
#[derive(Debug, thiserror::Error)]
#[error("this program's own file is not known")]
struct SelfError(#[source] io::Error);

impl Coded for SelfError {
    fn code(&self) -> &'static str {
        "drill.own-program"
    }
}

/// The kernel gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the kernel gave no random bytes")]
struct EntropyError(#[source] io::Error);

impl Coded for EntropyError {
    fn code(&self) -> &'static str {
        "start.entropy"
    }
}

/// `drill sign` outside of a workload.
#[derive(Debug, thiserror::Error)]
#[error("there is no agent: SSH_AUTH_SOCK is not set")]
struct NoAgentError;

impl Coded for NoAgentError {
    fn code(&self) -> &'static str {
        "drill.no-agent"
    }
}

/// What is to be held is not hexadecimal, or could not be read.
#[derive(Debug, thiserror::Error)]
#[error("what is to be held could not be read")]
struct HoldError(#[source] io::Error);

impl Coded for HoldError {
    fn code(&self) -> &'static str {
        "drill.hold"
    }
}

/// The kernel's memory as an ELF core file.
const KCORE: &str = "/proc/kcore";

/// Where there is no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

#[cfg(test)]
mod tests {
    use evanesce_residue::Hit;

    use super::*;

    fn found_in(sources: &[&str], hits_total: u64) -> ScanReport {
        let hit = |source: &&str| Hit {
            form: "seed".into(),
            form_offset: 0,
            bytes: 8,
            fragments: 1,
            source: (*source).to_owned(),
            place: (*source).to_owned(),
            offset: 0,
        };
        let hits = sources.iter().map(hit).collect();
        ScanReport { bytes_scanned: 1, hits_total, hits, ..ScanReport::default() }
    }

    #[test]
    fn what_was_not_read_is_not_clean_and_own_copies_decide_nothing() {
        let of = |report: &ScanReport, open: &[String]| ScanVerdict::of(report, open);
        let unread = ["x".to_owned()];

        assert_eq!(of(&found_in(&[], 0), &[]), ScanVerdict::NothingFound);
        assert_eq!(of(&found_in(&[], 0), &unread), ScanVerdict::Undecided);
        assert_eq!(of(&ScanReport::default(), &[]), ScanVerdict::Undecided);
        assert_eq!(of(&found_in(&["process 7"], 1), &unread), ScanVerdict::Found);
        assert_eq!(of(&found_in(&[KCORE], 1), &[]), ScanVerdict::Undecided);
        assert_eq!(of(&found_in(&[KCORE], 9), &[]), ScanVerdict::Found);
    }
}
