//! What this program has seen of its worker, and what it therefore vouches for.
//!
//! Whoever is outside of the machine chooses what is asked. So nothing is bound because it was
//! asked: the key has to be the one that the worker said it has, and the terms those it serves.

use evanesce_protocol::control::{Load, Loaded, Serve, SignerOrder, SignerReport, Strength};
use evanesce_protocol::evidence::{
    Binding, CollectError, ReleaseKey, RuntimeConfiguration, Subject,
};
use evanesce_protocol::limits::EVIDENCE_CONFIGURATION_BYTES_MAX;
use evanesce_protocol::machine::Vouch;
use evanesce_protocol::{Digest, KeyOrigin, KeyUse, PublicKey};

use crate::Failed;

/// What is known of the worker.
#[derive(Debug)]
pub(crate) struct Record {
    strength: Strength,
    worker: Digest,
    /// What the worker's cage report says.
    signer: Option<Digest>,
    /// The key that a release key was asked for.
    wanted: Option<PublicKey>,
    /// That key, and the release key that the worker offered.
    offered: Option<(PublicKey, ReleaseKey)>,
    loaded: Option<(PublicKey, KeyOrigin)>,
    /// What was vouched for, or is served: whichever came first binds the other.
    terms: Option<Terms>,
}

/// What clients may have signed with the key, how often and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Terms {
    key_use: KeyUse,
    grants: Vec<String>,
    signatures_max: u64,
    ttl_ms: Option<u64>,
}

impl Record {
    /// Of a worker that was just started.
    pub(crate) const fn of(worker: Digest, strength: Strength) -> Self {
        Self {
            strength,
            worker,
            signer: None,
            wanted: None,
            offered: None,
            loaded: None,
            terms: None,
        }
    }

    /// Takes note of an order before the worker gets it.
    ///
    /// # Errors
    ///
    /// Where it has other terms than were vouched for. The worker must not get it then.
    pub(crate) fn order(&mut self, order: &SignerOrder) -> Result<(), Failed> {
        let is_kept = match order {
            SignerOrder::OfferRelease(key) => {
                self.wanted = Some(*key);
                true
            }
            SignerOrder::Load(Load { key_use, .. }) => {
                self.terms.as_ref().is_none_or(|terms| terms.key_use == *key_use)
            }
            SignerOrder::Serve(serve) => {
                let served = Terms::of_service(serve);
                *self.terms.get_or_insert_with(|| served.clone()) == served
            }
            SignerOrder::Inspect
            | SignerOrder::Secret(_)
            | SignerOrder::Endorse(_)
            | SignerOrder::Wipe => true,
        };
        match is_kept {
            true => Ok(()),
            false => Err(Failed::at("serve on terms that were vouched for")),
        }
    }

    /// Takes note of what the worker says.
    pub(crate) fn report(&mut self, report: &SignerReport) {
        match report {
            SignerReport::Caged(caged) => self.signer = caged.signer_module,
            SignerReport::Offered(release_key) => {
                self.offered = self.wanted.map(|key| (key, *release_key));
            }
            SignerReport::Loaded(Loaded { public_key, origin, .. }) => {
                self.loaded = Some((*public_key, *origin));
            }
            _ => {}
        }
    }

    /// What evidence is to bind, where all of it is so.
    ///
    /// # Errors
    ///
    /// [`CollectError::Untrue`] names what is not.
    pub(crate) fn bind(&mut self, vouch: &Vouch) -> Result<Binding, CollectError> {
        let Vouch { public_key, release_key, nonce, notary, configuration, .. } = vouch;
        let signer = self.signer.ok_or_else(|| untrue("a signer before its cage is closed"))?;
        let (subject, origin) = match release_key {
            Some(release_key) if self.offered == Some((*public_key, *release_key)) => {
                let (public_key, release_key) = (*public_key, *release_key);
                (Subject::KeyRelease { public_key, release_key }, KeyOrigin::Released)
            }
            Some(_) => return Err(untrue("a release key that its worker has not offered")),
            None => match self.loaded {
                Some((loaded, origin)) if loaded == *public_key => {
                    (Subject::SigningIdentity { public_key: loaded }, origin)
                }
                _ => return Err(untrue("a key that its worker does not have")),
            },
        };
        self.check(configuration, origin)?;
        Ok(Binding {
            subject,
            nonce: *nonce,
            notary: *notary,
            signer,
            worker: self.worker,
            configuration: Digest::of(configuration.as_bytes()),
        })
    }

    /// Holds a configuration against what is so; what is only promised by now is kept to.
    fn check(&mut self, text: &str, origin: KeyOrigin) -> Result<(), CollectError> {
        let configuration = read(text).ok_or_else(|| untrue("a configuration that is none"))?;
        let gives_up_secret_pages = configuration.degraded.iter().any(|name| name == SECRET_PAGES);
        let is_degraded = self.strength == Strength::AllowLockedPages;
        let terms = Terms::of_configuration(&configuration)
            .ok_or_else(|| untrue("a configuration without terms"))?;
        if configuration.version != env!("CARGO_PKG_VERSION") {
            return Err(untrue("another version"));
        }
        if configuration.origin != Some(origin) {
            return Err(untrue("another origin of the key"));
        }
        if gives_up_secret_pages != is_degraded {
            return Err(untrue("memory of another kind"));
        }
        match *self.terms.get_or_insert_with(|| terms.clone()) == terms {
            true => Ok(()),
            false => Err(untrue("other terms than it serves or has vouched for")),
        }
    }
}

impl Terms {
    fn of_service(serve: &Serve) -> Self {
        Self {
            key_use: serve.grants.key_use(),
            grants: serve.grants.as_slice().iter().map(ToString::to_string).collect(),
            signatures_max: serve.signatures_max,
            ttl_ms: serve.ttl_ms,
        }
    }

    fn of_configuration(configuration: &RuntimeConfiguration) -> Option<Self> {
        Some(Self {
            key_use: configuration.key_use?,
            grants: configuration.grants.clone(),
            signatures_max: configuration.signatures_max?,
            ttl_ms: Some(configuration.ttl_ms?),
        })
    }
}

/// A configuration whose text is the one that its members have.
fn read(text: &str) -> Option<RuntimeConfiguration> {
    if text.len() > EVIDENCE_CONFIGURATION_BYTES_MAX {
        return None;
    }
    let configuration: RuntimeConfiguration = serde_json::from_str(text).ok()?;
    let again = serde_json::to_string(&configuration).ok()?;
    (again == text).then_some(configuration)
}

fn untrue(what: &str) -> CollectError {
    CollectError::Untrue { what: what.to_owned() }
}

/// The name under which an operator gives secret pages up.
const SECRET_PAGES: &str = "secret-pages";

#[cfg(test)]
pub(crate) mod tests {
    use evanesce_protocol::control::{CageReport, LoadSource};
    use evanesce_protocol::evidence::{EvidenceSource, Nonce, NotaryPoint};
    use evanesce_protocol::grant::Grants;

    use super::*;

    const KEY: PublicKey = PublicKey::from_bytes([7; 32]);
    const OTHER_KEY: PublicKey = PublicKey::from_bytes([8; 32]);
    const RELEASE_KEY: ReleaseKey = ReleaseKey::from_bytes([6; 32]);
    const WORKER: Digest = Digest::from_bytes([4; 32]);
    const SIGNER: Digest = Digest::from_bytes([3; 32]);

    /// A worker whose cage is closed.
    fn caged() -> Record {
        let mut record = Record::of(WORKER, Strength::Strict);
        record.report(&SignerReport::Caged(CageReport {
            dumpable: 0,
            no_new_privs: true,
            memory_deny_write_execute: true,
            core_limit_bytes: (0, 0),
            landlock_abi: 4,
            landlock_refused_open: true,
            descriptors: vec![0],
            ranges: Vec::new(),
            signer_module: Some(SIGNER),
        }));
        record
    }

    /// A worker with a key that was born inside.
    fn loaded() -> Record {
        let mut record = caged();
        let (public_key, origin) = (KEY, KeyOrigin::BornInside);
        record.report(&SignerReport::Loaded(Loaded { public_key, origin, sealed: None }));
        record
    }

    /// A worker that has offered a release key.
    pub(crate) fn offering() -> Record {
        let mut record = caged();
        record.order(&SignerOrder::OfferRelease(KEY)).unwrap();
        record.report(&SignerReport::Offered(RELEASE_KEY));
        record
    }

    fn configuration(origin: KeyOrigin) -> RuntimeConfiguration {
        RuntimeConfiguration {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            workload: Some("w".parse().unwrap()),
            origin: Some(origin),
            key_use: Some(Grants::default().key_use()),
            grants: Grants::default().as_slice().iter().map(ToString::to_string).collect(),
            signatures_max: Some(5),
            ttl_ms: Some(1000),
            degraded: Vec::new(),
        }
    }

    pub(crate) fn vouch(origin: KeyOrigin, change: impl Fn(&mut RuntimeConfiguration)) -> Vouch {
        let mut configuration = configuration(origin);
        change(&mut configuration);
        Vouch {
            public_key: KEY,
            release_key: (origin == KeyOrigin::Released).then_some(RELEASE_KEY),
            nonce: Nonce::from_bytes([1; 32]),
            notary: NotaryPoint::from_bytes([5; 65]),
            configuration: serde_json::to_string(&configuration).unwrap(),
            source: EvidenceSource::Machine,
        }
    }

    fn service(signatures_max: u64) -> SignerOrder {
        SignerOrder::Serve(Serve {
            grants: Grants::default(),
            certificate: Vec::new(),
            comment: String::new(),
            client_uid: 0,
            signatures_max,
            ttl_ms: Some(1000),
            kill_switch: None,
        })
    }

    fn refusal(record: &mut Record, vouch: &Vouch) -> String {
        match record.bind(vouch) {
            Err(CollectError::Untrue { what }) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_workers_own_key_is_bound_with_what_this_program_knows_itself() {
        let vouch = vouch(KeyOrigin::BornInside, |_| {});

        let binding = loaded().bind(&vouch).unwrap();

        assert_eq!(binding.subject, Subject::SigningIdentity { public_key: KEY });
        assert_eq!((binding.worker, binding.signer), (WORKER, SIGNER));
        assert_eq!(binding.configuration, Digest::of(vouch.configuration.as_bytes()));
        assert_eq!((binding.nonce, binding.notary), (vouch.nonce, vouch.notary));
    }

    #[test]
    fn a_release_key_is_bound_for_the_key_that_it_was_offered_for() {
        let mut asked = vouch(KeyOrigin::Released, |_| {});

        let binding = offering().bind(&asked).unwrap();
        let subject = Subject::KeyRelease { public_key: KEY, release_key: RELEASE_KEY };
        assert_eq!(binding.subject, subject);

        asked.release_key = Some(ReleaseKey::from_bytes([9; 32]));
        assert!(refusal(&mut offering(), &asked).contains("release key"));
        asked.release_key = Some(RELEASE_KEY);
        assert!(refusal(&mut caged(), &asked).contains("release key"));
        asked.public_key = OTHER_KEY;
        assert!(refusal(&mut offering(), &asked).contains("release key"));
    }

    #[test]
    fn no_other_key_is_vouched_for() {
        let mut asked = vouch(KeyOrigin::BornInside, |_| {});
        assert!(refusal(&mut caged(), &asked).contains("does not have"));
        let uncaged = &mut Record::of(WORKER, Strength::Strict);
        assert!(refusal(uncaged, &asked).contains("cage"));
        asked.public_key = OTHER_KEY;
        assert!(refusal(&mut loaded(), &asked).contains("does not have"));
    }

    #[test]
    fn a_configuration_that_is_not_so_is_not_vouched_for() {
        type Change = fn(&mut RuntimeConfiguration);
        let changes: [(Change, &str); 5] = [
            (|c| c.version.push('0'), "version"),
            (|c| c.origin = Some(KeyOrigin::Released), "origin"),
            (|c| c.degraded = vec![SECRET_PAGES.to_owned()], "memory"),
            (|c| c.signatures_max = None, "terms"),
            (|c| c.key_use = None, "terms"),
        ];
        for (change, what) in changes {
            let asked = vouch(KeyOrigin::BornInside, change);
            let refused = refusal(&mut loaded(), &asked);
            assert!(refused.contains(what), "{refused}");
        }
        let mut asked = vouch(KeyOrigin::BornInside, |_| {});
        // The same members, another text: a reader could take another meaning from it.
        asked.configuration.insert(1, ' ');
        assert!(refusal(&mut loaded(), &asked).contains("none"));
        asked.configuration = " ".repeat(EVIDENCE_CONFIGURATION_BYTES_MAX + 1);
        assert!(refusal(&mut loaded(), &asked).contains("none"));
    }

    #[test]
    fn a_machine_that_gave_up_secret_pages_does_not_keep_quiet_about_it() {
        let mut record = loaded();
        record.strength = Strength::AllowLockedPages;

        assert!(refusal(&mut record, &vouch(KeyOrigin::BornInside, |_| {})).contains("memory"));
        let told = |c: &mut RuntimeConfiguration| c.degraded = vec![SECRET_PAGES.to_owned()];
        record.bind(&vouch(KeyOrigin::BornInside, told)).unwrap();
    }

    #[test]
    fn what_was_vouched_for_is_what_is_served() {
        let mut record = loaded();
        record.bind(&vouch(KeyOrigin::BornInside, |_| {})).unwrap();

        record.order(&service(5)).unwrap();
        let mut record = loaded();
        record.bind(&vouch(KeyOrigin::BornInside, |_| {})).unwrap();
        record.order(&service(6)).unwrap_err();

        // The other way round: while it is served.
        let mut record = loaded();
        record.order(&service(6)).unwrap();
        assert!(refusal(&mut record, &vouch(KeyOrigin::BornInside, |_| {})).contains("terms"));
    }

    #[test]
    fn a_key_is_released_for_the_use_that_was_vouched_for() {
        let mut record = offering();
        record.bind(&vouch(KeyOrigin::Released, |_| {})).unwrap();
        let load = |key_use| {
            SignerOrder::Load(Load { source: LoadSource::BornInside, key_use, seal: None })
        };

        record.order(&load(KeyUse::Message)).unwrap();
        record.order(&load(KeyUse::Digest)).unwrap_err();
    }
}
