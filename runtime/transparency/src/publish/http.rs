//! One request and its answer, with limits on everything.

use std::time::Duration;

use ureq::Agent;
use ureq::http::Response;

/// Bytes of an answer that is read.
pub const ANSWER_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// For one request, from its first byte to the last of its answer. A log may wait for its next
/// checkpoint before it answers.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests, one at a time.
#[derive(Clone, Debug)]
pub struct Http(Agent);

/// An answer, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    /// Rekor v2 names an entry that it has already by this header.
    pub(crate) log_index: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Http {
    /// Gives each request `timeout`. Redirects are not followed, and no proxy is used.
    pub fn new(timeout: Duration) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("evanesce/", env!("CARGO_PKG_VERSION")))
            .build();
        Self(config.new_agent())
    }

    pub(crate) fn get(&self, url: &str, accept: &str) -> Result<Answer, HttpError> {
        allowed(url)?;
        let answer = self.0.get(url).header("accept", accept).call();
        take(url, answer)
    }

    pub(crate) fn post(
        &self,
        url: &str,
        (content, accept): (&str, &str),
        body: &[u8],
    ) -> Result<Answer, HttpError> {
        allowed(url)?;
        let request = self.0.post(url).header("content-type", content).header("accept", accept);
        take(url, request.send(body))
    }
}

/// Plain HTTP goes to this machine alone.
fn allowed(url: &str) -> Result<(), HttpError> {
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|local| {
        url.strip_prefix(local).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    });
    match local || url.starts_with("https://") {
        true => Ok(()),
        false => Err(HttpError::Plain { url: url.to_owned() }),
    }
}

fn take(url: &str, answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer, HttpError> {
    let failed = |source| HttpError::Failed { url: url.to_owned(), source: Box::new(source) };
    let mut answer = answer.map_err(failed)?;
    let header = |name| {
        let value = answer.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let (location, log_index) = (header("location"), header("x-log-index"));
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
    Ok(Answer { status, location, log_index, body: body.map_err(failed)? })
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The address is neither https nor of this machine.
    #[error("{url} is neither https nor on this machine")]
    Plain {
        /// The address.
        url: String,
    },
    /// Connecting, sending or receiving failed, or took too long.
    #[error("no answer from {url}")]
    Failed {
        /// The address.
        url: String,
        /// The cause.
        #[source]
        source: Box<ureq::Error>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_goes_to_this_machine_alone() {
        for url in ["https://rekor.example/", "http://127.0.0.1:3000", "http://localhost/x"] {
            allowed(url).unwrap();
        }
        for url in ["http://rekor.example", "http://127.0.0.1.evil.example", "file:///etc/passwd"] {
            allowed(url).unwrap_err();
        }
    }
}
