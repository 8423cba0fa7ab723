//! What a worker's machine and its launcher say over the port, and the firmware that a machine is
//! started with: the first byte says which.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::sync::LazyLock;

use evanesce_machine::{COMMAND_LINE, Firmware, Image, Manifest, SnpMeasurement};
use evanesce_protocol::Digest;
use evanesce_protocol::machine::{FrameReader, FromMachine, ToMachine, frame};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::planted;

/// Reads messages as the side that they are meant for, or a firmware, which is then measured.
///
/// # Panics
///
/// Where something does not hold that must.
pub fn run(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => messages(rest, |message| {
            if let FromMachine::Data { bytes, .. } = message {
                planted::bug_if(bytes.iter().any(u8::is_ascii_digit));
            }
        }),
        1 => messages::<ToMachine>(rest, |_| {}),
        _ => firmware(rest),
    }
}

/// The first byte says how a stream is cut into reads.
fn messages<M>(input: &[u8], seen: impl Fn(&M))
where
    M: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let Some((bytes_a_read, sent)) = input.split_first() else { return };
    let mut reader = FrameReader::default();
    for read in sent.chunks(usize::from(*bytes_a_read) + 1) {
        reader.push(read);
        loop {
            match reader.next_message::<M>() {
                Ok(Some(message)) => {
                    let mut again = FrameReader::default();
                    again.push(&frame(&message));
                    let again = again.next_message().expect("what was written is read");
                    assert_eq!(again.as_ref(), Some(&message));
                    seen(&message);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// The end of a firmware: what is before it fills pages.
fn firmware(end: &[u8]) {
    let mut bytes = vec![0; end.len().next_multiple_of(PAGE_BYTES) - end.len()];
    bytes.extend(end);
    if let Ok(firmware) = Firmware::new(bytes) {
        let measured = SnpMeasurement::of(&IMAGE, &firmware);
        assert!(measured.is_ok(), "what is accepted is measured: {measured:?}");
    }
}

static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let image = image(folder.path()).expect("an image");
    // Its files are read again for each measurement.
    drop(folder.keep());
    image
});

/// An image whose kernel is none: to measure it nobody looks into it.
fn image(folder: &std::path::Path) -> io::Result<Image> {
    let (kernel, initrd) = (b"kernel", b"archive");
    let manifest = Manifest {
        v: 1,
        kernel: Digest::of(kernel),
        initrd: Digest::of(initrd),
        command_line: COMMAND_LINE.to_owned(),
        init: Digest::of(b"init"),
        worker: Digest::of(b"worker"),
        attester: Digest::of(b"attester"),
        libraries: [].into(),
        modules: Vec::new(),
    };
    fs::write(folder.join("kernel"), kernel)?;
    fs::write(folder.join("initrd"), initrd)?;
    fs::write(folder.join("image.json"), manifest.to_text())?;
    Image::open(folder).map_err(io::Error::other)
}

const PAGE_BYTES: usize = 4096;
