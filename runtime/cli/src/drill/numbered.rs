//! What a canary signs in a drill: files without contents worth reading, by number.

use evanesce_protocol::sshsig::{HashAlgorithm, SignedData};
use sha2::{Digest as _, Sha512};

/// What the agent is asked to sign for file number `index`.
pub fn request(index: u64) -> Vec<u8> {
    of_file("file", &Sha512::digest(format!("file number {index}")))
}

/// What an agent is asked to sign for a file with this SHA-512 digest.
pub fn of_file(namespace: &str, digest: &[u8]) -> Vec<u8> {
    SignedData { namespace, hash: HashAlgorithm::Sha512, message_digest: digest }.to_bytes()
}

/// The requests 0 to `count`, that one left out.
pub fn requests(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(request).collect()
}

/// Requests whose nonces a search knows: their forms have to fit in memory.
pub const COUNT_MAX: u64 = 10_000;
