//! Key files whose keys everybody knows.

use p256::pkcs8::{EncodePrivateKey as _, LineEnding};

/// The files.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let p256 = p256::SecretKey::from_slice(&[7; 32]).expect("a number below the order");
    let p256 = p256.to_pkcs8_pem(LineEnding::LF).expect("memory is enough");
    let crlf = RFC8410.replace('\n', "\r\n");
    let label = RFC8410.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let padded = format!("{RFC8410}{}", " ".repeat(16 * 1024));
    let own = [RFC8410, RFC8410_WITH_PUBLIC_KEY, X25519, &crlf, p256.as_str(), &label, &padded];
    own.iter()
        .map(|text| text.as_bytes())
        .chain(FROZEN.iter().copied())
        .map(<[u8]>::to_vec)
        .collect()
}

/// The example of RFC 8410, section 10.3.
const RFC8410: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
    -----END PRIVATE KEY-----\n";

/// The same key with its public half and an attribute, from the same section.
const RFC8410_WITH_PUBLIC_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
    oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB\n\
    Z9w7lshQhqowtrbLDFw4rXAxZuE=\n\
    -----END PRIVATE KEY-----\n";

/// A key of another algorithm.
const X25519: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VuBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
    -----END PRIVATE KEY-----\n";

/// Of each other format one that custody's tests keep for ever.
const FROZEN: &[&[u8]] = &[
    include_bytes!("../../../enclave/custody/tests/frozen/age-two-recipients.age"),
    include_bytes!("../../../enclave/custody/tests/frozen/age-with-ssh-recipient.age"),
    include_bytes!("../../../enclave/custody/tests/frozen/age-x25519-binary.age"),
    include_bytes!("../../../enclave/custody/tests/frozen/age-x25519.age"),
    include_bytes!("../../../enclave/custody/tests/frozen/openssh-aes256-ctr.key"),
    include_bytes!("../../../enclave/custody/tests/frozen/openssh.key"),
    include_bytes!("../../../enclave/custody/tests/frozen/pkcs8-pbkdf2-aes256.pem"),
    include_bytes!("../../../enclave/custody/tests/frozen/pkcs8-scrypt.pem"),
    include_bytes!("../../../enclave/custody/tests/frozen/sealed-recipients.age"),
];
