//! What there is to ask for, and how it is answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use base64ct::{Base64, Encoding as _};
use evanesce_protocol::WorkloadId;
use evanesce_protocol::agent::{ED25519, request};
use evanesce_protocol::evidence::Nonce;
use evanesce_protocol::grant::{Namespace, ParseGrantError};
use evanesce_protocol::limits::CONTEXT_BYTES_MAX;
use evanesce_protocol::sshsig::{Envelope, HashAlgorithm, SignedData};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ssh_encoding::Encode as _;
use tokio::time::timeout;

use crate::connection::Peer;
use crate::keys::{Key, KeyEnd};
use crate::limits::{BODY_BYTES_MAX, EVIDENCE_TIMEOUT, Timeouts};
use crate::link::LinkError;
use crate::openapi;
use crate::policy::{Ask, Entered, Refusal};
use crate::problem::Problem;
use crate::server::Shared;

/// Every path: its method, and what it is called in the metrics.
pub const ROUTES: [(&str, &str, &str); 7] = [
    ("post", "/v1/keys/{key}/sign", "sign"),
    ("post", "/v1/keys/{key}/evidence", "evidence"),
    ("get", "/v1/keys/{key}", "key"),
    ("get", "/healthz", "healthz"),
    ("get", "/readyz", "readyz"),
    ("get", "/metrics", "metrics"),
    ("get", "/openapi.json", "openapi"),
];

/// A digest to be signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignRequest {
    /// `sha512:` and 128 lower-case hexadecimal digits.
    pub digest: String,
    /// For an SSHSIG signature: what it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// For an Ed25519ph signature: what it is bound to, at most 255 characters of printable ASCII.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// A digest that was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignAnswer {
    /// `sshsig` or `Ed25519ph`.
    pub algorithm: String,
    /// As it was asked for.
    pub digest: String,
    /// Of SSHSIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Of Ed25519ph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Of SSHSIG the text of a `.sig` file, of Ed25519ph the base64 of 64 bytes.
    pub signature: String,
    /// `ed25519:` and 64 hexadecimal digits.
    pub public_key: String,
    /// The key's OpenSSH certificate, one line.
    pub certificate: String,
}

/// A wish for evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRequest {
    /// 64 lower-case hexadecimal digits of the caller's own.
    pub nonce: String,
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for (_, path, name) in ROUTES {
        router = router.route(path, handler(name));
    }
    router
        .fallback(async || Problem::NoSuchPath.into_response())
        .method_not_allowed_fallback(other_method)
        .with_state(shared)
}

fn handler(name: &str) -> MethodRouter<Arc<Shared>> {
    match name {
        "sign" => post(sign),
        "evidence" => post(evidence),
        "key" => get(describe),
        "healthz" => get(async || text("ok\n")),
        "readyz" => get(ready),
        "metrics" => get(metrics),
        "openapi" => get(async || json(StatusCode::OK, openapi::DOCUMENT.to_owned())),
        other => unreachable!("{other} is in the table and has no handler"),
    }
}

/// What the metrics call a request.
pub(crate) fn route_of(uri: &Uri) -> &'static str {
    let path = uri.path();
    let of_key = path.strip_prefix("/v1/keys/").map(|rest| match rest.split_once('/') {
        None => "key",
        Some((_, "sign")) => "sign",
        Some((_, "evidence")) => "evidence",
        Some(_) => "none",
    });
    let plain = || ROUTES.iter().find(|(_, known, _)| *known == path).map(|(_, _, name)| *name);
    of_key.or_else(plain).unwrap_or("none")
}

/// How long the answer may take.
pub(crate) fn deadline_of(route: &str, timeouts: &Timeouts) -> Duration {
    match route {
        "evidence" => EVIDENCE_TIMEOUT,
        _ => timeouts.request,
    }
}

async fn sign(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let peer = Peer::of(&request);
    let client = peer.client(&shared)?;
    let entered = enter(&shared, &peer)?;
    let asked: SignRequest = body(request, &shared).await?;
    let digest = parse_digest(&asked.digest)?;
    let ask = match (&asked.namespace, &asked.context) {
        (Some(_), Some(_)) => return Err(malformed("either a namespace or a context")),
        (Some(namespace), None) => {
            let ask = Ask::SignSshsig { namespace };
            namespace.parse::<Namespace>().map_err(|error| match error {
                ParseGrantError::ReservedNamespace => {
                    Problem::Refused(Refusal::NotGranted { missing: ask.to_string() })
                }
                error => Problem::Malformed(error.to_string()),
            })?;
            ask
        }
        (None, context) => {
            let context = context.as_deref().unwrap_or_default();
            let printable = context.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            if context.len() > CONTEXT_BYTES_MAX || !printable {
                return Err(malformed("a context has at most 255 characters of printable ASCII"));
            }
            if context.starts_with("evanesce") {
                return Err(malformed(
                    "contexts that start with evanesce are for its own statements",
                ));
            }
            Ask::SignDigest
        }
    };
    let name = parse_name(name)?;
    let _admitted = shared.admit(entered, &client, &name, ask)?;
    let key = shared.key(&name)?;
    let certificate = &key.setup.certificate;
    let frame = match &asked.namespace {
        Some(namespace) => {
            let hash = HashAlgorithm::Sha512;
            let data = SignedData { namespace, hash, message_digest: &digest };
            request::sign(certificate, &data.to_bytes())
        }
        None => {
            let context = asked.context.as_deref().unwrap_or_default();
            request::sign_digest(certificate, context.as_bytes(), &digest)
        }
    };
    let signature = key.link.sign(frame).await.map_err(|error| match error {
        LinkError::Full => Problem::Busy,
        LinkError::Refused => Problem::WorkerRefused,
        LinkError::Broken => Problem::KeyEnded(key.end().unwrap_or_else(KeyEnd::unseen)),
    })?;
    key.count_signature();
    let answer = answer_of(asked, key, &signature);
    Ok(json(StatusCode::OK, serde_json::to_string(&answer).expect("plain data")))
}

fn answer_of(asked: SignRequest, key: &Key, signature: &[u8; 64]) -> SignAnswer {
    let (algorithm, context, signature) = match &asked.namespace {
        Some(namespace) => ("sshsig", None, armoured(&key.setup.certificate, namespace, signature)),
        None => {
            let context = asked.context.unwrap_or_default();
            ("Ed25519ph", Some(context), Base64::encode_string(signature))
        }
    };
    SignAnswer {
        algorithm: algorithm.to_owned(),
        digest: asked.digest,
        namespace: asked.namespace,
        context,
        signature,
        public_key: key.setup.public_key.to_string(),
        certificate: key.setup.certificate_line.clone(),
    }
}

/// The text of a `.sig` file.
fn armoured(certificate: &[u8], namespace: &str, signature: &[u8; 64]) -> String {
    let mut blob = Vec::new();
    for field in [ED25519.as_bytes(), signature] {
        field.encode(&mut blob).expect("a Vec takes any field below 4 GiB");
    }
    let envelope = Envelope {
        public_key: certificate.to_vec(),
        namespace: namespace.to_owned(),
        hash: HashAlgorithm::Sha512,
        signature: blob,
    };
    envelope.to_armoured()
}

async fn evidence(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let peer = Peer::of(&request);
    let client = peer.client(&shared)?;
    let entered = enter(&shared, &peer)?;
    let asked: EvidenceRequest = body(request, &shared).await?;
    let mut nonce = [0; Nonce::BYTES];
    let digits = lower_hex(&asked.nonce).ok_or(NONCE);
    digits
        .and_then(|digits| hex::decode_to_slice(digits, &mut nonce).map_err(|_| NONCE))
        .map_err(malformed)?;
    let name = parse_name(name)?;
    let _admitted = shared.admit(entered, &client, &name, Ask::Evidence)?;
    let key = shared.key(&name)?;
    let collect = key.setup.collect.clone().ok_or(Problem::NoEvidence)?;
    if let Some(end) = key.end() {
        return Err(Problem::KeyEnded(end));
    }
    // One attester at a time for each key; the permit goes with it, since a client that stops
    // waiting does not end it.
    let attesters = Arc::clone(&key.attesters);
    let permit = attesters.acquire_owned().await.map_err(|_| Problem::Busy)?;
    let collected = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        collect(Nonce::from_bytes(nonce))
    });
    match collected.await {
        Ok(Ok(envelope)) => Ok(json(StatusCode::OK, envelope)),
        Ok(Err(reason)) => Err(Problem::EvidenceFailed(reason)),
        Err(_) => Err(Problem::EvidenceFailed("the attester's thread ended".to_owned())),
    }
}

async fn describe(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let peer = Peer::of(&request);
    let client = peer.client(&shared)?;
    let entered = enter(&shared, &peer)?;
    let name = parse_name(name)?;
    let _admitted = shared.admit(entered, &client, &name, Ask::Describe)?;
    let description = shared.any_key(&name)?.description();
    Ok(json(StatusCode::OK, serde_json::to_string(&description).expect("plain data")))
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let readiness = shared.readiness();
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, serde_json::to_string(&readiness).expect("plain data"))
}

async fn metrics(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let peer = Peer::of(&request);
    let client = peer.client(&shared)?;
    let _entered = enter(&shared, &peer)?;
    if !client.metrics {
        let missing = "metrics".to_owned();
        return Err(Problem::Refused(Refusal::NotGranted { missing }));
    }
    let mut response = text(shared.metrics_text());
    let version = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, version);
    Ok(response)
}

async fn other_method(uri: Uri) -> Response {
    let mut response = Problem::OtherMethod.into_response();
    let route = route_of(&uri);
    let known = ROUTES.iter().find(|(_, _, name)| *name == route).map(|(method, _, _)| *method);
    let allow = match known {
        Some("post") => "POST",
        _ => "GET, HEAD",
    };
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// Takes a token for the request, before any of its body is read.
fn enter(shared: &Shared, peer: &Peer) -> Result<Entered, Problem> {
    let client = peer.client(shared)?;
    shared.gate().enter(&client, shared.now()).map_err(Problem::Refused)
}

/// Reads a body of JSON, in time and within bounds.
async fn body<T: DeserializeOwned>(request: Request, shared: &Shared) -> Result<T, Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::NotJson);
    }
    let reading = timeout(shared.timeouts.body, to_bytes(request.into_body(), BODY_BYTES_MAX));
    let bytes = match reading.await {
        Ok(Ok(bytes)) => bytes,
        // The body was longer, or the client has gone and reads no answer.
        Ok(Err(_)) => return Err(Problem::TooLong),
        Err(_) => return Err(Problem::TooSlow),
    };
    serde_json::from_slice(&bytes).map_err(|error| Problem::Malformed(error.to_string()))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    media.trim().eq_ignore_ascii_case("application/json")
}

fn parse_name(name: Result<Path<String>, PathRejection>) -> Result<WorkloadId, Problem> {
    // What is no name is the name of no key.
    let none = || Problem::Refused(Refusal::NoSuchKey);
    name.map_err(|_| none())?.0.parse().map_err(|_| none())
}

fn parse_digest(text: &str) -> Result<[u8; 64], Problem> {
    let mut digest = [0; 64];
    let digits = text.strip_prefix("sha512:").and_then(lower_hex);
    let read = digits.map(|digits| hex::decode_to_slice(digits, &mut digest));
    match read {
        Some(Ok(())) => Ok(digest),
        _ => Err(malformed("a digest is sha512: and 128 lower-case hexadecimal digits")),
    }
}

fn lower_hex(text: &str) -> Option<&str> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.bytes().all(is_digit).then_some(text)
}

fn malformed(detail: &str) -> Problem {
    Problem::Malformed(detail.to_owned())
}

fn json(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

const NONCE: &str = "a nonce is 64 lower-case hexadecimal digits";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_of_another_hash_length_or_spelling_is_malformed() {
        parse_digest(&format!("sha512:{}", "0a".repeat(64))).unwrap();
        for text in [
            format!("sha512:{}", "0A".repeat(64)),
            format!("sha512:{}", "0a".repeat(63)),
            format!("sha256:{}", "0a".repeat(32)),
            "0a".repeat(64),
            String::new(),
        ] {
            assert_eq!(parse_digest(&text).unwrap_err().code(), "request.malformed", "{text}");
        }
    }

    #[test]
    fn the_metrics_know_each_route_and_no_more_names_than_there_are_routes() {
        for (_, path, name) in ROUTES {
            let uri: Uri = path.replace("{key}", "release").parse().unwrap();
            assert_eq!(route_of(&uri), name, "{path}");
        }
        for path in ["/", "/v1", "/v1/keys/a/other", "/metrics/x", "/v1/keys/a/b/sign"] {
            assert_eq!(route_of(&path.parse().unwrap()), "none", "{path}");
        }
    }
}
