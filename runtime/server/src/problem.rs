//! Why a request is not answered as it was meant to be: RFC 9457, with a stable code.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use serde::Serialize;

use crate::keys::KeyEnd;
use crate::policy::Refusal;

/// Why there is no other answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The body, or a part of the path, is not what the document describes.
    Malformed(String),
    /// The body is no JSON by its own word.
    NotJson,
    /// The body is longer than any that is expected.
    TooLong,
    /// The body did not come in time.
    TooSlow,
    /// There is nothing at this path.
    NoSuchPath,
    /// There is something at this path, for other methods.
    OtherMethod,
    /// The client's certificate is not, or no longer, that of a client.
    UnknownClient,
    /// Policy says no.
    Refused(Refusal),
    /// No evidence is collected for this key.
    NoEvidence,
    /// The machine gave none, and why.
    EvidenceFailed(String),
    /// The key has ended.
    KeyEnded(KeyEnd),
    /// Too much is under way.
    Busy,
    /// The worker did not answer in time.
    TimedOut,
    /// The worker would not sign what policy had admitted.
    WorkerRefused,
}

/// A problem as it is sent.
#[derive(Debug, Serialize)]
struct Document<'a> {
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: String,
}

impl Problem {
    /// The stable name.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "request.malformed",
            Self::NotJson => "request.not-json",
            Self::TooLong => "request.too-long",
            Self::TooSlow => "request.too-slow",
            Self::NoSuchPath => "request.no-such-path",
            Self::OtherMethod => "request.other-method",
            Self::UnknownClient => "client.unknown",
            Self::Refused(Refusal::NoSuchKey) => "key.none",
            Self::Refused(Refusal::NotGranted { .. }) => "grant.missing",
            Self::Refused(Refusal::RateExceeded { .. }) => "rate.exceeded",
            Self::Refused(Refusal::BudgetSpent { .. }) => "budget.spent",
            Self::NoEvidence => "evidence.none",
            Self::EvidenceFailed(_) => "evidence.failed",
            Self::KeyEnded(_) => "key.ended",
            Self::Busy => "server.busy",
            Self::TimedOut => "worker.timed-out",
            Self::WorkerRefused => "worker.refused",
        }
    }

    /// The status of the answer.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NoSuchPath | Self::Refused(Refusal::NoSuchKey) | Self::NoEvidence => {
                StatusCode::NOT_FOUND
            }
            Self::OtherMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnknownClient
            | Self::Refused(Refusal::NotGranted { .. } | Refusal::BudgetSpent { .. }) => {
                StatusCode::FORBIDDEN
            }
            Self::Refused(Refusal::RateExceeded { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Self::EvidenceFailed(_) | Self::KeyEnded(_) | Self::Busy | Self::WorkerRefused => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// When it may help to come again.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(Refusal::RateExceeded { retry_after, .. }) => Some(*retry_after),
            Self::Busy => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Malformed(detail) | Self::EvidenceFailed(detail) => detail.clone(),
            Self::NotJson => "the body has to be application/json".to_owned(),
            Self::TooLong => "the body is longer than 4096 bytes".to_owned(),
            Self::TooSlow => "the body did not come in time".to_owned(),
            Self::NoSuchPath => "there is nothing at this path".to_owned(),
            Self::OtherMethod => "this path has other methods".to_owned(),
            Self::UnknownClient => "the certificate is not that of a known client".to_owned(),
            Self::Refused(refusal) => refusal.to_string(),
            Self::NoEvidence => "no evidence is collected for this key".to_owned(),
            Self::KeyEnded(end) => format!("the key has ended: {}", end.reason),
            Self::Busy => "too many requests are under way".to_owned(),
            Self::TimedOut => "the worker did not answer in time".to_owned(),
            Self::WorkerRefused => "the worker refused to sign".to_owned(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let status = self.status();
        let document = Document {
            title: status.canonical_reason().unwrap_or("refused"),
            status: status.as_u16(),
            code: self.code(),
            detail: self.detail(),
        };
        let text = serde_json::to_vec(&document).expect("plain data");
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = self.retry_after() {
            // Whole seconds (RFC 9110, section 10.2.3), and never too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response.extensions_mut().insert(Code(self.code()));
        response
    }
}

/// Beside an answer: why it is one of the problems, for the metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Code(pub(crate) &'static str);
