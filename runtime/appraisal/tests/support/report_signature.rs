//! How a chip signs a report (SEV-SNP Firmware ABI, 56860, "ATTESTATION_REPORT").

use ring::rand::SystemRandom;
use ring::signature::EcdsaKeyPair;

/// Signs a report's first 672 bytes; `r` and `s` go behind them, least significant byte first, 72
/// bytes each.
pub(crate) fn sign(report: &mut [u8], key: &EcdsaKeyPair) {
    let signature = key.sign(&SystemRandom::new(), &report[..0x2A0]).unwrap();
    for (number, start) in signature.as_ref().chunks_exact(48).zip([0x2A0, 0x2A0 + 72]) {
        for (byte, place) in number.iter().rev().zip(&mut report[start..]) {
            *place = *byte;
        }
    }
}
