//! The firmware of a SEV-SNP machine: an OVMF, whose tables say what is measured with it.
//!
//! The tables are read here to their end before the calculator of measurements sees them: it takes
//! offsets and lengths at their word. What is accepted is narrower than what QEMU starts, and nothing
//! that the two could read in two ways is in it.
//!
//! `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm` of edk2 has the table, `OvmfSevMetadata.asm`
//! beside it the sections.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// A firmware that was built for SEV-SNP, with a place for the hashes of kernel, archive and command
/// line. Its tables were read to their end.
#[derive(Clone, PartialEq, Eq)]
pub struct Firmware(Vec<u8>);

impl Firmware {
    /// Reads a firmware from a file.
    ///
    /// # Errors
    ///
    /// [`FirmwareError`] where the file cannot be read, is none, or is not built for it.
    pub fn read(path: &Path) -> Result<Self, FirmwareError> {
        let failed = |source| FirmwareError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(FIRMWARE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        Self::new(bytes).map_err(|fault| FirmwareError::Unfit { path: path.to_owned(), fault })
    }

    /// Takes the bytes of a firmware.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn new(bytes: Vec<u8>) -> Result<Self, FirmwareFault> {
        check(&bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes, as they are mapped below 4 GiB.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Firmware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Firmware").field("bytes", &self.0.len()).finish()
    }
}

/// Why there is no firmware.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FirmwareError {
    /// The file cannot be read.
    #[error("firmware {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not a firmware that such a machine can be started with.
    #[error("{} is not a firmware for SEV-SNP that has kernels measured", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: FirmwareFault,
    },
}

impl FirmwareError {
    /// A stable name for `--json`, alerts and the playbook entry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "firmware.read",
            Self::Unfit { .. } => "firmware.unfit",
        }
    }
}

/// What is wrong with a firmware. Complete: one for each thing that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareFault {
    /// It is not whole pages, or more than fits.
    #[error("it is not whole pages of 4096 bytes, {FIRMWARE_BYTES_MAX} bytes at most")]
    Length,
    /// The table at its end is missing, or does not end where it says.
    #[error("it has no table of OVMF's at its end")]
    Table,
    /// Two entries of the table have one name.
    #[error("an entry is in its table twice")]
    Twice,
    /// The table has no entry for where processors start.
    #[error("its table does not say where processors start")]
    NoResetBlock,
    /// The table has no place for hashes, or one that hashes do not fit in.
    #[error("its table has no place for the hashes of kernel, archive and command line")]
    NoHashTable,
    /// What lists the sections is missing, or not a list of this version.
    #[error("it does not list what SEV-SNP measures besides it")]
    Metadata,
    /// A section is not whole pages below 4 GiB, of a kind that is known.
    #[error("section {number} of what it has measured is malformed")]
    Section {
        /// Which, counted from 0.
        number: usize,
    },
    /// No section, or more than one, is for the hashes.
    #[error("it does not have the hashes of kernel, archive and command line measured")]
    NoHashesSection,
}

/// Reads every table, and compares each number with what it counts.
fn check(bytes: &[u8]) -> Result<(), FirmwareFault> {
    use FirmwareFault as Fault;

    if bytes.is_empty()
        || bytes.len() > FIRMWARE_BYTES_MAX
        || !bytes.len().is_multiple_of(PAGE_BYTES)
    {
        return Err(Fault::Length);
    }
    let entries = entries(bytes)?;
    let number = |guid, at| {
        let entry = entries.iter().find(|entry| entry.name == guid)?;
        u32_at(entry.value, at)
    };

    number(RESET_BLOCK, 0).ok_or(Fault::NoResetBlock)?;
    let base = number(HASH_TABLE, 0).ok_or(Fault::NoHashTable)? as usize;
    let room = number(HASH_TABLE, 4).ok_or(Fault::NoHashTable)? as usize;
    // QEMU writes the hashes into one page; what went over its end would be lost.
    if base == 0 || room < HASHES_BYTES || base % PAGE_BYTES + HASHES_BYTES > PAGE_BYTES {
        return Err(Fault::NoHashTable);
    }

    let from_end = number(METADATA, 0).ok_or(Fault::Metadata)? as usize;
    let start = bytes.len().checked_sub(from_end).ok_or(Fault::Metadata)?;
    let header = |at| u32_at(&bytes[start..], at).ok_or(Fault::Metadata);
    let (size, version, count) = (header(4)? as usize, header(8)?, header(12)? as usize);
    let list = bytes[start..].get(..size).ok_or(Fault::Metadata)?;
    let is_known = list.starts_with(METADATA_SIGNATURE) && version == METADATA_VERSION;
    if !is_known || count > SECTIONS_MAX || METADATA_BYTES + count * SECTION_BYTES != size {
        return Err(Fault::Metadata);
    }
    let sections = list[METADATA_BYTES..].chunks_exact(SECTION_BYTES);
    let (mut pages, mut hashes) = (0, 0);
    for (number, section) in sections.enumerate() {
        let malformed = Fault::Section { number };
        let field = |at| u32_at(section, at).ok_or(malformed);
        let (base, size, kind) = (field(0)? as usize, field(4)? as usize, field(8)?);
        pages += size / PAGE_BYTES;
        let is_whole = size > 0 && [base, size].iter().all(|it| it.is_multiple_of(PAGE_BYTES));
        // One page each, whatever they say of their size.
        let is_single = [SECRETS, CPUID, KERNEL_HASHES].contains(&kind);
        let is_sized = is_whole && (!is_single || size == PAGE_BYTES);
        let is_below = base + size <= 1 << 32;
        let is_known = is_single || [MEMORY, CALLING_AREA].contains(&kind);
        if !(is_sized && is_below && is_known && pages <= SECTION_PAGES_MAX) {
            return Err(malformed);
        }
        hashes += usize::from(kind == KERNEL_HASHES);
    }
    if hashes == 1 { Ok(()) } else { Err(Fault::NoHashesSection) }
}

/// An entry of a firmware's table, which is read from its end: a value, then length and name.
struct Entry<'a> {
    name: [u8; 16],
    value: &'a [u8],
    /// Value, length and name.
    bytes: usize,
}

impl<'a> Entry<'a> {
    /// The last one in `table`.
    fn last_of(table: &'a [u8]) -> Option<Self> {
        let head = table.last_chunk::<ENTRY_BYTES>()?;
        let bytes = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let value = &table[table.len().checked_sub(bytes)?..];
        let value = &value[..bytes.checked_sub(ENTRY_BYTES)?];
        Some(Self { name: *head.last_chunk()?, value, bytes })
    }
}

/// The entries of the table before a firmware's last 32 bytes, which its own last entry encloses.
fn entries(bytes: &[u8]) -> Result<Vec<Entry<'_>>, FirmwareFault> {
    let table = bytes.len().checked_sub(RESET_VECTOR_BYTES).ok_or(FirmwareFault::Table)?;
    let footer = Entry::last_of(&bytes[..table]).ok_or(FirmwareFault::Table)?;
    if footer.name != FOOTER {
        return Err(FirmwareFault::Table);
    }
    let mut rest = footer.value;
    let mut entries: Vec<Entry<'_>> = Vec::new();
    while !rest.is_empty() {
        let entry = Entry::last_of(rest).ok_or(FirmwareFault::Table)?;
        // QEMU takes the last of two, the calculator the first.
        if entries.iter().any(|other| other.name == entry.name) {
            return Err(FirmwareFault::Twice);
        }
        rest = &rest[..rest.len() - entry.bytes];
        entries.push(entry);
    }
    Ok(entries)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Four times what OVMF has.
const FIRMWARE_BYTES_MAX: usize = 16 << 20;

const PAGE_BYTES: usize = 4096;

/// What stands after the table.
const RESET_VECTOR_BYTES: usize = 32;

/// Length and name.
const ENTRY_BYTES: usize = 18;

/// `SevHashTable` of QEMU's `target/i386/sev.c`, with its padding.
const HASHES_BYTES: usize = 176;

/// Signature, size, version and number of sections.
const METADATA_BYTES: usize = 16;
const METADATA_SIGNATURE: &[u8] = b"ASEV";
const METADATA_VERSION: u32 = 1;

/// Address, size and kind.
const SECTION_BYTES: usize = 12;

/// OVMF has six.
const SECTIONS_MAX: usize = 64;

/// 64 MiB in all; OVMF has less than one.
const SECTION_PAGES_MAX: usize = 1 << 14;

const MEMORY: u32 = 1;
const SECRETS: u32 = 2;
const CPUID: u32 = 3;
const CALLING_AREA: u32 = 4;
const KERNEL_HASHES: u32 = 0x10;

/// 96b582de-1fb2-45f7-baea-a366c55a082d, as all four with the first three groups turned around.
const FOOTER: [u8; 16] = 0xde82b596_b21f_f745_baea_a366c55a082d_u128.to_be_bytes();
/// 00f771de-1a7e-4fcb-890e-68c77e2fb44e
const RESET_BLOCK: [u8; 16] = 0xde71f700_7e1a_cb4f_890e_68c77e2fb44e_u128.to_be_bytes();
/// 7255371f-3a3b-4b04-927b-1da6efa8d454
const HASH_TABLE: [u8; 16] = 0x1f375572_3b3a_044b_927b_1da6efa8d454_u128.to_be_bytes();
/// dc886566-984a-4798-a75e-5585a7bf67cc
const METADATA: [u8; 16] = 0x666588dc_4a98_9847_a75e_5585a7bf67cc_u128.to_be_bytes();
