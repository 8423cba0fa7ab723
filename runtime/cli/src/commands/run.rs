//! `run`: let a command sign through a key of its own, then destroy the key.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use evanesce_launcher::{
    CommandEnd, CommandLine, EndError, EndReason, Ended, Launcher, Plan, RotateError, Rotated,
    RotationOrder, RunError, Unlock, Workload,
};
use evanesce_ledger::Receipt;
use evanesce_ledger::receipt::KeyFate;
use evanesce_protocol::PublicKey;
use evanesce_protocol::WorkloadId;
use evanesce_protocol::grant::{Grant, Grants};
use serde::Serialize;

use crate::commands::attest::input::add_kept_endorsements;
use crate::commands::key::rotate::HandoverReport;
use crate::commands::key::secrets::SealArgs;
use crate::commands::plan::{KeyArgs, MachineArgs, SpawnArgs, flag_of_list};
use crate::configuration::{Layer, Sourced};
use crate::context::Context;
use crate::errors::{Coded, CommandError, ErrorRecord};
use crate::exit::Exit;
use crate::local_log;
use crate::new_file::{self, Existing};
use crate::publisher::{Publishing, PublishingArgs};
use crate::receipt_text;
use crate::ui::{self, Report, Stream};

/// Let a command sign through a key of its own, then destroy the key
///
/// The command finds an ssh-agent in SSH_AUTH_SOCK that signs for it: `ssh-keygen -Y sign`, git and
/// any agent library work unchanged. It also finds EVANESCE_WORKLOAD_ID, EVANESCE_PUBLIC_KEY and
/// EVANESCE_PUBLIC_KEY_FILE.
///
/// Ends with the command's own exit status, except 125 where evanesce refused or failed or the
/// key's fate is unproven, 126 where the command cannot be executed and 127 where there is none.
/// Standard output is the command's: everything of evanesce goes to standard error, --json too.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  evanesce run -- git commit -S -m 'signed by a key that is already gone'
  evanesce run --key operator.pem -- \\
    sh -c 'ssh-keygen -Y sign -f \"$EVANESCE_PUBLIC_KEY_FILE\" -n file artifact.tar'
  evanesce run --grant sshsig:git --signatures-max 1 --ttl 1m -- git tag -s v1 -m v1
  sudo evanesce run --spawn systemd --workload-id release-1 -- ./release.sh
  evanesce run --require provable -- ./release.sh
  evanesce run --enclave vm --enclave-image machine -- ./release.sh")]
pub struct RunArgs {
    #[command(flatten)]
    key: KeyArgs,

    #[command(flatten)]
    spawn: SpawnArgs,

    #[command(flatten)]
    machine: MachineArgs,

    #[command(flatten)]
    bounds: BoundArgs,

    /// Replace the key in the sealed file of --key by a new one, once the command is done
    ///
    /// As `evanesce key rotate` does. Say to whom the new key is sealed: --recipient, or a passphrase.
    #[arg(long, requires = "key")]
    rotate: bool,

    /// Say why it is rotated, for the ledger
    #[arg(
        long,
        value_name = "TEXT",
        requires = "rotate",
        default_value = "",
        hide_default_value = true
    )]
    rotate_reason: String,

    #[command(flatten)]
    seal: SealArgs,

    #[command(flatten)]
    publish: PublishingArgs,

    /// Write the signed receipt to FILE
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,

    /// Replace FILE where --receipt or --evidence names one that exists
    #[arg(long)]
    force: bool,

    /// Write the evidence of --attest to FILE
    #[arg(long, value_name = "FILE", requires = "attest")]
    evidence: Option<PathBuf>,

    /// Say nothing but errors
    #[arg(long, short)]
    quiet: bool,

    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// What the command may do with the key, and where.
#[derive(Clone, Debug, clap::Args)]
pub struct BoundArgs {
    /// Sign GRANT for the command: sshsig, sshsig:NAMESPACE, ssh-login, raw, digest (can be repeated)
    ///
    /// Without any, sshsig: files and git objects, in every namespace but evanesce's own.
    #[arg(long = "grant", value_name = "GRANT")]
    grants: Vec<Grant>,

    /// Destroy the key after N signatures
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    signatures_max: Option<u64>,

    /// Destroy the key as soon as FILE appears
    #[arg(long, value_name = "FILE")]
    kill_switch: Option<PathBuf>,

    /// Keep other workloads out of DIR while this one lives
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

impl BoundArgs {
    /// The settings that these flags name.
    pub fn layer(&self) -> Layer {
        let path = |flag, path: &Option<PathBuf>| Some(Sourced::flag(flag, path.clone()?));
        Layer {
            grants: flag_of_list("--grant", &self.grants),
            signatures_max: self.signatures_max.map(|max| Sourced::flag("--signatures-max", max)),
            kill_switch: path("--kill-switch", &self.kill_switch),
            output_dir: path("--output-dir", &self.output_dir),
            ..Layer::default()
        }
    }
}

impl RunArgs {
    /// The settings that its flags name.
    pub fn layer(&self) -> Layer {
        self.bounds.layer().over(self.key.limits.layer())
    }

    /// What is to be rotated at the end.
    fn rotation(&self, context: &Context<'_>) -> Result<Option<RotationOrder<'_>>, CommandError> {
        let Some(file) = self.key.key.as_deref().filter(|_| self.rotate) else { return Ok(None) };
        Ok(Some(RotationOrder {
            file,
            seal: self.seal.seal()?,
            unlock: Unlock {
                new_passphrase: self.seal.new_passphrase(),
                ..self.key.unlock.unlock(context)
            },
            reason: self.rotate_reason.clone(),
            degraded: context.settings().allow_degraded.value.clone(),
        }))
    }

    fn plan(&self, context: &Context<'_>, command_name: String) -> Result<Plan, CommandError> {
        let settings = context.settings();
        let path = |setting: &Option<Sourced<PathBuf>>| Some(setting.as_ref()?.value.clone());
        let plan = self.spawn.add_to(self.key.plan(context))?;
        Ok(Plan {
            grants: Grants::new(settings.grants.value.clone()).map_err(GrantError)?,
            signatures_max: settings.signatures_max.value,
            kill_switch: path(&settings.kill_switch),
            output_dir: path(&settings.output_dir),
            machine: self.machine.plan(),
            command_name: Some(command_name),
            ..plan
        })
    }
}

/// Runs the command.
///
/// # Errors
///
/// Where there was no key for it, or the key's end could not be seen to.
pub fn run(args: &RunArgs, context: &Context<'_>) -> Result<RunReport, CommandError> {
    let existing = Existing::of_force(args.force);
    if args.seal.is_named() && !args.rotate {
        return Err(SealError.into());
    }
    // Before there is a key: what cannot be sealed to is no surprise at the end.
    let order = args.rotation(context)?;
    for path in args.receipt.iter().chain(&args.evidence) {
        new_file::check(path, existing)?;
    }
    // Before there is a key: no key for a command that cannot be started.
    args.publish.check(context)?;
    let command = CommandLine::resolve(&args.command, context.variables())?;
    let plan = args.plan(context, command.name())?;
    args.key.source.warn(context);
    let launcher = context.launcher()?;
    let mut workload = args.key.start(context, &launcher, plan)?;
    if !args.quiet {
        let (id, key) = (workload.id(), workload.public_key());
        context.ui().say(&format!("evanesce: workload {id} signs with {key}"));
    }
    let (public_key, outcome) = (*workload.public_key(), workload.run(&command));
    let (ended, rotated) = end(context, &launcher, workload, &outcome, order.as_ref())?;
    let mut report = RunReport::new(public_key, outcome, &ended, args.quiet);
    match rotated {
        None => {}
        Some(Ok(rotated)) => report.rotation = Some(HandoverReport::of(&rotated)),
        Some(Err(error)) => report.fail(error.into(), Exit::Refused),
    }
    if let Some(path) = &args.receipt {
        let text = serde_json::to_string(&ended.envelope).expect("an envelope is plain data");
        if let Err(error) = new_file::write(path, format!("{text}\n").as_bytes(), existing) {
            report.fail(error.into(), Exit::Refused);
        }
    }
    if let (Some(path), Some(evidence)) = (&args.evidence, &ended.evidence) {
        let mut evidence = evidence.clone();
        let written = add_kept_endorsements(&mut evidence, context).and_then(|()| {
            let text = format!("{}\n", evidence.to_json());
            Ok(new_file::write(path, text.as_bytes(), existing)?)
        });
        if let Err(error) = written {
            report.fail(error, Exit::Refused);
        }
    }
    report.publishing = args.publish.publish(context)?;
    Ok(report)
}

fn end(
    context: &Context<'_>,
    launcher: &Launcher,
    workload: Workload<'_>,
    outcome: &Result<CommandEnd, RunError>,
    order: Option<&RotationOrder<'_>>,
) -> Result<(Ended, Option<Result<Rotated, RotateError>>), FateError> {
    let id = workload.id().clone();
    let reason = match outcome {
        Ok(_) => EndReason::CommandEnded,
        Err(_) => EndReason::Failed,
    };
    let ended = match order {
        Some(order) => launcher
            .end_rotated(workload, reason, order)
            .map(|(ended, rotated)| (ended, Some(rotated), None)),
        None => {
            workload.end_keeping_notary(reason).map(|(ended, notary)| (ended, None, Some(notary)))
        }
    };
    let ended = ended.map(|(ended, rotated, notary)| {
        match notary {
            Some(notary) => local_log::grow_with(context, notary),
            None => local_log::grow(context, launcher),
        }
        (ended, rotated)
    });
    ended.map_err(|source| FateError {
        id,
        command: match outcome {
            Ok(end) => format!("the command {}", receipt_text::command_end(*end)),
            Err(error) => error.to_string(),
        },
        source,
    })
}

/// What the command and its key came to.
#[derive(Debug, Serialize)]
pub struct RunReport {
    workload_id: WorkloadId,
    public_key: PublicKey,
    command: Option<CommandEnd>,
    exit_status: u8,
    error: Option<ErrorRecord>,
    receipt: Receipt,
    receipt_row: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation: Option<HandoverReport>,
    publishing: Option<Publishing>,
    #[serde(skip)]
    exit: Exit,
    #[serde(skip)]
    quiet: bool,
}

impl RunReport {
    fn new(
        public_key: PublicKey,
        outcome: Result<CommandEnd, RunError>,
        ended: &Ended,
        quiet: bool,
    ) -> Self {
        let exit = outcome.as_ref().map_or(Exit::Refused, |end| exit_of(*end));
        let mut report = Self {
            workload_id: ended.receipt.workload.clone(),
            public_key,
            command: ended.receipt.command,
            exit_status: exit.status(),
            error: None,
            receipt: ended.receipt.clone(),
            receipt_row: ended.row,
            rotation: None,
            publishing: None,
            exit,
            quiet,
        };
        if let Err(error) = outcome {
            let error = CommandError::from(error);
            let exit = error.exit_of_run();
            report.fail(error, exit);
        }
        if ended.fate == KeyFate::Unproven {
            let id = ended.receipt.workload.clone();
            report.fail(UnprovenError { id }.into(), Exit::Refused);
        }
        report
    }

    fn fail(&mut self, error: CommandError, exit: Exit) {
        self.error = Some(error.to_record());
        self.exit_status = exit.status();
        self.exit = exit;
    }
}

impl Report for RunReport {
    fn exit(&self) -> Exit {
        self.exit
    }

    fn render(&self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        if !self.quiet || self.exit == Exit::Refused {
            receipt_text::write(&self.receipt, self.receipt_row, err)?;
            if let Some(rotation) = &self.rotation {
                rotation.render(err)?;
            }
        }
        match &self.publishing {
            None => {}
            Some(Publishing::Done) if self.quiet => {}
            Some(publishing) => writeln!(err, "published {publishing}")?,
        }
        match (&self.error, self.command) {
            (Some(error), Some(end)) => {
                writeln!(err, "command   {}", receipt_text::command_end(end))?;
                ui::write_error(error, err)
            }
            (Some(error), None) => ui::write_error(error, err),
            (None, _) => Ok(()),
        }
    }

    fn json_stream(&self) -> Stream {
        Stream::Error
    }
}

/// The status a shell would give: the command's own, 128 + N after signal N.
fn exit_of(end: CommandEnd) -> Exit {
    let status = match end {
        CommandEnd::Exited(status) => Some(status),
        CommandEnd::Signalled(signal) => signal.checked_add(128),
    };
    match status.and_then(|status| u8::try_from(status).ok()) {
        Some(status) => Exit::Command(status),
        None => Exit::Refused,
    }
}

/// Flags that say to whom a new key is sealed, without a new key.
#[derive(Debug, thiserror::Error)]
#[error("a new passphrase or recipient was named, and the key is not rotated")]
struct SealError;

impl Coded for SealError {
    fn code(&self) -> &'static str {
        "run.seal"
    }
}

/// The grants cannot stand together.
#[derive(Debug, thiserror::Error)]
#[error("these grants cannot be given to one key")]
struct GrantError(#[source] evanesce_protocol::grant::GrantsError);

impl Coded for GrantError {
    fn code(&self) -> &'static str {
        "run.grants"
    }
}

/// A step of the end failed: there is no receipt yet.
#[derive(Debug, thiserror::Error)]
#[error("the end of workload {id} failed ({command})")]
struct FateError {
    id: WorkloadId,
    command: String,
    #[source]
    source: EndError,
}

impl Coded for FateError {
    fn code(&self) -> &'static str {
        self.source.code()
    }
}

/// The key's end was seen to, and something about it could not be shown.
#[derive(Debug, thiserror::Error)]
#[error("what became of the key of workload {id} is unproven")]
pub(crate) struct UnprovenError {
    pub(crate) id: WorkloadId,
}

impl Coded for UnprovenError {
    fn code(&self) -> &'static str {
        "key.fate-unproven"
    }
}
