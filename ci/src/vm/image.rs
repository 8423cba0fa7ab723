//! The guest's system: Debian with its own kernel and a real systemd, made once and kept.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use evanesce_machine::{Archive, KernelModules};
use sha2::{Digest as _, Sha256};

use super::error::VmError;
use crate::programs::{output, target_directory};

/// Everything a machine boots from, in one folder.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image, made where it is not there: under a minute, from Debian's packages.
    ///
    /// Its folder is named after a digest over all it is made of, so that a changed recipe makes
    /// another one. It is moved to its name when it is whole.
    pub(crate) fn get(say: &dyn Fn(&str)) -> Result<Self, VmError> {
        let images = target_directory()?.join("vm");
        let folder = images.join(format!("image-{}", recipe_digest()));
        if folder.is_dir() {
            return Ok(Self { folder });
        }
        if !rustix::process::geteuid().is_root() {
            return Err(VmError::NotRoot);
        }
        say("making the image of the guest from Debian's packages (about a minute, once)");
        fs::create_dir_all(&images).map_err(VmError::io("make the folder of images"))?;
        let making = tempfile::Builder::new()
            .prefix("making-")
            .tempdir_in(&images)
            .map_err(VmError::io("make the folder of an image"))?;
        make(making.path())?;
        fs::rename(making.path().join("image"), &folder)
            .map_err(VmError::io("move the image to its name"))?;
        Ok(Self { folder })
    }

    pub(crate) fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    pub(crate) fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }

    /// The folder of modules that tests load: configfs-tsm and our own.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join("modules")
    }

    pub(crate) fn root_disk(&self) -> PathBuf {
        self.folder.join("root.ext4")
    }
}

/// What an image is made of, in 16 hexadecimal digits.
fn recipe_digest() -> String {
    let parts = [
        include_str!("image.rs"),
        include_str!("../../../runtime/machine/src/modules.rs"),
        include_str!("../../../runtime/machine/src/cpio.rs"),
    ];
    let mut digest = Sha256::new();
    let own_modules = OWN_MODULES.iter().map(|(_, source)| *source);
    for part in parts.into_iter().chain([FETCH_KERNEL, INIT, SERVICE, TARGET]).chain(own_modules) {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    hex::encode(&digest.finalize()[..8])
}

fn make(making: &Path) -> Result<(), VmError> {
    let [root, packages, kernel, image, own] =
        ["root", "packages", "kernel", "image", "own-modules"].map(|name| making.join(name));
    for folder in [&packages, &kernel, &image, &own, &image.join("modules")] {
        fs::create_dir(folder).map_err(VmError::io("make a folder"))?;
    }
    bootstrap(making, &root, &packages)?;
    for package in fs::read_dir(&packages).map_err(VmError::io("list the kernel's package"))? {
        let package = package.map_err(VmError::io("list the kernel's package"))?;
        output(Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(&kernel))?;
    }
    let vmlinuz = only_entry(&kernel.join("boot"), "vmlinuz-")?;
    copy(&vmlinuz, &image.join("vmlinuz"))?;
    let modules = KernelModules::list(&only_entry(&kernel.join("lib/modules"), "")?)?;
    let busybox = fs::read(root.join("bin/busybox")).map_err(VmError::io("read busybox"))?;
    write(&image.join("initrd"), &initrd(&modules, &busybox)?)?;
    for module in modules.in_order(MODULES_OF_CASES)? {
        write(&image.join(format!("modules/{}.ko", module.name)), &module.bytes)?;
    }
    build_own_modules(&kernel.join("usr/src"), &own, &image.join("modules"))?;
    furnish(&root)?;
    disk_of(&root, &image.join("root.ext4"), ROOT_MIB)
}

/// Debian's packages into the folder `root`, the kernel's into `packages`.
fn bootstrap(making: &Path, root: &Path, packages: &Path) -> Result<(), VmError> {
    let hook = making.join("fetch-kernel.sh");
    write(&hook, FETCH_KERNEL.as_bytes())?;
    fs::set_permissions(&hook, Permissions::from_mode(0o755))
        .map_err(VmError::io("make a hook executable"))?;
    let mut mmdebstrap = Command::new("timeout");
    mmdebstrap
        .args([BOOTSTRAP_SECONDS_MAX, "mmdebstrap", "--quiet", "--mode=root"])
        .args(["--variant=essential", "--format=directory"])
        .arg(format!("--include={PACKAGES}"))
        .arg("--aptopt=Apt::Install-Recommends \"false\"");
    for left_out in ["doc", "man", "locale", "info"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{left_out}/*"));
    }
    mmdebstrap
        .arg(format!("--customize-hook={}", hook.display()))
        .arg("bookworm")
        .arg(root)
        .env("FETCH_TO", packages)
        .env("KERNEL", KERNEL);
    output(&mut mmdebstrap)?;
    Ok(())
}

/// Compiles our modules for the kernel whose headers are in `headers`.
fn build_own_modules(headers: &Path, folder: &Path, to: &Path) -> Result<(), VmError> {
    for (name, source) in OWN_MODULES {
        write(&folder.join(name), source.as_bytes())?;
    }
    let flavour = fs::read_dir(headers)
        .map_err(VmError::io("list the kernel's headers"))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.join(".config").exists())
        .ok_or_else(|| VmError::Package { what: "configuration of the kernel".into() })?;
    // It names the place where it would be installed.
    let makefile = flavour.join("Makefile");
    let text = fs::read_to_string(&makefile).map_err(VmError::io("read the headers' Makefile"))?;
    let text = text.replace("/usr/src", &headers.display().to_string());
    write(&makefile, text.as_bytes())?;
    output(
        Command::new("timeout")
            .args([MODULES_SECONDS_MAX, "make", "--silent", "-C"])
            .arg(&flavour)
            .arg(format!("M={}", folder.display()))
            // Types for BPF would need the kernel's debugging information.
            .args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
            .env_remove("MAKEFLAGS"),
    )?;
    for module in ["fake_tsm.ko", "fake_sev_guest.ko"] {
        copy(&folder.join(module), &to.join(module))?;
    }
    Ok(())
}

fn initrd(modules: &KernelModules, busybox: &[u8]) -> Result<Vec<u8>, VmError> {
    let mut archive = Archive::default();
    for directory in ["bin", "modules"] {
        archive.directory(directory);
    }
    archive.library("bin/busybox", busybox);
    archive.library("init", INIT.as_bytes());
    let mut order = String::new();
    for module in modules.in_order(DRIVERS)? {
        archive.library(&format!("modules/{}.ko", module.name), &module.bytes);
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.library("modules/order", order.as_bytes());
    Ok(archive.finish())
}

/// What a booted system needs beyond its packages.
fn furnish(root: &Path) -> Result<(), VmError> {
    let units = root.join("etc/systemd/system");
    write(&units.join("evanesce-guest.service"), SERVICE.as_bytes())?;
    write(&units.join("guest.target"), TARGET.as_bytes())?;
    for masked in MASKED_UNITS {
        let unit = units.join(masked);
        let failed = || VmError::io(format!("mask {masked}"));
        if unit.symlink_metadata().is_ok() {
            fs::remove_file(&unit).map_err(failed())?;
        }
        symlink("/dev/null", &unit).map_err(failed())?;
    }
    for folder in ["payload", "keys", "var/crash"] {
        fs::create_dir_all(root.join(folder)).map_err(VmError::io(format!("make /{folder}")))?;
    }
    // A system that has an id already does not take itself for new.
    write(&root.join("etc/machine-id"), b"6576616e657363652d67756573740000\n")?;
    write(&root.join("etc/hostname"), b"guest\n")?;
    write(&root.join("etc/fstab"), b"")
}

/// An ext4 file system of `mib` MiB with what is in `folder`, in a sparse file.
pub(crate) fn disk_of(folder: &Path, disk: &Path, mib: u32) -> Result<(), VmError> {
    output(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-E", "lazy_itable_init=0,root_owner=0:0", "-d"])
            .arg(folder)
            .arg(disk)
            .arg(format!("{mib}M"))
            .env("PATH", PATH),
    )?;
    Ok(())
}

/// The one entry of a folder that starts like this.
fn only_entry(folder: &Path, start: &str) -> Result<PathBuf, VmError> {
    let entries =
        fs::read_dir(folder).map_err(VmError::io(format!("list {}", folder.display())))?;
    entries
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(start))
        .map(|entry| entry.path())
        .ok_or_else(|| VmError::Package { what: format!("{start} in {}", folder.display()) })
}

fn copy(from: &Path, to: &Path) -> Result<(), VmError> {
    fs::copy(from, to).map(drop).map_err(VmError::io(format!("copy {}", from.display())))
}

fn write(path: &Path, contents: &[u8]) -> Result<(), VmError> {
    fs::write(path, contents).map_err(VmError::io(format!("write {}", path.display())))
}

const FETCH_KERNEL: &str = include_str!("system/fetch-kernel.sh");
const INIT: &str = include_str!("system/init");
const SERVICE: &str = include_str!("system/evanesce-guest.service");
const TARGET: &str = include_str!("system/guest.target");

const PACKAGES: &str = "systemd,systemd-sysv,dbus,busybox-static,mount,procps,kmod,kexec-tools,util-linux,\
     cryptsetup-bin,openssh-client";

/// Debian 12's newer kernel, for virtual machines, in whatever version is the newest: the older one
/// has no configfs-tsm.
const KERNEL: &str = "6.12-cloud-amd64";

/// What some cases load: under our own modules, and for encrypted swap. The drivers for evidence of
/// real platforms, too, which find no device here: machines of workers have them.
const MODULES_OF_CASES: &[&str] = &["tsm", "sev_guest", "tdx_guest", "dm_crypt", "xts"];

/// Our own modules, with their source.
const OWN_MODULES: &[(&str, &str)] = &[
    ("Kbuild", include_str!("../../../tests/guest/modules/Kbuild")),
    ("relay.h", include_str!("../../../tests/guest/modules/relay.h")),
    ("fake_tsm.c", include_str!("../../../tests/guest/modules/fake_tsm.c")),
    ("fake_sev_guest.c", include_str!("../../../tests/guest/modules/fake_sev_guest.c")),
];

const DRIVERS: &[&str] =
    &["virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "ext4", "crc32c_generic"];

/// Of no use here, and slow on an emulated processor.
const MASKED_UNITS: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "kexec.service",
    "kexec-load.service",
    "systemd-timesyncd.service",
];

const ROOT_MIB: u32 = 512;

const BOOTSTRAP_SECONDS_MAX: &str = "600";
const MODULES_SECONDS_MAX: &str = "120";

/// `mke2fs` is where only root looks for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
