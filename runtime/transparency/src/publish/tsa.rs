//! Asking a timestamp authority: RFC 3161 over HTTP (section 3.4).

use evanesce_protocol::Digest;

use crate::bundle::{Base64Bytes, TimestampToken};
use crate::publish::http::Http;
use crate::publish::rekor::SubmitError;

/// Asks for a token over the SHA-256 of `signature`; nothing of the answer is verified.
///
/// The request has no nonce: an older token over the same signature says even more.
pub(crate) fn stamp(
    http: &Http,
    url: &str,
    signature: &[u8],
) -> Result<TimestampToken, SubmitError> {
    let request = [REQUEST_HEAD, Digest::of(signature).as_bytes(), REQUEST_TAIL].concat();
    let answer = http.post(url, (QUERY, REPLY), &request)?;
    match answer.status {
        200 | 201 => Ok(TimestampToken { signed_timestamp: Base64Bytes(answer.body) }),
        _ => Err(SubmitError::of_status(url, &answer)),
    }
}

/// DER of a TimeStampReq up to the digest: version 1, and a message imprint with SHA-256.
const REQUEST_HEAD: &[u8] = &[
    0x30, 0x39, // TimeStampReq
    0x02, 0x01, 0x01, // version 1
    0x30, 0x31, // messageImprint
    0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, // SHA-256
    0x04, 0x20, // 32 bytes follow
];

/// The rest of it: certReq TRUE.
const REQUEST_TAIL: &[u8] = &[0x01, 0x01, 0xff];

const QUERY: &str = "application/timestamp-query";
const REPLY: &str = "application/timestamp-reply";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lengths_in_the_request_are_right() {
        let bytes = REQUEST_HEAD.len() + 32 + REQUEST_TAIL.len();
        assert_eq!(usize::from(REQUEST_HEAD[1]), bytes - 2);
        assert_eq!(usize::from(REQUEST_HEAD[6]), REQUEST_HEAD.len() + 32 - 7);
    }
}
