//! `playbook`: list, show and run the playbooks of this program.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use clap::{Args, Subcommand};
use evanesce_launcher::ReportDraft;
use evanesce_ledger::Timestamp;
use evanesce_ledger::report::{FiledReport, FiledStep, ReportOutcome, StepOutcome};
use evanesce_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::exit::Exit;
use crate::files;
use crate::local_log;
use crate::new_file::{self, Existing};
use crate::playbook::{Playbook, Step};
use crate::receipt_text::name_of;
use crate::ui::{BAD, FAINT, GOOD, Report, UNSURE};

/// List, show and run playbooks: what to do, step by step, and how to know that it worked
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  evanesce playbook list
  evanesce playbook show crypto-shred
  evanesce playbook run crypto-shred --set KEY=operator.pem")]
pub struct PlaybookArgs {
    #[command(subcommand)]
    command: PlaybookCommand,
}

#[derive(Debug, Subcommand)]
enum PlaybookCommand {
    List(ListArgs),
    Show(ShowArgs),
    Run(RunArgs),
}

/// List the playbooks
#[derive(Debug, Args)]
struct ListArgs {}

/// Print a playbook
#[derive(Debug, Args)]
struct ShowArgs {
    /// The playbook
    #[arg(value_name = "NAME")]
    name: String,
}

/// Do the steps of a playbook, and file a signed report in the ledger
///
/// Stops at the first step that does not hold; run again, it goes on with that step. Asks before a
/// step that destroys something. Exits 0 where every step holds, 1 where one does not or was left
/// out, and 2 on misuse.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  evanesce playbook run crypto-shred
  evanesce playbook run host-reuse --set VOLUME=/dev/vg0/keys --yes")]
struct RunArgs {
    /// The playbook
    #[arg(value_name = "NAME")]
    name: String,

    /// Set a variable of the playbook: NAME=VALUE (can be repeated)
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,

    /// Do not ask before steps that destroy something
    #[arg(long, short)]
    yes: bool,

    /// Begin with the first step, whatever was done before
    #[arg(long)]
    restart: bool,

    /// Leave out steps that this host has not what they need for; the report then says so
    #[arg(long)]
    leave_out_missing: bool,

    /// Undo step N instead, where it can be undone
    #[arg(long, value_name = "N", conflicts_with = "restart")]
    undo: Option<usize>,
}

/// Does what is asked with playbooks.
///
/// # Errors
///
/// Where there is no such playbook, or it cannot be run. A step that does not hold is a report.
pub fn run(args: &PlaybookArgs, context: &Context<'_>) -> Result<PlaybookReport, CommandError> {
    match &args.command {
        PlaybookCommand::List(ListArgs {}) => Ok(PlaybookReport::List(
            Playbook::all()
                .map(|Playbook { name, title, summary, who, when, .. }| Listed {
                    name,
                    title,
                    summary,
                    who,
                    when,
                })
                .collect(),
        )),
        PlaybookCommand::Show(args) => {
            Ok(PlaybookReport::Show(Shown { text: find(&args.name)?.text }))
        }
        PlaybookCommand::Run(args) => {
            follow(args, context).map(|run| PlaybookReport::Run(Box::new(run)))
        }
    }
}

fn find(name: &str) -> Result<Playbook, NoPlaybookError> {
    Playbook::named(name).ok_or_else(|| NoPlaybookError { name: name.to_owned() })
}

fn follow(args: &RunArgs, context: &Context<'_>) -> Result<RunReport, CommandError> {
    let playbook = find(&args.name)?;
    let settings = settings(args, &playbook)?;
    let follower =
        Follower { args, playbook: &playbook, context, tools: Tools::new(&settings, context)? };
    if let Some(number) = args.undo {
        return follower.undo(number);
    }
    let path = context.playbook_state(&playbook.name)?;
    let mut state = match args.restart {
        true => State::new(&playbook, settings),
        false => State::read(&path, &playbook, settings)?,
    };
    let resumed = state.steps.len();
    while let Some(step) = playbook.steps.get(state.steps.len()) {
        let done = follower.step(step)?;
        if done.outcome == StepOutcome::DoesNotHold {
            // What was done stays done: the next run begins with this step.
            return Ok(RunReport { resumed, ..follower.file(&state, Some(done))? });
        }
        state.steps.push(done);
        state.write(&path)?;
    }
    let filed = follower.file(&state, None)?;
    match fs::remove_file(&path) {
        Ok(()) => Ok(RunReport { resumed, ..filed }),
        Err(source) => Err(StateError::Write { path, source }.into()),
    }
}

fn settings(args: &RunArgs, playbook: &Playbook) -> Result<BTreeMap<String, String>, SettingError> {
    let mut replaced = Vec::new();
    for text in &args.settings {
        let pair = text.split_once('=').ok_or_else(|| SettingError { text: text.clone() })?;
        replaced.push(pair);
    }
    playbook.settings_with(replaced).map_err(|text| SettingError { text })
}

/// What has been done of a playbook. A file, so that a run that was stopped goes on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// SHA-256 of the text that is followed.
    text: Digest,
    settings: BTreeMap<String, String>,
    began: Timestamp,
    steps: Vec<FiledStep>,
}

impl State {
    fn new(playbook: &Playbook, settings: BTreeMap<String, String>) -> Self {
        Self { text: playbook.digest(), settings, began: clock::now(), steps: Vec::new() }
    }

    /// What an earlier run left, or a new one. A run of another text or with other settings is not
    /// gone on with.
    fn read(
        path: &Path,
        playbook: &Playbook,
        settings: BTreeMap<String, String>,
    ) -> Result<Self, StateError> {
        if !path.exists() {
            return Ok(Self::new(playbook, settings));
        }
        let other = || StateError::Other { path: path.to_owned() };
        let bytes = files::read_small(path, STATE_BYTES_MAX).map_err(StateError::Read)?;
        let state: Self = serde_json::from_slice(&bytes).map_err(|_| other())?;
        let fits = state.text == playbook.digest()
            && state.settings == settings
            && state.steps.len() <= playbook.steps.len();
        if fits { Ok(state) } else { Err(other()) }
    }

    fn write(&self, path: &Path) -> Result<(), CommandError> {
        let text = serde_json::to_string(self).expect("a state is plain data");
        Ok(new_file::write_private(path, format!("{text}\n").as_bytes(), Existing::Replace)?)
    }
}

/// What the commands of a playbook find: this program under its name, and the settings.
struct Tools {
    /// Holds a link to this program; removed when it is dropped.
    _links: tempfile::TempDir,
    variables: Vec<(String, std::ffi::OsString)>,
}

impl Tools {
    fn new(
        settings: &BTreeMap<String, String>,
        context: &Context<'_>,
    ) -> Result<Self, CommandError> {
        let links = tempfile::tempdir().map_err(ToolsError)?;
        let program = std::env::current_exe().map_err(ToolsError)?;
        symlink(program, links.path().join("evanesce")).map_err(ToolsError)?;
        let mut path = links.path().as_os_str().to_owned();
        if let Some(rest) = context.variable("PATH") {
            path.push(":");
            path.push(rest);
        }
        let mut variables = vec![
            ("PATH".to_owned(), path),
            ("EVANESCE_STATE_DIR".to_owned(), context.state_dir()?.into()),
        ];
        variables.extend(settings.iter().map(|(name, value)| (name.clone(), value.into())));
        Ok(Self { _links: links, variables })
    }

    /// Runs commands in one shell that stops at the first that fails. What they print goes to
    /// standard error.
    fn shell(&self, commands: &str) -> io::Result<ExitStatus> {
        let output = io::stderr().as_fd().try_clone_to_owned()?;
        Command::new("bash")
            .args(["-e", "-u", "-o", "pipefail", "-c", commands])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output)
            .status()
    }
}

struct Follower<'a> {
    args: &'a RunArgs,
    playbook: &'a Playbook,
    context: &'a Context<'a>,
    tools: Tools,
}

impl Follower<'_> {
    fn step(&self, step: &Step) -> Result<FiledStep, CommandError> {
        self.context.ui().say(&format!("=== {}", step.title));
        let ended = |outcome, seen: String| {
            Ok(FiledStep { title: step.title.clone(), outcome, seen, ended: clock::now() })
        };
        let missing: Vec<_> = step.needs.iter().filter(|need| !self.has(need)).collect();
        if let Some(missing) = missing.first() {
            if !self.args.leave_out_missing {
                let (title, missing) = (step.title.clone(), (*missing).clone());
                return Err(NeedError { title, missing }.into());
            }
            let seen = format!("left out: this host has no {missing}");
            self.context.ui().say(&seen);
            return ended(StepOutcome::LeftOut, seen);
        }
        if let Some(loss) = &step.destructive {
            self.confirm(&step.title, loss)?;
        }
        for (commands, what) in [(Some(&step.commands), "commands"), (step.check.as_ref(), "check")]
        {
            let Some(commands) = commands else { continue };
            let status = self.tools.shell(commands).map_err(ToolsError)?;
            if !status.success() {
                let seen = format!("its {what} failed: {status}");
                self.context.ui().say(&seen);
                return ended(StepOutcome::DoesNotHold, seen);
            }
        }
        ended(StepOutcome::Holds, step.worked.clone())
    }

    fn undo(&self, number: usize) -> Result<RunReport, CommandError> {
        let step = number.checked_sub(1).and_then(|index| self.playbook.steps.get(index));
        let step = step.ok_or(UndoError::NoStep { number })?;
        let commands = step.undo_commands.as_ref().ok_or_else(|| UndoError::Never {
            title: step.title.clone(),
            why: step.undo.clone(),
        })?;
        self.confirm(&step.title, "it is undone")?;
        let status = self.tools.shell(commands).map_err(ToolsError)?;
        let outcome = match status.success() {
            true => StepOutcome::Holds,
            false => StepOutcome::DoesNotHold,
        };
        let undone = FiledStep {
            title: format!("Undo {}", step.title),
            outcome,
            seen: format!("its commands: {status}"),
            ended: clock::now(),
        };
        let state = State::new(self.playbook, BTreeMap::new());
        self.file(&state, Some(undone))
    }

    /// Whether this host has something that a step needs.
    fn has(&self, need: &str) -> bool {
        match need {
            "root" => rustix::process::geteuid().is_root(),
            "systemd" => Path::new("/run/systemd/system").is_dir(),
            // The device node is there without its driver, too: programs make it.
            "device-mapper" => fs::read_to_string("/proc/misc")
                .is_ok_and(|drivers| drivers.lines().any(|line| line.ends_with(" device-mapper"))),
            program => {
                let path = self.context.variable("PATH").unwrap_or_default();
                std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
            }
        }
    }

    fn confirm(&self, title: &str, loss: &str) -> Result<(), NotConfirmedError> {
        if self.args.yes {
            return Ok(());
        }
        let refused = || NotConfirmedError { title: title.to_owned() };
        if !io::stdin().is_terminal() {
            return Err(refused());
        }
        self.context.ui().say(&format!("{title}: {loss}. Go on? [y/N]"));
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        match read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
            true => Ok(()),
            false => Err(refused()),
        }
    }

    fn file(&self, state: &State, last: Option<FiledStep>) -> Result<RunReport, CommandError> {
        let mut steps = state.steps.clone();
        steps.extend(last);
        let launcher = self.context.launcher()?;
        let filed = launcher.file_report(ReportDraft {
            playbook: self.playbook.name.clone(),
            text: self.playbook.digest(),
            began: state.began,
            ended: clock::now(),
            steps,
        })?;
        local_log::grow(self.context, &launcher);
        Ok(RunReport { report: filed.report, report_row: filed.row, resumed: 0 })
    }
}

/// What was listed, shown or done.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum PlaybookReport {
    #[expect(missing_docs, reason = "named like its command")]
    List(Vec<Listed>),
    #[expect(missing_docs, reason = "named like its command")]
    Show(Shown),
    #[expect(missing_docs, reason = "named like its command")]
    Run(Box<RunReport>),
}

/// A playbook in a list.
#[derive(Debug, Serialize)]
pub struct Listed {
    name: String,
    title: String,
    summary: String,
    who: String,
    when: String,
}

/// A playbook's text.
#[derive(Debug, Serialize)]
pub struct Shown {
    text: String,
}

/// What came of a run, as it was filed.
#[derive(Debug, Serialize)]
pub struct RunReport {
    report: FiledReport,
    report_row: u64,
    /// Steps that an earlier run had done.
    resumed: usize,
}

impl Report for PlaybookReport {
    fn exit(&self) -> Exit {
        match self {
            Self::Run(run) if run.report.outcome != ReportOutcome::Holds => Exit::Failure,
            Self::List(_) | Self::Show(_) | Self::Run(_) => Exit::Success,
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::List(playbooks) => playbooks.iter().try_for_each(|playbook| {
                let Listed { name, title, summary, .. } = playbook;
                writeln!(out, "{name:26} {title}\n{:26} {FAINT}{summary}{FAINT:#}", "")
            }),
            Self::Show(shown) => write!(out, "{}", shown.text),
            Self::Run(run) => run.render(out),
        }
    }
}

impl RunReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        for step in &self.report.steps {
            let style = match step.outcome {
                StepOutcome::Holds => GOOD,
                StepOutcome::DoesNotHold => BAD,
                StepOutcome::LeftOut => UNSURE,
            };
            let outcome = name_of(step.outcome);
            writeln!(out, "{style}{outcome:<13}{style:#} {}: {}", step.title, step.seen)?;
        }
        let outcome = name_of(self.report.outcome);
        writeln!(
            out,
            "playbook {}: {outcome}; row {} of the ledger",
            self.report.playbook, self.report_row
        )
    }
}

/// There is no such playbook.
#[derive(Debug, thiserror::Error)]
#[error("there is no playbook {name:?}")]
struct NoPlaybookError {
    name: String,
}

impl Coded for NoPlaybookError {
    fn code(&self) -> &'static str {
        "playbook.none"
    }
}

/// A setting is not one of the playbook's.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} sets nothing in this playbook")]
struct SettingError {
    text: String,
}

impl Coded for SettingError {
    fn code(&self) -> &'static str {
        "playbook.setting"
    }
}

/// The host lacks what a step needs.
#[derive(Debug, thiserror::Error)]
#[error("step {title:?} needs {missing}, which this host does not have")]
struct NeedError {
    title: String,
    missing: String,
}

impl Coded for NeedError {
    fn code(&self) -> &'static str {
        "playbook.needs"
    }
}

/// Nobody said yes.
#[derive(Debug, thiserror::Error)]
#[error("nobody confirmed step {title:?}")]
struct NotConfirmedError {
    title: String,
}

impl Coded for NotConfirmedError {
    fn code(&self) -> &'static str {
        "playbook.not-confirmed"
    }
}

/// The shell could not be prepared or started.
#[derive(Debug, thiserror::Error)]
#[error("the commands of the playbook could not be started")]
struct ToolsError(#[source] io::Error);

impl Coded for ToolsError {
    fn code(&self) -> &'static str {
        "playbook.shell"
    }
}

/// A step cannot be undone.
#[derive(Debug, thiserror::Error)]
enum UndoError {
    #[error("the playbook has no step {number}")]
    NoStep { number: usize },
    #[error("step {title:?} has no commands that undo it: {why}")]
    Never { title: String, why: String },
}

impl Coded for UndoError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoStep { .. } => "playbook.no-step",
            Self::Never { .. } => "playbook.no-undo",
        }
    }
}

/// What an earlier run left cannot be gone on with.
#[derive(Debug, thiserror::Error)]
enum StateError {
    #[error("what an earlier run left could not be read")]
    Read(#[source] files::ReadError),
    #[error("{} is of a run with another text or other settings", path.display())]
    Other { path: PathBuf },
    #[error("{} could not be removed", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Coded for StateError {
    fn code(&self) -> &'static str {
        match self {
            Self::Read(_) => "playbook.state-read",
            Self::Other { .. } => "playbook.other-run",
            Self::Write { .. } => "playbook.state-write",
        }
    }
}

const STATE_BYTES_MAX: u64 = 1024 * 1024;
