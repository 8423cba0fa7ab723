//! Who may have what signed, how fast and how often. Decisions only: time and requests come in.
//!
//! [`Policy`] is what a file says and is replaced as a whole; [`Gate`] is what was used of it, and
//! outlives a reload: nobody gets a new budget by one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use evanesce_protocol::WorkloadId;
use evanesce_protocol::grant::Grant;

use crate::identity::Identity;

/// The clients that are known.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    clients: Vec<Arc<Client>>,
}

/// One client, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its name, in metrics and errors.
    pub name: WorkloadId,
    /// How it is recognised.
    pub who: Who,
    /// The keys it may use.
    pub keys: BTreeSet<WorkloadId>,
    /// What it may have signed with them: `digest`, `sshsig` or `sshsig:NAMESPACE`.
    pub grants: Vec<Grant>,
    /// Whether it may ask for evidence.
    pub evidence: bool,
    /// Whether it may read the metrics.
    pub metrics: bool,
    /// How many requests it may make.
    pub rate: Rate,
    /// How many signatures it may have while the server runs; `None` leaves it to the key's budget.
    pub budget: Option<u64>,
}

/// How a client is recognised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// By the SHA-256 of its certificate.
    Sha256([u8; 32]),
    /// By its certificate's subject, as RFC 4514 writes it.
    Subject(String),
}

/// A token bucket: so many requests a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second, at least 1.
    pub per_second: u32,
    /// Requests at once, at least 1.
    pub burst: u32,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// What there is to know of a key.
    Describe,
    /// Evidence for a key.
    Evidence,
    /// An Ed25519ph signature.
    SignDigest,
    /// An SSHSIG signature in a namespace.
    SignSshsig {
        /// The namespace.
        namespace: &'a str,
    },
}

/// A moment, as the time since the server started.
pub type Moment = Duration;

impl Policy {
    /// Takes the clients.
    pub fn new(clients: Vec<Client>) -> Self {
        Self { clients: clients.into_iter().map(Arc::new).collect() }
    }

    /// The client with this certificate. One that names the very certificate comes before one that
    /// names its subject.
    pub fn client(&self, identity: &Identity) -> Option<&Arc<Client>> {
        let by_digest = |client: &&Arc<Client>| client.who == Who::Sha256(identity.sha256);
        let by_subject = |client: &&Arc<Client>| match (&client.who, &identity.subject) {
            (Who::Subject(wanted), Some(found)) => wanted == found,
            _ => false,
        };
        let found = self.clients.iter().find(by_digest);
        found.or_else(|| self.clients.iter().find(by_subject))
    }
}

/// What clients have used of their rates and budgets.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    used: BTreeMap<WorkloadId, Used>,
}

/// A request that came within its client's rate. Only [`Gate::enter`] makes one.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Entered(());

/// A request that policy lets through. Only [`Gate::admit`] makes one.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Admitted(());

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such key, or it is none of this client's: a client is not told which.
    #[error("no key of this name may be used by this client")]
    NoSuchKey,
    /// The client may use the key, and not for this.
    #[error("`{missing}` is not granted to this client")]
    NotGranted {
        /// What would be needed.
        missing: String,
    },
    /// Too many requests.
    #[error("more requests than {rate}")]
    RateExceeded {
        /// What is allowed.
        rate: Rate,
        /// When the next one may come.
        retry_after: Duration,
    },
    /// All signatures that the client may have are made.
    #[error("the budget of {budget} signatures is spent")]
    BudgetSpent {
        /// The budget.
        budget: u64,
    },
}

impl Gate {
    /// Lets one request in, before any of its body is read: it costs a token, whatever comes of it.
    ///
    /// # Errors
    ///
    /// [`Refusal::RateExceeded`], which costs nothing.
    pub fn enter(&mut self, client: &Client, now: Moment) -> Result<Entered, Refusal> {
        self.used_by(client, now).take_token(client.rate, now)?;
        Ok(Entered(()))
    }

    /// Decides on a request that was let in; `serves` are the grants of the key itself. One that is admitted to sign costs a signature, whatever
    /// comes of it.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn admit(
        &mut self,
        _entered: Entered,
        client: &Client,
        key: &WorkloadId,
        serves: &[Grant],
        ask: Ask<'_>,
    ) -> Result<Admitted, Refusal> {
        if !client.keys.contains(key) {
            return Err(Refusal::NoSuchKey);
        }
        if ask == Ask::Evidence && !client.evidence {
            return Err(Refusal::NotGranted { missing: "evidence".to_owned() });
        }
        if !ask.is_covered_by(&client.grants) || !ask.is_covered_by(serves) {
            return Err(Refusal::NotGranted { missing: ask.to_string() });
        }
        if matches!(ask, Ask::SignDigest | Ask::SignSshsig { .. }) {
            self.used_by(client, Moment::ZERO).take_signature(client.budget)?;
        }
        Ok(Admitted(()))
    }

    /// Signatures that the client had.
    pub fn signatures(&self, client: &WorkloadId) -> u64 {
        self.used.get(client).map_or(0, |used| used.signatures)
    }

    fn used_by(&mut self, client: &Client, now: Moment) -> &mut Used {
        let entry = self.used.entry(client.name.clone());
        entry.or_insert_with(|| Used::new(client.rate, now))
    }
}

impl Ask<'_> {
    fn is_covered_by(self, grants: &[Grant]) -> bool {
        let covers = |grant: &Grant| match (self, grant) {
            (Ask::SignDigest, Grant::Digest)
            | (Ask::SignSshsig { .. }, Grant::Sshsig { namespace: None }) => true,
            (Ask::SignSshsig { namespace }, Grant::Sshsig { namespace: Some(granted) }) => {
                granted.as_str() == namespace
            }
            _ => false,
        };
        matches!(self, Ask::Describe | Ask::Evidence) || grants.iter().any(covers)
    }
}

/// The grant that would cover it.
impl fmt::Display for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Describe => f.write_str("key"),
            Self::Evidence => f.write_str("evidence"),
            Self::SignDigest => f.write_str("digest"),
            Self::SignSshsig { namespace } => write!(f, "sshsig:{namespace}"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} a second, {} at once", self.per_second, self.burst)
    }
}

/// What one client has used.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// In billionths of a request: what a nanosecond brings is a whole number of them.
    tokens: u128,
    at: Moment,
    signatures: u64,
}

impl Used {
    fn new(rate: Rate, now: Moment) -> Self {
        Self { tokens: rate.capacity(), at: now, signatures: 0 }
    }

    fn take_token(&mut self, rate: Rate, now: Moment) -> Result<(), Refusal> {
        let passed = now.saturating_sub(self.at).as_nanos();
        let brought = passed.saturating_mul(u128::from(rate.per_second));
        self.tokens = self.tokens.saturating_add(brought).min(rate.capacity());
        self.at = self.at.max(now);
        match self.tokens.checked_sub(TOKEN) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => {
                let wait = (TOKEN - self.tokens).div_ceil(u128::from(rate.per_second));
                let wait = u64::try_from(wait).unwrap_or(u64::MAX);
                Err(Refusal::RateExceeded { rate, retry_after: Duration::from_nanos(wait) })
            }
        }
    }

    fn take_signature(&mut self, budget: Option<u64>) -> Result<(), Refusal> {
        match budget {
            Some(budget) if self.signatures >= budget => Err(Refusal::BudgetSpent { budget }),
            _ => {
                self.signatures += 1;
                Ok(())
            }
        }
    }
}

impl Rate {
    fn capacity(self) -> u128 {
        u128::from(self.burst) * TOKEN
    }
}

/// One request.
const TOKEN: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client() -> Client {
        Client {
            name: "ci".parse().unwrap(),
            who: Who::Subject("CN=ci".into()),
            keys: ["release".parse().unwrap()].into(),
            grants: vec!["sshsig:file".parse().unwrap()],
            evidence: false,
            metrics: false,
            rate: Rate { per_second: 10, burst: 5 },
            budget: None,
        }
    }

    fn at_ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    const FILE: Ask<'_> = Ask::SignSshsig { namespace: "file" };

    fn ask(
        gate: &mut Gate,
        client: &Client,
        key: &str,
        ask: Ask<'_>,
        ms: u64,
    ) -> Result<Admitted, Refusal> {
        let entered = gate.enter(client, at_ms(ms))?;
        let serves = ["sshsig".parse().unwrap(), Grant::Digest];
        gate.admit(entered, client, &key.parse().unwrap(), &serves, ask)
    }

    #[test]
    fn what_is_granted_is_admitted_and_anything_else_is_refused_by_name() {
        let (mut gate, mut client) = (Gate::default(), client());
        client.rate = Rate { per_second: 1000, burst: 1000 };
        let mut ask =
            |client: &Client, key: &str, what| ask(&mut gate, client, key, what, 0).map(drop);
        let missing = |missing: &str| Err(Refusal::NotGranted { missing: missing.to_owned() });

        assert_eq!(ask(&client, "release", FILE), Ok(()));
        assert_eq!(ask(&client, "release", Ask::Describe), Ok(()));
        let git = Ask::SignSshsig { namespace: "git" };
        assert_eq!(ask(&client, "release", git), missing("sshsig:git"));
        assert_eq!(ask(&client, "release", Ask::SignDigest), missing("digest"));
        assert_eq!(ask(&client, "release", Ask::Evidence), missing("evidence"));
        assert_eq!(ask(&client, "other", FILE), Err(Refusal::NoSuchKey));

        client.grants = vec!["digest".parse().unwrap()];
        client.evidence = true;
        assert_eq!(ask(&client, "release", Ask::SignDigest), Ok(()));
        assert_eq!(ask(&client, "release", Ask::Evidence), Ok(()));
        assert_eq!(ask(&client, "release", FILE), missing("sshsig:file"));
        client.grants = vec!["sshsig".parse().unwrap()];
        assert_eq!(ask(&client, "release", git), Ok(()));
    }

    #[test]
    fn what_the_key_itself_does_not_serve_no_client_gets() {
        let (mut gate, client) = (Gate::default(), client());
        let mut of_key = |serves: &str| {
            let entered = gate.enter(&client, at_ms(0)).unwrap();
            let serves = [serves.parse().unwrap()];
            gate.admit(entered, &client, &"release".parse().unwrap(), &serves, FILE).map(drop)
        };
        of_key("sshsig").unwrap();
        of_key("sshsig:file").unwrap();
        of_key("sshsig:git").unwrap_err();
        of_key("digest").unwrap_err();
    }

    /// Else a client could learn the names of others' keys.
    #[test]
    fn a_key_of_somebody_else_and_one_that_is_not_there_are_refused_alike() {
        let (mut gate, client) = (Gate::default(), client());
        let mut refusal =
            |key: &str| ask(&mut gate, &client, key, FILE, 0).unwrap_err().to_string();
        assert_eq!(refusal("of-another"), refusal("nowhere"));
    }

    #[test]
    fn a_burst_is_let_through_then_the_rate_and_the_refusal_says_when_to_come_again() {
        let (mut gate, client) = (Gate::default(), client());
        for _ in 0..5 {
            ask(&mut gate, &client, "release", FILE, 0).map(drop).unwrap();
        }

        let refused = ask(&mut gate, &client, "release", FILE, 0).unwrap_err();
        let retry_after = at_ms(100);
        assert_eq!(refused, Refusal::RateExceeded { rate: client.rate, retry_after });

        ask(&mut gate, &client, "release", FILE, 99).unwrap_err();
        ask(&mut gate, &client, "release", FILE, 100).map(drop).unwrap();
        ask(&mut gate, &client, "release", FILE, 100).unwrap_err();
    }

    #[test]
    fn a_spent_budget_ends_signatures_and_nothing_else() {
        let (mut gate, mut client) = (Gate::default(), client());
        client.budget = Some(2);
        for _ in 0..2 {
            ask(&mut gate, &client, "release", FILE, 0).map(drop).unwrap();
        }

        let refused = ask(&mut gate, &client, "release", FILE, 0).unwrap_err();
        assert_eq!(refused, Refusal::BudgetSpent { budget: 2 });
        ask(&mut gate, &client, "release", Ask::Describe, 0).map(drop).unwrap();
        assert_eq!(gate.signatures(&client.name), 2);
    }

    #[test]
    fn what_is_refused_costs_no_signature() {
        let (mut gate, mut client) = (Gate::default(), client());
        client.budget = Some(1);
        ask(&mut gate, &client, "release", Ask::SignDigest, 0).unwrap_err();
        ask(&mut gate, &client, "other", FILE, 0).unwrap_err();
        ask(&mut gate, &client, "release", FILE, 0).map(drop).unwrap();
    }

    #[test]
    fn a_certificate_that_is_named_comes_before_its_subject() {
        let of_digest = Client { who: Who::Sha256([7; 32]), ..client() };
        let of_subject = Client { name: "any-ci".parse().unwrap(), ..client() };
        let policy = Policy::new(vec![of_subject, of_digest]);
        let identity = |sha256, subject: &str| Identity { sha256, subject: Some(subject.into()) };
        let name = |identity| policy.client(&identity).map(|client| client.name.to_string());

        assert_eq!(name(identity([7; 32], "CN=ci")).as_deref(), Some("ci"));
        assert_eq!(name(identity([8; 32], "CN=ci")).as_deref(), Some("any-ci"));
        assert_eq!(name(identity([8; 32], "CN=ci,O=x")), None);
        assert_eq!(policy.client(&Identity { sha256: [8; 32], subject: None }), None);
    }

    proptest! {
        /// Whatever the pattern of requests, no more are admitted than burst and rate allow.
        #[test]
        fn no_pattern_of_requests_gets_more_than_burst_and_rate(
            steps in prop::collection::vec(0_u64..300, 1..200),
            per_second in 1_u32..50,
            burst in 1_u32..20,
        ) {
            let client = Client { rate: Rate { per_second, burst }, ..client() };
            let (mut gate, mut now, mut admitted) = (Gate::default(), 0, 0_u64);
            for step in steps {
                now += step;
                admitted += u64::from(ask(&mut gate, &client, "release", FILE, now).is_ok());
            }
            let allowed = u64::from(burst) + u64::from(per_second) * now / 1000 + 1;
            prop_assert!(admitted <= allowed, "{admitted} of {allowed}");
        }
    }
}
