//! The flags of `run` and `sign` for a key that another machine releases.

use std::path::{Path, PathBuf};
use std::time::Duration;

use evanesce_evidence::EvidenceEnvelope;
use evanesce_launcher::{
    AttestPlan, ChannelError, Launcher, Plan, Receiving, ReleaseChannel, Workload,
};
use evanesce_ledger::{NotaryKey, Timestamp};
use evanesce_protocol::PublicKey;
use evanesce_release::{Asked, Challenge};

use crate::clock;
use crate::commands::attest::input::add_kept_endorsements;
use crate::context::Context;
use crate::errors::CommandError;
use crate::release::address::{Address, Source, SourceKind};
use crate::release::client::Client;
use crate::release::directory::Directory;
use crate::release::tls;
use crate::trust;

/// Who releases the key, and how that one is reached.
#[derive(Clone, Debug, clap::Args)]
pub struct KeyFromArgs {
    /// Have the key released by the holder at SOURCE: tls://HOST:PORT, unix:PATH, or a directory
    ///
    /// Collects evidence for the holder as --attest does, of this machine or the worker's own. A directory has the
    /// holder's challenge.json; the request is written beside it, and answer.json waited for.
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["key", "ephemeral"], requires = "holder")]
    key_from: Option<Source>,

    /// Trust the holder whose notary has the public key in PUB, PEM
    #[arg(long, value_name = "PUB", requires = "key_from")]
    holder: Option<PathBuf>,

    /// Take no other key than KEY, ed25519:HEX
    #[arg(long, value_name = "KEY", requires = "key_from")]
    expect_key: Option<PublicKey>,

    /// Trust the certificates in FILE to vouch for a tls:// holder, not those of Mozilla's list
    #[arg(long, value_name = "FILE", requires = "key_from")]
    tls_root: Option<PathBuf>,
}

impl KeyFromArgs {
    /// Whether the key comes from a holder.
    pub const fn is_named(&self) -> bool {
        self.key_from.is_some()
    }

    /// Starts a workload, with a key that is released to it where that was asked for. `attest` says
    /// how evidence is collected then.
    ///
    /// # Errors
    ///
    /// Where the holder cannot be reached or refuses, and those of [`Launcher::start`].
    pub fn start<'l>(
        &self,
        context: &Context<'_>,
        launcher: &'l Launcher,
        plan: Plan,
        attest: AttestPlan,
    ) -> Result<Workload<'l>, CommandError> {
        let (Some(source), Some(holder)) = (&self.key_from, &self.holder) else {
            return Ok(launcher.start(plan)?);
        };
        let holder = trust::read_notary(holder)?;
        let way = Way::open(source, self.tls_root.as_deref())?;
        let asked = self.ask(&way, &holder)?;
        let mut channel = Channel { way, context };
        let receiving = Receiving { asked, attest, channel: &mut channel };
        Ok(launcher.start_released(plan, receiving)?)
    }

    fn ask(&self, way: &Way, holder: &NotaryKey) -> Result<Asked, CommandError> {
        let challenge = Challenge::from_text(&way.challenge()?)?;
        Ok(Asked::accept(challenge, holder, self.expect_key.as_ref(), clock::now())?)
    }
}

/// How the holder is reached.
#[derive(Debug)]
enum Way {
    Client(Client),
    Directory(Directory),
}

impl Way {
    fn open(Source(source): &Source, tls_root: Option<&Path>) -> Result<Self, CommandError> {
        Ok(match source {
            SourceKind::Directory(path) => Self::Directory(Directory::open(path)?),
            SourceKind::Listener(address) => {
                let tls = match address {
                    Address::Tls { .. } => Some(tls::client(tls_root)?),
                    Address::Loopback(_) | Address::Unix(_) => None,
                };
                Self::Client(Client::new(address.clone(), tls))
            }
        })
    }

    fn challenge(&self) -> Result<Vec<u8>, CommandError> {
        match self {
            Self::Client(client) => {
                let line = client.hello()?;
                evanesce_release::Refusal::tell_apart(&line)?;
                Ok(line)
            }
            Self::Directory(directory) => directory.challenge(),
        }
    }
}

/// The way, for the launcher.
#[derive(Debug)]
struct Channel<'c> {
    way: Way,
    context: &'c Context<'c>,
}

impl ReleaseChannel for Channel<'_> {
    fn endorse(&mut self, evidence: &mut EvidenceEnvelope) -> Result<(), ChannelError> {
        add_kept_endorsements(evidence, self.context).map_err(told)
    }

    fn exchange(
        &mut self,
        request: &str,
        expires: Timestamp,
        is_wanted: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<u8>, ChannelError> {
        match &self.way {
            Way::Directory(directory) => Ok(directory.exchange(request, expires, is_wanted)?),
            Way::Client(client) => {
                let left = expires.unix_ms().saturating_sub(clock::now().unix_ms());
                let timeout = Duration::from_millis(left);
                Ok(client.exchange(request, timeout, is_wanted)?)
            }
        }
    }
}

/// An error of the command line's own, as a cause of the launcher's.
fn told(error: CommandError) -> ChannelError {
    error.clauses().join(": ").into()
}
