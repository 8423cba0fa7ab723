//! Launch measurements: known answers of another implementation, and hostile firmware.
//!
//! The answers are printed by PyPI's `sev-snp-measure`; `vectors/README.md` says with which command.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use evanesce_machine::{Firmware, FirmwareFault, Image, Manifest, SnpMeasurement};
use evanesce_protocol::Digest;
use proptest::prelude::*;

/// The end of an OVMF that was built from `OvmfPkg/AmdSev`.
const OVMF: &[u8] = include_bytes!("vectors/ovmf_AmdSev_suffix.bin");

/// The case of the test `test_snp_ovmf_hash_full_snp_only` of `sev` 8.0.0, which has it of
/// sev-snp-measure: no bytes of kernel and archive.
#[test]
fn the_measurement_is_the_documented_one_for_the_documented_inputs() {
    let measured = measure(OVMF, b"", b"", "console=ttyS0 loglevel=7");

    assert_eq!(
        measured.unwrap().to_string(),
        "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362\
         f390ef83a92046c042e706363b4b08fa"
    );
}

#[test]
fn the_measurement_is_the_one_that_another_implementation_prints() {
    let line = "console=ttyS0 quiet rdinit=/init";
    let answers = [
        (
            OVMF.to_vec(),
            "a704853a374d10d06e2168f07e9f9873c48edd90c0f4007f\
             a45e44e2d0896d3bfc1a6c24384b6e0b5a97c980cf62415a",
        ),
        // In another order, with more pages, and with a calling area.
        (
            Ovmf::default().bytes(),
            "063ab4c1fc20fdbd1b89142460120b73324f42fd67cf9d58\
             2c4e81d90031e32163181cfebd049feb72f648ad2de8f52b",
        ),
        (
            Ovmf { pages: 16, ..Ovmf::default() }.bytes(),
            "cd28c00bbba467c2c3472f82e2423603f38427432d83ce4a\
             17144799ad39b3e106edb64f7783c44e3c655806e08567ec",
        ),
    ];
    for (number, (firmware, expected)) in answers.into_iter().enumerate() {
        // For whoever asks the other implementation again.
        let name = format!("firmware-{number}.fd");
        fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name), &firmware).unwrap();

        let measured = measure(&firmware, b"kernel", b"archive", line).unwrap();

        assert_eq!(measured.to_string(), expected, "{number}");
        assert_eq!(hex::encode(measured.as_bytes()), expected, "{number}");
    }
}

#[test]
fn every_part_of_an_image_and_every_page_of_the_firmware_is_in_the_measurement() {
    let firmware = Ovmf { pages: 3, ..Ovmf::default() }.bytes();
    let changed = |at: usize| {
        let mut changed = firmware.clone();
        changed[at] ^= 1;
        changed
    };
    let measured = [
        measure(&firmware, b"kernel", b"archive", "line"),
        measure(&firmware, b"kernem", b"archive", "line"),
        measure(&firmware, b"kernel", b"archivf", "line"),
        measure(&firmware, b"kernel", b"archive", "linf"),
        measure(&firmware, b"archive", b"kernel", "line"),
        measure(&changed(0), b"kernel", b"archive", "line"),
        measure(&changed(4096), b"kernel", b"archive", "line"),
        measure(&changed(3 * 4096 - 1), b"kernel", b"archive", "line"),
    ];
    let count = measured.len();

    let distinct: BTreeSet<_> = measured.into_iter().map(Result::unwrap).collect();

    assert_eq!(distinct.len(), count);
}

/// QEMU hashes the bytes it is given; the calculator would strip them first.
#[test]
fn a_command_line_that_could_be_measured_in_two_ways_is_refused() {
    for line in [" quiet", "quiet\n", "qui\0et"] {
        let error = measure(OVMF, b"", b"", line).unwrap_err();
        assert_eq!(error, "measure.command-line", "{line:?}");
    }
}

#[test]
fn a_file_that_was_changed_after_the_image_was_opened_is_not_measured() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), b"kernel", b"archive", "line");
    fs::write(folder.path().join("kernel"), "other").unwrap();

    let firmware = Firmware::new(OVMF.to_vec()).unwrap();
    let error = SnpMeasurement::of(&image, &firmware).unwrap_err();

    assert_eq!(error.code(), "image.changed");
}

#[test]
fn firmware_that_is_missing_too_long_or_something_else_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("OVMF.fd");
    assert_eq!(Firmware::read(&path).unwrap_err().code(), "firmware.read");
    assert_eq!(Firmware::read(folder.path()).unwrap_err().code(), "firmware.read");
    for bytes in [&[][..], b"MZ", &OVMF[1..], &vec![0; (16 << 20) + 4096]] {
        fs::write(&path, bytes).unwrap();
        let error = Firmware::read(&path).unwrap_err();
        assert_eq!(error.code(), "firmware.unfit");
        let fault = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(fault, FirmwareFault::Length.to_string());
    }
    fs::write(&path, OVMF).unwrap();
    assert_eq!(Firmware::read(&path).unwrap().as_bytes(), OVMF);
}

#[test]
fn each_thing_that_is_wrong_with_a_firmware_is_named() {
    use FirmwareFault as Fault;

    let with = |change: fn(&mut Ovmf)| {
        let mut ovmf = Ovmf::default();
        change(&mut ovmf);
        Firmware::new(ovmf.bytes()).map(|_| ())
    };

    assert_eq!(with(|_| {}), Ok(()));
    for (change, fault) in [
        ((|ovmf| ovmf.footer[0] ^= 1) as fn(&mut Ovmf), Fault::Table),
        (|ovmf| ovmf.footer_bytes = Some(87), Fault::Table),
        (|ovmf| ovmf.footer_bytes = Some(89), Fault::Table),
        (|ovmf| ovmf.footer_bytes = Some(0), Fault::Table),
        (|ovmf| ovmf.footer_bytes = Some(u16::MAX), Fault::Table),
        (|ovmf| ovmf.entries.push(ovmf.entries[1].clone()), Fault::Twice),
        (|ovmf| drop(ovmf.entries.remove(0)), Fault::NoResetBlock),
        (|ovmf| ovmf.entries[0].1.truncate(3), Fault::NoResetBlock),
        (|ovmf| drop(ovmf.entries.remove(1)), Fault::NoHashTable),
        (|ovmf| ovmf.entries[1].1.truncate(7), Fault::NoHashTable),
        (|ovmf| ovmf.entries[1].1[..4].fill(0), Fault::NoHashTable),
        (|ovmf| ovmf.entries[1].1[4..6].copy_from_slice(&[175, 0]), Fault::NoHashTable),
        // 80 bytes before the end of its page.
        (|ovmf| ovmf.entries[1].1[..2].copy_from_slice(&[0xB0, 0x0F]), Fault::NoHashTable),
        (|ovmf| drop(ovmf.entries.remove(2)), Fault::Metadata),
        (|ovmf| ovmf.entries[2].1 = u32::to_le_bytes(15).to_vec(), Fault::Metadata),
        (|ovmf| ovmf.entries[2].1 = u32::to_le_bytes(4097).to_vec(), Fault::Metadata),
        (|ovmf| ovmf.entries[2].1 = u32::to_le_bytes(u32::MAX).to_vec(), Fault::Metadata),
        (|ovmf| ovmf.signature = *b"ASEW", Fault::Metadata),
        (|ovmf| ovmf.version = 2, Fault::Metadata),
        (|ovmf| ovmf.count = Some(4), Fault::Metadata),
        (|ovmf| ovmf.count = Some(u32::MAX), Fault::Metadata),
        (|ovmf| ovmf.sections = vec![[0x1000, 0x1000, 1]; 65], Fault::Metadata),
        (|ovmf| ovmf.sections[0][0] += 1, Fault::Section { number: 0 }),
        (|ovmf| ovmf.sections[1][1] = 0, Fault::Section { number: 1 }),
        (|ovmf| ovmf.sections[1][1] = 0x1001, Fault::Section { number: 1 }),
        (|ovmf| ovmf.sections[1][1] = 0x400_1000, Fault::Section { number: 1 }),
        (|ovmf| ovmf.sections[1][0] = 0xFFFF_F000, Fault::Section { number: 1 }),
        (|ovmf| ovmf.sections[2][1] = 0x2000, Fault::Section { number: 2 }),
        // The calculator would read kind 1 of this.
        (|ovmf| ovmf.sections[1][2] = 0x101, Fault::Section { number: 1 }),
        (|ovmf| ovmf.sections[0][2] = 1, Fault::NoHashesSection),
        (|ovmf| ovmf.sections.push(ovmf.sections[0]), Fault::NoHashesSection),
        (|ovmf| ovmf.sections.clear(), Fault::NoHashesSection),
    ] {
        assert_eq!(with(change), Err(fault));
    }
}

#[test]
fn a_firmware_that_ends_early_is_refused_wherever_it_ends() {
    let firmware = Ovmf { pages: 4, ..Ovmf::default() }.bytes();

    for end in 0..firmware.len() {
        assert!(Firmware::new(firmware[..end].to_vec()).is_err(), "{end}");
    }
}

proptest! {
    /// What is taken has to be calculated with, and what is refused is refused before that.
    #[test]
    fn no_change_of_its_tables_makes_a_firmware_panic(
        changes in prop::collection::vec((0_usize..512, any::<u8>()), 1..8),
        synthetic in any::<bool>(),
    ) {
        let mut firmware = if synthetic { Ovmf::default().bytes() } else { OVMF.to_vec() };
        let end = firmware.len();
        for (from_end, value) in changes {
            firmware[end - 1 - from_end] = value;
        }
        if Firmware::new(firmware.clone()).is_ok() {
            prop_assert!(measure(&firmware, b"kernel", b"archive", "line").is_ok());
        }
    }

    #[test]
    fn no_numbers_in_its_tables_make_a_firmware_panic(
        from_end in prop_oneof![Just(LIST_FROM_END), 0..4200_u32, any::<u32>()],
        footer_bytes in prop::option::of(any::<u16>()),
        base in any::<u32>(),
        count in prop::option::of(any::<u32>()),
        sections in prop::collection::vec(any_section(), 0..6),
    ) {
        let mut ovmf = Ovmf { footer_bytes, count, ..Ovmf::default() };
        ovmf.entries[2].1 = from_end.to_le_bytes().to_vec();
        ovmf.entries[1].1[..4].copy_from_slice(&base.to_le_bytes());
        ovmf.sections.extend(sections);
        let firmware = ovmf.bytes();
        if Firmware::new(firmware.clone()).is_ok() {
            prop_assert!(measure(&firmware, b"kernel", b"archive", "line").is_ok());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_of_firmware_panic(
        bytes in prop::collection::vec(any::<u8>(), 4096..=4096),
    ) {
        prop_assert!(Firmware::new(bytes).is_err());
    }
}

fn any_section() -> impl Strategy<Value = [u32; 3]> {
    let near = prop_oneof![Just(0_u32), Just(0x1000), Just(0xFFFF_F000), any::<u32>()];
    (near.clone(), near, prop_oneof![0_u32..6, any::<u32>()]).prop_map(|(a, b, c)| [a, b, c])
}

/// Measures a machine of these parts, or names why not.
fn measure(
    firmware: &[u8],
    kernel: &[u8],
    initrd: &[u8],
    line: &str,
) -> Result<SnpMeasurement, &'static str> {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), kernel, initrd, line);
    let firmware = Firmware::new(firmware.to_vec()).unwrap();
    SnpMeasurement::of(&image, &firmware).map_err(|error| error.code())
}

/// An image with a kernel of any kind: to measure it nobody looks into it.
fn image(folder: &Path, kernel: &[u8], initrd: &[u8], line: &str) -> Image {
    let manifest = Manifest {
        v: 1,
        kernel: Digest::of(kernel),
        initrd: Digest::of(initrd),
        command_line: line.to_owned(),
        init: Digest::of(b"init"),
        worker: Digest::of(b"worker"),
        attester: Digest::of(b"attester"),
        libraries: [].into(),
        modules: Vec::new(),
    };
    for (name, bytes) in
        [("kernel", kernel), ("initrd", initrd), ("image.json", manifest.to_text().as_bytes())]
    {
        fs::write(folder.join(name), bytes).unwrap();
    }
    Image::open(folder).unwrap()
}

/// A firmware of nothing but its tables.
struct Ovmf {
    pages: usize,
    /// Name and value, in the order in which they are read: from the end.
    entries: Vec<([u8; 16], Vec<u8>)>,
    footer: [u8; 16],
    /// Otherwise the right number.
    footer_bytes: Option<u16>,
    signature: [u8; 4],
    version: u32,
    /// Otherwise the right number.
    count: Option<u32>,
    /// Address, size and kind.
    sections: Vec<[u32; 3]>,
}

impl Default for Ovmf {
    fn default() -> Self {
        let guid = |guid: u128| {
            let mut bytes = guid.to_be_bytes();
            bytes[..4].reverse();
            bytes[4..6].reverse();
            bytes[6..8].reverse();
            bytes
        };
        let numbers = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        Self {
            pages: 1,
            entries: vec![
                (guid(0x00f771de_1a7e_4fcb_890e_68c77e2fb44e), numbers(&[0x0080_B004])),
                (guid(0x7255371f_3a3b_4b04_927b_1da6efa8d454), numbers(&[0x0001_0C40, 0x400])),
                (guid(0xdc886566_984a_4798_a75e_5585a7bf67cc), numbers(&[LIST_FROM_END])),
            ],
            footer: guid(0x96b582de_1fb2_45f7_baea_a366c55a082d),
            footer_bytes: None,
            signature: *b"ASEV",
            version: 1,
            count: None,
            sections: vec![
                [0x0001_0000, 0x1000, 0x10],
                [0x0080_0000, 0x9000, 1],
                [0x0080_E000, 0x1000, 3],
                [0x0080_F000, 0x1000, 4],
                [0x0080_D000, 0x1000, 2],
            ],
        }
    }
}

impl Ovmf {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<_> =
            (0..self.pages * 4096).map(|at| u8::try_from(at / 7 % 251).unwrap()).collect();
        let end = bytes.len();
        let mut table = Vec::new();
        for (name, value) in self.entries.iter().rev() {
            let length = u16::try_from(value.len() + 18).unwrap();
            table.extend([value, &length.to_le_bytes()[..], name].concat());
        }
        let footer_bytes = self.footer_bytes.unwrap_or((table.len() + 18).try_into().unwrap());
        table.extend([&footer_bytes.to_le_bytes()[..], &self.footer].concat());
        bytes[end - 32 - table.len()..end - 32].copy_from_slice(&table);

        let own = u32::try_from(self.sections.len()).unwrap();
        let count = self.count.unwrap_or(own);
        let mut list = self.signature.to_vec();
        for number in
            [16 + 12 * own, self.version, count].iter().chain(self.sections.iter().flatten())
        {
            list.extend(number.to_le_bytes());
        }
        bytes[end - LIST_FROM_END as usize..][..list.len()].copy_from_slice(&list);
        bytes
    }
}

const LIST_FROM_END: u32 = 1024;
