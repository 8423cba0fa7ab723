//! The configuration file: what is listened at, which keys there are, and who may use them.
//!
//! `docs/remote-signing.md` describes the fields. Unknown ones are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use evanesce_protocol::grant::{Grant, Grants, GrantsError};
use evanesce_protocol::limits::SIGNATURES_MAX_DEFAULT;
use evanesce_protocol::{Digest, KeyUse, WorkloadId};
use serde::de::{self, Deserialize, Deserializer};

use crate::limits::{
    ADDRESSES_MAX, CLIENTS_MAX, CONNECTIONS_DEFAULT, CONNECTIONS_MAX, KEYS_MAX, THREADS_MAX,
    TIMEOUT_MAX, Timeouts,
};
use crate::policy::{Client, Policy, Rate, Who};

/// What a configuration file says.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where connections are taken, unless the process was handed sockets.
    pub listen: Vec<SocketAddr>,
    /// Connections at a time.
    pub connections: usize,
    /// Threads that serve them.
    pub threads: usize,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// The files of TLS.
    pub tls: TlsFiles,
    /// The keys, by name.
    pub keys: BTreeMap<WorkloadId, KeyConfig>,
    /// Who may use them.
    pub policy: Policy,
}

/// The files of TLS, PEM.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TlsFiles {
    /// The server's certificate and what leads from it to a root that clients know.
    pub certificate: AbsolutePath,
    /// Its private key.
    pub key: AbsolutePath,
    /// The roots that clients' certificates lead to.
    pub client_ca: AbsolutePath,
    /// What of their certificates is revoked.
    #[serde(default)]
    pub client_crl: Option<AbsolutePath>,
}

/// A path that means the same wherever the server is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsolutePath(pub PathBuf);

/// One key: a workload of its own, with a worker of its own, while the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyConfig {
    /// The key file; `None` has the key born inside.
    pub file: Option<PathBuf>,
    /// What its worker signs, whoever asks: `digest` alone, or `sshsig` in some or all namespaces.
    pub grants: Grants,
    /// How long it lives.
    pub ttl: Duration,
    /// How many signatures it makes.
    pub signatures_max: u64,
    /// Whether the machine is asked to vouch for it when a client wants evidence.
    pub evidence: bool,
}

impl Config {
    /// Reads the text of a configuration file.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], with the place where the text is at fault.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let document: Document = toml::from_str(text)?;
        let connections = document.connections.unwrap_or(CONNECTIONS_DEFAULT);
        let threads = document.threads.unwrap_or(1);
        within("connections", connections, 1, CONNECTIONS_MAX)?;
        within("threads", threads, 1, THREADS_MAX)?;
        within("listen", document.listen.len(), 0, ADDRESSES_MAX)?;
        within("keys", document.keys.len(), 1, KEYS_MAX)?;
        within("clients", document.clients.len(), 1, CLIENTS_MAX)?;
        let keys: BTreeMap<_, _> = document
            .keys
            .into_iter()
            .map(|(name, key)| Ok((name.clone(), key.checked(&name)?)))
            .collect::<Result<_, ConfigError>>()?;
        let clients: Vec<_> = document
            .clients
            .into_iter()
            .map(|(name, client)| client.checked(name, &keys))
            .collect::<Result<_, _>>()?;
        let mut known = BTreeSet::new();
        for client in &clients {
            if !known.insert(&client.who) {
                return Err(ConfigError::SameClient { client: client.name.clone() });
            }
        }
        Ok(Self {
            listen: document.listen,
            connections,
            threads,
            timeouts: document.timeouts.over(Timeouts::default()),
            tls: document.tls,
            keys,
            policy: Policy::new(clients),
        })
    }
}

/// Why a text configures no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not TOML, a field that is not known, or a value of another kind.
    #[error("the configuration cannot be read")]
    Parse(#[from] toml::de::Error),
    /// A number that is out of bounds.
    #[error("{field} is between {min} and {max}, not {found}")]
    Bounds {
        /// The field, or the table whose entries are counted.
        field: &'static str,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
        /// What the file says.
        found: usize,
    },
    /// A key that would sign what is no digest.
    #[error(
        "key {key} has the grant `{grant}`: a server signs digests, so digest and sshsig alone"
    )]
    Grant {
        /// The key.
        key: WorkloadId,
        /// The grant.
        grant: Grant,
    },
    /// Grants that cannot stand together.
    #[error("the grants of key {key} cannot stand together")]
    Grants {
        /// The key.
        key: WorkloadId,
        /// Why.
        source: GrantsError,
    },
    /// A client that is recognised by nothing, or by two things.
    #[error("client {client} has to name either its certificate or its subject")]
    Who {
        /// The client.
        client: WorkloadId,
    },
    /// Two clients that cannot be told apart.
    #[error("client {client} is recognised by the same certificate or subject as another")]
    SameClient {
        /// The later one.
        client: WorkloadId,
    },
    /// A client that may use a key that is not there.
    #[error("client {client} names key {key}, which is not configured")]
    NoSuchKey {
        /// The client.
        client: WorkloadId,
        /// The key.
        key: WorkloadId,
    },
    /// A client with a grant that one of its keys can never serve.
    #[error("client {client} has the grant `{grant}`, which none of its keys serves")]
    ClientGrant {
        /// The client.
        client: WorkloadId,
        /// The grant.
        grant: Grant,
    },
}

impl ConfigError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Parse(_) => "serve-config.parse",
            Self::Bounds { .. } => "serve-config.bounds",
            Self::Grant { .. } | Self::Grants { .. } => "serve-config.grant",
            Self::Who { .. } => "serve-config.who",
            Self::SameClient { .. } => "serve-config.same-client",
            Self::NoSuchKey { .. } => "serve-config.no-such-key",
            Self::ClientGrant { .. } => "serve-config.client-grant",
        }
    }
}

/// The whole file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    #[serde(default)]
    listen: Vec<SocketAddr>,
    connections: Option<usize>,
    threads: Option<usize>,
    #[serde(default)]
    timeouts: TimeoutTable,
    tls: TlsFiles,
    #[serde(default)]
    keys: BTreeMap<WorkloadId, KeyTable>,
    #[serde(default)]
    clients: BTreeMap<WorkloadId, ClientTable>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TimeoutTable {
    handshake: Option<Span>,
    idle: Option<Span>,
    body: Option<Span>,
    request: Option<Span>,
}

impl TimeoutTable {
    fn over(self, below: Timeouts) -> Timeouts {
        let or = |span: Option<Span>, below| span.map_or(below, |span| span.0);
        Timeouts {
            handshake: or(self.handshake, below.handshake),
            idle: or(self.idle, below.idle),
            body: or(self.body, below.body),
            request: or(self.request, below.request),
        }
    }
}

/// How long something may take: `500ms`, `10s`.
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span = humantime::parse_duration(&text).map_err(de::Error::custom)?;
        match span >= Duration::from_millis(1) && span <= TIMEOUT_MAX {
            true => Ok(Self(span)),
            false => Err(de::Error::custom("a timeout is between 1ms and 1h")),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct KeyTable {
    file: Option<AbsolutePath>,
    #[serde(default)]
    grants: Vec<Grant>,
    ttl: Option<Ttl>,
    signatures_max: Option<u64>,
    #[serde(default)]
    evidence: bool,
}

impl KeyTable {
    fn checked(self, name: &WorkloadId) -> Result<KeyConfig, ConfigError> {
        let is_served = |grant: &&Grant| matches!(grant, Grant::Digest | Grant::Sshsig { .. });
        if let Some(grant) = self.grants.iter().find(|grant| !is_served(grant)) {
            return Err(ConfigError::Grant { key: name.clone(), grant: grant.clone() });
        }
        let grants = Grants::new(self.grants)
            .map_err(|source| ConfigError::Grants { key: name.clone(), source })?;
        Ok(KeyConfig {
            file: self.file.map(|path| path.0),
            grants,
            ttl: self.ttl.map_or(TTL_DEFAULT, |ttl| ttl.0),
            signatures_max: self.signatures_max.unwrap_or(SIGNATURES_MAX_DEFAULT).max(1),
            evidence: self.evidence,
        })
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ClientTable {
    certificate: Option<Digest>,
    subject: Option<String>,
    #[serde(default)]
    keys: BTreeSet<WorkloadId>,
    #[serde(default)]
    grants: Vec<Grant>,
    rate: Option<u32>,
    burst: Option<u32>,
    budget: Option<u64>,
    #[serde(default)]
    evidence: bool,
    #[serde(default)]
    metrics: bool,
}

impl ClientTable {
    fn checked(
        self,
        name: WorkloadId,
        keys: &BTreeMap<WorkloadId, KeyConfig>,
    ) -> Result<Client, ConfigError> {
        let who = match (self.certificate, self.subject) {
            (Some(digest), None) => Who::Sha256(*digest.as_bytes()),
            (None, Some(subject)) => Who::Subject(subject),
            _ => return Err(ConfigError::Who { client: name }),
        };
        if let Some(key) = self.keys.iter().find(|key| !keys.contains_key(key)) {
            return Err(ConfigError::NoSuchKey { client: name, key: key.clone() });
        }
        let uses: BTreeSet<_> =
            self.keys.iter().map(|key| keys[key].grants.key_use() == KeyUse::Digest).collect();
        let is_served = |grant: &&Grant| match grant {
            Grant::Digest => uses.contains(&true),
            Grant::Sshsig { .. } => uses.contains(&false),
            Grant::SshLogin | Grant::Raw => false,
        };
        if let Some(grant) = self.grants.iter().find(|grant| !is_served(grant)) {
            return Err(ConfigError::ClientGrant { client: name, grant: grant.clone() });
        }
        let per_second = self.rate.unwrap_or(RATE_DEFAULT);
        let burst = self.burst.unwrap_or(per_second);
        for (field, found) in [("rate", per_second), ("burst", burst)] {
            within(field, found as usize, 1, RATE_MAX)?;
        }
        Ok(Client {
            name,
            who,
            keys: self.keys,
            grants: self.grants,
            evidence: self.evidence,
            metrics: self.metrics,
            rate: Rate { per_second, burst },
            budget: self.budget,
        })
    }
}

/// A duration as people write it: `90s`, `24h`.
struct Ttl(Duration);

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let ttl = humantime::parse_duration(&text).map_err(de::Error::custom)?;
        match ttl >= Duration::from_secs(1) && ttl <= TTL_MAX {
            true => Ok(Self(ttl)),
            false => Err(de::Error::custom("a key lives between a second and a year")),
        }
    }
}

impl<'de> Deserialize<'de> for AbsolutePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        match path.is_absolute() {
            true => Ok(Self(path)),
            false => Err(de::Error::custom("a path in a configuration file starts with /")),
        }
    }
}

fn within(field: &'static str, found: usize, min: usize, max: usize) -> Result<(), ConfigError> {
    match (min..=max).contains(&found) {
        true => Ok(()),
        false => Err(ConfigError::Bounds { field, min, max, found }),
    }
}

/// A key of a server lives a day where the file says nothing.
const TTL_DEFAULT: Duration = Duration::from_secs(24 * 3600);

const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Requests a second where the file says nothing.
const RATE_DEFAULT: u32 = 10;

const RATE_MAX: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        listen = ["127.0.0.1:8443"]
        connections = 2000
        threads = 2

        [timeouts]
        idle = "500ms"

        [tls]
        certificate = "/tls/server.pem"
        key = "/tls/server.key"
        client-ca = "/tls/clients.pem"
        client-crl = "/tls/clients.crl"

        [keys.release]
        file = "/keys/release.age"
        grants = ["sshsig:file"]
        ttl = "12h"
        signatures-max = 5
        evidence = true

        [keys.digests]
        grants = ["digest"]

        [clients.ci]
        certificate = "sha256:0707070707070707070707070707070707070707070707070707070707070707"
        keys = ["release"]
        grants = ["sshsig:file"]
        rate = 50
        burst = 100
        budget = 7
        evidence = true

        [clients.other]
        subject = "CN=other"
        keys = ["digests"]
        grants = ["digest"]
    "#;

    #[test]
    fn a_whole_file_is_read_and_what_is_left_out_has_its_default() {
        let config = Config::parse(WHOLE).unwrap();

        assert_eq!((config.connections, config.threads), (2000, 2));
        let idle = Duration::from_millis(500);
        assert_eq!(config.timeouts, Timeouts { idle, ..Timeouts::default() });
        let release = &config.keys[&"release".parse().unwrap()];
        assert_eq!(release.ttl, Duration::from_secs(12 * 3600));
        assert_eq!((release.signatures_max, release.evidence), (5, true));
        let digests = &config.keys[&"digests".parse().unwrap()];
        assert_eq!((digests.ttl, digests.file.as_ref()), (TTL_DEFAULT, None));
        assert_eq!(digests.signatures_max, SIGNATURES_MAX_DEFAULT);
        let identity =
            |sha256, subject: &str| crate::Identity { sha256, subject: Some(subject.into()) };
        let ci = config.policy.client(&identity([7; 32], "CN=x")).unwrap();
        assert_eq!((ci.rate, ci.budget), (Rate { per_second: 50, burst: 100 }, Some(7)));
        let other = config.policy.client(&identity([8; 32], "CN=other")).unwrap();
        assert_eq!(other.rate, Rate { per_second: RATE_DEFAULT, burst: RATE_DEFAULT });
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let refused = |from: &str, to: &str| {
            assert!(WHOLE.contains(from), "{from}");
            Config::parse(&WHOLE.replacen(from, to, 1)).unwrap_err().code()
        };

        assert_eq!(refused("threads = 2", "thraeds = 2"), "serve-config.parse");
        assert_eq!(refused("budget = 7", "bugdet = 7"), "serve-config.parse");
        assert_eq!(refused("client-crl = ", "client-clr = "), "serve-config.parse");
        assert_eq!(refused("\"/tls/server.key\"", "\"server.key\""), "serve-config.parse");
        assert_eq!(refused("ttl = \"12h\"", "ttl = \"0s\""), "serve-config.parse");
        assert_eq!(refused("idle = \"500ms\"", "idle = \"2h\""), "serve-config.parse");
        assert_eq!(refused("threads = 2", "threads = 0"), "serve-config.bounds");
        assert_eq!(refused("rate = 50", "rate = 0"), "serve-config.bounds");
        assert_eq!(refused("connections = 2000", "connections = 0"), "serve-config.bounds");
        assert_eq!(refused("[\"sshsig:file\"]", "[\"raw\"]"), "serve-config.grant");
        assert_eq!(refused("[\"sshsig:file\"]", "[\"digest\", \"sshsig\"]"), "serve-config.grant");
        assert_eq!(refused("subject = \"CN=other\"", ""), "serve-config.who");
        assert_eq!(
            refused("keys = [\"digests\"]", "keys = [\"digest\"]"),
            "serve-config.no-such-key"
        );
        assert_eq!(
            refused("keys = [\"digests\"]", "keys = [\"release\"]"),
            "serve-config.client-grant"
        );
        let same = "certificate = \"sha256:0707070707070707070707070707070707070707070707070707070707070707\"";
        assert_eq!(refused("subject = \"CN=other\"", same), "serve-config.same-client");
    }

    #[test]
    fn a_file_cut_at_any_line_is_refused_or_means_what_it_says() {
        let lines: Vec<_> = WHOLE.lines().collect();
        for end in 0..lines.len() {
            // No panic, and never a client without anything to recognise it by.
            if let Ok(config) = Config::parse(&lines[..end].join("\n")) {
                assert!(!config.keys.is_empty());
            }
        }
    }
}
