//! `cargo xtask fuzz`: libFuzzer on the parsers that read what others write.
//!
//! The targets and what must hold of them are in `fuzz/`. They are built here, with the compiler's
//! own coverage instrumentation, and started from valid inputs. What was covered of this
//! repository's code is read from the programs afterwards ([`coverage`]).

mod coverage;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::ValueEnum;

use crate::programs::{ProgramError, cargo, show, target_directory};
use coverage::Coverage;

/// Give generated inputs to the parsers, and see that nothing but a refusal comes of them
///
/// Fails where an input panics, takes longer than 10 s, or leaves memory behind; the input is then
/// kept. What was found worth keeping serves the next run. With --planted, each target has a bug of
/// each kind, and the run fails where one is not found.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArgs {
    /// Give each target N inputs
    #[arg(long, value_name = "N", default_value = "1000000")]
    runs: u64,

    /// Only fuzz TARGET (can be repeated)
    #[arg(long = "target", value_name = "TARGET")]
    targets: Vec<Target>,

    /// Look for bugs that were planted
    #[arg(long)]
    planted: bool,

    /// Say of each source file what was covered
    #[arg(long, conflicts_with = "planted")]
    files: bool,
}

/// One program of `fuzz/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// What a client of the agent socket sends
    AgentFrames,
    /// Packets on the control channel
    ControlMessages,
    /// Key files
    KeyFiles,
    /// The segments of a ledger
    LedgerSegments,
    /// Reports, quotes, their certificates and collateral, and policies
    Evidence,
    /// What a worker's machine and its launcher say, and firmware
    Machine,
}

impl Target {
    fn name(self) -> String {
        self.to_possible_value().expect("no target is hidden").get_name().to_owned()
    }

    /// Bytes in an input: enough for what is read, and not more than is searched well.
    const fn input_bytes_max(self) -> usize {
        match self {
            Self::AgentFrames | Self::ControlMessages => 4096,
            // A little more than any key file has.
            Self::KeyFiles => 17 * 1024,
            Self::LedgerSegments => 16 * 1024,
            // A little more than the collateral of the seeds.
            Self::Evidence => 24 * 1024,
            // A little more than a page of firmware.
            Self::Machine => 5 * 1024,
        }
    }
}

pub(crate) fn run(args: &FuzzArgs) -> Result<FuzzReport, FuzzError> {
    let targets = match args.targets.is_empty() {
        true => Target::value_variants(),
        false => &args.targets,
    };
    let built = Built::build(args.planted)?;
    let mut lines = Vec::new();
    for target in targets {
        match args.planted {
            true => {
                for kind in Planted::ALL {
                    built.find_planted(*target, kind, args.runs)?;
                }
                lines.push(Line::Found(*target));
            }
            false => lines.push(Line::Clean(*target, built.fuzz(*target, args.runs)?)),
        }
    }
    Ok(FuzzReport { lines, with_files: args.files })
}

/// The programs, and where they keep what they find.
struct Built {
    programs: PathBuf,
    work: PathBuf,
}

/// What one run did.
#[derive(Debug)]
struct Figures {
    inputs: u64,
    seconds: f64,
    rss_mib: u64,
    coverage: Coverage,
}

/// A kind of planted bug, and how libFuzzer ends when it meets it.
#[derive(Clone, Copy, Debug)]
struct Planted {
    kind: &'static str,
    says: &'static str,
}

impl Planted {
    const ALL: [Self; 3] = [
        Self { kind: "panic", says: "the planted bug was found" },
        Self { kind: "hang", says: "ERROR: libFuzzer: timeout" },
        Self { kind: "growth", says: "memory grew from" },
    ];
}

impl Built {
    fn build(planted: bool) -> Result<Self, FuzzError> {
        let work = target_directory()?.join("fuzz");
        let mut cargo = cargo();
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().contains("RUSTFLAGS"))
        {
            cargo.env_remove(name);
        }
        cargo
            .args(["build", "--locked", "--release", "--manifest-path", "fuzz/Cargo.toml"])
            // Named, so that build scripts are not instrumented.
            .args(["--target", TRIPLE])
            .arg("--target-dir")
            .arg(&work)
            .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\u{1f}"));
        if planted {
            cargo.args(["--features", "planted"]);
        }
        show(&mut cargo)?;
        // Of their own, so that a build with planted bugs does not replace programs that run.
        let programs = work.join("programs").join(if planted { "planted" } else { "clean" });
        let failed = |source| FuzzError::Folder { path: programs.clone(), source };
        fs::create_dir_all(&programs).map_err(failed)?;
        for target in Target::value_variants() {
            let (name, new) = (target.name(), format!("{}.new", target.name()));
            fs::copy(work.join(TRIPLE).join("release").join(&name), programs.join(&new))
                .and_then(|_| fs::rename(programs.join(&new), programs.join(&name)))
                .map_err(failed)?;
        }
        Ok(Self { programs, work })
    }

    /// Gives a target its inputs. What it finds worth keeping is kept for the next run.
    fn fuzz(&self, target: Target, runs: u64) -> Result<Figures, FuzzError> {
        let corpus = self.folder("corpus", target)?;
        let began = Instant::now();
        let log = self.search(target, runs, &corpus, HANG_SECONDS, None)?;
        let seconds = began.elapsed().as_secs_f64();
        if !log.success {
            let name = target.name();
            return Err(FuzzError::Found { target: name, said: log.tail() });
        }
        let statistic = |name| log.statistic(name);
        Ok(Figures {
            inputs: statistic("number_of_executed_units").ok_or(FuzzError::NoFigures)?,
            seconds,
            rss_mib: statistic("peak_rss_mb").ok_or(FuzzError::NoFigures)?,
            coverage: Coverage::of(&self.program(target), &corpus)?,
        })
    }

    /// Looks for a planted bug, from the seeds alone.
    fn find_planted(&self, target: Target, planted: Planted, runs: u64) -> Result<(), FuzzError> {
        let corpus = self.folder("planted", target)?;
        let failed = |source| FuzzError::Folder { path: corpus.clone(), source };
        fs::remove_dir_all(&corpus).and_then(|()| fs::create_dir_all(&corpus)).map_err(failed)?;
        let log = self.search(target, runs, &corpus, PLANTED_HANG_SECONDS, Some(planted.kind))?;
        match !log.success && log.text.contains(planted.says) {
            true => Ok(()),
            false => {
                let (target, kind) = (target.name(), planted.kind);
                Err(FuzzError::NotFound { target, kind, said: log.tail() })
            }
        }
    }

    fn search(
        &self,
        target: Target,
        runs: u64,
        corpus: &Path,
        hang_seconds: u64,
        planted: Option<&str>,
    ) -> Result<Log, FuzzError> {
        let seeds = self.folder("seeds", target)?;
        let kind = if planted.is_some() { "found-planted" } else { "found" };
        let artefacts = self.folder(kind, target)?;
        let mut command = Command::new(self.program(target));
        command
            .arg(corpus)
            .arg(&seeds)
            .arg(format!("-runs={runs}"))
            .arg(format!("-max_len={}", target.input_bytes_max()))
            .arg(format!("-timeout={hang_seconds}"))
            .arg(format!("-rss_limit_mb={RSS_MIB_MAX}"))
            .arg(format!("-artifact_prefix={}/", artefacts.display()))
            .args(["-print_final_stats=1", "-verbosity=1"])
            .env("EVANESCE_SEEDS", &seeds)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null());
        if let Some(kind) = planted {
            command.env("EVANESCE_PLANTED", kind);
        }
        let program = target.name();
        let output = command.output().map_err(|source| ProgramError::Start { program, source })?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Log { success: output.status.success(), text })
    }

    fn folder(&self, kind: &str, target: Target) -> Result<PathBuf, FuzzError> {
        let path = self.work.join(kind).join(target.name());
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(FuzzError::Folder { path, source }),
        }
    }

    fn program(&self, target: Target) -> PathBuf {
        self.programs.join(target.name())
    }
}

/// What libFuzzer said.
struct Log {
    success: bool,
    text: String,
}

impl Log {
    fn statistic(&self, name: &str) -> Option<u64> {
        let start = format!("stat::{name}:");
        let line = self.text.lines().find_map(|line| line.strip_prefix(&start))?;
        line.trim().parse().ok()
    }

    fn tail(&self) -> String {
        let lines: Vec<_> = self.text.lines().collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }
}

/// What was done.
#[derive(Debug)]
pub(crate) struct FuzzReport {
    lines: Vec<Line>,
    with_files: bool,
}

#[derive(Debug)]
enum Line {
    Clean(Target, Figures),
    Found(Target),
}

impl fmt::Display for FuzzReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.lines.iter();
        let line = |f: &mut fmt::Formatter<'_>, line: &Line| match line {
            Line::Clean(target, Figures { inputs, seconds, rss_mib, coverage }) => {
                let name = target.name();
                write!(
                    f,
                    "{name}: {inputs} inputs in {seconds:.0} s, at most {rss_mib} MiB, no crash, \
                     no hang, no growth; covered of this repository: {coverage}"
                )?;
                match self.with_files {
                    true => coverage.write_files(f),
                    false => Ok(()),
                }
            }
            Line::Found(target) => {
                write!(f, "{}: the planted panic, hang and growth were found", target.name())
            }
        };
        if let Some(first) = lines.next() {
            line(f, first)?;
        }
        lines.try_for_each(|next| f.write_str("\n").and_then(|()| line(f, next)))
    }
}

/// Why nothing can be said, or what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FuzzError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("the directory {} could not be made", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{target}: an input did what none may (it is kept, see the last lines)\n{said}")]
    Found { target: String, said: String },
    #[error("{target}: the planted {kind} was not found\n{said}")]
    NotFound { target: String, kind: &'static str, said: String },
    #[error("libFuzzer printed no figures")]
    NoFigures,
    #[error("what was covered is not known: {0}")]
    Coverage(&'static str),
}

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What libFuzzer needs of the compiler (SanitizerCoverage in Clang's documentation): counters and
/// comparisons at every edge, and a table of the addresses, which are fixed so that they can be
/// looked up.
const INSTRUMENTATION: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Clink-arg=-no-pie",
    // A dependency is a shared library as well, which nothing uses and libFuzzer is not part of.
    "-Clink-arg=-Wl,--warn-unresolved-symbols",
];

/// An input that takes longer is a hang.
const HANG_SECONDS: u64 = 10;
const PLANTED_HANG_SECONDS: u64 = 2;

/// Memory of the whole process, libFuzzer's own included.
const RSS_MIB_MAX: u64 = 1024;

const LINES_SHOWN: usize = 40;
