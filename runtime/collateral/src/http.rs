//! One GET request at a time, bounded in every direction.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// Where something is asked for: `https://…`, or `http://` on this very machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// The URL with `rest` behind it.
    pub(crate) fn join(&self, rest: &str) -> Self {
        Self(format!("{}/{rest}", self.0.trim_end_matches('/')))
    }

    /// The host and port: whom a gap between requests is for.
    pub(crate) fn authority(&self) -> &str {
        authority_of(&self.0).unwrap_or_default()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let authority = authority_of(text).filter(|authority| !authority.is_empty());
        let authority = authority.ok_or(UrlError)?;
        let plain = text.starts_with("http://");
        if authority.contains('@') || (plain && !is_loopback(authority)) {
            return Err(UrlError);
        }
        match text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => Err(UrlError),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no URL to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write https://HOST[:PORT][/PATH]; http:// only for a loopback address")]
pub struct UrlError;

fn authority_of(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    rest.split(['/', '?', '#']).next()
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of this name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Whoever makes the requests.
pub trait Http {
    /// Asks for `url`, once. A status other than 200 is an answer.
    ///
    /// # Errors
    ///
    /// [`HttpError`] where there was no answer, or one without end.
    fn get(&self, url: &Url) -> Result<Answer, HttpError>;
}

/// The network, through TLS with the roots of Mozilla's list.
pub struct Network {
    agent: ureq::Agent,
}

impl Network {
    /// A client that follows no redirect and waits no longer than half a minute for anything.
    pub fn new(version: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .http_status_as_error(false)
            .max_response_header_size(HEADER_BYTES_MAX)
            .user_agent(format!("evanesce/{version}"))
            .build();
        Self { agent: config.new_agent() }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

impl Http for Network {
    fn get(&self, url: &Url) -> Result<Answer, HttpError> {
        let failed =
            |error: ureq::Error| HttpError { url: url.to_string(), cause: error.to_string() };
        let mut response = self.agent.get(url.as_str()).call().map_err(failed)?;
        let headers = response
            .headers()
            .iter()
            .filter_map(|(name, value)| {
                Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
            })
            .collect();
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec();
        Ok(Answer { status, headers, body: body.map_err(failed)? })
    }
}

/// There was no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url} did not answer ({cause})")]
pub struct HttpError {
    /// Who was asked.
    pub url: String,
    /// What happened.
    pub cause: String,
}

/// For one request, whatever it waits for.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Intel hands out certificate chains in headers.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Intel's largest answers have about 30 KiB.
const BODY_BYTES_MAX: u64 = 512 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_leaves_the_machine() {
        for good in ["https://kds.example", "http://127.0.0.1:8080/base", "http://[::1]:80"] {
            assert_eq!(good.parse::<Url>().unwrap().as_str(), good);
        }
        for bad in [
            "http://kds.example",
            "http://127.0.0.1.example",
            "http://localhost",
            "https://",
            "https://user@kds.example",
            "http://127.0.0.1@kds.example",
            "ftp://kds.example",
            "https://kds.example/a b",
            "kds.example",
        ] {
            assert_eq!(bad.parse::<Url>(), Err(UrlError), "{bad}");
        }
    }

    #[test]
    fn the_authority_is_host_and_port() {
        let url: Url = "https://kds.example:444/a?b".parse().unwrap();

        assert_eq!(url.authority(), "kds.example:444");
        assert_eq!(url.join("x").as_str(), "https://kds.example:444/a?b/x");
    }
}
