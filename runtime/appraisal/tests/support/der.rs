//! DER, written by hand: what the test PKIs are made of.

use x509_cert::der::asn1::ObjectIdentifier;

/// A DER integer below 256.
pub(crate) fn integer(value: u8) -> Vec<u8> {
    if value < 0x80 { tlv(0x02, &[value]) } else { tlv(0x02, &[0, value]) }
}

/// An ASN.1 IA5String.
pub(crate) fn ia5(text: &str) -> Vec<u8> {
    tlv(0x16, text.as_bytes())
}

/// A name that is one common name.
pub(crate) fn name(common_name: &str) -> Vec<u8> {
    let attribute = [oid("2.5.4.3"), tlv(0x0C, common_name.as_bytes())].concat();
    tlv(0x30, &tlv(0x31, &tlv(0x30, &attribute)))
}

/// An extension: object identifier, critical, value.
pub(crate) fn extension((id, critical, value): &(&'static str, bool, Vec<u8>)) -> Vec<u8> {
    let critical = if *critical { tlv(0x01, &[0xFF]) } else { Vec::new() };
    tlv(0x30, &[oid(id), critical, tlv(0x04, value)].concat())
}

/// Midnight of `YYMMDD`.
pub(crate) fn utc(date: &str) -> Vec<u8> {
    tlv(0x17, format!("{date}000000Z").as_bytes())
}

/// An object identifier.
pub(crate) fn oid(text: &str) -> Vec<u8> {
    tlv(0x06, ObjectIdentifier::new(text).expect("an object identifier").as_bytes())
}

/// A bit string of whole bytes.
pub(crate) fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], bytes].concat())
}

/// Tag, length, value.
pub(crate) fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("below 64 KiB");
    let [high, low] = length.to_be_bytes();
    let header = match length {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [header.as_slice(), value].concat()
}
