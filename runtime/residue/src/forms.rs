//! Every form a key can take in the memory of something that signs with it.

use std::collections::HashSet;

use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding};
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use sha2::{Digest as _, Sha512};

use crate::canary::{Canary, Expanded};
use crate::recode::{limbs_u32, limbs_u64, reversed, signed_digits, swapped_words};

/// One thing that the canary signed, which decides that signature's nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signed<'a> {
    /// A message, by pure Ed25519.
    Message(&'a [u8]),
    /// The SHA-512 digest of a message, by Ed25519ph (RFC 8032, section 5.1).
    Digest {
        /// The digest.
        digest: [u8; 64],
        /// The context, at most 255 bytes; what lies beyond is left out.
        context: &'a [u8],
    },
}

/// Every form one canary can take, each with a name, and the fragments of them worth finding.
///
/// # Names
///
/// | form | what it is |
/// |---|---|
/// | `seed`, `seed.reversed`, `seed.words` | the 32 bytes; in reverse; as the big-endian `u64` that SHA-512 loads |
/// | `seed.hex-lower`, `seed.hex-upper` | text |
/// | `seed.base64-N`, `seed.base64url-N` | the characters the seed alone decides, at N bytes past a group of three |
/// | `hash.low`, `hash.prefix`, `hash.words` | the halves of SHA-512(seed), the lower one unclamped; both as SHA-512's state |
/// | `clamped`, `scalar` | the lower half clamped; the same reduced modulo the group's order L |
/// | … `.reversed`, `.limbs-B`, `.radix-R` | of both: big-endian; limbs of 51, 52, 56 (`u64`) and 28, 29, 30 bits (`u32`); signed digits in radix 16 to 256 |
/// | `nonce[I].hash`, `.hash.words`, `.hash.limbs-52` | of signature I: the 64 bytes of SHA-512(prefix ‖ message); as its state; as curve25519-dalek unpacks them |
/// | `nonce[I].scalar` … | r, that hash modulo L; also `.limbs-52`, `.limbs-29`, `.radix-16` |
/// | `product[I].scalar`, `.scalar.limbs-52`, `.montgomery.limbs-52` | k·a modulo L, the last step before S = r + k·a (k is public, so this *is* the key); the last one times R⁻¹ with R = 2^260 |
///
/// Limb layouts: 52 and 29 bits are curve25519-dalek's `Scalar52` and `Scalar29`, 56 and 30
/// ed25519-donna's, 51 and 28 those of field elements.
///
/// Containers are covered by what they contain. PKCS#8, OpenSSH's `seed ‖ public` and raw keys hold
/// the `seed`; hexadecimal text of any of them holds `seed.hex-*`; the base64 of a PKCS#8 file holds
/// `seed.base64-1`, of an OpenSSH file `seed.base64-2`, line breaks or not. The characters around
/// it are the same for every key or public, and would be found where no key is.
///
/// # Fragments
///
/// A fragment is eight consecutive bytes of a form, at every offset. Where eight bytes carry
/// fewer than 48 bits of the key (hexadecimal text, digits in radix 16 and 32), it is sixteen
/// ([`Fragment`]). Left out are fragments
///
/// * with fewer than five different bytes: they occur everywhere;
/// * that an earlier form has as well (the middle of `clamped` is that of `hash.low`): each
///   fragment has one name, and is counted once.
///
/// A form without a fragment of its own is left out altogether (`base64url` of a seed whose text
/// has neither `+` nor `/`).
///
/// In data that is random, a false hit is expected once in 2^64 / (fragments x bytes): for a
/// canary with 1,000 signatures (415,000 fragments) and 64 GiB once in 600 scans. In data that
/// has the very shape of a form (64 GiB of nothing but base64 text, 48 bits a fragment) it is
/// fragments of that form x bytes / 2^48: about 200 fragments, 0.05 hits a scan.
///
/// # What is not searched for
///
/// Non-adjacent forms (only verification makes them, of public numbers), products before
/// reduction (they live in registers within one multiplication), and curve points on the way to
/// r·B (no bit of r can be read off one).
#[derive(Clone, Debug)]
pub struct Forms {
    forms: Vec<Form>,
}

impl Forms {
    pub(crate) fn of(canary: &Canary, signed: &[Signed<'_>]) -> Self {
        let key = canary.expand();
        let public_key = canary.public_key();

        let mut forms = Builder::default();
        forms.seed(canary.seed());
        forms.expanded(&key);
        for (index, signed) in signed.iter().enumerate() {
            forms.signature(index, &Trace::of(&key, &public_key, *signed));
        }
        Self { forms: forms.done }
    }

    /// Adds something else that has to be nowhere: what opened the key's file. `bytes` has at most 80
    /// bytes, and is searched for as it stands, in pieces of eight; `is_text` says that a byte of it
    /// carries five bits or fewer, as Bech32 does, so that a piece is sixteen.
    ///
    /// # Panics
    ///
    /// Where it is longer.
    #[must_use]
    pub fn with_secret(self, name: &str, bytes: &[u8], is_text: bool) -> Self {
        let mut forms = Builder { done: self.forms, ..Builder::default() };
        match is_text {
            true => forms.sparse(name, bytes),
            false => forms.dense(name, bytes),
        }
        Self { forms: forms.done }
    }

    /// The forms, those of the key itself first.
    pub fn iter(&self) -> std::slice::Iter<'_, Form> {
        self.forms.iter()
    }

    /// Fragments that are searched for, over all forms.
    pub fn fragments(&self) -> usize {
        self.forms.iter().map(Form::fragments).sum()
    }
}

impl<'a> IntoIterator for &'a Forms {
    type Item = &'a Form;
    type IntoIter = std::slice::Iter<'a, Form>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One form of a canary: bytes that may turn up as they stand.
#[derive(Clone, Debug)]
pub struct Form {
    name: String,
    bytes: Vec<u8>,
    fragment: Fragment,
    /// For each offset, whether the fragment there is searched for.
    searched: Vec<bool>,
}

impl Form {
    /// Bytes in the longest form: ten limbs of 52 bits in `u64`.
    pub(crate) const BYTES_MAX: usize = 80;

    /// Its name, as in the table of [`Forms`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes, whole.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How long a piece of it has to be to be told from chance.
    pub const fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// Whether the fragment that starts at `offset` is searched for.
    pub fn is_searched(&self, offset: usize) -> bool {
        self.searched.get(offset).copied().unwrap_or(false)
    }

    /// Fragments of it that are searched for.
    pub fn fragments(&self) -> usize {
        self.searched.iter().filter(|&&searched| searched).count()
    }
}

/// How long a fragment has to be to carry at least 48 bits of the key.
///
/// Complete: two lengths serve every form there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// Eight bytes.
    Eight,
    /// Sixteen bytes, for forms with five bits of the key in a byte or fewer.
    Sixteen,
}

impl Fragment {
    /// The length.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Eight => 8,
            Self::Sixteen => 16,
        }
    }
}

/// The secret numbers of one signature (RFC 8032, section 5.1.6, steps 2 to 5).
struct Trace {
    nonce_hash: [u8; 64],
    nonce: Scalar,
    /// k·a, where S = r + k·a.
    product: Scalar,
}

impl Trace {
    fn of(key: &Expanded, public_key: &[u8; 32], signed: Signed<'_>) -> Self {
        let (domain, message) = match signed {
            Signed::Message(message) => (Vec::new(), message),
            Signed::Digest { ref digest, context } => (dom2(context), &digest[..]),
        };
        let hash = |parts: [&[u8]; 3]| -> [u8; 64] {
            parts
                .iter()
                .fold(Sha512::new_with_prefix(&domain), Sha512::chain_update)
                .finalize()
                .into()
        };
        let nonce_hash = hash([&key.prefix, message, &[]]);
        let nonce = Scalar::from_bytes_mod_order_wide(&nonce_hash);
        let point = EdwardsPoint::mul_base(&nonce).compress();
        let challenge = Scalar::from_bytes_mod_order_wide(&hash([&point.0, public_key, message]));
        Self { nonce_hash, nonce, product: challenge * key.scalar }
    }
}

/// What Ed25519ph puts before everything it hashes (RFC 8032, section 2).
fn dom2(context: &[u8]) -> Vec<u8> {
    let length = u8::try_from(context.len()).unwrap_or(u8::MAX);
    let context = &context[..usize::from(length)];
    [b"SigEd25519 no Ed25519 collisions", &[1, length][..], context].concat()
}

#[derive(Default)]
struct Builder {
    done: Vec<Form>,
    taken: HashSet<(Fragment, u128)>,
    montgomery_inverse: Option<Scalar>,
}

impl Builder {
    fn seed(&mut self, seed: &[u8; 32]) {
        self.dense("seed", seed);
        self.dense("seed.reversed", &reversed(seed));
        self.dense("seed.words", &swapped_words(seed));
        self.sparse("seed.hex-lower", hex::encode(seed).as_bytes());
        self.sparse("seed.hex-upper", hex::encode_upper(seed).as_bytes());
        for phase in 0..3 {
            // The characters that hold bits of the seed and nothing else.
            let padded = [vec![0; phase], seed.to_vec()].concat();
            let own = (8 * phase).div_ceil(6)..8 * padded.len() / 6;
            let text = Base64Unpadded::encode_string(&padded);
            self.dense(format!("seed.base64-{phase}"), text[own.clone()].as_bytes());
            let text = Base64UrlUnpadded::encode_string(&padded);
            self.dense(format!("seed.base64url-{phase}"), text[own].as_bytes());
        }
    }

    fn expanded(&mut self, key: &Expanded) {
        self.dense("hash.low", &key.low);
        self.dense("hash.prefix", &key.prefix);
        self.dense("hash.words", &swapped_words(&key.hash));
        for (name, number) in [("clamped", key.clamped), ("scalar", key.scalar.to_bytes())] {
            self.dense(name, &number);
            self.dense(format!("{name}.reversed"), &reversed(&number));
            for bits in [51, 52, 56] {
                self.dense(format!("{name}.limbs-{bits}"), &limbs_u64(&number, 255, bits));
            }
            for bits in [28, 29, 30] {
                self.dense(format!("{name}.limbs-{bits}"), &limbs_u32(&number, 255, bits));
            }
            for width in 4..=8 {
                let name = format!("{name}.radix-{}", 1 << width);
                let digits = signed_digits(&number, width);
                match width {
                    0..6 => self.sparse(name, &digits),
                    6.. => self.dense(name, &digits),
                }
            }
        }
    }

    fn signature(&mut self, index: usize, trace: &Trace) {
        let nonce = format!("nonce[{index}]");
        self.dense(format!("{nonce}.hash"), &trace.nonce_hash);
        self.dense(format!("{nonce}.hash.words"), &swapped_words(&trace.nonce_hash));
        self.dense(format!("{nonce}.hash.limbs-52"), &limbs_u64(&trace.nonce_hash, 512, 52));
        let number = trace.nonce.to_bytes();
        self.dense(format!("{nonce}.scalar"), &number);
        self.dense(format!("{nonce}.scalar.limbs-52"), &limbs_u64(&number, 255, 52));
        self.dense(format!("{nonce}.scalar.limbs-29"), &limbs_u32(&number, 255, 29));
        self.sparse(format!("{nonce}.scalar.radix-16"), &signed_digits(&number, 4));

        let product = format!("product[{index}]");
        let number = trace.product.to_bytes();
        self.dense(format!("{product}.scalar"), &number);
        self.dense(format!("{product}.scalar.limbs-52"), &limbs_u64(&number, 255, 52));
        let number = (trace.product * self.montgomery_inverse()).to_bytes();
        self.dense(format!("{product}.montgomery.limbs-52"), &limbs_u64(&number, 255, 52));
    }

    fn dense(&mut self, name: impl Into<String>, bytes: &[u8]) {
        self.add(name.into(), bytes, Fragment::Eight);
    }

    fn sparse(&mut self, name: impl Into<String>, bytes: &[u8]) {
        self.add(name.into(), bytes, Fragment::Sixteen);
    }

    fn add(&mut self, name: String, bytes: &[u8], fragment: Fragment) {
        assert!(bytes.len() <= Form::BYTES_MAX, "{name} is longer than the search looks around");
        let searched: Vec<bool> = bytes
            .windows(fragment.bytes())
            .map(|window| is_varied(window) && self.taken.insert((fragment, number(window))))
            .collect();
        if searched.contains(&true) {
            self.done.push(Form { name, bytes: bytes.to_vec(), fragment, searched });
        }
    }

    /// R⁻¹ modulo L for R = 2^260, five limbs of 52 bits.
    fn montgomery_inverse(&mut self) -> Scalar {
        *self
            .montgomery_inverse
            .get_or_insert_with(|| (0..260).fold(Scalar::ONE, |power, _| power + power).invert())
    }
}

/// Whether a fragment has enough different bytes not to occur by itself.
fn is_varied(window: &[u8]) -> bool {
    let different: HashSet<u8> = window.iter().copied().collect();
    different.len() >= DIFFERENT_BYTES_MIN
}

fn number(window: &[u8]) -> u128 {
    window.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Different bytes in a fragment that is searched for.
const DIFFERENT_BYTES_MIN: usize = 5;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ed25519_dalek::{Signer as _, SigningKey};
    use num_bigint::BigUint;

    use super::*;

    /// RFC 8032, section 7.1, TEST 2.
    const TEST_2_SEED: &str = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
    const TEST_2_PUBLIC: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    const TEST_2_MESSAGE: &[u8] = &[0x72];
    const TEST_2_SIGNATURE: &str = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
         085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";

    fn test_2() -> Canary {
        Canary::from_seed(hex::decode(TEST_2_SEED).unwrap().try_into().unwrap())
    }

    fn named<'a>(forms: &'a Forms, name: &str) -> &'a Form {
        forms.iter().find(|form| form.name() == name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn scalar_named(forms: &Forms, name: &str) -> Scalar {
        let bytes = named(forms, name).bytes().try_into().unwrap();
        Scalar::from_canonical_bytes(bytes).expect("the scalar is reduced")
    }

    /// The order of the group (RFC 8032, section 5.1), from its definition.
    fn order() -> BigUint {
        let tail: BigUint = "27742317777372353535851937790883648493".parse().unwrap();
        (BigUint::from(1_u8) << 252) + tail
    }

    /// A signature is public and its numbers are not, so a signature put together from the forms
    /// shows that exactly those numbers are searched for.
    fn signature_from(canary: &Canary, forms: &Forms) -> Vec<u8> {
        let nonce = scalar_named(forms, "nonce[0].scalar");
        let sum = nonce + scalar_named(forms, "product[0].scalar");
        // The scalar form is in use by the product; the public key shows that it is the right one.
        let public = EdwardsPoint::mul_base(&scalar_named(forms, "scalar")).compress();
        assert_eq!(public.to_bytes(), canary.public_key());
        [EdwardsPoint::mul_base(&nonce).compress().to_bytes(), sum.to_bytes()].concat()
    }

    #[test]
    fn the_forms_of_a_known_key_give_its_known_public_key_and_signature() {
        let forms = test_2().forms(&[TEST_2_MESSAGE]);

        assert_eq!(hex::encode(test_2().public_key()), TEST_2_PUBLIC);
        assert_eq!(hex::encode(signature_from(&test_2(), &forms)), TEST_2_SIGNATURE);
    }

    #[test]
    fn the_forms_of_a_prehashed_signature_give_what_another_implementation_signs() {
        let context = b"residue";
        let hash = Sha512::new_with_prefix(b"a release");
        let digest = hash.clone().finalize().into();

        let forms = test_2().forms_of(&[Signed::Digest { digest, context }]);

        let peer = SigningKey::from_bytes(test_2().seed());
        let expected = peer.sign_prehashed(hash, Some(context)).unwrap();
        assert_eq!(signature_from(&test_2(), &forms), expected.to_bytes());
    }

    #[test]
    fn the_forms_of_a_random_key_give_what_another_implementation_signs() {
        let canary = Canary::random().unwrap();
        let forms = canary.forms(&[b"message"]);

        let peer = SigningKey::from_bytes(canary.seed());
        assert_eq!(signature_from(&canary, &forms), peer.sign(b"message").to_bytes());
    }

    #[test]
    fn hash_halves_clamping_and_reduction_agree_with_a_big_integer_calculation() {
        let forms = test_2().forms(&[TEST_2_MESSAGE]);
        let bytes = |name: &str| named(&forms, name).bytes().to_vec();
        let value = |name: &str| BigUint::from_bytes_le(&bytes(name));

        let halves = [bytes("hash.low"), bytes("hash.prefix")].concat();
        assert_eq!(halves, Sha512::digest(test_2().seed()).to_vec());

        // Clamping clears the three lowest bits and bit 255, and sets bit 254.
        let mut clamped = value("hash.low");
        for bit in [0, 1, 2, 255] {
            clamped.set_bit(bit, false);
        }
        clamped.set_bit(254, true);
        assert_eq!(value("clamped"), clamped);
        assert_eq!(value("scalar"), &clamped % order());
        assert_eq!(value("nonce[0].scalar"), value("nonce[0].hash") % order());
    }

    #[test]
    fn montgomery_limbs_times_their_radix_are_the_product() {
        let forms = test_2().forms(&[TEST_2_MESSAGE]);
        let product = BigUint::from_bytes_le(named(&forms, "product[0].scalar").bytes());

        let form = named(&forms, "product[0].montgomery.limbs-52");
        let value: BigUint = form
            .bytes()
            .chunks(8)
            .enumerate()
            .map(|(index, limb)| BigUint::from_bytes_le(limb) << (index * 52))
            .sum();
        assert_eq!((value << 260) % order(), product);
    }

    #[test]
    fn a_fragment_without_variety_is_not_searched_for() {
        // Given a seed whose first half is constant,
        let mut seed = *test_2().seed();
        seed[..16].fill(0xaa);
        let forms = Canary::from_seed(seed).forms(&[]);
        let form = named(&forms, "seed");

        // Then fragments count from the first that has four bytes of the other half.
        let first = (0..32).find(|&offset| form.is_searched(offset));
        assert_eq!(first, Some(12));
    }

    #[test]
    fn each_fragment_has_one_name() {
        let forms = test_2().forms(&[b"one", b"two"]);
        let mut names = HashMap::new();
        for form in &forms {
            for (offset, window) in form.bytes().windows(form.fragment().bytes()).enumerate() {
                if form.is_searched(offset) {
                    let earlier = names.insert(window, form.name());
                    assert_eq!(earlier, None, "{} has a fragment of another form", form.name());
                }
            }
        }
        assert_eq!(names.len(), forms.fragments());
    }

    /// A public byte pattern among the forms would be found wherever the signature went.
    #[test]
    fn nothing_public_is_searched_for() {
        let forms = test_2().forms(&[TEST_2_MESSAGE]);
        let public = hex::decode(TEST_2_PUBLIC.to_owned() + TEST_2_SIGNATURE).unwrap();
        for form in &forms {
            for (offset, window) in form.bytes().windows(form.fragment().bytes()).enumerate() {
                let is_public = public.windows(window.len()).any(|piece| piece == window);
                assert!(!(is_public && form.is_searched(offset)), "{} is public", form.name());
            }
        }
    }
}
