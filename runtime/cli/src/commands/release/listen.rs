//! `release --listen`: answer whoever asks and meets the policy.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use evanesce_appraisal::{Policy, Roots};
use evanesce_launcher::{Launcher, ReleaseOrder};
use evanesce_release::{Hello, Refusal};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::OpenArgs;
use crate::commands::attest::appraise::read_policy;
use crate::commands::attest::input::RootArgs;
use crate::commands::key::Rendered;
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::files::parse_duration;
use crate::local_log;
use crate::receipt_text::counted;
use crate::release::address::Address;
use crate::release::judge::judge;
use crate::release::server::Listener;
use crate::release::tls;

/// Where is listened, and what is released to whom.
#[derive(Debug, clap::Args)]
pub(super) struct ListenArgs {
    /// Listen at ADDRESS: tls://ADDRESS:PORT, unix:PATH, tcp://ADDRESS:PORT on a loopback address
    #[arg(long, value_name = "ADDRESS", required = true)]
    listen: Option<Address>,

    /// The certificate chain for tls://, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Release the key in FILE: PKCS#8 PEM, OpenSSH or age
    #[arg(long, value_name = "FILE", required = true)]
    key: Option<PathBuf>,

    #[command(flatten)]
    how: OpenArgs,

    /// What is accepted: a policy with key-release among its purposes
    #[arg(long, value_name = "FILE", required = true)]
    policy: Option<PathBuf>,

    /// Let each challenge count for TIME, at most an hour: 90s, 10m
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "2m")]
    lifetime: Duration,

    /// End after N releases
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    releases_max: Option<u64>,

    #[command(flatten)]
    roots: RootArgs,
}

pub(super) fn run(args: &ListenArgs, context: &Context<'_>) -> Result<ListenReport, CommandError> {
    let (Some(address), Some(key), Some(policy)) = (&args.listen, &args.key, &args.policy) else {
        unreachable!("the command line asks for them where it asks for no subcommand")
    };
    let tls = match (address, &args.tls_cert, &args.tls_key) {
        (Address::Tls { .. }, Some(certificates), Some(key)) => {
            Some(tls::server(certificates, key)?)
        }
        (Address::Tls { .. }, _, _) => return Err(TlsFilesError.into()),
        (_, None, _) => None,
        (_, Some(_), _) => return Err(NoTlsError.into()),
    };
    let policy = read_policy(policy)?;
    let roots = args.roots.roots(context)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        // Without its handler a signal ends this process in the middle of an answer.
        signal_hook::flag::register(signal, Arc::clone(&stop)).map(drop).unwrap_or(());
    }
    let launcher = context.launcher()?;
    let mut order = args.how.order(key, context);
    // Before anybody asks: a key that cannot be used is no surprise later.
    order.public_key = Some(launcher.released_key(&order)?);
    let listener = Listener::open(address, tls)?;
    context.ui().say(&format!("evanesce: listening at {}", listener.address()));
    let mut holder = Holder {
        launcher: &launcher,
        context,
        policy: &policy,
        roots: &roots,
        order: &order,
        lifetime: args.lifetime,
        report: ListenReport { released: 0, refused: 0 },
    };
    listener.serve(&stop, |line| {
        let answer = holder.answer(line);
        if args.releases_max.is_some_and(|max| holder.report.released >= max) {
            stop.store(true, Ordering::Relaxed);
        }
        answer
    });
    Ok(holder.report)
}

/// Answers messages, one after the other.
struct Holder<'a> {
    launcher: &'a Launcher,
    context: &'a Context<'a>,
    policy: &'a Policy,
    roots: &'a Roots,
    order: &'a ReleaseOrder<'a>,
    lifetime: Duration,
    report: ListenReport,
}

impl Holder<'_> {
    fn answer(&mut self, line: &[u8]) -> String {
        let answered = match Hello::from_text(line) {
            Ok(Hello {}) => self.challenge(),
            // Whatever it is: a request says so, and anything else is refused as none.
            Err(_) => self.release(line),
        };
        answered.unwrap_or_else(|error| {
            self.report.refused += 1;
            let message = error.clauses().join(": ");
            self.context.ui().say(&format!("refused   {message} [{}]", error.code()));
            match is_for_the_asker(error.code()) {
                true => Refusal::new(error.code(), &message),
                false => Refusal::new("release.holder", "its operator sees why"),
            }
            .to_text()
        })
    }

    fn challenge(&self) -> Result<String, CommandError> {
        Ok(self.launcher.challenge(self.order, self.lifetime)?.to_text())
    }

    fn release(&mut self, line: &[u8]) -> Result<String, CommandError> {
        let admitted = self.launcher.admit(line)?;
        let approved = judge(admitted, self.policy, self.roots, self.context)?;
        let answered = self.launcher.release(approved, self.order)?;
        self.report.released += 1;
        local_log::grow(self.context, self.launcher);
        let release = &answered.release;
        let (key, tee, measurement) = (release.public_key, &release.tee, &release.measurement);
        let transcript = answered.row.transcript;
        let ui = self.context.ui();
        ui.say(&format!("released  {key} to {tee} {measurement}, transcript {transcript}"));
        Ok(answered.line)
    }
}

/// Whether an error is about what the asker sent, and not about this machine and its files.
fn is_for_the_asker(code: &str) -> bool {
    code.starts_with("release.") && code != "release.store"
}

/// What was answered.
#[derive(Debug, Serialize)]
pub struct ListenReport {
    released: u64,
    refused: u64,
}

impl Rendered for ListenReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let (released, refused) = (self.released, self.refused);
        writeln!(out, "{}, {refused} refused", counted(released, "release"))
    }
}

/// TLS without a certificate.
#[derive(Debug, thiserror::Error)]
#[error("tls:// takes a certificate and its key")]
struct TlsFilesError;

impl Coded for TlsFilesError {
    fn code(&self) -> &'static str {
        "tls.files"
    }
}

/// A certificate without TLS.
#[derive(Debug, thiserror::Error)]
#[error("a certificate was named, and the address is without TLS")]
struct NoTlsError;

impl Coded for NoTlsError {
    fn code(&self) -> &'static str {
        "tls.unused"
    }
}
