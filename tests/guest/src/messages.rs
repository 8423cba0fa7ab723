//! What is signed in the guest: a few requests, over and over, so that every nonce is known.

use evanesce_protocol::sshsig::{HashAlgorithm, SignedData};
use sha2::{Digest as _, Sha512};

/// Different requests.
pub const MESSAGES: usize = 16;

/// Request number `index`, as the key signs it: what `ssh-keygen -Y sign -n file` asks for.
pub fn message(index: usize) -> Vec<u8> {
    let message_digest = Sha512::digest(format!("file number {}", index % MESSAGES));
    let hash = HashAlgorithm::Sha512;
    SignedData { namespace: "file", hash, message_digest: &message_digest }.to_bytes()
}
