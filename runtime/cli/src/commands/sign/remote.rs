//! `sign --remote`: have a server sign, once its evidence has convinced, and believe what can be
//! checked.
//!
//! No key is made here and nothing is written to this installation. The order matters: evidence with a
//! nonce of ours is appraised before the first digest leaves, and each signature is checked, by the key
//! that the evidence binds, before it is written.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use evanesce_appraisal::{Check, Outcome, Tee, appraise};
use evanesce_evidence::{ENVELOPE_BYTES_MAX, EnvelopeError, EvidenceEnvelope};
use evanesce_ledger::NotaryKey;
use evanesce_protocol::evidence::Nonce;
use evanesce_protocol::sshsig::Envelope;
use evanesce_protocol::{Digest, PublicKey};
use evanesce_server::api::{EvidenceRequest, SignAnswer, SignRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ureq::Agent;
use ureq::tls::{ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::{DigestSignature, Job, SignArgs, SignError, SignedOutput, Work, evidence_path};
use crate::clock;
use crate::commands::attest::appraise::read_policy;
use crate::commands::attest::input::{Input, RootArgs, add_kept_endorsements, moment};
use crate::context::Context;
use crate::errors::{Coded, CommandError};
use crate::files;
use crate::new_file::{self, Existing};
use crate::signature::{
    Flaw, Intact, LedgerWord, Prehashed, TrustSource, TrustedNotary, Verdict, judge,
};
use crate::ui::{FAINT, Report};

/// Which server is to sign, and what it has to show.
#[derive(Clone, Debug, clap::Args)]
pub struct RemoteArgs {
    /// Have the key at URL sign, https://HOST/v1/keys/NAME of an `evanesce serve`
    ///
    /// Evidence of the machine is asked for with a nonce and appraised before anything is sent to be
    /// signed, and each signature is checked before it is written.
    #[arg(
        long,
        value_name = "URL",
        requires = "policy",
        conflicts_with_all = [
            "key", "ephemeral", "workload_id", "ttl", "allow_degraded", "require", "attest",
            "passphrase_fd", "identity"
        ]
    )]
    remote: Option<KeyUrl>,

    /// Accept the machines and workers that the appraisal policy in FILE lists
    #[arg(long, value_name = "FILE", requires = "remote")]
    policy: Option<PathBuf>,

    /// Show the server the certificate in FILE, and what leads from it to a root, PEM
    #[arg(long, value_name = "FILE", requires_all = ["remote", "client_key"])]
    client_cert: Option<PathBuf>,

    /// The private key of --client-cert, PEM
    #[arg(long, value_name = "FILE", requires_all = ["remote", "client_cert"])]
    client_key: Option<PathBuf>,

    /// Believe server certificates that lead to those in FILE, PEM, instead of Mozilla's roots
    #[arg(long, value_name = "FILE", requires = "remote")]
    ca: Option<PathBuf>,

    #[command(flatten)]
    roots: RootArgs,
}

impl RemoteArgs {
    /// Whether a server is named.
    pub fn is_named(&self) -> bool {
        self.remote.is_some()
    }
}

/// Where a key of a server is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyUrl(String);

impl FromStr for KeyUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("https://").and_then(|rest| rest.split_once("/v1/keys/"));
        let is_plain = |part: &str| !part.is_empty() && !part.contains(['/', '?', '#', '@', ' ']);
        match rest {
            Some((host, name)) if is_plain(host) && is_plain(name) => Ok(Self(text.to_owned())),
            _ => Err("write https://HOST/v1/keys/NAME, or https://HOST:PORT/v1/keys/NAME".into()),
        }
    }
}

/// Has a server sign.
///
/// # Errors
///
/// Where an input cannot be read, the server does not answer or refuses, its evidence does not
/// convince, or a signature does not hold. No signature is written unless all were made and checked.
pub fn run(args: &SignArgs, context: &Context<'_>) -> Result<RemoteReport, CommandError> {
    let (Some(url), Some(policy)) = (&args.remote.remote, &args.remote.policy) else {
        unreachable!("the command line asks for both");
    };
    let existing = Existing::of_force(args.force);
    let jobs: Vec<_> = args.jobs()?.into_iter().map(|job| Job { bundle: None, ..job }).collect();
    let inputs = args.files.iter().filter(|path| !files::is_stdin(path));
    let evidence_files: Vec<_> = inputs.map(|path| evidence_path(path)).collect();
    for path in jobs.iter().filter_map(|job| job.target.as_ref()).chain(&evidence_files) {
        new_file::check(path, existing)?;
    }
    let signer = Signer { url, http: args.remote.http()? };
    let attested = args.remote.attest(&signer, policy, context)?;
    let texts = jobs
        .iter()
        .map(|job| attested.sign(&signer, job))
        .collect::<Result<Vec<_>, CommandError>>()?;
    let mut outputs = Vec::new();
    for (job, text) in jobs.iter().zip(texts) {
        if let Some(path) = &job.target {
            new_file::write(path, text.as_bytes(), existing)?;
        }
        outputs.push(SignedOutput {
            input: job.name.clone(),
            written: job.target.clone(),
            bundle: None,
            signature: job.target.is_none().then_some(text),
        });
    }
    let mut evidence = attested.evidence;
    add_kept_endorsements(&mut evidence, context)?;
    for path in &evidence_files {
        new_file::write(path, format!("{}\n", evidence.to_json()).as_bytes(), existing)?;
    }
    Ok(RemoteReport {
        outputs,
        remote: url.0.clone(),
        public_key: attested.public_key,
        evidence: evidence.digest(),
        tee: attested.tee,
        measurement: attested.measurement,
        not_checked: attested.not_checked,
    })
}

/// The server, and how it is talked to.
struct Signer<'a> {
    url: &'a KeyUrl,
    http: Agent,
}

/// A key whose evidence met the policy.
struct Attested {
    public_key: PublicKey,
    notary: NotaryKey,
    evidence: EvidenceEnvelope,
    tee: Tee,
    measurement: String,
    not_checked: Vec<String>,
}

/// What the server says of a key, as far as it matters here.
#[derive(Deserialize)]
struct Description {
    public_key: PublicKey,
}

/// Why the server did not do it, by its own word (RFC 9457).
#[derive(Deserialize)]
struct ProblemDocument {
    code: String,
    detail: String,
}

impl RemoteArgs {
    fn http(&self) -> Result<Agent, CommandError> {
        let mut tls = TlsConfig::builder().provider(TlsProvider::Rustls);
        if let Some(path) = &self.ca {
            tls = tls.root_certs(RootCerts::new_with_certs(&read_certificates(path)?));
        }
        if let (Some(certificate), Some(key)) = (&self.client_cert, &self.client_key) {
            let chain = read_certificates(certificate)?;
            let wrong = || RemoteError::Pem { path: key.clone(), wanted: "private key" };
            let pem = files::read_small(key, PEM_BYTES_MAX)?;
            let key = PrivateKey::from_pem(&pem).map_err(|_| wrong())?;
            tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
        }
        let config = Agent::config_builder()
            .timeout_global(Some(REQUEST_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .https_only(true)
            .user_agent(concat!("evanesce/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build();
        Ok(config.new_agent())
    }

    /// Asks for evidence with a nonce of ours, and appraises it.
    fn attest(
        &self,
        signer: &Signer<'_>,
        policy: &Path,
        context: &Context<'_>,
    ) -> Result<Attested, CommandError> {
        let policy = read_policy(policy)?;
        let roots = self.roots.roots(context)?;
        let description: Description = signer.get("")?;
        let mut nonce = [0; Nonce::BYTES];
        getrandom::fill(&mut nonce).map_err(|error| RemoteError::Entropy(error.into()))?;
        let asked = EvidenceRequest { nonce: hex::encode(nonce) };
        let answer = signer.post("/evidence", &asked)?;
        let envelope = EvidenceEnvelope::from_json(&answer).map_err(RemoteError::Evidence)?;
        let mut input = Input::of_envelope(PathBuf::from(&signer.url.0), envelope.clone());
        input.complete(context)?;
        let nonce = Nonce::from_bytes(nonce);
        let expected = input.expected(Some(&nonce), Some(&description.public_key), None);
        let at = moment(None);
        let appraisal = appraise(input.evidence(), expected, &policy, &roots, at);
        let not_checked = appraisal.not_checked().to_vec();
        let failures: Vec<_> = appraisal.failures().cloned().collect();
        let outcome = appraisal.outcome();
        let trusted = match appraisal.into_trusted() {
            Ok(trusted) if trusted.is_bound() => trusted,
            _ => return Err(NotAttestedError { outcome, failures }.into()),
        };
        let notary = NotaryKey::from_sec1(envelope.binding.notary.as_bytes())
            .map_err(|_| RemoteError::Notary)?;
        Ok(Attested {
            public_key: description.public_key,
            notary,
            tee: trusted.tee(),
            measurement: hex::encode(trusted.measurement()),
            evidence: envelope,
            not_checked,
        })
    }
}

impl Attested {
    /// Has one digest signed, and checks what comes back: returns the text of the signature file.
    fn sign(&self, signer: &Signer<'_>, job: &Job) -> Result<String, CommandError> {
        let (digest, namespace, bound) = match &job.work {
            Work::File { digests, namespace, .. } => (&digests.sha512, Some(namespace), None),
            Work::Digest { digest, context } => (digest, None, Some(context.clone())),
        };
        let namespace = namespace.map(|namespace| namespace.as_str().to_owned());
        let asked = SignRequest {
            digest: format!("sha512:{}", hex::encode(digest)),
            namespace: namespace.clone(),
            context: bound.clone(),
        };
        let answer: SignAnswer = parse(&signer.post("/sign", &asked)?)?;
        match (namespace, bound) {
            (Some(namespace), _) => {
                let envelope = Envelope::from_armoured(answer.signature.as_bytes())
                    .map_err(|error| SignError::Check(Flaw::Envelope(error)))?;
                let intact =
                    Intact::open(&envelope, digest, &namespace).map_err(SignError::Check)?;
                self.check_signer(&intact)?;
                Ok(envelope.to_armoured())
            }
            (None, bound) => {
                let context = bound.unwrap_or_default();
                let mut signature = [0; 64];
                let decoded = Base64::decode(&answer.signature, &mut signature);
                if decoded.map(<[u8]>::len) != Ok(64) {
                    return Err(SignError::Check(Flaw::Signature).into());
                }
                Prehashed::new(*digest)
                    .verify(&self.public_key, context.as_bytes(), &signature)
                    .map_err(SignError::Check)?;
                let document = DigestSignature {
                    algorithm: "Ed25519ph",
                    digest: &job.name,
                    context: &context,
                    signature: Base64::encode_string(&signature),
                    public_key: self.public_key,
                    certificate: answer.certificate.trim_end(),
                };
                Ok(serde_json::to_string_pretty(&document).expect("plain data") + "\n")
            }
        }
    }

    /// The attested key signed, and the notary that the evidence binds certified it for now.
    fn check_signer(&self, intact: &Intact) -> Result<(), RemoteError> {
        if intact.public_key != self.public_key {
            return Err(RemoteError::OtherKey { found: intact.public_key });
        }
        let notary = TrustedNotary { key: self.notary.clone(), source: TrustSource::Attested };
        let judgement = judge(intact, &[notary], &LedgerWord::default(), None, clock::now());
        match judgement.verdict {
            Verdict::Trusted => Ok(()),
            Verdict::Invalid | Verdict::SignerUnknown => {
                Err(RemoteError::Certificate { reason: judgement.reason })
            }
        }
    }
}

impl Signer<'_> {
    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RemoteError> {
        let answer = self.http.get(format!("{}{path}", self.url.0)).call();
        parse(&self.take(answer)?)
    }

    fn post(&self, path: &str, body: &impl Serialize) -> Result<Vec<u8>, RemoteError> {
        let body = serde_json::to_vec(body).expect("plain data");
        let request = self.http.post(format!("{}{path}", self.url.0));
        self.take(request.header("content-type", "application/json").send(&body[..]))
    }

    fn take(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Vec<u8>, RemoteError> {
        let failed =
            |source| RemoteError::NoAnswer { url: self.url.0.clone(), source: Box::new(source) };
        let mut answer = answer.map_err(failed)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(ENVELOPE_BYTES_MAX as u64).read_to_vec();
        let body = body.map_err(failed)?;
        if status == 200 {
            return Ok(body);
        }
        let problem: Option<ProblemDocument> = serde_json::from_slice(&body).ok();
        let (code, detail) = match problem {
            Some(problem) => (printable(&problem.code), printable(&problem.detail)),
            None => ("no reason".to_owned(), "the answer is none of an evanesce serve".to_owned()),
        };
        Err(RemoteError::Refused { status, code, detail })
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, RemoteError> {
    serde_json::from_slice(body).map_err(RemoteError::Answer)
}

/// What somebody else says is shown without what could move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX).collect()
}

fn read_certificates(path: &Path) -> Result<Vec<ureq::tls::Certificate<'static>>, CommandError> {
    let pem = files::read_small(path, PEM_BYTES_MAX)?;
    let wrong = || RemoteError::Pem { path: path.to_owned(), wanted: "certificate" };
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|_| wrong())? {
            certificates.push(certificate);
        }
    }
    match certificates.is_empty() {
        true => Err(wrong().into()),
        false => Ok(certificates),
    }
}

/// What a server signed, and on what it was believed.
#[derive(Debug, Serialize)]
pub struct RemoteReport {
    outputs: Vec<SignedOutput>,
    remote: String,
    public_key: PublicKey,
    evidence: Digest,
    tee: Tee,
    measurement: String,
    not_checked: Vec<String>,
}

impl RemoteReport {
    fn summarize(&self, out: &mut dyn Write) -> io::Result<()> {
        for output in &self.outputs {
            if let Some(path) = &output.written {
                writeln!(out, "signed    {} → {}", output.input, path.display())?;
            }
        }
        let (tee, measurement) = (self.tee, &self.measurement);
        writeln!(out, "signer    {} {FAINT}({}){FAINT:#}", self.public_key, self.remote)?;
        writeln!(out, "attested  in a {tee} machine that launched {measurement}")?;
        writeln!(out, "not known what becomes of the key: its server has the receipt")
    }
}

impl Report for RemoteReport {
    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut texts =
            self.outputs.iter().filter_map(|output| output.signature.as_ref()).peekable();
        match texts.peek() {
            Some(_) => texts.try_for_each(|text| out.write_all(text.as_bytes())),
            None => self.summarize(out),
        }
    }

    fn talk(&self, err: &mut dyn Write) -> io::Result<()> {
        match self.outputs.iter().any(|output| output.signature.is_some()) {
            true => self.summarize(err),
            false => Ok(()),
        }
    }
}

/// Evidence that does not convince: nothing was sent to be signed.
#[derive(Debug, thiserror::Error)]
#[error("the server's evidence is {}{}", outcome_text(*outcome), failed_rules(failures))]
pub struct NotAttestedError {
    outcome: Outcome,
    failures: Vec<Check>,
}

impl Coded for NotAttestedError {
    fn code(&self) -> &'static str {
        "remote.not-attested"
    }
}

const fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Trusted => "not bound to its key",
        Outcome::Unknown => "genuine, and not listed by the policy",
        Outcome::Refused => "refused",
    }
}

fn failed_rules(failures: &[Check]) -> String {
    let rules: Vec<_> = failures.iter().take(RULES_NAMED).map(|check| check.rule).collect();
    match rules.is_empty() {
        true => String::new(),
        false => format!(": {}", rules.join(", ")),
    }
}

/// Why a server signed nothing that could be believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// A file does not hold what it should.
    #[error("{} holds no {wanted} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes")]
    Entropy(#[source] io::Error),
    /// Connecting, sending or receiving failed, or took too long.
    #[error("no answer from {url}")]
    NoAnswer {
        /// The key's address.
        url: String,
        /// The cause.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The server said no.
    #[error("the server refused ({status}, {code}): {detail}")]
    Refused {
        /// HTTP's status.
        status: u16,
        /// The server's own code.
        code: String,
        /// The server's own words.
        detail: String,
    },
    /// The answer is not one to this request.
    #[error("the server's answer cannot be read")]
    Answer(#[source] serde_json::Error),
    /// The evidence is no envelope.
    #[error("the server's evidence cannot be read")]
    Evidence(#[source] EnvelopeError),
    /// The evidence binds a notary that is no key.
    #[error("the evidence binds a notary that is no key")]
    Notary,
    /// Another key signed than the one that was attested.
    #[error("{found} signed, which is not the attested key")]
    OtherKey {
        /// The key that signed.
        found: PublicKey,
    },
    /// The key's certificate is not by the notary that the evidence binds, or not for now.
    #[error("the key's certificate is not to be believed: {reason}")]
    Certificate {
        /// Why.
        reason: String,
    },
}

impl Coded for RemoteError {
    fn code(&self) -> &'static str {
        match self {
            Self::Pem { .. } => "remote.pem",
            Self::Entropy(_) => "start.entropy",
            Self::NoAnswer { .. } => "remote.no-answer",
            Self::Refused { .. } => "remote.refused",
            Self::Answer(_) => "remote.answer",
            Self::Evidence(_) => "remote.evidence",
            Self::Notary => "remote.notary",
            Self::OtherKey { .. } => "remote.other-key",
            Self::Certificate { .. } => "remote.certificate",
        }
    }
}

/// For one request, from its first byte to the last of its answer: a quote may take half a minute.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(70);

const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// Characters of what the server says that are shown.
const DETAIL_CHARS_MAX: usize = 300;

/// `attest appraise` names the others.
const RULES_NAMED: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_of_a_key_over_tls_is_taken() {
        for text in ["https://a.example/v1/keys/release", "https://127.0.0.1:8443/v1/keys/r"] {
            assert_eq!(text.parse(), Ok(KeyUrl(text.to_owned())));
        }
        for text in [
            "http://a.example/v1/keys/release",
            "https://a.example",
            "https:///v1/keys/release",
            "https://a.example/v1/keys/",
            "https://a.example/v1/keys/release/sign",
            "https://a.example/v1/keys/release?x",
            "https://user@a.example/v1/keys/release",
        ] {
            text.parse::<KeyUrl>().unwrap_err();
        }
    }

    #[test]
    fn what_a_server_says_cannot_move_the_cursor() {
        assert_eq!(printable("no\x1b[2J\r\nmore"), "no[2Jmore");
        assert_eq!(printable(&"x".repeat(1000)).len(), DETAIL_CHARS_MAX);
    }
}
