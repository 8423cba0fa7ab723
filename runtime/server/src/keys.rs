//! The keys of a server, as far as it knows them: everything but the keys.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use evanesce_protocol::evidence::Nonce;
use evanesce_protocol::grant::Grants;
use evanesce_protocol::{KeyUse, PublicKey, WorkloadId};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::link::Link;

/// A key whose worker serves its agent socket.
#[derive(Clone)]
pub struct KeySetup {
    /// The name that clients use: the workload's id.
    pub name: WorkloadId,
    /// What its worker signs.
    pub grants: Grants,
    /// Its public half.
    pub public_key: PublicKey,
    /// Its OpenSSH certificate, one line without a newline.
    pub certificate_line: String,
    /// The same as bytes.
    pub certificate: Vec<u8>,
    /// Its worker's socket.
    pub agent_socket: PathBuf,
    /// Has the machine vouch for it, where that is wanted.
    pub collect: Option<Collect>,
}

/// Collects evidence with a nonce: an envelope as JSON, or why there is none. May take a minute.
pub type Collect = Arc<dyn Fn(Nonce) -> Result<String, String> + Send + Sync>;

impl fmt::Debug for KeySetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySetup").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How a key ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyEnd {
    /// Why, in one clause.
    pub reason: String,
    /// What became of it, as its receipt says; `None` until there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fate: Option<String>,
    /// The receipt's row in the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt_row: Option<u64>,
}

/// A key that is served, or was.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) setup: KeySetup,
    pub(crate) link: Link,
    /// One attester at a time.
    pub(crate) attesters: Arc<Semaphore>,
    end: OnceLock<KeyEnd>,
    signatures: AtomicU64,
}

impl Key {
    pub(crate) fn new(setup: KeySetup, link: Link) -> Self {
        Self {
            setup,
            link,
            attesters: Arc::new(Semaphore::new(1)),
            end: OnceLock::new(),
            signatures: AtomicU64::new(0),
        }
    }

    /// Takes note of its end. The first word counts.
    pub(crate) fn set_end(&self, end: KeyEnd) {
        self.end.get_or_init(|| end);
    }

    pub(crate) fn count_signature(&self) {
        self.signatures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn signatures(&self) -> u64 {
        self.signatures.load(Ordering::Relaxed)
    }

    /// Its end, if that is known or can be seen by its socket.
    pub(crate) fn end(&self) -> Option<KeyEnd> {
        match self.end.get() {
            Some(end) => Some(end.clone()),
            None if self.link.is_broken() => Some(KeyEnd::unseen()),
            None => None,
        }
    }

    /// What anybody who may use it is told.
    pub(crate) fn description(&self) -> Description<'_> {
        let end = self.end();
        Description {
            name: &self.setup.name,
            key_use: match self.setup.grants.key_use() {
                KeyUse::Digest => "digest",
                KeyUse::Message => "sshsig",
            },
            public_key: &self.setup.public_key,
            certificate: &self.setup.certificate_line,
            evidence: self.setup.collect.is_some(),
            signatures: self.signatures(),
            state: if end.is_some() { "ended" } else { "serving" },
            end,
        }
    }
}

impl KeyEnd {
    /// The end of a key whose worker hung up a moment ago.
    pub(crate) fn unseen() -> Self {
        let reason = "its worker hung up; the receipt is being written".to_owned();
        Self { reason, fate: None, receipt_row: None }
    }
}

/// A key as it is described to clients.
#[derive(Debug, Serialize)]
pub(crate) struct Description<'a> {
    name: &'a WorkloadId,
    #[serde(rename = "use")]
    key_use: &'static str,
    public_key: &'a PublicKey,
    certificate: &'a str,
    evidence: bool,
    signatures: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<KeyEnd>,
}
