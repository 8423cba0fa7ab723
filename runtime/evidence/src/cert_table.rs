//! The certificates that a host hands its SEV-SNP guest beside a report.
//!
//! AMD 56421, "SEV-ES Guest-Hypervisor Communication Block Standardization", section 4.1.8.1: a
//! table of 24-byte entries (GUID, offset, length), closed by an entry of zeros, then the data.

/// The VCEK or VLEK certificate in a certificate table. `None` where there is none, and where the
/// table points outside of itself: nothing in it is needed, so nothing in it is worth an error.
pub fn vek_of_auxblob(table: &[u8]) -> Option<&[u8]> {
    let mut entries = table.chunks_exact(ENTRY_BYTES).take(ENTRIES_MAX);
    let found = entries
        .by_ref()
        .take_while(|entry| entry.iter().any(|byte| *byte != 0))
        .find(|entry| [VCEK, VLEK].iter().any(|guid| entry.starts_with(guid)))?;
    let number = |at: usize| {
        let bytes = found.get(at..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let (offset, length) = (number(16)?, number(20)?);
    let certificate = table.get(offset..offset.checked_add(length)?)?;
    (!certificate.is_empty()).then_some(certificate)
}

const ENTRY_BYTES: usize = 24;

/// AMD knows five kinds.
const ENTRIES_MAX: usize = 32;

/// 63da758d-e664-4564-adc5-f4b93be8accd, in the byte order of RFC 4122.
const VCEK: [u8; 16] = 0x63da758d_e664_4564_adc5_f4b93be8accd_u128.to_be_bytes();
/// a8074bc2-a25a-483e-aae6-39c045a0b8a1, likewise.
const VLEK: [u8; 16] = 0xa8074bc2_a25a_483e_aae6_39c045a0b8a1_u128.to_be_bytes();

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(guid: [u8; 16], offset: u32, length: u32) -> Vec<u8> {
        [&guid[..], &offset.to_le_bytes(), &length.to_le_bytes()].concat()
    }

    #[test]
    fn the_certificate_of_the_signing_key_is_found_behind_others() {
        for guid in [VCEK, VLEK] {
            let table = [entry([7; 16], 72, 2), entry(guid, 74, 3), vec![0; 24], b"xxVEK".to_vec()];
            assert_eq!(vek_of_auxblob(&table.concat()), Some(&b"VEK"[..]));
        }
    }

    #[test]
    fn a_table_that_points_outside_of_itself_or_has_none_gives_none() {
        assert_eq!(vek_of_auxblob(&entry(VCEK, 24, 1)), None);
        assert_eq!(vek_of_auxblob(&entry(VCEK, u32::MAX, u32::MAX)), None);
        assert_eq!(vek_of_auxblob(&entry([7; 16], 0, 4)), None);
        assert_eq!(vek_of_auxblob(&[vec![0; 24], entry(VCEK, 0, 4)].concat()), None);
        assert_eq!(vek_of_auxblob(&[]), None);
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic(mut table in prop::collection::vec(any::<u8>(), 0..200)) {
            for start in 0..table.len().min(4) {
                if let Some(place) = table.get_mut(start * 24..start * 24 + 16) {
                    place.copy_from_slice(&VCEK);
                }
            }
            vek_of_auxblob(&table);
        }
    }
}
