//! Plays the chip in a worker's machine: signs what the kernel's configfs-tsm is asked for.
//!
//! The module `fake_tsm` (`tests/guest/modules`) starts it. What it signs with lies beside it in the
//! archive of a machine for tests: `/chip/key` (PKCS#8), `/chip/report` (all but what is asked for)
//! and `/chip/certificates`.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "nobody answers in its place: the one who asked is told so"
)]

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};

#[path = "../../../runtime/appraisal/tests/support/report_signature.rs"]
mod report_signature;

fn main() {
    let [key, mut report, certificates] =
        ["key", "report", "certificates"].map(|name| fs::read(format!("/chip/{name}")).unwrap());
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key, &random).unwrap();
    let mut device = OpenOptions::new().read(true).write(true).open("/dev/fake-chip").unwrap();
    loop {
        // struct relay_request, then struct relay_answer and what it counts.
        let mut request = [0; 68];
        device.read_exact(&mut request).unwrap();
        report[0x50..0x90].copy_from_slice(&request[..64]);
        report_signature::sign(&mut report, &key);
        let lengths =
            [&report, &certificates].map(|part| u32::try_from(part.len()).unwrap().to_le_bytes());
        device.write_all(&[&lengths.concat()[..], &report, &certificates].concat()).unwrap();
    }
}
