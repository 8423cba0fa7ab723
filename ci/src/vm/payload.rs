//! The disk that brings evanesce and the keys into the guest. It is read-only, and not searched:
//! the keys on it are masked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use evanesce_guest::{masked, messages};
use evanesce_residue::{Canary, Scanner};

use super::error::VmError;
use super::image::{Image, disk_of};
use crate::programs::{bytes, cargo, output, show, target_directory};

/// A key that is made for being searched for, and where the guest finds it.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) index: usize,
    scanner: Scanner,
}

impl Key {
    /// The masked file in the guest.
    pub(crate) fn masked(&self) -> String {
        format!("/payload/keys/{}", self.index)
    }

    /// Finds every form of the key, and of what it signs in the guest.
    pub(crate) fn scanner(&self) -> &Scanner {
        &self.scanner
    }
}

/// The programs to be put on a payload.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) evanesce: PathBuf,
    pub(crate) guest: PathBuf,
    /// `evanesce` with replaceable roots, for the host.
    pub(crate) appraiser: PathBuf,
}

impl Programs {
    /// Builds what is not given: what goes into the guest in the release profile.
    pub(crate) fn build(
        evanesce: Option<&Path>,
        appraiser: Option<&Path>,
    ) -> Result<Self, VmError> {
        let release = target_directory()?.join("release");
        let mut build = cargo();
        build.args(["build", "--quiet", "--locked", "--release", "--bin", "evanesce-guest"]);
        if evanesce.is_none() {
            build.args(["--bin", "evanesce"]);
        }
        show(&mut build)?;
        // The command as the end-to-end tests have it: its roots can be replaced.
        let debug = target_directory()?.join("debug/evanesce-under-test");
        if appraiser.is_none() {
            let mut build = cargo();
            build.args(["test", "--no-run", "--quiet", "--locked", "--workspace"]);
            show(build.args(["--test", "kills"]))?;
        }
        Ok(Self {
            appraiser: appraiser.map_or(debug, Path::to_owned),
            evanesce: evanesce.map_or_else(|| release.join("evanesce"), Path::to_owned),
            guest: release.join("evanesce-guest"),
        })
    }
}

/// Writes the disk `disk`, and returns the keys on it.
///
/// `making` is a folder to make it in.
pub(crate) fn make(
    making: &Path,
    disk: &Path,
    programs: &Programs,
    image: &Image,
    keys: usize,
) -> Result<Vec<Key>, VmError> {
    let folder = making.join("payload-contents");
    let key_folder = folder.join("keys");
    fs::create_dir_all(&key_folder).map_err(VmError::io("make the folder of the payload"))?;
    for (from, name) in [
        (&programs.evanesce, "evanesce"),
        (&programs.guest, "evanesce-guest"),
        (&image.kernel(), "vmlinuz"),
        (&image.initrd(), "initrd"),
    ] {
        fs::copy(from, folder.join(name))
            .map_err(VmError::io(format!("copy {}", from.display())))?;
    }
    output(Command::new("cp").arg("-r").arg(image.modules()).arg(&folder))?;
    let messages: Vec<_> = (0..messages::MESSAGES).map(messages::message).collect();
    let messages: Vec<_> = messages.iter().map(Vec::as_slice).collect();
    let keys = (0..keys)
        .map(|index| {
            let canary = Canary::random().map_err(|error| VmError::Io {
                what: "make a key".into(),
                source: std::io::Error::other(error),
            })?;
            let text = canary.to_pkcs8_pem();
            let masked = masked::mask(text.as_bytes(), &pad(text.len())?);
            fs::write(key_folder.join(index.to_string()), masked)
                .map_err(VmError::io("write a masked key"))?;
            Ok(Key { index, scanner: Scanner::new(&canary.forms(&messages)) })
        })
        .collect::<Result<_, VmError>>()?;
    disk_of(&folder, disk, PAYLOAD_MIB)?;
    fs::remove_dir_all(&folder).map_err(VmError::io("remove the folder of the payload"))?;
    Ok(keys)
}

fn pad(length: usize) -> Result<Vec<u8>, VmError> {
    let mut head = Command::new("head");
    Ok(bytes(head.arg("-c").arg(length.to_string()).arg("/dev/urandom"))?)
}

const PAYLOAD_MIB: u32 = 96;
