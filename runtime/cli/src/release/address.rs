//! Where a holder listens.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where a holder listens, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// `tls://HOST:PORT`.
    Tls {
        /// A name or an address; an address of version 6 without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `tcp://ADDRESS:PORT`: in the clear, of this machine alone.
    Loopback(SocketAddr),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        if let Some(rest) = text.strip_prefix("tcp://") {
            let address: SocketAddr = rest.parse().map_err(|_| ParseAddressError)?;
            return match address.ip().is_loopback() {
                true => Ok(Self::Loopback(address)),
                false => Err(ParseAddressError),
            };
        }
        let rest = text.strip_prefix("tls://").ok_or(ParseAddressError)?;
        let (host, port) = rest.rsplit_once(':').ok_or(ParseAddressError)?;
        let port = port.parse().map_err(|_| ParseAddressError)?;
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_name = |host: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
            !host.is_empty() && host.bytes().all(allowed)
        };
        match inner {
            Some(host) if matches!(host.parse(), Ok(IpAddr::V6(_))) => {
                Ok(Self::Tls { host: host.to_owned(), port })
            }
            None if is_name(host) => Ok(Self::Tls { host: host.to_owned(), port }),
            _ => Err(ParseAddressError),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls { host, port } if host.contains(':') => write!(f, "tls://[{host}]:{port}"),
            Self::Tls { host, port } => write!(f, "tls://{host}:{port}"),
            Self::Loopback(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where a key comes from that is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source(pub(crate) SourceKind);

/// A holder that listens, or files in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// A holder that listens.
    Listener(Address),
    /// A directory with `challenge.json`.
    Directory(PathBuf),
}

impl FromStr for Source {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_address = ["unix:", "tcp:", "tls:"].iter().any(|start| text.starts_with(start));
        match is_address || text.contains("://") {
            true => Ok(Self(SourceKind::Listener(text.parse()?))),
            false => Ok(Self(SourceKind::Directory(text.into()))),
        }
    }
}

/// A text that names no place where a holder can listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write tls://HOST:PORT, unix:PATH, or tcp://ADDRESS:PORT for a loopback address")]
pub(crate) struct ParseAddressError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_back_from_what_it_prints() {
        for text in [
            "tls://holder.example:7443",
            "tls://192.0.2.1:1",
            "tls://[2001:db8::1]:7443",
            "tcp://127.0.0.1:7443",
            "tcp://[::1]:0",
            "unix:/run/holder.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nothing_goes_in_the_clear_to_another_machine() {
        for text in [
            "tcp://192.0.2.1:7443",
            "tcp://localhost:7443",
            "tcp://0.0.0.0:7443",
            "http://127.0.0.1:7443",
            "tls://",
            "tls://host",
            "tls://user@host:1",
            "tls://a/b:1",
            "tls://[127.0.0.1]:1",
            "unix:",
        ] {
            assert_eq!(text.parse::<Address>(), Err(ParseAddressError), "{text}");
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_a_directory() {
        let source: Source = "media/usb".parse().unwrap();

        assert_eq!(source.0, SourceKind::Directory("media/usb".into()));
    }
}
