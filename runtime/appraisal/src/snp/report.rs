//! The fields of an attestation report, read from its bytes in place.
//!
//! Offsets are those of AMD 56860, "SEV Secure Nested Paging Firmware ABI Specification",
//! table "ATTESTATION_REPORT Structure", up to report version 5.

use std::fmt;

use super::Product;

/// Bytes in a report of any version.
pub(crate) const REPORT_BYTES: usize = 1184;
/// Bytes that the signature is over.
const SIGNED_BYTES: usize = 0x2A0;
/// Bytes in each of the signature's numbers: 48 used, the rest zero.
const NUMBER_BYTES: usize = 72;

/// A report of the right length.
#[derive(Clone, Copy)]
pub(crate) struct Report<'a>(&'a [u8; REPORT_BYTES]);

impl<'a> Report<'a> {
    /// `None` if the length is wrong.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn version(self) -> u32 {
        self.u32(0x00)
    }

    pub(crate) fn guest_svn(self) -> u32 {
        self.u32(0x04)
    }

    /// The guest's policy, as given at launch.
    pub(crate) fn policy(self) -> u64 {
        self.u64(0x08)
    }

    pub(crate) fn family_id(self) -> &'a [u8; 16] {
        self.field(0x10)
    }

    pub(crate) fn image_id(self) -> &'a [u8; 16] {
        self.field(0x20)
    }

    pub(crate) fn vmpl(self) -> u32 {
        self.u32(0x30)
    }

    pub(crate) fn signature_algorithm(self) -> u32 {
        self.u32(0x34)
    }

    pub(crate) fn current_tcb(self) -> &'a [u8; 8] {
        self.field(0x38)
    }

    pub(crate) fn platform_info(self) -> u64 {
        self.u64(0x40)
    }

    pub(crate) fn is_chip_key_masked(self) -> bool {
        self.u32(0x48) & 0b10 != 0
    }

    /// 0 VCEK, 1 VLEK, 7 none; the rest is reserved.
    pub(crate) fn signing_key(self) -> u32 {
        self.u32(0x48) >> 2 & 0b111
    }

    pub(crate) fn report_data(self) -> &'a [u8; 64] {
        self.field(0x50)
    }

    pub(crate) fn measurement(self) -> &'a [u8; 48] {
        self.field(0x90)
    }

    pub(crate) fn host_data(self) -> &'a [u8; 32] {
        self.field(0xC0)
    }

    pub(crate) fn id_key_digest(self) -> &'a [u8; 48] {
        self.field(0xE0)
    }

    pub(crate) fn author_key_digest(self) -> &'a [u8; 48] {
        self.field(0x110)
    }

    pub(crate) fn reported_tcb(self) -> &'a [u8; 8] {
        self.field(0x180)
    }

    /// Family, model and stepping; version 2 has none.
    pub(crate) fn cpuid(self) -> Option<&'a [u8; 3]> {
        (self.version() >= 3).then(|| self.field(0x188))
    }

    pub(crate) fn chip_id(self) -> &'a [u8; 64] {
        self.field(0x1A0)
    }

    pub(crate) fn committed_tcb(self) -> &'a [u8; 8] {
        self.field(0x1E0)
    }

    pub(crate) fn current_firmware(self) -> Firmware {
        Firmware::read(self.field(0x1E8))
    }

    pub(crate) fn committed_firmware(self) -> Firmware {
        Firmware::read(self.field(0x1EC))
    }

    pub(crate) fn launch_tcb(self) -> &'a [u8; 8] {
        self.field(0x1F0)
    }

    /// Mitigations at launch and now; only version 5 and later has them.
    pub(crate) fn mitigations(self) -> Option<[u64; 2]> {
        (self.version() >= 5).then(|| [self.u64(0x1F8), self.u64(0x200)])
    }

    /// The bytes that the signature is over.
    pub(crate) fn signed(self) -> &'a [u8] {
        &self.0[..SIGNED_BYTES]
    }

    /// The signature's two numbers, big-endian, one after the other.
    pub(crate) fn signature(self) -> [u8; 96] {
        let mut numbers = [0; 96];
        for (half, start) in [SIGNED_BYTES, SIGNED_BYTES + NUMBER_BYTES].into_iter().enumerate() {
            let number = &mut numbers[48 * half..][..48];
            number.copy_from_slice(&self.0[start..][..48]);
            number.reverse();
        }
        numbers
    }

    /// Whether everything around the signature's numbers is zero.
    pub(crate) fn is_padding_zero(self) -> bool {
        let r_end = SIGNED_BYTES + NUMBER_BYTES;
        let s_end = r_end + NUMBER_BYTES;
        [SIGNED_BYTES + 48..r_end, r_end + 48..s_end, s_end..REPORT_BYTES]
            .into_iter()
            .all(|range| self.0[range].iter().all(|byte| *byte == 0))
    }

    /// The first reserved byte that is not zero, as its offset.
    pub(crate) fn reserved_not_zero(self) -> Option<usize> {
        let mut reserved = vec![0x49..0x50, 0x18B..0x1A0, 0x1EB..0x1EC, 0x1EF..0x1F0, 0x208..0x2A0];
        if self.version() < 3 {
            reserved.push(0x188..0x18B);
        }
        if self.version() < 5 {
            reserved.push(0x1F8..0x208);
        }
        if self.0[0x48] >> 5 != 0 {
            return Some(0x48);
        }
        reserved.into_iter().flatten().find(|offset| self.0[*offset] != 0)
    }

    fn u32(self, offset: usize) -> u32 {
        u32::from_le_bytes(*self.field(offset))
    }

    fn u64(self, offset: usize) -> u64 {
        u64::from_le_bytes(*self.field(offset))
    }

    fn field<const BYTES: usize>(self, offset: usize) -> &'a [u8; BYTES] {
        self.0[offset..].first_chunk().expect("every offset in this file leaves room for its field")
    }
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Report(version {})", self.version())
    }
}

/// A version of the firmware, ordered as AMD orders them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Firmware {
    pub(crate) major: u8,
    pub(crate) minor: u8,
    pub(crate) build: u8,
}

impl Firmware {
    fn read(bytes: &[u8; 4]) -> Self {
        let [build, minor, major, _] = *bytes;
        Self { major, minor, build }
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

/// The security versions of one machine's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tcb {
    /// Only on Turin.
    pub(crate) fmc: Option<u8>,
    pub(crate) bootloader: u8,
    pub(crate) tee: u8,
    pub(crate) snp: u8,
    pub(crate) microcode: u8,
}

impl Tcb {
    /// Reads a TCB as `product` lays it out. `None` if a reserved byte is not zero.
    pub(crate) fn read(product: Product, bytes: &[u8; 8]) -> Option<Self> {
        let (tcb, reserved) = match product {
            Product::Milan | Product::Genoa => {
                let [bootloader, tee, reserved @ .., snp, microcode] = *bytes;
                (Self { fmc: None, bootloader, tee, snp, microcode }, u32::from_le_bytes(reserved))
            }
            Product::Turin => {
                let [fmc, bootloader, tee, snp, a, b, c, microcode] = *bytes;
                let tcb = Self { fmc: Some(fmc), bootloader, tee, snp, microcode };
                (tcb, u32::from_le_bytes([a, b, c, 0]))
            }
        };
        (reserved == 0).then_some(tcb)
    }

    /// Whether no part is below that of `minimum`.
    pub(crate) fn is_at_least(&self, minimum: &Self) -> bool {
        self.fmc.unwrap_or(0) >= minimum.fmc.unwrap_or(0)
            && self.bootloader >= minimum.bootloader
            && self.tee >= minimum.tee
            && self.snp >= minimum.snp
            && self.microcode >= minimum.microcode
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fmc) = self.fmc {
            write!(f, "fmc {fmc}, ")?;
        }
        let Self { bootloader, tee, snp, microcode, .. } = self;
        write!(f, "bootloader {bootloader}, tee {tee}, snp {snp}, microcode {microcode}")
    }
}
