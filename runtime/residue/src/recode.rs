//! How arithmetic code lays out a number in memory.
//!
//! The layouts are private to the libraries that use them, so they are computed here and checked
//! against an independent big-integer calculation.

/// The number as limbs of `limb_bits` each, the lowest first, every one a little-endian `u64`.
///
/// `number` is little-endian; bits from `bits` on are left out.
pub(crate) fn limbs_u64(number: &[u8], bits: usize, limb_bits: usize) -> Vec<u8> {
    limbs(number, bits, limb_bits).flat_map(u64::to_le_bytes).collect()
}

/// As [`limbs_u64`], for limbs of at most 32 bits that are stored as `u32`.
pub(crate) fn limbs_u32(number: &[u8], bits: usize, limb_bits: usize) -> Vec<u8> {
    limbs(number, bits, limb_bits)
        .flat_map(|limb| u32::try_from(limb).expect("a limb has at most 32 bits").to_le_bytes())
        .collect()
}

/// Signed digits in radix `2^width`, the lowest first, one `i8` each, as curve25519-dalek's
/// `as_radix_2w` makes them: all but the last lie in `-2^(width-1) .. 2^(width-1)`.
///
/// `number` is little-endian and below 2^255; `width` is 4 to 8.
pub(crate) fn signed_digits(number: &[u8; 32], width: usize) -> Vec<u8> {
    let radix = 1_i16 << width;
    let count = 256_usize.div_ceil(width);
    let mut carry = 0;
    let mut digits: Vec<i16> = limbs(number, 256, width)
        .enumerate()
        .map(|(index, bits)| {
            let coefficient = carry + i16::try_from(bits).expect("a digit has at most 8 bits");
            // A carry out of the last digit would be lost; only radix 256 has room for it.
            let last = index + 1 == count && width < 8;
            carry = if last { 0 } else { (coefficient + radix / 2) >> width };
            coefficient - (carry << width)
        })
        .collect();
    if width == 8 {
        digits.push(carry);
    }
    digits.into_iter().map(|digit| digit.to_le_bytes()[0]).collect()
}

/// Each group of eight bytes reversed: big-endian words as a little-endian machine holds them.
pub(crate) fn swapped_words(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(8).flat_map(|word| word.iter().rev().copied()).collect()
}

/// All bytes in reverse: a number written big-endian.
pub(crate) fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

fn limbs(number: &[u8], bits: usize, limb_bits: usize) -> impl Iterator<Item = u64> {
    let bit = move |index: usize| {
        let byte = if index < bits { number.get(index / 8).copied().unwrap_or(0) } else { 0 };
        u64::from(byte >> (index % 8) & 1)
    };
    (0..bits.div_ceil(limb_bits)).map(move |limb| {
        (0..limb_bits).fold(0, |value, place| value | bit(limb * limb_bits + place) << place)
    })
}

#[cfg(test)]
mod tests {
    use num_bigint::{BigInt, BigUint, Sign};

    use super::*;

    /// Numbers that carry in every digit, in none, and in between; all below 2^255.
    fn numbers() -> Vec<[u8; 32]> {
        let mut patterned = [0; 32];
        for (index, byte) in patterned.iter_mut().enumerate() {
            *byte = u8::try_from(index * 151 % 256).unwrap();
        }
        let mut numbers = vec![[0; 32], [0x77; 32], [0x88; 32], [0xff; 32], patterned];
        numbers.iter_mut().for_each(|number| number[31] &= 0x7f);
        numbers
    }

    #[test]
    fn limbs_are_the_digits_of_the_number_in_radix_two_to_the_limb() {
        for number in numbers() {
            let value = BigUint::from_bytes_le(&number);
            for limb_bits in [28_usize, 29, 30, 51, 52, 56] {
                let mask = (BigUint::from(1_u8) << limb_bits) - 1_u8;
                let expected: Vec<u64> = (0..255_usize.div_ceil(limb_bits))
                    .map(|index| ((&value >> (index * limb_bits)) & &mask).try_into().unwrap())
                    .collect();

                let wide = limbs_u64(&number, 255, limb_bits);
                let found: Vec<u64> =
                    wide.as_chunks().0.iter().map(|limb| u64::from_le_bytes(*limb)).collect();
                assert_eq!(found, expected, "{limb_bits} bits in u64");

                if limb_bits <= 32 {
                    let narrow = limbs_u32(&number, 255, limb_bits);
                    let found: Vec<u64> = narrow
                        .as_chunks()
                        .0
                        .iter()
                        .map(|limb| u32::from_le_bytes(*limb).into())
                        .collect();
                    assert_eq!(found, expected, "{limb_bits} bits in u32");
                }
            }
        }
    }

    #[test]
    fn signed_digits_add_up_to_the_number_and_stay_in_their_range() {
        for number in numbers() {
            let value = BigInt::from_bytes_le(Sign::Plus, &number);
            for width in 4..=8_usize {
                let digits: Vec<i8> =
                    signed_digits(&number, width).into_iter().map(u8::cast_signed).collect();

                let sum: BigInt = digits
                    .iter()
                    .enumerate()
                    .map(|(index, digit)| BigInt::from(*digit) << (index * width))
                    .sum();
                assert_eq!(sum, value, "radix 2^{width}");
                let half = 1_i16 << (width - 1);
                let (_, inner) = digits.split_last().unwrap();
                assert!(inner.iter().all(|digit| (-half..half).contains(&i16::from(*digit))));
            }
        }
    }

    #[test]
    fn swapped_words_are_what_a_hash_function_loads() {
        let bytes: Vec<u8> = (0..16).collect();
        let words: Vec<u8> = bytes
            .as_chunks()
            .0
            .iter()
            .flat_map(|word| u64::from_be_bytes(*word).to_le_bytes())
            .collect();
        assert_eq!(swapped_words(&bytes), words);
    }
}
