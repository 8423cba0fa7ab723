//! The command line: flags that every command takes, and which command runs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::commands::{
    attest, audit, completions, config, doctor, drill, image, key, log as log_command, man, notary,
    playbook, ps, release, run, serve, shred, sign, stop, verify,
};
use crate::configuration::{Layer, ProfileName, Sourced};
use crate::context::{Configuration, Context};
use crate::environment::Environment;
use crate::errors::CommandError;
use crate::exit::Exit;
use crate::log::{Log, LogLevel, LogTarget};
use crate::ui::{Format, Ui};

/// Sign through a key that no dump can show
///
/// evanesce runs a signing workload so that its Ed25519 key exists only inside the signer, for
/// exactly as long as the workload lives, and so that an auditor can check that afterwards.
#[derive(Debug, Parser)]
#[command(
    name = "evanesce",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = EXAMPLES
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub struct GlobalArgs {
    /// Keep ledger and notary in DIR
    ///
    /// Otherwise EVANESCE_STATE_DIR, STATE_DIRECTORY, the profile's state-dir,
    /// XDG_STATE_HOME/evanesce or ~/.local/state/evanesce; for root, /var/lib/evanesce.
    #[arg(long, value_name = "DIR", global = true, help_heading = GLOBAL)]
    pub state_dir: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,

    /// Write events of LEVEL and above (EVANESCE_LOG)
    #[arg(long, value_name = "LEVEL", global = true, help_heading = GLOBAL)]
    pub log: Option<LogLevel>,

    /// Where events go
    #[arg(long, value_name = "TARGET", global = true, help_heading = GLOBAL)]
    pub log_to: Option<LogTarget>,

    /// Take the settings of profile NAME (EVANESCE_PROFILE)
    ///
    /// `strict` is built in and the default; configuration files have others.
    #[arg(long, value_name = "NAME", global = true, help_heading = GLOBAL)]
    pub profile: Option<ProfileName>,

    /// Read the configuration FILE after /etc/evanesce/config.toml and the user's own
    #[arg(long, value_name = "FILE", global = true, help_heading = GLOBAL)]
    pub config: Option<PathBuf>,
}

impl GlobalArgs {
    fn layer(&self) -> Layer {
        Layer {
            state_dir: self.state_dir.clone().map(|dir| Sourced::flag("--state-dir", dir)),
            log: self.log.map(|level| Sourced::flag("--log", level)),
            log_to: self.log_to.map(|target| Sourced::flag("--log-to", target)),
            ..Layer::default()
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Command {
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Run(run::RunArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Sign(sign::SignArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Serve(serve::ServeArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Verify(verify::VerifyArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Ps(ps::PsArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Stop(stop::StopArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Shred(shred::ShredArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Key(key::KeyCommandArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Notary(notary::NotaryArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Audit(audit::AuditArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Attest(attest::AttestArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Release(release::ReleaseArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Image(image::ImageArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Config(config::ConfigArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Log(log_command::LogArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Doctor(doctor::DoctorArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Drill(drill::DrillArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Playbook(playbook::PlaybookArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Completions(completions::CompletionsArgs),
    #[expect(missing_docs, reason = "the docs of the arguments are the help")]
    Man(man::ManArgs),
}

impl Command {
    /// The settings that its flags name.
    fn layer(&self) -> Layer {
        match self {
            Self::Run(args) => args.layer(),
            Self::Sign(args) => args.layer(),
            Self::Config(args) => args.layer(),
            _ => Layer::default(),
        }
    }
}

/// Does what the command line of this process asks.
pub fn main() -> ExitCode {
    let environment = Environment::of_process();
    execute(std::env::args_os().collect(), &environment).into()
}

/// Does what `line` asks, the program's name first.
pub fn execute(line: Vec<OsString>, environment: &Environment) -> Exit {
    let cli = match Cli::try_parse_from(&line) {
        Ok(cli) => cli,
        Err(error) => return print_usage(&error, &line),
    };
    let format = if cli.global.json { Format::Json } else { Format::Text };
    let ui = Ui::new(format);
    let failed = failed_exit(&cli.command);
    let (configuration, log) = match prepare(&cli, environment) {
        Ok(prepared) => prepared,
        Err(error) => {
            ui.print_error(&error);
            return failed(&error);
        }
    };
    let context = Context::new(&configuration, environment, ui, &log);
    let exit = match cli.command {
        Command::Run(args) => ui.finish(run::run(&args, &context), failed),
        Command::Sign(args) if args.is_remote() => {
            ui.finish(sign::remote::run(&args, &context), failed)
        }
        Command::Sign(args) => ui.finish(sign::run(&args, &context), failed),
        Command::Serve(args) => ui.finish(serve::run(&args, &context), failed),
        Command::Verify(args) => ui.finish(verify::run(&args, &context), failed),
        Command::Ps(args) => ui.finish(ps::run(&args, &context), failed),
        Command::Stop(args) => ui.finish(stop::run(&args, &context), failed),
        Command::Shred(args) => ui.finish(shred::run(&args, &context), failed),
        Command::Key(args) => ui.finish(key::run(&args, &context), failed),
        Command::Notary(args) => ui.finish(notary::run(&args, &context), failed),
        Command::Audit(args) => ui.finish(audit::run(&args, &context), failed),
        Command::Attest(args) => ui.finish(attest::run(&args, &context), failed),
        Command::Image(args) => ui.finish(image::run(&args), failed),
        Command::Release(args) => ui.finish(release::run(&args, &context), failed),
        Command::Config(args) => ui.finish(config::run(&args, &context), failed),
        Command::Log(args) => ui.finish(log_command::run(&args, &context), failed),
        Command::Doctor(args) => ui.finish(doctor::run(&args), failed),
        Command::Drill(args) => ui.finish(drill::run(&args, &context), failed),
        Command::Playbook(args) => ui.finish(playbook::run(&args, &context), failed),
        Command::Completions(args) => ui.finish(completions::run(&args), failed),
        Command::Man(args) => ui.finish(man::run(&args), failed),
    };
    context.close_events();
    exit
}

/// How an error of this command ends the process: a caller of `run` has to tell it from the
/// command's own statuses, a caller of `verify` from a verdict.
fn failed_exit(command: &Command) -> fn(&CommandError) -> Exit {
    match command {
        Command::Run(_) => CommandError::exit_of_run,
        Command::Verify(_) => |_| Exit::Misuse,
        Command::Audit(args) if args.is_verify() => |_| Exit::Misuse,
        Command::Attest(args) if args.is_appraise() => |_| Exit::Misuse,
        Command::Log(args) if args.is_check() => |_| Exit::Misuse,
        _ => CommandError::exit,
    }
}

/// Decides the settings, and starts to write events as they say.
fn prepare(cli: &Cli, environment: &Environment) -> Result<(Configuration, Log), CommandError> {
    let global = &cli.global;
    // These two are asked for by shells and package builds, whatever is configured.
    let configuration = match &cli.command {
        Command::Completions(_) | Command::Man(_) => Configuration::default(),
        command => {
            let flags = command.layer().over(global.layer());
            let profile = global.profile.clone();
            let profile = profile.map(|name| Sourced::flag("--profile", name));
            Configuration::decide(flags, profile, global.config.as_deref(), environment)?
        }
    };
    let settings = &configuration.settings;
    let log = Log::start(settings.log.value, settings.log_to.value)?;
    Ok((configuration, log))
}

/// Prints help, version or what is wrong with the command line.
fn print_usage(error: &clap::Error, line: &[OsString]) -> Exit {
    // Usage that cannot be printed is still in the exit status.
    error.print().unwrap_or(());
    match error.use_stderr() {
        false => Exit::Success,
        true if names_run(line) => Exit::Refused,
        true => Exit::Misuse,
    }
}

/// Whether a line that is wrong somewhere asks for `run`, whose exit statuses are the command's.
fn names_run(line: &[OsString]) -> bool {
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(line);
    matches.is_ok_and(|matches| matches.subcommand_name() == Some("run"))
}

const GLOBAL: &str = "Global options";

const EXAMPLES: &str = "\
Examples:
  evanesce sign release.tar              make a key, sign, destroy the key: release.tar.sig
  evanesce verify release.tar            check it, and see what became of the key
  evanesce run -- git commit -S -m done  let a command sign through a key of its own
  evanesce key new release.age           make a key that only its sealed file leaves
  evanesce audit verify                  check the ledger of all keys

Exit statuses and error codes: docs/errors.md";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_command_line_of_run_is_not_taken_for_a_status_of_its_command() {
        let status = |line: &[&str]| {
            execute(line.iter().map(OsString::from).collect(), &Environment::default()).status()
        };

        assert_eq!(status(&["evanesce", "run", "--no-such-flag", "--", "true"]), 125);
        assert_eq!(status(&["evanesce", "verify", "--no-such-flag"]), 2);
    }

    /// House rule: a summary is imperative and has no full stop.
    #[test]
    fn no_summary_in_the_help_ends_with_a_full_stop() {
        fn check(command: &clap::Command) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(
                !about.is_empty() && !about.ends_with('.'),
                "{}: {about:?}",
                command.get_name()
            );
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(
                    !help.is_empty() && !help.ends_with('.'),
                    "{}: {help:?}",
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
