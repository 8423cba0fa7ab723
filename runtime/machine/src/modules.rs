//! Modules of a kernel: which have to be loaded for a driver, and in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use lzma_rust2::XzReader;

use crate::image::ImageError;

/// A module as the kernel takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, as the kernel has it: letters, digits and `_`.
    pub name: String,
    /// The object file.
    pub bytes: Vec<u8>,
}

impl Module {
    /// Reads one from a file, `NAME.ko` or `NAME.ko.xz`.
    ///
    /// # Errors
    ///
    /// [`ImageError::Read`] where it cannot be read or unpacked, [`ImageError::Module`] where it is
    /// no module.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        let read = match path.extension().is_some_and(|extension| extension == "xz") {
            true => XzReader::new(file, true).take(BYTES_MAX + 1).read_to_end(&mut bytes),
            false => file.take(BYTES_MAX + 1).read_to_end(&mut bytes),
        };
        read.map_err(failed)?;
        let is_whole = u64::try_from(bytes.len()).is_ok_and(|found| found <= BYTES_MAX);
        match is_whole && bytes.starts_with(b"\x7fELF") {
            true => Ok(Self { name: name_of(path), bytes }),
            false => Err(ImageError::Module { path: path.to_owned() }),
        }
    }

    /// What it says it depends on: the text after `depends=` in its section `.modinfo`.
    fn dependencies(&self) -> Vec<String> {
        let key = b"\0depends=";
        let Some(start) = self.bytes.windows(key.len()).position(|window| window == key) else {
            return Vec::new();
        };
        let text = self.bytes[start + key.len()..].split(|byte| *byte == 0).next();
        let text = String::from_utf8_lossy(text.unwrap_or_default());
        text.split(',').filter(|name| !name.is_empty()).map(kernels_name).collect()
    }
}

/// All modules of one kernel, by name.
#[derive(Clone, Debug)]
pub struct KernelModules {
    folder: PathBuf,
    files: BTreeMap<String, PathBuf>,
    /// What is in the kernel itself.
    builtin: BTreeSet<String>,
}

impl KernelModules {
    /// Lists them in `folder`, a kernel's own below `/lib/modules`.
    ///
    /// # Errors
    ///
    /// [`ImageError::Read`] where the folder cannot be read.
    pub fn list(folder: &Path) -> Result<Self, ImageError> {
        let mut files = BTreeMap::new();
        list(folder, &mut files)
            .map_err(|source| ImageError::Read { path: folder.to_owned(), source })?;
        // Folders with nothing but modules have none.
        let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        let builtin = builtin.lines().map(|path| name_of(Path::new(path))).collect();
        Ok(Self { folder: folder.to_owned(), files, builtin })
    }

    /// The modules that `wanted` need, before those that need them.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoModule`] where one of them is neither here nor in the kernel.
    pub fn in_order(&self, wanted: &[&str]) -> Result<Vec<Module>, ImageError> {
        let mut order = Vec::new();
        for name in wanted {
            self.visit(name, &mut order)?;
        }
        Ok(order)
    }

    /// The modules that platforms give evidence through, as many as there are, and what they need.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoModule`] where there is none.
    pub fn of_evidence(&self) -> Result<Vec<Module>, ImageError> {
        let known = |name: &&str| self.files.contains_key(*name) || self.builtin.contains(*name);
        let wanted: Vec<_> = PROVIDERS.iter().copied().filter(known).collect();
        match wanted.is_empty() {
            true => Err(self.missing(PROVIDERS[0])),
            false => self.in_order(&wanted),
        }
    }

    fn visit(&self, name: &str, order: &mut Vec<Module>) -> Result<(), ImageError> {
        if order.iter().any(|done| done.name == name) || self.builtin.contains(name) {
            return Ok(());
        }
        let module = Module::read(self.files.get(name).ok_or_else(|| self.missing(name))?)?;
        for needed in module.dependencies() {
            self.visit(&needed, order)?;
        }
        order.push(module);
        Ok(())
    }

    fn missing(&self, name: &str) -> ImageError {
        ImageError::NoModule { folder: self.folder.clone(), name: name.to_owned() }
    }
}

/// Modules in a folder and those in it; links, which lead to sources, are not followed.
fn list(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let file = entry.file_name();
        let is_module = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]
            .iter()
            .any(|end| file.to_str().is_some_and(|file| file.ends_with(end)));
        if kind.is_dir() {
            list(&path, files)?;
        } else if is_module {
            files.insert(name_of(&path), path);
        }
    }
    Ok(())
}

/// `path/to/some-name.ko.xz` is module `some_name`.
fn name_of(path: &Path) -> String {
    let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
    kernels_name(file.split('.').next().unwrap_or_default())
}

fn kernels_name(name: &str) -> String {
    name.replace('-', "_")
}

/// Drivers that give evidence, by way of configfs-tsm: of SEV-SNP and TDX.
const PROVIDERS: &[&str] = &["sev_guest", "tdx_guest"];

/// Far more than the largest has.
const BYTES_MAX: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &str) -> Vec<u8> {
        format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0").into_bytes()
    }

    /// A kernel's folder: `tdx_guest` needs `tsm`, which needs `configfs`.
    fn kernel() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let drivers = folder.path().join("kernel/drivers/virt");
        fs::create_dir_all(&drivers).unwrap();
        fs::write(drivers.join("tdx-guest.ko"), module("tsm")).unwrap();
        fs::write(drivers.join("tsm.ko"), module("configfs,virtio-ring")).unwrap();
        fs::write(folder.path().join("kernel/configfs.ko"), module("")).unwrap();
        let builtin = "kernel/drivers/virtio/virtio_ring.ko\n";
        fs::write(folder.path().join("modules.builtin"), builtin).unwrap();
        folder
    }

    #[test]
    fn what_a_driver_needs_comes_before_it_and_what_is_built_in_not_at_all() {
        let kernel = kernel();

        let modules = KernelModules::list(kernel.path()).unwrap().of_evidence().unwrap();

        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["configfs", "tsm", "tdx_guest"]);
    }

    #[test]
    fn a_kernel_without_a_module_is_refused_by_its_name() {
        let kernel = kernel();
        fs::remove_file(kernel.path().join("kernel/configfs.ko")).unwrap();

        let refused = KernelModules::list(kernel.path()).unwrap().of_evidence().unwrap_err();
        assert!(refused.to_string().contains("configfs"), "{refused}");
        assert_eq!(refused.code(), "image.no-module");
        let nothing = tempfile::tempdir().unwrap();
        let refused = KernelModules::list(nothing.path()).unwrap().of_evidence().unwrap_err();
        assert_eq!(refused.code(), "image.no-module");
        let refused = KernelModules::list(Path::new("/no/such/folder")).unwrap_err();
        assert_eq!(refused.code(), "image.read");
    }

    /// Packed by xz 5.4.1: `printf '\177ELF\0depends=\0' | xz --check=crc32`.
    #[test]
    fn a_packed_module_is_unpacked_and_what_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let packed = folder.path().join("some-driver.ko.xz");
        fs::write(&packed, hex::decode(PACKED).unwrap()).unwrap();

        let module = Module::read(&packed).unwrap();
        assert_eq!((module.name.as_str(), module.bytes.as_slice()), ("some_driver", UNPACKED));

        fs::write(&packed, UNPACKED).unwrap();
        assert_eq!(Module::read(&packed).unwrap_err().code(), "image.read");
        let text = folder.path().join("text.ko");
        fs::write(&text, "no module").unwrap();
        assert_eq!(Module::read(&text).unwrap_err().code(), "image.module");
    }

    const UNPACKED: &[u8] = b"\x7fELF\0depends=\0";
    const PACKED: &str = "fd377a585a0000016922de360200210116000000742fe5a301000d7f454c4600646570656e64733d000000006b72ba450001220e0cde8c609042990d010000000001595a";
}
